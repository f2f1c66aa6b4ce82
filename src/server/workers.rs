//! Puts the list of workers in force again when it has changed.

use std::sync::Arc;

use serde_json::json;

use super::reload::Watched;
use crate::config::WorkersSource;
use crate::pool::Pool;
use crate::pool::changes::Changes;
use crate::telemetry::audit::{AuditLog, Entry, Event};
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::worker::WorkerKey;

/// Workers that one line of the audit log names: as many as it has room for.
const NAMED_MAX: usize = 1000;

/// The list of workers, and what depends on it.
pub struct Roster {
    pub source: WorkersSource,
    pub pool: Pool,
    pub upstream: Arc<dyn Upstream>,
    pub clock: Clock,
    pub audit: AuditLog,
}

impl Roster {
    /// Reads the list again from now on.
    pub fn watch(self) -> Result<Watched, String> {
        Watched::begin(self.source.files(), move || self.reload())
    }

    fn reload(&self) -> Result<String, String> {
        let list = self.source.read().map_err(|errors| errors.to_string().replace('\n', "; "))?;
        let workers = list.workers().len();
        let changes = self.pool.reload(list, self.clock.now());
        changes.moved.iter().for_each(|worker| self.upstream.forget(worker.key));
        self.record(&changes);
        Ok(format!("{workers} workers in {}: {changes}", self.source))
    }

    fn record(&self, changes: &Changes) {
        let named: Vec<_> = changes.each().collect();
        for named in named.chunks(NAMED_MAX) {
            let of = |kind| -> Vec<WorkerKey> {
                named.iter().filter(|(of, _)| *of == kind).map(|(_, key)| *key).collect()
            };
            let about = json!({
                "added": of("added"), "moved": of("moved"), "changed": of("changed"), "removed": of("removed"),
            });
            self.audit.record(Entry::new(Event::WorkersChange, about));
        }
    }
}
