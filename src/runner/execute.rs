//! Runs one job: start, follow, drain, collect, finish.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::{ChildStderr, ChildStdout};
use tokio_util::sync::CancellationToken;

use super::disk;
use super::enforcement::Enforcement;
use super::job::{Finished, Job, Phase, Verdict};
use super::limits::Limit;
use super::logs::Stream;
use super::outputs::{Output, Outputs};
use super::process::{End, Process};
use super::registry::Slot;
use super::sandbox::Sandbox;
use super::usage::Usage;
use crate::time::{Clock, Timestamp};
use crate::worker::certificate::OwnCertificate;
use crate::worker::receipt::{Ending, OutputSum, Receipt, Sha256Sum};

/// How long after a job's end its output may still come. All its processes are gone by then, except one that ran
/// without a sandbox and left its process group: it must not hold up the job.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The exit code of a process that writes beyond the largest size of a file, and does not ask to be told.
const FILE_SIZE_EXCEEDED: i32 = 128 + libc::SIGXFSZ;

/// What every job of a worker is run in.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Its walls.
    pub sandbox: Sandbox,
    /// What holds it to its limits.
    pub enforcement: Enforcement,
    /// Kills it when cancelled.
    pub stop: CancellationToken,
    /// Who signs for its results.
    pub identity: Arc<OwnCertificate>,
}

/// Runs a job to its end, in the slot that it was given.
pub async fn execute(job: Arc<Job>, slot: Slot, around: Surroundings) {
    let (since, began) = (Instant::now(), Clock::System.now());
    job.enter(Phase::Running { since });
    log::info!("{}: running {} {}", job.id, job.order.plan.interpreter.name(), job.order.plan.entrypoint);

    let (verdict, usage) = match follow(&job, &around).await {
        Ok((End::Exited(code), usage)) => (Verdict::Exited(code), usage),
        Ok((End::OverLimit(limit), usage)) => (Verdict::OverLimit(limit), usage),
        Ok((End::TimedOut, usage)) => (Verdict::TimedOut, usage),
        Ok((End::Stopped, usage)) => (Verdict::WorkerStopped, usage),
        Ok((End::Cancelled, usage)) => (Verdict::Cancelled, usage),
        Err(error) => (Verdict::Broken(error.to_string()), Usage::default()),
    };
    let wall = since.elapsed();
    let settled = tokio::task::spawn_blocking({
        let (job, verdict) = (Arc::clone(&job), verdict.clone());
        move || settle(&job, verdict)
    });
    let (verdict, outputs) =
        settled.await.unwrap_or_else(|error| (Verdict::Broken(error.to_string()), Outputs::default()));

    log::info!("{}: {verdict:?} after {wall:.1?}, {} outputs", job.id, outputs.files.len());
    let receipt = receipt(&job, &around, &verdict, began..began.plus(wall), &outputs);
    // Whoever learns of the end sends the next job at once, and must find the slot free.
    drop(slot);
    job.enter(Phase::Finished(Arc::new(Finished {
        verdict,
        usage,
        wall,
        outputs,
        receipt,
        at: Instant::now(),
    })));
}

/// What the worker signs of a run that a pool sent.
fn receipt(
    job: &Job,
    around: &Surroundings,
    verdict: &Verdict,
    ran: Range<Timestamp>,
    outputs: &Outputs,
) -> Option<Receipt> {
    let subject = job.subject.clone()?;
    // A clock before 1970 has no right time to give.
    let micros = |at: Timestamp| u64::try_from(at.as_micros()).unwrap_or(0);
    let sum = |output: &Output| OutputSum {
        path: output.found.path.to_string(),
        size: output.found.stamp.size,
        sha256: output.sha256.as_deref().and_then(Sha256Sum::from_hex),
    };
    let ending = Ending {
        exit_code: verdict.exit_code(),
        started_at_micros: micros(ran.start),
        finished_at_micros: micros(ran.end),
        outputs: outputs.files.iter().map(sum).collect(),
    };
    Some(Receipt::sign(around.identity.secret(), subject, ending))
}

/// What is left to find out when the processes are gone.
fn settle(job: &Job, verdict: Verdict) -> (Verdict, Outputs) {
    let verdict = match verdict {
        Verdict::Exited(code) => {
            broken_at_the_end(job, code).map_or(Verdict::Exited(code), Verdict::OverLimit)
        }
        other => other,
    };
    if let Err(error) = job.order.dir.remove_scratch() {
        log::warn!("{}: its /tmp cannot be removed: {error}", job.id);
    }
    (verdict, job.order.rule.collect(&job.order.work, job.order.limits.disk_bytes))
}

/// The limit that a job has broken which ended with this code before anybody saw.
fn broken_at_the_end(job: &Job, code: i32) -> Option<Limit> {
    if job.logs.written() > job.order.limits.output_bytes {
        return Some(Limit::Output);
    }
    if code == FILE_SIZE_EXCEEDED {
        return Some(Limit::FileSize);
    }
    // A disk that somebody else has filled is no fault of a job that needs no more of it.
    disk::broken(job).unwrap_or_default().filter(|limit| *limit == Limit::Disk)
}

async fn follow(job: &Arc<Job>, around: &Surroundings) -> io::Result<(End, Usage)> {
    let limits = job.order.limits;
    let hold = around.enforcement.hold(&limits)?;
    let command = around.sandbox.command(&job.order.plan, &job.order.dir, &limits, &hold)?;
    let (process, stdout, stderr) = Process::start(&around.sandbox, command, limits, hold)?;
    let stdout = ChildStdout::from_std(stdout)?;
    let stderr = ChildStderr::from_std(stderr)?;
    let capture = tokio::spawn({
        let job = Arc::clone(job);
        async move {
            let (out, err) = tokio::join!(
                job.logs.capture(Stream::Stdout, stdout),
                job.logs.capture(Stream::Stderr, stderr)
            );
            out.and(err)
        }
    });
    let deadline = tokio::time::Instant::now() + job.order.timeout;
    let broken = async {
        tokio::select! {
            () = job.logs.outgrow(limits.output_bytes) => Limit::Output,
            limit = disk::overfull(Arc::clone(job)) => limit,
        }
    };
    let end = process.end(deadline, around.stop.cancelled(), job.cancelled(), broken).await;

    let abort = capture.abort_handle();
    match tokio::time::timeout(DRAIN_MAX, capture).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => log::warn!("{}: its output was lost: {error}", job.id),
        Ok(Err(error)) => log::warn!("{}: its output was lost: {error}", job.id),
        Err(_) => {
            log::warn!("{}: something outlived it and holds its output open", job.id);
            abort.abort();
        }
    }
    end
}
