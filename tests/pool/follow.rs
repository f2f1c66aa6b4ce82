//! Jobs are followed to their end whether or not anybody asks, and what they left is kept.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Pool, SOON, eventually, is_final};
use crate::standin::{Quirks, Standin, TICK};
use crate::wire::Call;

async fn brisk_pool(extra: &str) -> (Standin, Pool) {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(4)], extra).await;
    pool.healthy(1).await;
    (standin, pool)
}

async fn running(standin: &Standin) {
    eventually("the job runs", SOON, async || (!standin.ran().is_empty()).then_some(())).await;
}

#[tokio::test]
async fn jobs_end_and_free_their_slots_though_nobody_polls() {
    for quirks in [Quirks::brisk(), Quirks::tame()] {
        let standin = Standin::start(quirks).await;
        let pool = Pool::start(&[standin.entry(2)], "").await;
        for _ in 0..8 {
            pool.run(&["run_ms=20"]).await;
        }
        eventually("all jobs ran", SOON, async || (standin.ran().len() == 8).then_some(())).await;
        pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
        let jobs = pool.get("/jobs?status=completed").await.expect(200);
        assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(8));
    }
}

#[tokio::test]
async fn active_jobs_is_right_while_jobs_run() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    pool.run(&["run_ms=700"]).await;
    pool.run(&["run_ms=100"]).await;
    for active in [2, 1, 0] {
        pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == active).await;
    }
}

#[tokio::test]
async fn job_with_a_non_zero_exit_has_failed_as_job_failed() {
    let (_standin, pool) = brisk_pool("").await;
    let job = pool.run(&["exit=3", "stderr=boom"]).await;
    let status = pool.failed(&job, "job_failed").await;
    assert!(status["error"]["message"].as_str().is_some_and(|text| text.contains('3')), "{status}");
    assert_eq!(status["worker_status"]["execution_metadata"]["exit_code"], 3);
    assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stderr"], "boom");
}

#[tokio::test]
async fn status_logs_and_listing_outlive_the_workers_memory_of_the_job() {
    let (standin, pool) = brisk_pool("").await;
    let job = pool.complete(&["stdout=hello", "out=r/o.txt:data"]).await;
    let status = pool.status(&job).await;
    standin.restart().await;
    standin.stop().await;
    let after = pool.status(&job).await;
    assert_eq!(after["worker_status"], status["worker_status"]);
    assert_eq!(after["worker_status"]["output_files"]["r/o.txt"]["size_bytes"], 4);
    assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "hello");
    let listing = pool.get(&format!("/outputs/{job}")).await.expect(200);
    assert_eq!((&listing["total_files"], &listing["files"][0]["name"]), (&json!(1), &json!("r/o.txt")));
}

#[tokio::test]
async fn results_are_collected_before_the_worker_forgets_them() {
    let standin =
        Standin::start(Quirks { forget_after: Some(Duration::from_secs(3)), ..Quirks::brisk() }).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    let mut jobs = Vec::new();
    for _ in 0..8 {
        jobs.push(pool.run(&["run_ms=500", "stdout=kept"]).await);
    }
    for job in jobs {
        assert_eq!(pool.finished(&job).await["pool_status"], "completed");
        assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "kept");
    }
}

#[tokio::test]
async fn worker_that_is_silent_while_it_runs_a_job_stays_healthy() {
    let (standin, pool) =
        brisk_pool("status_timeout: 100ms\nhealth: {interval: 100ms, timeout: 500ms}").await;
    let job = pool.run(&["run_ms=2000"]).await;
    running(&standin).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        let worker = pool.worker(standin.worker_id()).await;
        assert_eq!((&worker["is_healthy"], &worker["active_jobs"]), (&json!(true), &json!(1)), "{worker}");
        let status = pool.status(&job).await;
        assert!(!is_final(&status), "{status}");
        tokio::time::sleep(TICK).await;
    }
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
}

#[tokio::test]
async fn one_status_call_at_most_waits_at_a_worker_however_many_clients_ask() {
    let (standin, pool) = brisk_pool("status_timeout: 200ms").await;
    let job = pool.run(&["run_ms=1500"]).await;
    running(&standin).await;
    let poll = async || {
        while !is_final(&pool.status(&job).await) {}
    };
    let clients: Vec<_> = (0..20).map(|_| poll()).collect();
    futures_util::future::join_all(clients).await;
    assert_eq!(standin.open_peak("/status"), 1);
}

#[tokio::test]
async fn status_of_a_job_on_a_silent_worker_answers_within_two_and_a_half_seconds() {
    let (standin, pool) = brisk_pool("").await;
    let job = pool.run(&["run_ms=4000"]).await;
    running(&standin).await;
    for _ in 0..2 {
        let started = Instant::now();
        let status = pool.status(&job).await;
        assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
        assert!(matches!(status["pool_status"].as_str(), Some("dispatched" | "running")), "{status}");
        assert_eq!(status["worker_id"], standin.worker_id());
    }
}

#[tokio::test]
async fn status_of_a_running_job_is_the_workers_own_in_the_pools_envelope() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    let job = pool.run(&["run_ms=3000", "stdout=so far"]).await;
    let running = |status: &serde_json::Value| status["worker_status"]["status"] == "running";
    let status = pool.wait_until(&job, running, SOON).await;
    assert_eq!((&status["job_id"], &status["pool_status"]), (&json!(job), &json!("running")));
    assert_eq!(status["status"], status["pool_status"]);
    assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "so far");
}

#[tokio::test]
async fn job_that_its_worker_no_longer_knows_is_worker_lost() {
    for quirks in [Quirks::brisk(), Quirks::tame()] {
        let standin = Standin::start(quirks).await;
        let pool = Pool::start(&[standin.entry(2)], "").await;
        let job = pool.run(&["run_ms=60000"]).await;
        running(&standin).await;
        pool.wait_until(&job, |status| status["pool_status"] != "queued", SOON).await;
        standin.restart().await;
        pool.failed(&job, "worker_lost").await;
        pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
        assert_eq!(standin.ran().len(), 1);
    }
}

#[tokio::test]
async fn job_on_a_worker_that_stays_away_is_lost_after_the_configured_time() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(2)], "worker_lost_after: 2s").await;
    let job = pool.run(&["run_ms=60000"]).await;
    pool.wait_until(&job, |status| status["pool_status"] == "running", SOON).await;
    standin.stop().await;
    let started = Instant::now();
    pool.failed(&job, "worker_lost").await;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn job_on_a_worker_that_comes_back_in_time_ends_as_if_nothing_had_been() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(2)], "").await;
    let job = pool.run(&["run_ms=800", "stdout=done"]).await;
    pool.wait_until(&job, |status| status["pool_status"] == "running", SOON).await;
    standin.stop().await;
    pool.worker_until(standin.worker_id(), |worker| worker["is_healthy"] == false).await;
    let status = pool.status(&job).await;
    assert_eq!(status["pool_status"], "running", "{status}");
    standin.resume().await;
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
    assert_eq!(standin.ran().len(), 1);
}

#[tokio::test]
async fn log_over_the_limit_is_cut_and_says_so() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "history: {max_log_bytes: 1KiB}").await;
    let job = pool.complete(&[&format!("stdout={}", "x".repeat(5000)), "stderr=short"]).await;
    let answer = pool.call(Call::get(&format!("/logs/{job}"))).await;
    let logs = answer.expect(200);
    let kept = logs["stdout"].as_str().expect("text").matches('x').count();
    assert!((500..=1024).contains(&kept), "{kept}");
    assert_eq!(logs["stderr"], "short");
    assert!(answer.text().contains("truncat"), "{}", answer.text());
}
