//! Which worker gets which job, when, and in what form.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bodies::{form, payload};
use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Fault, Protocol, Quirks, Standin};
use crate::wire::sha256;

/// Far above the 5 ms that are promised: a machine that also compiles must not fail the suite.
const LATENCY_MAX: Duration = Duration::from_millis(250);

async fn ran(standin: &Standin, jobs: usize) -> Vec<String> {
    eventually("the jobs ran", SOON, async || (standin.ran().len() >= jobs).then_some(())).await;
    standin.ran()
}

async fn all_finished(pool: &Pool, jobs: &[String]) {
    for job in jobs {
        assert_eq!(pool.finished(job).await["pool_status"], "completed");
    }
}

#[tokio::test]
async fn jobs_run_in_the_order_in_which_they_came() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        pool.run(&[&format!("id={name}"), "run_ms=50"]).await;
    }
    assert_eq!(ran(&standin, names.len()).await, names);
}

#[tokio::test]
async fn worker_never_has_more_jobs_than_its_limit() {
    let standins = [Standin::start(Quirks::tame()).await, Standin::start(Quirks::tame()).await];
    let pool = Pool::start(&[standins[0].entry(3), standins[1].entry(2)], "").await;
    let mut jobs = Vec::new();
    for _ in 0..40 {
        jobs.push(pool.run(&["run_ms=40"]).await);
        assert!(pool.worker(standins[0].worker_id()).await["active_jobs"].as_u64().unwrap() <= 3);
    }
    all_finished(&pool, &jobs).await;
    assert_eq!(standins.each_ref().map(Standin::in_hand_peak), [3, 2]);
}

#[tokio::test]
async fn worker_that_answers_only_between_jobs_is_given_one_at_a_time() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    // Long enough that its silence is seen.
    for _ in 0..2 {
        pool.run(&["run_ms=2500"]).await;
    }
    eventually("both ran", SOON, async || {
        (standin.ran().len() == 2 && standin.unfinished() == 0).then_some(())
    })
    .await;
    pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
    standin.reset_peaks();
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(pool.run(&["run_ms=100"]).await);
    }
    all_finished(&pool, &jobs).await;
    assert_eq!(standin.in_hand_peak(), 1);
}

#[tokio::test]
async fn hourly_limit_of_the_deployed_worker_holds_no_job_back_for_ever() {
    let standin = Standin::start(Quirks { limiter: Quirks::real().limiter, ..Quirks::brisk() }).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(pool.run(&["run_ms=50"]).await);
    }
    all_finished(&pool, &jobs).await;
}

#[tokio::test]
async fn least_active_worker_gets_the_next_job() {
    let mut standins = Vec::new();
    for _ in 0..3 {
        standins.push(Standin::start(Quirks::tame()).await);
    }
    let entries: Vec<Value> = standins.iter().map(|standin| standin.entry(4)).collect();
    let pool = Pool::start(&entries, "").await;
    pool.healthy(3).await;
    for each in 1..=3 {
        for _ in 0..3 {
            pool.run(&["run_ms=5000"]).await;
        }
        eventually("the load is even", SOON, async || {
            standins.iter().all(|standin| standin.unfinished() == each).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn worker_that_takes_its_upload_slowly_delays_no_other() {
    let (slow, quick) = (Standin::start(Quirks::tame()).await, Standin::start(Quirks::tame()).await);
    slow.fail("POST /submit", 100, Fault::NeverAnswer);
    let pool = Pool::start(&[slow.entry(1), quick.entry(1)], "").await;
    pool.healthy(2).await;
    let large = vec![b'x'; 8 * 1024 * 1024];
    let started = Instant::now();
    for at in 0..5 {
        let manifest = json!({"entrypoint": "main.py", "args": [format!("id={at}")]});
        pool.submit(&[("big.bin", &large)], &manifest).await;
    }
    ran(&quick, 4).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(slow.seen("POST /submit").len(), 1);
}

#[tokio::test]
async fn request_to_a_worker_is_in_the_form_that_the_deployed_one_reads() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    pool.complete(&["out=o.txt:1"]).await;
    let submit = standin.seen("POST /submit").remove(0);
    let value =
        |name: &str| submit.header_lines.iter().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    assert_eq!(value("Content-Length: "), Some(submit.body_bytes.to_string()));
    let content_type = value("Content-Type: ").expect("a type");
    assert!(content_type.starts_with("multipart/form-data; boundary=") && !content_type.contains('"'));
    for name in ["Transfer-Encoding", "Expect"] {
        assert_eq!(value(name), None);
    }
    let file = &submit.submission.expect("a form").files[0];
    assert!(file.head.contains("Content-Disposition: form-data; name=\"files\"; filename=\"main.py\""));
}

#[tokio::test]
async fn deployed_worker_gets_one_request_per_connection_with_title_case_headers_that_have_values() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let job = pool.complete(&["out=o.txt:1"]).await;
    let download =
        crate::wire::Call::get(&format!("/outputs/{job}/o.txt")).header("accept", "").header("x-a", "1");
    pool.call(download).await;
    let seen = standin.seen("");
    let connections: HashSet<u64> = seen.iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), seen.len());
    for line in seen.iter().flat_map(|seen| &seen.header_lines) {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        let title = name.split('-').all(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
        assert!(title && !value.trim().is_empty(), "{line}");
    }
}

#[tokio::test]
async fn payload_reaches_the_worker_byte_for_byte_whatever_its_size() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    // Around the size from which a payload is kept in a file of its own.
    for size in [0, 1, 65_000, 65_535, 65_536, 65_537, 3_000_000] {
        let bytes: Vec<u8> = payload().into_iter().cycle().take(size).collect();
        let job =
            pool.submit(&[("main.py", b"1"), ("data.bin", &bytes)], &json!({"entrypoint": "main.py"})).await;
        pool.finished(&job).await;
        let submission = standin.submissions().pop().expect("a submit");
        assert_eq!(submission.files[1].sha256, sha256(&bytes), "{size} bytes");
    }
}

#[tokio::test]
async fn manifest_is_sent_with_the_five_keys_that_the_worker_reads_first() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let manifest = r#"{"env": {"entrypoint": "evil.py"}, "requirements": ["x"], "outputs": ["*.txt"],
        "args": ["id=m"], "x-own": {"args": ["no"]}, "environment": "ml", "interpreter": "bash", "entrypoint": "main.py"}"#;
    pool.call(form(&[("main.py", b"1")], Some(manifest))).await.expect(200);
    ran(&standin, 1).await;
    let submission = standin.submissions().remove(0);
    assert_eq!((submission.entrypoint.as_str(), submission.interpreter.as_str()), ("main.py", "bash"));
    assert_eq!(submission.args, ["id=m"]);
    let sent: Value = serde_json::from_str(&submission.manifest).expect("JSON");
    let keys: Vec<&String> = sent.as_object().expect("an object").keys().collect();
    assert_eq!(keys[..5], ["entrypoint", "interpreter", "environment", "args", "outputs"]);
    assert_eq!(keys[5..], ["env", "requirements", "x-own"]);
    let client: Value = serde_json::from_str(manifest).expect("JSON");
    assert_eq!(sent, client);
}

#[tokio::test]
async fn accepted_job_reaches_an_idle_worker_at_once() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    pool.healthy(1).await;
    let mut waits = Vec::new();
    for at in 0..20 {
        let job = pool.run(&[]).await;
        let acknowledged = Instant::now();
        ran(&standin, at + 1).await;
        let sent = standin.seen("POST /submit")[at].at;
        waits.push(sent.saturating_duration_since(acknowledged));
        pool.finished(&job).await;
    }
    waits.sort();
    println!("acknowledged to sent: median {:?}, worst {:?}", waits[10], waits[19]);
    assert!(waits[10] < LATENCY_MAX);
}

#[tokio::test]
async fn worker_gets_no_more_jobs_than_it_says_it_takes() {
    let standin =
        Standin::start(Quirks { protocol: Protocol::Second { capacity: 2 }, ..Quirks::second() }).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    let mut jobs = Vec::new();
    for _ in 0..8 {
        jobs.push(pool.run(&["run_ms=50"]).await);
    }
    all_finished(&pool, &jobs).await;
    assert_eq!(standin.in_hand_peak(), 2);
}

#[tokio::test]
async fn slot_of_a_worker_that_is_long_polled_is_free_as_soon_as_the_job_ends() {
    let standin = Standin::start(Quirks::second()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(pool.run(&["run_ms=300"]).await);
    }
    all_finished(&pool, &jobs).await;
    let sent: Vec<Instant> = standin.seen("POST /submit").iter().map(|seen| seen.at).collect();
    let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("from one submit to the next, for jobs of 300 ms: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_millis(600)), "{gaps:?}");
}

#[tokio::test]
async fn freed_slot_takes_the_next_job_at_once() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    for _ in 0..6 {
        pool.run(&["run_ms=100"]).await;
    }
    ran(&standin, 6).await;
    // A run, the tick before it, and the calls that collect its results.
    let sent: Vec<Instant> = standin.seen("POST /submit").iter().map(|seen| seen.at).collect();
    let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("from one submit to the next, for jobs of 100 ms: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(2)), "{gaps:?}");
}
