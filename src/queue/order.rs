//! In which order waiting jobs are taken. Pure.
//!
//! All jobs of a higher priority go before any of a lower one; within a priority, first come, first served. A job that goes back to
//! the queue takes the place it had: its place is its sequence, given once at submission.

use std::collections::BTreeMap;

use crate::job::{JobId, Priority};

/// A job's place among those that wait.
pub type Rank = (Priority, i64);

/// The waiting jobs in the order in which they are taken.
#[derive(Debug, Default)]
pub struct Waiting {
    jobs: BTreeMap<Rank, JobId>,
}

impl Waiting {
    pub fn insert(&mut self, rank: Rank, job: JobId) {
        self.jobs.insert(rank, job);
    }

    /// Takes out the first job for which `take` finds what it needs, and gives both. A job that cannot be taken now
    /// does not hold up those behind it.
    pub fn take_first<T>(&mut self, mut take: impl FnMut(&JobId) -> Take<T>) -> Option<(JobId, T)> {
        let mut found = None;
        for (rank, job) in &self.jobs {
            match take(job) {
                Take::Yes(value) => {
                    found = Some((*rank, value));
                    break;
                }
                Take::NotThis => {}
                Take::None => break,
            }
        }
        let (rank, value) = found?;
        let job = self.jobs.remove(&rank).expect("the job was found at this rank");
        Some((job, value))
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many jobs are taken before the one at this rank.
    pub fn ahead_of(&self, rank: Rank) -> usize {
        self.jobs.range(..rank).count()
    }
}

/// Whether a waiting job can be taken.
pub enum Take<T> {
    Yes(T),
    /// Not this one, but perhaps one behind it.
    NotThis,
    /// Neither this one nor any behind it.
    None,
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

    fn drain(waiting: &mut Waiting) -> Vec<JobId> {
        std::iter::from_fn(|| waiting.take_first(|_| Take::Yes(())).map(|(job, ())| job)).collect()
    }

    proptest! {
        #[test]
        fn jobs_leave_by_priority_and_then_as_they_came(priorities in proptest::collection::vec(0_u8..3, 0..50)) {
            let priority = |n: u8| [Priority::High, Priority::Normal, Priority::Low][usize::from(n)];
            let mut ranked: Vec<_> = priorities.iter().zip(0..).map(|(p, sequence)| (priority(*p), sequence)).collect();
            let mut waiting = Waiting::default();
            for rank in ranked.iter().rev() {
                waiting.insert(*rank, id(rank.1));
            }
            ranked.sort();
            let order: Vec<_> = ranked.iter().map(|(_, sequence)| id(*sequence)).collect();
            prop_assert_eq!(drain(&mut waiting), order);
        }
    }

    #[test]
    fn a_job_that_cannot_be_taken_holds_up_none_behind_it_and_keeps_its_place() {
        let mut waiting = Waiting::default();
        for n in 1..=3 {
            waiting.insert((Priority::Normal, n), id(n));
        }
        let taken = waiting.take_first(|job| if *job == id(1) { Take::NotThis } else { Take::Yes(()) });
        assert_eq!(taken, Some((id(2), ())));
        assert_eq!(waiting.take_first(|_| Take::<()>::None), None);
        assert_eq!(waiting.ahead_of((Priority::Normal, 3)), 1);
        assert_eq!(drain(&mut waiting), [id(1), id(3)]);
    }
}
