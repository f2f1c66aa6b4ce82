//! Wishes of clients and operators, and what follows when an attempt is lost.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bodies;
use crate::harness::{Pool, SOON};
use crate::standin::{Fault, Quirks, Standin};
use crate::wire::Call;

async fn pool_of(quirks: Quirks, jobs: usize, extra: &str) -> (Standin, Pool) {
    let standin = Standin::start(quirks).await;
    let pool = Pool::start(&[standin.entry(jobs)], extra).await;
    pool.healthy(1).await;
    (standin, pool)
}

async fn post(pool: &Pool, path: &str, body: &Value) -> (u16, Value) {
    let answer = pool.call(Call::post(path, body.to_string())).await;
    (answer.status(), answer.json())
}

async fn status_is(pool: &Pool, job: &str, wanted: &str) -> Value {
    pool.wait_until(job, |status| status["pool_status"] == wanted, SOON).await
}

#[tokio::test]
async fn cancelled_queued_job_is_never_sent() {
    let (standin, pool) = pool_of(Quirks::tame(), 1, "").await;
    let first = pool.run(&["run_ms=600"]).await;
    let second = pool.run(&[]).await;
    let (code, answer) = post(&pool, &format!("/cancel/{second}"), &json!({})).await;
    assert_eq!((code, &answer["pool_status"]), (200, &json!("cancelled")));
    pool.finished(&first).await;
    let status = status_is(&pool, &second, "cancelled").await;
    assert!(status["completed_at"].is_number() && status["attempts"] == 0, "{status}");
    assert_eq!(standin.ran().len(), 1);
}

#[tokio::test]
async fn cancelled_running_job_holds_its_slot_until_the_worker_is_done() {
    let (standin, pool) = pool_of(Quirks::tame(), 1, "").await;
    let job = pool.run(&["run_ms=1500"]).await;
    status_is(&pool, &job, "running").await;
    for _ in 0..2 {
        assert_eq!(post(&pool, &format!("/cancel/{job}"), &json!({})).await.0, 200);
    }
    status_is(&pool, &job, "cancelled").await;
    pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 1).await;
    pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
    status_is(&pool, &job, "cancelled").await;
}

#[tokio::test]
async fn completed_job_can_neither_be_cancelled_nor_retried() {
    let (_standin, pool) = pool_of(Quirks::tame(), 1, "").await;
    let job = pool.complete(&[]).await;
    for wish in ["cancel", "retry"] {
        let (code, answer) = post(&pool, &format!("/{wish}/{job}"), &json!({})).await;
        assert_eq!((code, &answer["code"]), (409, &json!("wrong_state")), "{wish}");
        let unknown = format!("/{wish}/pool-0123456789abcdef");
        assert_eq!(post(&pool, &unknown, &json!({})).await.0, 404);
    }
}

#[tokio::test]
async fn failed_job_is_retried_with_the_same_payload_after_a_kill() {
    let (standin, mut pool) = pool_of(Quirks::tame(), 1, "").await;
    let job = pool.run(&["exit=3"]).await;
    pool.failed(&job, "job_failed").await;
    pool.kill9().await;
    pool.restart().await;
    assert_eq!(post(&pool, &format!("/retry/{job}"), &json!({})).await.0, 200);
    let status = pool.wait_until(&job, |status| status["attempts"] == 2, SOON).await;
    assert_eq!(status["job_id"], json!(job));
    pool.failed(&job, "job_failed").await;
    let sent = standin.submissions();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].files[0].sha256, sent[1].files[0].sha256);
}

#[tokio::test]
async fn unanswered_job_runs_again_where_the_policy_says_so() {
    let (standin, pool) = pool_of(Quirks::tame(), 1, "on_unknown: retry\n").await;
    standin.fail("POST /submit", 1, Fault::CloseBeforeTaking);
    let job = pool.run(&[]).await;
    let status = status_is(&pool, &job, "completed").await;
    assert_eq!((&status["attempts"], standin.ran().len()), (&json!(2), 1));
}

#[tokio::test]
async fn job_that_waits_for_too_long_fails() {
    let (_standin, pool) = pool_of(Quirks::tame(), 1, "queue_timeout: 1s\n").await;
    let first = pool.run(&["run_ms=4000"]).await;
    let second = pool.run(&[]).await;
    pool.failed(&second, "deadline_exceeded").await;
    status_is(&pool, &first, "running").await;
}

#[tokio::test]
async fn waiting_job_says_its_place_and_why() {
    let (_standin, pool) = pool_of(Quirks::tame(), 1, "").await;
    pool.run(&["run_ms=1500"]).await;
    pool.run(&[]).await;
    let last = pool.run(&[]).await;
    let waits = |status: &Value| status["queue_position"] == 1;
    let status = pool.wait_until(&last, waits, SOON).await;
    assert_eq!(status["reason"], "1 healthy worker, at its limit");
}

#[tokio::test]
async fn drained_worker_gets_no_more_jobs_whatever_is_restarted() {
    let (standin, mut pool) = pool_of(Quirks::tame(), 1, "").await;
    let id = standin.worker_id().replace('+', "-").replace('/', "_");
    let (code, answer) = post(&pool, &format!("/workers/{id}/drain"), &json!({"reason": "new disk"})).await;
    assert_eq!((code, &answer["draining"]), (200, &json!(true)));
    pool.kill9().await;
    pool.restart().await;
    pool.healthy(1).await;
    let worker = pool.worker_until(standin.worker_id(), |worker| worker["draining"].is_object()).await;
    assert_eq!(worker["draining"]["reason"], "new disk");
    let job = pool.run(&[]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        (status_is(&pool, &job, "queued").await["attempts"].as_u64(), standin.ran().len()),
        (Some(0), 0)
    );
    assert_eq!(post(&pool, &format!("/workers/{id}/resume"), &json!({})).await.0, 200);
    pool.finished(&job).await;
}

#[tokio::test]
async fn full_queue_refuses_jobs_and_answers_reads() {
    let (_standin, pool) = pool_of(Quirks::tame(), 1, "max_queued_jobs: 1\n").await;
    let first = pool.run(&["run_ms=2000"]).await;
    status_is(&pool, &first, "running").await;
    let second = pool.run(&[]).await;
    let manifest = json!({"entrypoint": "main.py"});
    let answer = pool.call(bodies::form(&[("main.py", b"pass")], Some(&manifest.to_string()))).await;
    assert_eq!((answer.status(), &answer.json()["code"]), (503, &json!("queue_full")));
    assert!(answer.head.header("Retry-After").is_some());
    status_is(&pool, &second, "queued").await;
}

#[tokio::test]
async fn job_that_no_listed_worker_could_run_is_refused() {
    let (_standin, pool) = pool_of(Quirks::tame(), 1, "").await;
    let manifest = json!({"entrypoint": "main.py", "requires": {"gpu": "a100"}});
    let answer = pool.call(bodies::form(&[("main.py", b"pass")], Some(&manifest.to_string()))).await;
    assert_eq!((answer.status(), &answer.json()["field"]), (400, &json!("manifest.requires")));
}

#[tokio::test]
async fn worker_that_takes_two_at_once_is_not_asked_for_more_again_and_again() {
    let limiter = Quirks::real().limiter;
    let (standin, pool) = pool_of(Quirks { limiter, ..Quirks::tame() }, 6, "").await;
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(pool.run(&["run_ms=300"]).await);
    }
    for job in &jobs {
        status_is(&pool, job, "completed").await;
    }
    let refusals = standin.seen("POST /submit").len() - standin.ran().len();
    assert!(refusals < 12, "{refusals}");
}

#[tokio::test]
async fn head_of_an_output_needs_no_head_of_the_worker() {
    let (_standin, pool) = pool_of(Quirks::brisk(), 1, "").await;
    let job = pool.complete(&["out=a.txt:hello"]).await;
    let answer = pool.call(Call::new("HEAD", &format!("/outputs/{job}/a.txt"))).await;
    assert_eq!((answer.status(), answer.head.header("Content-Length")), (200, Some("5")));
}

#[tokio::test]
async fn payloads_kept_for_a_retry_give_way_to_new_uploads() {
    let (_standin, pool) = pool_of(Quirks::tame(), 1, "max_spool_bytes: 1MiB").await;
    let payload = vec![b'x'; 200_000];
    let manifest = json!({"entrypoint": "main.py", "args": ["exit=1"]});
    let mut jobs = Vec::new();
    for _ in 0..12 {
        let call = bodies::form(&[("main.py", &payload)], Some(&manifest.to_string()));
        let answer = crate::harness::eventually("there is room", SOON, async || {
            Some(pool.call(call.clone()).await).filter(|answer| answer.status() == 200)
        });
        jobs.push(answer.await.json()["job_id"].as_str().unwrap().to_owned());
        pool.finished(&jobs[jobs.len() - 1]).await;
    }
    assert_eq!(post(&pool, &format!("/retry/{}", jobs[0]), &json!({})).await.0, 410);
    assert_eq!(post(&pool, &format!("/retry/{}", jobs[11]), &json!({})).await.0, 200);
}
