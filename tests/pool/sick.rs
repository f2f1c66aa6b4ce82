//! Workers that break off, drip, hang or make no sense, which is the normal case.

use std::time::{Duration, Instant};

use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Fault, Quirks, Reads, Say, Standin};

const ALWAYS: usize = 1 << 20;

fn wire(says: Vec<Say>) -> Fault {
    Fault::Wire(Reads::All, says)
}

fn bytes(text: &str) -> Say {
    Say::Bytes(text.as_bytes().to_vec())
}

#[tokio::test]
async fn status_that_breaks_off_drips_or_never_ends_gives_way_to_what_the_pool_knows() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n{";
    let endless = Say::Bytes(vec![b' '; 20 << 20]);
    let faults = [
        ("cut", vec![bytes(head)]),
        ("reset", vec![bytes(head), Say::Reset]),
        ("drips", vec![bytes(head), Say::Drip(" ", Duration::from_millis(200))]),
        ("too long", vec![bytes(head), endless, Say::Pause(SOON)]),
        ("hangs", vec![bytes(head), Say::Pause(SOON)]),
        ("no JSON", vec![bytes("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")]),
        ("chunks break off", vec![bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\"")]),
    ];
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "status_timeout: 500ms").await;
    let job = pool.run(&["run_ms=60000"]).await;
    pool.wait_until(&job, |status| status["pool_status"] == "running", SOON).await;
    for (fault, says) in faults {
        standin.fail("GET /status", ALWAYS, wire(says));
        let started = Instant::now();
        let status = pool.status(&job).await;
        assert_eq!(
            (&status["job_id"], &status["pool_status"]),
            (&job.as_str().into(), &"running".into()),
            "{fault}"
        );
        assert!(started.elapsed() < Duration::from_secs(2), "{fault}: {:?}", started.elapsed());
        standin.heal();
    }
}

#[tokio::test]
async fn worker_that_accepts_connections_and_answers_nothing_is_lost_in_time() {
    for quirks in [Quirks::brisk(), Quirks::tame(), Quirks::second()] {
        let standin = Standin::start(quirks).await;
        let extra = "worker_lost_after: 2s\nhealth: {interval: 500ms, timeout: 300ms}";
        let pool = Pool::start(&[standin.entry(1)], extra).await;
        let job = pool.run(&["run_ms=60000"]).await;
        pool.wait_until(&job, |status| status["worker_id"].is_string(), SOON).await;
        eventually("it runs", SOON, async || (!standin.ran().is_empty()).then_some(())).await;
        standin.stall().await;
        pool.failed(&job, "worker_lost").await;
    }
}

#[tokio::test]
async fn results_that_cannot_be_read_are_left_out_and_their_worker_stays_well() {
    let not_utf8 = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xff".to_vec();
    let cut = bytes("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{");
    for fault in [Fault::error(500, "broken"), wire(vec![Say::Bytes(not_utf8)]), wire(vec![cut])] {
        let standin = Standin::start(Quirks::tame()).await;
        let pool = Pool::start(&[standin.entry(1)], "").await;
        standin.fail("GET /outputs", ALWAYS, fault);
        pool.complete(&["stdout=said"]).await;
        let job = pool.complete(&["stdout=said"]).await;
        assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "said");
        let worker = pool.worker(standin.worker_id()).await;
        assert_eq!((&worker["is_healthy"], &worker["last_error"]), (&true.into(), &().into()), "{worker}");
    }
}

#[tokio::test]
async fn refusal_by_a_code_of_no_list_is_the_jobs_own_and_holds_up_no_other() {
    for code in [401, 403, 410, 418, 451] {
        let standin = Standin::start(Quirks::tame()).await;
        let pool = Pool::start(&[standin.entry(1)], "").await;
        pool.healthy(1).await;
        standin.fail("POST /submit", 1, Fault::error(code, "not for you"));
        let refused = pool.run(&["id=refused"]).await;
        let next = pool.run(&["id=next"]).await;
        let status = pool.failed(&refused, "rejected").await;
        assert!(status["error"]["message"].as_str().unwrap().contains("not for you"), "{status}");
        assert_eq!(pool.finished(&next).await["pool_status"], "completed");
    }
}

#[tokio::test]
async fn what_is_not_http_is_the_workers_error() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "outputs: {keep: 0s}").await;
    let job = pool.complete(&["out=a.txt:hello"]).await;
    standin.fail("GET /download", ALWAYS, wire(vec![bytes("SSH-2.0-OpenSSH_9.6\r\n\r\n")]));
    for path in [format!("/outputs/{job}/a.txt"), format!("/download/{job}")] {
        assert_eq!(pool.get(&path).await.expect(502)["code"], "worker_error", "{path}");
    }
    standin.heal();
    assert_eq!(pool.get(&format!("/outputs/{job}/a.txt")).await.text(), "hello");
}

#[tokio::test]
async fn long_listings_and_logs_cost_their_readers_no_memory() {
    let name = "n".repeat(100);
    let file = |n: usize| format!(r#"{{"name":"{name}{n}","size":1,"type":"file"}}"#);
    let files: Vec<_> = (0..80_000).map(file).collect();
    let listing = format!(r#"{{"total_files":80000,"files":[{}]}}"#, files.join(","));
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "outputs: {keep: 0s}\nhistory: {max_log_bytes: 10MiB}").await;
    standin.fail("GET /outputs", 1, Fault::Answer { status: 200, headers: vec![], body: listing });
    let logs = serde_json::json!({"stdout": "\u{1f980}\n".repeat(1 << 20), "stderr": ""}).to_string();
    standin.fail("GET /logs", 1, Fault::Answer { status: 200, headers: vec![], body: logs });
    let job = pool.complete(&[]).await;
    let before = pool.rss_peak();
    let read = async |path: String| {
        let answer = pool.get(&path).await;
        (answer.status(), answer.body.len(), answer.json())
    };
    let readers = (0..40).map(|n| read(format!("/{}/{job}", if n % 2 == 0 { "outputs" } else { "logs" })));
    for (n, (status, length, json)) in futures_util::future::join_all(readers).await.into_iter().enumerate() {
        assert!(status == 200 && length > 6 << 20, "{n}: {status} {length}");
        match n % 2 {
            0 => assert_eq!(json["files"].as_array().unwrap().len(), 80_000),
            _ => assert_eq!(json["stdout"].as_str().unwrap().len(), 5 << 20),
        }
    }
    // Looking for one name among many does not pile up either.
    let path = format!("/outputs/{job}/x");
    futures_util::future::join_all((0..20).map(|_| pool.get(&path))).await;
    let grown = pool.rss_peak() - before;
    // Held whole, the answers alone would be 300 MiB.
    assert!(grown < 96 << 20, "grown by {} MiB", grown >> 20);
}
