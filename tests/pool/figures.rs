//! The numbers that the README prints: `make figures`. They are measured and shown, never asserted: a machine may be slow.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;

use crate::harness::{Pool, SOON, eventually};
use crate::standin::{Quirks, Standin};
use crate::worker::Worker;

/// What a pool has when nobody configures it.
const DEFAULT_HEALTH: &str = "health: {interval: 30s, timeout: 5s}\n";

/// How often a time of milliseconds is taken.
const SAMPLES: usize = 300;

/// What is printed of many samples.
fn show(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |percent: usize| samples[(samples.len() * percent / 100).min(samples.len() - 1)];
    println!(
        "{what}: least {:.1?}, p50 {:.1?}, p99 {:.1?}, most {:.1?} ({} samples)",
        at(0),
        at(50),
        at(99),
        at(100),
        samples.len()
    );
}

fn machine() {
    let (processors, load) = (std::thread::available_parallelism(), fs::read_to_string("/proc/loadavg"));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let build = if cfg!(debug_assertions) { "development" } else { "release" };
    println!(
        "{build} build, {} processors, {}, load {}",
        processors.map_or(0, usize::from),
        memory.lines().next().unwrap_or_default(),
        load.unwrap_or_default().trim()
    );
}

// === a worker's death ===

/// Kills a worker, and tells the time until the pool gives it nothing more.
async fn death(pool: &Pool, worker: &mut Worker) -> Duration {
    let since = Instant::now();
    worker.kill9().await;
    eventually("the worker is excluded", Duration::from_secs(60), async || {
        (pool.worker(worker.worker_id()).await["is_healthy"] == false).then_some(())
    })
    .await;
    since.elapsed()
}

#[tokio::test]
#[ignore = "measures: make figures"]
async fn time_from_a_workers_death_to_its_exclusion() {
    machine();
    let mut workers = Vec::new();
    for _ in 0..8 {
        workers.push(Worker::start(1).await);
    }
    let entries: Vec<Value> = workers.iter().map(Worker::entry).collect();
    let pool = Pool::start(&entries, DEFAULT_HEALTH).await;
    pool.healthy(workers.len()).await;

    let mut running = Vec::new();
    for _ in 0..3 {
        let job = sleeper(&pool).await;
        let status = pool.wait_until(&job, |status| status["pool_status"] == "running", SOON).await;
        running.push(status["worker_id"].clone());
    }
    let (mut busy, mut idle): (Vec<_>, Vec<_>) =
        workers.into_iter().partition(|worker| running.iter().any(|id| id == worker.worker_id()));

    let mut samples = Vec::new();
    for worker in &mut busy {
        samples.push(death(&pool, worker).await);
    }
    show("SIGKILL of a worker with a running job, to its exclusion", samples);

    // Spread over the interval between two checks.
    let deaths = (0..).step_by(6).zip(&mut idle[1..]).map(|(seconds, worker)| {
        let pool = &pool;
        async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            death(pool, worker).await
        }
    });
    show("SIGKILL of an idle worker, to its exclusion", futures_util::future::join_all(deaths).await);

    let (excluded, _job) = tokio::join!(death(&pool, &mut idle[0]), pool.run(&[]));
    show("the same, when a job comes for it", vec![excluded]);
}

/// A job of a real worker that does not end by itself.
async fn sleeper(pool: &Pool) -> String {
    let manifest = serde_json::json!({"entrypoint": "main.sh", "interpreter": "sh"});
    pool.submit(&[("main.sh", b"exec sleep 300")], &manifest).await
}

// === dispatch ===

#[tokio::test]
#[ignore = "measures: make figures"]
async fn time_from_a_free_slot_to_the_next_submit() {
    machine();
    for (kind, quirks) in [("this package's", Quirks::second()), ("a sandrun", Quirks::brisk())] {
        let standin = Standin::start(quirks).await;
        let pool = Pool::start(&[standin.entry(1)], "").await;
        pool.healthy(1).await;
        for _ in 0..=SAMPLES {
            pool.run(&["run_ms=20"]).await;
        }
        eventually("all ran", Duration::from_secs(300), async || {
            (standin.ended().len() > SAMPLES).then_some(())
        })
        .await;
        let submits: Vec<_> = standin.seen("POST /submit").iter().map(|seen| seen.at).collect();
        let last_asked: Vec<_> = standin.seen("GET /outputs/").iter().map(|seen| seen.at).collect();
        let gaps = |from: &[Instant]| from.iter().zip(&submits[1..]).map(|(from, to)| *to - *from).collect();
        show(&format!("job's end at {kind} worker, to the next submit there"), gaps(&standin.ended()));
        show("  of that, from the pool's last question about the job", gaps(&last_asked));
    }
}

#[tokio::test]
#[ignore = "measures: make figures"]
async fn time_from_a_clients_submit_to_the_workers_first_byte() {
    machine();
    let standin = Standin::start(Quirks::second()).await;
    let pool = Pool::start(&[standin.entry(8)], "").await;
    pool.healthy(1).await;
    let (mut acknowledged, mut sent) = (Vec::new(), Vec::new());
    for at in 0..SAMPLES {
        let begun = Instant::now();
        let job = pool.run(&[]).await;
        let acknowledgement = Instant::now();
        eventually("it is sent", SOON, async || (standin.ran().len() > at).then_some(())).await;
        let arrived = standin.seen("POST /submit")[at].at;
        // The worker may have it before the client has read its answer.
        acknowledged.push(arrived.saturating_duration_since(acknowledgement));
        sent.push(arrived - begun);
        pool.finished(&job).await;
    }
    show("a client's submit, to the worker's first byte", sent);
    show("its acknowledgement, to the worker's first byte", acknowledged);
}

// === restart ===

const ENDED: u32 = 99_000;
const WAITING: u32 = 1_000;

/// Makes so many more jobs of one, each with rows of its own for all that is kept of it.
fn multiply(store: &Connection, model: &str, jobs: u32) {
    let last: i64 = store.query_row("SELECT max(sequence) FROM jobs", [], |row| row.get(0)).expect("a job");
    let jobs_columns = columns(store, "jobs");
    let copies = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
         INSERT INTO jobs (id, {jobs_columns}) \
         SELECT printf('pool-%024x', ?2 + i), {jobs_columns} FROM n, jobs WHERE id = ?3"
    );
    store.execute(&copies, (jobs, last, model)).expect("a table of jobs");
    for table in ["works", "results", "outputs"] {
        let columns = columns(store, table);
        let copies = format!(
            "INSERT INTO {table} (job, {columns}) \
             SELECT copy, {columns} FROM {table}, (SELECT sequence AS copy FROM jobs WHERE sequence > ?1) \
             WHERE job = (SELECT sequence FROM jobs WHERE id = ?2)"
        );
        store.execute(&copies, (last, model)).expect("a table of what belongs to jobs");
    }
}

/// The columns of a table that do not name the job.
fn columns(store: &Connection, table: &str) -> String {
    let sql = "SELECT group_concat(name, ', ') FROM pragma_table_info(?1) WHERE name NOT IN ('sequence', 'id', 'job')";
    store.query_row(sql, [table], |row| row.get(0)).expect("a table of the store")
}

#[tokio::test]
#[ignore = "measures: make figures"]
async fn time_from_a_start_with_100_000_jobs_to_ready() {
    machine();
    let standin = Standin::start(Quirks::second()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let ended = pool.complete(&[&format!("stdout={}", "a line of a log\n".repeat(64))]).await;
    pool.wait_until(&ended, |status| status["outputs"] == "kept", SOON).await;
    let running = pool.run(&["run_ms=600000"]).await;
    pool.wait_until(&running, |status| status["pool_status"] == "running", SOON).await;
    let waiting = pool.run(&["run_ms=600000"]).await;
    pool.signal(Signal::SIGTERM);
    pool.exited(SOON).await;

    let store = Connection::open(pool.store()).expect("the store");
    store.execute_batch("BEGIN").expect("a transaction");
    multiply(&store, &ended, ENDED - 1);
    multiply(&store, &waiting, WAITING - 2);
    store.execute_batch("COMMIT").expect("a commit");
    drop(store);
    println!("the store has {} MiB", fs::metadata(pool.store()).expect("the store").len() >> 20);

    for _ in 0..5 {
        let started = Instant::now();
        pool.restart().await;
        let took = started.elapsed();
        let counted = pool.get("/pool").await.expect(200);
        println!(
            "process start to /ready: {took:.0?}, with {} jobs, {} of them queued; {} MiB at most",
            counted["total_jobs"],
            counted["queued_jobs"],
            pool.rss_peak() >> 20
        );
        pool.kill9().await;
    }
}
