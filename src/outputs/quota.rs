//! The bound on all that is kept: the oldest make room for the new.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::{Outputs, policy};
use crate::store::{EndedRun, OutputsPlace, Store, StoreError};

/// Runs looked at in one go.
const BATCH: usize = 64;

/// Gives out room.
pub struct Quota {
    store: Arc<dyn Store>,
    outputs: Outputs,
    bytes_max: u64,
    /// Room that is given out to collections under way, in bytes.
    reserved: Arc<AtomicU64>,
    /// One at a time makes room, or two would count on the same bytes.
    turn: Mutex<()>,
}

/// Room for a collection, until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    bytes: u64,
    reserved: Arc<AtomicU64>,
}

impl Quota {
    pub fn new(store: Arc<dyn Store>, outputs: Outputs, bytes_max: u64) -> Self {
        Self { store, outputs, bytes_max, reserved: Arc::default(), turn: Mutex::default() }
    }

    /// Takes room, and lets the oldest outputs expire until there is; `None` when what others have taken leaves too little.
    pub async fn reserve(&self, bytes: u64) -> Result<Option<Reserved>, StoreError> {
        let _turn = self.turn.lock().await;
        let taken = self.reserved.load(Ordering::Acquire).saturating_add(bytes);
        let Some(left) = self.bytes_max.checked_sub(taken) else { return Ok(None) };
        loop {
            let over = self.store.kept_bytes().await?.saturating_sub(left);
            if over == 0 {
                break;
            }
            let oldest = self.store.oldest_kept(BATCH).await?;
            for kept in policy::surplus(&oldest, over) {
                expire(&*self.store, &self.outputs, &kept.run).await?;
                log::info!("the outputs of job {} make room for others", kept.run.job);
            }
        }
        self.reserved.fetch_add(bytes, Ordering::AcqRel);
        Ok(Some(Reserved { bytes, reserved: Arc::clone(&self.reserved) }))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Lets go of what is kept of a run: first in the store, so that nothing is served that is not there.
pub(super) async fn expire(store: &dyn Store, outputs: &Outputs, run: &EndedRun) -> Result<(), StoreError> {
    store.settle_outputs(run, OutputsPlace::Expired).await?;
    outputs.remove(run).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::suite::{finished, id, kept, with_job};

    async fn quota(bytes_max: u64) -> (tempfile::TempDir, Arc<dyn Store>, Quota) {
        let directory = tempfile::tempdir().unwrap();
        let outputs = Outputs::open(directory.path()).unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        for (n, second) in [(1, 3), (2, 1), (3, 2)] {
            let run = with_job(&store, n, finished(9)).await.run();
            store.settle_outputs(&run, kept(second, 100)).await.unwrap();
        }
        let quota = Quota::new(Arc::clone(&store), outputs, bytes_max);
        (directory, store, quota)
    }

    async fn still_kept(store: &Arc<dyn Store>) -> Vec<u8> {
        let mut kept = Vec::new();
        for n in 1..=3 {
            let ended = store.ended(&id(n)).await.unwrap().unwrap();
            if matches!(ended.outputs, Some(OutputsPlace::Kept { .. })) {
                kept.push(n);
            }
        }
        kept
    }

    #[tokio::test]
    async fn the_oldest_go_and_no_more_than_need_be() {
        let (_directory, store, quota) = quota(350).await;
        let first = quota.reserve(50).await.unwrap();
        assert_eq!((first.is_some(), still_kept(&store).await), (true, vec![1, 2, 3]));
        let second = quota.reserve(101).await.unwrap();
        assert_eq!((second.is_some(), still_kept(&store).await), (true, vec![1]));
    }

    #[tokio::test]
    async fn room_that_others_have_taken_is_not_given_out_twice() {
        let (_directory, store, quota) = quota(350).await;
        let first = quota.reserve(300).await.unwrap();
        assert!(first.is_some() && quota.reserve(51).await.unwrap().is_none());
        drop(first);
        assert!(quota.reserve(51).await.unwrap().is_some());
        assert!(still_kept(&store).await.is_empty());
    }
}
