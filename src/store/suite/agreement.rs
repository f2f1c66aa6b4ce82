//! Whatever is done to both stores, they say the same: what a simulation shows over memory holds on disk.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;

/// So few that deeds meet.
const JOBS: std::ops::Range<u8> = 1..5;

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Of the job `n` with the content of job `content`, under a key at random, when keys last from `valid_since`.
    Insert {
        n: u8,
        owner: u8,
        content: u8,
        key: Option<u8>,
        valid_since: i64,
    },
    Step {
        n: u8,
        version: i64,
        to: To,
    },
    Forget {
        before: i64,
        limit: usize,
    },
    Settle {
        n: u8,
        version: i64,
        to: Place,
    },
    List {
        status: Option<PoolStatus>,
        worker: Option<u8>,
        owner: Option<u8>,
        before: Option<i64>,
        limit: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum To {
    Queued,
    Assigned { worker: u8 },
    Running { worker: u8 },
    Finished { second: i64 },
}

#[derive(Clone, Copy, Debug)]
enum Place {
    ToCollect,
    OnWorker,
    Kept { second: i64, bytes: u64 },
    Expired,
}

fn any_place() -> impl Strategy<Value = Place> {
    prop_oneof![
        Just(Place::ToCollect),
        Just(Place::OnWorker),
        Just(Place::Expired),
        (1..9_i64, 1..9_u64).prop_map(|(second, bytes)| Place::Kept { second, bytes }),
    ]
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let n = || JOBS;
    let to = prop_oneof![
        Just(To::Queued),
        (1..3_u8).prop_map(|worker| To::Assigned { worker }),
        (1..3_u8).prop_map(|worker| To::Running { worker }),
        (1..9_i64).prop_map(|second| To::Finished { second }),
    ];
    let status = proptest::option::of(proptest::sample::select(&PoolStatus::ALL));
    let few = || proptest::option::of(1..3_u8);
    let list = (status, few(), few(), proptest::option::of(1..9_i64), 0..5_usize);
    prop_oneof![
        3 => (n(), 0..2_u8, 1..3_u8, proptest::option::of(0..2_u8), 0..9_i64).prop_map(
            |(n, owner, content, key, valid_since)| Deed::Insert { n, owner, content, key, valid_since }
        ),
        4 => (n(), 1..4_i64, to).prop_map(|(n, version, to)| Deed::Step { n, version, to }),
        1 => (1..9_i64, 0..3_usize).prop_map(|(before, limit)| Deed::Forget { before, limit }),
        3 => (n(), 1..4_i64, any_place())
            .prop_map(|(n, version, to)| Deed::Settle { n, version, to }),
        2 => list.prop_map(|(status, worker, owner, before, limit)| Deed::List { status, worker, owner, before, limit }),
    ]
}

/// One of two: nobody, or a client.
fn owner_of(n: u8) -> Option<ClientName> {
    (n == 1).then(|| client("a")).flatten()
}

/// Does it, and tells the answer.
async fn perform(store: &Any, deed: Deed) -> String {
    match deed {
        Deed::Insert { n, owner, content, key, valid_since } => {
            let idempotency =
                key.map(|key| Idempotency { key: key.to_string(), valid_since: at(valid_since) });
            let work = new_job(content).work;
            let job = NewJob { client: owner_of(owner), work, idempotency, ..new_job(n) };
            match store.insert(job).await {
                // The words differ.
                Err(StoreError::Broken(_)) => "broken".to_owned(),
                inserted => format!("{inserted:?}"),
            }
        }
        Deed::Step { n, version, to } => {
            let state = match to {
                To::Queued => queued(),
                To::Assigned { worker } => assigned(key(worker)),
                To::Running { worker } => running(key(worker)),
                To::Finished { second } => finished(second),
            };
            let results = state.is_finished().then(some_results);
            format!("{:?}", store.transition(Transition { results, ..step(n, version, state) }).await)
        }
        Deed::Forget { before, limit } => {
            let mut forgotten = store.forget_finished(at(before), limit).await.unwrap();
            forgotten.sort_unstable();
            format!("{forgotten:?}")
        }
        Deed::Settle { n, version, to } => {
            let to = match to {
                Place::ToCollect => OutputsPlace::ToCollect,
                Place::OnWorker => OutputsPlace::OnWorker { reason: "too large".into() },
                Place::Kept { second, bytes } => kept(second, bytes),
                Place::Expired => OutputsPlace::Expired,
            };
            format!("{:?}", store.settle_outputs(&EndedRun { job: id(n), version }, to).await)
        }
        Deed::List { status, worker, owner, before, limit } => {
            let owner = owner.and_then(owner_of);
            let filter = JobFilter { status, worker: worker.map(key), client: owner, before };
            format!("{:?}", store.list(&filter, limit).await)
        }
    }
}

/// All that the store knows.
async fn everything(store: &Any) -> String {
    let mut known = format!("{:?} {:?}", store.count().await, store.unfinished().await);
    for n in JOBS {
        known += &format!("{:?} {:?}", store.job(&id(n)).await, store.work(&id(n)).await);
        known += &format!("{:?} {:?}", store.results(&id(n)).await, store.ended(&id(n)).await);
    }
    for except in [&[][..], &[key(1)], &[key(1), key(2)]] {
        known += &format!("{:?}", store.next_to_collect(except).await);
    }
    for worker in [key(1), key(2)] {
        known += &format!("{:?}", store.has_to_collect(worker).await);
    }
    known += &format!("{:?} {:?}", store.oldest_kept(3).await, store.kept_bytes().await);
    known
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_give_the_same_answers(deeds in vec(any_deed(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let (memory, sqlite) = (memory_store(), sqlite_store(&directory));
        Runtime::new().unwrap().block_on(async {
            for deed in deeds {
                assert_eq!(perform(&memory, deed).await, perform(&sqlite, deed).await, "{deed:?}");
            }
            assert_eq!(everything(&memory).await, everything(&sqlite).await);
        });
    }
}
