//! The ended jobs that were asked about lately, in memory: a job that has ended seldom changes, and is asked about often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::job::JobId;
use crate::store::{EndedJob, OutputsPlace};

/// Memory for all of them, in bytes as [`Weight`] counts.
const BYTES_MAX: u64 = 16 << 20;

/// What one job takes when its texts are short: its row, and its place in the cache.
const JOB_BYTES: usize = 1 << 10;

/// What one kept file takes beside its name.
const FILE_BYTES: usize = 160;

/// Jobs as they were at the last commit.
pub struct Recent {
    jobs: Cache<JobId, Arc<EndedJob>, Weight>,
    /// Counts what was forgotten, so that nobody keeps what was read before.
    forgotten: AtomicU64,
}

/// A moment in the life of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

#[derive(Clone)]
struct Weight;

// === impl Recent ===

impl Recent {
    pub fn new() -> Self {
        Self::with_bytes(BYTES_MAX)
    }

    fn with_bytes(bytes: u64) -> Self {
        let jobs = usize::try_from(bytes).unwrap_or(usize::MAX) / JOB_BYTES;
        Self { jobs: Cache::with_weighter(jobs, bytes, Weight), forgotten: AtomicU64::new(0) }
    }

    pub fn get(&self, id: &JobId) -> Option<Arc<EndedJob>> {
        self.jobs.get(id)
    }

    /// To be taken before a job is read that is to be kept.
    pub fn now(&self) -> Moment {
        Moment(self.forgotten.load(Ordering::SeqCst))
    }

    /// Keeps what was read since `moment`, unless a change has overtaken it.
    pub fn keep(&self, job: &Arc<EndedJob>, moment: Moment) {
        if self.now() != moment {
            return;
        }
        self.jobs.insert(job.row.id.clone(), Arc::clone(job));
        // A change counts first and removes then: either it is seen here, or it finds what was put in.
        if self.now() != moment {
            self.jobs.remove(&job.row.id);
        }
    }

    /// To be called when the change of these jobs is committed, and before anybody is told.
    pub fn forget<'a>(&self, jobs: impl IntoIterator<Item = &'a JobId>) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        for id in jobs {
            self.jobs.remove(id);
        }
    }

    /// What has changed is not known.
    pub fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.jobs.clear();
    }
}

impl Weighter<JobId, Arc<EndedJob>> for Weight {
    fn weight(&self, _id: &JobId, job: &Arc<EndedJob>) -> u64 {
        let files = match &job.outputs {
            Some(OutputsPlace::Kept { files, .. }) => {
                files.iter().map(|file| FILE_BYTES + file.name.len()).sum()
            }
            Some(OutputsPlace::ToCollect | OutputsPlace::OnWorker { .. } | OutputsPlace::Expired) | None => 0,
        };
        let status = job.short_status.as_ref().map_or(0, bytes::Bytes::len);
        (JOB_BYTES + files + status) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::{at, ended_job, id};

    fn job(n: u8) -> Arc<EndedJob> {
        Arc::new(ended_job(n))
    }

    #[test]
    fn what_was_kept_is_there_until_it_is_forgotten() {
        let recent = Recent::new();
        recent.keep(&job(1), recent.now());
        recent.keep(&job(2), recent.now());
        assert_eq!(recent.get(&id(1)), Some(job(1)));
        recent.forget([&id(1)]);
        assert_eq!((recent.get(&id(1)), recent.get(&id(2))), (None, Some(job(2))));
        recent.forget_all();
        assert_eq!(recent.get(&id(2)), None);
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept() {
        let recent = Recent::new();
        let moment = recent.now();
        recent.forget([&id(9)]);
        recent.keep(&job(1), moment);
        assert_eq!(recent.get(&id(1)), None);
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let recent = Recent::with_bytes(64 * JOB_BYTES as u64);
        for n in 0..=u8::MAX {
            recent.keep(&job(n), recent.now());
        }
        let kept = (0..=u8::MAX).filter(|n| recent.get(&id(*n)).is_some()).count();
        assert!((1..=64).contains(&kept), "{kept}");
        let mut large = ended_job(1);
        let file =
            crate::store::KeptFile { name: "n".repeat(1 << 20), size: 1, sha256: String::new(), index: 0 };
        large.outputs = Some(OutputsPlace::Kept { at: at(1), files: vec![file] });
        recent.forget_all();
        recent.keep(&Arc::new(large), recent.now());
        assert_eq!(recent.get(&id(1)), None);
    }
}
