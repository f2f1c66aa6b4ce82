//! Which workers may be asked for outputs now: one job of each at a time, and none while it rests from a failure. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::WorkerKey;

/// Pauses between tries at a worker that cannot be reached.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The workers that are being asked or rest; every other one may be asked.
#[derive(Debug, Default)]
pub struct Turns {
    workers: HashMap<WorkerKey, Standing>,
}

#[derive(Debug)]
struct Standing {
    phase: Phase,
    /// The next pause.
    pause: Duration,
    /// Since when every try failed to reach it.
    away_since: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Asked,
    Resting { until: Instant },
}

/// How a collection went, for its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    Well,
    /// The worker was not reached.
    Away,
    /// The worker has been away for so long that these outputs were given up. So will the next ones be, if it still is.
    Lost,
    /// The pool itself could not go on.
    Hindered,
}

impl Turns {
    /// The workers that may not be asked now.
    pub fn closed(&self, now: Instant) -> Vec<WorkerKey> {
        let closed = |standing: &Standing| match standing.phase {
            Phase::Asked => true,
            Phase::Resting { until } => now < until,
        };
        self.workers.iter().filter(|(_, standing)| closed(standing)).map(|(key, _)| *key).collect()
    }

    /// When the next of those that rest at `now` has rested.
    pub fn next_opening(&self, now: Instant) -> Option<Instant> {
        let rests = self.workers.values().filter_map(|standing| match standing.phase {
            Phase::Asked => None,
            Phase::Resting { until } => Some(until),
        });
        // One that has rested has nothing to be asked for, or would be asked.
        rests.filter(|until| *until > now).min()
    }

    /// A worker is asked; since when it has been away.
    pub fn begin(&mut self, worker: WorkerKey) -> Option<Instant> {
        let standing = self.workers.entry(worker).or_insert(Standing {
            phase: Phase::Asked,
            pause: PAUSE_FIRST,
            away_since: None,
        });
        standing.phase = Phase::Asked;
        standing.away_since
    }

    pub fn ended(&mut self, worker: WorkerKey, went: Went, now: Instant) {
        let Some(standing) = self.workers.get_mut(&worker) else { return };
        let pause = match went {
            Went::Well => {
                self.workers.remove(&worker);
                return;
            }
            Went::Lost => Duration::ZERO,
            Went::Away | Went::Hindered => standing.pause,
        };
        if went == Went::Away {
            standing.away_since.get_or_insert(now);
        }
        standing.phase = Phase::Resting { until: now + pause };
        standing.pause = (standing.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_asked_for_one_job_at_a_time() {
        let (mut turns, now, worker) = (Turns::default(), Instant::now(), WorkerKey::for_tests(1));
        turns.begin(worker);
        assert_eq!((turns.closed(now), turns.next_opening(now)), (vec![worker], None));
        turns.ended(worker, Went::Well, now);
        assert_eq!(turns.closed(now), []);
    }

    #[test]
    fn a_worker_that_is_away_rests_longer_and_longer_and_it_is_known_since_when() {
        let (mut turns, first, worker) = (Turns::default(), Instant::now(), WorkerKey::for_tests(1));
        let mut now = first;
        let mut pauses = Vec::new();
        for n in 0..8 {
            assert_eq!(turns.begin(worker), (n > 0).then_some(first));
            turns.ended(worker, Went::Away, now);
            let until = turns.next_opening(now).unwrap();
            assert_eq!((turns.closed(now), turns.closed(until)), (vec![worker], vec![]));
            pauses.push(until - now);
            now = until;
        }
        assert!(pauses.is_sorted() && pauses[0] == PAUSE_FIRST && pauses[7] == PAUSE_MAX);
        turns.begin(worker);
        turns.ended(worker, Went::Lost, now);
        assert_eq!((turns.closed(now), turns.next_opening(now)), (vec![], None));
        assert_eq!(turns.begin(worker), Some(first));
        turns.ended(worker, Went::Well, now);
        assert_eq!(turns.begin(worker), None);
    }

    #[test]
    fn a_worker_is_not_away_because_the_pool_is_hindered() {
        let (mut turns, now, worker) = (Turns::default(), Instant::now(), WorkerKey::for_tests(1));
        turns.begin(worker);
        turns.ended(worker, Went::Hindered, now);
        assert_eq!(turns.closed(now), [worker]);
        assert_eq!(turns.begin(worker), None);
    }
}
