//! In which order waiting jobs are taken. Pure.
//!
//! All jobs of a higher priority go before any of a lower one; within a priority, first come, first served. A job that goes back to
//! the queue takes the place it had: its place is its sequence, given once at submission. Jobs that may go to the same workers form
//! a class, so that a job that nobody can take now holds up none behind it, and costs a look for its class alone.

use std::collections::BTreeMap;

use crate::job::{JobId, Priority};
use crate::worker::WorkerKey;

/// A job's place among those that wait.
pub type Rank = (Priority, i64);

/// Which workers a job may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// The labels that its worker must have.
    pub requires: BTreeMap<String, String>,
    /// The worker that refused it.
    pub refused_by: Option<WorkerKey>,
}

/// The waiting jobs in the order in which they are taken.
#[derive(Debug, Default)]
pub struct Waiting {
    /// No class is empty.
    classes: BTreeMap<Class, BTreeMap<Rank, JobId>>,
}

impl Waiting {
    pub fn insert(&mut self, class: Class, rank: Rank, job: JobId) {
        self.classes.entry(class).or_default().insert(rank, job);
    }

    /// Takes out the first job for whose class `take` finds what it needs, and gives both.
    pub fn take_first<T>(&mut self, mut take: impl FnMut(&Class) -> Option<T>) -> Option<(JobId, T)> {
        let first = |(class, jobs): (&Class, &BTreeMap<Rank, JobId>)| {
            (*jobs.first_key_value().expect("no class is empty").0, class.clone())
        };
        let mut heads: Vec<(Rank, Class)> = self.classes.iter().map(first).collect();
        heads.sort();
        for (rank, class) in heads {
            if let Some(value) = take(&class) {
                let job = self.remove(&class, rank).expect("it was first just now");
                return Some((job, value));
            }
        }
        None
    }

    /// Takes out a job, if it waits.
    pub fn remove(&mut self, class: &Class, rank: Rank) -> Option<JobId> {
        let jobs = self.classes.get_mut(class)?;
        let job = jobs.remove(&rank);
        if jobs.is_empty() {
            self.classes.remove(class);
        }
        job
    }

    pub fn len(&self) -> usize {
        self.classes.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// How many jobs are before the one at this rank.
    pub fn ahead_of(&self, rank: Rank) -> usize {
        self.classes.values().map(|jobs| jobs.range(..rank).count()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: i64) -> JobId {
        let mut bits = [0; 12];
        bits[..8].copy_from_slice(&n.to_be_bytes());
        JobId::from_random(bits)
    }

    fn class(n: u8) -> Class {
        Class { requires: BTreeMap::from([("gpu".into(), n.to_string())]), refused_by: None }
    }

    fn drain(waiting: &mut Waiting) -> Vec<JobId> {
        std::iter::from_fn(|| waiting.take_first(|_| Some(())).map(|(job, ())| job)).collect()
    }

    proptest! {
        #[test]
        fn jobs_leave_by_priority_and_then_as_they_came(jobs in proptest::collection::vec((0_u8..3, 0_u8..3), 0..50)) {
            let priority = |n: u8| [Priority::High, Priority::Normal, Priority::Low][usize::from(n)];
            let mut waiting = Waiting::default();
            let mut ranked = Vec::new();
            for ((p, c), sequence) in jobs.iter().zip(0..) {
                waiting.insert(class(*c), (priority(*p), sequence), id(sequence));
                ranked.push((priority(*p), sequence));
            }
            ranked.sort();
            prop_assert_eq!(waiting.len(), ranked.len());
            let order: Vec<_> = ranked.iter().map(|(_, sequence)| id(*sequence)).collect();
            prop_assert_eq!(drain(&mut waiting), order);
            prop_assert!(waiting.is_empty());
        }
    }

    #[test]
    fn a_job_that_cannot_be_taken_holds_up_none_behind_it_and_keeps_its_place() {
        let mut waiting = Waiting::default();
        for n in 1..=3 {
            waiting.insert(class(u8::from(n == 1)), (Priority::Normal, n), id(n));
        }
        assert_eq!(waiting.take_first(|of| (*of == class(0)).then_some(())), Some((id(2), ())));
        assert_eq!(waiting.take_first(|_| None::<()>), None);
        assert_eq!(waiting.ahead_of((Priority::Normal, 3)), 1);
        assert_eq!(waiting.remove(&class(0), (Priority::Normal, 2)), None);
        assert_eq!(drain(&mut waiting), [id(1), id(3)]);
    }
}
