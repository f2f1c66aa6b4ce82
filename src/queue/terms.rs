//! Jobs are asked for on the same terms again and again: those that wait share one copy, which is most of what a job takes in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::job::Terms;

/// Terms that are compared with a new job's: the kinds of jobs that one pool has at a time are few.
const KNOWN_MAX: usize = 32;

/// The terms that jobs had lately.
#[derive(Debug, Default)]
pub struct SharedTerms(Mutex<VecDeque<Arc<Terms>>>);

impl SharedTerms {
    /// The same terms, in the copy that jobs have already.
    pub fn share(&self, terms: Arc<Terms>) -> Arc<Terms> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|known| Arc::ptr_eq(known, &terms) || **known == terms) {
            return Arc::clone(same);
        }
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back(Arc::clone(&terms));
        terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(attempts: u32) -> Arc<Terms> {
        Arc::new(Terms { max_attempts: Some(attempts), ..Terms::default() })
    }

    #[test]
    fn equal_terms_are_one_copy_and_others_are_not() {
        let shared = SharedTerms::default();
        let first = shared.share(terms(1));
        assert!(Arc::ptr_eq(&first, &shared.share(terms(1))));
        assert!(!Arc::ptr_eq(&first, &shared.share(terms(2))));
        assert_eq!(shared.share(terms(2)), terms(2));
    }

    #[test]
    fn only_so_many_are_kept_as_there_are_kinds_of_jobs() {
        let shared = SharedTerms::default();
        for attempts in 0..10 * KNOWN_MAX as u32 {
            shared.share(terms(attempts));
        }
        assert_eq!(shared.0.lock().unwrap().len(), KNOWN_MAX);
    }
}
