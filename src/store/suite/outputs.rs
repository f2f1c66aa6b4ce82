//! Where the outputs of finished jobs are.

use super::*;

every_store_holds! {
    outputs_are_to_be_collected_once_a_job_that_a_worker_took_has_ended
    a_place_reads_back_as_it_was_settled
    settling_is_conditional_on_the_run
    what_is_collected_next_was_submitted_first_and_is_on_no_excepted_worker
    only_outputs_to_be_collected_are_collected
    kept_runs_come_oldest_first_with_their_bytes
    a_forgotten_job_takes_its_place_with_it
    a_job_that_is_queued_again_has_no_place
    outputs_that_are_refused_give_their_run_another_end
}

/// Kept at this second, so many bytes in two files.
pub fn kept(second: i64, bytes: u64) -> OutputsPlace {
    let file = |index, name: &str, size| KeptFile { name: name.into(), size, sha256: "ab".repeat(32), index };
    OutputsPlace::Kept { at: at(second), files: vec![file(0, "ü/a b", bytes - 1), file(1, "b", 1)] }
}

fn staying() -> OutputsPlace {
    OutputsPlace::OnWorker { reason: "they are too large".into() }
}

fn over(outcome: Outcome, worker: WorkerKey) -> JobState {
    let last = Some(Last { worker, remote: Some("job_1_1".into()) });
    JobState::Finished { outcome, at: at(99), attempts: 1, last }
}

/// The `n`th job, over on this worker.
async fn ended(store: &Any, n: u8, worker: WorkerKey) -> EndedRun {
    with_job(store, n, over(Outcome::Completed, worker)).await.run()
}

async fn settle(store: &Any, run: &EndedRun, to: OutputsPlace) -> Settled {
    store.settle_outputs(run, to).await.unwrap()
}

async fn place(store: &Any, n: u8) -> Option<OutputsPlace> {
    store.ended(&id(n)).await.unwrap()?.outputs.clone()
}

async fn next(store: &Any, except: &[WorkerKey]) -> Option<EndedRun> {
    store.next_to_collect(except).await.unwrap().map(|row| row.run())
}

async fn outputs_are_to_be_collected_once_a_job_that_a_worker_took_has_ended(store: Any) {
    with_job(&store, 1, running(key(1))).await;
    ended(&store, 2, key(1)).await;
    let last = Some(Last { worker: key(1), remote: None });
    with_job(&store, 3, JobState::Finished { outcome: Outcome::Cancelled, at: at(9), attempts: 1, last })
        .await;
    assert_eq!((place(&store, 1).await, place(&store, 3).await), (None, None));
    assert_eq!(place(&store, 2).await, Some(OutputsPlace::ToCollect));
    assert_eq!(place(&store, 4).await, None);
}

async fn a_place_reads_back_as_it_was_settled(store: Any) {
    let run = ended(&store, 1, key(1)).await;
    let nothing = OutputsPlace::Kept { at: at(5), files: Vec::new() };
    for to in [staying(), kept(5, 10), OutputsPlace::Expired, nothing, OutputsPlace::ToCollect] {
        assert_eq!(settle(&store, &run, to.clone()).await, Settled::Done);
        assert_eq!(place(&store, 1).await, Some(to));
    }
}

async fn settling_is_conditional_on_the_run(store: Any) {
    let run = ended(&store, 1, key(1)).await;
    let other = EndedRun { version: run.version + 1, ..run };
    assert_eq!(settle(&store, &other, kept(5, 10)).await, Settled::Overtaken);
    assert_eq!(place(&store, 1).await, Some(OutputsPlace::ToCollect));
    let live = with_job(&store, 2, running(key(1))).await.run();
    assert_eq!(settle(&store, &live, kept(5, 10)).await, Settled::Overtaken);
    let unknown = EndedRun { job: id(3), ..live };
    assert_eq!(settle(&store, &unknown, kept(5, 10)).await, Settled::Overtaken);
}

async fn what_is_collected_next_was_submitted_first_and_is_on_no_excepted_worker(store: Any) {
    assert_eq!(next(&store, &[]).await, None);
    let first = ended(&store, 9, key(1)).await;
    ended(&store, 2, key(1)).await;
    let third = ended(&store, 5, key(2)).await;
    assert_eq!(next(&store, &[]).await, Some(first));
    assert_eq!(next(&store, &[key(1)]).await, Some(third));
    assert_eq!(next(&store, &[key(2), key(1)]).await, None);
    for (worker, has) in [(1, true), (2, true), (3, false)] {
        assert_eq!(store.has_to_collect(key(worker)).await.unwrap(), has, "{worker}");
    }
}

async fn only_outputs_to_be_collected_are_collected(store: Any) {
    for (n, to) in [(1, staying()), (2, kept(5, 10)), (3, OutputsPlace::Expired)] {
        let run = ended(&store, n, key(1)).await;
        settle(&store, &run, to).await;
    }
    assert_eq!(next(&store, &[]).await, None);
    assert!(!store.has_to_collect(key(1)).await.unwrap());
}

async fn kept_runs_come_oldest_first_with_their_bytes(store: Any) {
    for (n, second) in [(1, 7), (2, 5), (3, 9), (4, 5)] {
        let run = ended(&store, n, key(1)).await;
        settle(&store, &run, kept(second, u64::from(n) * 10)).await;
    }
    let gone = ended(&store, 5, key(1)).await;
    settle(&store, &gone, kept(1, 1000)).await;
    settle(&store, &gone, OutputsPlace::Expired).await;
    let oldest = store.oldest_kept(3).await.unwrap();
    let shown: Vec<_> = oldest.iter().map(|kept| (kept.run.job.clone(), kept.bytes, kept.kept_at)).collect();
    assert_eq!(shown, [(id(2), 20, at(5)), (id(4), 40, at(5)), (id(1), 10, at(7))]);
    assert!(oldest.iter().all(|kept| kept.run.version == 2));
    assert_eq!(store.kept_bytes().await.unwrap(), 100);
}

async fn a_forgotten_job_takes_its_place_with_it(store: Any) {
    let run = ended(&store, 1, key(1)).await;
    settle(&store, &run, kept(5, 10)).await;
    assert_eq!(store.forget_finished(at(100), 1).await.unwrap(), std::slice::from_ref(&run));
    assert_eq!((place(&store, 1).await, store.kept_bytes().await.unwrap()), (None, 0));
    assert_eq!(settle(&store, &run, kept(5, 10)).await, Settled::Overtaken);
}

async fn a_job_that_is_queued_again_has_no_place(store: Any) {
    let first = with_job(&store, 1, over(Outcome::Cancelled, key(1))).await.run();
    settle(&store, &first, kept(5, 10)).await;
    store.reopen(step(1, first.version, queued())).await.unwrap();
    assert_eq!((place(&store, 1).await, store.kept_bytes().await.unwrap()), (None, 0));
    assert_eq!(settle(&store, &first, kept(5, 10)).await, Settled::Overtaken);
    let again = over(Outcome::Cancelled, key(2));
    store.transition(step(1, first.version + 1, again)).await.unwrap();
    assert_eq!(settle(&store, &first, kept(5, 10)).await, Settled::Overtaken);
    assert_eq!(next(&store, &[]).await, Some(EndedRun { version: first.version + 2, ..first }));
}

async fn outputs_that_are_refused_give_their_run_another_end(store: Any) {
    let run = ended(&store, 1, key(1)).await;
    let end = over(Outcome::failed(FailureCode::BadReceipt, "not signed"), key(1));
    let other = EndedRun { version: run.version + 1, ..run.clone() };
    let refuse = async |run: &EndedRun| store.refuse_outputs(run, end.clone(), "why".into()).await.unwrap();
    assert_eq!(refuse(&other).await, Settled::Overtaken);
    assert_eq!(store.job(&id(1)).await.unwrap().unwrap().state.status(), PoolStatus::Completed);
    assert_eq!(refuse(&run).await, Settled::Done);
    let row = store.job(&id(1)).await.unwrap().unwrap();
    assert_eq!((&row.state, row.run()), (&end, run));
    assert_eq!(place(&store, 1).await, Some(OutputsPlace::OnWorker { reason: "why".into() }));
    let failed = JobFilter { status: Some(PoolStatus::Failed), ..JobFilter::default() };
    assert_eq!(store.list(&failed, 9).await.unwrap(), [row]);
}
