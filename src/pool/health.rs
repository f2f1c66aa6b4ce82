//! What the pool holds of a worker's health, and when it asks next. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::time::Timestamp;
use crate::upstream::{CheckFailure, HealthReport};
use crate::worker::certificate::Leaf;
use crate::worker::trust::Identity;
use crate::worker::{Dialect, WorkerKey};

/// The first pause before a worker that is down is asked again; it doubles up to the interval.
const RECHECK_FIRST: Duration = Duration::from_secs(1);

/// Whether a worker may be given jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not asked yet since the pool started.
    Unchecked,
    Healthy {
        identity: Identity,
        dialect: Dialect,
        capacity: Option<u32>,
    },
    /// It is well, and its identity is not known as surely as the pool requires.
    Distrusted {
        identity: Identity,
        reason: String,
    },
    /// It cannot be given a job, and why.
    Down {
        reason: String,
    },
}

/// A worker's health as seen so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub standing: Standing,
    pub checked_at: Option<Timestamp>,
    /// The first of the checks that failed in a row, up to the last one.
    pub down_since: Option<Timestamp>,
    /// Checks and contacts that failed in a row.
    failures: u32,
    /// What it spoke when it was last healthy: a busy worker that misses a check still speaks the same.
    pub dialect: Dialect,
    /// The certificate that it showed when it last was, of a worker with TLS.
    pub leaf: Option<Arc<Leaf>>,
    /// How surely it was known when it last answered.
    known: Option<Identity>,
    /// Somebody else answered in its place, or it was not known surely enough, and has not answered rightly since.
    refused: bool,
}

/// What a check has shown of a worker's identity that the one before did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityNews {
    /// It is known more or less surely than when it last answered; at first it is not known at all.
    Changed { from: Option<Identity>, to: Identity },
    /// It is not taken for the worker, or not surely enough.
    Refused { reason: String },
}

impl Default for Health {
    fn default() -> Self {
        Self {
            standing: Standing::Unchecked,
            checked_at: None,
            down_since: None,
            failures: 0,
            dialect: Dialect::Sandrun,
            leaf: None,
            known: None,
            refused: false,
        }
    }
}

/// Whether a check changed what is thought of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    Up,
    Down,
    None,
}

impl Health {
    pub fn is_healthy(&self) -> bool {
        matches!(self.standing, Standing::Healthy { .. })
    }

    /// Whether it was the worker that last answered here, known as surely as it must be.
    pub fn is_proven(&self) -> bool {
        self.known.is_some() && !self.refused
    }

    /// What is known of the same worker at another endpoint: what it speaks, and nothing of who is there.
    pub fn at_another_endpoint(&self) -> Self {
        Self { dialect: self.dialect, ..Self::default() }
    }

    /// Why it is not healthy, in words.
    pub fn reason(&self) -> Option<&str> {
        match &self.standing {
            Standing::Distrusted { reason, .. } | Standing::Down { reason } => Some(reason),
            Standing::Unchecked | Standing::Healthy { .. } => None,
        }
    }

    /// How surely it is known who the worker is, as far as the last check showed.
    pub fn identity(&self) -> Option<Identity> {
        match self.standing {
            Standing::Healthy { identity, .. } | Standing::Distrusted { identity, .. } => Some(identity),
            Standing::Unchecked | Standing::Down { .. } => None,
        }
    }

    /// What this check will change in what is known of the worker's identity; to be asked before it is taken in.
    pub fn identity_news(
        &mut self,
        key: WorkerKey,
        required: Identity,
        checked: &Result<HealthReport, CheckFailure>,
    ) -> Vec<IdentityNews> {
        let mut news = Vec::new();
        let refused = match checked.clone().and_then(|report| identified(key, report)) {
            Ok(report) => {
                let to = report.evidence.identity();
                let from = self.known.replace(to);
                if from != Some(to) {
                    news.push(IdentityNews::Changed { from, to });
                }
                (to < required).then(|| format!("its identity is {to}, and trust.require is {required}"))
            }
            Err(CheckFailure::NotTheWorker(reason)) => Some(reason),
            // Nobody has answered: that tells nothing of who is there.
            Err(CheckFailure::Unwell(_)) => return news,
        };
        let before = std::mem::replace(&mut self.refused, refused.is_some());
        news.extend(refused.filter(|_| !before).map(|reason| IdentityNews::Refused { reason }));
        news
    }

    /// Takes in the result of a check of the worker `key`, whose identity must be known at least as surely as `required`.
    pub fn observe(
        &mut self,
        key: WorkerKey,
        required: Identity,
        checked: Result<HealthReport, CheckFailure>,
        now: Timestamp,
    ) -> Flip {
        self.checked_at = Some(now);
        match checked.and_then(|report| identified(key, report)) {
            Ok(HealthReport { dialect, capacity, evidence, worker_id: _, address: _ }) => {
                (self.failures, self.down_since) = (0, None);
                self.dialect = dialect;
                self.leaf = evidence.leaf().cloned();
                let identity = evidence.identity();
                self.stand(if identity >= required {
                    Standing::Healthy { identity, dialect, capacity }
                } else {
                    let reason = format!("its identity is {identity}, and trust.require is {required}");
                    Standing::Distrusted { identity, reason }
                })
            }
            Err(failure) => {
                self.down_since.get_or_insert(now);
                self.fail(failure.reason().to_owned())
            }
        }
    }

    /// Takes in a contact outside of the checks that failed.
    pub fn suspect(&mut self, reason: String) -> Flip {
        self.fail(reason)
    }

    fn fail(&mut self, reason: String) -> Flip {
        self.failures = self.failures.saturating_add(1);
        self.stand(Standing::Down { reason })
    }

    fn stand(&mut self, standing: Standing) -> Flip {
        let (was, is_healthy) = (std::mem::replace(&mut self.standing, standing), self.is_healthy());
        match (was, is_healthy) {
            (Standing::Healthy { .. }, true)
            | (Standing::Distrusted { .. } | Standing::Down { .. }, false) => Flip::None,
            (_, true) => Flip::Up,
            (_, false) => Flip::Down,
        }
    }

    /// The pause until the next check. `jitter`, in 0..1, spreads workers that were checked together over a tenth of it.
    pub fn next_check_after(&self, interval: Duration, jitter: f64) -> Duration {
        let doubled = RECHECK_FIRST.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        let pause = if self.failures == 0 { interval } else { doubled.min(interval) };
        pause.mul_f64(1.0 - 0.1 * jitter.clamp(0.0, 1.0))
    }
}

/// A report of the worker that the allowlist names, or why it is not.
fn identified(key: WorkerKey, report: HealthReport) -> Result<HealthReport, CheckFailure> {
    let refused = |why| Err(CheckFailure::NotTheWorker(why));
    match &report.worker_id {
        // Its key says it.
        None if report.evidence.identity() == Identity::Pinned => Ok(report),
        None => refused(format!("it has no identity: its worker_id is null, and the allowlist names {key}")),
        Some(claimed) if *claimed == key.to_string() => Ok(report),
        Some(claimed) => {
            let claimed: String = claimed.chars().filter(|c| !c.is_control()).take(64).collect();
            refused(format!(
                "it is another worker: its worker_id is {claimed:?}, and the allowlist names {key}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::evidence::Evidence;

    const NOW: Timestamp = Timestamp::from_micros(5);

    fn report(worker_id: Option<String>) -> Result<HealthReport, CheckFailure> {
        Ok(HealthReport {
            worker_id,
            dialect: Dialect::Sandrun,
            capacity: None,
            address: None,
            evidence: Evidence::Claimed,
        })
    }

    /// Takes in a check by a pool that asks for no proof.
    fn observe(health: &mut Health, key: WorkerKey, checked: Result<HealthReport, CheckFailure>) -> Flip {
        health.observe(key, Identity::Claimed, checked, NOW)
    }

    #[test]
    fn only_the_allowlisted_identity_is_healthy() {
        let (key, other) = (WorkerKey::for_tests(1), WorkerKey::for_tests(2));
        let mut health = Health::default();
        assert_eq!(observe(&mut health, key, report(Some(other.to_string()))), Flip::Down);
        assert!(health.reason().unwrap().contains(&other.to_string()));
        assert_eq!(observe(&mut health, key, report(None)), Flip::None);
        assert_eq!(observe(&mut health, key, report(Some(key.to_string()))), Flip::Up);
        assert!(health.is_healthy());
        assert_eq!(health.suspect("connection refused".into()), Flip::Down);
    }

    #[test]
    fn an_identity_that_is_not_sure_enough_keeps_a_worker_from_jobs_and_is_told() {
        let key = WorkerKey::for_tests(1);
        let mut health = Health::default();
        let flip = health.observe(key, Identity::Proved, report(Some(key.to_string())), NOW);
        assert_eq!((flip, health.is_healthy()), (Flip::Down, false));
        assert_eq!(health.reason(), Some("its identity is claimed, and trust.require is proved"));
        assert_eq!(health.identity(), Some(Identity::Claimed));
        // It is no failure: it is asked in its usual rhythm.
        assert_eq!(health.next_check_after(Duration::from_secs(30), 0.0), Duration::from_secs(30));
        let proved =
            report(Some(key.to_string())).map(|report| HealthReport { evidence: Evidence::Proved, ..report });
        assert_eq!(health.observe(key, Identity::Proved, proved, NOW), Flip::Up);
    }

    #[test]
    fn news_of_an_identity_are_told_once() {
        let (key, other) = (WorkerKey::for_tests(1), WorkerKey::for_tests(2));
        let mut health = Health::default();
        let mut news = |checked| health.identity_news(key, Identity::Proved, &checked);
        let unwell = || Err(CheckFailure::Unwell("refused".into()));
        let proved = || {
            report(Some(key.to_string())).map(|report| HealthReport { evidence: Evidence::Proved, ..report })
        };
        assert_eq!(news(proved()), [IdentityNews::Changed { from: None, to: Identity::Proved }]);
        assert_eq!((news(proved()), news(unwell()), news(proved())), (vec![], vec![], vec![]));
        assert!(matches!(news(report(Some(other.to_string())))[..], [IdentityNews::Refused { .. }]));
        assert_eq!((news(report(None)), news(unwell()), news(report(None))), (vec![], vec![], vec![]));
        // That it is refused was told before.
        let changed = IdentityNews::Changed { from: Some(Identity::Proved), to: Identity::Claimed };
        assert_eq!(news(report(Some(key.to_string()))), [changed]);
    }

    #[test]
    fn who_answers_is_proven_until_somebody_else_does_or_the_endpoint_is_another() {
        let key = WorkerKey::for_tests(1);
        let mut health = Health::default();
        let mut is_proven_after = |checked| {
            health.identity_news(key, Identity::Claimed, &checked);
            observe(&mut health, key, checked);
            (health.is_proven(), health.at_another_endpoint().is_proven())
        };
        assert_eq!(is_proven_after(Err(CheckFailure::Unwell("refused".into()))), (false, false));
        assert_eq!(is_proven_after(report(Some(key.to_string()))), (true, false));
        assert_eq!(is_proven_after(Err(CheckFailure::Unwell("refused".into()))), (true, false));
        assert_eq!(is_proven_after(report(Some(WorkerKey::for_tests(2).to_string()))), (false, false));
        assert_eq!(is_proven_after(report(Some(key.to_string()))), (true, false));
    }

    #[test]
    fn a_worker_that_is_down_is_asked_sooner_and_then_less_often() {
        let interval = Duration::from_secs(30);
        let mut health = Health::default();
        assert_eq!(health.next_check_after(interval, 0.0), interval);
        let pauses: Vec<u64> = (0..7)
            .map(|_| {
                observe(&mut health, WorkerKey::for_tests(1), Err(CheckFailure::Unwell("refused".into())));
                health.next_check_after(interval, 0.0).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(health.next_check_after(interval, 1.0), Duration::from_secs(27));
    }
}
