//! What `POST /submit` takes, what it refuses, and what it leaves behind.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bodies::{self, Form, form, form_with};
use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Quirks, Standin, pattern, pattern_sha256};
use crate::wire::{Answer, Call, Wire, sha256};

const MIB: u64 = 1024 * 1024;

async fn tame_pool(extra: &str) -> (Standin, Pool) {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(4)], extra).await;
    (standin, pool)
}

/// Asserts a refusal that names what broke the rule.
fn refused(answer: &Answer, status: u16, names: &str) {
    let problem = answer.expect(status);
    assert!(problem["code"].as_str().is_some_and(|code| !code.is_empty()), "{problem}");
    assert!(problem["error"].as_str().is_some_and(|text| text.contains(names)), "{names}: {problem}");
}

async fn forwarded(standin: &Standin, submissions: usize) {
    eventually("the worker has them all", SOON, async || {
        (standin.submissions().len() >= submissions).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answer_is_an_id_of_the_pool_and_queued() {
    let (_standin, pool) = tame_pool("").await;
    let answer = pool.call(form(&[("main.py", b"1")], Some(r#"{"entrypoint":"main.py"}"#))).await.expect(200);
    let id = answer["job_id"].as_str().expect("an id").strip_prefix("pool-").expect("the prefix");
    assert!(id.len() >= 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
    assert_eq!(answer["status"], "queued");
}

#[tokio::test]
async fn body_of_every_known_client_reaches_the_deployed_worker_untouched() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    for (at, recorded) in bodies::recorded(r#"{"entrypoint": "main.py"}"#).into_iter().enumerate() {
        let answer = pool.call(recorded.call).await;
        assert_eq!(answer.status(), 200, "{}: {}", recorded.client, answer.text());
        forwarded(&standin, at + 1).await;
        let submission = standin.submissions().remove(at);
        let file = submission.files.first().unwrap_or_else(|| panic!("no file of {}", recorded.client));
        assert_eq!(file.filename, recorded.filename, "{}", recorded.client);
        assert_eq!(file.sha256, sha256(&recorded.payload), "{}", recorded.client);
        assert_eq!(submission.entrypoint, "main.py", "{}", recorded.client);
    }
}

#[tokio::test]
async fn several_files_reach_the_worker_in_their_order() {
    let (standin, pool) = tame_pool("").await;
    let files: [(&str, &[u8]); 3] = [("main.py", b"one"), ("empty.txt", b""), ("b.bin", b"\r\n--three\r\n")];
    pool.submit(&files, &json!({"entrypoint": "main.py"})).await;
    forwarded(&standin, 1).await;
    let submission = standin.submissions().remove(0);
    let got: Vec<_> = submission.files.iter().map(|f| (f.filename.as_str(), f.content.as_slice())).collect();
    assert_eq!(got, files);
}

#[tokio::test]
async fn file_names_are_reduced_to_a_safe_base_name() {
    let (standin, pool) = tame_pool("").await;
    let sent = ["../../etc/one.py", "a/b/two.py", "/abs/three.py", "..\\win\\four.py"];
    let wanted = ["one.py", "two.py", "three.py", "four.py"];
    for name in sent {
        pool.submit(&[(name, b"1")], &json!({"entrypoint": "main.py"})).await;
    }
    forwarded(&standin, sent.len()).await;
    let mut got: Vec<_> = standin.submissions().iter().map(|s| s.files[0].filename.clone()).collect();
    got.sort();
    let mut wanted = wanted.map(str::to_owned).to_vec();
    wanted.sort();
    assert_eq!(got, wanted);
}

#[tokio::test]
async fn file_name_that_has_no_safe_form_never_reaches_a_worker() {
    let (standin, pool) = tame_pool("").await;
    for name in ["..", ".", "/", "a/.."] {
        let answer = pool.call(form(&[(name, b"1")], Some(r#"{"entrypoint":"main.py"}"#))).await;
        assert!(matches!(answer.status(), 200 | 400), "{name}: {}", answer.text());
    }
    pool.complete(&[]).await;
    let names: Vec<_> = standin.submissions().into_iter().flat_map(|s| s.files).map(|f| f.filename).collect();
    assert!(names.iter().all(|name| !name.contains('/') && !name.contains("..") && name != "."), "{names:?}");
}

#[tokio::test]
async fn missing_manifest_files_or_entrypoint_is_a_400_that_names_it() {
    let (standin, pool) = tame_pool("").await;
    let file: (&str, &[u8]) = ("data.bin", b"1");
    refused(&pool.call(form(&[file], None)).await, 400, "manifest");
    refused(&pool.call(form(&[], Some(r#"{"entrypoint":"main.py"}"#))).await, 400, "files");
    refused(&pool.call(form(&[file], Some("{}"))).await, 400, "entrypoint");
    assert_eq!(standin.submissions().len(), 0);
}

#[tokio::test]
async fn entrypoint_may_be_left_to_a_file_with_a_known_name() {
    let (standin, pool) = tame_pool("").await;
    pool.submit(&[("main.py", b"print(1)")], &json!({})).await;
    forwarded(&standin, 1).await;
}

#[tokio::test]
async fn manifest_that_is_no_object_of_the_right_types_is_a_400() {
    let (_standin, pool) = tame_pool("").await;
    let wrong =
        ["", "{", "[]", "null", r#""main.py""#, r#"{"entrypoint":7}"#, r#"{"entrypoint":"a.py","args":"x"}"#];
    for manifest in wrong {
        let answer = pool.call(form(&[("data.bin", b"1")], Some(manifest))).await;
        let problem = answer.expect(400);
        assert!(problem["code"].is_string() && problem["error"].is_string(), "{manifest}: {problem}");
    }
}

#[tokio::test]
async fn value_that_the_deployed_worker_would_cut_is_never_run_wrongly() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    for manifest in [
        json!({"entrypoint": "a\"b.py"}),
        json!({"entrypoint": "a.py", "args": ["x]y"]}),
        json!({"entrypoint": "a.py", "args": ["say \"hi\""]}),
    ] {
        let answer = pool.call(form(&[("a.py", b"1")], Some(&manifest.to_string()))).await;
        if answer.status() == 200 {
            pool.failed(answer.json()["job_id"].as_str().expect("an id"), "rejected").await;
        } else {
            assert_eq!(answer.status(), 400, "{}", answer.text());
        }
    }
    assert!(standin.ran().is_empty());
}

#[tokio::test]
async fn upload_over_the_limit_is_a_413_and_leaves_nothing() {
    let (standin, pool) = tame_pool("max_upload: 1MiB").await;
    let before = pool.payloads();
    let large = vec![b'x'; 3 * MIB as usize];
    let announced = form(&[("big.bin", &large)], Some(r#"{"entrypoint":"main.py"}"#));
    let mut parts = Form::new("XX");
    parts.part(&["Content-Disposition: form-data; name=\"files\"; filename=\"big.bin\""], &large);
    for call in [announced, parts.chunked(60_000)] {
        refused(&pool.call(call).await, 413, "");
    }
    eventually("nothing is left", SOON, async || (pool.payloads() == before).then_some(())).await;
    assert_eq!(pool.get("/pool").await.expect(200)["total_jobs"], 0);
    assert_eq!(standin.submissions().len(), 0);
}

#[tokio::test]
async fn upload_that_breaks_off_leaves_nothing() {
    let (_standin, pool) = tame_pool("").await;
    let before = pool.payloads();
    let call = form(&[("big.bin", &vec![b'x'; 3 * MIB as usize])], Some(r#"{"entrypoint":"main.py"}"#));
    let bytes = call.to_bytes();
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&bytes[..bytes.len() - 100]).await.unwrap();
    drop(wire);
    tokio::time::sleep(Duration::from_millis(200)).await;
    eventually("nothing is left", SOON, async || (pool.payloads() == before).then_some(())).await;
    assert_eq!(pool.get("/pool").await.expect(200)["total_jobs"], 0);
}

#[tokio::test]
async fn body_that_is_no_whole_form_is_a_400() {
    let (_standin, pool) = tame_pool("").await;
    let mut unclosed = Form::new("XX");
    unclosed.part(&["Content-Disposition: form-data; name=\"files\"; filename=\"a\""], b"1");
    let no_boundary = Call::post("/submit", "--X--\r\n").header("Content-Type", "multipart/form-data");
    let json = Call::post("/submit", "{}").header("Content-Type", "application/json");
    for call in [unclosed.unclosed(), no_boundary, json, Call::post("/submit", "")] {
        let answer = pool.call(call).await;
        assert!(matches!(answer.status(), 400 | 415), "{}", answer.text());
        assert!(answer.json()["code"].is_string());
    }
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body_and_not_for_too_much() {
    let (_standin, pool) = tame_pool("max_upload: 1MiB").await;
    let call =
        form(&[("main.py", b"1")], Some(r#"{"entrypoint":"main.py"}"#)).header("Expect", "100-continue");
    let bytes = call.to_bytes();
    let (head, body) = bytes.split_at(bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(head).await.unwrap();
    let interim = tokio::time::timeout(SOON, wire.read_head()).await.expect("an interim answer").unwrap();
    assert_eq!(interim.status, 100);
    wire.write(body).await.unwrap();
    assert_eq!(wire.read_answer("POST", |_| {}).await.unwrap().0.status, 200);
    let text = String::from_utf8_lossy(head)
        .replace(&format!("Content-Length: {}", body.len()), "Content-Length: 9999999");
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(text.as_bytes()).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, wire.read_head()).await.expect("an answer").unwrap().status, 413);
}

#[tokio::test]
async fn same_idempotency_key_is_the_same_job_and_another_body_is_a_409() {
    let (standin, pool) = tame_pool("").await;
    let with_key = |args: &str| {
        let manifest = format!(r#"{{"entrypoint":"main.py","args":["{args}"]}}"#);
        form(&[("main.py", b"1")], Some(&manifest)).header("Idempotency-Key", "key-1")
    };
    let first = pool.call(with_key("id=a")).await.expect(200);
    pool.finished(first["job_id"].as_str().unwrap()).await;
    assert_eq!(pool.call(with_key("id=a")).await.expect(200)["job_id"], first["job_id"]);
    refused(&pool.call(with_key("id=b")).await, 409, "");
    pool.complete(&["id=c"]).await;
    assert_eq!(standin.ran(), ["a", "c"]);
}

#[tokio::test]
async fn same_idempotency_key_at_the_same_time_is_one_job() {
    let (standin, pool) = tame_pool("").await;
    let call = form(&[("main.py", b"1")], Some(r#"{"entrypoint":"main.py","args":["id=a"]}"#));
    let send = || pool.call(call.clone().header("Idempotency-Key", "key-2"));
    let answers = tokio::join!(send(), send(), send(), send());
    let answers = [answers.0, answers.1, answers.2, answers.3];
    let ids: Vec<Value> =
        answers.iter().filter(|a| a.status() == 200).map(|a| a.json()["job_id"].clone()).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(answers.iter().all(|answer| matches!(answer.status(), 200 | 409)));
    pool.finished(ids[0].as_str().unwrap()).await;
    assert_eq!(standin.ran(), ["a"]);
}

#[tokio::test]
async fn high_priority_field_overtakes_what_waits() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    pool.run(&["id=first", "run_ms=400"]).await;
    eventually("the first runs", SOON, async || (!standin.ran().is_empty()).then_some(())).await;
    pool.run(&["id=normal"]).await;
    let manifest = r#"{"entrypoint":"main.py","args":["id=high"]}"#;
    pool.call(form_with(&[("main.py", b"1")], Some(manifest), &[("priority", "high")])).await.expect(200);
    refused(
        &pool.call(form_with(&[("main.py", b"1")], Some(manifest), &[("priority", "x")])).await,
        400,
        "priority",
    );
    eventually("all ran", SOON, async || (standin.ran().len() == 3).then_some(())).await;
    assert_eq!(standin.ran(), ["first", "high", "normal"]);
}

#[tokio::test]
async fn upload_of_a_gibibyte_costs_less_than_64_mib_of_memory() {
    // The deployed worker takes 100 MiB, and the pool knows that.
    let standin = Standin::start(Quirks::second()).await;
    let pool = Pool::start(&[standin.entry(1)], "max_upload: 2GiB").await;
    let size = 1024 * MIB;
    let (head, tail) = (
        "--XX\r\nContent-Disposition: form-data; name=\"files\"; filename=\"big.bin\"\r\n\r\n",
        "\r\n--XX\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\n{\"entrypoint\":\"main.py\"}\r\n--XX--\r\n",
    );
    let length = (head.len() + tail.len()) as u64 + size;
    let call = Call::new("POST", "/submit").header("Content-Type", "multipart/form-data; boundary=XX");
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&call.header("Content-Length", &length.to_string()).to_bytes()).await.unwrap();
    wire.write(head.as_bytes()).await.unwrap();
    for at in 0..size / MIB {
        wire.write(&pattern(at * MIB..(at + 1) * MIB)).await.unwrap();
    }
    wire.write(tail.as_bytes()).await.unwrap();
    assert_eq!(wire.read_answer("POST", |_| {}).await.unwrap().0.status, 200);
    eventually("the worker has it", Duration::from_secs(120), async || {
        (!standin.submissions().is_empty()).then_some(())
    })
    .await;
    let file = &standin.submissions()[0].files[0];
    assert_eq!((file.bytes, &file.sha256), (size, &pattern_sha256(size)));
    assert!(pool.rss_peak() < 64 * MIB, "{} MiB", pool.rss_peak() / MIB);
}
