//! The workers of a simulation, and the network between them and the pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until};

use super::worker_key;
use crate::api::OutputPath;
use crate::job::{JobId, RemoteId, Verdict};
use crate::store::{Logs, Work};
use crate::upstream::download::Opened;
use crate::upstream::evidence::Evidence;
use crate::upstream::{
    Answer, CheckFailure, Contact, HealthReport, KeyAnswer, Patience, RemoteStatus, SendOutcome, Stage,
    Upstream, attempt_key,
};
use crate::worker::{Dialect, WorkerKey, WorkerSpec};

/// The limit that the pool has for workers that state none.
const LIMIT: usize = 4;

/// How long the pool waits for answers: to `/health` and to questions by key, from a worker that answers at any time, from one that
/// is silent while it runs a job.
const HEALTH_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(30);
const LONGEST_JOB: Duration = super::CONFIG.longest_job;

/// A run lasts at most this long.
const RUN_MS_MAX: u64 = 90_000;

/// Workers, what they run, and how they fail.
pub struct World {
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    workers: BTreeMap<WorkerKey, Worker>,
    runs: Vec<Run>,
    /// Whether things go wrong at random.
    calm: bool,
    taken: u32,
    /// Jobs whose clients would rather have them run twice than not at all.
    may_run_twice: BTreeSet<JobId>,
    /// Jobs that may run again once a run is over.
    may_run_again: BTreeSet<JobId>,
    violation: Option<String>,
}

struct Worker {
    dialect: Dialect,
    /// Down until this time.
    down_until: Instant,
    /// Out of reach until this time, while it goes on running.
    cut_off_until: Instant,
    /// Takes connections until this time and answers nothing, while it goes on running.
    wedged_until: Instant,
    /// Counts its restarts; it forgets everything at each.
    life: u32,
    jobs: BTreeMap<RemoteId, usize>,
    keys: BTreeMap<String, RemoteId>,
}

/// One run of a job on a worker.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    job: JobId,
    worker: WorkerKey,
    starts: Instant,
    ends: Instant,
    verdict: Verdict,
}

/// What happens to a worker.
#[derive(Clone, Copy)]
enum Disturbance {
    Crash,
    CutOff,
    Wedge,
}

/// How an answer about a job goes.
#[derive(Clone, Copy)]
enum Reply {
    Whole,
    /// It breaks off, or makes no sense.
    Garbled,
    /// It does not come.
    Missing,
}

/// How a submit goes.
#[derive(Clone, Copy)]
enum Fate {
    Taken,
    /// The worker takes it and the answer is lost.
    AnswerLost,
    /// The worker takes it and answers minutes later.
    AnswerLate,
    /// The request is lost on the way.
    RequestLost,
    Throttled,
    Refused,
    NotReached,
}

impl World {
    pub fn new(seed: u64, workers: u8) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let now = Instant::now();
        let workers = (0..workers).map(|n| {
            let dialect = if rng.random_bool(0.5) { Dialect::Sandrun } else { Dialect::V2 };
            let worker = Worker {
                dialect,
                down_until: now,
                cut_off_until: now,
                wedged_until: now,
                life: 0,
                jobs: BTreeMap::new(),
                keys: BTreeMap::new(),
            };
            (worker_key(n), worker)
        });
        let workers = workers.collect();
        let state = State {
            rng,
            workers,
            runs: Vec::new(),
            calm: false,
            taken: 0,
            may_run_twice: BTreeSet::new(),
            may_run_again: BTreeSet::new(),
            violation: None,
        };
        Self { state: Mutex::new(state) }
    }

    pub fn keys(&self) -> Vec<WorkerKey> {
        self.lock().workers.keys().copied().collect()
    }

    /// Something happens to a worker.
    pub fn disturb(&self) {
        let mut state = self.lock();
        let workers = state.workers.len() as u8;
        let key = worker_key(state.rng.random_range(0..workers));
        let lasting = Duration::from_millis(state.rng.random_range(0..120_000));
        let how = match state.rng.random_range(0..10) {
            0..6 => Disturbance::Crash,
            6..8 => Disturbance::CutOff,
            _ => Disturbance::Wedge,
        };
        state.disturb(key, lasting, how);
    }

    pub fn may_run_again(&self, job: JobId) {
        self.lock().may_run_again.insert(job);
    }

    pub fn may_run_twice(&self, job: JobId) {
        self.lock().may_run_twice.insert(job);
    }

    /// Nothing goes wrong from now on.
    pub fn calm(&self) {
        self.lock().calm = true;
    }

    pub fn check(&self) {
        if let Some(violation) = &self.lock().violation {
            panic!("{violation}");
        }
    }

    /// Everything that ran, in order, with times since the beginning.
    pub fn trace(&self) -> Vec<(JobId, WorkerKey, Duration)> {
        let state = self.lock();
        let Some(first) = state.runs.first().map(|run| run.starts) else { return Vec::new() };
        let since = |run: &Run| (run.job.clone(), run.worker, run.ends.saturating_duration_since(first));
        state.runs.iter().map(since).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the world does not panic under its lock")
    }

    async fn travel(&self) {
        let delay = self.lock().rng.random_range(1..40);
        sleep(Duration::from_millis(delay)).await;
    }

    /// Waits for a worker that holds its lock while it runs a job. `None` when it is lost meanwhile.
    async fn wait_for_lock(&self, worker: WorkerKey) -> Option<()> {
        let life = self.lock().life_of(worker)?;
        loop {
            let until = {
                let state = self.lock();
                if state.life_of(worker)? != life {
                    return None;
                }
                match state.locked_until(worker) {
                    None => return Some(()),
                    Some(until) => until,
                }
            };
            sleep_until(until.min(Instant::now() + Duration::from_millis(500))).await;
        }
    }

    /// Waits until a worker answers again; `false` when that takes longer than anybody waits.
    async fn wait_for_wedged(&self, worker: WorkerKey, patience: Duration) -> bool {
        let until = self.lock().workers[&worker].wedged_until;
        let deadline = Instant::now() + patience;
        sleep_until(until.min(deadline)).await;
        until < deadline
    }

    async fn ask<T>(&self, at: &Contact, remote: &RemoteId, read: impl Fn(&Run) -> T) -> Answer<T> {
        let worker = at.spec.key;
        if let Some(reason) = at.unproven() {
            return Answer::Unreachable { reason };
        }
        self.travel().await;
        let patience = match at.dialect {
            Dialect::Sandrun => LONGEST_JOB,
            Dialect::V2 => ANSWER_TIME,
        };
        if !self.wait_for_wedged(worker, patience).await {
            return Answer::Silent;
        }
        let reply = self.lock().reply();
        match reply {
            Reply::Whole => {}
            Reply::Garbled => return Answer::Unreadable { reason: "it broke off".to_owned() },
            Reply::Missing => {
                sleep(patience).await;
                return Answer::Silent;
            }
        }
        if self.lock().dialect(worker) == Dialect::Sandrun && self.wait_for_lock(worker).await.is_none() {
            return Answer::Unreachable { reason: "connection reset".to_owned() };
        }
        self.travel().await;
        let state = self.lock();
        if state.life_of(worker).is_none() {
            return Answer::Unreachable { reason: "connection refused".to_owned() };
        }
        match state.workers[&worker].jobs.get(remote) {
            None => Answer::Gone,
            Some(run) => Answer::Known(read(&state.runs[*run])),
        }
    }
}

impl State {
    /// Which life a worker is in; `None` when it cannot be reached.
    fn life_of(&self, worker: WorkerKey) -> Option<u32> {
        let worker = &self.workers[&worker];
        let now = Instant::now();
        (worker.down_until <= now && worker.cut_off_until <= now).then_some(worker.life)
    }

    fn dialect(&self, worker: WorkerKey) -> Dialect {
        self.workers[&worker].dialect
    }

    fn locked_until(&self, worker: WorkerKey) -> Option<Instant> {
        let now = Instant::now();
        self.runs
            .iter()
            .filter(|run| run.worker == worker && run.starts <= now && now < run.ends)
            .map(|run| run.ends)
            .max()
    }

    fn disturb(&mut self, key: WorkerKey, lasting: Duration, how: Disturbance) {
        let now = Instant::now();
        let worker = self.workers.get_mut(&key).expect("a worker of this world");
        match how {
            Disturbance::Crash => {}
            Disturbance::CutOff => {
                worker.cut_off_until = now + lasting;
                return;
            }
            Disturbance::Wedge => {
                worker.wedged_until = now + lasting;
                return;
            }
        }
        worker.down_until = now + lasting;
        worker.life += 1;
        worker.jobs.clear();
        worker.keys.clear();
        for run in self.runs.iter_mut().filter(|run| run.worker == key && run.ends > now) {
            run.ends = now.max(run.starts);
            if run.starts > now {
                run.starts = now;
                run.ends = now;
            }
        }
    }

    fn reply(&mut self) -> Reply {
        match self.rng.random_range(0..1000) {
            _ if self.calm => Reply::Whole,
            0..20 => Reply::Garbled,
            20..22 => Reply::Missing,
            _ => Reply::Whole,
        }
    }

    fn fate(&mut self) -> Fate {
        if self.calm {
            return Fate::Taken;
        }
        match self.rng.random_range(0..100) {
            0..4 => Fate::AnswerLost,
            4..8 => Fate::RequestLost,
            96.. => Fate::AnswerLate,
            8..16 => Fate::Throttled,
            16..19 => Fate::Refused,
            19..24 => Fate::NotReached,
            _ => Fate::Taken,
        }
    }

    /// The worker takes a job: it runs at once, or behind those that it has when it runs one at a time.
    fn take(&mut self, worker: WorkerKey, job: &JobId, key: String) -> RemoteId {
        if let Some(remote) = self.workers[&worker].keys.get(&key) {
            return remote.clone();
        }
        let now = Instant::now();
        let lasting = Duration::from_millis(self.rng.random_range(0..RUN_MS_MAX));
        let behind = self.runs.iter().filter(|run| run.worker == worker).map(|run| run.ends).max();
        let starts = match self.dialect(worker) {
            Dialect::Sandrun => behind.map_or(now, |ends| ends.max(now)),
            Dialect::V2 => now,
        };
        let verdict = if self.rng.random_bool(0.2) {
            Verdict::Failed { exit_code: Some(1) }
        } else {
            Verdict::Completed
        };
        let run = Run { job: job.clone(), worker, starts, ends: starts + lasting, verdict };
        self.look_for_violations(&run);
        log::debug!("{key} is taken as {}: {run:?}", self.taken + 1);
        self.taken += 1;
        let remote = format!("job_1_{}", self.taken);
        let index = self.runs.len();
        self.runs.push(run);
        let taker = self.workers.get_mut(&worker).expect("a worker of this world");
        taker.jobs.insert(remote.clone(), index);
        if taker.dialect == Dialect::V2 {
            taker.keys.insert(key, remote.clone());
        }
        remote
    }

    fn look_for_violations(&mut self, new: &Run) {
        let now = Instant::now();
        let alive = |run: &&Run| run.ends > now;
        if let Some(other) = self.runs.iter().filter(alive).find(|run| run.job == new.job)
            && !self.may_run_twice.contains(&new.job)
        {
            self.violation.get_or_insert(format!("I2: two runs are alive: {other:?} and {new:?}"));
        }
        if let Some(other) = self.runs.iter().find(|run| run.job == new.job)
            && !self.may_run_twice.contains(&new.job)
            && !self.may_run_again.contains(&new.job)
        {
            self.violation.get_or_insert(format!("I2: a job runs again: {other:?} and {new:?}"));
        }
        let load: Vec<_> = self.runs.iter().filter(alive).filter(|run| run.worker == new.worker).collect();
        if load.len() >= LIMIT {
            self.violation
                .get_or_insert(format!("I3: with {new:?} a worker has more than {LIMIT}: {load:?}"));
        }
    }
}

#[async_trait]
impl Upstream for World {
    async fn health(&self, spec: &Arc<WorkerSpec>) -> Result<HealthReport, CheckFailure> {
        self.travel().await;
        if !self.wait_for_wedged(spec.key, HEALTH_TIME).await {
            return Err("no answer in time".to_owned().into());
        }
        let mut state = self.lock();
        if state.life_of(spec.key).is_none() {
            return Err("connection refused".to_owned().into());
        }
        if !state.calm && state.rng.random_bool(0.02) {
            return Err("no answer in time".to_owned().into());
        }
        let dialect = state.dialect(spec.key);
        Ok(HealthReport {
            worker_id: Some(spec.key.to_string()),
            dialect,
            capacity: None,
            address: None,
            evidence: Evidence::Claimed,
        })
    }

    async fn submit(&self, to: &Contact, job: &JobId, attempt: u32, _work: &Work) -> SendOutcome {
        let worker = to.spec.key;
        if let Some(reason) = to.unproven() {
            return SendOutcome::Unreachable { reason };
        }
        self.travel().await;
        let (life, fate) = {
            let mut state = self.lock();
            (state.life_of(worker), state.fate())
        };
        let lost = |reason: &str| SendOutcome::Unknown { reason: reason.to_owned() };
        if life.is_some() && !self.wait_for_wedged(worker, LONGEST_JOB).await {
            return lost("no answer in time");
        }
        match fate {
            _ if life.is_none() => {
                return SendOutcome::Unreachable { reason: "connection refused".to_owned() };
            }
            Fate::NotReached => return SendOutcome::Unreachable { reason: "connection refused".to_owned() },
            Fate::Throttled => {
                return SendOutcome::Throttled { message: "wait".to_owned(), retry_after: None };
            }
            Fate::Refused => return SendOutcome::Refused { message: "No entrypoint specified".to_owned() },
            Fate::RequestLost => return lost("connection reset"),
            Fate::Taken | Fate::AnswerLost | Fate::AnswerLate => {}
        }
        if self.lock().dialect(worker) == Dialect::Sandrun && self.wait_for_lock(worker).await.is_none() {
            return lost("connection reset");
        }
        if self.lock().life_of(worker) != life {
            return lost("connection reset");
        }
        let remote = self.lock().take(worker, job, attempt_key(job, attempt));
        self.travel().await;
        if let Fate::AnswerLate = fate {
            let late = self.lock().rng.random_range(0..300_000);
            sleep(Duration::from_millis(late)).await;
        }
        match fate {
            Fate::AnswerLost => lost("the answer was cut off"),
            _ if self.lock().life_of(worker) != life => lost("connection reset"),
            _ => SendOutcome::Accepted { remote },
        }
    }

    async fn find_by_key(&self, at: &Contact, key: &str, sent_within: Duration) -> KeyAnswer {
        if at.unproven().is_some() {
            return KeyAnswer::Unanswered;
        }
        self.travel().await;
        if !self.wait_for_wedged(at.spec.key, HEALTH_TIME).await {
            return KeyAnswer::Unanswered;
        }
        let state = self.lock();
        match (state.life_of(at.spec.key), state.dialect(at.spec.key)) {
            (None, _) => KeyAnswer::Unanswered,
            (Some(_), Dialect::Sandrun) => KeyAnswer::CannotSay,
            (Some(_), Dialect::V2) => match state.workers[&at.spec.key].keys.get(key) {
                Some(remote) => KeyAnswer::Found { remote: remote.clone() },
                None if state.workers[&at.spec.key].down_until.elapsed() > sent_within => KeyAnswer::Absent,
                None => KeyAnswer::CannotSay,
            },
        }
    }

    async fn status(&self, at: &Contact, remote: &RemoteId, patience: Patience) -> Answer<RemoteStatus> {
        if let (Dialect::V2, Patience::Until(wait), true) = (at.dialect, patience, at.is_proven) {
            let ends = {
                let state = self.lock();
                state.workers[&at.spec.key].jobs.get(remote).map(|run| state.runs[*run].ends)
            };
            if let Some(ends) = ends {
                sleep_until(ends.min(Instant::now() + wait)).await;
            }
        }
        self.ask(at, remote, |run| {
            let stage = if run.ends <= Instant::now() { Stage::Ended(run.verdict) } else { Stage::Active };
            RemoteStatus { stage, json: "{}".into() }
        })
        .await
    }

    async fn cancel(&self, at: &Contact, remote: &RemoteId) -> Answer<()> {
        assert_eq!(at.dialect, Dialect::V2, "a sandrun worker knows no cancel");
        let index = {
            let state = self.lock();
            state.workers[&at.spec.key].jobs.get(remote).copied()
        };
        let answer = self.ask(at, remote, |_| ()).await;
        if let (Answer::Known(()), Some(index)) = (&answer, index) {
            let run = &mut self.lock().runs[index];
            run.ends = run.ends.min(Instant::now());
        }
        answer
    }

    async fn logs(&self, at: &Contact, remote: &RemoteId, _bytes_max: usize) -> Answer<Logs> {
        self.ask(at, remote, |_| Logs::default()).await
    }

    async fn listing(&self, at: &Contact, remote: &RemoteId) -> Answer<String> {
        self.ask(at, remote, |_| "{}".to_owned()).await
    }

    async fn open_output(&self, _at: &Contact, _remote: &RemoteId, _path: &OutputPath) -> Opened {
        // The runs of this world write nothing.
        Opened::Gone
    }

    fn forget(&self, _worker: WorkerKey) {}
}
