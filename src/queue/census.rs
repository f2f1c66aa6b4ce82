//! How many unfinished jobs stand where, and since when those that wait do.
//!
//! What is counted are guards that the jobs hold, so that no way out of the queue can forget to count down, and a look costs no walk
//! over a million jobs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::activity::{Counted, CountedGuard};
use crate::job::JobState;
use crate::time::Timestamp;

/// Where a job stands that has begun to leave the queue.
#[derive(Clone, Copy)]
enum Stage {
    Dispatched,
    Unknown,
    Running,
    Collecting,
    Settling,
}

/// The words for [`Census::counts`].
pub const STATES: [&str; 6] = ["queued", "dispatched", "unknown", "running", "collecting", "settling"];

/// The unfinished jobs, counted.
#[derive(Debug, Default)]
pub struct Census {
    /// Since when each waits; its sequence keeps two of one moment apart.
    queued: Mutex<BTreeSet<(Timestamp, i64)>>,
    stages: [Counted; STATES.len() - 1],
}

/// A job's place in the census, until it is dropped.
#[derive(Debug)]
pub enum Entry {
    Queued { census: Arc<Census>, since: Timestamp, sequence: i64 },
    UnderWay(CountedGuard),
}

impl Census {
    /// Counts a job in; `None` when it is finished.
    pub fn enter(self: &Arc<Self>, state: &JobState, sequence: i64) -> Option<Entry> {
        let stage = match state {
            JobState::Queued { since, .. } => {
                self.queued().insert((*since, sequence));
                return Some(Entry::Queued { census: Arc::clone(self), since: *since, sequence });
            }
            JobState::Assigned { .. } => Stage::Dispatched,
            JobState::Unknown { .. } => Stage::Unknown,
            JobState::Running { .. } => Stage::Running,
            JobState::Collecting { .. } => Stage::Collecting,
            JobState::Settling { .. } => Stage::Settling,
            JobState::Finished { .. } => return None,
        };
        Some(Entry::UnderWay(self.stages[stage as usize].enter()))
    }

    /// How many stand where, in the order of [`STATES`].
    pub fn counts(&self) -> [usize; STATES.len()] {
        let mut counts = [self.queued().len(), 0, 0, 0, 0, 0];
        for (count, stage) in counts[1..].iter_mut().zip(&self.stages) {
            *count = stage.now();
        }
        counts
    }

    /// Since when the job waits that has waited for longest.
    pub fn waits_since(&self) -> Option<Timestamp> {
        self.queued().first().map(|(since, _)| *since)
    }

    fn queued(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, i64)>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Self::Queued { census, since, sequence } = self {
            census.queued().remove(&(*since, *sequence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Outcome, Tries};

    fn queued(since: i64) -> JobState {
        JobState::Queued { since: Timestamp::from_micros(since), tries: Tries::default(), refusal: None }
    }

    #[test]
    fn a_job_counts_where_it_stands_until_its_entry_goes() {
        let census = Arc::new(Census::default());
        let (first, second) = (census.enter(&queued(7), 1), census.enter(&queued(7), 2));
        let _third = census.enter(&queued(9), 3);
        assert_eq!((census.counts(), census.waits_since().unwrap().as_micros()), ([3, 0, 0, 0, 0, 0], 7));
        drop((first, second));
        assert_eq!((census.counts(), census.waits_since().unwrap().as_micros()), ([1, 0, 0, 0, 0, 0], 9));
        let finished = JobState::Finished {
            outcome: Outcome::Completed,
            at: Timestamp::from_micros(10),
            attempts: 1,
            last: None,
        };
        assert!(census.enter(&finished, 4).is_none());
    }
}
