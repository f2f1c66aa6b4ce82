use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::pool::health::Flip;
use crate::queue::order::Class;
use crate::store::Drain;
use crate::upstream::HealthReport;
use crate::upstream::evidence::Evidence;
use crate::worker::Dialect;
use crate::worker::trust::Identity;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn key(n: u8) -> WorkerKey {
    WorkerKey::for_tests(n)
}

/// The `n`th worker, at this port.
fn at(n: u8, port: u16) -> WorkerSpec {
    let endpoint = format!("http://127.0.0.1:{port}").parse().unwrap();
    WorkerSpec { endpoint, ..WorkerSpec::for_tests(key(n)) }
}

fn list(specs: &[WorkerSpec]) -> Allowlist {
    Allowlist::new(specs.to_vec()).unwrap()
}

/// A pool of these workers, all of them well.
fn pool(specs: &[WorkerSpec]) -> Pool {
    let pool = Pool::new(specs.to_vec(), Vec::new(), Identity::Claimed, Arc::default());
    for spec in specs {
        assert_eq!(checked(&pool, spec), Flip::Up);
    }
    pool
}

fn checked(pool: &Pool, at: &WorkerSpec) -> Flip {
    let report = HealthReport {
        worker_id: Some(at.key.to_string()),
        dialect: Dialect::V2,
        capacity: None,
        address: Some(at.endpoint.host_port().parse().unwrap()),
        evidence: Evidence::Claimed,
    };
    pool.observe(at, Ok(report), NOW).flip
}

fn members(pool: &Pool) -> Vec<WorkerKey> {
    pool.view().iter().map(|view| view.spec.key).collect()
}

fn claim(pool: &Pool) -> Option<crate::pool::Slot> {
    pool.claim(&Class::default(), NOW.plus(Duration::from_secs(3600)))
}

#[tokio::test]
async fn a_worker_that_is_added_is_given_out_to_be_checked_once_and_then_gets_jobs() {
    let pool = pool(&[at(1, 1)]);
    assert_eq!(pool.arrivals().await.len(), 1);
    pool.reload(list(&[at(1, 1), at(2, 2)]), NOW);
    let arrivals: Vec<_> = pool.arrivals().await.iter().map(|arrival| arrival.worker).collect();
    assert_eq!(arrivals, [key(2)]);
    assert_eq!(checked(&pool, &at(2, 2)), Flip::Up);
    let slots = [claim(&pool).unwrap(), claim(&pool).unwrap()];
    assert!(slots.iter().any(|slot| slot.worker() == key(2)));
}

#[test]
fn a_worker_that_is_removed_gets_no_jobs_and_stays_until_its_attempts_are_over() {
    let pool = pool(&[at(1, 1), at(2, 2)]);
    let mut slots: Vec<_> = (0..2).map(|_| claim(&pool).unwrap()).collect();
    slots.sort_by_key(|slot| slot.worker() != key(1));
    let mut slot = slots.swap_remove(0);
    pool.reload(list(&[at(2, 2)]), NOW);
    while let Some(other) = claim(&pool) {
        assert_eq!(other.worker(), key(2));
        slots.push(other);
    }
    assert!(pool.leaving().is_empty() && !pool.forget(key(1)));
    slot.free();
    assert_eq!((pool.active(key(1)), pool.leaving().len()), (0, 0), "the attempt still has something to ask");
    drop(slot);
    assert_eq!(pool.leaving(), [key(1)]);
    assert!(pool.contact(key(1)).is_some_and(|contact| contact.is_proven));
    assert!(pool.forget(key(1)) && pool.contact(key(1)).is_none());
    assert_eq!(members(&pool), [key(2)]);
}

#[test]
fn a_worker_that_comes_back_goes_on_as_if_it_had_not_been_away() {
    let pool = pool(&[at(1, 1), at(2, 2)]);
    pool.reload(list(&[at(2, 2)]), NOW);
    assert_eq!(pool.leaving(), [key(1)]);
    pool.reload(list(&[at(1, 1), at(2, 2)]), NOW);
    assert!(!pool.forget(key(1)) && pool.is_healthy(key(1)));
    assert!(pool.view().iter().all(|view| view.removed_since.is_none()));
}

#[test]
fn an_operators_drain_outlives_the_absence_of_its_worker() {
    let pool = pool(&[at(1, 1), at(2, 2)]);
    pool.drain(Drain { worker: key(1), reason: "disk".into(), since: NOW });
    pool.reload(list(&[at(2, 2)]), NOW);
    assert!(pool.forget(key(1)));
    pool.reload(list(&[at(1, 1), at(2, 2)]), NOW);
    checked(&pool, &at(1, 1));
    let drained: Vec<_> = pool.view().into_iter().filter_map(|view| view.drain).collect();
    assert_eq!(drained.iter().map(|drain| drain.worker).collect::<Vec<_>>(), [key(1)]);
    let slots: Vec<_> = std::iter::from_fn(|| claim(&pool)).map(|slot| slot.worker()).take(9).collect();
    assert!(!slots.contains(&key(1)));
}

#[test]
fn a_worker_at_another_endpoint_gets_nothing_before_it_is_proven_there() {
    let pool = pool(&[at(1, 1)]);
    let slot = claim(&pool).unwrap();
    pool.reload(list(&[at(1, 7)]), NOW);
    let nothing_goes_there = || {
        let contact = pool.contact(key(1)).unwrap();
        assert_eq!((contact.is_proven, contact.leaf.is_none(), pool.address(key(1))), (false, true, None));
        assert!(claim(&pool).is_none());
    };
    nothing_goes_there();
    // A check that was under way is of the endpoint before.
    assert_eq!(checked(&pool, &at(1, 1)), Flip::None);
    nothing_goes_there();
    assert_eq!(pool.active(key(1)), 1, "its job is still its job");
    assert_eq!(checked(&pool, &at(1, 7)), Flip::Up);
    assert_eq!(pool.address(key(1)), Some("127.0.0.1:7".parse().unwrap()));
    assert!(pool.contact(key(1)).unwrap().is_proven && claim(&pool).is_some());
    drop(slot);
}

#[test]
fn another_limit_holds_at_once_and_ends_no_job() {
    let with_limit = |n| WorkerSpec { max_concurrent_jobs: NonZeroU32::new(n), ..at(1, 1) };
    let pool = pool(&[with_limit(2)]);
    let mut slots = vec![claim(&pool).unwrap(), claim(&pool).unwrap()];
    assert!(claim(&pool).is_none());
    pool.reload(list(&[with_limit(3)]), NOW);
    slots.extend(claim(&pool));
    assert_eq!(pool.active(key(1)), 3);
    pool.reload(list(&[with_limit(1)]), NOW);
    slots.pop();
    assert!(pool.active(key(1)) == 2 && claim(&pool).is_none());
}

#[test]
fn labels_count_of_listed_workers_alone() {
    let labels = [("gpu".to_owned(), "a100".to_owned())].into();
    let with_gpu = WorkerSpec { labels, ..at(1, 1) };
    let pool = pool(&[with_gpu.clone(), at(2, 2)]);
    assert!(pool.could_run(&with_gpu.labels, None));
    pool.reload(list(&[at(2, 2)]), NOW);
    assert!(!pool.could_run(&with_gpu.labels, None));
    pool.reload(list(&[at(1, 1), at(2, 2)]), NOW);
    assert!(!pool.could_run(&with_gpu.labels, None), "it came back without the label");
}

#[tokio::test]
async fn one_that_was_gone_and_is_back_is_another_member_to_whoever_checked_it() {
    let pool = pool(&[at(1, 1), at(2, 2)]);
    let interval = Duration::from_secs(30);
    let before = pool.arrivals().await.into_iter().find(|arrival| arrival.worker == key(1)).unwrap();
    assert!(pool.next_check(&before, interval, NOW).is_some());
    pool.reload(list(&[at(2, 2)]), NOW);
    assert!(pool.forget(key(1)));
    assert!(pool.next_check(&before, interval, NOW).is_none());
    before.check.notified().await;
    pool.reload(list(&[at(1, 1), at(2, 2)]), NOW);
    assert!(pool.next_check(&before, interval, NOW).is_none());
    let back = pool.arrivals().await;
    assert!(pool.next_check(&back[0], interval, NOW).is_some());
}
