//! What the package's own worker knows when it is back, whatever ended it.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bodies::form;
use crate::harness::{Pool, SOON, eventually};
use crate::wire::{Answer, Call};
use crate::worker::Worker;

async fn get(worker: &Worker, target: &str) -> Answer {
    Call::get(target).send(worker.address()).await.expect("an answer")
}

async fn submit(worker: &Worker, script: &str, key: &str) -> Answer {
    let call = form(&[("run.sh", script.as_bytes())], None).header("Idempotency-Key", key);
    call.send(worker.address()).await.expect("an answer")
}

async fn run(worker: &Worker, script: &str, key: &str) -> String {
    submit(worker, script, key).await.expect(200)["job_id"].as_str().expect("an id").to_owned()
}

async fn ended(worker: &Worker, job: &str) -> Value {
    get(worker, &format!("/status/{job}?wait=30")).await.expect(200)
}

#[tokio::test]
async fn killed_worker_knows_its_finished_jobs_and_that_those_that_ran_are_lost() {
    let mut worker = Worker::start(3).await;
    let done = run(&worker, "echo said; mkdir r; echo made > r/out; exit 3", "done").await;
    let before = ended(&worker, &done).await;
    let file = format!("/download/{done}/r/out");
    let tag = get(&worker, &file).await.head.header("etag").map(str::to_owned);
    let lost = run(&worker, "echo begun; sleep 600", "lost").await;
    eventually("it runs", SOON, async || {
        (get(&worker, &format!("/logs/{lost}")).await.json()["stdout"] == "begun\n").then_some(())
    })
    .await;
    // A third is on its way in and becomes no job.
    fs::create_dir(worker.data().join("jobs/job_1_1")).expect("a directory");
    worker.kill9().await;
    worker.restart().await;

    assert_eq!(ended(&worker, &done).await, before);
    assert_eq!(get(&worker, &format!("/logs/{done}")).await.expect(200)["stdout"], "said\n");
    let again = get(&worker, &file).await;
    assert_eq!((again.text().as_str(), again.head.header("etag")), ("made\n", tag.as_deref()));
    let listing = get(&worker, &format!("/outputs/{done}")).await.expect(200);
    assert_eq!((&listing["total_files"], &listing["files"][0]["name"]), (&json!(1), &json!("r/out")));

    let status = ended(&worker, &lost).await;
    assert_eq!((&status["status"], &status["reason"]), (&json!("failed"), &json!("worker_lost")), "{status}");
    assert_eq!(get(&worker, &format!("/logs/{lost}")).await.expect(200)["stdout"], "begun\n");
    assert_eq!(get(&worker, "/health").await.expect(200)["active"], 0);
    let mut parts: Vec<_> =
        fs::read_dir(worker.data().join("jobs").join(&lost)).expect("its directory").collect();
    parts.retain(|part| {
        part.as_ref().is_ok_and(|part| part.file_name() == "tmp" || part.file_name() == "upload")
    });
    assert!(parts.is_empty() && !worker.data().join("jobs/job_1_1").exists());
}

#[tokio::test]
async fn killed_worker_knows_the_keys_of_its_jobs_and_how_long_it_has_known_all() {
    let mut worker = Worker::start(1).await;
    let done = run(&worker, "true", "a key").await;
    ended(&worker, &done).await;
    let since = Instant::now();
    worker.kill9().await;
    worker.restart().await;
    let known = get(&worker, "/jobs?key=a%20key").await.expect(200);
    assert_eq!(known["jobs"], json!([{"job_id": done, "status": "completed"}]));
    assert_eq!(submit(&worker, "true", "a key").await.expect(200)["job_id"], done.as_str());
    let unknown = get(&worker, "/jobs?key=another").await.expect(200);
    assert_eq!(unknown["jobs"], json!([]));
    // Longer than this process has lived: what is absent never came.
    let remembers = unknown["remembers_seconds"].as_f64().expect("seconds");
    assert!(remembers > since.elapsed().as_secs_f64(), "{remembers}");
    // A lost one counts its age from its end, which is when the worker came back.
    let next = run(&worker, "true", "next").await;
    assert_eq!(ended(&worker, &next).await["status"], "completed");
}

#[tokio::test]
async fn stopped_worker_ends_in_time_and_knows_afterwards_what_it_has_killed() {
    let mut worker = Worker::start_with(2, &["--drain", "300ms"]).await;
    let done = run(&worker, "echo done", "done").await;
    ended(&worker, &done).await;
    let running = run(&worker, "sleep 600", "running").await;
    let since = Instant::now();
    let exit = worker.term().await;
    assert!(exit.success() && since.elapsed() < Duration::from_secs(10), "{exit} {:?}", since.elapsed());
    worker.restart().await;
    assert_eq!(ended(&worker, &done).await["status"], "completed");
    assert_eq!(ended(&worker, &running).await["reason"], "worker_stopped");
}

#[tokio::test]
async fn results_are_kept_over_restarts_for_as_long_as_they_were_promised_and_then_removed() {
    let mut worker = Worker::start_with(1, &["--keep", "2s"]).await;
    let done = run(&worker, "echo done > out", "done").await;
    ended(&worker, &done).await;
    worker.kill9().await;
    worker.restart().await;
    assert_eq!(get(&worker, &format!("/download/{done}/out")).await.status(), 200);
    let jobs = worker.data().join("jobs");
    eventually("it is forgotten", SOON, async || {
        (get(&worker, &format!("/status/{done}")).await.status() == 404).then_some(())
    })
    .await;
    eventually("it is removed", SOON, async || {
        fs::read_dir(&jobs).expect("a directory").next().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn pool_learns_at_once_what_a_killed_worker_has_lost_and_what_it_has_finished() {
    let mut worker = Worker::start(2).await;
    let pool = Pool::start(&[worker.entry()], "worker_lost_after: 10m").await;
    pool.healthy(1).await;
    let manifest = json!({"entrypoint": "run.sh", "interpreter": "sh"});
    let lost = pool.submit(&[("run.sh", b"sleep 600")], &manifest).await;
    let script = b"while [ ! -e go ]; do sleep 0.02; done; echo made > out";
    let done = pool.submit(&[("run.sh", script)], &manifest).await;
    for job in [&lost, &done] {
        pool.wait_until(job, |status| status["pool_status"] == "running", SOON).await;
    }
    for job in fs::read_dir(worker.data().join("jobs")).expect("jobs").flatten() {
        fs::write(job.path().join("work/go"), "").expect("a job's directory");
    }
    pool.wait_until(&done, |status| status["pool_status"] == "completed", SOON).await;
    worker.kill9().await;
    worker.restart().await;
    let status = pool.failed(&lost, "worker_lost").await;
    assert!(
        status["error"]["message"].as_str().is_some_and(|text| text.contains("while it ran")),
        "{status}"
    );
    assert_eq!(pool.get(&format!("/outputs/{done}/out")).await.text(), "made\n");
}
