//! Who is given jobs: only a worker that answers, and that says it is who the list says.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Pool, SOON, eventually, nobody};
use crate::standin::{Fault, Identity, Quirks, Standin};

/// A pool whose first worker has this identity and whose second is in order.
async fn impostor_beside_a_good_worker(identity: Identity) -> (Standin, Standin, Pool) {
    let impostor = Standin::start(Quirks { identity, ..Quirks::brisk() }).await;
    let good = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[impostor.entry(4), good.entry(1)], "").await;
    (impostor, good, pool)
}

fn last_error(worker: &Value) -> &str {
    worker["last_error"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn worker_with_another_id_or_none_is_never_given_a_job_and_the_pool_says_why() {
    let other = nobody()["worker_id"].as_str().expect("a key").to_owned();
    for identity in [Identity::Other(other), Identity::Null, Identity::Other("nonsense".into())] {
        let (impostor, good, pool) = impostor_beside_a_good_worker(identity).await;
        for _ in 0..4 {
            pool.complete(&[]).await;
        }
        let worker = pool.worker_until(impostor.worker_id(), |worker| worker["last_error"].is_string()).await;
        assert_eq!(worker["is_healthy"], false);
        assert!(last_error(&worker).contains(impostor.worker_id()), "{worker}");
        assert_eq!((impostor.seen("POST").len(), good.ran().len()), (0, 4));
    }
}

#[tokio::test]
async fn worker_that_changes_its_id_is_given_no_more_jobs() {
    let (worker, good, pool) = impostor_beside_a_good_worker(Identity::Own).await;
    pool.healthy(2).await;
    worker.change(|quirks| quirks.identity = Identity::Null);
    pool.healthy(1).await;
    let before = worker.seen("POST").len();
    pool.complete(&[]).await;
    assert_eq!((worker.seen("POST").len(), good.ran().len()), (before, 1));
}

#[tokio::test]
async fn dead_worker_is_left_out_and_the_pool_says_why() {
    let standin = Standin::start(Quirks::brisk()).await;
    let dead = nobody();
    let pool = Pool::start(&[dead.clone(), standin.entry(1)], "").await;
    pool.complete(&[]).await;
    let worker = pool.worker(dead["worker_id"].as_str().expect("a key")).await;
    assert_eq!((&worker["is_healthy"], &worker["active_jobs"]), (&json!(false), &json!(0)));
    assert!(!last_error(&worker).is_empty(), "{worker}");
}

#[tokio::test]
async fn worker_whose_health_is_no_healthy_json_is_left_out() {
    for fault in [Fault::error(500, "no"), Fault::NotJson, Fault::CloseBeforeTaking] {
        let sick = Standin::start(Quirks::brisk()).await;
        sick.fail("GET /health", usize::MAX, fault);
        let pool = Pool::start(&[sick.entry(1)], "").await;
        let worker = pool.worker_until(sick.worker_id(), |worker| worker["last_error"].is_string()).await;
        assert_eq!(worker["is_healthy"], false, "{worker}");
    }
}

#[tokio::test]
async fn worker_that_comes_back_is_used_again() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    pool.complete(&[]).await;
    standin.stop().await;
    pool.healthy(0).await;
    let job = pool.run(&[]).await;
    standin.resume().await;
    let started = Instant::now();
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(pool.worker(standin.worker_id()).await["is_healthy"], true);
}

#[tokio::test]
async fn silent_workers_delay_the_check_of_no_other() {
    let mut silent = Vec::new();
    for _ in 0..8 {
        let standin = Standin::start(Quirks::brisk()).await;
        standin.stall().await;
        silent.push(standin);
    }
    let good = Standin::start(Quirks::brisk()).await;
    let mut entries: Vec<Value> = silent.iter().map(|standin| standin.entry(1)).collect();
    entries.push(good.entry(1));
    let started = Instant::now();
    let pool = Pool::start(&entries, "health: {interval: 1s, timeout: 2s}").await;
    pool.complete(&[]).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    eventually("the silent are known", SOON, async || {
        let view = pool.get("/pool").await.expect(200);
        let workers = view["workers"].as_array().expect("workers").iter();
        (workers.filter(|worker| !last_error(worker).is_empty()).count() == 8).then_some(())
    })
    .await;
}

#[tokio::test]
async fn failed_contact_has_a_worker_checked_at_once() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "health: {interval: 60s, timeout: 1s}").await;
    pool.complete(&[]).await;
    standin.stop().await;
    pool.run(&[]).await;
    pool.healthy(0).await;
    standin.resume().await;
    // A worker that is down is asked again in a second, not in a minute.
    pool.healthy(1).await;
}
