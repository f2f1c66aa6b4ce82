//! Counters, one for each value of a label.

use prometheus::{IntCounter, IntCounterVec, Opts};

/// One counter for each of `N` values of a label, known when they are made; clones share them.
#[derive(Clone, Debug)]
pub struct Counters<const N: usize> {
    family: IntCounterVec,
    counters: [IntCounter; N],
}

impl<const N: usize> Counters<N> {
    /// All of them are 0 from the start, so that a rate over the first event is right.
    pub fn new(name: &str, help: &str, label: &str, values: [&str; N]) -> Self {
        let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect("name and help are sound");
        let counters = values.map(|value| family.with_label_values(&[value]));
        Self { family, counters }
    }

    /// The counter of a value, by its place among the values.
    pub fn at(&self, index: usize) -> &IntCounter {
        &self.counters[index]
    }

    /// To be shown.
    pub fn family(&self) -> IntCounterVec {
        self.family.clone()
    }
}
