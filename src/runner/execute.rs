//! Runs one job: start, follow, drain, collect, finish.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::{ChildStderr, ChildStdout};
use tokio_util::sync::CancellationToken;

use super::job::{Finished, Job, Phase, Verdict};
use super::logs::Stream;
use super::process::{End, Process};
use super::registry::Slot;
use super::sandbox::Sandbox;
use super::usage::Usage;

/// How long after a job's end its output may still come. All its processes are gone by then, except one that ran
/// without a sandbox and left its process group: it must not hold up the job.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Runs a job to its end, in the slot that it was given.
pub async fn execute(job: Arc<Job>, slot: Slot, sandbox: Sandbox, stop: CancellationToken) {
    let since = Instant::now();
    job.enter(Phase::Running { since });
    log::info!("{}: running {} {}", job.id, job.order.plan.interpreter.name(), job.order.plan.entrypoint);

    let (verdict, usage) = match follow(&job, &sandbox, &stop).await {
        Ok((End::Exited(code), usage)) => (Verdict::Exited(code), usage),
        Ok((End::TimedOut, usage)) => (Verdict::TimedOut, usage),
        Ok((End::Stopped, usage)) => (Verdict::WorkerStopped, usage),
        Ok((End::Cancelled, usage)) => (Verdict::Cancelled, usage),
        Err(error) => (Verdict::Broken(error.to_string()), Usage::default()),
    };
    let wall = since.elapsed();
    let outputs = tokio::task::spawn_blocking({
        let job = Arc::clone(&job);
        move || job.order.rule.collect(&job.order.work)
    });
    let outputs = outputs.await.unwrap_or_default();

    log::info!("{}: {verdict:?} after {wall:.1?}, {} outputs", job.id, outputs.files.len());
    // Whoever learns of the end sends the next job at once, and must find the slot free.
    drop(slot);
    job.enter(Phase::Finished(Arc::new(Finished { verdict, usage, wall, outputs, at: Instant::now() })));
}

async fn follow(job: &Arc<Job>, sandbox: &Sandbox, stop: &CancellationToken) -> io::Result<(End, Usage)> {
    let command = sandbox.command(&job.order.plan, job.order.work.path());
    let (process, stdout, stderr) = Process::start(sandbox, command)?;
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
    let end = process.end(deadline, stop.cancelled(), job.cancelled()).await;

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
