//! Real jobs on real workers in their sandboxes: how soon one starts, and how many run in a second.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use trusted_pool::keyfile;
use trusted_pool::worker::identity::SecretKey;

use crate::client::{Door, ask};
use crate::load;
use crate::process::{Process, free_address};
use crate::site::{POOL, Site, job_upload};

const WORKERS: usize = 2;
const CAPACITY: &str = "2";

/// Jobs whose start is timed, one after another.
const STARTS: usize = 200;

/// Jobs that the pool is given at once, and from so many clients.
const JOBS: usize = 1000;
const CLIENTS: usize = 20;

const JOBS_MAX: Duration = Duration::from_secs(300);

pub fn measure(site: &Site) {
    let workers: Vec<Worker> = (0..WORKERS).map(|at| Worker::start(site, at)).collect();
    starts(&workers[0]);
    let list: Vec<Value> = workers.iter().map(|worker| worker.entry.clone()).collect();
    let pool = site.pool_of("pool-of-jobs", &Value::from(list));
    let begun = Instant::now();
    load::submit(&pool.plain(), JOBS, CLIENTS);
    let taken = begun.elapsed();
    while !is_idle(&get(&pool.plain(), "/pool")) {
        assert!(begun.elapsed() < JOBS_MAX, "{}", get(&pool.plain(), "/pool"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let over = begun.elapsed();
    let failed = get(&pool.plain(), "/jobs?status=failed&limit=1");
    assert!(failed["jobs"].as_array().is_some_and(Vec::is_empty), "{failed}");
    println!(
        "{JOBS} jobs, {WORKERS} workers with {CAPACITY} slots each: taken in within {taken:.2?}, over after {over:.2?}: {:.0} jobs/s",
        JOBS as f64 / over.as_secs_f64()
    );
}

/// From the worker's acceptance to what the job does first.
fn starts(worker: &Worker) {
    let mut times: Vec<f64> = (0..STARTS).map(|_| worker.start_of_job()).collect();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[STARTS * percent / 100];
    println!("a job's start at a worker: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", at(50), at(90), at(99));
}

fn is_idle(pool: &Value) -> bool {
    let mut workers = pool["workers"].as_array().into_iter().flatten();
    pool["queued_jobs"] == 0 && workers.all(|worker| worker["active_jobs"] == 0)
}

fn get(door: &Door, path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let (_, body) = ask(door, request.as_bytes()).expect("it answers");
    serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&body)))
}

struct Worker {
    entry: Value,
    door: Door,
    _process: Process,
}

impl Worker {
    fn start(site: &Site, at: usize) -> Self {
        let directory = site.path().join(format!("runner-{at}"));
        fs::create_dir(&directory).expect("the site is writable");
        let (key, path) = (SecretKey::generate(), directory.join("worker.pem"));
        keyfile::create(&path, &key).expect("the site is writable");
        let address = free_address();
        let mut command = Command::new(POOL);
        command.args(["worker", "--capacity", CAPACITY, "--listen", &address.to_string()]);
        command.arg("--key").arg(path).arg("--data").arg(directory.join("data"));
        let process = Process::start(command, &[address], &directory.join("log"));
        let entry = json!({"worker_id": key.public().to_string(), "endpoint": format!("http://{address}")});
        Self { entry, door: Door { address, tls: None }, _process: process }
    }

    /// In milliseconds.
    fn start_of_job(&self) -> f64 {
        // The shell itself tells the time: no process has to be started for it.
        let upload = job_upload(b"echo $EPOCHREALTIME", "bash");
        let (status, answer) = ask(&self.door, &upload).expect("the worker answers");
        let accepted = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        let answer: Value = serde_json::from_slice(&answer).expect("the worker answers JSON");
        let job = answer["job_id"].as_str().expect("a job has an id");
        let ended = get(&self.door, &format!("/status/{job}?wait=30"));
        assert_eq!(ended["status"], "completed", "{ended}");
        let logs = get(&self.door, &format!("/logs/{job}"));
        let started: f64 = logs["stdout"]
            .as_str()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_else(|| panic!("{logs}"));
        ((started - accepted.as_secs_f64()) * 1e3).max(0.0)
    }
}
