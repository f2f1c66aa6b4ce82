//! Jobs are taken in, move on, end and are forgotten.

use futures_util::future::join_all;

use super::*;

every_store_holds! {
    a_new_job_is_queued_with_no_attempts
    a_job_reads_back_as_it_was_submitted
    a_taken_id_is_refused_and_changes_nothing
    a_step_is_conditional_on_the_version_it_leaves
    of_concurrent_steps_from_one_version_exactly_one_wins
    a_step_of_a_job_that_is_not_there_is_not_found
    an_unfinished_job_keeps_its_work_and_has_no_results
    a_finished_job_has_results_and_no_work
    a_job_that_may_be_retried_keeps_its_work_and_is_queued_again
    work_that_was_dropped_is_gone_for_good
    files_of_the_first_that_ended_make_room_first
    a_drain_stands_until_it_is_lifted
    a_job_may_end_without_results
    texts_of_a_run_are_read_in_pieces
    a_finished_job_never_changes
    forgets_only_what_ended_before_oldest_first_and_at_most_the_limit
    forgets_everything_of_a_job
    a_sequence_is_never_used_again
    a_sound_store_checks_well
}

async fn a_new_job_is_queued_with_no_attempts(store: Any) {
    let Inserted::New(row) = store.insert(new_job(1)).await.unwrap() else { panic!() };
    let JobRow { sequence, .. } = row;
    let expected = JobRow {
        id: id(1),
        sequence,
        version: 1,
        client: None,
        priority: Priority::Low,
        submitted_at: at(1),
        terms: new_job(1).terms,
        state: queued(),
    };
    assert_eq!(row, expected);
    assert_eq!(store.job(&id(1)).await.unwrap(), Some(row));
    assert_eq!(store.job(&id(2)).await.unwrap(), None);
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn a_job_reads_back_as_it_was_submitted(store: Any) {
    let inline = new_job(1);
    let mut empty = new_job(2);
    Arc::make_mut(&mut empty.work).payload = Payload::Inline(Bytes::new());
    let mut spooled = new_job(3);
    Arc::make_mut(&mut spooled.work).payload = Payload::Spooled { bytes: 1 << 40 };
    for job in [inline, empty, spooled] {
        store.insert(job.clone()).await.unwrap();
        assert_eq!(store.work(&job.id).await.unwrap().as_ref(), Some(&*job.work));
    }
    assert_eq!(store.work(&id(4)).await.unwrap(), None);
}

async fn a_taken_id_is_refused_and_changes_nothing(store: Any) {
    store.insert(new_job(1)).await.unwrap();
    let imposter = NewJob { id: id(1), ..new_job(2) };
    assert!(matches!(store.insert(imposter).await, Err(StoreError::Broken(_))));
    assert_eq!(store.count().await.unwrap(), 1);
    assert_eq!(store.work(&id(1)).await.unwrap().as_ref(), Some(&*new_job(1).work));
}

async fn a_step_is_conditional_on_the_version_it_leaves(store: Any) {
    store.insert(new_job(1)).await.unwrap();
    let first = store.transition(step(1, 1, assigned(key(1)))).await.unwrap();
    assert_eq!(first, Written::Updated { version: 2 });
    for stale in [0, 1, 3] {
        assert_eq!(store.transition(step(1, stale, queued())).await.unwrap(), Written::Conflict);
    }
    let row = store.job(&id(1)).await.unwrap().unwrap();
    assert_eq!((row.version, row.state), (2, assigned(key(1))));
}

async fn of_concurrent_steps_from_one_version_exactly_one_wins(store: Any) {
    store.insert(new_job(1)).await.unwrap();
    let steps = (1..=32).map(|worker| store.transition(step(1, 1, assigned(key(worker)))));
    let written: Vec<Written> = join_all(steps).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<usize> = (0..32).filter(|&n| written[n] == Written::Updated { version: 2 }).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(written.iter().filter(|written| **written == Written::Conflict).count(), 31);
    let winner = key(u8::try_from(winners[0]).unwrap() + 1);
    assert_eq!(store.job(&id(1)).await.unwrap().unwrap().state, assigned(winner));
}

async fn a_step_of_a_job_that_is_not_there_is_not_found(store: Any) {
    assert_eq!(store.transition(step(1, 1, finished(9))).await.unwrap(), Written::NotFound);
    assert_eq!(store.count().await.unwrap(), 0);
}

async fn an_unfinished_job_keeps_its_work_and_has_no_results(store: Any) {
    with_job(&store, 1, running(key(1))).await;
    assert_eq!(store.work(&id(1)).await.unwrap().as_ref(), Some(&*new_job(1).work));
    assert_eq!(store.results(&id(1)).await.unwrap(), None);
}

async fn a_finished_job_has_results_and_no_work(store: Any) {
    with_job(&store, 1, running(key(1))).await;
    let end = Transition { results: Some(some_results()), ..step(1, 2, finished(9)) };
    assert_eq!(store.transition(end).await.unwrap(), Written::Updated { version: 3 });
    assert_eq!(store.job(&id(1)).await.unwrap().unwrap().state, finished(9));
    assert_eq!(store.work(&id(1)).await.unwrap(), None);
    assert_eq!(store.results(&id(1)).await.unwrap(), Some(some_results()));
}

async fn a_job_may_end_without_results(store: Any) {
    with_job(&store, 1, finished(9)).await;
    assert_eq!(store.results(&id(1)).await.unwrap(), None);
    store.insert(new_job(2)).await.unwrap();
    let nothing_known = Transition { results: Some(Results::default()), ..step(2, 1, finished(9)) };
    store.transition(nothing_known).await.unwrap();
    assert_eq!(store.results(&id(2)).await.unwrap(), Some(Results::default()));
}

async fn a_finished_job_never_changes(store: Any) {
    let row = with_job(&store, 1, finished(9)).await;
    let again = Transition { results: Some(some_results()), ..step(1, row.version, finished(10)) };
    assert_eq!(store.transition(again).await.unwrap(), Written::Conflict);
    assert_eq!(store.transition(step(1, row.version, queued())).await.unwrap(), Written::Conflict);
    assert_eq!(store.job(&id(1)).await.unwrap(), Some(row));
    assert_eq!(store.results(&id(1)).await.unwrap(), None);
}

async fn forgets_only_what_ended_before_oldest_first_and_at_most_the_limit(store: Any) {
    for (n, second) in [(1, 103), (2, 101), (3, 104), (4, 102), (6, 110)] {
        with_job(&store, n, finished(second)).await;
    }
    with_job(&store, 5, running(key(1))).await;
    assert_eq!(store.forget_finished(at(110), 2).await.unwrap().len(), 2);
    let left = store.list(&JobFilter::default(), 10).await.unwrap();
    assert_eq!(ids(&left), [id(5), id(6), id(3), id(1)]);
    assert_eq!(store.forget_finished(at(110), 5).await.unwrap().len(), 2);
    assert_eq!(store.forget_finished(at(110), 2).await.unwrap().len(), 0);
    assert_eq!(store.forget_finished(at(1000), usize::MAX).await.unwrap().len(), 1);
    assert_eq!(ids(&store.unfinished().await.unwrap()), [id(5)]);
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn forgets_everything_of_a_job(store: Any) {
    let named = Some(Idempotency { key: "mine".into(), valid_since: at(0) });
    store.insert(NewJob { idempotency: named.clone(), ..new_job(1) }).await.unwrap();
    let end = Transition { results: Some(some_results()), ..step(1, 1, finished(9)) };
    store.transition(end).await.unwrap();
    assert_eq!(store.forget_finished(at(10), 1).await.unwrap().len(), 1);
    assert_eq!(store.job(&id(1)).await.unwrap(), None);
    assert_eq!(store.results(&id(1)).await.unwrap(), None);
    // Its key is free again, even for other content; and so is its id.
    let other = NewJob { idempotency: named, id: id(1), ..new_job(2) };
    assert!(matches!(store.insert(other).await.unwrap(), Inserted::New(_)));
    assert_eq!(store.results(&id(1)).await.unwrap(), None);
}

async fn a_sequence_is_never_used_again(store: Any) {
    let forgotten = with_job(&store, 1, finished(9)).await;
    store.forget_finished(at(10), 1).await.unwrap();
    let Inserted::New(next) = store.insert(new_job(2)).await.unwrap() else { panic!() };
    assert!(next.sequence > forgotten.sequence);
}

async fn texts_of_a_run_are_read_in_pieces(store: Any) {
    let row = with_job(&store, 1, running(key(1))).await;
    let long = "🦀\n".repeat(TEXT_PIECE_BYTES / 3);
    let logs = Logs { stdout: long.clone(), stderr: "short".into(), truncation: Truncation::Cut };
    let results = Results { worker_status: Some("{}".into()), logs: Some(logs), listing: None };
    let end = Transition { results: Some(results), ..step(1, row.version, finished(9)) };
    store.transition(end).await.unwrap();
    let run = EndedRun { job: id(1), version: row.version + 1 };
    let read = async |text, from: usize| store.results_text(&run, text, from as u64).await.unwrap();
    let mut whole = Vec::new();
    while let Some(piece) = read(ResultsText::Stdout, whole.len()).await {
        assert!(piece.len() == TEXT_PIECE_BYTES || whole.len() + piece.len() == long.len());
        whole.extend_from_slice(&piece);
        if piece.len() < TEXT_PIECE_BYTES {
            break;
        }
    }
    assert!(whole == long.as_bytes());
    assert_eq!(read(ResultsText::Stderr, 2).await.as_deref(), Some(&b"ort"[..]));
    assert_eq!(read(ResultsText::Stderr, 99).await.as_deref(), Some(&b""[..]));
    assert_eq!(read(ResultsText::LogsCut, 0).await.as_deref(), Some(&b"true"[..]));
    assert_eq!(read(ResultsText::Listing, 0).await, None);
    let other = EndedRun { version: row.version, ..run.clone() };
    assert_eq!(store.results_text(&other, ResultsText::Stderr, 0).await.unwrap(), None);
}

async fn a_sound_store_checks_well(store: Any) {
    store.check().await.unwrap();
    assert_eq!(store.count().await.unwrap(), 0);
}

async fn a_job_that_may_be_retried_keeps_its_work_and_is_queued_again(store: Any) {
    let row = with_job(&store, 1, cancelled(60)).await;
    assert!(store.work(&id(1)).await.unwrap().is_some());
    let reopened = store.reopen(step(1, row.version, queued())).await.unwrap();
    assert_eq!(reopened, Reopened::Queued { version: row.version + 1 });
    let again = store.job(&id(1)).await.unwrap().unwrap();
    assert_eq!((again.state, again.sequence), (queued(), row.sequence));
    assert_eq!(store.results(&id(1)).await.unwrap(), None);
    assert_eq!(store.unfinished().await.unwrap().len(), 1);
    for (n, version) in [(1, row.version), (1, row.version + 1)] {
        assert_eq!(store.reopen(step(n, version, queued())).await.unwrap(), Reopened::Conflict);
    }
    assert_eq!(store.reopen(step(9, 1, queued())).await.unwrap(), Reopened::NotFound);
}

async fn work_that_was_dropped_is_gone_for_good(store: Any) {
    let row = with_job(&store, 1, cancelled(60)).await;
    with_job(&store, 2, cancelled(61)).await;
    with_job(&store, 3, queued()).await;
    assert_eq!(store.drop_work(at(60), 10).await.unwrap(), []);
    assert_eq!(store.drop_work(at(70), 1).await.unwrap(), [id(1)]);
    assert_eq!(store.drop_work(at(70), 10).await.unwrap(), [id(2)]);
    assert_eq!(store.work(&id(1)).await.unwrap(), None);
    assert!(store.work(&id(3)).await.unwrap().is_some());
    assert_eq!(store.reopen(step(1, row.version, queued())).await.unwrap(), Reopened::WorkGone);
}

async fn files_of_the_first_that_ended_make_room_first(store: Any) {
    for (n, second) in [(1, 62), (2, 60), (3, 61)] {
        with_spooled_job(&store, n, cancelled(second)).await;
    }
    with_job(&store, 4, cancelled(50)).await;
    with_spooled_job(&store, 5, queued()).await;
    assert_eq!(store.drop_spooled_work(2).await.unwrap(), [id(2), id(3)]);
    assert_eq!(store.drop_spooled_work(2).await.unwrap(), [id(1)]);
    assert_eq!(store.drop_spooled_work(2).await.unwrap(), []);
    assert!(store.work(&id(4)).await.unwrap().is_some() && store.work(&id(5)).await.unwrap().is_some());
}

async fn a_drain_stands_until_it_is_lifted(store: Any) {
    let drain = |reason: &str| Drain { worker: key(1), reason: reason.into(), since: at(7) };
    store.drain(drain("disk")).await.unwrap();
    store.drain(drain("new disk")).await.unwrap();
    assert_eq!(store.drains().await.unwrap(), [drain("new disk")]);
    store.resume(key(2)).await.unwrap();
    store.resume(key(1)).await.unwrap();
    assert_eq!(store.drains().await.unwrap(), []);
}
