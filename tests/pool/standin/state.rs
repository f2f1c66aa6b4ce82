//! What the stand-in knows: its jobs, and everything that was asked of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Armed, Fault, Plan, Quirks, Submission};
use crate::wire::sha256;

#[derive(Default)]
pub struct State {
    pub jobs: HashMap<String, Job>,
    pub queue: VecDeque<String>,
    pub seen: Vec<Seen>,
    /// Markers of the jobs that were started, in order.
    pub ran: Vec<String>,
    /// When the runs ended, in order.
    pub ended: Vec<Instant>,
    pub faults: Vec<Armed>,
    pub connections: u64,
    /// Requests being answered, by endpoint, and the most there ever were.
    pub open: HashMap<String, usize>,
    pub open_peak: HashMap<String, usize>,
    /// Records of the submits whose job is not in `jobs` yet.
    pub submitting: HashSet<usize>,
    /// The most jobs the pool had on this worker at once, uploads included.
    pub in_hand_peak: usize,
    accepted: Vec<Instant>,
    issued: u64,
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub connection: u64,
    pub method: String,
    pub target: String,
    pub header_lines: Vec<String>,
    pub body_bytes: u64,
    pub body_sha256: String,
    pub submission: Option<Submission>,
}

pub struct Job {
    pub submission: Submission,
    pub plan: Plan,
    pub submitted: Instant,
    pub phase: Phase,
    /// Rung to end its run.
    pub cancelled: Arc<Notify>,
    /// The `Idempotency-Key` that it came with, where the worker knows such a thing.
    key: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Queued,
    Running,
    Done,
}

impl State {
    pub fn unfinished(&self) -> usize {
        self.jobs.values().filter(|job| job.phase != Phase::Done).count()
    }

    /// Why the limiter refuses a submit now.
    pub fn over_limit(&self, quirks: &Quirks) -> Option<String> {
        let limiter = quirks.limiter?;
        if self.unfinished() >= limiter.at_once {
            return Some(format!("Max concurrent jobs reached ({})", limiter.at_once));
        }
        let hour = |at: &&Instant| at.elapsed().as_secs() < 3600;
        let full = self.accepted.iter().filter(hour).count() >= limiter.per_hour;
        full.then(|| format!("Max jobs per hour reached ({})", limiter.per_hour))
    }

    /// The job that came with this key.
    pub fn find_by_key(&self, key: &str) -> Option<&String> {
        self.jobs.iter().find(|(_, job)| job.key.as_deref() == Some(key)).map(|(id, _)| id)
    }

    pub fn is_done(&self, id: &str) -> bool {
        self.jobs.get(id).is_none_or(|job| job.phase == Phase::Done)
    }

    pub fn take(&mut self, submission: Submission, plan: Plan, key: Option<String>) -> String {
        self.issued += 1;
        self.accepted.push(Instant::now());
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let id = format!("job_{seconds}_{}", self.issued);
        let job = Job {
            submission,
            plan,
            submitted: Instant::now(),
            phase: Phase::Queued,
            cancelled: Arc::default(),
            key,
        };
        self.jobs.insert(id.clone(), job);
        self.queue.push_back(id.clone());
        id
    }

    /// Forgets what is old and not running, as the deployed worker's sweep does.
    pub fn forget(&mut self, quirks: &Quirks) {
        if let Some(age) = quirks.forget_after {
            self.jobs.retain(|_, job| job.phase == Phase::Running || job.submitted.elapsed() < age);
        }
    }

    /// The fault armed for this request, if any; each arming serves a number of requests.
    pub fn fault(&mut self, method: &str, target: &str) -> Option<Fault> {
        let line = format!("{method} {target}");
        let armed =
            self.faults.iter_mut().find(|armed| armed.times > 0 && line.starts_with(&armed.prefix))?;
        armed.times -= 1;
        Some(armed.fault.clone())
    }

    pub fn status(&self, id: &str, worker_id: &str) -> Option<Value> {
        let job = self.jobs.get(id)?;
        let done = job.phase == Phase::Done;
        let files = job.outputs().map(|(name, content)| {
            let about = json!({"size_bytes": content.len(), "sha256": content.sha256(), "type": "text"});
            (name.clone(), about)
        });
        Some(json!({
            "job_id": id,
            "status": job.status(),
            "queue_position": self.queue.iter().position(|queued| queued == id).map_or(0, |at| at + 1),
            "execution_metadata": {
                "cpu_seconds": 0.11, "memory_peak_bytes": 13_631_488, "memory_peak_mb": 13,
                "wall_time_ms": 0, "exit_code": if done { job.plan.exit_code } else { 0 },
                "environment": "", "interpreter": job.submission.interpreter,
            },
            "job_hash": sha256(job.submission.manifest.as_bytes()),
            "output_files": files.collect::<serde_json::Map<_, _>>(),
            "worker_metadata": {"worker_id": worker_id, "signature": "c2lnbmVkIG92ZXIgbW9yZSBkaWdpdHM="},
        }))
    }

    pub fn listing(&self, id: &str) -> Option<Value> {
        let job = self.jobs.get(id)?;
        let files: Vec<Value> = job
            .outputs()
            .map(|(name, content)| {
                json!({
                    "name": name, "size": content.len(), "size_formatted": format!("{} B", content.len()),
                    "type": "text", "mime_type": mime_type(name),
                    "download_url": format!("/download/{id}/{name}"),
                })
            })
            .collect();
        let total = files.len();
        Some(json!({"job_id": id, "status": job.status(), "total_files": total, "files": files}))
    }
}

impl Job {
    pub fn status(&self) -> &'static str {
        match self.phase {
            Phase::Queued => "queued",
            Phase::Running => "running",
            Phase::Done if self.plan.exit_code == 0 => "completed",
            Phase::Done => "failed",
        }
    }

    /// Kills its run, if it is not over.
    pub fn cancel(&mut self) {
        if self.phase != Phase::Done {
            self.plan.exit_code = 137;
            self.cancelled.notify_one();
        }
    }

    /// The output files there are now: none before the job has ended.
    pub fn outputs(&self) -> impl Iterator<Item = &(String, super::Content)> {
        self.plan.outputs.iter().filter(|_| self.phase == Phase::Done)
    }
}

pub fn mime_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("txt") => "text/plain",
        Some("json") => "application/json",
        Some("html") => "text/html",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}
