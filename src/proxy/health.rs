//! What the pool says of itself: `/`, `/pool`, `/health`, `/ready`.

use http::StatusCode;
use pingora::Result;
use pingora_proxy::Session;
use serde_json::json;

use super::jobs::store_problem;
use super::{Front, respond};
use crate::api::bodies;

/// A view of more workers than these is a long answer, of about 400 bytes for each.
const MANY_WORKERS: usize = 1000;

impl Front {
    /// `GET /pool`.
    pub(super) async fn pool_view(&self, session: &mut Session) -> Result<()> {
        let workers = self.pool.view();
        let _large = match workers.len() {
            0..=MANY_WORKERS => None,
            _ => match self.large_answer().await {
                Ok(permit) => Some(permit),
                Err(problem) => return respond::problem(session, &problem).await,
            },
        };
        let (total, queued) = (self.queue.total_jobs(), self.queue.waiting_jobs());
        let body = bodies::pool(self.dialer.pool_key(), &workers, total, queued, self.clock.now());
        respond::text(session, StatusCode::OK, body).await
    }

    /// `GET /health`: the process answers.
    pub(super) async fn health(&self, session: &mut Session) -> Result<()> {
        let body = json!({ "status": "healthy", "role": "pool", "version": env!("CARGO_PKG_VERSION") });
        respond::json(session, StatusCode::OK, &body).await
    }

    /// `GET /ready`: it can take in a job, and knows its workers.
    pub(super) async fn ready(&self, session: &mut Session) -> Result<()> {
        let store = self.store.check().await.map_err(|error| store_problem(&error).message);
        let reason = match store {
            Err(reason) => Some(reason),
            Ok(()) if self.spool.check_room().is_err() => Some("the disk is full".to_owned()),
            Ok(()) if self.shutdown.is_stopping() => Some("the pool is shutting down".to_owned()),
            Ok(()) if !self.prober.has_looked_around() => {
                Some("the workers have not been asked yet".to_owned())
            }
            Ok(()) => None,
        };
        let (status, body) = match reason {
            None => (StatusCode::OK, json!({ "status": "ready" })),
            Some(reason) => {
                (StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "not ready", "reason": reason }))
            }
        };
        respond::json(session, status, &body).await
    }

    /// `GET /`: who this is; clients of a single worker look for `service`.
    pub(super) async fn root(&self, session: &mut Session) -> Result<()> {
        let body = json!({
            "service": "sandrun",
            "role": "pool",
            "status": "running",
            "version": env!("CARGO_PKG_VERSION"),
            "endpoints": [
                "POST /submit", "GET /status/{job}", "GET /receipt/{job}", "GET /logs/{job}", "GET /stream/{job}",
                "GET /outputs/{job}", "GET /outputs/{job}/{path}", "GET /download/{job}/{path}", "GET /download/{job}",
                "POST /cancel/{job}", "POST /retry/{job}", "GET /jobs", "GET /pool", "POST /workers/{worker_id}/drain",
                "POST /workers/{worker_id}/resume", "GET /health", "GET /ready", "GET /openapi.json", "GET /",
            ],
        });
        respond::json(session, StatusCode::OK, &body).await
    }
}
