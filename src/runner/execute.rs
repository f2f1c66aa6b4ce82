//! Runs one job: start, follow, drain, collect, finish.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::process::{ChildStderr, ChildStdout};
use tokio_util::sync::CancellationToken;

use super::disk;
use super::enforcement::Enforcement;
use super::job::{Finished, Job, Order, Phase, Verdict};
use super::limits::{Limit, Limits};
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
pub async fn execute(job: Arc<Job>, order: Arc<Order>, slot: Slot, around: Surroundings) {
    let (since, began) = (Instant::now(), Clock::System.now());
    job.enter(Phase::Running { order: Arc::clone(&order), since });
    log::info!("{}: running {} {}", job.id, order.plan.interpreter.name(), order.plan.entrypoint);

    let (verdict, usage) = match follow(&job, &order, &around).await {
        Ok((End::Exited(code), usage)) => (Verdict::Exited(code), usage),
        Ok((End::OverLimit(limit), usage)) => (Verdict::OverLimit(limit), usage),
        Ok((End::TimedOut, usage)) => (Verdict::TimedOut, usage),
        Ok((End::Stopped, usage)) => (Verdict::WorkerStopped, usage),
        Ok((End::Cancelled, usage)) => (Verdict::Cancelled, usage),
        Err(error) => (Verdict::Broken(error.to_string()), Usage::default()),
    };
    let end = Finished {
        verdict,
        usage,
        wall: since.elapsed(),
        outputs: Outputs::default(),
        receipt: None,
        at: SystemTime::now(),
    };
    let settled = tokio::task::spawn_blocking({
        let (job, end, identity) = (Arc::clone(&job), end.clone(), Arc::clone(&around.identity));
        move || settle(&job, &order, &identity, began, end)
    });
    let end =
        settled.await.unwrap_or_else(|error| Finished { verdict: Verdict::Broken(error.to_string()), ..end });

    log::info!("{}: {:?} after {:.1?}, {} outputs", job.id, end.verdict, end.wall, end.outputs.files.len());
    // Whoever learns of the end sends the next job at once, and must find the slot free.
    drop(slot);
    job.enter(Phase::Finished(Arc::new(end)));
}

/// What the worker signs of a run that a pool sent.
fn receipt(order: &Order, identity: &OwnCertificate, began: Timestamp, end: &Finished) -> Option<Receipt> {
    let subject = order.subject.clone()?;
    // A clock before 1970 has no right time to give.
    let micros = |at: Timestamp| u64::try_from(at.as_micros()).unwrap_or(0);
    let sum = |output: &Output| OutputSum {
        path: output.found.path.to_string(),
        size: output.found.stamp.size,
        sha256: output.sha256.as_deref().and_then(Sha256Sum::from_hex),
    };
    let ending = Ending {
        exit_code: end.verdict.exit_code(),
        started_at_micros: micros(began),
        finished_at_micros: micros(began.plus(end.wall)),
        outputs: end.outputs.files.iter().map(sum).collect(),
    };
    Some(Receipt::sign(identity.secret(), subject, ending))
}

/// Finds out what is left to find out when the processes are gone, and puts the end on record.
fn settle(
    job: &Job,
    order: &Order,
    identity: &OwnCertificate,
    began: Timestamp,
    mut end: Finished,
) -> Finished {
    if let Verdict::Exited(code) = end.verdict
        && let Some(limit) = broken_at_the_end(job, &order.limits, code)
    {
        end.verdict = Verdict::OverLimit(limit);
    }
    job.dir.remove_all_but_results();
    end.outputs = order.rule.collect(&job.work, order.limits.disk_bytes);
    end.at = SystemTime::now();
    end.receipt = receipt(order, identity, began, &end);
    if let Err(error) = job.record_end(&end) {
        log::error!(
            "{}: its end cannot be put on record, and is lost when the worker stops: {error}",
            job.id
        );
    }
    end
}

/// The limit that a job has broken which ended with this code before anybody saw.
fn broken_at_the_end(job: &Job, limits: &Limits, code: i32) -> Option<Limit> {
    if job.logs.written() > limits.output_bytes {
        return Some(Limit::Output);
    }
    if code == FILE_SIZE_EXCEEDED {
        return Some(Limit::FileSize);
    }
    // A disk that somebody else has filled is no fault of a job that needs no more of it.
    disk::broken(job, limits.disk_bytes).unwrap_or_default().filter(|limit| *limit == Limit::Disk)
}

async fn follow(job: &Arc<Job>, order: &Order, around: &Surroundings) -> io::Result<(End, Usage)> {
    let limits = order.limits;
    let hold = around.enforcement.hold(&limits)?;
    let command = around.sandbox.command(&order.plan, &job.dir, &limits, &hold)?;
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
    let deadline = tokio::time::Instant::now() + order.timeout;
    let broken = async {
        tokio::select! {
            () = job.logs.outgrow(limits.output_bytes) => Limit::Output,
            limit = disk::overfull(Arc::clone(job), limits.disk_bytes) => limit,
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
