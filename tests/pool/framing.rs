//! Where a request ends and the next begins, and where an answer does: whoever gets this wrong lets requests be smuggled.

use serde_json::json;

use crate::bodies::form;
use crate::harness::Pool;
use crate::standin::{Quirks, Standin};
use crate::wire::{Call, Wire};

/// Sends `bytes` and gives back everything that comes until the pool closes.
async fn raw(pool: &Pool, bytes: &[u8]) -> String {
    let mut wire = Wire::connect(pool.address()).await.expect("a connection");
    wire.write(bytes).await.expect("a write");
    wire.read_all().await
}

#[tokio::test]
async fn body_with_broken_framing_is_a_bad_request_and_ends_the_connection() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let smuggled = "GET /health HTTP/1.1\r\nHost: smuggled\r\n\r\n";
    for (path, kind) in [
        ("/submit", "multipart/form-data; boundary=x"),
        ("/cancel/pool-0123456789abcdef01234567", "text/plain"),
        ("/nowhere", "text/plain"),
    ] {
        for chunk in ["zz\r\n--x\r\n", "5;\u{1}\nabc", "-1\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let said = raw(&pool, format!("{head}{chunk}{smuggled}").as_bytes()).await;
            assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{path} {chunk:?}: {said}");
            assert!(!said.contains("healthy") && said.starts_with("HTTP/1.1 4"), "{path} {chunk:?}: {said}");
        }
    }
}

#[tokio::test]
async fn question_with_a_body_is_a_bad_request() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let job = pool.run(&["run_ms=5000"]).await;
    for path in [
        format!("/status/{job}"),
        format!("/logs/{job}"),
        format!("/stream/{job}"),
        "/jobs".into(),
        "/".into(),
    ] {
        let call = Call::with_body("GET", &path, "body");
        let answer = pool.call(call).await.expect(400);
        assert_eq!((&answer["code"], &answer["field"]), (&json!("bad_request"), &json!("body")), "{path}");
    }
}

#[tokio::test]
async fn upload_without_a_boundary_is_refused_before_it_is_sent() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let head = "POST /submit HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    let said = raw(&pool, head.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
}

#[tokio::test]
async fn client_of_http_1_0_gets_bodies_that_end_with_the_connection() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(2)], "").await;
    let (running, ended) = (pool.run(&["run_ms=5000"]).await, pool.complete(&["out=a.txt:hello"]).await);
    pool.wait_until(&running, |status| status["pool_status"] == "running", crate::harness::SOON).await;
    for path in
        [format!("/status/{running}"), format!("/download/{ended}"), format!("/outputs/{ended}/a.txt")]
    {
        let said = raw(&pool, format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes()).await;
        let (head, body) = said.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(" 200 ") && !head.to_lowercase().contains("chunked"), "{path}: {head}");
        assert!(!body.is_empty() && !body.ends_with("0\r\n\r\n"), "{path}: {body}");
    }
}

#[tokio::test]
async fn upload_that_its_client_gives_up_is_no_error_of_the_pool() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let whole = form(&[("data.bin", &vec![0; 100_000])], Some("{\"entrypoint\":\"data.bin\"}")).to_bytes();
    let mut wire = Wire::connect(pool.address()).await.expect("a connection");
    wire.write(&whole[..50_000]).await.expect("a write");
    drop(wire);
    pool.complete(&[]).await;
    assert!(!pool.log().contains("ERROR"), "{}", pool.log());
}
