//! The stand-in is held to `worker-protocol.md` here: a fault that it lost would let the pool's tests pass for nothing.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;

use super::{Content, Fault, Identity, Limiter, Plan, Quirks, Standin, TICK, pattern, pattern_sha256};
use crate::fault::{FaultProxy, Link};
use crate::wire::{Answer, Call, Ended, Wire, sha256};

const FORM: &str = "multipart/form-data; boundary=XX";

fn form(manifest: &str) -> String {
    format!(
        "--XX\r\nContent-Disposition: form-data; name=\"files\"; filename=\"main.py\"\r\n\r\nprint(1)\r\n\
         --XX\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\n{manifest}\r\n--XX--\r\n"
    )
}

fn submit(args: &str) -> Call {
    let manifest = format!(r#"{{"entrypoint":"main.py","args":[{args}]}}"#);
    Call::post("/submit", form(&manifest)).header("Content-Type", FORM)
}

async fn get(standin: &Standin, target: &str) -> Answer {
    Call::get(target).send(standin.address()).await.expect("an answer")
}

async fn accepted(standin: &Standin, args: &str) -> String {
    let answer = submit(args).send(standin.address()).await.expect("an answer").expect(200);
    answer["job_id"].as_str().expect("a job id").to_owned()
}

async fn finished(standin: &Standin, id: &str) -> Value {
    let started = Instant::now();
    loop {
        let status = get(standin, &format!("/status/{id}")).await.expect(200);
        if status["status"] == "completed" || status["status"] == "failed" {
            return status;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{status}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn job_runs_and_its_answers_have_the_documented_shape() {
    let standin = Standin::start(Quirks::brisk()).await;
    let id = accepted(&standin, r#""id=a","exit=3","stdout=hi","stderr=oh","out=r/o.txt:data""#).await;
    let status = finished(&standin, &id).await;
    assert_eq!(
        (&status["status"], &status["execution_metadata"]["exit_code"]),
        (&"failed".into(), &3.into())
    );
    assert_eq!(status["output_files"]["r/o.txt"]["sha256"], sha256(b"data"));
    let logs = get(&standin, &format!("/logs/{id}")).await.expect(200);
    assert_eq!((&logs["stdout"], &logs["stderr"]), (&"hi".into(), &"oh".into()));
    let listing = get(&standin, &format!("/outputs/{id}")).await.expect(200);
    assert_eq!(listing["files"][0]["download_url"], format!("/download/{id}/r/o.txt"));
    let file = get(&standin, &format!("/download/{id}/r/o.txt")).await;
    assert_eq!((file.text().as_str(), file.head.header("content-type")), ("data", Some("text/plain")));
    assert_eq!(standin.ran(), ["a"]);
}

#[tokio::test]
async fn real_closes_after_one_response_without_saying_so() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut wire = Wire::connect(standin.address()).await.unwrap();
    wire.write(&[Call::get("/health").to_bytes(), Call::get("/health").to_bytes()].concat()).await.unwrap();
    let (head, ended) = wire.read_answer("GET", |_| {}).await.unwrap();
    assert_eq!((head.status, ended, head.header("connection")), (200, Ended::Whole, None));
    assert_eq!(head.header("access-control-allow-origin"), Some("*"));
    assert!(wire.read_head().await.is_err());
}

#[tokio::test]
async fn tame_keeps_a_connection_for_many_requests() {
    let standin = Standin::start(Quirks::tame()).await;
    let mut wire = Wire::connect(standin.address()).await.unwrap();
    for _ in 0..2 {
        wire.write(&Call::get("/health").to_bytes()).await.unwrap();
        assert_eq!(wire.read_answer("GET", |_| {}).await.unwrap().0.status, 200);
    }
}

#[tokio::test]
async fn real_takes_a_lower_case_content_length_for_no_body() {
    let call = submit("").to_bytes();
    let lower = String::from_utf8(call).unwrap().replace("Content-Length: ", "content-length: ");
    let (head, body) = lower.split_at(lower.find("\r\n\r\n").unwrap() + 4);
    for (quirks, status) in [(Quirks::brisk(), 400), (Quirks::tame(), 200)] {
        let standin = Standin::start(quirks).await;
        let mut wire = Wire::connect(standin.address()).await.unwrap();
        wire.write(head.as_bytes()).await.unwrap();
        tokio::time::sleep(TICK).await;
        let _ = wire.write(body.as_bytes()).await;
        assert_eq!(wire.read_answer("POST", |_| {}).await.unwrap().0.status, status);
    }
}

#[tokio::test]
async fn real_does_not_find_a_lower_case_content_type_or_part_header() {
    let standin = Standin::start(Quirks::brisk()).await;
    let manifest = r#"{"entrypoint":"main.py"}"#;
    let head = Call::post("/submit", form(manifest)).header("content-type", FORM);
    let part = form(manifest).replace("Content-Disposition", "content-disposition");
    let part = Call::post("/submit", part).header("Content-Type", FORM);
    for call in [head, part] {
        let refused = call.send(standin.address()).await.unwrap().expect(400);
        assert_eq!(refused["error"], "No files uploaded");
    }
}

#[tokio::test]
async fn real_does_not_understand_chunks() {
    let body = form(r#"{"entrypoint":"main.py"}"#);
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let (first, second) = chunks.split_at(40);
    for (quirks, status) in [(Quirks::brisk(), 400), (Quirks::tame(), 200)] {
        let standin = Standin::start(quirks).await;
        let call = Call::post("/submit", first).header("Content-Type", FORM);
        let mut wire = Wire::connect(standin.address()).await.unwrap();
        wire.write(&call.header("Transfer-Encoding", "chunked").to_bytes()).await.unwrap();
        tokio::time::sleep(TICK).await;
        let _ = wire.write(second.as_bytes()).await;
        assert_eq!(wire.read_answer("POST", |_| {}).await.unwrap().0.status, status);
    }
}

#[tokio::test]
async fn real_drops_a_request_with_an_empty_header() {
    for (quirks, answered) in [(Quirks::brisk(), false), (Quirks::tame(), true)] {
        let standin = Standin::start(quirks).await;
        let answer = Call::get("/health").header("Accept", "").send(standin.address()).await;
        assert_eq!(answer.is_ok(), answered);
    }
}

#[tokio::test]
async fn real_refuses_more_than_100_mib_before_reading_it() {
    let standin = Standin::start(Quirks::brisk()).await;
    let call = Call::post("/submit", "x").header("Content-Length", "104857601");
    assert_eq!(call.header("Content-Type", FORM).send(standin.address()).await.unwrap().status(), 413);
}

#[tokio::test]
async fn real_knows_only_get_and_post() {
    let standin = Standin::start(Quirks::brisk()).await;
    let head = Call::new("PUT", "/health").send(standin.address()).await.unwrap();
    assert_eq!(head.expect(404)["error"], "Not found");
    assert_eq!(Call::new("HEAD", "/health").send(standin.address()).await.unwrap().status(), 404);
}

#[tokio::test]
async fn real_reads_the_manifest_by_substring_search() {
    let manifest = r#"{"env":{"entrypoint":"evil.py"},"entrypoint":"main.py","args":["a\"b"]}"#;
    for (quirks, entrypoint, args) in
        [(Quirks::brisk(), "evil.py", vec!["a\\", "]}"]), (Quirks::tame(), "main.py", vec!["a\"b"])]
    {
        let standin = Standin::start(quirks).await;
        let call = Call::post("/submit", form(manifest)).header("Content-Type", FORM);
        call.send(standin.address()).await.unwrap().expect(200);
        let submission = standin.submissions().remove(0);
        assert_eq!(submission.entrypoint, entrypoint);
        assert_eq!(submission.args.first().map(String::as_str), args.first().copied());
    }
}

#[tokio::test]
async fn real_answers_nothing_about_jobs_while_one_runs() {
    let standin = Standin::start(Quirks::brisk()).await;
    let id = accepted(&standin, r#""run_ms=400""#).await;
    tokio::time::sleep(TICK * 4).await;
    let started = Instant::now();
    get(&standin, "/health").await.expect(200);
    assert!(started.elapsed() < Duration::from_millis(200));
    let logs = format!("/logs/{id}");
    let (status, logs, submitted) =
        tokio::join!(finished(&standin, &id), get(&standin, &logs), accepted(&standin, ""));
    assert!(started.elapsed() > Duration::from_millis(200));
    assert_eq!((status["status"].as_str(), logs.status()), (Some("completed"), 200));
    assert_eq!(finished(&standin, &submitted).await["status"], "completed");
}

#[tokio::test]
async fn real_runs_one_job_at_a_time_and_tame_all_at_once() {
    for (quirks, at_least, at_most) in [(Quirks::brisk(), 600, 5000), (Quirks::tame(), 200, 590)] {
        let standin = Standin::start(quirks).await;
        let started = Instant::now();
        let job = || async { finished(&standin, &accepted(&standin, r#""run_ms=200""#).await).await };
        tokio::join!(job(), job(), job());
        let took = started.elapsed().as_millis();
        assert!((at_least..at_most).contains(&took), "{took} ms");
    }
}

#[tokio::test]
async fn submit_whose_client_leaves_is_taken_all_the_same() {
    let standin = Standin::start(Quirks::brisk()).await;
    let first = accepted(&standin, r#""run_ms=300""#).await;
    tokio::time::sleep(TICK * 4).await;
    let mut wire = Wire::connect(standin.address()).await.unwrap();
    wire.write(&submit(r#""id=left""#).to_bytes()).await.unwrap();
    tokio::time::sleep(TICK).await;
    drop(wire);
    finished(&standin, &first).await;
    tokio::time::sleep(TICK * 10).await;
    assert_eq!(standin.ran().last().map(String::as_str), Some("left"));
}

#[tokio::test]
async fn real_forgets_a_job_some_time_after_its_submit() {
    let forget_after = Some(Duration::from_millis(150));
    let standin = Standin::start(Quirks { forget_after, ..Quirks::brisk() }).await;
    let id = accepted(&standin, "").await;
    finished(&standin, &id).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(get(&standin, &format!("/status/{id}")).await.expect(404)["error"], "Job not found");
}

#[tokio::test]
async fn real_crashes_when_the_turn_of_a_forgotten_job_comes() {
    let quirks = Quirks { forget_after: Some(Duration::from_millis(100)), ..Quirks::brisk() };
    let standin = Standin::start(Quirks { tick: Duration::from_millis(300), ..quirks }).await;
    accepted(&standin, "").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(Call::get("/health").send(standin.address()).await.is_err());
    standin.restart().await;
    get(&standin, "/health").await.expect(200);
}

#[tokio::test]
async fn limiter_refuses_with_words_and_without_retry_after() {
    let limiter = Some(Limiter { at_once: 2, per_hour: 3 });
    let standin = Standin::start(Quirks { limiter, ..Quirks::tame() }).await;
    let running = [accepted(&standin, r#""run_ms=100""#).await, accepted(&standin, r#""run_ms=100""#).await];
    let refused = submit("").send(standin.address()).await.unwrap();
    assert_eq!(refused.head.header("retry-after"), None);
    assert_eq!(refused.expect(429)["error"], "Max concurrent jobs reached (2)");
    finished(&standin, &running[0]).await;
    finished(&standin, &running[1]).await;
    accepted(&standin, "").await;
    let refused = submit("").send(standin.address()).await.unwrap().expect(429);
    assert_eq!(refused["error"], "Max jobs per hour reached (3)");
}

#[tokio::test]
async fn real_takes_paths_as_raw_bytes_and_tame_decodes_them() {
    let args = r#""out=a b.txt:1","out=50%25?x=1#y:2","out=ü.txt:3""#;
    let real = Standin::start(Quirks::brisk()).await;
    let id = accepted(&real, args).await;
    finished(&real, &id).await;
    for (name, body) in [("a b.txt", "1"), ("50%25?x=1#y", "2"), ("ü.txt", "3")] {
        assert_eq!(get(&real, &format!("/download/{id}/{name}")).await.text(), body);
    }
    let encoded = get(&real, &format!("/download/{id}/a%20b.txt")).await.expect(500);
    assert!(encoded["error"].as_str().unwrap().starts_with("filesystem error: cannot make canonical path"));
    let tame = Standin::start(Quirks::tame()).await;
    let id = accepted(&tame, args).await;
    finished(&tame, &id).await;
    assert_eq!(get(&tame, &format!("/download/{id}/a%20b.txt?v=1")).await.text(), "1");
    get(&tame, &format!("/download/{id}/none")).await.expect(404);
}

#[tokio::test]
async fn escaping_path_is_403_and_a_path_under_outputs_is_no_job() {
    let standin = Standin::start(Quirks::brisk()).await;
    let id = accepted(&standin, r#""out=o.txt:1""#).await;
    finished(&standin, &id).await;
    let escaping = get(&standin, &format!("/download/{id}/../../etc/passwd")).await;
    assert_eq!((escaping.status(), escaping.head.reason.as_str()), (403, "Unknown"));
    assert_eq!(get(&standin, &format!("/outputs/{id}/o.txt")).await.expect(404)["error"], "Job not found");
}

#[tokio::test]
async fn archive_call_deletes_the_job() {
    let standin = Standin::start(Quirks::brisk()).await;
    let id = accepted(&standin, r#""out=o.txt:1""#).await;
    finished(&standin, &id).await;
    assert_eq!(get(&standin, &format!("/download/{id}")).await.body[..2], [0x1f, 0x8b]);
    get(&standin, &format!("/status/{id}")).await.expect(404);
}

#[tokio::test]
async fn health_gives_the_identity_it_is_told_to() {
    let standin = Standin::start(Quirks::brisk()).await;
    assert_eq!(get(&standin, "/health").await.expect(200)["worker_id"], standin.worker_id());
    standin.change(|quirks| quirks.identity = Identity::Null);
    assert!(get(&standin, "/health").await.expect(200)["worker_id"].is_null());
    standin.change(|quirks| quirks.identity = Identity::Other("x".into()));
    assert_eq!(get(&standin, "/health").await.expect(200)["worker_id"], "x");
}

#[tokio::test]
async fn second_version_knows_long_polls_and_keys() {
    let standin = Standin::start(Quirks::second()).await;
    assert_eq!(get(&standin, "/health").await.expect(200)["protocol"], 2);
    let keyed = || submit(r#""run_ms=200""#).header("Idempotency-Key", "k/1");
    let first = keyed().send(standin.address()).await.unwrap().expect(200);
    assert_eq!(keyed().send(standin.address()).await.unwrap().expect(200), first);
    assert_eq!(get(&standin, "/jobs?key=k/1").await.expect(200)["jobs"][0]["job_id"], first["job_id"]);
    assert_eq!(get(&standin, "/jobs?key=k/2").await.expect(200)["jobs"], Value::Array(vec![]));
    let waiting = format!("/status/{}?wait=10", first["job_id"].as_str().unwrap());
    assert_eq!(get(&standin, &waiting).await.expect(200)["status"], "completed");
    assert_eq!(standin.ran().len(), 1);
}

#[tokio::test]
async fn tame_answers_ranges_and_conditions_and_head() {
    let standin = Standin::start(Quirks::tame()).await;
    let id = accepted(&standin, r#""big=b.bin:200000""#).await;
    finished(&standin, &id).await;
    let target = format!("/download/{id}/b.bin");
    let whole = get(&standin, &target).await;
    assert_eq!(sha256(&whole.body), pattern_sha256(200_000));
    let part = Call::get(&target).header("Range", "bytes=70000-70009").send(standin.address()).await.unwrap();
    assert_eq!((part.status(), &part.body), (206, &pattern(70_000..70_010)));
    let etag = whole.head.header("etag").unwrap();
    let same = Call::get(&target).header("If-None-Match", etag).send(standin.address()).await.unwrap();
    assert_eq!((same.status(), same.body.len()), (304, 0));
    let head = Call::new("HEAD", &target).send(standin.address()).await.unwrap();
    assert_eq!((head.status(), head.head.header("content-length")), (200, Some("200000")));
}

#[tokio::test]
async fn stream_sends_log_status_and_end() {
    let standin = Standin::start(Quirks::brisk()).await;
    let id = accepted(&standin, r#""run_ms=100","stdout=hello""#).await;
    let url = format!("ws://{}/stream/{id}", standin.address());
    let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let messages: Vec<_> = socket.map(|message| message.unwrap().to_string()).collect().await;
    assert_eq!(messages[..2], ["hello", "[STATUS] completed"]);
    assert!(messages[2].starts_with("[DONE] Job completed (exit=0"), "{messages:?}");
}

#[tokio::test]
async fn armed_faults_hit_the_next_requests_and_no_more() {
    let standin = Standin::start(Quirks::brisk()).await;
    standin.fail("POST /submit", 1, Fault::error(503, "later"));
    standin.fail("POST /submit", 1, Fault::CloseBeforeTaking);
    standin.fail("POST /submit", 1, Fault::CloseAfterTaking);
    standin.fail("GET /health", 1, Fault::NotJson);
    standin.fail("GET /stats", 1, Fault::CutBody(3));
    let send = async |args| submit(args).send(standin.address()).await;
    assert_eq!(send("").await.unwrap().expect(503)["error"], "later");
    assert!(send(r#""id=before""#).await.is_err());
    assert!(send(r#""id=after""#).await.is_err());
    send(r#""id=last""#).await.unwrap().expect(200);
    assert_eq!(get(&standin, "/health").await.text(), "<html>hello</html>");
    assert_eq!(get(&standin, "/stats").await.ended, Ended::CutShort);
    tokio::time::sleep(TICK * 8).await;
    assert_eq!(standin.ran(), ["after", "last"]);
}

#[tokio::test]
async fn stopped_worker_refuses_and_restarted_one_knows_nothing() {
    let standin = Standin::start(Quirks::brisk()).await;
    let id = accepted(&standin, r#""run_ms=60000""#).await;
    standin.stop().await;
    assert!(Call::get("/health").send(standin.address()).await.is_err());
    standin.resume().await;
    get(&standin, "/health").await.expect(200);
    standin.restart().await;
    get(&standin, &format!("/status/{id}")).await.expect(404);
    standin.stall().await;
    let late = tokio::time::timeout(TICK * 5, Call::get("/health").send(standin.address())).await;
    assert!(late.is_err());
}

#[tokio::test]
async fn requests_are_recorded_as_they_came() {
    let standin = Standin::scripted(Quirks::tame(), |_| Plan {
        outputs: vec![("o".into(), Content::Generated(5))],
        run_for: TICK,
        ..Plan::default()
    })
    .await;
    let call = submit(r#""id=x""#).header("X-Odd", "Yes");
    let id = call.send(standin.address()).await.unwrap().expect(200)["job_id"].as_str().unwrap().to_owned();
    let seen = standin.seen("POST /submit").remove(0);
    assert!(seen.header_lines.contains(&"X-Odd: Yes".to_owned()));
    let body = form(r#"{"entrypoint":"main.py","args":["id=x"]}"#);
    assert_eq!((seen.body_bytes, seen.body_sha256), (body.len() as u64, sha256(body.as_bytes())));
    let file = &seen.submission.unwrap().files[0];
    assert_eq!((file.filename.as_str(), file.content.as_slice()), ("main.py", b"print(1)".as_slice()));
    finished(&standin, &id).await;
    assert_eq!(get(&standin, &format!("/download/{id}/o")).await.body, pattern(0..5));
    assert_eq!((standin.in_hand_peak(), standin.unfinished(), standin.known_jobs()), (1, 0, 1));
}

#[tokio::test]
async fn fault_proxy_refuses_cuts_stalls_and_delays() {
    let standin = Standin::start(Quirks::brisk()).await;
    let proxy = FaultProxy::start(standin.address()).await;
    let call = async || Call::get("/health").send(proxy.address()).await;
    call().await.unwrap().expect(200);
    proxy.set(Link::Refused);
    assert!(call().await.is_err());
    proxy.set(Link::CutResponse(10));
    assert!(call().await.is_err());
    proxy.set(Link::CutRequest(10));
    assert!(call().await.is_err());
    proxy.set(Link::Stalled);
    assert!(tokio::time::timeout(TICK * 5, call()).await.is_err());
    proxy.set(Link::Slow(TICK * 2));
    let started = Instant::now();
    call().await.unwrap().expect(200);
    assert!(started.elapsed() >= TICK * 4);
    assert_eq!(standin.open_peak("/health"), 1);
}
