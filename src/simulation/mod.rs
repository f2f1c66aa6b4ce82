//! The whole pool under faults, in simulated time: real queue, dispatcher, pool and prober over the store in memory and a world of
//! workers that crash, forget, throttle, refuse, hang, and lose, garble or delay answers, clients that cancel and retry, an operator who takes
//! workers off the list and puts them back, and a clock that is set ahead and back. A crash of the pool drops everything but the store.
//!
//! A seed is a history; the same seed is the same history. After each one:
//!
//! - **I1** every acknowledged job is in the store, and has ended;
//! - **I2** no two runs of a job were alive at the same time, and none ran again but by its terms or its client's wish;
//! - every job that waits says why;
//! - **I3** no worker had more runs than its limit, and no slot is taken when nothing runs.
//!
//! `SIMULATION_SEEDS=N` runs N seeds, `SIMULATION_SEED=S` the one seed S with its log.

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::dispatch::{DispatchConfig, Dispatcher, Parts};
use crate::job::{DefaultTerms, JobId, OnUnknown, OnWorkerLost, Priority, Terms};
use crate::pool::Pool;
use crate::pool::membership::Departures;
use crate::pool::prober::Prober;
use crate::queue::{Queue, QueueDeadlines, Retried, explain};
use crate::reconcile::{self, Reconciler};
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Drain, Inserted, JobFilter, NewJob, Payload, Store, Work};
use crate::telemetry::audit::AuditLog;
use crate::time::{Clock, Timestamp};
use crate::worker::trust::Identity;
use crate::worker::{Allowlist, WorkerKey, WorkerSpec};
use world::World;

const JOBS: u32 = 50;
const WORKERS: u8 = 5;
const SEEDS_DEFAULT: u64 = 10_000;

/// A clock is set ahead or back by at most two hours.
const JUMP_MICROS_MAX: i64 = 2 * 3600 * 1_000_000;

/// Histories of a few jobs in which the process ends at each of its writes in turn.
const CRASH_JOBS: u32 = 6;
const CRASH_SEEDS: u64 = 20;

/// Every history has ended long before this; one that has not is stuck.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

const CONFIG: DispatchConfig = DispatchConfig {
    worker_lost_after: Duration::from_secs(600),
    log_bytes_max: 1000,
    longest_job: Duration::from_secs(900),
    defaults: DefaultTerms {
        on_unknown: OnUnknown::Hold,
        on_worker_lost: OnWorkerLost::Fail,
        max_attempts: 3,
        queue_timeout: None,
    },
    trust_required: Identity::Claimed,
};

/// One life of the pool's process.
struct Life {
    queue: Queue,
    pool: Pool,
    tasks: JoinSet<()>,
}

impl Life {
    async fn begin(store: &Arc<MemoryStore>, world: &Arc<World>, clock: &Clock) -> Self {
        let store: Arc<dyn Store> = Arc::clone(store) as _;
        let bell = Arc::new(Notify::new());
        let queue = Queue::new(Arc::clone(&store), None, clock.clone(), CONFIG.defaults, Arc::clone(&bell));
        let under_way = queue.recover().await.expect("reads do not fail in this world");
        let allowlist = world.keys().into_iter().map(WorkerSpec::for_tests).collect();
        let drains = store.drains().await.expect("reads do not fail in this world");
        let pool = Pool::new(allowlist, drains, Identity::Claimed, Arc::clone(&bell));
        let upstream = Arc::clone(world) as Arc<dyn crate::upstream::Upstream>;
        let prober = Prober::new(
            pool.clone(),
            Arc::clone(&upstream),
            clock.clone(),
            Duration::from_secs(30),
            AuditLog::none(),
        );
        let outputs = None;
        let departures = Departures { pool: pool.clone(), upstream: Arc::clone(&upstream), outputs };
        let parts =
            Parts { queue: queue.clone(), pool: pool.clone(), store, upstream, clock: clock.clone(), bell };
        let dispatcher = Dispatcher::new(parts, CONFIG);
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::new(prober).run());
        tasks.spawn(dispatcher.run(under_way));
        tasks.spawn(every_second(QueueDeadlines(queue.clone()), clock.clone()));
        tasks.spawn(every_second(departures, clock.clone()));
        Self { queue, pool, tasks }
    }

    async fn crash(mut self) {
        self.tasks.shutdown().await;
    }

    async fn restart(self, store: &Arc<MemoryStore>, world: &Arc<World>, clock: &Clock) -> Self {
        self.crash().await;
        Self::begin(store, world, clock).await
    }
}

async fn every_second(reconciler: impl Reconciler, clock: Clock) {
    reconcile::run(&reconciler, &clock, Duration::from_secs(1)).await;
}

/// One history.
struct History {
    rng: StdRng,
    store: Arc<MemoryStore>,
    world: Arc<World>,
    clock: Clock,
    acknowledged: Vec<JobId>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            store: Arc::new(MemoryStore::new()),
            world: Arc::new(World::new(seed, WORKERS)),
            clock: Clock::runtime(Timestamp::from_micros(1_795_478_492_000_000)),
            acknowledged: Vec::new(),
        }
    }

    /// Submits a few jobs on a good day, but the pool's process ends at one of its writes; gives the number of writes.
    async fn play_with_crash(&mut self, write: u64, fault: Fault) -> u64 {
        self.world.calm();
        self.store.crash_at(write, fault);
        let mut life = Life::begin(&self.store, &self.world, &self.clock).await;
        for n in 0..CRASH_JOBS {
            let store = Arc::clone(&self.store);
            let went_on = tokio::select! {
                biased;
                () = store.crashed().notified() => false,
                () = self.submit(&life, n) => true,
            };
            if !went_on {
                life = life.restart(&self.store, &self.world, &self.clock).await;
            }
        }
        while self.unfinished().await > 0 || life.pool.view().iter().any(|worker| worker.active_jobs > 0) {
            let store = Arc::clone(&self.store);
            if tokio::time::timeout(Duration::from_secs(10), store.crashed().notified()).await.is_ok() {
                life = life.restart(&self.store, &self.world, &self.clock).await;
            }
        }
        self.check(&life).await;
        life.crash().await;
        self.store.writes()
    }

    /// Submits the jobs while everything fails now and then, and then lets the pool come to rest.
    async fn play(&mut self) {
        let begun = Instant::now();
        let (mut set_back, mut survivors) = (false, BTreeSet::new());
        let mut life = Life::begin(&self.store, &self.world, &self.clock).await;
        for n in 0..JOBS {
            sleep(Duration::from_millis(self.rng.random_range(0..3_000))).await;
            match self.rng.random_range(0..100) {
                0..4 => {
                    if std::mem::take(&mut set_back) {
                        self.forgive_live_jobs(&life, |_| true);
                    }
                    survivors.extend(self.acknowledged.iter().filter(|id| life.queue.is_live(id)).cloned());
                    life.crash().await;
                    sleep(Duration::from_millis(self.rng.random_range(0..60_000))).await;
                    life = Life::begin(&self.store, &self.world, &self.clock).await;
                }
                4..8 => {
                    let fault =
                        [Fault::Full, Fault::BrokenDone, Fault::BrokenUndone][self.rng.random_range(0..3)];
                    self.store.fail_writes(self.rng.random_range(1..6), fault);
                }
                8..20 => self.world.disturb(),
                20..26 => self.cancel_one(&life).await,
                26..32 => self.retry_one(&life).await,
                32..35 => self.drain_one(&life).await,
                35..38 => self.resume_all(&life).await,
                41..44 => self.list_some(&life),
                44..47 => self.list_all(&life),
                38..41 => {
                    let micros = self.rng.random_range(-JUMP_MICROS_MAX..JUMP_MICROS_MAX);
                    if micros < 0 {
                        set_back = true;
                        self.forgive_live_jobs(&life, |id| survivors.contains(id));
                    }
                    self.clock.jump(micros);
                }
                _ => {}
            }
            self.submit(&life, n).await;
        }
        self.each_waiting_job_says_why(&life);
        self.store.fail_writes(0, Fault::Full);
        self.world.calm();
        self.resume_all(&life).await;
        self.list_all(&life);
        while self.unfinished().await > 0 || life.pool.view().iter().any(|worker| worker.active_jobs > 0) {
            assert!(
                begun.elapsed() < TIME_MAX,
                "the pool does not come to rest: {:?}",
                self.store.unfinished().await
            );
            sleep(Duration::from_secs(10)).await;
        }
        self.check(&life).await;
        life.crash().await;
    }

    async fn submit(&mut self, life: &Life, n: u32) {
        let mut bits = [0; 12];
        bits[..4].copy_from_slice(&n.to_be_bytes());
        let work = Work {
            manifest: "{}".to_owned(),
            boundary: "b".to_owned(),
            payload: Payload::Inline(Bytes::new()),
            sha256: [0; 32],
        };
        let priority = [Priority::High, Priority::Normal, Priority::Low][self.rng.random_range(0..3)];
        let client = ["a", "b"].get(self.rng.random_range(0..3)).map(|name| name.parse().expect("a name"));
        let id = JobId::from_random(bits);
        let terms = self.terms();
        if terms.on_unknown == Some(OnUnknown::Retry) {
            self.world.may_run_twice(id.clone());
        }
        if terms.on_worker_lost == Some(OnWorkerLost::Retry) {
            self.world.may_run_again(id.clone());
        }
        let job = NewJob {
            id: id.clone(),
            client,
            priority,
            submitted_at: self.clock.now(),
            terms: terms.into(),
            work: work.into(),
            idempotency: None,
        };
        if let Ok(Inserted::New(_)) = life.queue.submit(job).await {
            self.acknowledged.push(id);
        }
    }

    fn terms(&mut self) -> Terms {
        let mut some = |percent: u32| self.rng.random_range(0..100) < percent;
        Terms {
            on_unknown: some(20).then_some(OnUnknown::Retry),
            on_worker_lost: some(30)
                .then_some(OnWorkerLost::Retry)
                .or(some(10).then_some(OnWorkerLost::Hold)),
            max_attempts: some(20).then_some(2),
            queue_timeout: some(10).then_some(Duration::from_secs(60)),
            run_timeout: some(10).then_some(Duration::from_secs(20)),
            ..Terms::default()
        }
    }

    fn one_of_the_acknowledged(&mut self) -> Option<JobId> {
        let jobs = self.acknowledged.len();
        (jobs > 0).then(|| self.acknowledged[self.rng.random_range(0..jobs)].clone())
    }

    async fn cancel_one(&mut self, life: &Life) {
        if let Some(id) = self.one_of_the_acknowledged() {
            // It may be one of the writes that fail.
            let _ = life.queue.cancel(&id).await;
        }
    }

    /// A pool whose clock was set back takes what another process sent before for younger than it is, and a worker that was started anew
    /// since for one that remembers.
    fn forgive_live_jobs(&self, life: &Life, which: impl Fn(&JobId) -> bool) {
        for id in self.acknowledged.iter().filter(|id| life.queue.is_live(id) && which(id)) {
            self.world.may_run_again(id.clone());
        }
    }

    async fn retry_one(&mut self, life: &Life) {
        if let Some(id) = self.one_of_the_acknowledged() {
            // It may be one of the writes that fail.
            let retried = life.queue.retry(&id).await;
            log::debug!("a client retries: {retried:?}");
            match retried {
                Ok(Retried::NotNow(_) | Retried::WorkGone | Retried::Absent) => {}
                Ok(Retried::Queued { .. }) | Err(_) => self.world.may_run_again(id),
            }
        }
    }

    async fn drain_one(&mut self, life: &Life) {
        let worker = worker_key(self.rng.random_range(0..WORKERS));
        let drain = Drain { worker, reason: String::new(), since: self.clock.now() };
        if self.store.drain(drain.clone()).await.is_ok() {
            life.pool.drain(drain);
        }
    }

    async fn resume_all(&mut self, life: &Life) {
        for worker in self.world.keys() {
            if self.store.resume(worker).await.is_ok() {
                life.pool.resume(worker);
            }
        }
    }

    fn list_all(&self, life: &Life) {
        self.list(life, &self.world.keys());
    }

    /// Takes workers off the list, but for one or more.
    fn list_some(&mut self, life: &Life) {
        let mut keys = self.world.keys();
        for _ in 0..self.rng.random_range(1..keys.len()) {
            keys.swap_remove(self.rng.random_range(0..keys.len()));
        }
        self.list(life, &keys);
    }

    fn list(&self, life: &Life, keys: &[WorkerKey]) {
        let specs = keys.iter().map(|key| {
            // Not the endpoint that it has at each start: it moves, too.
            let n = (1..=WORKERS).position(|n| WorkerKey::for_tests(n) == *key).expect("a key of the world");
            let endpoint = format!("http://127.0.0.1:{}", n + 1).parse().expect("an endpoint");
            WorkerSpec { endpoint, ..WorkerSpec::for_tests(*key) }
        });
        let list = Allowlist::new(specs.collect()).expect("nothing occurs twice");
        life.pool.reload(list, self.clock.now());
    }

    /// Jobs that the pool has to bring to an end: one whose insert was reported as failed waits for the next start.
    async fn unfinished(&self) -> usize {
        let rows = self.store.unfinished().await.expect("reads do not fail in this world");
        rows.iter().filter(|row| self.acknowledged.contains(&row.id)).count()
    }

    fn each_waiting_job_says_why(&self, life: &Life) {
        let (view, now) = (life.pool.view(), self.clock.now());
        for job in self.acknowledged.iter().filter_map(|id| life.queue.live(id)) {
            if let Some(ahead) = life.queue.position(&job) {
                let reason = explain::reason(&job.class(), ahead, &view, now);
                assert!(!reason.is_empty(), "job {} waits and does not say why", job.id());
            }
        }
    }

    async fn check(&self, life: &Life) {
        for id in &self.acknowledged {
            let row = self.store.job(id).await.unwrap().unwrap_or_else(|| panic!("I1: job {id} is lost"));
            assert!(row.state.is_finished(), "I1: job {id} has not ended: {}", row.state);
        }
        self.world.check();
        for worker in life.pool.view() {
            assert_eq!(worker.active_jobs, 0, "I3: worker {} has a slot taken by nothing", worker.spec.key);
        }
        let rows = self.store.list(&JobFilter::default(), usize::MAX).await.unwrap();
        assert!(rows.len() >= self.acknowledged.len());
    }
}

fn simulated<T>(history: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(history)
}

fn run(seed: u64) {
    simulated(async { History::new(seed).play().await });
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn nothing_is_lost_and_nothing_runs_twice_whatever_fails() {
    if let Some(seed) = from_environment("SIMULATION_SEED") {
        crate::telemetry::log_to_stderr(log::LevelFilter::Debug);
        return run(seed);
    }
    let seeds = from_environment("SIMULATION_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let failed = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|share| {
                scope.spawn(move || {
                    (share..seeds)
                        .step_by(threads as usize)
                        .find(|seed| std::panic::catch_unwind(|| run(*seed)).is_err())
                })
            })
            .collect();
        shares.into_iter().filter_map(|share| share.join().expect("panics are caught")).min()
    });
    assert_eq!(failed, None, "run it again with SIMULATION_SEED={}", failed.unwrap_or_default());
}

#[test]
fn the_same_seed_is_the_same_history() {
    let trace = |seed| {
        simulated(async {
            let mut history = History::new(seed);
            history.play().await;
            let rows = history.store.list(&JobFilter::default(), usize::MAX).await.unwrap();
            (rows, history.world.trace())
        })
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

#[test]
fn a_crash_at_any_write_loses_nothing() {
    for seed in 0..CRASH_SEEDS {
        let crash_at =
            |write, fault| simulated(async { History::new(seed).play_with_crash(write, fault).await });
        let writes = crash_at(u64::MAX, Fault::CrashAfter);
        assert!(writes >= 4 * u64::from(CRASH_JOBS), "{writes} writes are not a job's life for each");
        for write in 1..=writes {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                println!("seed {seed}: {fault:?} at write {write} of {writes}");
                crash_at(write, fault);
            }
        }
    }
}

/// The keys of the world's workers.
fn worker_key(n: u8) -> WorkerKey {
    WorkerKey::for_tests(n + 1)
}
