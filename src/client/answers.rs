//! What the pool answers, as far as the commands look at it. Fields that are not named here are passed over: a newer pool
//! may say more.

use serde::Deserialize;
use serde_json::Value;

use crate::job::{JobId, PoolStatus};

/// `POST /submit`.
#[derive(Debug, Deserialize)]
pub struct Job {
    pub job_id: JobId,
}

/// `GET /status/{job}`. Times are Unix seconds.
#[derive(Debug, Deserialize)]
pub struct Status {
    pub job_id: JobId,
    pub pool_status: PoolStatus,
    pub worker_id: Option<String>,
    pub submitted_at: f64,
    pub completed_at: Option<f64>,
    #[serde(default)]
    pub worker_status: Option<Value>,
    #[serde(default)]
    pub queue_position: Option<u64>,
    /// Why it waits.
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<JobError>,
}

#[derive(Debug, Deserialize)]
pub struct JobError {
    pub code: String,
    pub message: String,
}

impl Status {
    pub fn is_finished(&self) -> bool {
        match self.pool_status {
            PoolStatus::Queued | PoolStatus::Dispatched | PoolStatus::Running => false,
            PoolStatus::Completed | PoolStatus::Failed | PoolStatus::Cancelled => true,
        }
    }

    /// What the job's program exited with, where a worker told.
    pub fn exit_code(&self) -> Option<i64> {
        self.worker_status.as_ref()?.pointer("/execution_metadata/exit_code")?.as_i64()
    }
}

/// `GET /logs/{job}`.
#[derive(Debug, Deserialize)]
pub struct Logs {
    pub stdout: String,
    pub stderr: String,
}

/// `GET /outputs/{job}`.
#[derive(Debug, Deserialize)]
pub struct Listing {
    pub files: Vec<ListedFile>,
}

#[derive(Debug, Deserialize)]
pub struct ListedFile {
    /// Its path below the job's directory, as the worker tells it: not to be trusted.
    pub name: String,
    pub size: u64,
}

/// `GET /jobs`, one page.
#[derive(Debug, Deserialize)]
pub struct JobsPage {
    pub jobs: Vec<Status>,
    /// Asks for the page after this one; `None` on the last.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// `GET /pool`.
#[derive(Debug, Deserialize)]
pub struct Pool {
    pub total_workers: u64,
    pub healthy_workers: u64,
    pub queued_jobs: u64,
    pub workers: Vec<PoolWorker>,
}

#[derive(Debug, Deserialize)]
pub struct PoolWorker {
    pub worker_id: String,
    pub endpoint: String,
    pub is_healthy: bool,
    pub active_jobs: u64,
    pub max_concurrent_jobs: u64,
    /// Unix seconds; `None` before the first check.
    #[serde(default)]
    pub last_health_check: Option<f64>,
    /// How surely it is known who it is; `None` when the last check did not show it.
    #[serde(default)]
    pub identity: Option<String>,
    /// An operator's wish that it gets no more jobs.
    #[serde(default)]
    pub draining: Option<Draining>,
    /// Why it is given no jobs.
    #[serde(default, rename = "last_error")]
    pub reason: Option<String>,
}

/// An answer that is not what was asked for.
#[derive(Debug, Default, Deserialize)]
pub struct Refusal {
    /// A sentence that a person can act on.
    pub error: String,
    /// A word for machines.
    #[serde(default)]
    pub code: Option<String>,
    /// Seconds after which it may go better.
    #[serde(default)]
    pub retry_after: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub struct Draining {
    pub reason: String,
}

/// `POST /cancel/{job}` and `POST /retry/{job}`.
#[derive(Debug, Deserialize)]
pub struct Moved {
    pub job_id: String,
    pub pool_status: PoolStatus,
}

/// `POST /workers/{worker}/drain` and `/resume`.
#[derive(Debug, Deserialize)]
pub struct Drained {
    pub worker_id: String,
    pub active_jobs: u64,
}
