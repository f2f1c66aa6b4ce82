//! Real processes, killed at random: a coordinator and four workers, while clients submit without pause.
//!
//! `make chaos` runs it for two minutes. The seed decides who is killed when and what is submitted; what comes of that is up to the
//! machine too, so a seed brings back a run's shape and not each of its steps.

mod report;

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::bodies::form;
use crate::harness::Pool;
use crate::wire::Call;
use crate::worker::Worker;
use report::Report;

const CAPACITIES: [u32; 4] = [1, 2, 1, 2];
const CLIENTS: u64 = 4;

/// Workers are looked at often, so that each of their many deaths is noticed in its time; and the queue is short, so that
/// clients meet its bound.
const CONFIG: &str = "health: {interval: 1s, timeout: 2s}\nmax_queued_jobs: 100\n";

/// Time, in milliseconds, between a process's start and its SIGKILL, and from there to its next start.
const LIFE_MS: std::ops::Range<u64> = 300..9_000;
const DEATH_MS: std::ops::Range<u64> = 0..1_500;

/// A submit that was not answered is repeated, with its key, after this.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Notes its start and its end where no worker cleans up: `main.sh FILE SECONDS EXIT`.
const SCRIPT: &[u8] = b"echo started >> \"$1\"\nsleep \"$2\"\necho ended >> \"$1\"\nexit \"$3\"\n";

/// What a job's terms say of a second run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rerun {
    Forbidden,
    Allowed,
}

/// One job, as its client made it.
#[derive(Clone)]
struct Submitted {
    name: String,
    rerun: Rerun,
    /// The pool's name for it, if its client ever got one.
    id: Option<String>,
}

/// What clients and killers know of each other.
struct Scene {
    /// The directory of the jobs' notes.
    notes: PathBuf,
    /// Where the coordinator is, or was last.
    pool: watch::Sender<SocketAddr>,
    over: watch::Sender<bool>,
}

// === the clients ===

/// Submits one job after another until it is over.
async fn submit_without_pause(client: u64, mut rng: StdRng, scene: &Scene) -> Vec<Submitted> {
    let mut jobs = Vec::new();
    while !*scene.over.borrow() {
        let name = format!("{client}-{}", jobs.len());
        let rerun = if rng.random_ratio(1, 4) { Rerun::Allowed } else { Rerun::Forbidden };
        let call = job(&name, rerun, &scene.notes, &mut rng);
        let id = submit(&call, scene).await;
        jobs.push(Submitted { name, rerun, id });
    }
    jobs
}

fn job(name: &str, rerun: Rerun, notes: &Path, rng: &mut StdRng) -> Call {
    let seconds = format!("{:.3}", rng.random_range(0.0..0.6));
    let exit = if rng.random_ratio(1, 16) { "3" } else { "0" };
    let args = json!([notes.join(name), seconds, exit]);
    let mut manifest =
        json!({"entrypoint": "main.sh", "interpreter": "sh", "args": args, "outputs": ["data.bin"]});
    if rerun == Rerun::Allowed {
        manifest["pool"] = json!({"on_unknown": "retry", "on_worker_lost": "retry"});
    }
    // Some payloads are kept in the store, and some in a file.
    let bytes = if rng.random_ratio(1, 4) { 200 * 1024 } else { 100 };
    let data = vec![b'x'; bytes];
    form(&[("main.sh", SCRIPT), ("data.bin", &data)], Some(&manifest.to_string()))
        .header("Idempotency-Key", name)
}

/// Sends a job until it is acknowledged, whoever dies meanwhile; nothing if there is no room for it before the end.
async fn submit(call: &Call, scene: &Scene) -> Option<String> {
    loop {
        let to = *scene.pool.borrow();
        let wait = match call.send(to).await {
            Ok(answer) if answer.status() == 200 => {
                return Some(answer.json()["job_id"].as_str().expect("a job id").to_owned());
            }
            Ok(answer) if answer.status() == 503 => {
                if *scene.over.borrow() {
                    return None;
                }
                let seconds = answer.head.header("Retry-After").and_then(|value| value.parse().ok());
                Duration::from_secs(seconds.expect("a 503 says when to come again"))
            }
            Ok(answer) => panic!("a submit was answered {}: {}", answer.status(), answer.text()),
            Err(_) => AGAIN_AFTER,
        };
        tokio::time::sleep(wait).await;
    }
}

// === the killers ===

fn pause(rng: &mut StdRng, between_ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(between_ms))
}

/// Whether a life of this length ends before it is all over.
async fn ends(life: Duration, scene: &Scene) -> bool {
    tokio::time::timeout(life, scene.over.subscribe().wait_for(|over| *over)).await.is_err()
}

/// Kills the coordinator again and again, and leaves it alive; says how often.
async fn kill_pool(pool: &mut Pool, mut rng: StdRng, scene: &Scene) -> usize {
    let mut kills = 0;
    while ends(pause(&mut rng, LIFE_MS), scene).await {
        pool.kill9().await;
        kills += 1;
        tokio::time::sleep(pause(&mut rng, DEATH_MS)).await;
        pool.restart().await;
        scene.pool.send_replace(pool.address());
    }
    kills
}

/// The same for a worker.
async fn kill_worker(worker: &mut Worker, mut rng: StdRng, scene: &Scene) -> usize {
    let mut kills = 0;
    while ends(pause(&mut rng, LIFE_MS), scene).await {
        worker.kill9().await;
        kills += 1;
        tokio::time::sleep(pause(&mut rng, DEATH_MS)).await;
        worker.restart().await;
    }
    kills
}

/// A number that the environment may set.
fn setting(name: &str, default: u64) -> u64 {
    let set = env::var(name).ok().filter(|text| !text.is_empty());
    set.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[tokio::test]
#[ignore = "takes minutes: make chaos"]
async fn no_job_is_lost_or_run_twice_whoever_is_killed() {
    let seed = setting("CHAOS_SEED", rand::random::<u32>().into());
    let time = Duration::from_secs(setting("CHAOS_SECONDS", 120));
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs());
    let rng = |stream: u64| StdRng::seed_from_u64(seed.wrapping_mul(1 << 8).wrapping_add(stream));

    let mut workers = Vec::new();
    for capacity in CAPACITIES {
        workers.push(Worker::start(capacity).await);
    }
    let entries: Vec<Value> = workers.iter().map(Worker::entry).collect();
    let mut pool = Pool::start(&entries, CONFIG).await;
    let notes = TempDir::new().expect("a temporary directory");
    let scene = Scene {
        notes: notes.path().to_owned(),
        pool: watch::Sender::new(pool.address()),
        over: watch::Sender::new(false),
    };

    let (_, pool_kills, worker_kills, jobs) = tokio::join!(
        async {
            tokio::time::sleep(time).await;
            scene.over.send_replace(true);
        },
        kill_pool(&mut pool, rng(0), &scene),
        join_all((1..).zip(&mut workers).map(|(at, worker)| kill_worker(worker, rng(at), &scene))),
        join_all((0..CLIENTS).map(|client| submit_without_pause(client, rng(100 + client), &scene))),
    );
    let report = Report::of(&jobs.concat(), &pool, notes.path()).await;
    println!("kills: coordinator {pool_kills}, workers {}\n{report}", worker_kills.iter().sum::<usize>());
    report.assert_sound(&pool);
    for worker in &workers {
        pool.worker_until(worker.worker_id(), |worker| worker["active_jobs"] == 0).await;
    }
}
