//! The store in memory, for simulations: no disk, no threads, no clock, and the same answers.
//!
//! A simulated crash drops all of the pool but the `Arc` of its store.

use std::collections::{BTreeMap, VecDeque};
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    Drain, EndedJob, EndedRun, Idempotency, Inserted, JobFilter, JobRow, KeptRun, NewJob, OutputsPlace,
    Payload, Reopened, Results, ResultsText, SHORT_TEXT_BYTES, Settled, Store, StoreError, TEXT_PIECE_BYTES,
    Transition, Truncation, Work, Written,
};
use crate::job::{ClientName, JobId, JobState};
use crate::time::Timestamp;
use crate::worker::WorkerKey;

/// The store in memory. It can be told to fail.
#[derive(Default)]
pub struct MemoryStore {
    shared: Mutex<Shared>,
    crashed: Notify,
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Full`].
    Full,
    /// [`StoreError::Broken`], and the change is not made.
    BrokenUndone,
    /// [`StoreError::Broken`], and the change is made.
    BrokenDone,
    /// The process ends before the change is made: the call never returns.
    CrashBefore,
    /// The process ends after the change is made.
    CrashAfter,
}

#[derive(Default)]
struct Shared {
    /// By sequence.
    jobs: BTreeMap<i64, Stored>,
    sequences: BTreeMap<JobId, i64>,
    /// By owner and key.
    keys: BTreeMap<(Option<ClientName>, String), UsedKey>,
    drains: BTreeMap<WorkerKey, Drain>,
    last_sequence: i64,
    /// How the next writes fail, one for each.
    faults: VecDeque<Fault>,
    writes: u64,
    crash: Option<(u64, Fault)>,
}

struct Stored {
    row: JobRow,
    /// Until the job is finished and cannot be retried.
    work: Option<Arc<Work>>,
    results: Option<Results>,
    outputs: Option<OutputsPlace>,
}

struct UsedKey {
    sequence: i64,
    sha256: [u8; 32],
    used_at: Timestamp,
}

// === impl MemoryStore ===

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next `writes` writes fail; a [`Store::check`] is one, and 0 ends it.
    pub fn fail_writes(&self, writes: usize, fault: Fault) {
        self.lock().faults = iter::repeat_n(fault, writes).collect();
    }

    /// Has the process end at a write, counted from the first.
    pub fn crash_at(&self, write: u64, fault: Fault) {
        self.lock().crash = Some((write, fault));
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Rung when the process is to end.
    pub fn crashed(&self) -> &Notify {
        &self.crashed
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no change panics half-way")
    }

    async fn write<T>(
        &self,
        change: impl FnOnce(&mut Shared) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        {
            let mut shared = self.lock();
            shared.writes += 1;
            let fault = match shared.crash {
                Some((write, fault)) if write == shared.writes => Some(fault),
                Some(_) | None => shared.faults.pop_front(),
            };
            match fault {
                None => return change(&mut shared),
                Some(Fault::BrokenDone) => return change(&mut shared).and(Err(broken())),
                Some(Fault::BrokenUndone) => return Err(broken()),
                Some(Fault::Full) => return Err(StoreError::Full),
                Some(Fault::CrashBefore) => {}
                Some(Fault::CrashAfter) => drop(change(&mut shared)),
            }
        }
        self.crashed.notify_one();
        std::future::pending().await
    }
}

fn broken() -> StoreError {
    StoreError::Broken("the simulation says so".to_owned())
}

#[async_trait]
impl Store for MemoryStore {
    async fn insert(&self, job: NewJob) -> Result<Inserted, StoreError> {
        self.write(|shared| shared.insert(job)).await
    }

    async fn transition(&self, step: Transition) -> Result<Written, StoreError> {
        step.assert_sound();
        self.write(|shared| Ok(shared.transition(step))).await
    }

    async fn reopen(&self, step: Transition) -> Result<Reopened, StoreError> {
        self.write(|shared| Ok(shared.reopen(step))).await
    }

    async fn drop_work(&self, before: Timestamp, limit: usize) -> Result<Vec<JobId>, StoreError> {
        self.write(|shared| Ok(shared.drop_work(before, limit, |_| true))).await
    }

    async fn drop_spooled_work(&self, limit: usize) -> Result<Vec<JobId>, StoreError> {
        self.write(|shared| Ok(shared.drop_work(Timestamp::from_micros(i64::MAX), limit, is_spooled))).await
    }

    async fn spooled(&self) -> Result<Vec<JobId>, StoreError> {
        let shared = self.lock();
        let in_spool = |stored: &&Stored| stored.work.as_deref().is_some_and(is_spooled);
        Ok(shared.jobs.values().filter(in_spool).map(|stored| stored.row.id.clone()).collect())
    }

    async fn drains(&self) -> Result<Vec<Drain>, StoreError> {
        let mut drains: Vec<Drain> = self.lock().drains.values().cloned().collect();
        drains.sort_by_key(|drain| drain.worker.to_string());
        Ok(drains)
    }

    async fn drain(&self, drain: Drain) -> Result<(), StoreError> {
        self.write(|shared| {
            shared.drains.insert(drain.worker, drain);
            Ok(())
        })
        .await
    }

    async fn resume(&self, worker: WorkerKey) -> Result<(), StoreError> {
        self.write(|shared| {
            shared.drains.remove(&worker);
            Ok(())
        })
        .await
    }

    async fn unfinished(&self) -> Result<Vec<JobRow>, StoreError> {
        Ok(self.lock().rows().filter(|row| !row.state.is_finished()).cloned().collect())
    }

    async fn job(&self, id: &JobId) -> Result<Option<JobRow>, StoreError> {
        Ok(self.lock().stored(id).map(|stored| stored.row.clone()))
    }

    async fn ended(&self, id: &JobId) -> Result<Option<Arc<EndedJob>>, StoreError> {
        let shared = self.lock();
        Ok(shared.stored(id).filter(|stored| stored.row.state.is_finished()).map(Stored::ended))
    }

    async fn work(&self, id: &JobId) -> Result<Option<Work>, StoreError> {
        Ok(self.lock().stored(id).and_then(|stored| stored.work.as_deref().cloned()))
    }

    async fn results_text(
        &self,
        run: &EndedRun,
        text: ResultsText,
        from: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let shared = self.lock();
        let stored = shared.stored(&run.job).filter(|stored| stored.row.version == run.version);
        let Some(results) = stored.and_then(|stored| stored.results.as_ref()) else { return Ok(None) };
        let logs = results.logs.as_ref();
        let text = match text {
            ResultsText::WorkerStatus => results.worker_status.as_deref(),
            ResultsText::Listing => results.listing.as_deref(),
            ResultsText::Stdout => logs.map(|logs| logs.stdout.as_str()),
            ResultsText::Stderr => logs.map(|logs| logs.stderr.as_str()),
            ResultsText::LogsCut => logs.filter(|logs| logs.truncation == Truncation::Cut).map(|_| "true"),
        };
        Ok(text.map(|text| {
            let from = usize::try_from(from).map_or(text.len(), |from| from.min(text.len()));
            Bytes::copy_from_slice(&text.as_bytes()[from..text.len().min(from + TEXT_PIECE_BYTES)])
        }))
    }

    async fn results(&self, id: &JobId) -> Result<Option<Results>, StoreError> {
        Ok(self.lock().stored(id).and_then(|stored| stored.results.clone()))
    }

    async fn list(&self, filter: &JobFilter, limit: usize) -> Result<Vec<JobRow>, StoreError> {
        let shared = self.lock();
        let newest_first = shared.rows().rev();
        Ok(newest_first.filter(|row| matches(row, filter)).take(limit).cloned().collect())
    }

    async fn count(&self) -> Result<u64, StoreError> {
        Ok(self.lock().jobs.len() as u64)
    }

    async fn forget_finished(&self, before: Timestamp, limit: usize) -> Result<Vec<EndedRun>, StoreError> {
        self.write(|shared| Ok(shared.forget_finished(before, limit))).await
    }

    async fn next_to_collect(&self, except: &[WorkerKey]) -> Result<Option<JobRow>, StoreError> {
        let shared = self.lock();
        let mut due = shared.jobs.values().filter(|stored| stored.outputs == Some(OutputsPlace::ToCollect));
        let elsewhere =
            |stored: &&Stored| stored.row.state.worker().is_some_and(|worker| !except.contains(&worker));
        Ok(due.find(elsewhere).map(|stored| stored.row.clone()))
    }

    async fn has_to_collect(&self, worker: WorkerKey) -> Result<bool, StoreError> {
        let shared = self.lock();
        let mut due = shared.jobs.values().filter(|stored| stored.outputs == Some(OutputsPlace::ToCollect));
        Ok(due.any(|stored| stored.row.state.worker() == Some(worker)))
    }

    async fn settle_outputs(&self, run: &EndedRun, to: OutputsPlace) -> Result<Settled, StoreError> {
        self.write(|shared| Ok(shared.settle_outputs(run, to))).await
    }

    async fn refuse_outputs(
        &self,
        run: &EndedRun,
        end: JobState,
        reason: String,
    ) -> Result<Settled, StoreError> {
        self.write(|shared| {
            let settled = shared.settle_outputs(run, OutputsPlace::OnWorker { reason });
            if settled == Settled::Done {
                let stored =
                    shared.sequences.get(&run.job).and_then(|sequence| shared.jobs.get_mut(sequence));
                stored.expect("its outputs were just settled").row.state = end;
            }
            Ok(settled)
        })
        .await
    }

    async fn oldest_kept(&self, limit: usize) -> Result<Vec<KeptRun>, StoreError> {
        let mut kept: Vec<KeptRun> = self.lock().jobs.values().filter_map(Stored::kept).collect();
        // Stable: of those kept at the same time, the first submitted comes first.
        kept.sort_by_key(|kept| kept.kept_at);
        kept.truncate(limit);
        Ok(kept)
    }

    async fn kept_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.lock().jobs.values().filter_map(Stored::kept).map(|kept| kept.bytes).sum())
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.write(|_| Ok(())).await
    }
}

fn matches(row: &JobRow, filter: &JobFilter) -> bool {
    let JobFilter { status, worker, client, before } = filter;
    status.is_none_or(|status| row.state.status() == status)
        && worker.is_none_or(|worker| row.state.worker() == Some(worker))
        && client.as_ref().is_none_or(|client| row.client.as_ref() == Some(client))
        && before.is_none_or(|before| row.sequence < before)
}

// === impl Stored ===

impl Stored {
    fn kept(&self) -> Option<KeptRun> {
        let Some(place @ OutputsPlace::Kept { at, .. }) = &self.outputs else { return None };
        Some(KeptRun { run: self.row.run(), bytes: place.bytes(), kept_at: *at })
    }

    fn ended(&self) -> Arc<EndedJob> {
        let status = self.results.as_ref().and_then(|results| results.worker_status.as_ref());
        let short_status = status.filter(|status| status.len() <= SHORT_TEXT_BYTES);
        Arc::new(EndedJob {
            row: self.row.clone(),
            outputs: self.outputs.clone(),
            short_status: short_status.map(|status| Bytes::from(status.clone())),
        })
    }
}

// === impl Shared ===

impl Shared {
    fn rows(&self) -> impl DoubleEndedIterator<Item = &JobRow> {
        self.jobs.values().map(|stored| &stored.row)
    }

    fn stored(&self, id: &JobId) -> Option<&Stored> {
        self.jobs.get(self.sequences.get(id)?)
    }

    fn insert(&mut self, job: NewJob) -> Result<Inserted, StoreError> {
        if let Some(idempotency) = &job.idempotency
            && let Some(used_before) = self.used_before(job.client.as_ref(), idempotency, &job.work.sha256)
        {
            return Ok(used_before);
        }
        if self.sequences.contains_key(&job.id) {
            return Err(StoreError::Broken(format!("the job id {} is taken", job.id)));
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        let row = job.row(sequence);
        if let Some(Idempotency { key, .. }) = job.idempotency {
            let used = UsedKey { sequence, sha256: job.work.sha256, used_at: job.submitted_at };
            self.keys.insert((job.client, key), used);
        }
        self.sequences.insert(job.id, sequence);
        let stored = Stored { row: row.clone(), work: Some(job.work), results: None, outputs: None };
        self.jobs.insert(sequence, stored);
        Ok(Inserted::New(row))
    }

    fn used_before(
        &self,
        client: Option<&ClientName>,
        idempotency: &Idempotency,
        sha256: &[u8; 32],
    ) -> Option<Inserted> {
        let key = (client.cloned(), idempotency.key.clone());
        let used = self.keys.get(&key).filter(|used| used.used_at >= idempotency.valid_since)?;
        let row = &self.jobs[&used.sequence].row;
        let same = used.sha256 == *sha256;
        Some(if same { Inserted::Same(row.clone()) } else { Inserted::Conflict(row.id.clone()) })
    }

    fn transition(&mut self, step: Transition) -> Written {
        let Some(stored) = self.sequences.get(&step.id).and_then(|sequence| self.jobs.get_mut(sequence))
        else {
            return Written::NotFound;
        };
        if stored.row.version != step.version || stored.row.state.is_finished() {
            return Written::Conflict;
        }
        stored.row.version += 1;
        stored.row.state = step.state;
        if stored.row.state.is_finished() {
            if !stored.row.state.may_be_retried() {
                stored.work = None;
            }
            stored.results = step.results;
            stored.outputs = stored.row.state.place().map(|_| OutputsPlace::ToCollect);
        }
        Written::Updated { version: stored.row.version }
    }

    fn reopen(&mut self, step: Transition) -> Reopened {
        let Some(stored) = self.sequences.get(&step.id).and_then(|sequence| self.jobs.get_mut(sequence))
        else {
            return Reopened::NotFound;
        };
        if stored.row.version != step.version || !stored.row.state.is_finished() {
            return Reopened::Conflict;
        }
        if stored.work.is_none() {
            return Reopened::WorkGone;
        }
        stored.row.version += 1;
        stored.row.state = step.state;
        stored.results = None;
        stored.outputs = None;
        Reopened::Queued { version: stored.row.version }
    }

    fn drop_work(&mut self, before: Timestamp, limit: usize, which: fn(&Work) -> bool) -> Vec<JobId> {
        let with_work = self.jobs.values().filter(|stored| stored.work.as_deref().is_some_and(which));
        let mut over: Vec<(Timestamp, i64)> =
            with_work.filter_map(|stored| ended(&stored.row, before)).collect();
        over.sort_unstable();
        over.truncate(limit);
        let drop_one = |(_, sequence)| {
            let stored = self.jobs.get_mut(&sequence).expect("its sequence was just read");
            stored.work = None;
            stored.row.id.clone()
        };
        over.into_iter().map(drop_one).collect()
    }

    fn settle_outputs(&mut self, run: &EndedRun, to: OutputsPlace) -> Settled {
        let stored = self.sequences.get(&run.job).and_then(|sequence| self.jobs.get_mut(sequence));
        match stored.filter(|stored| stored.row.version == run.version && stored.outputs.is_some()) {
            Some(stored) => {
                stored.outputs = Some(to);
                Settled::Done
            }
            None => Settled::Overtaken,
        }
    }

    fn forget_finished(&mut self, before: Timestamp, limit: usize) -> Vec<EndedRun> {
        let mut over: Vec<(Timestamp, i64)> = self.rows().filter_map(|row| ended(row, before)).collect();
        over.sort_unstable();
        over.truncate(limit);
        let forget = |(_, sequence)| {
            let forgotten = self.jobs.remove(&sequence).expect("its sequence was just read");
            self.sequences.remove(&forgotten.row.id);
            self.keys.retain(|_, used| used.sequence != sequence);
            forgotten.row.run()
        };
        over.into_iter().map(forget).collect()
    }
}

/// When the job ended, if that was before `before`.
fn is_spooled(work: &Work) -> bool {
    matches!(work.payload, Payload::Spooled { .. })
}

fn ended(row: &JobRow, before: Timestamp) -> Option<(Timestamp, i64)> {
    match row.state {
        JobState::Finished { at, .. } if at < before => Some((at, row.sequence)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::{id, new_job, queued, step};

    #[tokio::test]
    async fn the_next_writes_fail_and_no_others() {
        let store = MemoryStore::new();
        store.fail_writes(2, Fault::Full);
        assert!(matches!(store.insert(new_job(1)).await, Err(StoreError::Full)));
        assert_eq!(store.job(&id(1)).await.unwrap(), None);
        assert!(matches!(store.check().await, Err(StoreError::Full)));
        assert!(matches!(store.insert(new_job(1)).await, Ok(Inserted::New(_))));
    }

    #[tokio::test]
    async fn a_broken_write_may_be_done_or_not() {
        let store = MemoryStore::new();
        store.insert(new_job(1)).await.unwrap();
        for (fault, version) in [(Fault::BrokenUndone, 1), (Fault::BrokenDone, 2)] {
            store.fail_writes(1, fault);
            let written = store.transition(step(1, 1, queued())).await;
            assert!(matches!(written, Err(StoreError::Broken(_))), "{written:?}");
            assert_eq!(store.job(&id(1)).await.unwrap().unwrap().version, version);
        }
    }
}
