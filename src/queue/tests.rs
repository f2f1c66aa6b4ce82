use bytes::Bytes;

use super::*;
use crate::job::{OnUnknown, OnWorkerLost, Priority};
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Payload, Work};

const DEFAULTS: DefaultTerms = DefaultTerms {
    on_unknown: OnUnknown::Hold,
    on_worker_lost: OnWorkerLost::Fail,
    max_attempts: 3,
    queue_timeout: None,
};

async fn queue_with_job() -> (Arc<MemoryStore>, Queue, JobId) {
    let store = Arc::new(MemoryStore::new());
    let clock = Clock::System;
    let queue = Queue::new(Arc::clone(&store) as _, None, clock, DEFAULTS, Arc::default());
    let id = JobId::from_random([1; 12]);
    let payload = Payload::Inline(Bytes::new());
    let work = Work { manifest: "{}".into(), boundary: "b".into(), payload, sha256: [0; 32] };
    let job = NewJob {
        id: id.clone(),
        client: None,
        priority: Priority::Normal,
        submitted_at: Timestamp::from_micros(1),
        terms: Default::default(),
        work: work.into(),
        idempotency: None,
    };
    queue.submit(job).await.unwrap();
    (store, queue, id)
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_cannot_be_written_is_refused_and_done_when_it_can() {
    let (store, queue, id) = queue_with_job().await;
    for fault in [Fault::Full, Fault::BrokenUndone] {
        store.fail_writes(1, fault);
        assert!(queue.cancel(&id).await.is_err(), "{fault:?}");
        assert!(queue.is_live(&id));
    }
    assert!(matches!(queue.cancel(&id).await, Ok(Cancelled::Done(_))));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_was_written_and_reported_as_failed_is_found_out() {
    let (store, queue, id) = queue_with_job().await;
    store.fail_writes(1, Fault::BrokenDone);
    assert!(queue.cancel(&id).await.is_err());
    assert!(matches!(queue.cancel(&id).await, Ok(Cancelled::Done(_))));
    assert_eq!(queue.waiting_jobs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_does_not_wait_for_a_step_that_cannot_be_written() {
    let (store, queue, id) = queue_with_job().await;
    store.fail_writes(1000, Fault::Full);
    let (job, ()) = queue.claim(|_| Some(())).unwrap();
    let worker = crate::worker::WorkerKey::for_tests(1);
    let stuck = tokio::spawn({
        let queue = queue.clone();
        async move { queue.advance(&job, JobEvent::Assigned { worker }, None).await.is_ok() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(queue.cancel(&id).await, Err(StoreError::Full)));
    store.fail_writes(0, Fault::Full);
    assert!(stuck.await.unwrap());
    assert!(matches!(queue.cancel(&id).await, Ok(Cancelled::Done(_))));
}
