//! Outputs that outlive their worker: fetched when the job has ended, and served from the pool's disk.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Fault, Quirks, Standin, pattern, pattern_sha256};
use crate::wire::{Answer, Call, Ended, Wire, sha256};

const MIB: u64 = 1024 * 1024;

async fn start(quirks: Quirks, extra: &str) -> (Standin, Pool) {
    let standin = Standin::start(quirks).await;
    let pool = Pool::start(&[standin.entry(4)], extra).await;
    (standin, pool)
}

/// The job's status once its outputs are there.
async fn outputs_are(pool: &Pool, job: &str, place: &str) -> Value {
    pool.wait_until(job, |status| status["outputs"] == place, SOON).await
}

/// A finished job whose outputs the pool keeps, and its worker gone for good.
async fn kept_job(outputs: &[&str]) -> (Pool, String) {
    let (standin, pool) = start(Quirks::brisk(), "").await;
    let job = pool.complete(outputs).await;
    outputs_are(&pool, &job, "kept").await;
    standin.stop().await;
    (pool, job)
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.head.header(name).unwrap_or_default()
}

fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its content");
        files.insert(name, bytes);
    }
    files
}

/// The files of outputs on the pool's disk, below this directory.
fn on_disk(pool: &Pool, below: &str) -> usize {
    let of_outputs = |(path, _): &&(PathBuf, u64)| path.to_string_lossy().contains(below);
    pool.payloads().iter().filter(of_outputs).count()
}

#[tokio::test]
async fn outputs_are_served_after_the_worker_is_gone() {
    let (pool, job) = kept_job(&["out=r/page.html:<b>hi</b>", "out=empty:", "out=a b%?.txt:two"]).await;
    for path in ["outputs", "download"] {
        let answer = pool.get(&format!("/{path}/{job}/r/page.html")).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "<b>hi</b>"));
        assert_eq!((header(&answer, "content-type"), header(&answer, "content-length")), ("text/html", "9"));
        assert_eq!(header(&answer, "content-disposition"), "attachment; filename=\"page.html\"");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "content-security-policy"), "sandbox");
        let empty = pool.get(&format!("/{path}/{job}/empty")).await;
        assert_eq!((empty.status(), empty.body.len(), empty.ended), (200, 0, Ended::Whole));
        assert_eq!(pool.get(&format!("/{path}/{job}/a%20b%25%3F.txt")).await.text(), "two");
        for other in ["none", "r", "r/page", "0"] {
            let problem = pool.get(&format!("/{path}/{job}/{other}")).await.expect(404);
            assert_eq!(problem["code"], "output_not_found");
        }
    }
    assert_eq!(pool.get(&format!("/outputs/{job}")).await.expect(200)["total_files"], 3);
}

#[tokio::test]
async fn outputs_are_served_after_the_worker_forgot_the_job() {
    let (standin, pool) = start(Quirks::brisk(), "").await;
    let job = pool.complete(&["out=o.txt:data"]).await;
    outputs_are(&pool, &job, "kept").await;
    standin.change(|quirks| quirks.forget_after = Some(Duration::ZERO));
    eventually("the worker forgets", SOON, async || (standin.known_jobs() == 0).then_some(())).await;
    let asked = standin.seen("GET /download/").len();
    assert_eq!(pool.get(&format!("/outputs/{job}/o.txt")).await.text(), "data");
    assert_eq!(pool.get(&format!("/download/{job}")).await.status(), 200);
    assert_eq!(standin.seen("GET /download/").len(), asked);
}

#[tokio::test]
async fn head_range_and_conditions_are_answered_from_disk() {
    let (pool, job) = kept_job(&["big=b.bin:1000000"]).await;
    let target = format!("/outputs/{job}/b.bin");
    let head = pool.call(Call::new("HEAD", &target)).await;
    assert_eq!((head.status(), header(&head, "content-length"), head.body.len()), (200, "1000000", 0));
    let tag = format!("\"{}\"", pattern_sha256(1_000_000));
    assert_eq!((header(&head, "etag"), header(&head, "accept-ranges")), (tag.as_str(), "bytes"));
    let ask = async |headers: &[(&str, &str)]| {
        let call = headers.iter().fold(Call::get(&target), |call, (name, value)| call.header(name, value));
        pool.call(call).await
    };
    let range = ("Range", "bytes=700000-700009");
    for headers in [&[range][..], &[range, ("If-Range", &tag)]] {
        let part = ask(headers).await;
        assert_eq!((part.status(), &part.body), (206, &pattern(700_000..700_010)));
        assert_eq!(header(&part, "content-range"), "bytes 700000-700009/1000000");
    }
    let whole = ask(&[range, ("If-Range", "\"other\"")]).await;
    assert!(whole.status() == 200 && whole.body == pattern(0..1_000_000));
    let past = ask(&[("Range", "bytes=1000000-")]).await;
    assert_eq!((past.status(), header(&past, "content-range")), (416, "bytes */1000000"));
    let same = ask(&[("If-None-Match", &tag)]).await;
    assert_eq!((same.status(), header(&same, "etag"), same.body.len()), (304, tag.as_str(), 0));
    assert_eq!(ask(&[("If-Match", "\"other\"")]).await.status(), 412);
}

#[tokio::test]
async fn archive_is_made_of_the_kept_files() {
    let (pool, job) = kept_job(&["out=r/o.txt:data", "out=empty:", "big=b.bin:3000000"]).await;
    let answer = pool.get(&format!("/download/{job}")).await;
    assert_eq!((answer.status(), answer.ended), (200, Ended::Whole));
    let wanted = [("r/o.txt", b"data".to_vec()), ("empty", vec![]), ("b.bin", pattern(0..3_000_000))];
    let wanted = BTreeMap::from(wanted.map(|(name, bytes)| (name.to_owned(), bytes)));
    assert!(unpacked(&answer.body) == wanted);
}

#[tokio::test]
async fn status_says_where_the_outputs_are_and_why_they_stay() {
    let (_standin, pool) = start(Quirks::brisk(), "outputs: {max_job_bytes: 1KiB}").await;
    let job = pool.run(&["run_ms=300", "big=b.bin:1025"]).await;
    assert_eq!(pool.status(&job).await.get("outputs"), None);
    pool.finished(&job).await;
    let status = pool.wait_until(&job, |status| status["outputs_reason"].is_string(), SOON).await;
    assert_eq!(status["outputs"], "on_worker");
    assert!(status["outputs_reason"].as_str().expect("words").contains("1025"), "{status}");
    assert_eq!(pool.get(&format!("/outputs/{job}/b.bin")).await.body, pattern(0..1025));
    let small = pool.complete(&["big=b.bin:1024"]).await;
    let status = outputs_are(&pool, &small, "kept").await;
    assert_eq!(status.get("outputs_reason"), None);
}

#[tokio::test]
async fn oldest_outputs_make_room_for_the_new() {
    let (_standin, pool) = start(Quirks::brisk(), "outputs: {max_total_bytes: 10KiB}").await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = pool.complete(&["big=b.bin:4096"]).await;
        outputs_are(&pool, &job, "kept").await;
        jobs.push(job);
    }
    outputs_are(&pool, &jobs[0], "expired").await;
    for target in [format!("/outputs/{}/b.bin", jobs[0]), format!("/download/{}", jobs[0])] {
        let problem = pool.get(&target).await.expect(410);
        assert_eq!(problem["code"], "output_expired", "{problem}");
    }
    for job in &jobs[1..] {
        assert_eq!(pool.get(&format!("/outputs/{job}/b.bin")).await.body, pattern(0..4096));
    }
    eventually("two files are left", SOON, async || (on_disk(&pool, "/outputs/") == 2).then_some(())).await;
}

#[tokio::test]
async fn what_is_not_what_the_worker_stated_is_not_kept() {
    let (standin, pool) = start(Quirks::brisk(), "").await;
    for (body, word) in [("dada", "SHA-256"), ("dat", "bytes")] {
        let other = Fault::Answer { status: 200, headers: Vec::new(), body: body.into() };
        standin.fail("GET /download/", 1, other);
        let job = pool.complete(&["out=o.txt:data"]).await;
        let status = pool.wait_until(&job, |status| status["outputs_reason"].is_string(), SOON).await;
        assert_eq!(status["outputs"], "on_worker");
        assert!(status["outputs_reason"].as_str().expect("words").contains(word), "{status}");
        assert_eq!(pool.get(&format!("/outputs/{job}/o.txt")).await.text(), "data");
    }
    assert_eq!(on_disk(&pool, "/outputs/"), 0);
}

#[tokio::test]
async fn outputs_that_the_worker_no_longer_has_are_expired() {
    let (standin, pool) = start(Quirks::brisk(), "").await;
    standin.fail("GET /download/", 1, Fault::error(404, "Job not found"));
    let job = pool.complete(&["out=o.txt:data"]).await;
    outputs_are(&pool, &job, "expired").await;
    assert_eq!(pool.get(&format!("/outputs/{job}/o.txt")).await.expect(410)["code"], "output_expired");
    assert_eq!(pool.get(&format!("/outputs/{job}")).await.expect(200)["total_files"], 1);
}

#[tokio::test]
async fn worker_that_fails_for_a_while_is_asked_again() {
    for fault in [Fault::CloseBeforeTaking, Fault::CutBody(2), Fault::error(500, "busy")] {
        let (standin, pool) = start(Quirks::brisk(), "").await;
        standin.fail("GET /download/", 2, fault);
        let job = pool.complete(&["out=o.txt:data"]).await;
        outputs_are(&pool, &job, "kept").await;
        assert_eq!(pool.get(&format!("/outputs/{job}/o.txt")).await.text(), "data");
    }
}

#[tokio::test]
async fn outputs_of_a_lost_worker_are_given_up() {
    let (standin, pool) = start(Quirks::brisk(), "worker_lost_after: 1s").await;
    standin.fail("GET /download/", 1000, Fault::CloseBeforeTaking);
    let job = pool.complete(&["out=o.txt:data"]).await;
    assert_eq!(pool.status(&job).await["outputs"], "on_worker");
    standin.stop().await;
    outputs_are(&pool, &job, "expired").await;
}

#[tokio::test]
async fn collection_that_a_kill_cuts_off_is_made_up_for() {
    let size = 64 * MIB;
    let (_standin, mut pool) = start(Quirks::brisk(), "").await;
    let job = pool.complete(&["out=a.txt:a", &format!("big=b.bin:{size}")]).await;
    let coming = || on_disk(&pool, "/outputs/incoming/") == 2;
    eventually("the second file comes in", SOON, async || coming().then_some(())).await;
    pool.kill9().await;
    assert!(on_disk(&pool, "/outputs/incoming/") > 0, "the kill came too late");
    pool.restart().await;
    outputs_are(&pool, &job, "kept").await;
    assert_eq!(sha256(&pool.get(&format!("/outputs/{job}/b.bin")).await.body), pattern_sha256(size));
    assert_eq!(on_disk(&pool, "/outputs/"), 2);
}

#[tokio::test]
async fn slow_downloads_delay_no_dispatch() {
    for quirks in [Quirks::brisk(), Quirks::second()] {
        let (standin, pool) = start(quirks, "").await;
        standin.fail("GET /download/", 1, Fault::Late(Duration::from_secs(4)));
        let first = pool.complete(&["out=o.txt:data"]).await;
        let started = Instant::now();
        for _ in 0..3 {
            pool.complete(&["out=o.txt:data"]).await;
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert_eq!(pool.status(&first).await["outputs"], "on_worker");
        outputs_are(&pool, &first, "kept").await;
    }
}

#[tokio::test]
async fn keeping_and_serving_200_mib_costs_less_than_64_mib_of_memory() {
    let size = 200 * MIB;
    let (_standin, pool) = start(Quirks::brisk(), "").await;
    let job = pool.complete(&[&format!("big=b.bin:{size}")]).await;
    outputs_are(&pool, &job, "kept").await;
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&Call::get(&format!("/outputs/{job}/b.bin")).to_bytes()).await.unwrap();
    let mut bytes = 0;
    let (head, ended) = wire.read_answer("GET", |piece| bytes += piece.len() as u64).await.unwrap();
    assert_eq!((head.status, ended, bytes), (200, Ended::Whole, size));
    println!("peak RSS {} MiB", pool.rss_peak() / MIB);
    assert!(pool.rss_peak() < 64 * MIB, "{} MiB", pool.rss_peak() / MIB);
}

#[tokio::test]
async fn outputs_expire_when_they_were_kept_long_enough() {
    let (_standin, mut pool) = start(Quirks::brisk(), "outputs: {keep: 1s}").await;
    let job = pool.complete(&["out=o.txt:data"]).await;
    outputs_are(&pool, &job, "kept").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    pool.kill9().await;
    pool.restart().await;
    outputs_are(&pool, &job, "expired").await;
    eventually("its files go", SOON, async || (on_disk(&pool, "/outputs/") == 0).then_some(())).await;
}

#[tokio::test]
async fn retried_job_leaves_what_its_first_run_made() {
    let (_standin, pool) = start(Quirks::brisk(), "").await;
    let job = pool.run(&["exit=1", "out=o.txt:data"]).await;
    outputs_are(&pool, &job, "kept").await;
    assert_eq!(pool.call(Call::post(&format!("/retry/{job}"), "")).await.status(), 200);
    let again = |status: &Value| status["attempts"] == 2 && status["outputs"] == "kept";
    pool.wait_until(&job, again, SOON).await;
    assert_eq!(pool.get(&format!("/outputs/{job}/o.txt")).await.text(), "data");
    assert_eq!(on_disk(&pool, "/outputs/"), 1);
}
