//! Counts of what is under way: guards, so that no way out of a function can forget to count down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A count of live guards; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counted(Arc<AtomicUsize>);

/// One of what is counted; dropping it takes it off the count.
#[derive(Debug)]
pub struct CountedGuard(Arc<AtomicUsize>);

impl Counted {
    pub fn enter(&self) -> CountedGuard {
        self.0.fetch_add(1, Ordering::AcqRel);
        CountedGuard(Arc::clone(&self.0))
    }

    pub fn now(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for CountedGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
