//! The list of workers, changed under a running pool.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bodies;
use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Identity, Quirks, Standin};
use crate::tls::{Shown, TlsFront, fresh_key};
use crate::wire::Call;
use crate::worker::Worker;

const HOST: &str = "127.0.0.1";

/// Jobs long enough that a list is read again while they run.
const LONG: &str = "run_ms=2500";

/// Replaces the pool's list of workers, as an editor does.
fn rewrite(pool: &Pool, text: &str) {
    let (new, list) = (pool.dir().join("new.json"), pool.dir().join("workers.json"));
    fs::write(&new, text).expect("a writable directory");
    fs::rename(&new, &list).expect("a writable directory");
}

fn list(pool: &Pool, workers: &[Value]) {
    rewrite(pool, &Value::from(workers).to_string());
}

/// The worker's entry in `/pool`, if it is there.
async fn member(pool: &Pool, standin: &Standin) -> Option<Value> {
    let answer = pool.get("/pool").await.expect(200);
    let workers = answer["workers"].as_array().expect("workers");
    workers.iter().find(|worker| worker["worker_id"] == standin.worker_id()).cloned()
}

async fn gone(pool: &Pool, standin: &Standin) {
    eventually("the worker is gone", SOON, async || member(pool, standin).await.is_none().then_some(()))
        .await;
}

async fn removed(pool: &Pool, standin: &Standin) -> Value {
    pool.worker_until(standin.worker_id(), |worker| worker["removed_at"].is_f64()).await
}

async fn logged(pool: &Pool, text: &str) {
    eventually(&format!("the log says {text:?}"), SOON, async || pool.log().contains(text).then_some(()))
        .await;
}

async fn running(pool: &Pool, job: &str) {
    pool.wait_until(job, |status| status["pool_status"] == "running", SOON).await;
}

async fn two() -> (Standin, Standin) {
    (Standin::start(Quirks::second()).await, Standin::start(Quirks::second()).await)
}

#[tokio::test]
async fn worker_that_is_added_gets_jobs_after_a_change_or_a_hangup() {
    for hangup in [None, Some(Signal::SIGHUP)] {
        let (a, b) = two().await;
        let pool = Pool::start(&[a.entry(1)], "health: {interval: 1h, timeout: 1s}\n").await;
        pool.healthy(1).await;
        let first = pool.run(&[LONG]).await;
        running(&pool, &first).await;
        list(&pool, &[a.entry(1), b.entry(1)]);
        hangup.into_iter().for_each(|signal| pool.signal(signal));
        let second = pool.complete(&["out=r.txt:hi"]).await;
        assert_eq!(pool.status(&second).await["worker_id"], b.worker_id());
        assert_eq!(pool.finished(&first).await["pool_status"], "completed");
        assert_eq!((a.ran().len(), b.ran().len()), (1, 1));
    }
}

#[tokio::test]
async fn worker_that_is_removed_brings_its_job_to_an_end_gets_no_more_and_is_gone() {
    for quirks in [Quirks::second(), Quirks::tame()] {
        let (a, b) = (Standin::start(quirks).await, Standin::start(Quirks::second()).await);
        let pool = Pool::start(&[a.entry(2)], "").await;
        let job = pool.run(&[LONG, "out=r.txt:kept", "stdout=said"]).await;
        running(&pool, &job).await;
        list(&pool, &[b.entry(2)]);
        let worker = removed(&pool, &a).await;
        let reason = "it was removed from the list of workers";
        assert_eq!(
            (&worker["draining"]["reason"], &worker["active_jobs"], &worker["is_healthy"]),
            (&json!(reason), &json!(1), &json!(true))
        );
        let status = pool.status(&job).await;
        assert_eq!(
            (&status["pool_status"], &status["worker_status"]["status"]),
            (&json!("running"), &json!("running"))
        );
        for _ in 0..3 {
            pool.complete(&[]).await;
        }
        let status = pool.finished(&job).await;
        assert_eq!(
            (&status["pool_status"], &status["worker_id"]),
            (&json!("completed"), &json!(a.worker_id()))
        );
        gone(&pool, &a).await;
        assert_eq!(pool.get(&format!("/outputs/{job}/r.txt")).await.body, b"kept");
        assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "said");
        assert_eq!((a.submissions().len(), b.submissions().len()), (1, 3));
        // Nobody asks it any more.
        let asked = a.seen("").len();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(a.seen("").len(), asked);
    }
}

#[tokio::test]
async fn worker_that_is_removed_and_added_again_gets_jobs_unless_it_was_drained() {
    let (a, b) = two().await;
    let pool = Pool::start(&[a.entry(1), b.entry(1)], "").await;
    pool.healthy(2).await;
    for worker in [&a, &b] {
        let key = worker.worker_id().replace('+', "-").replace('/', "_").replace('=', "");
        if worker.worker_id() == b.worker_id() {
            pool.call(Call::post(&format!("/workers/{key}/drain"), "")).await.expect(200);
        }
        let other = if worker.worker_id() == a.worker_id() { &b } else { &a };
        list(&pool, &[other.entry(1)]);
        gone(&pool, worker).await;
        list(&pool, &[a.entry(1), b.entry(1)]);
        pool.healthy(2).await;
    }
    for _ in 0..3 {
        pool.complete(&[]).await;
    }
    assert_eq!((a.ran().len(), b.ran().len()), (3, 0));
}

#[tokio::test]
async fn limit_and_labels_change_under_a_running_job() {
    let a = Standin::start(Quirks::second()).await;
    let pool = Pool::start(&[a.entry(1)], "").await;
    let first = pool.run(&[LONG]).await;
    running(&pool, &first).await;
    let second = pool.run(&[LONG]).await;
    let mut entry = a.entry(2);
    entry["labels"] = json!({"gpu": "a100"});
    list(&pool, &[entry]);
    running(&pool, &second).await;
    let worker = pool.worker(a.worker_id()).await;
    assert_eq!(
        (&worker["active_jobs"], &worker["max_concurrent_jobs"], &worker["labels"]["gpu"]),
        (&json!(2), &json!(2), &json!("a100"))
    );
    list(&pool, &[a.entry(1)]);
    pool.worker_until(a.worker_id(), |worker| worker["max_concurrent_jobs"] == 1).await;
    for job in [&first, &second] {
        assert_eq!(pool.finished(job).await["pool_status"], "completed");
    }
}

#[tokio::test]
async fn job_that_only_a_removed_worker_could_run_says_so_and_waits() {
    let (a, b) = two().await;
    let mut with_gpu = a.entry(1);
    with_gpu["labels"] = json!({"gpu": "a100"});
    let pool = Pool::start(&[with_gpu.clone(), b.entry(1)], "").await;
    let manifest = json!({"entrypoint": "main.py", "args": [LONG], "requires": {"gpu": "a100"}});
    let files: &[(&str, &[u8])] = &[("main.py", b"1")];
    let first = pool.submit(files, &manifest).await;
    running(&pool, &first).await;
    let second = pool.submit(files, &manifest).await;
    list(&pool, &[b.entry(1)]);
    removed(&pool, &a).await;
    let status = pool.status(&second).await;
    let reason = "no worker in the list has label gpu=a100; it waits until one that has is added";
    assert_eq!((&status["pool_status"], &status["reason"]), (&json!("queued"), &json!(reason)));
    let refused = pool.call(bodies::form(files, Some(&manifest.to_string()))).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(pool.finished(&first).await["pool_status"], "completed");
    gone(&pool, &a).await;
    assert_eq!(pool.status(&second).await["pool_status"], "queued");
    list(&pool, &[with_gpu, b.entry(1)]);
    assert_eq!(pool.finished(&second).await["worker_id"], a.worker_id());
}

// --- another endpoint ---

#[tokio::test]
async fn worker_that_moves_is_followed_to_where_it_has_shown_who_it_is() {
    let a = Standin::start(Quirks::second()).await;
    let (here, there) = (Shown::of(a.key()), Shown::of(a.key()));
    let front = TlsFront::start(&here, a.address()).await;
    let pool = Pool::start(&[front.entry(a.key(), HOST)], "").await;
    let job = pool.run(&[LONG, "out=r.txt:moved"]).await;
    running(&pool, &job).await;
    let new = TlsFront::start(&there, a.address()).await;
    list(&pool, &[new.entry(a.key(), HOST)]);
    assert_eq!(pool.finished(&job).await["pool_status"], "completed");
    assert_eq!(pool.get(&format!("/outputs/{job}/r.txt")).await.body, b"moved");
    let taken = here.taken();
    pool.complete(&[]).await;
    assert_eq!((here.taken(), a.ran().len()), (taken, 2));
    assert!(there.taken() > 0);
}

#[tokio::test]
async fn address_of_an_impostor_gets_not_a_byte_of_any_job() {
    let (a, impostor) = two().await;
    let front = TlsFront::start(&Shown::of(a.key()), a.address()).await;
    let other = Shown::of(&fresh_key());
    let behind = TlsFront::start(&other, impostor.address()).await;
    let pool = Pool::start(&[front.entry(a.key(), HOST)], "").await;
    let job = pool.run(&[LONG, "out=r.txt:mine"]).await;
    running(&pool, &job).await;
    list(&pool, &[behind.entry(a.key(), HOST)]);
    pool.healthy(0).await;
    let waiting = pool.run(&[]).await;
    pool.get(&format!("/outputs/{job}/r.txt")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((other.taken(), impostor.seen("").len()), (0, 0));
    assert_eq!(pool.status(&waiting).await["pool_status"], "queued");
    list(&pool, &[front.entry(a.key(), HOST)]);
    for job in [&job, &waiting] {
        assert_eq!(pool.finished(job).await["pool_status"], "completed");
    }
    assert_eq!((other.taken(), impostor.seen("").len()), (0, 0));
}

/// Moves a worker with a running job to an impostor's address and back, and sees to it that only its health was asked there.
async fn only_health_is_asked_at(impostor: &Standin, pool: &Pool, worker: Value, job: &str) {
    running(pool, job).await;
    let mut entry = worker.clone();
    entry["endpoint"] = json!(format!("http://{}", impostor.address()));
    list(pool, &[entry]);
    pool.healthy(0).await;
    pool.run(&[]).await;
    pool.get(&format!("/logs/{job}")).await;
    // A job's worker is asked for its status every second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(impostor.seen("").len(), impostor.seen("GET /health").len());
    list(pool, &[worker]);
    assert_eq!(pool.finished(job).await["pool_status"], "completed");
}

#[tokio::test]
async fn impostor_in_the_clear_that_has_another_name_is_asked_who_it_is_and_nothing_else() {
    let a = Standin::start(Quirks::tame()).await;
    let impostor = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[a.entry(1)], "").await;
    let job = pool.run(&["run_ms=5000"]).await;
    only_health_is_asked_at(&impostor, &pool, a.entry(1), &job).await;
}

#[tokio::test]
async fn impostor_in_the_clear_that_cannot_prove_its_name_is_asked_who_it_is_and_nothing_else() {
    let (worker, impostor) = (Worker::start(2).await, Standin::start(Quirks::second()).await);
    impostor.change(|quirks| quirks.identity = Identity::Other(worker.worker_id().to_owned()));
    let pool = Pool::start(&[worker.entry()], "trust: {require: proved}\n").await;
    let sleeps: &[(&str, &[u8])] = &[("main.py", b"import time; time.sleep(5)")];
    let job = pool.submit(sleeps, &json!({"entrypoint": "main.py"})).await;
    only_health_is_asked_at(&impostor, &pool, worker.entry(), &job).await;
}

// --- what the list says ---

#[tokio::test]
async fn list_that_is_wrong_changes_nothing_and_is_told() {
    let (a, b) = two().await;
    let pool = Pool::start(&[a.entry(1)], "").await;
    let twice = Value::from([a.entry(1), b.entry(1), a.entry(2)]).to_string();
    let key = json!([{"worker_id": "AAAA", "endpoint": "http://127.0.0.1:1"}]).to_string();
    for (text, why) in [
        ("", "the file is empty"),
        ("[{", "cannot be read"),
        (&twice, "workers[2]: has the same worker_id as workers[0]"),
        (&key, "workers[0].worker_id: \"AAAA\" is no worker id"),
        ("[]", "lists no worker"),
    ] {
        rewrite(&pool, text);
        logged(&pool, why).await;
        assert!(pool.log().contains("what was read before stays in force"));
        assert_eq!(pool.get("/pool").await.expect(200)["total_workers"], 1);
        pool.complete(&[]).await;
    }
    fs::remove_file(pool.dir().join("workers.json")).expect("it was there");
    pool.signal(Signal::SIGHUP);
    logged(&pool, "No such file").await;
    pool.complete(&[]).await;
    list(&pool, &[a.entry(1), b.entry(1)]);
    pool.healthy(2).await;
}

#[tokio::test]
async fn what_is_new_is_logged_in_one_line_and_recorded_in_one() {
    let (a, b) = two().await;
    let pool = Pool::start(&[a.entry(1)], "").await;
    pool.signal(Signal::SIGHUP);
    logged(&pool, "read again: 1 workers in").await;
    assert!(pool.log().contains("workers.json: no change"), "{}", pool.log());
    list(&pool, &[b.entry(1)]);
    logged(&pool, &format!("added {}; removed {}", b.worker_id(), a.worker_id())).await;
    let audit = || fs::read_to_string(pool.data().join("audit.log")).unwrap_or_default();
    let lines = eventually("it is recorded", SOON, async || {
        let audit = audit();
        let of_lists = audit.lines().filter(|line| line.contains("\"workers_change\"")).map(str::to_owned);
        Some(of_lists.collect::<Vec<_>>()).filter(|lines| !lines.is_empty())
    })
    .await;
    let line: Value = serde_json::from_str(&lines[0]).expect("a line");
    assert_eq!(
        (lines.len(), &line["about"]["added"], &line["about"]["removed"]),
        (1, &json!([b.worker_id()]), &json!([a.worker_id()]))
    );
}

#[tokio::test]
async fn list_within_the_configuration_is_read_again_too() {
    let (a, b) = two().await;
    let mut pool = Pool::start(&[a.entry(1)], "").await;
    pool.kill9().await;
    let config = pool.dir().join("pool.yaml");
    let text = fs::read_to_string(&config).expect("a configuration");
    let rest: String =
        text.lines().filter(|line| !line.starts_with("workers:")).map(|line| format!("{line}\n")).collect();
    let inline = |workers: &[Value]| format!("{rest}workers: {}\n", Value::from(workers));
    fs::write(&config, inline(&[a.entry(1)])).expect("a writable directory");
    pool.restart().await;
    fs::write(&config, inline(&[a.entry(1), b.entry(1)])).expect("a writable directory");
    pool.healthy(2).await;
    fs::write(&config, format!("{}colour: red\n", inline(&[b.entry(1)]))).expect("a writable directory");
    logged(&pool, "colour: unknown key").await;
    assert_eq!(pool.get("/pool").await.expect(200)["total_workers"], 2);
    fs::write(&config, inline(&[b.entry(1)])).expect("a writable directory");
    gone(&pool, &a).await;
}

// --- a restart in between ---

#[tokio::test]
async fn job_of_a_removed_worker_is_lost_to_a_restart_as_its_terms_say_and_not_forgotten() {
    for on_lost in ["fail", "retry"] {
        let (a, b) = two().await;
        let mut pool = Pool::start(&[a.entry(1)], &format!("on_worker_lost: {on_lost}\n")).await;
        let job = pool.run(&["run_ms=600000", "id=long"]).await;
        running(&pool, &job).await;
        list(&pool, &[b.entry(1)]);
        removed(&pool, &a).await;
        pool.kill9().await;
        pool.restart().await;
        if on_lost == "fail" {
            let failed = pool.failed(&job, "worker_lost").await;
            let message = format!("worker {} is no longer in the allowlist", a.worker_id());
            assert_eq!(failed["error"]["message"], message);
            pool.call(Call::post(&format!("/retry/{job}"), "")).await.expect(200);
        }
        let there = pool.wait_until(&job, |status| status["pool_status"] == "running", SOON).await;
        assert_eq!(there["worker_id"], b.worker_id(), "{on_lost}");
        assert!(member(&pool, &a).await.is_none());
    }
}
