//! Clients that mean harm: slow ones, many at once, and requests that are made to be read in two ways.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::bodies::{Form, form};
use crate::harness::{Pool, SOON, nobody};
use crate::standin::{Quirks, Standin};
use crate::wire::{Call, Wire};

const HEAD: &str = "GET /health HTTP/1.1\r\nHost: a\r\n";

async fn connect(pool: &Pool) -> Wire {
    Wire::connect(pool.address()).await.expect("a connection")
}

/// Sends bytes and gives back everything that comes until the pool closes.
async fn raw(pool: &Pool, bytes: &[u8]) -> String {
    let mut wire = connect(pool).await;
    // The pool may close before it has read everything.
    let _ = wire.write(bytes).await;
    wire.read_all().await
}

/// Sends one byte every 50 ms until the pool closes; what it said, and when.
async fn drip(pool: &Pool, first: &str, byte: &[u8]) -> (String, Duration) {
    let mut wire = connect(pool).await;
    wire.write(first.as_bytes()).await.expect("a write");
    let began = Instant::now();
    while began.elapsed() < SOON {
        if wire.write(byte).await.is_err() {
            break;
        }
        if let Ok(said) = timeout(Duration::from_millis(50), wire.read_all()).await {
            return (said, began.elapsed());
        }
    }
    (wire.read_all().await, began.elapsed())
}

#[tokio::test]
async fn slow_head_is_cut_off_however_it_drips() {
    let pool = Pool::start(&[nobody()], "server: {threads: 2, header_timeout: 1s}").await;
    let (said, took) = drip(&pool, HEAD, b"x").await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut wire = connect(&pool).await;
    wire.write(HEAD.as_bytes()).await.unwrap();
    let said = wire.read_all().await;
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("request_timeout"), "{said}");
    let mut silent = connect(&pool).await;
    assert_eq!(silent.read_all().await, "", "who says nothing is told nothing");
    assert!(!pool.log().contains("ERROR"), "{}", pool.log());
}

#[tokio::test]
async fn later_requests_of_a_connection_have_the_same_bounds() {
    let pool = Pool::start(&[nobody()], "server: {threads: 2, header_timeout: 1s, idle_timeout: 2s}").await;
    let whole = format!("{HEAD}\r\n");
    for half in ["", HEAD] {
        let mut wire = connect(&pool).await;
        for _ in 0..3 {
            wire.write(whole.as_bytes()).await.unwrap();
            assert_eq!(wire.read_answer("GET", |_| {}).await.expect("an answer").0.status, 200);
            // A head may take a second; what lies between two requests is none.
            sleep(Duration::from_millis(700)).await;
        }
        let began = Instant::now();
        wire.write(half.as_bytes()).await.unwrap();
        let said = timeout(SOON, wire.read_all()).await.expect("it is closed");
        assert_eq!(said.starts_with("HTTP/1.1 408 "), !half.is_empty(), "{half:?}: {said}");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn body_that_drips_ends_at_its_deadline() {
    let pool = Pool::start(&[nobody()], "uploads: {timeout: 1s}").await;
    let key = pool.get("/pool").await.expect(200)["workers"][0]["worker_id"].as_str().unwrap().to_owned();
    let drain = format!("/workers/{}/drain", key.replace('+', "-").replace('/', "_"));
    for (path, kind) in [
        ("/submit", "multipart/form-data; boundary=x"),
        (drain.as_str(), "application/json"),
        ("/cancel/pool-0123456789abcdef01234567", "text/plain"),
        ("/nowhere", "text/plain"),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n"
        );
        let (said, took) = drip(&pool, &head, b"-").await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{path}: {said}");
        assert!(took < Duration::from_secs(12), "{path}: {took:?}");
    }
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let pool = Pool::start(&[nobody()], "server: {threads: 2, max_connections_per_address: 5}").await;
    let mut held = Vec::new();
    let whole = format!("{HEAD}\r\n");
    for _ in 0..5 {
        let mut wire = connect(&pool).await;
        wire.write(whole.as_bytes()).await.unwrap();
        wire.read_answer("GET", |_| {}).await.expect("an answer");
        held.push(wire);
    }
    for _ in 0..20 {
        assert_eq!(raw(&pool, whole.as_bytes()).await, "");
    }
    assert_eq!(pool.log().matches("connections from 127.0.0.1 are refused").count(), 1, "{}", pool.log());
    drop(held);
    crate::harness::eventually("others get in", SOON, async || {
        raw(&pool, format!("{HEAD}Connection: close\r\n\r\n").as_bytes())
            .await
            .contains(" 200 ")
            .then_some(())
    })
    .await;
}

/// Files that this process, and what it starts, may have open.
fn open_files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("the kernel tells");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit of open files");
    line.split_whitespace().nth(3).and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX)
}

#[tokio::test]
async fn thousands_of_slow_clients_cost_their_sockets_alone() {
    // This process has other connections open, and the pool takes half of what it may.
    let clients = (open_files_max() / 6).min(3000);
    let pool = Pool::start(&[nobody()], "server: {threads: 2, max_connections_per_address: 10000}").await;
    let before = pool.rss_peak();
    let mut held = Vec::new();
    for at in 0..clients {
        let mut wire = connect(&pool).await;
        // Some say nothing, some half a head, some are idle after a request.
        match at % 3 {
            0 => {}
            1 => wire.write(HEAD.as_bytes()).await.unwrap(),
            _ => {
                wire.write(format!("{HEAD}\r\n").as_bytes()).await.unwrap();
                wire.read_answer("GET", |_| {}).await.expect("an answer");
            }
        }
        held.push(wire);
    }
    let began = Instant::now();
    pool.get("/health").await.expect(200);
    let (took, each) = (began.elapsed(), (pool.rss_peak() - before) / clients as u64);
    println!("{each} bytes for each of {clients} connections; an answer among them took {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(each < 96 << 10, "{each} bytes for each");
}

#[tokio::test]
async fn head_that_is_too_long_is_refused_and_ends_the_connection() {
    let pool = Pool::start(&[nobody()], "").await;
    let fields = |count: usize, bytes: usize| -> String {
        (0..count).map(|at| format!("X-{at}: {}\r\n", "v".repeat(bytes))).collect()
    };
    for (target, fields, status) in [
        ("/health".to_owned(), fields(90, 10), " 200 "),
        ("/health".to_owned(), fields(101, 1), " 431 "),
        ("/health".to_owned(), fields(1, 21 << 10), " 431 "),
        ("/health".to_owned(), fields(9, 15 << 10), " 431 "),
        ("/health".to_owned(), fields(1, 2 << 20), " 431 "),
        // Past 256 it is Pingora that refuses.
        ("/health".to_owned(), fields(1000, 1), " 400 "),
        (format!("/{}", "x".repeat(17 << 10)), String::new(), " 414 "),
    ] {
        let end = "GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let said =
            raw(&pool, format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{end}").as_bytes()).await;
        let first = said.lines().next().unwrap_or_default();
        assert!(first.contains(status), "{status}: {first}");
        assert!(status == " 200 " || said.matches("HTTP/1.1 ").count() == 1, "{status}: {said}");
    }
}

#[tokio::test]
async fn head_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let pool = Pool::start(&[nobody()], "").await;
    let smuggled = "GET /pool HTTP/1.1\r\nHost: smuggled\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5,6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding\r\n : chunked\r\n",
        "X: a\r\n Content-Length: 5\r\n",
        "X: a\nContent-Length: 5\n",
        "X: a\rContent-Length: 5\r\n",
        "X: a\0b\r\n",
        "Host: b\r\n",
    ] {
        for path in ["/submit", "/cancel/pool-0123456789abcdef01234567", "/nowhere"] {
            let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n{smuggled}");
            let said = raw(&pool, request.as_bytes()).await;
            assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{path} {fields:?}: {said}");
            assert!(said.starts_with("HTTP/1.1 4") && !said.contains("workers"), "{path} {fields:?}: {said}");
        }
    }
    let bare = HEAD.replace("\r\n", "\n");
    let said = raw(&pool, format!("{bare}\n{smuggled}").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 400 ") && said.matches("HTTP/1.1 ").count() == 1, "{said}");
    let said =
        raw(&pool, b"POST /nowhere HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
}

#[tokio::test]
async fn path_that_plays_tricks_reaches_nothing() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "outputs: {keep: 0s}").await;
    let job = pool.complete(&["out=a.txt:hello"]).await;
    pool.get(&format!("/outputs/{job}/a.txt")).await;
    let overlong = "%c0%ae%c0%ae%c0%afetc%c0%afpasswd";
    let under_job = [
        "..",
        "../..",
        "%2e%2e",
        "%2E%2e/x",
        ".%2e/x",
        "x/../../y",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "a.txt%00.png",
        "a.txt%0d%0aX:1",
        "/etc/passwd",
        "//a.txt",
        "./a.txt",
        "a.txt/",
        "%",
        "%2",
        "%zz",
        "%u002e",
        "..%5c..%5cx",
        "%252e%252e/x",
        overlong,
        "a.txt;x=1",
        "\\..\\x",
    ];
    for path in under_job {
        for call in ["outputs", "download"] {
            let said = raw(
                &pool,
                format!("GET /{call}/{job}/{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
            assert!(said.starts_with("HTTP/1.1 40"), "{call} {path:?}: {said}");
        }
    }
    for target in [
        "//pool",
        "/./pool",
        "/x/../pool",
        "/%70ool",
        "/pool/",
        "/pool%00",
        "/pool\0",
        "/pool%20",
        "*",
        "pool",
        "http://other/nothing",
        "/workers/../pool",
        "/status/../pool",
        "/status/%2e%2e",
        "/\u{ff0e}/pool",
    ] {
        let said =
            raw(&pool, format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
                .await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{target:?}: {said}");
    }
}

#[tokio::test]
async fn form_that_plays_tricks_is_refused_or_taken_as_it_is() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let file = |name: &str| format!("Content-Disposition: form-data; name=\"files\"; filename=\"{name}\"");
    let manifest = ["Content-Disposition: form-data; name=\"manifest\""];
    let entry = br#"{"entrypoint":"main.py"}"#;
    let started = || {
        let mut form = Form::new("XX");
        form.part(&[&file("main.py")], b"1");
        form
    };
    let mut twice = started();
    twice.part(&manifest, entry);
    twice.part(&manifest, entry);
    let (mut many, mut files) = (started(), started());
    for at in 0..10_000 {
        many.part(&[&format!("Content-Disposition: form-data; name=\"x{at}\"")], b"");
        files.part(&[&file(&format!("f{at}"))], b"");
    }
    let mut long = started();
    long.part(&[&format!("X-Long: {}", "x".repeat(1 << 20)), manifest[0]], entry);
    for (form, status) in [(twice, 400), (many, 400), (files, 400), (long, 413)] {
        let answer = pool.call(form.call()).await.expect(status);
        assert!(answer["field"].is_string(), "{answer}");
    }
    // A form in a form is a file's content like any other; its boundaries are not looked for.
    let inner = b"--YY\r\nContent-Disposition: file; filename=\"../x\"\r\n\r\nx\r\n--YY--\r\n--X\r\n--X";
    for size in [1, 2, 3, 7, 64] {
        let mut nested = Form::new("XX");
        nested.part(&[&file("main.py"), "Content-Type: multipart/mixed; boundary=YY"], inner);
        nested.part(&manifest, entry);
        pool.call(nested.chunked(size)).await.expect(200);
    }
    crate::harness::eventually("the worker has them", SOON, async || {
        (standin.submissions().len() == 5).then_some(())
    })
    .await;
    assert!(standin.submissions().iter().all(|s| s.files.len() == 1 && s.files[0].content == inner));
}

#[tokio::test]
async fn json_that_is_deep_or_long_is_refused_and_harms_nobody() {
    let pool = Pool::start(&[nobody()], "").await;
    let deep = |open: &str, close: &str, depth: usize| open.repeat(depth) + "1" + &close.repeat(depth);
    for json in [deep("[", "]", 100_000), deep("{\"a\":", "}", 100_000)] {
        for manifest in [
            json.clone(),
            format!("{{\"entrypoint\":\"main.py\",\"args\":{json}}}"),
            format!("{{\"pool\":{json}}}"),
        ] {
            let answer = pool.call(form(&[("main.py", b"1")], Some(&manifest))).await.expect(400);
            assert!(answer["field"].as_str().is_some_and(|field| field.starts_with("manifest")), "{answer}");
        }
    }
    let unknown = format!("{{\"entrypoint\":\"main.py\",\"x\":{}}}", deep("[", "]", 100_000));
    // Nor in what only workers may know.
    pool.call(form(&[("main.py", b"1")], Some(&unknown))).await.expect(400);
    let long = format!("{{\"entrypoint\":\"main.py\",\"x\":\"{}\"}}", "x".repeat(2 << 20));
    pool.call(form(&[("main.py", b"1")], Some(&long))).await.expect(413);
    let key: Value = pool.get("/pool").await.expect(200)["workers"][0]["worker_id"].clone();
    let drain = format!("/workers/{}/drain", key.as_str().unwrap().replace('+', "-").replace('/', "_"));
    for (body, status) in
        [(deep("[", "]", 3000), 400), (deep("{\"reason\":", "}", 500), 400), (" ".repeat(9000), 413)]
    {
        let answer = pool.call(Call::post(&drain, body)).await.expect(status);
        assert_eq!(answer["field"], json!("body"));
    }
    pool.get("/health").await.expect(200);
}
