//! `GET /metrics`: all that is counted, and the workers one by one.
//!
//! The workers are written piece by piece, each family of them from its own walk over the pool: a scrape of ten thousand of them holds
//! no more than a piece, and the pool's lock no longer than for a few hundred.

use bytes::Bytes;
use pingora::Result;
use pingora_proxy::Session;

use super::{Front, respond};
use crate::pool::WorkerView;
use crate::telemetry::metrics::{CONTENT_TYPE, Family, Kind};
use crate::time::Timestamp;

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// Workers that are looked at in one go.
const BATCH: usize = 256;

const KEPT_BYTES: Family = Family {
    name: "trusted_pool_outputs_kept_bytes",
    help: "Bytes of outputs that the pool keeps.",
    kind: Kind::Gauge,
};

/// A family with a value for each worker.
struct OfWorkers {
    family: Family,
    values: Values,
}

/// What is written of a worker.
enum Values {
    One(Read),
    /// One for each of a label's values.
    Labelled(&'static str, [(&'static str, Read); 2]),
}

/// A value of a worker as it is at a time.
type Read = fn(&WorkerView, Timestamp) -> f64;

const OF_WORKERS: [OfWorkers; 7] = [
    gauge(
        "trusted_pool_worker_up",
        "Whether the worker may be given jobs: it is well, and who it should be.",
        |worker, _| truth(worker.health.is_healthy()),
    ),
    gauge("trusted_pool_worker_active_jobs", "Jobs that the worker has now.", |worker, _| {
        f64::from(worker.active_jobs)
    }),
    gauge(
        "trusted_pool_worker_jobs_limit",
        "The most jobs that the worker is given at once.",
        |worker, _| f64::from(worker.limit),
    ),
    gauge(
        "trusted_pool_worker_draining",
        "Whether the worker gets no more jobs because an operator wants it so, or took it off the list.",
        |worker, _| truth(worker.drain.is_some() || worker.removed_since.is_some()),
    ),
    gauge(
        "trusted_pool_worker_throttled",
        "Whether the worker has asked to be given nothing for now.",
        |worker, now| truth(worker.throttled_until.is_some_and(|until| until > now)),
    ),
    gauge(
        "trusted_pool_worker_last_health_check_timestamp_seconds",
        "When the worker was last asked how it is, in Unix seconds; 0 before the first time.",
        |worker, _| worker.health.checked_at.map_or(0.0, Timestamp::as_unix_seconds),
    ),
    OfWorkers {
        family: Family {
            name: "trusted_pool_worker_health_checks_total",
            help: "Checks of the worker's health, by result.",
            kind: Kind::Counter,
        },
        values: Values::Labelled(
            "result",
            [
                ("passed", |worker, _| worker.checks.passed as f64),
                ("failed", |worker, _| worker.checks.failed as f64),
            ],
        ),
    },
];

const fn gauge(name: &'static str, help: &'static str, value: Read) -> OfWorkers {
    OfWorkers { family: Family { name, help, kind: Kind::Gauge }, values: Values::One(value) }
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

impl OfWorkers {
    fn write(&self, text: &mut String, worker: &WorkerView, now: Timestamp) {
        let (key, endpoint) = (worker.spec.key.to_string(), worker.spec.endpoint.to_string());
        let labels = [("worker_id", key.as_str()), ("endpoint", endpoint.as_str())];
        match &self.values {
            Values::One(value) => self.family.write_value(text, labels, value(worker, now)),
            Values::Labelled(label, values) => {
                for (name, value) in values {
                    let labels = labels.into_iter().chain([(*label, *name)]);
                    self.family.write_value(text, labels, value(worker, now));
                }
            }
        }
    }
}

impl Front {
    pub(super) async fn scrape(&self, session: &mut Session) -> Result<()> {
        if !respond::begin(session, CONTENT_TYPE).await? {
            return Ok(());
        }
        let mut text = self.metrics.text();
        KEPT_BYTES.write_head(&mut text);
        match self.store.kept_bytes().await {
            Ok(bytes) => KEPT_BYTES.write_value(&mut text, [], bytes as f64),
            Err(error) => log::warn!("the outputs that are kept cannot be counted: {error}"),
        }
        let now = self.clock.now();
        for of_workers in &OF_WORKERS {
            of_workers.family.write_head(&mut text);
            let mut last = None;
            loop {
                let workers = self.pool.view_after(last, BATCH);
                let Some(worker) = workers.last() else { break };
                last = Some(worker.spec.key);
                workers.iter().for_each(|worker| of_workers.write(&mut text, worker, now));
                if text.len() >= PIECE_BYTES {
                    let piece = Bytes::from(std::mem::take(&mut text));
                    session.write_response_body(Some(piece), false).await?;
                }
            }
        }
        session.write_response_body(Some(Bytes::from(text)), true).await
    }
}
