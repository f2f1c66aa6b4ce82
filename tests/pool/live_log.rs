//! A job's log while the job writes it, through the pool, with the package's own worker.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::{Pool, SOON, command, eventually};
use crate::standin::{Quirks, Standin};
use crate::wire::{Call, Wire};
use crate::worker::Worker;

async fn pool_with_a_worker(capacity: u32) -> (Worker, Pool) {
    let worker = Worker::start(capacity).await;
    let pool = Pool::start(&[worker.entry()], "").await;
    pool.healthy(1).await;
    (worker, pool)
}

async fn run(pool: &Pool, script: &str) -> String {
    let manifest = json!({"entrypoint": "run.sh", "interpreter": "sh"});
    pool.submit(&[("run.sh", script.as_bytes())], &manifest).await
}

/// Lets a job go on that waits for a file.
fn let_go(worker: &Worker) {
    for job in std::fs::read_dir(worker.data().join("jobs")).expect("jobs").flatten() {
        std::fs::write(job.path().join("work/go"), "").expect("a job's directory");
    }
}

const WAITS: &str = "while [ ! -e go ]; do sleep 0.02; done;";

fn follow(job: &str, last: &str) -> Call {
    let call = Call::get(&format!("/logs/{job}?follow=1"));
    if last.is_empty() { call } else { call.header("Last-Event-ID", last) }
}

/// The events of a whole answer: name, id and data.
fn events(text: &str) -> Vec<(String, String, Value)> {
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default().to_owned()
    };
    let events = text.split("\n\n").filter(|event| event.contains("event: "));
    events
        .map(|event| {
            let data = serde_json::from_str(&field(event, "data")).expect("JSON");
            (field(event, "event"), field(event, "id"), data)
        })
        .collect()
}

/// Everything that is said of a stream.
fn told(text: &str, stream: &str) -> String {
    let events = events(text).into_iter().filter(|(name, _, _)| name == stream);
    events.map(|(_, _, data)| data.as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn log_comes_through_the_pool_within_100_milliseconds_of_the_write() {
    let (_worker, pool) = pool_with_a_worker(1).await;
    let job = run(&pool, "for i in 1 2 3 4 5 6 7 8 9 10 11; do date +%s%N; sleep 0.1; done").await;
    let mut wire = Wire::connect(pool.address()).await.expect("a connection");
    wire.write(&follow(&job, "").to_bytes()).await.expect("a request");
    let head = wire.read_head().await.expect("a head");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let mut lags = Vec::new();
    let ended = wire
        .read_body(&head, "GET", |bytes| {
            let now = SystemTime::UNIX_EPOCH.elapsed().expect("a time");
            for (_, _, data) in
                events(&String::from_utf8_lossy(bytes)).iter().filter(|(name, _, _)| name == "stdout")
            {
                let written =
                    data.as_str().and_then(|text| text.trim().parse().ok()).map(Duration::from_nanos);
                // What was written before the request was there says nothing.
                lags.extend(written.map(|written| now.saturating_sub(written)));
            }
        })
        .await;
    assert_eq!(ended, crate::wire::Ended::Whole);
    assert!(lags.len() > 5, "{lags:?}");
    lags.sort();
    // The middle one, because this machine does other things too.
    assert!(lags[lags.len() / 2] < Duration::from_millis(100), "{lags:?}");
}

#[tokio::test]
async fn log_is_the_same_from_the_worker_and_from_the_store_and_goes_on_where_a_client_left_it() {
    let (worker, pool) = pool_with_a_worker(1).await;
    let job = run(&pool, &format!("echo \"é \\\"1\"; {WAITS} echo two >&2; echo three")).await;
    let (live, ()) = tokio::join!(pool.call(follow(&job, "")), async {
        let begun = async || (pool.get(&format!("/logs/{job}")).await.json()["stdout"] != "").then_some(());
        eventually("the job runs", SOON, begun).await;
        let_go(&worker);
    });
    pool.finished(&job).await;
    let kept = pool.call(follow(&job, "")).await;
    for answer in [&live, &kept] {
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(told(&answer.text(), "stdout"), "é \"1\nthree\n");
        assert_eq!(told(&answer.text(), "stderr"), "two\n");
        let (name, id, status) = events(&answer.text()).pop().expect("an event");
        assert_eq!((name.as_str(), id.as_str(), status), ("end", "12-4", json!("completed")));
    }
    let rest = pool.call(follow(&job, "6-4")).await.text();
    assert_eq!((told(&rest, "stdout"), told(&rest, "stderr")), ("three\n".to_owned(), String::new()));
    assert_eq!(pool.call(follow(&job, "seven")).await.expect(400)["code"], "bad_request");
    assert_eq!(pool.call(follow("pool-abababababababababababab", "")).await.status(), 404);
}

#[tokio::test]
async fn log_of_a_waiting_job_is_waited_for() {
    let (worker, pool) = pool_with_a_worker(1).await;
    let first = run(&pool, WAITS).await;
    pool.wait_until(&first, |status| status["pool_status"] == "running", SOON).await;
    let second = run(&pool, "echo second").await;
    let (log, ()) = tokio::join!(pool.call(follow(&second, "")), async {
        assert_eq!(pool.status(&second).await["pool_status"], "queued");
        let_go(&worker);
    });
    assert_eq!(told(&log.text(), "stdout"), "second\n");
}

#[tokio::test]
async fn log_of_a_job_on_a_worker_that_tells_none_live_is_refused_with_what_to_do() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let job = pool.run(&["run_ms=3000", "stdout=done"]).await;
    let refused = pool.call(follow(&job, "")).await.expect(409);
    assert_eq!(refused["code"], "not_finished");
    assert!(refused["error"].as_str().is_some_and(|text| text.contains("/logs/")), "{refused}");
    pool.finished(&job).await;
    assert_eq!(told(&pool.call(follow(&job, "")).await.text(), "stdout"), "done");
}

#[tokio::test]
async fn logs_command_follows_a_job_to_its_end() {
    let (worker, pool) = pool_with_a_worker(1).await;
    let job = run(&pool, &format!("echo first; {WAITS} echo error >&2; echo last")).await;
    let mut command = command(&["logs", "-f", &job, "--pool", &pool.url()]);
    let mut logs = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
    let mut lines = BufReader::new(logs.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("first"));
    let_go(&worker);
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("last"));
    assert_eq!(lines.next_line().await.expect("an end"), None);
    let output = logs.wait_with_output().await.expect("an end");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error\n");
}
