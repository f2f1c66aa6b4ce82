//! What `/metrics` shows of the parts: what each counts, and what each holds now.

use std::sync::Arc;

use super::connections::Connections;
use super::tls::Tls;
use crate::dispatch::Dispatcher;
use crate::pool::{Pool, Standings};
use crate::queue::{Queue, census};
use crate::spool::Spool;
use crate::store::sqlite::StoreMetrics;
use crate::telemetry::metrics::{Family, Kind, Live, Metrics};
use crate::time::Clock;

/// The parts whose values are shown.
pub struct Shown<'a> {
    pub queue: &'a Queue,
    pub dispatcher: &'a Dispatcher,
    pub pool: &'a Pool,
    pub store: &'a StoreMetrics,
    pub spool: &'a Arc<Spool>,
    pub tls: Option<&'a Tls>,
    pub clock: &'a Clock,
}

impl Shown<'_> {
    pub fn metrics(&self) -> Metrics {
        let metrics = Metrics::of_this_process();
        self.queue.metrics().add_to(&metrics);
        self.dispatcher.metrics().add_to(&metrics);
        self.store.add_to(&metrics);
        self.add_jobs(&metrics);
        self.add_workers(&metrics);
        self.add_disk(&metrics);
        if let Some(tls) = self.tls {
            let name = "trusted_pool_tls_certificate_not_after_timestamp_seconds";
            let help =
                "When the certificate that clients are shown ends, in Unix seconds; absent without TLS.";
            metrics.read(gauge(name, help), tls.not_after());
        }
        metrics
    }

    fn add_jobs(&self, metrics: &Metrics) {
        let states = gauge("trusted_pool_jobs", "Jobs that have not ended, by where they stand.");
        let census = self.queue.census();
        metrics.add(Live::labelled(states, "state", &census::STATES, move || {
            census.counts().iter().map(|count| *count as f64).collect()
        }));
        let oldest = gauge(
            "trusted_pool_oldest_queued_job_age_seconds",
            "Seconds that the queued job has waited which has waited for longest; 0 when none waits.",
        );
        let (census, clock) = (self.queue.census(), self.clock.clone());
        metrics.read(oldest, move || {
            Some(census.waits_since().map_or(0.0, |since| clock.now().since(since).as_secs_f64()))
        });
        let known = gauge("trusted_pool_jobs_known", "Jobs that the store remembers, ended ones included.");
        let queue = self.queue.clone();
        metrics.read(known, move || Some(queue.total_jobs() as f64));
    }

    fn add_workers(&self, metrics: &Metrics) {
        let standings = gauge(
            "trusted_pool_workers",
            "Workers, by how they are: healthy, not asked yet, not known as surely as trust.require wants, down.",
        );
        let pool = self.pool.clone();
        let states = &["healthy", "unchecked", "distrusted", "down"];
        metrics.add(Live::labelled(standings, "state", states, move || {
            let Standings { healthy, unchecked, distrusted, down } = pool.standings();
            [healthy, unchecked, distrusted, down].iter().map(|count| *count as f64).collect()
        }));
    }

    fn add_disk(&self, metrics: &Metrics) {
        let (used, free) = (Arc::clone(self.spool), Arc::clone(self.spool));
        let bytes_max = self.spool.bytes_max();
        let family = gauge(
            "trusted_pool_spool_bytes",
            "Bytes of payloads in the spool, those that are coming in included.",
        );
        metrics.read(family, move || Some(used.used_bytes() as f64));
        let family =
            gauge("trusted_pool_spool_limit_bytes", "Bytes that payloads may take up: max_spool_bytes.");
        metrics.read(family, move || Some(bytes_max as f64));
        let family =
            gauge("trusted_pool_disk_free_bytes", "Bytes that are free on the disk of the data directory.");
        metrics.read(family, move || free.free_bytes().ok().map(|bytes| bytes as f64));
    }
}

/// Shows the connections of clients.
pub fn add_connections(metrics: &Metrics, connections: &Connections) {
    let (now, refused) = (connections.clone(), connections.clone());
    let family =
        gauge("trusted_pool_connections", "Connections of clients that are open, or in their handshake.");
    metrics.read(family, move || Some(now.now() as f64));
    let family = Family {
        name: "trusted_pool_connections_refused_total",
        help: "Connections that were refused because there were too many, of their address or in all.",
        kind: Kind::Counter,
    };
    metrics.read(family, move || Some(refused.refused() as f64));
}

fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: Kind::Gauge }
}
