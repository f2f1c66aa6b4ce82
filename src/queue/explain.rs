//! Why a job waits, in words. Pure.

use super::order::Class;
use crate::pool::WorkerView;
use crate::pool::health::Standing;
use crate::time::Timestamp;

/// Why a job of this class waits, as the workers are now; `ahead` are the jobs before it.
pub fn reason(class: &Class, ahead: usize, workers: &[WorkerView], now: Timestamp) -> String {
    let listed = workers.iter().filter(|worker| worker.removed_since.is_none());
    let fit: Vec<_> = listed.filter(|worker| has_labels(class, worker)).collect();
    if fit.is_empty() {
        return format!("no worker in the list has {}; it waits until one that has is added", labels(class));
    }
    let allowed: Vec<_> =
        fit.into_iter().filter(|worker| Some(worker.spec.key) != class.refused_by).collect();
    if allowed.is_empty() {
        return "the only worker in the list that it could go to has refused it".to_owned();
    }
    let healthy: Vec<_> = allowed.iter().filter(|worker| worker.health.is_healthy()).collect();
    if healthy.is_empty() {
        let distrusted = |worker: &&WorkerView| matches!(worker.health.standing, Standing::Distrusted { .. });
        let what = if allowed.iter().any(distrusted) {
            "both healthy and known as surely as trust.require asks"
        } else {
            "healthy"
        };
        return format!("{} {what}", count_none(allowed.len()));
    }
    let open: Vec<_> = healthy.into_iter().filter(|worker| worker.drain.is_none()).collect();
    if open.is_empty() {
        return "every healthy worker is being drained".to_owned();
    }
    let throttled = |worker: &&&&WorkerView| worker.throttled_until.is_some_and(|until| until > now);
    if let Some(first) = open.iter().filter(throttled).min_by_key(|worker| worker.throttled_until)
        && open.iter().all(|worker| throttled(&worker))
    {
        let left = first.throttled_until.map_or(0, |until| until.since(now).as_secs() + 1);
        return format!("worker {} is throttled for {left} s more", first.spec.key);
    }
    if open.iter().filter(|worker| !throttled(worker)).any(|worker| worker.active_jobs < worker.limit) {
        return format!("{ahead} jobs are before it");
    }
    match open.len() {
        1 => "1 healthy worker, at its limit".to_owned(),
        2 => "2 healthy workers, both at their limit".to_owned(),
        n => format!("{n} healthy workers, all at their limit"),
    }
}

fn has_labels(class: &Class, worker: &WorkerView) -> bool {
    class.requires.iter().all(|(name, value)| worker.spec.labels.get(name) == Some(value))
}

fn labels(class: &Class) -> String {
    let labels: Vec<_> = class.requires.iter().map(|(name, value)| format!("{name}={value}")).collect();
    match labels.len() {
        1 => format!("label {}", labels[0]),
        _ => format!("all of the labels {}", labels.join(", ")),
    }
}

fn count_none(workers: usize) -> String {
    match workers {
        1 => "the only worker is not".to_owned(),
        n => format!("none of {n} workers is"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::pool::health::Health;
    use crate::store::Drain;
    use crate::upstream::HealthReport;
    use crate::upstream::evidence::Evidence;
    use crate::worker::trust::Identity;
    use crate::worker::{Dialect, WorkerKey, WorkerSpec};

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn worker(n: u8, active_jobs: u32) -> WorkerView {
        let key = WorkerKey::for_tests(n);
        let mut health = Health::default();
        let report = HealthReport {
            worker_id: Some(key.to_string()),
            dialect: Dialect::V2,
            capacity: None,
            address: None,
            evidence: Evidence::Claimed,
        };
        health.observe(key, Identity::Claimed, Ok(report), NOW);
        let spec = WorkerSpec::for_tests(key).into();
        WorkerView {
            spec,
            health,
            active_jobs,
            limit: 2,
            throttled_until: None,
            drain: None,
            removed_since: None,
            checks: Default::default(),
        }
    }

    fn why(class: &Class, workers: &[WorkerView]) -> String {
        reason(class, 3, workers, NOW)
    }

    #[test]
    fn each_cause_has_its_words() {
        let any = Class::default();
        let gpu = Class { requires: BTreeMap::from([("gpu".into(), "a100".into())]), refused_by: None };
        let refused = Class { refused_by: Some(WorkerKey::for_tests(1)), ..Class::default() };
        let mut down = worker(1, 0);
        down.health.suspect("connection refused".into());
        let mut throttled = worker(1, 0);
        throttled.throttled_until = Some(NOW.plus(Duration::from_millis(40_500)));
        let mut drained = worker(1, 0);
        let drain = Drain { worker: drained.spec.key, reason: "disk".into(), since: NOW };
        drained.drain = Some(drain);
        assert_eq!(why(&any, &[worker(1, 2), worker(2, 2)]), "2 healthy workers, both at their limit");
        let none_has = "no worker in the list has label gpu=a100; it waits until one that has is added";
        assert_eq!(why(&gpu, &[worker(1, 0)]), none_has);
        let mut removed = worker(2, 0);
        let spec = WorkerSpec { labels: gpu.requires.clone(), ..(*removed.spec).clone() };
        (removed.spec, removed.removed_since) = (spec.into(), Some(NOW));
        assert_eq!(why(&gpu, &[worker(1, 0), removed]), none_has);
        assert_eq!(
            why(&refused, &[worker(1, 0)]),
            "the only worker in the list that it could go to has refused it"
        );
        assert_eq!(why(&any, &[down]), "the only worker is not healthy");
        assert_eq!(why(&any, &[drained]), "every healthy worker is being drained");
        let key = throttled.spec.key;
        assert_eq!(why(&any, &[throttled]), format!("worker {key} is throttled for 41 s more"));
        assert_eq!(why(&any, &[worker(1, 1)]), "3 jobs are before it");
    }
}
