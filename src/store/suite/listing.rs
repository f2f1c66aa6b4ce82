//! Many jobs at once, and in order.

use super::*;

every_store_holds! {
    unfinished_jobs_come_in_the_order_of_submission
    a_listing_is_newest_first_and_at_most_the_limit
    pages_follow_one_another_without_gap_or_overlap
    filters_by_status
    filters_by_worker
    filters_by_client
    filters_add_up
}

async fn unfinished_jobs_come_in_the_order_of_submission(store: Any) {
    // Neither the ids nor the times of submission are in order.
    with_job(&store, 9, running(key(1))).await;
    with_job(&store, 2, finished(50)).await;
    with_job(&store, 7, queued()).await;
    let last = with_job(&store, 3, assigned(key(2))).await;
    let unfinished = store.unfinished().await.unwrap();
    assert_eq!(ids(&unfinished), [id(9), id(7), id(3)]);
    assert!(unfinished.is_sorted_by_key(|row| row.sequence));
    assert_eq!(unfinished[2], last);
}

async fn a_listing_is_newest_first_and_at_most_the_limit(store: Any) {
    for n in [4, 1, 3] {
        store.insert(new_job(n)).await.unwrap();
    }
    let list = async |limit| ids(&store.list(&JobFilter::default(), limit).await.unwrap());
    assert_eq!(list(10).await, [id(3), id(1), id(4)]);
    assert_eq!(list(2).await, [id(3), id(1)]);
    assert_eq!(list(0).await, []);
    assert_eq!(list(usize::MAX).await.len(), 3);
}

async fn pages_follow_one_another_without_gap_or_overlap(store: Any) {
    for n in 1..=7 {
        store.insert(new_job(n)).await.unwrap();
    }
    let (mut seen, mut filter) = (Vec::new(), JobFilter::default());
    loop {
        let page = store.list(&filter, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.sequence);
        seen.extend(ids(&page));
        // What comes in meanwhile is on no later page.
        store.insert(new_job(100 + u8::try_from(seen.len()).unwrap())).await.unwrap();
    }
    assert_eq!(seen, (1..=7).rev().map(id).collect::<Vec<_>>());
}

async fn filters_by_status(store: Any) {
    let failure = Outcome::failed(crate::job::FailureCode::WorkerLost, "gone");
    let failed = JobState::Finished { outcome: failure, at: at(9), attempts: 1, last: None };
    for (n, state) in [queued(), assigned(key(1)), running(key(1)), finished(9), failed, cancelled(9)]
        .into_iter()
        .enumerate()
    {
        with_job(&store, u8::try_from(n).unwrap(), state).await;
    }
    for (n, status) in PoolStatus::ALL.into_iter().enumerate() {
        let filter = JobFilter { status: Some(status), ..JobFilter::default() };
        let list = store.list(&filter, 10).await.unwrap();
        assert_eq!(ids(&list), [id(u8::try_from(n).unwrap())], "{status:?}");
    }
}

async fn filters_by_worker(store: Any) {
    with_job(&store, 1, finished(9)).await;
    with_job(&store, 2, running(key(1))).await;
    with_job(&store, 3, running(key(2))).await;
    with_job(&store, 4, queued()).await;
    let of = async |worker| {
        let filter = JobFilter { worker: Some(key(worker)), ..JobFilter::default() };
        ids(&store.list(&filter, 10).await.unwrap())
    };
    assert_eq!(of(1).await, [id(2), id(1)]);
    assert_eq!(of(2).await, [id(3)]);
    assert_eq!(of(3).await, []);
    // A job that goes back to the queue has no worker any more.
    store.transition(step(3, 2, queued())).await.unwrap();
    assert_eq!(of(2).await, []);
}

async fn filters_by_client(store: Any) {
    for (n, owner) in [(1, client("a")), (2, client("b")), (3, None), (4, client("a"))] {
        store.insert(NewJob { client: owner, ..new_job(n) }).await.unwrap();
    }
    let of = async |owner| {
        let filter = JobFilter { client: owner, ..JobFilter::default() };
        ids(&store.list(&filter, 10).await.unwrap())
    };
    assert_eq!(of(client("a")).await, [id(4), id(1)]);
    assert_eq!(of(client("b")).await, [id(2)]);
    assert_eq!(of(client("c")).await, []);
    assert_eq!(of(None).await.len(), 4);
}

async fn filters_add_up(store: Any) {
    for n in 1..=4 {
        with_job(&store, n, running(key(1))).await;
    }
    with_job(&store, 5, finished(9)).await;
    with_job(&store, 6, running(key(2))).await;
    let before = Some(store.job(&id(4)).await.unwrap().unwrap().sequence);
    let filter = JobFilter { status: Some(PoolStatus::Running), worker: Some(key(1)), before, client: None };
    assert_eq!(ids(&store.list(&filter, 2).await.unwrap()), [id(3), id(2)]);
}
