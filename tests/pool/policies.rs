//! What becomes of a job that is lost, or that nobody can tell of, by the pool's policies and by the job's own; and where it may run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bodies::form;
use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Fault, FilesUnder, Plan, Quirks, Standin};
use crate::wire::Call;
use crate::worker::Worker;

/// Longer than any test.
const FOR_EVER: &str = "run_ms=600000";

async fn pool_of(quirks: Quirks, jobs: usize, extra: &str) -> (Standin, Pool) {
    let standin = Standin::start(quirks).await;
    let pool = Pool::start(&[standin.entry(jobs)], extra).await;
    pool.healthy(1).await;
    (standin, pool)
}

/// Submits a job with more keys in its manifest.
async fn run_with(pool: &Pool, args: &[&str], more: &Value) -> String {
    let mut manifest = json!({"entrypoint": "main.py", "args": args});
    manifest.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    pool.submit(&[("main.py", b"print(1)")], &manifest).await
}

/// Waits until so many jobs are known to be running.
async fn running(pool: &Pool, jobs: &[&str]) {
    for job in jobs {
        pool.wait_until(job, |status| status["pool_status"] == "running", SOON).await;
    }
}

async fn completed(pool: &Pool, job: &str, attempts: u32) {
    let status = pool.finished(job).await;
    assert_eq!(
        (&status["pool_status"], &status["attempts"]),
        (&json!("completed"), &json!(attempts)),
        "{status}"
    );
}

// --- lost workers ---

#[tokio::test]
async fn job_of_a_lost_worker_runs_elsewhere_where_the_policy_says_so() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let first_run_hangs = |_: &_| {
        let hangs = RUNS.fetch_add(1, Ordering::Relaxed) == 0;
        Plan { run_for: Duration::from_secs(if hangs { 600 } else { 0 }), ..Plan::default() }
    };
    let standins = [
        Standin::scripted(Quirks::second(), first_run_hangs).await,
        Standin::scripted(Quirks::second(), first_run_hangs).await,
    ];
    let entries = standins.each_ref().map(|standin| standin.entry(1));
    let pool = Pool::start(&entries, "on_worker_lost: retry\nworker_lost_after: 1s").await;
    pool.healthy(2).await;
    let job = pool.run(&["id=once more"]).await;
    running(&pool, &[&job]).await;
    standins.iter().find(|standin| !standin.ran().is_empty()).expect("a worker that runs it").stop().await;
    completed(&pool, &job, 2).await;
    assert_eq!(standins.each_ref().map(Standin::ran), [["once more"], ["once more"]]);
}

#[tokio::test]
async fn job_that_is_lost_again_and_again_is_exhausted() {
    for quirks in [Quirks::tame(), Quirks::second()] {
        let (standin, pool) = pool_of(quirks, 1, "on_worker_lost: retry\nmax_attempts: 2").await;
        let job = pool.run(&[FOR_EVER]).await;
        for attempt in 1..=2 {
            let runs = |status: &Value| status["pool_status"] == "running" && status["attempts"] == attempt;
            pool.wait_until(&job, runs, SOON).await;
            standin.restart().await;
        }
        let status = pool.failed(&job, "dispatch_exhausted").await;
        assert_eq!((&status["attempts"], standin.ran().len()), (&json!(2), 2));
        pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
    }
}

#[tokio::test]
async fn answers_that_are_lost_again_and_again_exhaust_a_job() {
    let (standin, pool) = pool_of(Quirks::tame(), 1, "on_unknown: retry\nmax_attempts: 2").await;
    standin.fail("POST /submit", 2, Fault::CloseBeforeTaking);
    let job = pool.run(&[]).await;
    let status = pool.failed(&job, "dispatch_exhausted").await;
    assert_eq!((&status["attempts"], standin.seen("POST /submit").len()), (&json!(2), 2));
}

#[tokio::test]
async fn job_on_hold_waits_for_its_worker_however_long_that_is_away() {
    let (standin, pool) = pool_of(Quirks::tame(), 2, "on_worker_lost: hold\nworker_lost_after: 1s").await;
    let held = run_with(&pool, &["run_ms=100"], &json!({})).await;
    let other = run_with(&pool, &[FOR_EVER], &json!({"pool": {"on_worker_lost": "fail"}})).await;
    standin.fail("GET /status", 1 << 20, Fault::CloseBeforeTaking);
    running(&pool, &[&held, &other]).await;
    standin.stop().await;
    pool.failed(&other, "worker_lost").await;
    assert_eq!(pool.status(&held).await["pool_status"], "running");
    standin.heal();
    standin.resume().await;
    completed(&pool, &held, 1).await;
}

// --- a job's own terms ---

#[tokio::test]
async fn terms_of_a_job_win_over_the_pools() {
    for (pools, own) in [("fail", "retry"), ("retry", "fail")] {
        let (standin, pool) = pool_of(Quirks::tame(), 2, &format!("on_worker_lost: {pools}")).await;
        let plain = pool.run(&["id=plain", "run_ms=1500"]).await;
        let terms = json!({"pool": {"on_worker_lost": own}});
        let special = run_with(&pool, &["id=special", "run_ms=1500"], &terms).await;
        running(&pool, &[&plain, &special]).await;
        standin.restart().await;
        let (lost, again) = if own == "retry" { (plain, special) } else { (special, plain) };
        pool.failed(&lost, "worker_lost").await;
        completed(&pool, &again, 2).await;
        assert_eq!(standin.ran().len(), 3);
    }
}

#[tokio::test]
async fn job_may_say_that_an_answer_that_was_lost_is_sent_for_again_and_how_often() {
    let (standin, pool) = pool_of(Quirks::tame(), 1, "").await;
    for (max_attempts, code) in [(2, None), (1, Some("dispatch_exhausted"))] {
        standin.fail("POST /submit", 1, Fault::CloseBeforeTaking);
        let terms = json!({"pool": {"on_unknown": "retry", "max_attempts": max_attempts}});
        let job = run_with(&pool, &[], &terms).await;
        match code {
            None => completed(&pool, &job, 2).await,
            Some(code) => drop(pool.failed(&job, code).await),
        }
    }
    standin.fail("POST /submit", 1, Fault::CloseBeforeTaking);
    let job = pool.run(&[]).await;
    pool.failed(&job, "outcome_unknown").await;
}

#[tokio::test]
async fn job_may_say_how_long_it_waits() {
    let (_standin, pool) = pool_of(Quirks::tame(), 1, "queue_timeout: 1h").await;
    let first = pool.run(&[FOR_EVER]).await;
    running(&pool, &[&first]).await;
    let patient = pool.run(&[]).await;
    let hasty = run_with(&pool, &[], &json!({"pool": {"queue_timeout": 1}})).await;
    pool.failed(&hasty, "deadline_exceeded").await;
    assert_eq!(pool.status(&patient).await["pool_status"], "queued");
}

// --- labels ---

#[tokio::test]
async fn job_that_requires_a_label_waits_for_a_worker_that_has_it() {
    let (plain, labelled) = (Standin::start(Quirks::tame()).await, Standin::start(Quirks::tame()).await);
    let mut entry = labelled.entry(1);
    entry["labels"] = json!({"gpu": "a100", "zone": "b"});
    let pool = Pool::start(&[plain.entry(1), entry], "").await;
    pool.healthy(2).await;
    let requires = json!({"requires": {"gpu": "a100"}});
    let first = run_with(&pool, &["id=first", "run_ms=1000"], &requires).await;
    let second = run_with(&pool, &["id=second"], &requires).await;
    // Neither the label that is taken nor the job that waits for it holds up what runs anywhere.
    let anywhere = pool.run(&["id=anywhere"]).await;
    completed(&pool, &anywhere, 1).await;
    let status = pool.status(&second).await;
    assert_eq!(
        (&status["pool_status"], &status["reason"]),
        (&json!("queued"), &json!("1 healthy worker, at its limit"))
    );
    for job in [&first, &second] {
        completed(&pool, job, 1).await;
        assert_eq!(pool.status(job).await["worker_id"], labelled.worker_id());
    }
    assert_eq!(
        (plain.ran(), labelled.ran()),
        (vec!["anywhere".to_owned()], vec!["first".to_owned(), "second".to_owned()])
    );
}

// --- outputs ---

#[tokio::test]
async fn files_are_found_on_a_worker_that_has_them_under_outputs() {
    let quirks = Quirks { files_under: FilesUnder::Outputs, ..Quirks::tame() };
    for (keep, place) in [("0s", "on_worker"), ("1h", "kept")] {
        let (standin, pool) = pool_of(quirks.clone(), 1, &format!("outputs: {{keep: {keep}}}")).await;
        let job = pool.complete(&["out=r/a b.txt:hello"]).await;
        pool.wait_until(&job, |status| status["outputs"] == place, SOON).await;
        for path in ["outputs", "download"] {
            let answer = pool.get(&format!("/{path}/{job}/r/a%20b.txt")).await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"), "{place}");
        }
        assert!(!standin.seen("GET /download/").is_empty(), "the deployed worker's path comes first");
        assert_eq!(pool.get(&format!("/outputs/{job}/none.txt")).await.status(), 404);
        assert_eq!(pool.get(&format!("/download/{job}")).await.status(), 200);
    }
}

// --- cancel ---

#[tokio::test]
async fn cancel_is_passed_on_to_a_worker_that_knows_it_and_frees_the_slot() {
    let (standin, pool) = pool_of(Quirks::second(), 1, "").await;
    let job = pool.run(&["id=first", FOR_EVER]).await;
    running(&pool, &[&job]).await;
    let next = pool.run(&["id=next"]).await;
    assert_eq!(pool.call(Call::post(&format!("/cancel/{job}"), "")).await.status(), 200);
    completed(&pool, &next, 1).await;
    let status = pool.finished(&job).await;
    assert_eq!(
        (&status["pool_status"], standin.seen("POST /cancel/").len()),
        (&json!("cancelled"), 1),
        "{status}"
    );
    assert_eq!((standin.ran().len(), standin.unfinished()), (2, 0));
}

#[tokio::test]
async fn job_that_is_cancelled_before_its_worker_has_answered_is_stopped_there() {
    let (standin, pool) = pool_of(Quirks::second(), 1, "").await;
    standin.fail("POST /submit", 1, Fault::Late(Duration::from_secs(1)));
    let job = pool.run(&[FOR_EVER]).await;
    eventually("it runs", SOON, async || (!standin.ran().is_empty()).then_some(())).await;
    assert_eq!(pool.status(&job).await["pool_status"], "dispatched");
    assert_eq!(pool.call(Call::post(&format!("/cancel/{job}"), "")).await.status(), 200);
    pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
    assert_eq!((standin.ran().len(), standin.unfinished()), (1, 0));
    assert_eq!(pool.status(&job).await["pool_status"], "cancelled");
}

// --- answers that come late, or from another life ---

#[tokio::test]
async fn answer_that_comes_too_late_is_asked_for_by_key_or_never_known() {
    let late = || Fault::Late(Duration::from_secs(3));
    let (standin, pool) = pool_of(Quirks::second(), 1, "submit_timeout: 1s").await;
    standin.fail("POST /submit", 1, late());
    completed(&pool, &pool.run(&["id=once"]).await, 1).await;
    assert_eq!(standin.ran(), ["once"]);

    let (standin, pool) = pool_of(Quirks::tame(), 1, "submit_timeout: 1s").await;
    standin.fail("POST /submit", 1, late());
    pool.failed(&pool.run(&["id=once"]).await, "outcome_unknown").await;
    assert_eq!(standin.ran(), ["once"]);
}

#[tokio::test]
async fn worker_that_was_restarted_cannot_say_that_it_never_had_a_job() {
    let (standin, pool) = pool_of(Quirks::second(), 1, "").await;
    // It dies after it has started the job, and before it can say so.
    standin.fail("POST /submit", 1, Fault::Late(Duration::from_secs(60)));
    let job = pool.run(&["id=once", "run_ms=100"]).await;
    eventually("it runs", SOON, async || (!standin.ran().is_empty()).then_some(())).await;
    standin.restart().await;
    let status = pool.finished(&job).await;
    assert_eq!((standin.ran().len(), &status["error"]["code"]), (1, &json!("outcome_unknown")), "{status}");
}

#[tokio::test]
async fn worker_that_was_restarted_gives_no_job_the_name_of_an_earlier_one() {
    let mut worker = Worker::start(1).await;
    let call = form(&[("main.sh", b"exit 0")], Some(r#"{"entrypoint": "main.sh", "interpreter": "sh"}"#));
    let mut names = BTreeSet::new();
    // Some of them within one second.
    for life in 1..=5 {
        let answer = call.send(worker.address()).await.expect("an answer").expect(200);
        names.insert(answer["job_id"].as_str().expect("a name").to_owned());
        assert_eq!(names.len(), life, "{names:?}");
        worker.kill9().await;
        worker.restart().await;
    }
}
