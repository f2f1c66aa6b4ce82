//! What the pool says of itself: `/`, `/pool`, `/health`, `/ready`.

use bytes::Bytes;
use http::StatusCode;
use pingora::Result;
use pingora_proxy::Session;
use serde_json::json;

use super::jobs::store_problem;
use super::{Front, respond};
use crate::api::bodies::{self, PoolBody};
use crate::worker::WorkerKey;

/// Workers that are written at once, at about 400 bytes each.
const WORKERS_PIECE: usize = 200;

impl Front {
    /// `GET /pool`. A long list is told piece by piece: each worker is as it was when its piece was written.
    pub(super) async fn pool_view(&self, session: &mut Session) -> Result<()> {
        let (total_jobs, queued) = (self.queue.total_jobs(), self.queue.waiting_jobs());
        let body = PoolBody::new(self.peers.dialer().pool_key(), self.pool.standings(), total_jobs, queued);
        let (mut piece, mut last) = (body.begin(), None);
        if !self.push_workers(&mut piece, &mut last) {
            return respond::text(session, StatusCode::OK, piece).await;
        }
        if !respond::begin(session, "application/json").await? {
            return Ok(());
        }
        let mut is_more = true;
        while is_more {
            session.write_response_body(Some(Bytes::from(std::mem::take(&mut piece))), false).await?;
            is_more = self.push_workers(&mut piece, &mut last);
        }
        session.write_response_body(Some(Bytes::from(piece)), true).await
    }

    /// Writes the next workers past the last one that was written, or the end; says whether there may be more.
    fn push_workers(&self, text: &mut String, last: &mut Option<WorkerKey>) -> bool {
        let (workers, now) = (self.pool.view_after(*last, WORKERS_PIECE), self.clock.now());
        for view in &workers {
            if last.replace(view.spec.key).is_some() {
                text.push(',');
            }
            text.push_str(&bodies::worker(view, now));
        }
        let is_more = workers.len() == WORKERS_PIECE;
        if !is_more {
            text.push_str(bodies::POOL_END);
        }
        is_more
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
                "POST /workers/{worker_id}/resume", "GET /health", "GET /ready", "GET /metrics", "GET /openapi.json",
                "GET /",
            ],
        });
        respond::json(session, StatusCode::OK, &body).await
    }
}
