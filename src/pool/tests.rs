use std::num::NonZeroU32;

use super::member::LIMIT_DEFAULT;
use super::*;
use crate::upstream::evidence::Evidence;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn pool(limits: &[Option<u32>]) -> (Pool, Vec<WorkerKey>) {
    let keys: Vec<_> = (0..limits.len()).map(|n| WorkerKey::for_tests(n as u8 + 1)).collect();
    let allowlist = keys.iter().zip(limits).map(|(key, limit)| {
        let mut spec = WorkerSpec::for_tests(*key);
        spec.max_concurrent_jobs = limit.and_then(NonZeroU32::new);
        spec
    });
    (Pool::new(allowlist.collect(), Vec::new(), Identity::Claimed, Arc::default()), keys)
}

fn report(key: WorkerKey, dialect: Dialect, capacity: Option<u32>) -> HealthReport {
    let address = Some("127.0.0.1:9".parse().unwrap());
    HealthReport { worker_id: Some(key.to_string()), dialect, capacity, address, evidence: Evidence::Claimed }
}

fn well(pool: &Pool, key: WorkerKey, capacity: Option<u32>) {
    let spec = pool.contact(key).unwrap().spec;
    pool.observe(&spec, Ok(report(key, Dialect::V2, capacity)), NOW);
}

#[test]
fn a_worker_is_given_nothing_before_it_is_known_to_be_well() {
    let (pool, keys) = pool(&[Some(1)]);
    assert!(pool.claim(&Class::default(), NOW).is_none());
    well(&pool, keys[0], None);
    let slot = pool.claim(&Class::default(), NOW).unwrap();
    assert_eq!((slot.worker(), pool.active(keys[0])), (keys[0], 1));
    assert!(pool.claim(&Class::default(), NOW).is_none());
    drop(slot);
    assert_eq!(pool.active(keys[0]), 0);
    pool.suspect(keys[0], "connection refused".into());
    assert!(pool.claim(&Class::default(), NOW).is_none());
}

#[test]
fn a_workers_capacity_is_its_limit_or_the_ceiling_of_it() {
    let (pool, keys) = pool(&[None, Some(3), Some(3), None]);
    for (key, capacity) in keys.iter().zip([Some(7), Some(2), None, None]) {
        well(&pool, *key, capacity);
    }
    let limits: BTreeMap<_, _> = pool.view().iter().map(|view| (view.spec.key, view.limit)).collect();
    assert_eq!(keys.iter().map(|key| limits[key]).collect::<Vec<_>>(), [7, 2, 3, LIMIT_DEFAULT]);
}

#[test]
fn a_throttled_worker_waits_as_long_as_it_asked_and_longer_each_time_when_it_did_not() {
    let (pool, keys) = pool(&[Some(2)]);
    well(&pool, keys[0], None);
    let asked = Duration::from_secs(42);
    let pause = pool.throttle(keys[0], Some(asked), NOW);
    assert!((asked..asked.mul_f64(1.1)).contains(&pause), "{pause:?}");
    assert!(pool.claim(&Class::default(), NOW.plus(asked)).is_none());
    assert!(pool.claim(&Class::default(), NOW.plus(pause)).is_some());
    for least in [2, 4, 8, 16, 32, 60, 60] {
        let least = Duration::from_secs(least);
        let pause = pool.pause(keys[0], None, NOW);
        assert!((least..least.mul_f64(1.1)).contains(&pause), "{pause:?}");
    }
    pool.took(keys[0]);
    assert!(pool.claim(&Class::default(), NOW).is_some());
}

#[test]
fn a_serial_worker_is_given_one_job_at_a_time() {
    let (pool, keys) = pool(&[Some(4)]);
    let spec = WorkerSpec::for_tests(keys[0]);
    pool.observe(&spec, Ok(report(keys[0], Dialect::Sandrun, None)), NOW);
    pool.seen_serial(keys[0]);
    let _slot = pool.claim(&Class::default(), NOW).unwrap();
    assert!(pool.claim(&Class::default(), NOW).is_none());
}

#[test]
fn a_job_found_at_a_restart_takes_its_slot_beyond_the_limit() {
    let (pool, keys) = pool(&[Some(1)]);
    let _slots = [pool.occupy(keys[0]).unwrap(), pool.occupy(keys[0]).unwrap()];
    well(&pool, keys[0], None);
    assert_eq!(pool.active(keys[0]), 2);
    assert!(pool.claim(&Class::default(), NOW).is_none());
    assert!(pool.occupy(WorkerKey::for_tests(99)).is_none());
}

#[test]
fn a_worker_that_throttles_is_given_what_it_carried_and_then_one_more() {
    let (pool, keys) = pool(&[Some(6)]);
    well(&pool, keys[0], None);
    let claim = || pool.claim(&Class::default(), NOW.plus(Duration::from_secs(60)));
    let mut slots: Vec<_> = (0..3).map(|_| claim().unwrap()).collect();
    pool.throttle(keys[0], None, NOW);
    slots.pop();
    assert!(claim().is_none(), "it has proved to carry two");
    for _ in 0..RAISE_AFTER {
        pool.took(keys[0]);
    }
    slots.push(claim().unwrap());
    assert!(claim().is_none(), "it is tried with three");
    for _ in 0..3 * RAISE_AFTER {
        pool.took(keys[0]);
    }
    slots.extend((0..3).map(|_| claim().unwrap()));
    assert!(claim().is_none(), "its limit is six");
}

#[test]
fn a_drained_worker_keeps_its_jobs_and_gets_no_more() {
    let (pool, keys) = pool(&[Some(2)]);
    well(&pool, keys[0], None);
    let _slot = pool.claim(&Class::default(), NOW).unwrap();
    assert!(pool.drain(Drain { worker: keys[0], reason: "new disk".into(), since: NOW }));
    assert!(pool.claim(&Class::default(), NOW).is_none());
    assert_eq!(pool.active(keys[0]), 1);
    assert!(pool.resume(keys[0]) && !pool.resume(WorkerKey::for_tests(99)));
    assert!(pool.claim(&Class::default(), NOW).is_some());
}

#[test]
fn a_job_goes_only_to_a_worker_with_its_labels() {
    let spec = |n: u8, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        WorkerSpec { labels, ..WorkerSpec::for_tests(WorkerKey::for_tests(n)) }
    };
    let pool = Pool::new(
        vec![spec(1, &[]), spec(2, &[("gpu", "a100")])],
        Vec::new(),
        Identity::Claimed,
        Arc::default(),
    );
    well(&pool, WorkerKey::for_tests(1), None);
    let gpu = Class { requires: BTreeMap::from([("gpu".into(), "a100".into())]), refused_by: None };
    assert!(pool.claim(&gpu, NOW).is_none() && pool.could_run(&gpu.requires, None));
    well(&pool, WorkerKey::for_tests(2), None);
    assert_eq!(pool.claim(&gpu, NOW).unwrap().worker(), WorkerKey::for_tests(2));
    assert!(!pool.could_run(&gpu.requires, Some(WorkerKey::for_tests(2))));
}
