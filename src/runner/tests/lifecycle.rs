//! Slots, keys, expiry and stopping.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Part, TestWorker, sandbox, submission};
use crate::runner::sandbox::Sandbox;
use crate::runner::server::Stop;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A job that runs until it is let go.
const WAITS: &str = "while [ ! -e go ]; do sleep 0.02; done";

fn let_go(worker: &TestWorker, id: &str) {
    std::fs::write(worker.data.path().join(format!("data/jobs/{id}")).join("work").join("go"), "").unwrap();
}

#[tokio::test]
async fn busy_worker_refuses_and_still_answers() {
    let worker = TestWorker::start(2).await;
    let first = worker.run(WAITS, "{}").await;
    let second = worker.run(WAITS, "{}").await;
    let refused = worker.submit(&[Part::file("run.sh", b"")], "").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.json()["error"].as_str().unwrap().contains("All 2 job slots"));

    assert_eq!(worker.get(&format!("/status/{first}")).await.json()["status"], "running");
    assert_eq!(worker.get(&format!("/logs/{first}")).await.status, 200);
    assert_eq!(worker.get(&format!("/outputs/{first}")).await.json()["status"], "running");
    assert_eq!(worker.get(&format!("/status/{first}?wait=1")).await.json()["status"], "running");
    assert_eq!(worker.get("/health").await.json()["active"], 2);

    let_go(&worker, &first);
    worker.end(&first).await;
    // Who has heard of the end finds the slot free.
    worker.run("true", "{}").await;
    let_go(&worker, &second);
    worker.end(&second).await;
}

#[tokio::test]
async fn same_key_is_the_same_job_and_runs_once() {
    let worker = TestWorker::start(1).await;
    let parts = [Part::file("run.sh", b"echo ran >> count; cat count")];
    let key = "Idempotency-Key: a+b c\r\n";
    assert_eq!(worker.get("/jobs?key=a%2Bb%20c").await.json()["jobs"], json!([]));
    let id = worker.submit(&parts, key).await.json()["job_id"].clone();
    worker.end(id.as_str().unwrap()).await;
    let again = worker.submit(&parts, key).await;
    assert_eq!((again.status, again.json()), (200, json!({ "job_id": id, "status": "completed" })));
    let known = json!([{ "job_id": id, "status": "completed" }]);
    assert_eq!(worker.get("/jobs?key=a%2Bb%20c").await.json()["jobs"], known);
    assert_eq!(worker.get("/jobs").await.json()["jobs"], known);
    assert_eq!(worker.get("/stats").await.json()["jobs"]["completed"], 1);
}

#[tokio::test]
async fn key_is_taken_while_its_upload_lasts_and_free_when_it_breaks_off() {
    let worker = TestWorker::start(2).await;
    let request = submission(&[Part::file("run.sh", b"echo")], "Idempotency-Key: k\r\n");
    let mut half = TcpStream::connect(worker.address).await.unwrap();
    half.write_all(&request[..request.len() - 10]).await.unwrap();
    while worker.get("/health").await.json()["active"] == 0 {}
    let during = worker.send(&request).await;
    assert_eq!((during.status, during.header("retry-after")), (409, Some("1")));
    // It may become a job: whoever took it for absent might run it elsewhere.
    assert_eq!(worker.get("/jobs?key=k").await.status, 409);

    drop(half);
    while worker.get("/health").await.json()["active"] == 1 {}
    assert_eq!(worker.get("/jobs?key=k").await.json()["jobs"], json!([]));
    assert_eq!(worker.send(&request).await.status, 200);
}

#[tokio::test]
async fn refusal_of_an_expected_upload_comes_before_it_is_sent() {
    let worker = TestWorker::start(1).await;
    let id = worker.run(WAITS, "{}").await;
    let request = submission(&[Part::file("run.sh", b"echo")], "Expect: 100-continue\r\n");
    let head = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut connection = TcpStream::connect(worker.address).await.unwrap();
    connection.write_all(&request[..head]).await.unwrap();
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    let_go(&worker, &id);
}

#[tokio::test]
async fn finished_job_is_forgotten_with_its_files() {
    let worker = TestWorker::with(1, sandbox(), Duration::from_millis(100)).await;
    let before = std::time::Instant::now();
    let id = worker.run("true", "{}").await;
    let dir = worker.data.path().join("data/jobs").join(&id);
    while worker.get(&format!("/status/{id}")).await.status == 200 {}
    while dir.exists() {
        tokio::task::yield_now().await;
    }
    let listed = worker.get("/jobs").await.json();
    assert_eq!(listed["jobs"], json!([]));
    assert!(listed["remembers_seconds"].as_f64().unwrap() < before.elapsed().as_secs_f64());
}

#[tokio::test]
async fn draining_worker_takes_nothing_and_finishes_what_runs() {
    let worker = TestWorker::start(2).await;
    let id = worker.run(WAITS, "{}").await;
    worker.stop.send(Stop::Drain).await.unwrap();
    // The word may arrive a moment after the first of these.
    while !worker.submit(&[Part::file("run.sh", b"")], "").await.text().contains("stopping") {}
    let_go(&worker, &id);
    assert_eq!(worker.end(&id).await["status"], "completed");
    worker.serving.await.unwrap().unwrap();
}

/// Whether a process runs whose command line mentions this worker's data directory.
fn process_is_left(worker: &TestWorker) -> bool {
    let data = worker.data.path().display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(&data))
}

#[tokio::test]
async fn job_killed_while_it_starts_leaves_no_process() {
    for _ in 0..10 {
        let mut worker = TestWorker::start(1).await;
        worker.run("sleep 600", "{}").await;
        worker.stop.send(Stop::Now).await.unwrap();
        (&mut worker.serving).await.unwrap().unwrap();
        assert!(!process_is_left(&worker));
    }
}

#[tokio::test]
async fn interrupted_worker_kills_its_jobs_and_says_so() {
    let worker = TestWorker::start(1).await;
    let id = worker.run("sleep 600", "{}").await;
    let (status, ()) = tokio::join!(worker.end(&id), async { worker.stop.send(Stop::Now).await.unwrap() });
    assert_eq!((&status["status"], &status["reason"]), (&json!("failed"), &json!("worker_stopped")));
    worker.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn cancelled_job_ends_soon_and_leaves_its_slot() {
    for (sandbox, script) in [
        (sandbox(), "sleep 60"),
        (sandbox(), "trap '' TERM; sleep 60"),
        (Sandbox::None, "sleep 60"),
        // Deaf to the request, so that it takes the whole grace.
        (Sandbox::None, "trap '' TERM; sleep 60"),
    ] {
        let worker = TestWorker::with(1, sandbox, Duration::from_secs(60)).await;
        let id = worker.run(&format!("echo ready; {script}"), "{}").await;
        while worker.get(&format!("/logs/{id}")).await.json()["stdout"] != "ready\n" {}
        let since = Instant::now();
        let answer = worker.request("POST", &format!("/cancel/{id}"), "").await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "job_id": id, "status": "running" })));

        let status = worker.end(&id).await;
        assert!(since.elapsed() < Duration::from_secs(3), "{script}: {:?}", since.elapsed());
        assert_eq!((&status["status"], &status["reason"]), (&json!("failed"), &json!("cancelled")));
        assert_eq!(worker.get("/health").await.json()["active"], 0);
        let next = worker.run("true", "{}").await;
        assert_eq!(worker.end(&next).await["status"], "completed");
        assert!(!process_is_left(&worker));
    }
}

#[tokio::test]
async fn cancelled_job_is_asked_before_it_is_killed() {
    for sandbox in [sandbox(), Sandbox::None] {
        let worker = TestWorker::with(1, sandbox, Duration::from_secs(60)).await;
        let id = worker.run("trap 'echo asked; exit 0' TERM; echo ready; sleep 60 & wait", "{}").await;
        while worker.get(&format!("/logs/{id}")).await.json()["stdout"] != "ready\n" {}
        worker.request("POST", &format!("/cancel/{id}"), "").await;
        assert_eq!(worker.end(&id).await["reason"], "cancelled");
        assert_eq!(worker.get(&format!("/logs/{id}")).await.json()["stdout"], "ready\nasked\n");
    }
}

#[tokio::test]
async fn cancelling_what_has_ended_changes_nothing_and_unknown_jobs_are_not_found() {
    let worker = TestWorker::start(1).await;
    let id = worker.run("true", "{}").await;
    let before = worker.end(&id).await;
    let answer = worker.request("POST", &format!("/cancel/{id}"), "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "job_id": id, "status": "completed" })));
    assert_eq!(worker.end(&id).await, before);
    let unknown = worker.request("POST", "/cancel/job_1_1", "").await;
    assert_eq!((unknown.status, unknown.json()), (404, json!({ "error": "Job not found" })));
}
