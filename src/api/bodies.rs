//! The JSON that the pool answers with.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::job::{Attempt, ClientName, Failure, JobId, Outcome};
use crate::pool::{Standings, WorkerView};
use crate::store::{JobRow, Logs, OutputsPlace, Truncation};
use crate::time::Timestamp;
use crate::worker::identity::PoolKey;
use crate::worker::trust::Identity;
use crate::worker::{Dialect, WorkerKey};

/// `GET /status/{job}`, without the worker's part.
#[derive(Serialize)]
pub struct StatusBody<'a> {
    job_id: &'a JobId,
    /// The same as `pool_status`, for clients that speak to a single worker.
    status: &'static str,
    pool_status: &'static str,
    worker_id: Option<String>,
    submitted_at: f64,
    completed_at: Option<f64>,
    priority: String,
    /// Whose it is, where the pool asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<usize>,
    /// Why it waits, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<AttemptBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
    /// Where its outputs are, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<&'static str>,
    /// Why they stay on the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs_reason: Option<&'a str>,
}

/// The attempt under way.
#[derive(Serialize)]
struct AttemptBody {
    number: u32,
    worker_id: String,
    since: f64,
}

impl AttemptBody {
    fn of(attempt: &Attempt) -> Self {
        let (number, since) = (attempt.number, attempt.since.as_unix_seconds());
        Self { number, worker_id: attempt.worker.to_string(), since }
    }
}

impl<'a> StatusBody<'a> {
    pub fn new(row: &'a JobRow) -> Self {
        let status = row.state.status().as_str();
        let end = row.state.end();
        let error = match end {
            Some((Outcome::Failed(failure), _)) => Some(failure),
            Some((Outcome::Completed | Outcome::Cancelled, _)) | None => None,
        };
        Self {
            job_id: &row.id,
            status,
            pool_status: status,
            worker_id: row.state.worker().map(|worker| worker.to_string()),
            submitted_at: row.submitted_at.as_unix_seconds(),
            completed_at: end.map(|(_, at)| at.as_unix_seconds()),
            priority: row.priority.to_string(),
            client: row.client.as_ref().map(ClientName::as_str),
            attempts: row.state.attempts(),
            queue_position: None,
            reason: None,
            attempt: row.state.attempt().map(AttemptBody::of),
            error,
            outputs: None,
            outputs_reason: None,
        }
    }

    /// Says how many jobs are taken before this one, and why it waits.
    pub fn waiting(mut self, ahead: usize, reason: String) -> Self {
        (self.queue_position, self.reason) = (Some(ahead), Some(reason));
        self
    }

    /// Says where the job's outputs are.
    pub fn with_outputs(mut self, place: Option<&'a OutputsPlace>) -> Self {
        self.outputs = place.map(OutputsPlace::as_str);
        if let Some(OutputsPlace::OnWorker { reason }) = place {
            self.outputs_reason = Some(reason);
        }
        self
    }

    /// The answer up to the place where the worker's own status stands; [`STATUS_END`] ends it.
    pub fn begin(&self) -> String {
        let mut text = self.to_json();
        text.pop();
        text.push_str(",\"worker_status\":");
        text
    }

    /// The whole answer, with the worker's status as the pool last saw it.
    pub fn whole(&self, worker_status: Option<&str>) -> String {
        let worker_status = worker_status.filter(|json| is_json_object(json.as_bytes())).unwrap_or("null");
        self.begin() + worker_status + STATUS_END
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data is written as JSON")
    }
}

/// What follows the worker's status in a status answer.
pub const STATUS_END: &str = "}";

/// Whether a worker's text can stand in an answer of ours.
pub fn is_json_object(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok_and(|value| value.get().starts_with('{'))
}

/// One row of `GET /jobs`.
pub fn job_summary(row: &JobRow) -> Value {
    serde_json::to_value(StatusBody::new(row)).expect("plain data is written as JSON")
}

/// `GET /logs/{job}`.
pub fn logs(logs: &Logs) -> Value {
    let mut body = json!({ "stdout": logs.stdout, "stderr": logs.stderr });
    if logs.truncation == Truncation::Cut {
        body["truncated"] = json!(true);
    }
    body
}

/// `GET /pool`, without the workers.
#[derive(Serialize)]
pub struct PoolBody {
    pool_id: PoolKey,
    total_workers: usize,
    healthy_workers: usize,
    total_jobs: u64,
    queued_jobs: usize,
}

impl PoolBody {
    pub fn new(pool_id: PoolKey, workers: Standings, total_jobs: u64, queued_jobs: usize) -> Self {
        let (total_workers, healthy_workers) = (workers.total(), workers.healthy);
        Self { pool_id, total_workers, healthy_workers, total_jobs, queued_jobs }
    }

    /// The answer up to its first worker; [`POOL_END`] ends it.
    pub fn begin(&self) -> String {
        let mut text = serde_json::to_string(self).expect("plain data is written as JSON");
        text.pop();
        text.push_str(",\"workers\":[");
        text
    }
}

/// What follows the last worker in a pool answer.
pub const POOL_END: &str = "]}";

/// One of the workers of `GET /pool`.
pub fn worker(view: &WorkerView, now: Timestamp) -> String {
    serde_json::to_string(&WorkerBody::new(view, now)).expect("plain data is written as JSON")
}

#[derive(Serialize)]
struct WorkerBody<'a> {
    worker_id: WorkerKey,
    endpoint: String,
    is_healthy: bool,
    active_jobs: u32,
    max_concurrent_jobs: u32,
    last_health_check: Option<f64>,
    last_error: Option<&'a str>,
    identity: Option<Identity>,
    protocol: Dialect,
    draining: Option<Value>,
    removed_at: Option<f64>,
    throttled_until: Option<f64>,
    labels: &'a BTreeMap<String, String>,
}

impl<'a> WorkerBody<'a> {
    fn new(view: &'a WorkerView, now: Timestamp) -> Self {
        let throttled_until = view.throttled_until.filter(|until| *until > now);
        Self {
            worker_id: view.spec.key,
            endpoint: view.spec.endpoint.to_string(),
            is_healthy: view.health.is_healthy(),
            active_jobs: view.active_jobs,
            max_concurrent_jobs: view.limit,
            last_health_check: view.health.checked_at.map(Timestamp::as_unix_seconds),
            last_error: view.health.reason(),
            identity: view.health.identity(),
            protocol: view.health.dialect,
            draining: draining(view),
            removed_at: view.removed_since.map(Timestamp::as_unix_seconds),
            throttled_until: throttled_until.map(Timestamp::as_unix_seconds),
            labels: &view.spec.labels,
        }
    }
}

/// Why a worker gets no more jobs, and since when: an operator said so, or took it off the list.
fn draining(view: &WorkerView) -> Option<Value> {
    let (reason, since) = match (&view.drain, view.removed_since) {
        (Some(drain), _) => (drain.reason.as_str(), drain.since),
        (None, Some(since)) => ("it was removed from the list of workers", since),
        (None, None) => return None,
    };
    Some(json!({ "reason": reason, "since": since.as_unix_seconds() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{FailureCode, JobState, Last, Priority};

    fn row(state: JobState) -> JobRow {
        let id = JobId::from_random([1; 12]);
        let submitted_at = Timestamp::from_micros(1_500_000);
        JobRow {
            id,
            sequence: 1,
            version: 1,
            client: None,
            priority: Priority::Normal,
            submitted_at,
            terms: Default::default(),
            state,
        }
    }

    fn status(state: JobState, worker_status: Option<&str>) -> Value {
        let row = row(state);
        serde_json::from_str(&StatusBody::new(&row).whole(worker_status)).unwrap()
    }

    #[test]
    fn what_is_not_known_is_null() {
        let body = status(JobState::submitted(Timestamp::from_micros(1_500_000)), None);
        assert_eq!(body["status"], "queued");
        assert_eq!(body["pool_status"], "queued");
        assert_eq!(body["submitted_at"], 1.5);
        for key in ["worker_id", "worker_status", "completed_at"] {
            assert_eq!(body.get(key), Some(&Value::Null), "{key}");
        }
    }

    #[test]
    fn a_failed_job_says_why() {
        let outcome = Outcome::failed(FailureCode::Rejected, "No entrypoint specified");
        let at = Timestamp::from_micros(2_000_000);
        let last = Some(Last { worker: WorkerKey::for_tests(1), remote: None });
        let body = status(JobState::Finished { outcome, at, attempts: 1, last }, None);
        assert_eq!(body["error"], json!({"code": "rejected", "message": "No entrypoint specified"}));
        assert_eq!((&body["status"], &body["completed_at"]), (&json!("failed"), &json!(2.0)));
    }

    #[test]
    fn a_workers_status_that_is_no_object_does_not_break_the_answer() {
        for broken in ["", "{", "[1]", "nonsense", "{} {}"] {
            let body = status(JobState::submitted(Timestamp::from_micros(1_500_000)), Some(broken));
            assert_eq!(body["worker_status"], Value::Null, "{broken}");
        }
        let body = status(JobState::submitted(Timestamp::from_micros(1_500_000)), Some(r#" {"a": 1} "#));
        assert_eq!(body["worker_status"], json!({"a": 1}));
    }
}
