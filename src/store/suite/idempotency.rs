//! A client's own name for a submit.

use futures_util::future::join_all;

use super::*;

every_store_holds! {
    the_same_content_under_a_key_is_the_same_job
    other_content_under_a_key_is_a_conflict
    a_finished_job_still_answers_for_its_key
    an_expired_key_is_free_for_a_new_job
    jobs_without_a_key_are_all_new
    a_key_is_its_clients_alone
    of_concurrent_submits_under_a_key_exactly_one_is_new
}

/// The `n`th job under the key; keys of before `valid_since` have expired.
fn named(n: u8, valid_since: i64) -> NewJob {
    let idempotency = Some(Idempotency { key: "mine".into(), valid_since: at(valid_since) });
    NewJob { idempotency, ..new_job(n) }
}

/// The `n`th job with the content of the first.
fn repeated(n: u8, valid_since: i64) -> NewJob {
    NewJob { work: new_job(1).work, ..named(n, valid_since) }
}

async fn the_same_content_under_a_key_is_the_same_job(store: Any) {
    store.insert(named(1, 0)).await.unwrap();
    store.transition(step(1, 1, running(key(1)))).await.unwrap();
    let first = store.job(&id(1)).await.unwrap().unwrap();
    // The key was used at second 1, which is not before second 1.
    assert_eq!(store.insert(repeated(2, 1)).await.unwrap(), Inserted::Same(first));
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn other_content_under_a_key_is_a_conflict(store: Any) {
    store.insert(named(1, 0)).await.unwrap();
    assert_eq!(store.insert(named(2, 0)).await.unwrap(), Inserted::Conflict(id(1)));
    assert_eq!(store.count().await.unwrap(), 1);
}

async fn a_finished_job_still_answers_for_its_key(store: Any) {
    store.insert(named(1, 0)).await.unwrap();
    store.transition(step(1, 1, finished(9))).await.unwrap();
    let first = store.job(&id(1)).await.unwrap().unwrap();
    assert_eq!(store.insert(repeated(2, 0)).await.unwrap(), Inserted::Same(first));
    assert_eq!(store.insert(named(3, 0)).await.unwrap(), Inserted::Conflict(id(1)));
}

async fn an_expired_key_is_free_for_a_new_job(store: Any) {
    store.insert(named(1, 0)).await.unwrap();
    let second = store.insert(repeated(5, 2)).await.unwrap();
    assert!(matches!(&second, Inserted::New(row) if row.id == id(5)), "{second:?}");
    // From now on the key is the second job's, whatever becomes of the first.
    store.transition(step(1, 1, finished(9))).await.unwrap();
    store.forget_finished(at(10), 1).await.unwrap();
    let third = store.insert(repeated(6, 2)).await.unwrap();
    assert!(matches!(&third, Inserted::Same(row) if row.id == id(5)), "{third:?}");
}

async fn jobs_without_a_key_are_all_new(store: Any) {
    store.insert(new_job(1)).await.unwrap();
    let twin = NewJob { idempotency: None, ..repeated(2, 0) };
    assert!(matches!(store.insert(twin).await.unwrap(), Inserted::New(_)));
}

async fn a_key_is_its_clients_alone(store: Any) {
    let of = |owner, n| NewJob { client: owner, ..named(n, 0) };
    for (n, owner) in [(1, client("a")), (2, client("b")), (3, None)] {
        let inserted = store.insert(of(owner.clone(), n)).await.unwrap();
        assert!(matches!(&inserted, Inserted::New(row) if row.client == owner), "{inserted:?}");
    }
    for (n, owner) in [(1, client("a")), (2, client("b")), (3, None)] {
        assert_eq!(store.insert(of(owner, n + 10)).await.unwrap(), Inserted::Conflict(id(n)));
    }
}

async fn of_concurrent_submits_under_a_key_exactly_one_is_new(store: Any) {
    let inserts = (1..=32).map(|n| store.insert(repeated(n, 0)));
    let inserted: Vec<Inserted> = join_all(inserts).await.into_iter().map(Result::unwrap).collect();
    let new = inserted.iter().filter(|inserted| matches!(inserted, Inserted::New(_))).count();
    let same = inserted.iter().filter(|inserted| matches!(inserted, Inserted::Same(_))).count();
    assert_eq!((new, same), (1, 31));
    assert_eq!(store.count().await.unwrap(), 1);
}
