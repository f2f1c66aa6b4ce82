//! Requests and answers.

use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Answer, BOUNDARY, Part, TestWorker, exchange, form, submission, tar_gz};

#[tokio::test]
async fn job_runs_and_its_end_is_told_in_full() {
    let worker = TestWorker::start(1).await;
    let script = "mkdir results; printf 'made by %s' \"$2\" > 'results/a b%é.txt'; echo out; echo err >&2; cat sub/in.txt";
    let archive = tar_gz(&[("go.sh", script.as_bytes()), ("sub/in.txt", b"input")]);
    let manifest = r#"{"entrypoint":"go.sh","interpreter":"bash","args":["1","a b"],"outputs":["results/"]}"#;
    let answer = worker.submit(&[Part::file("job.tar.gz", &archive), Part::manifest(manifest)], "").await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("queued")));
    let id = answer.json()["job_id"].as_str().unwrap().to_owned();

    let status = worker.end(&id).await;
    assert_eq!((&status["job_id"], &status["status"]), (&json!(id), &json!("completed")));
    assert_eq!(status["execution_metadata"]["exit_code"], 0);
    assert_eq!(status["execution_metadata"]["interpreter"], "bash");
    assert!(status["execution_metadata"]["wall_time_ms"].as_u64().unwrap() > 0);
    assert_eq!(status["output_files"]["results/a b%é.txt"]["size_bytes"], 11);
    assert_eq!(status["output_files"].as_object().unwrap().len(), 1);
    assert_eq!(status["job_hash"].as_str().unwrap().len(), 64);
    assert_eq!(status["worker_metadata"]["worker_id"], worker.get("/health").await.json()["worker_id"]);

    let logs = worker.get(&format!("/logs/{id}")).await.json();
    assert_eq!(logs, json!({ "stdout": "out\ninput", "stderr": "err\n" }));
    let listing = worker.get(&format!("/outputs/{id}")).await.json();
    let url = listing["files"][0]["download_url"].as_str().unwrap();
    assert_eq!(url, format!("/download/{id}/results/a%20b%25%C3%A9.txt"));
    assert_eq!(worker.get(url).await.text(), "made by a b");

    let archive = worker.get(&format!("/download/{id}")).await;
    let mut unpacked = tar::Archive::new(flate2::read::GzDecoder::new(&archive.body[..]));
    let names: Vec<_> =
        unpacked.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, ["go.sh", "results/a b%é.txt", "sub/in.txt"]);
    assert_eq!(worker.get(&format!("/status/{id}")).await.status, 200, "the archive leaves the job in place");
}

#[tokio::test]
async fn file_is_served_with_ranges_conditions_and_its_type() {
    let worker = TestWorker::start(1).await;
    let id = worker.run("printf 0123456789 > d.json; : > empty", "{}").await;
    worker.end(&id).await;
    let url = format!("/outputs/{id}/d.json");
    let whole = worker.get(&url).await;
    let tag = whole.header("etag").unwrap().to_owned();
    assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    assert_eq!(tag, "\"84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882\"");
    assert_eq!(whole.header("content-type"), Some("application/json"));
    assert_eq!(whole.header("content-disposition"), Some("attachment; filename=\"d.json\""));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("access-control-allow-origin"), Some("*"));

    let part = worker.request("GET", &url, "range: bytes=2-4\r\n").await;
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let stale = worker.request("GET", &url, "range: bytes=2-4\r\nif-range: \"other\"\r\n").await;
    assert_eq!((stale.status, stale.body.len()), (200, 10));
    let beyond = worker.request("GET", &url, "range: bytes=10-\r\n").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let same = worker.request("GET", &url, &format!("if-none-match: {tag}\r\n")).await;
    assert_eq!((same.status, same.header("etag")), (304, Some(&*tag)));
    let head = worker.request("HEAD", &url, "").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    let empty = worker.get(&format!("/download/{id}/empty")).await;
    assert_eq!((empty.status, empty.header("content-length")), (200, Some("0")));
}

#[tokio::test]
async fn paths_that_leave_the_job_are_forbidden_and_unknown_ones_not_found() {
    let worker = TestWorker::start(1).await;
    let id = worker.run("true", "{}").await;
    worker.end(&id).await;
    for (path, status) in [
        (format!("/download/{id}/../stdout"), 403),
        (format!("/download/{id}/..%2Fstdout"), 403),
        (format!("/outputs/{id}/%2Fetc%2Fpasswd"), 403),
        (format!("/download/{id}/a%00b"), 403),
        (format!("/download/{id}/nothing"), 404),
        ("/status/job_1_1".into(), 404),
        ("/download/..%2F..%2Fetc/passwd".into(), 404),
        ("/nothing".into(), 404),
    ] {
        let answer = worker.get(&path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"].is_string());
    }
    assert_eq!(worker.get("/status/job_1_1").await.json(), json!({ "error": "Job not found" }));
}

#[tokio::test]
async fn submissions_that_cannot_run_are_refused_with_the_reason() {
    let worker = TestWorker::start(1).await;
    let file = || Part::file("main.py", b"");
    let climbing = tar_gz(&[("a", b"")]);
    for (parts, error) in [
        (vec![Part::manifest("{}")], "No files uploaded"),
        (vec![Part::file("other.py", b"")], "No entrypoint specified"),
        (vec![file(), Part::manifest(r#"{"entrypoint":"nope.py"}"#)], "nope.py"),
        (vec![file(), Part::manifest(r#"{"interpreter":"ruby2"}"#)], "python3, python"),
        (vec![file(), Part::manifest("{")], "manifest"),
        (vec![file(), Part::manifest(r#"{"outputs":["../x"]}"#)], "outputs"),
        (vec![file(), Part::file("../evil", b"")], "../evil"),
        (vec![file(), Part::file("job.zip", &climbing)], "damaged"),
        (vec![file(), Part::file("job.json", b"{"), Part::manifest(r#"{"outputs":["["]}"#)], "job.json"),
    ] {
        let answer = worker.submit(&parts, "").await;
        assert_eq!(answer.status, 400, "{error}");
        assert!(answer.json()["error"].as_str().unwrap().contains(error), "{}: {error}", answer.text());
    }
    let health = worker.get("/health").await.json();
    assert_eq!(health["labels"], json!({"gpu": "a100"}));
    assert_eq!(health["active"], 0, "a refused submission leaves its slot");
    // Removed in the background.
    while std::fs::read_dir(worker.data.path().join("data/jobs")).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn submission_larger_than_the_limit_is_refused_announced_or_not() {
    let worker = TestWorker::start(1).await;
    let large = vec![b'x'; 3 * 1024 * 1024];
    let announced = worker.submit(&[Part::file("main.py", &large)], "").await;
    assert_eq!(announced.status, 413);
    assert_eq!(chunked(&worker, &[Part::file("main.py", &large)]).await.status, 413);
}

#[tokio::test]
async fn chunked_submission_is_accepted() {
    let worker = TestWorker::start(1).await;
    let answer = chunked(&worker, &[Part::file("run.sh", b"echo hi")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn chunked(worker: &TestWorker, parts: &[Part<'_>]) -> Answer {
    let head = format!(
        "POST /submit HTTP/1.1\r\nHOST: w\r\nCONTENT-TYPE: multipart/form-data; boundary={BOUNDARY}\r\n\
         TRANSFER-ENCODING: chunked\r\n\r\n"
    );
    let mut request = head.into_bytes();
    for piece in form(parts).chunks(50_000) {
        request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    worker.send(&request).await
}

#[tokio::test]
async fn connection_is_kept_and_queries_are_no_part_of_the_path() {
    let worker = TestWorker::start(1).await;
    let mut connection = TcpStream::connect(worker.address).await.unwrap();
    for path in ["/", "/health?x=1", "/stats?", "/environments"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: w\r\n\r\n");
        assert_eq!(exchange(&mut connection, request.as_bytes()).await.status, 200, "{path}");
    }
    let submit = submission(&[Part::file("run.sh", b"")], "");
    assert_eq!(exchange(&mut connection, &submit).await.status, 200);
    assert_eq!(worker.get("/").await.json()["service"], "sandrun");
}

#[tokio::test]
async fn stream_sends_the_log_live_and_then_the_end() {
    let worker = TestWorker::start(1).await;
    let id = worker.run("echo first; while [ ! -e go ]; do sleep 0.02; done; echo last", "{}").await;
    let url = format!("ws://{}/stream/{id}", worker.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut frames = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { break };
        frames.push(text.to_string());
        // Its first line arrived while it runs: only now is it let go on.
        if frames.iter().any(|frame| frame == "first\n") {
            std::fs::write(worker.data.path().join(format!("data/jobs/{id}")).join("work").join("go"), "")
                .unwrap();
        }
    }
    let done = frames.pop().unwrap();
    assert!(done.starts_with("[DONE] Job completed (exit=0, "), "{done}");
    let log: String =
        frames.iter().filter(|frame| !frame.starts_with("[STATUS] ")).map(String::as_str).collect();
    assert_eq!(log, "first\nlast\n");
    assert!(frames.contains(&"[STATUS] running".to_owned()), "{frames:?}");
}
