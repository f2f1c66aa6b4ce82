//! What the pool makes of each answer to a submit: above all, that it does not know is not that it failed.

use std::time::Duration;

use serde_json::json;

use crate::fault::{FaultProxy, Link};
use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Fault, Quirks, Standin};

async fn one_worker(quirks: Quirks) -> (Standin, Pool) {
    let standin = Standin::start(quirks).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    pool.healthy(1).await;
    (standin, pool)
}

async fn two_workers() -> (Standin, Standin, Pool) {
    let (first, second) = (Standin::start(Quirks::tame()).await, Standin::start(Quirks::tame()).await);
    let pool = Pool::start(&[first.entry(1), second.entry(1)], "").await;
    pool.healthy(2).await;
    (first, second, pool)
}

#[tokio::test]
async fn job_whose_submit_has_no_usable_answer_is_of_unknown_outcome_and_not_run_again() {
    for fault in [Fault::CloseAfterTaking, Fault::NotJson, Fault::CutBody(5)] {
        let (first, second, pool) = two_workers().await;
        for standin in [&first, &second] {
            standin.fail("POST /submit", 1, fault.clone());
        }
        let job = pool.run(&["id=once"]).await;
        let status = pool.failed(&job, "outcome_unknown").await;
        assert!(status["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{status}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!([first.ran(), second.ran()].concat(), ["once"], "{fault:?}");
    }
}

#[tokio::test]
async fn worker_that_knows_keys_tells_what_became_of_a_submit() {
    // Taken or not, in the end it ran once.
    for (fault, submits) in [(Fault::CloseAfterTaking, 1), (Fault::CloseBeforeTaking, 2)] {
        let (standin, pool) = one_worker(Quirks::second()).await;
        standin.fail("POST /submit", 1, fault);
        pool.complete(&["id=once"]).await;
        assert_eq!(standin.ran(), ["once"]);
        assert_eq!(standin.seen("POST /submit").len(), submits);
    }
}

#[tokio::test]
async fn submit_that_is_answered_with_a_server_error_is_not_sent_again() {
    let (first, second, pool) = two_workers().await;
    for standin in [&first, &second] {
        standin.fail("POST /submit", 1, Fault::error(500, "oops"));
    }
    let job = pool.run(&[]).await;
    pool.failed(&job, "outcome_unknown").await;
    assert_eq!(first.seen("POST").len() + second.seen("POST").len(), 1);
}

#[tokio::test]
async fn slot_of_a_job_of_unknown_outcome_is_free_again_once_it_is_given_up() {
    let (standin, pool) = one_worker(Quirks::tame()).await;
    standin.fail("POST /submit", 1, Fault::CloseBeforeTaking);
    let job = pool.run(&[]).await;
    pool.failed(&job, "outcome_unknown").await;
    pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
    pool.complete(&[]).await;
}

#[tokio::test]
async fn submit_that_is_cut_on_the_way_runs_at_most_once() {
    let standin = Standin::start(Quirks::brisk()).await;
    let proxy = FaultProxy::start(standin.address()).await;
    let pool = Pool::start(&[standin.entry_at(proxy.address(), 1)], "").await;
    for link in [Link::CutRequest(100_000), Link::CutResponse(10)] {
        let runs_before = standin.ran().len();
        proxy.set(link);
        let manifest = json!({"entrypoint": "main.py"});
        let job = pool.submit(&[("big.bin", &vec![b'x'; 2_000_000])], &manifest).await;
        eventually("the cut is made", SOON, async || {
            (pool.status(&job).await["pool_status"] != "queued"
                || pool.worker(standin.worker_id()).await["is_healthy"] == false)
                .then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.set(Link::Whole);
        let status = pool.finished(&job).await;
        let unknown = status["error"]["code"] == "outcome_unknown";
        assert!(unknown || status["pool_status"] == "completed", "{status}");
        assert!(standin.ran().len() <= runs_before + 1);
    }
}

#[tokio::test]
async fn late_answer_to_a_submit_is_an_answer() {
    let (standin, pool) = one_worker(Quirks::tame()).await;
    standin.fail("POST /submit", 1, Fault::Late(Duration::from_secs(3)));
    let job = pool.run(&["run_ms=10"]).await;
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
    assert_eq!(standin.seen("POST").len(), 1);
}

#[tokio::test]
async fn refusal_by_two_workers_is_the_jobs_failure_in_the_workers_words() {
    let (first, second, pool) = two_workers().await;
    for standin in [&first, &second] {
        standin.fail("POST /submit", 9, Fault::error(400, "No such interpreter: cobol"));
    }
    let job = pool.run(&[]).await;
    let status = pool.failed(&job, "rejected").await;
    let message = status["error"]["message"].as_str().expect("a message");
    assert!(message.contains("No such interpreter: cobol"), "{message}");
    assert_eq!([first.seen("POST").len(), second.seen("POST").len()], [1, 1]);
}

#[tokio::test]
async fn refusal_by_the_only_worker_is_the_jobs_failure() {
    for status in [400, 413, 422] {
        let (standin, pool) = one_worker(Quirks::tame()).await;
        standin.fail("POST /submit", 9, Fault::error(status, "not this one"));
        let job = pool.run(&[]).await;
        let status = pool.failed(&job, "rejected").await;
        assert!(
            status["error"]["message"].as_str().is_some_and(|text| text.contains("not this one")),
            "{status}"
        );
        standin.heal();
        pool.complete(&[]).await;
    }
}

#[tokio::test]
async fn refusal_by_one_worker_is_tried_on_another() {
    let (first, second, pool) = two_workers().await;
    first.fail("POST /submit", 9, Fault::error(400, "not here"));
    for _ in 0..2 {
        pool.complete(&[]).await;
    }
    assert_eq!((first.ran().len(), second.ran().len()), (0, 2));
}

#[tokio::test]
async fn payload_over_the_workers_own_limit_is_rejected_not_repeated() {
    let quirks = Quirks { body_bytes_max: Some(1024 * 1024), ..Quirks::brisk() };
    let (standin, pool) = one_worker(quirks).await;
    let job = pool.submit(&[("big.bin", &vec![b'x'; 4_000_000])], &json!({"entrypoint": "main.py"})).await;
    let status = pool.finished(&job).await;
    // The 413 may be lost to the reset that follows it; then nobody can know more than that it did not run.
    let code = status["error"]["code"].as_str().unwrap_or_default();
    assert!(matches!(code, "rejected" | "outcome_unknown"), "{status}");
    assert!(standin.seen("POST").len() <= 2 && standin.ran().is_empty());
}

#[tokio::test]
async fn throttled_job_keeps_waiting_and_runs_later() {
    let (standin, pool) = one_worker(Quirks::tame()).await;
    standin.fail("POST /submit", 1, Fault::error(429, "CPU quota exhausted, wait 1 seconds"));
    standin.fail("POST /submit", 1, Fault::error(429, "Max concurrent jobs reached (2)"));
    let job = pool.run(&[]).await;
    eventually("the worker throttled", SOON, async || (!standin.seen("POST").is_empty()).then_some(())).await;
    assert!(matches!(pool.status(&job).await["pool_status"].as_str(), Some("queued" | "dispatched")));
    assert_eq!(pool.worker(standin.worker_id()).await["is_healthy"], true);
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
    let sent: Vec<_> = standin.seen("POST").iter().map(|seen| seen.at).collect();
    assert!(sent[1] - sent[0] >= Duration::from_millis(900), "{:?}", sent[1] - sent[0]);
}

#[tokio::test]
async fn throttled_worker_is_left_alone_and_another_runs_the_job() {
    let (first, second, pool) = two_workers().await;
    let retry_after = vec![("Retry-After".to_owned(), "60".to_owned())];
    let busy = Fault::Answer { status: 503, headers: retry_after, body: r#"{"error":"busy"}"#.into() };
    first.fail("POST /submit", 9, busy);
    for _ in 0..4 {
        pool.complete(&[]).await;
    }
    assert!(first.seen("POST").len() <= 1);
    assert_eq!(second.ran().len(), 4);
}

#[tokio::test]
async fn job_that_a_worker_did_not_even_accept_the_connection_for_runs_on_another() {
    let (first, second) = (Standin::start(Quirks::tame()).await, Standin::start(Quirks::tame()).await);
    let health = "health: {interval: 60s, timeout: 1s}";
    let pool = Pool::start(&[first.entry(4), second.entry(1)], health).await;
    pool.healthy(2).await;
    first.stop().await;
    for _ in 0..3 {
        pool.complete(&[]).await;
    }
    assert_eq!((first.ran().len(), second.ran().len()), (0, 3));
}

#[tokio::test]
async fn job_waits_as_long_as_its_only_worker_is_down() {
    let (standin, pool) = one_worker(Quirks::tame()).await;
    standin.stop().await;
    let job = pool.run(&[]).await;
    pool.healthy(0).await;
    // The attempt that found it down may be on its way back to the queue.
    pool.wait_until(&job, |status| status["pool_status"] == "queued", SOON).await;
    standin.resume().await;
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
}
