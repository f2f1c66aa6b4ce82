//! Running jobs: one at a time by a loop that ticks, or each by itself.

use std::sync::Arc;
use std::time::Instant;

use super::state::Phase;
use super::{Mode, Shared};

/// The deployed worker's loop: the one lock is held for a job's whole run.
pub async fn run_one_by_one(shared: Arc<Shared>) {
    loop {
        let quirks = shared.quirks();
        tokio::time::sleep(quirks.tick).await;
        let _lock = shared.lock.lock().await;
        let next = {
            let mut state = shared.state();
            state.forget(&quirks);
            state.queue.pop_front().map(|id| (state.jobs.contains_key(&id), id))
        };
        match next {
            None => {}
            Some((true, id)) => run(&shared, &id).await,
            Some((false, _)) => {
                // Its turn came after it was forgotten: the process dies.
                shared.mode.send_replace(Mode::Refusing);
                return;
            }
        }
    }
}

/// Runs a job beside the others.
pub fn start(shared: &Arc<Shared>, id: String) {
    let runner = Arc::clone(shared);
    shared.tasks.lock().unwrap().spawn(async move {
        runner.state().queue.retain(|queued| *queued != id);
        run(&runner, &id).await;
    });
}

async fn run(shared: &Shared, id: &str) {
    let (run_for, cancelled) = {
        let mut state = shared.state();
        let Some(job) = state.jobs.get_mut(id) else { return };
        job.phase = Phase::Running;
        let (run_for, cancelled, marker) =
            (job.plan.run_for, Arc::clone(&job.cancelled), job.submission.marker());
        state.ran.push(marker);
        (run_for, cancelled)
    };
    // Either way it is over.
    let _ = tokio::time::timeout(run_for, cancelled.notified()).await;
    let mut state = shared.state();
    state.ended.push(Instant::now());
    if let Some(job) = state.jobs.get_mut(id) {
        job.phase = Phase::Done;
    }
}
