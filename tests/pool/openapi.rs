//! The description of the API is true: every kind of answer is given, and held against what `/openapi.json` says of it.

mod described;
mod manifest;

use std::fs::File;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

use crate::bodies::form;
use crate::harness::{Pool, SOON, command, eventually, nobody, serve, write_config};
use crate::standin::{Quirks, Standin};
use crate::wire::{Answer, Call, Ended, Wire};
use crate::worker::Worker;
use described::Described;

const MANIFEST: &str = r#"{"entrypoint": "main.py"}"#;

/// An id that no job has.
const NO_JOB: &str = "pool-000000000000000000000000";

/// A pool, and what it says of itself.
struct Pair<'a> {
    pool: &'a Pool,
    described: &'a Described,
}

impl Pair<'_> {
    /// Makes a call, named as it is described, with `{job}` and so on in their places, and holds its answer against the description.
    async fn ask(&self, name: &str, call: Call, status: u16) -> Answer {
        let answer = self.pool.call(call).await;
        self.described.holds(name, &answer);
        assert_eq!(answer.status(), status, "{name}: {}", answer.text());
        answer
    }

    /// A call about a job.
    async fn of_job(&self, name: &str, job: &str, status: u16) -> Answer {
        let (method, path) = name.split_once(' ').expect("a method and a path");
        let target = path.replace("{job}", job).replace("{path}", "r/out.txt");
        let call = if method == "POST" { Call::post(&target, "") } else { Call::get(&target) };
        self.ask(name, call, status).await
    }

    /// A call about a job, with a header.
    async fn with(&self, name: &str, job: &str, header: (&str, &str), status: u16) -> Answer {
        let target = name.trim_start_matches("GET ").replace("{job}", job).replace("{path}", "r/out.txt");
        self.ask(name, Call::get(&target).header(header.0, header.1), status).await
    }
}

fn submission(args: &[&str]) -> Call {
    let manifest = json!({"entrypoint": "main.py", "args": args}).to_string();
    form(&[("main.py", b"print(1)")], Some(&manifest))
}

fn code(answer: &Answer) -> String {
    answer.json()["code"].as_str().expect("a code").to_owned()
}

fn url_safe(worker_id: &str) -> String {
    worker_id.replace('+', "-").replace('/', "_")
}

#[tokio::test]
async fn every_answer_is_as_it_is_described_and_every_property_is_seen() {
    let described = Described::default();
    pool_of_itself(&described).await;
    jobs_from_begin_to_end(&described).await;
    outputs_kept(&described).await;
    workers_that_fail(&described).await;
    runs_of_our_worker(&described).await;
    who_may(&described).await;
    not_yet_ready(&described).await;
    described.is_true();
}

/// What needs no job: the pool itself, and what is wrong with a request whatever it asks for.
async fn pool_of_itself(described: &Described) {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1), nobody()], "max_upload: 20KiB").await;
    described.read(&pool).await;
    let pair = Pair { pool: &pool, described };
    for name in ["GET /", "GET /health", "GET /ready", "GET /pool", "GET /jobs", "GET /metrics"] {
        let path = &name["GET ".len()..];
        pair.ask(name, Call::get(path), 200).await;
        pair.ask(name, Call::with_body("GET", path, "x"), 400).await;
        pair.ask(name, Call::get(&format!("{path}?{}", "x".repeat(17 << 10))), 414).await;
        pair.ask(name, Call::get(path).header("X-Long", &"x".repeat(21 << 10)), 431).await;
    }
    let answer = pair.ask("GET /openapi.json", Call::get("/openapi.json"), 200).await;
    let tag = answer.head.header("ETag").expect("a tag").to_owned();
    pair.ask("GET /openapi.json", Call::get("/openapi.json").header("If-None-Match", &tag), 304).await;
    for query in
        ["limit=1", "cursor=1", "status=queued", &format!("worker={}", url_safe(standin.worker_id()))]
    {
        pair.ask("GET /jobs", Call::get(&format!("/jobs?{query}")), 200).await;
    }
    for query in ["limit=0", "limit=1001", "cursor=x", "status=gone", "worker=x", "other=1"] {
        pair.ask("GET /jobs", Call::get(&format!("/jobs?{query}")), 400).await;
    }
    let (drain, resume) = ("POST /workers/{worker_id}/drain", "POST /workers/{worker_id}/resume");
    let path = format!("/workers/{}", url_safe(standin.worker_id()));
    for (body, status) in [
        ("", 200),
        (r#"{"reason":null}"#, 200),
        ("{}", 200),
        (r#"{"reason":"new disk"}"#, 200),
        ("{", 400),
        (r#"{"why":1}"#, 400),
    ] {
        pair.ask(drain, Call::post(&format!("{path}/drain"), body), status).await;
    }
    pair.ask(drain, Call::post(&format!("{path}/drain"), "x".repeat(9000)), 413).await;
    pair.ask("GET /pool", Call::get("/pool"), 200).await;
    pair.ask(resume, Call::post(&format!("{path}/resume"), ""), 200).await;
    pair.ask(drain, Call::post("/workers/x/drain", ""), 404).await;
    pair.ask(resume, Call::post("/workers/x/resume", ""), 404).await;
    let submit = "POST /submit";
    pair.ask(submit, form(&[("main.py", b"1")], None), 400).await;
    pair.ask(submit, form(&[("main.py", &[0; 30 << 10])], Some(MANIFEST)), 413).await;
    let keyed = |content: &[u8]| form(&[("main.py", content)], Some(MANIFEST)).header("Idempotency-Key", "k");
    pair.ask(submit, keyed(b"1"), 200).await;
    pair.ask(submit, keyed(b"2"), 409).await;
    // Said of all paths: what is there, and what it takes.
    for (call, status, word) in
        [(Call::get("/nothing"), 404, "not_found"), (Call::new("DELETE", "/pool"), 405, "method_not_allowed")]
    {
        let answer = pool.call(call).await;
        assert_eq!((answer.status(), code(&answer).as_str()), (status, word));
        described.is_problem(&answer);
    }
}

/// Calls about one job, as the description names them.
const OF_JOB: [&str; 9] = [
    "GET /status/{job}",
    "GET /logs/{job}",
    "GET /outputs/{job}",
    "GET /outputs/{job}/{path}",
    "GET /download/{job}/{path}",
    "GET /download/{job}",
    "GET /receipt/{job}",
    "POST /cancel/{job}",
    "POST /retry/{job}",
];

/// A job that waits, one that runs, and how they end.
async fn jobs_from_begin_to_end(described: &Described) {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "history: {max_log_bytes: 1KiB}").await;
    let pair = Pair { pool: &pool, described };
    for name in OF_JOB {
        pair.of_job(name, NO_JOB, 404).await;
    }
    let running = pool.run(&["run_ms=5000"]).await;
    pool.wait_until(&running, |status| status["pool_status"] == "running", SOON).await;
    let waiting = pool.run(&[]).await;
    for (name, status) in OF_JOB.into_iter().zip([200, 200, 200, 409, 409, 409, 409]) {
        pair.of_job(name, &waiting, status).await;
    }
    for (name, status) in OF_JOB.into_iter().zip([200, 200, 200, 404, 404, 409, 409]) {
        pair.of_job(name, &running, status).await;
    }
    let stream = |job: &str| Call::get(&format!("/stream/{job}"));
    pair.ask("GET /stream/{job}", stream(&running), 400).await;
    pair.ask("GET /stream/{job}", websocket(&waiting), 409).await;
    pair.ask("GET /stream/{job}", websocket(NO_JOB), 404).await;
    let mut wire = Wire::connect(pool.address()).await.expect("a connection");
    wire.write(&websocket(&running).to_bytes()).await.expect("a request");
    let head = wire.read_head().await.expect("a head");
    assert_eq!(head.status, 101);
    described.holds("GET /stream/{job}", &Answer { head, body: Vec::new(), ended: Ended::Whole });
    pair.ask("GET /jobs", Call::get("/jobs"), 200).await;
    pair.of_job("POST /retry/{job}", &running, 409).await;
    for job in [&running, &waiting] {
        pair.of_job("POST /cancel/{job}", job, 200).await;
    }
    pair.of_job("POST /retry/{job}", &waiting, 200).await;
    let failed = pool.run(&["exit=3", &format!("stdout={}", "x".repeat(3000))]).await;
    pool.failed(&failed, "job_failed").await;
    pair.of_job("POST /cancel/{job}", &failed, 409).await;
    for name in ["GET /status/{job}", "GET /logs/{job}", "GET /outputs/{job}"] {
        pair.of_job(name, &failed, 200).await;
    }
    assert_eq!(code(&pair.of_job("GET /receipt/{job}", &failed, 404).await), "unverifiable");
    pair.ask("GET /jobs", Call::get("/jobs"), 200).await;
}

fn websocket(job: &str) -> Call {
    Call::get(&format!("/stream/{job}"))
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Protocol", "trusted-pool")
}

/// Files, in parts and under conditions.
async fn outputs_kept(described: &Described) {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "outputs: {max_job_bytes: 2KiB}").await;
    let pair = Pair { pool: &pool, described };
    let job = pool.complete(&["out=r/out.txt:0123456789", "stdout=hello"]).await;
    pool.wait_until(&job, |status| status["outputs"] == "kept", SOON).await;
    for name in ["GET /outputs/{job}/{path}", "GET /download/{job}/{path}"] {
        let tag = pair.of_job(name, &job, 200).await.head.header("ETag").expect("a tag").to_owned();
        pair.with(name, &job, ("Range", "bytes=2-5"), 206).await;
        pair.with(name, &job, ("Range", "bytes=99-"), 416).await;
        pair.with(name, &job, ("If-None-Match", &tag), 304).await;
        pair.with(name, &job, ("If-Match", "\"other\""), 412).await;
        let path = &name["GET ".len()..name.len() - "{path}".len()].replace("{job}", &job);
        // A generated client encodes the slash.
        assert_eq!(pair.ask(name, Call::get(&format!("{path}r%2Fout.txt")), 200).await.text(), "0123456789");
        assert_eq!(code(&pair.ask(name, Call::get(&format!("{path}none")), 404).await), "output_not_found");
        pair.ask(name, Call::get(&format!("{path}a/../b")), 400).await;
    }
    for name in OF_JOB.into_iter().filter(|name| name.starts_with("GET")) {
        let status = if name == "GET /receipt/{job}" { 404 } else { 200 };
        pair.of_job(name, &job, status).await;
    }
    pair.ask("GET /logs/{job}", Call::get(&format!("/logs/{job}?follow=1")), 200).await;
    pair.ask(
        "GET /logs/{job}",
        Call::get(&format!("/logs/{job}?follow=1")).header("Last-Event-ID", "x"),
        400,
    )
    .await;
    let large = pool.complete(&["big=r/out.txt:5000"]).await;
    pool.wait_until(&large, |status| status["outputs_reason"].is_string(), SOON).await;
    for name in ["GET /status/{job}", "GET /outputs/{job}/{path}"] {
        pair.of_job(name, &large, 200).await;
    }
    pair.of_job("POST /retry/{job}", &job, 409).await;
}

/// A worker that is silent while it runs a job, forgets it, and goes away.
async fn workers_that_fail(described: &Described) {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "outputs: {keep: 0s}\nstatus_timeout: 200ms").await;
    let pair = Pair { pool: &pool, described };
    let job = pool.complete(&["out=r/out.txt:x"]).await;
    let busy = pool.run(&["run_ms=5000"]).await;
    eventually("it runs", SOON, async || (standin.ran().len() == 2).then_some(())).await;
    for name in ["GET /logs/{job}", "GET /outputs/{job}"] {
        assert_eq!(code(&pair.of_job(name, &busy, 503).await), "worker_busy");
    }
    pair.of_job("GET /status/{job}", &busy, 200).await;
    pair.ask("GET /logs/{job}", Call::get(&format!("/logs/{busy}?follow=1")), 409).await;
    pool.finished(&busy).await;
    let files = ["GET /outputs/{job}/{path}", "GET /download/{job}/{path}", "GET /download/{job}"];
    standin.restart().await;
    for name in files {
        assert_eq!(code(&pair.of_job(name, &job, 410).await), "output_expired");
    }
    standin.stop().await;
    for name in files {
        assert_eq!(code(&pair.of_job(name, &job, 502).await), "worker_unreachable");
    }
}

/// What only the worker of this package says.
async fn runs_of_our_worker(described: &Described) {
    let worker = Worker::start(1).await;
    let pool = Pool::start(&[worker.entry()], "").await;
    let pair = Pair { pool: &pool, described };
    let script = b"mkdir r; echo hello; echo out > r/out.txt";
    let manifest = json!({"entrypoint": "run.sh", "interpreter": "sh", "outputs": ["r/"]});
    let job = pool.submit(&[("run.sh", script)], &manifest).await;
    pair.ask("GET /logs/{job}", Call::get(&format!("/logs/{job}?follow=1")), 200).await;
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
    for name in OF_JOB.into_iter().filter(|name| name.starts_with("GET")) {
        pair.of_job(name, &job, 200).await;
    }
}

/// A pool with tokens: who is let in to what, and how often.
async fn who_may(described: &Described) {
    let limits = "auth: tokens\nclient_limits: {queued_jobs: 1, requests_per_second: 20}";
    let pool = Pool::start(&[nobody()], limits).await;
    let pair = Pair { pool: &pool, described };
    let data = pool.data();
    let args = ["token", "new", "--name", "ci", "--data", data.to_str().expect("UTF-8"), "--role"];
    let token = async |role| {
        let output = command(&[&args[..], &[role]].concat()).output().await.expect("the binary runs");
        let token = String::from_utf8(output.stdout).expect("text").trim().to_owned();
        let bearer = format!("Bearer {token}");
        let call = || Call::get("/pool").header("Authorization", &bearer);
        eventually("the token is known", SOON, async || {
            (pool.call(call()).await.status() == 200).then_some(())
        })
        .await;
        bearer
    };
    let (read, submit) = (token("read").await, token("submit").await);
    for (name, call) in guarded() {
        assert!(pair.ask(&name, call, 401).await.head.header("WWW-Authenticate").is_some(), "{name}");
    }
    for (name, call) in
        guarded().into_iter().filter(|(name, _)| name.starts_with("POST") && !name.contains("{job}"))
    {
        pair.ask(&name, call.header("Authorization", &read), 403).await;
    }
    let mine = |call: Call| call.header("Authorization", &submit);
    let job = pair.ask("POST /submit", mine(submission(&[])), 200).await.json()["job_id"].clone();
    assert_eq!(code(&pair.ask("POST /submit", mine(submission(&[])), 429).await), "client_queue_full");
    let job = job.as_str().expect("an id");
    let status = pair.ask("GET /status/{job}", mine(Call::get(&format!("/status/{job}"))), 200).await.json();
    assert_eq!(status["client"], "ci");
    pair.ask("GET /jobs", mine(Call::get("/jobs")), 200).await;
    let many = (0..100).map(|_| pool.call(mine(Call::get("/pool"))));
    let limited = join_all(many).await.into_iter().find(|answer| answer.status() == 429);
    described.holds("GET /pool", &limited.expect("it is told to wait"));
    // What says nothing of anybody needs no token.
    for path in ["/", "/health", "/ready", "/openapi.json"] {
        pair.ask(&format!("GET {path}"), Call::get(path), 200).await;
    }
}

/// Every call that needs a token where any does.
fn guarded() -> Vec<(String, Call)> {
    let mut calls: Vec<(String, Call)> = Vec::new();
    let worker = url_safe(nobody()["worker_id"].as_str().expect("an id"));
    for name in OF_JOB.into_iter().chain([
        "GET /metrics",
        "GET /stream/{job}",
        "GET /jobs",
        "GET /pool",
        "POST /workers/{worker_id}/drain",
        "POST /workers/{worker_id}/resume",
    ]) {
        let (method, path) = name.split_once(' ').expect("a method and a path");
        let target = path.replace("{job}", NO_JOB).replace("{path}", "a").replace("{worker_id}", &worker);
        calls.push((
            name.to_owned(),
            if method == "POST" { Call::post(&target, "") } else { Call::get(&target) },
        ));
    }
    calls.push(("POST /submit".to_owned(), submission(&[])));
    calls
}

/// A pool that has not heard of its only worker yet.
async fn not_yet_ready(described: &Described) {
    let standin = Standin::start(Quirks::tame()).await;
    standin.stall().await;
    let dir = TempDir::new().expect("a temporary directory");
    write_config(dir.path(), &[standin.entry(1)], "health: {timeout: 1m}");
    let log = File::create(dir.path().join("stderr.log")).expect("a log file");
    let config = dir.path().join("pool.yaml");
    let command = command(&["serve", "--config", config.to_str().expect("a UTF-8 path")]);
    let (_child, address): (Child, _) = serve(command, log).await.expect("the pool starts");
    let answer = Call::get("/ready").send(address).await.expect("an answer");
    assert_eq!(answer.status(), 503);
    described.holds("GET /ready", &answer);
}

#[tokio::test]
async fn head_is_answered_as_get_is_without_the_body() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let described = Described::default();
    described.read(&pool).await;
    let job = pool.complete(&["out=r/out.txt:x"]).await;
    pool.wait_until(&job, |status| status["outputs"] == "kept", SOON).await;
    for name in described.calls().into_iter().filter(|name| name.starts_with("GET")) {
        let target = name["GET ".len()..].replace("{job}", &job).replace("{path}", "r/out.txt");
        let (get, head) = (pool.get(&target).await, pool.call(Call::new("HEAD", &target)).await);
        assert_eq!((head.status(), head.body.len()), (get.status(), 0), "{name}");
        assert_eq!(head.head.header("Content-Type"), get.head.header("Content-Type"), "{name}");
    }
}

#[tokio::test]
async fn root_lists_the_calls_that_are_described() {
    let pool = Pool::start(&[nobody()], "").await;
    let described = Described::default();
    described.read(&pool).await;
    let root = pool.get("/").await.expect(200);
    let mut listed: Vec<&str> =
        root["endpoints"].as_array().expect("calls").iter().filter_map(Value::as_str).collect();
    listed.sort_unstable();
    let calls = described.calls();
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    assert_eq!(listed, calls);
}
