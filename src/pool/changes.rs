//! What one list of workers has that another has not. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::worker::{WorkerKey, WorkerSpec};

/// Workers that a line of the log names of each kind of change; the audit log names all.
const NAMED_MAX: usize = 20;

/// What makes a new list of an old one. No worker is in two of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<WorkerSpec>,
    /// At another endpoint, whatever else is new.
    pub moved: Vec<WorkerSpec>,
    /// At the same endpoint, with another limit or other labels.
    pub changed: Vec<WorkerSpec>,
    pub removed: Vec<WorkerKey>,
}

impl Changes {
    /// Neither list names a worker twice.
    pub fn between<'a>(old: impl Iterator<Item = &'a WorkerSpec>, new: Vec<WorkerSpec>) -> Self {
        let mut old: BTreeMap<_, _> = old.map(|spec| (spec.key, spec)).collect();
        let mut changes = Self::default();
        for spec in new {
            match old.remove(&spec.key) {
                None => changes.added.push(spec),
                Some(before) if before.endpoint != spec.endpoint => changes.moved.push(spec),
                Some(before) if *before != spec => changes.changed.push(spec),
                Some(_) => {}
            }
        }
        changes.removed = old.into_keys().collect();
        changes
    }

    pub fn is_empty(&self) -> bool {
        self.each().next().is_none()
    }

    /// Every worker that something is new of, and what.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, WorkerKey)> {
        let of = |kind, specs: &[WorkerSpec]| {
            specs.iter().map(|spec| (kind, spec.key)).collect::<Vec<_>>().into_iter()
        };
        of("added", &self.added)
            .chain(of("moved", &self.moved))
            .chain(of("changed", &self.changed))
            .chain(self.removed.iter().map(|worker| ("removed", *worker)))
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no change");
        }
        let mut between = "";
        for kind in ["added", "moved", "changed", "removed"] {
            let named: Vec<_> = self.each().filter(|(of, _)| *of == kind).map(|(_, key)| key).collect();
            if named.is_empty() {
                continue;
            }
            write!(f, "{between}{kind}")?;
            between = "; ";
            for worker in named.iter().take(NAMED_MAX) {
                write!(f, " {worker}")?;
            }
            if named.len() > NAMED_MAX {
                write!(f, " and {} more", named.len() - NAMED_MAX)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn spec(n: u8, endpoint: &str, limit: u32) -> WorkerSpec {
        let endpoint = endpoint.parse().unwrap();
        let max_concurrent_jobs = NonZeroU32::new(limit);
        WorkerSpec { endpoint, max_concurrent_jobs, ..WorkerSpec::for_tests(WorkerKey::for_tests(n)) }
    }

    fn between(old: &[WorkerSpec], new: &[WorkerSpec]) -> Changes {
        Changes::between(old.iter(), new.to_vec())
    }

    #[test]
    fn the_same_list_in_another_order_is_no_change() {
        let (a, b) = (spec(1, "http://a:1", 1), spec(2, "http://b:1", 2));
        let changes = between(&[a.clone(), b.clone()], &[b, a]);
        assert!(changes.is_empty());
        assert_eq!(changes.to_string(), "no change");
    }

    #[test]
    fn each_worker_is_in_the_list_of_what_is_new_of_it() {
        let old = [spec(1, "http://a:1", 1), spec(2, "http://b:1", 2), spec(3, "http://c:1", 3)];
        let new = [spec(2, "https://b:1", 4), spec(3, "http://c:1", 4), spec(4, "http://a:1", 1)];
        let changes = between(&old, &new);
        assert_eq!(changes.added, new[2..]);
        assert_eq!(changes.moved, new[..1]);
        assert_eq!(changes.changed, new[1..2]);
        assert_eq!(changes.removed, [WorkerKey::for_tests(1)]);
        let key = |n| WorkerKey::for_tests(n).to_string();
        let told = format!("added {}; moved {}; changed {}; removed {}", key(4), key(2), key(3), key(1));
        assert_eq!(changes.to_string(), told);
    }

    #[test]
    fn other_labels_are_a_change() {
        let old = spec(1, "http://a:1", 1);
        let mut new = old.clone();
        new.labels.insert("gpu".into(), "a100".into());
        assert_eq!(between(&[old], &[new.clone()]).changed, [new]);
    }

    #[test]
    fn a_change_made_and_taken_back_leaves_the_list_as_it_was() {
        let old = [spec(1, "http://a:1", 1), spec(2, "http://b:1", 2)];
        let new = [spec(2, "http://d:1", 2), spec(5, "http://a:1", 1)];
        let there = between(&old, &new);
        let back = between(&new, &old);
        assert_eq!((&back.removed, back.added.len()), (&vec![there.added[0].key], there.removed.len()));
        assert_eq!(back.moved, old[1..]);
    }

    #[test]
    fn a_long_list_is_counted_and_not_told_in_full() {
        let many: Vec<_> = (1..=NAMED_MAX as u8 + 3).map(|n| spec(n, &format!("http://w{n}:1"), 1)).collect();
        let told = between(&many, &[]).to_string();
        assert!(told.starts_with("removed ") && told.ends_with(" and 3 more"), "{told}");
    }
}
