//! How much of the pool one client may take in a time. Pure but for its lock: time is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::job::ClientName;
use crate::time::Timestamp;

/// Clients that are counted at once. An identity provider may know more; past this, those counted least recently start afresh.
const CLIENTS_MAX: usize = 10_000;

/// What each client may take; what is `None` has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Jobs that wait.
    pub queued_jobs: Option<u32>,
    pub requests_per_second: Option<u32>,
    pub upload_bytes_per_minute: Option<u64>,
}

/// What each client has taken.
#[derive(Debug, Default)]
pub struct Usage {
    limits: ClientLimits,
    clients: Mutex<HashMap<Option<ClientName>, Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    requests: Bucket,
    upload: Bucket,
}

/// What was taken and is not yet forgotten: it runs out at the allowed rate.
#[derive(Debug, Default)]
struct Bucket {
    amount: f64,
    at: Option<Timestamp>,
}

impl Usage {
    pub fn new(limits: ClientLimits) -> Self {
        Self { limits, clients: Mutex::default() }
    }

    pub fn limits(&self) -> &ClientLimits {
        &self.limits
    }

    /// Counts a request; how long the client is to wait when it has made too many.
    pub fn request(&self, client: Option<&ClientName>, now: Timestamp) -> Result<(), Duration> {
        let Some(limit) = self.limits.requests_per_second else { return Ok(()) };
        let limit = f64::from(limit);
        self.with(client, now, |taken| taken.requests.take(1.0, limit, limit, now))
    }

    /// Counts bytes of uploads; how long the client is to wait when it has sent too many. One that has not may send more than
    /// is left, and waits longer for the next: so an upload larger than the limit is possible, and none is cut for it.
    pub fn upload(&self, client: Option<&ClientName>, bytes: u64, now: Timestamp) -> Result<(), Duration> {
        let Some(limit) = self.limits.upload_bytes_per_minute else { return Ok(()) };
        let limit = limit as f64;
        self.with(client, now, |taken| taken.upload.take(bytes as f64, limit, limit / 60.0, now))
    }

    fn with<T>(&self, client: Option<&ClientName>, now: Timestamp, count: impl FnOnce(&mut Taken) -> T) -> T {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client.cloned();
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(&client) {
            clients.retain(|_, taken| taken.is_recent(now));
            if clients.len() >= CLIENTS_MAX {
                clients.clear();
            }
        }
        count(clients.entry(client).or_default())
    }
}

impl Taken {
    /// What was taken longer ago has run out, but for what was more than allowed.
    fn is_recent(&self, now: Timestamp) -> bool {
        let recent = |at: Option<Timestamp>| at.is_some_and(|at| now.since(at) < Duration::from_secs(60));
        recent(self.requests.at) || recent(self.upload.at)
    }
}

impl Bucket {
    /// Takes `cost`, if less than `capacity` is taken now; what is taken runs out by `rate` a second.
    fn take(&mut self, cost: f64, capacity: f64, rate: f64, now: Timestamp) -> Result<(), Duration> {
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.since(at));
        self.amount = (self.amount - elapsed.as_secs_f64() * rate).max(0.0);
        self.at = Some(now);
        if self.amount < capacity {
            self.amount += cost;
            return Ok(());
        }
        // `Retry-After` has whole seconds, and none would be no wait.
        let seconds = ((self.amount - capacity) / rate).ceil().max(1.0);
        Err(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(millis * 1000)
    }

    fn client(name: &str) -> ClientName {
        name.parse().unwrap()
    }

    fn usage(limits: ClientLimits) -> Usage {
        Usage::new(limits)
    }

    #[test]
    fn requests_are_limited_for_each_client_alone() {
        let usage = usage(ClientLimits { requests_per_second: Some(3), ..ClientLimits::default() });
        let (one, two) = (client("one"), client("two"));
        for _ in 0..3 {
            usage.request(Some(&one), at(0)).unwrap();
        }
        assert_eq!(usage.request(Some(&one), at(0)), Err(Duration::from_secs(1)));
        assert_eq!(usage.request(Some(&two), at(0)), Ok(()));
        assert_eq!(usage.request(Some(&one), at(400)), Ok(()));
        // Nobody is held to what has no limit.
        assert_eq!(usage.upload(Some(&one), u64::MAX, at(0)), Ok(()));
    }

    #[test]
    fn a_large_upload_is_taken_and_waited_for() {
        let usage = usage(ClientLimits { upload_bytes_per_minute: Some(600), ..ClientLimits::default() });
        usage.upload(None, 1800, at(0)).unwrap();
        assert_eq!(usage.upload(None, 1, at(0)), Err(Duration::from_secs(120)));
        assert_eq!(usage.upload(None, 1, at(119_000)), Err(Duration::from_secs(1)));
        assert_eq!(usage.upload(None, 1, at(120_100)), Ok(()));
    }

    #[test]
    fn clients_without_end_take_bounded_memory() {
        let usage = usage(ClientLimits { requests_per_second: Some(1), ..ClientLimits::default() });
        for n in 0..3 * CLIENTS_MAX {
            usage.request(Some(&client(&n.to_string())), at(0)).unwrap();
        }
        assert!(usage.clients.lock().unwrap().len() <= CLIENTS_MAX);
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_passes_than_a_burst_and_the_rate(
            gaps in proptest::collection::vec(0..400_i64, 1..200),
            limit in 1..20_u32,
        ) {
            let usage = usage(ClientLimits { requests_per_second: Some(limit), ..ClientLimits::default() });
            let (mut now, mut passed) = (0, 0_u32);
            for gap in gaps {
                now += gap;
                passed += u32::from(usage.request(None, at(now)).is_ok());
                let most = f64::from(limit) * (1.0 + now as f64 / 1000.0) + 1.0;
                prop_assert!(f64::from(passed) <= most, "{passed} in {now} ms");
            }
        }
    }
}
