//! What a crash, an orderly end and a signal do to jobs.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bodies::form;
use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Fault, Quirks, Standin, pattern_sha256};
use crate::wire::{Call, Ended, Wire, sha256};

/// One run per seed; a seed that failed is worth adding here.
const SEEDS: [u64; 3] = [1, 0xfeed, 0x2026];
const JOBS: usize = 60;
const KILLS: usize = 10;

/// A stream of numbers that is the same for the same seed.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Submits a job; nothing if the pool died before it acknowledged it.
async fn try_submit(pool: &Pool, name: &str, seeded: &mut Seeded) -> Option<String> {
    let manifest = json!({"entrypoint": "main.py",
        "args": [format!("id={name}"), format!("run_ms={}", seeded.below(300)), format!("stdout={name}")]});
    // Some are kept in the row, some in a file.
    let payload = vec![b'x'; usize::try_from(seeded.below(200_000)).expect("a size")];
    let call = form(&[("data.bin", &payload)], Some(&manifest.to_string()));
    let answer = call.send(pool.address()).await.ok()?;
    (answer.status() == 200).then(|| answer.json()["job_id"].as_str().expect("an id").to_owned())
}

/// Submits all jobs while the pool is killed again and again; gives back what was acknowledged, by name.
async fn submit_under_kills(pool: &mut Pool, seeded: &mut Seeded) -> HashMap<String, String> {
    let (mut acknowledged, mut submitted) = (HashMap::new(), 0);
    for round in 1..=KILLS {
        let life = Duration::from_millis(5 + seeded.below(100));
        let submitting = async {
            while submitted < JOBS * round / KILLS {
                let name = format!("job-{submitted}");
                submitted += 1;
                if let Some(id) = try_submit(pool, &name, seeded).await {
                    acknowledged.insert(name, id);
                }
            }
            std::future::pending::<()>().await;
        };
        let _ = tokio::time::timeout(life, submitting).await;
        pool.kill9().await;
        pool.restart().await;
    }
    while submitted < JOBS {
        let name = format!("job-{submitted}");
        submitted += 1;
        let id = try_submit(pool, &name, seeded).await.expect("nothing kills the pool now");
        acknowledged.insert(name, id);
    }
    acknowledged
}

/// Runs one seed on three workers of a kind; gives back how many jobs ended with an unknown outcome.
async fn survive(seed: u64, quirks: Quirks) -> usize {
    let mut standins = Vec::new();
    for _ in 0..3 {
        standins.push(Standin::start(quirks.clone()).await);
    }
    let entries: Vec<Value> = standins.iter().map(|standin| standin.entry(4)).collect();
    let mut pool = Pool::start(&entries, "").await;
    let acknowledged = submit_under_kills(&mut pool, &mut Seeded(seed)).await;
    let mut unknown = 0;
    for (name, id) in &acknowledged {
        let status = pool.finished(id).await;
        let lost_answer = status["error"]["code"] == "outcome_unknown";
        unknown += usize::from(lost_answer);
        assert!(lost_answer || status["pool_status"] == "completed", "{name}: {status}");
        let runs = standins.iter().flat_map(Standin::ran).filter(|ran| ran == name).count();
        assert!(runs <= 1 && (lost_answer || runs == 1), "{name} ran {runs} times: {status}");
    }
    println!("seed {seed:#x}: {} acknowledged, {unknown} of unknown outcome", acknowledged.len());
    idle(&pool, &standins).await;
    unknown
}

#[tokio::test]
async fn acknowledged_jobs_survive_kills_at_random_points_and_none_runs_twice() {
    for seed in SEEDS {
        println!("seed {seed:#x}");
        // A kill between a submit and its answer leaves what this worker cannot tell.
        survive(seed, Quirks::tame()).await;
    }
}

#[tokio::test]
async fn no_outcome_is_unknown_after_kills_where_workers_know_keys() {
    for seed in SEEDS {
        println!("seed {seed:#x}");
        assert_eq!(survive(seed, Quirks::second()).await, 0);
    }
}

/// Waits until no slot is busy.
async fn idle(pool: &Pool, standins: &[Standin]) {
    for standin in standins {
        pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
    }
}

#[tokio::test]
async fn queued_jobs_keep_their_order_over_a_kill() {
    let standin = Standin::start(Quirks::tame()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        pool.run(&[&format!("id={name}"), "run_ms=150"]).await;
    }
    eventually("the first runs", SOON, async || (!standin.ran().is_empty()).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    pool.kill9().await;
    pool.restart().await;
    eventually("all ran", SOON, async || (standin.ran().len() >= names.len()).then_some(())).await;
    assert_eq!(standin.ran(), names);
}

#[tokio::test]
async fn worker_has_no_more_jobs_than_its_limit_after_a_kill() {
    let standin = Standin::start(Quirks::second()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    // So that some kills come between a submit and its answer, and some after it.
    standin.fail("POST /submit", usize::MAX, Fault::Late(Duration::from_millis(100)));
    for _ in 0..20 {
        pool.run(&["run_ms=1000"]).await;
    }
    for kill in 0..15 {
        eventually("a job is there", SOON, async || (standin.unfinished() > 0).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(kill * 20)).await;
        pool.kill9().await;
        pool.restart().await;
        assert_eq!(standin.in_hand_peak(), 1, "after kill {kill}");
    }
}

#[tokio::test]
async fn running_job_is_followed_to_its_end_after_a_kill() {
    for quirks in [Quirks::brisk(), Quirks::tame()] {
        let standin = Standin::start(quirks).await;
        let mut pool = Pool::start(&[standin.entry(1)], "").await;
        let job = pool.run(&["run_ms=1000", "stdout=whole"]).await;
        pool.wait_until(&job, |status| status["pool_status"] == "running", SOON).await;
        pool.kill9().await;
        pool.restart().await;
        assert_eq!(pool.finished(&job).await["pool_status"], "completed");
        assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "whole");
        assert_eq!(standin.ran().len(), 1);
    }
}

#[tokio::test]
async fn large_payload_survives_a_kill_byte_for_byte() {
    let standin = Standin::start(Quirks::tame()).await;
    standin.stop().await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let payload: Vec<u8> = (0..=255_u8).cycle().take(2_000_000).collect();
    let job = pool.submit(&[("data.bin", &payload)], &json!({"entrypoint": "main.py"})).await;
    pool.kill9().await;
    standin.resume().await;
    pool.restart().await;
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
    assert_eq!(standin.submissions()[0].files[0].sha256, sha256(&payload));
}

#[tokio::test]
async fn results_and_keys_survive_a_kill() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let call = form(&[("main.py", b"1")], Some(r#"{"entrypoint":"main.py","args":["stdout=x"]}"#));
    let call = call.header("Idempotency-Key", "k");
    let first = pool.call(call.clone()).await.expect(200);
    let job = first["job_id"].as_str().expect("an id").to_owned();
    let before = pool.wait_until(&job, |status| status["outputs"] == "kept", SOON).await;
    pool.kill9().await;
    standin.stop().await;
    pool.restart().await;
    assert_eq!(pool.status(&job).await, before);
    assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "x");
    assert_eq!(pool.call(call).await.expect(200)["job_id"], first["job_id"]);
}

#[tokio::test]
async fn half_an_upload_is_swept_away_after_a_kill() {
    let standin = Standin::start(Quirks::tame()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let before = pool.payloads();
    let bytes = form(&[("big.bin", &vec![b'x'; 3_000_000])], Some(r#"{"entrypoint":"main.py"}"#)).to_bytes();
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&bytes[..bytes.len() - 100]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    pool.kill9().await;
    pool.restart().await;
    eventually("nothing is left", SOON, async || (pool.payloads() == before).then_some(())).await;
    assert_eq!(pool.get("/pool").await.expect(200)["total_jobs"], 0);
}

#[tokio::test]
async fn sigterm_ends_an_idle_pool_at_once_and_well() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let job = pool.complete(&[]).await;
    // A client that keeps its connection open and says nothing is idle, too.
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&Call::get("/pool").to_bytes()).await.unwrap();
    wire.read_answer("GET", |_| {}).await.unwrap();
    let (status, took) = pool.term().await;
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    pool.restart().await;
    assert_eq!(pool.status(&job).await["pool_status"], "completed");
}

#[tokio::test]
async fn sigterm_does_not_wait_for_running_jobs_and_they_go_on_after_a_restart() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let jobs = [pool.run(&["id=a", "run_ms=3000"]).await, pool.run(&["id=b"]).await];
    eventually("the first runs", SOON, async || (!standin.ran().is_empty()).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (status, took) = pool.term().await;
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    pool.restart().await;
    for job in &jobs {
        assert_eq!(pool.finished(job).await["pool_status"], "completed");
    }
    assert_eq!(standin.ran(), ["a", "b"]);
}

#[tokio::test]
async fn sigterm_lets_an_upload_finish_and_its_job_runs_after_the_restart() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let call = form(&[("big.bin", &vec![b'x'; 1_000_000])], Some(r#"{"entrypoint":"main.py"}"#));
    let bytes = call.to_bytes();
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&bytes[..500_000]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    pool.signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    wire.write(&bytes[500_000..]).await.unwrap();
    let mut body = Vec::new();
    let (head, ended) = wire.read_answer("POST", |piece| body.extend_from_slice(piece)).await.unwrap();
    assert_eq!((head.status, ended), (200, Ended::Whole));
    assert!(pool.exited(Duration::from_secs(5)).await.success());
    pool.restart().await;
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(pool.finished(answer["job_id"].as_str().expect("an id")).await["pool_status"], "completed");
}

#[tokio::test]
async fn sigterm_lets_a_download_finish() {
    let size = 64 * 1024 * 1024;
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let job = pool.complete(&[&format!("big=b.bin:{size}")]).await;
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&Call::get(&format!("/outputs/{job}/b.bin")).to_bytes()).await.unwrap();
    let head = wire.read_head().await.unwrap();
    pool.signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut body = Vec::new();
    let ended = wire.read_body(&head, "GET", |piece| body.extend_from_slice(piece)).await;
    assert_eq!((ended, sha256(&body)), (Ended::Whole, pattern_sha256(size)));
    assert!(pool.exited(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn sigterm_waits_no_longer_than_configured() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "server: {shutdown_timeout: 1s}").await;
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    let bytes = form(&[("main.py", b"1")], Some(r#"{"entrypoint":"main.py"}"#)).to_bytes();
    wire.write(&bytes[..bytes.len() - 10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (_status, took) = pool.term().await;
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn sigterm_takes_no_new_jobs() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let bytes = form(&[("main.py", b"1")], Some(r#"{"entrypoint":"main.py"}"#)).to_bytes();
    let mut uploading = Wire::connect(pool.address()).await.unwrap();
    uploading.write(&bytes[..bytes.len() - 10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    pool.signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let late = form(&[("main.py", b"1")], Some(r#"{"entrypoint":"main.py"}"#)).send(pool.address()).await;
    assert!(late.is_err() || late.is_ok_and(|answer| answer.status() == 503));
    drop(uploading);
    pool.exited(Duration::from_secs(12)).await;
}

#[tokio::test]
async fn sighup_does_not_end_the_pool() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    pool.signal(Signal::SIGHUP);
    tokio::time::sleep(Duration::from_millis(300)).await;
    pool.complete(&[]).await;
}

#[tokio::test]
async fn two_pools_do_not_share_a_data_directory() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    let second = tokio::time::timeout(SOON, pool.another_on_the_same_data()).await.expect("an end");
    assert!(!second.success());
    pool.complete(&[]).await;
}
