//! Which worker is given the next job: the one with the fewest active jobs among those that may be given one, and of those
//! the one assigned longest ago. Pure; every operation is O(log n) in the number of workers.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Timestamp;
use crate::worker::WorkerKey;

/// Whether a worker may be given jobs at all, whatever its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Open,
    /// Not before this time.
    Throttled {
        until: Timestamp,
    },
    Closed,
}

/// The load of every worker.
#[derive(Debug, Default)]
pub struct Slots {
    loads: BTreeMap<WorkerKey, Load>,
    /// Workers that can take a job now, the next one first: (active jobs, turn of the last assignment, worker).
    free: BTreeSet<(u32, u64, WorkerKey)>,
    throttled: BTreeSet<(Timestamp, WorkerKey)>,
    turn: u64,
    /// The time when it was last told.
    seen: Option<Timestamp>,
}

#[derive(Debug)]
struct Load {
    active: u32,
    limit: u32,
    last_turn: u64,
    admission: Admission,
}

impl Load {
    fn place_in_order(&self, key: WorkerKey) -> (u32, u64, WorkerKey) {
        (self.active, self.last_turn, key)
    }

    fn is_free(&self) -> bool {
        self.admission == Admission::Open && self.active < self.limit
    }
}

impl Slots {
    /// Sets how much a worker takes and whether it takes jobs; a new worker begins with no active jobs.
    pub fn set(&mut self, key: WorkerKey, limit: u32, admission: Admission) {
        self.loads.entry(key).or_insert(Load {
            active: 0,
            limit,
            last_turn: 0,
            admission: Admission::Closed,
        });
        self.change(key, |load| {
            load.limit = limit;
            load.admission = admission;
        });
    }

    /// Lets go of a worker without active jobs.
    pub fn remove(&mut self, key: WorkerKey) {
        self.change(key, |load| {
            assert_eq!(load.active, 0, "a worker with active jobs stays");
            load.admission = Admission::Closed;
        });
        self.loads.remove(&key);
    }

    /// Takes a slot on the next worker that `accepts`, if any can take a job now.
    pub fn claim(&mut self, now: Timestamp, accepts: impl Fn(WorkerKey) -> bool) -> Option<WorkerKey> {
        self.open_what_is_due(now);
        let key = self.free.iter().map(|(_, _, key)| *key).find(|key| accepts(*key))?;
        self.turn += 1;
        let turn = self.turn;
        self.change(key, |load| {
            load.active += 1;
            load.last_turn = turn;
        });
        Some(key)
    }

    /// Takes a slot on this worker even beyond its limit: for a job that is there already.
    pub fn occupy(&mut self, key: WorkerKey) {
        self.change(key, |load| load.active += 1);
    }

    /// Gives a slot back.
    pub fn release(&mut self, key: WorkerKey) {
        self.change(key, |load| {
            load.active =
                load.active.checked_sub(1).expect("a slot is released once by the guard that took it");
        });
    }

    pub fn active(&self, key: WorkerKey) -> u32 {
        self.loads.get(&key).map_or(0, |load| load.active)
    }

    /// When the next throttled worker may be tried again: a time to come.
    pub fn next_opening(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.open_what_is_due(now);
        self.throttled.first().map(|(until, _)| *until)
    }

    fn open_what_is_due(&mut self, now: Timestamp) {
        // Once the clock was set back, nobody knows when the times that were noted before will come.
        let set_back = self.seen.replace(now).is_some_and(|seen| now < seen);
        while let Some((until, key)) = self.throttled.first().copied()
            && (until <= now || set_back)
        {
            self.change(key, |load| load.admission = Admission::Open);
        }
    }

    /// Changes one load and keeps both orders in step with it.
    fn change(&mut self, key: WorkerKey, change: impl FnOnce(&mut Load)) {
        let Some(load) = self.loads.get_mut(&key) else { return };
        self.free.remove(&load.place_in_order(key));
        if let Admission::Throttled { until } = load.admission {
            self.throttled.remove(&(until, key));
        }
        change(load);
        if let Admission::Throttled { until } = load.admission {
            self.throttled.insert((until, key));
        }
        if load.is_free() {
            self.free.insert(load.place_in_order(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000);

    fn slots(limits: &[u32]) -> (Slots, Vec<WorkerKey>) {
        let keys: Vec<_> = (0..limits.len()).map(|n| WorkerKey::for_tests(n as u8 + 1)).collect();
        let mut slots = Slots::default();
        for (key, limit) in keys.iter().zip(limits) {
            slots.set(*key, *limit, Admission::Open);
        }
        (slots, keys)
    }

    #[test]
    fn the_least_loaded_worker_is_next_and_ties_go_to_the_one_that_waited_longest() {
        let (mut slots, keys) = slots(&[2, 2, 2]);
        let mut first: Vec<_> = (0..3).map(|_| slots.claim(NOW, |_| true).unwrap()).collect();
        let second: Vec<_> = (0..3).map(|_| slots.claim(NOW, |_| true).unwrap()).collect();
        assert_eq!(first, second, "the second round goes in the order of the first");
        first.sort();
        let mut all = keys.clone();
        all.sort();
        assert_eq!(first, all);
        assert_eq!(slots.claim(NOW, |_| true), None, "no worker is given more than its limit");
        slots.release(keys[1]);
        assert_eq!(slots.claim(NOW, |_| true), Some(keys[1]));
    }

    #[test]
    fn a_throttled_worker_is_left_out_until_its_time() {
        let (mut slots, keys) = slots(&[1]);
        let until = NOW.plus(std::time::Duration::from_secs(1));
        slots.set(keys[0], 1, Admission::Throttled { until });
        assert_eq!((slots.claim(NOW, |_| true), slots.next_opening(NOW)), (None, Some(until)));
        assert_eq!(slots.next_opening(until), None);
        assert_eq!(slots.claim(until, |_| true), Some(keys[0]));
    }

    #[test]
    fn a_closed_worker_keeps_its_active_jobs_and_is_given_no_more() {
        let (mut slots, keys) = slots(&[4, 4]);
        slots.occupy(keys[0]);
        slots.set(keys[0], 4, Admission::Closed);
        slots.set(keys[1], 4, Admission::Closed);
        assert_eq!(slots.claim(NOW, |_| true), None);
        assert_eq!(slots.active(keys[0]), 1);
    }

    #[test]
    fn a_worker_that_is_let_go_is_given_nothing_and_opens_never() {
        let (mut slots, keys) = slots(&[1, 1]);
        let until = NOW.plus(std::time::Duration::from_secs(1));
        slots.set(keys[1], 1, Admission::Throttled { until });
        keys.iter().for_each(|key| slots.remove(*key));
        assert_eq!((slots.claim(until, |_| true), slots.next_opening(NOW)), (None, None));
    }

    #[test]
    fn a_job_that_must_not_go_to_the_next_worker_goes_to_the_one_after() {
        let (mut slots, keys) = slots(&[1, 1]);
        assert_eq!(slots.claim(NOW, |key| key != keys[0]), Some(keys[1]));
        assert_eq!(slots.claim(NOW, |key| key == keys[1]), None);
    }
}
