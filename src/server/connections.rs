//! How many connections there are, and from where: one address cannot take them all.
//!
//! A connection counts from the moment it is accepted, before TLS, by Pingora's connection filter. Pingora does not tell when one ends
//! that never came through its handshake; it ends such a one itself, after 60 s. So a connection is first *arriving*, which ends by
//! itself a little later than that, and then *open*, which ends with a guard.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora::listeners::ConnectionFilter;
use tokio::time::Instant;

/// After this, a connection that is still arriving has ended: Pingora gives a handshake 60 s.
const ARRIVING_MAX: Duration = Duration::from_secs(61);

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// From one address: an IPv4 address, or the 64 bits of an IPv6 address that name a network.
    pub per_address: usize,
    /// From all of them.
    pub total: usize,
}

/// The connections of clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    limits: ConnectionLimits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    by_address: HashMap<IpAddr, Count>,
    total: usize,
    /// Connections that were turned away so far.
    refused: u64,
    /// Since when each is arriving, and the same in order.
    arriving: HashMap<SocketAddr, Instant>,
    order: VecDeque<(Instant, SocketAddr)>,
}

#[derive(Debug, Default)]
struct Count {
    connections: usize,
    /// Once told, a refusal is not told again before the address has gone.
    told: bool,
}

/// A connection that is open; it ends with the value.
#[derive(Debug)]
pub struct Open {
    connections: Connections,
    from: IpAddr,
}

impl Connections {
    pub fn new(limits: ConnectionLimits) -> Self {
        Self { limits, state: Arc::default() }
    }

    /// Whether one more may come from there; if so, it is arriving.
    fn arrive(&self, from: SocketAddr, now: Instant) -> bool {
        let counted_as = network(from.ip());
        let mut state = self.lock();
        state.expire(now);
        // A port that is used again is of a connection that has ended.
        if state.arriving.remove(&from).is_some() {
            state.uncount(counted_as);
        }
        let full = state.total >= self.limits.total;
        let count = state.by_address.entry(counted_as).or_default();
        if full || count.connections >= self.limits.per_address {
            let tell = !std::mem::replace(&mut count.told, true);
            if count.connections == 0 {
                state.by_address.remove(&counted_as);
            }
            state.refused += 1;
            drop(state);
            if tell {
                log::warn!("connections from {counted_as} are refused: {}", self.limits.reason(full));
            }
            return false;
        }
        count.connections += 1;
        state.total += 1;
        state.arriving.insert(from, now);
        state.order.push_back((now, from));
        true
    }

    /// How many there are, arriving ones included.
    pub fn now(&self) -> usize {
        self.lock().total
    }

    /// How many were turned away so far.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// A connection that was arriving is open.
    pub fn open(&self, from: SocketAddr) -> Open {
        let counted_as = network(from.ip());
        let mut state = self.lock();
        if state.arriving.remove(&from).is_none() {
            state.by_address.entry(counted_as).or_default().connections += 1;
            state.total += 1;
        }
        state.trim();
        Open { connections: self.clone(), from: counted_as }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionLimits {
    fn reason(&self, full: bool) -> String {
        if full {
            return format!("there are {} in all, as many as the open files allow", self.total);
        }
        format!("it has {} (server.max_connections_per_address)", self.per_address)
    }
}

impl State {
    /// Ends what has been arriving for too long.
    fn expire(&mut self, now: Instant) {
        while let Some((since, from)) = self.order.front().copied() {
            let current = self.arriving.get(&from) == Some(&since);
            if current && now < since + ARRIVING_MAX {
                return;
            }
            self.order.pop_front();
            if current {
                self.arriving.remove(&from);
                self.uncount(network(from.ip()));
            }
        }
    }

    /// Forgets the order of what is no longer arriving.
    fn trim(&mut self) {
        while let Some((since, from)) = self.order.front()
            && self.arriving.get(from) != Some(since)
        {
            self.order.pop_front();
        }
    }

    fn uncount(&mut self, counted_as: IpAddr) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.by_address.get_mut(&counted_as) {
            count.connections = count.connections.saturating_sub(1);
            if count.connections == 0 {
                self.by_address.remove(&counted_as);
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.lock().uncount(self.from);
    }
}

#[async_trait]
impl ConnectionFilter for Connections {
    async fn should_accept(&self, from: Option<&SocketAddr>) -> bool {
        from.is_none_or(|from| self.arrive(*from, Instant::now()))
    }
}

/// What is counted as one address: whoever has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(per_address: usize) -> Connections {
        Connections::new(ConnectionLimits { per_address, total: 5 })
    }

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_has_its_share_and_others_have_theirs() {
        let (all, now) = (connections(2), Instant::now());
        assert!(all.arrive(from("10.0.0.1:1"), now) && all.arrive(from("10.0.0.1:2"), now));
        assert!(!all.arrive(from("10.0.0.1:3"), now) && all.arrive(from("10.0.0.2:1"), now));
        assert!(!all.arrive(from("[::ffff:10.0.0.1]:4"), now));
        let open = all.open(from("10.0.0.1:1"));
        assert!(!all.arrive(from("10.0.0.1:3"), now));
        drop(open);
        assert!(all.arrive(from("10.0.0.1:3"), now));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let (all, now) = (connections(1), Instant::now());
        assert!(all.arrive(from("[2001:db8::1]:1"), now) && !all.arrive(from("[2001:db8::2]:1"), now));
        assert!(all.arrive(from("[2001:db8:0:1::1]:1"), now));
    }

    #[test]
    fn all_together_have_a_bound() {
        let (all, now) = (connections(3), Instant::now());
        let of = |network: u16| (1..=3).map(move |port| SocketAddr::from(([10, 0, 0, network as u8], port)));
        assert_eq!(of(1).chain(of(2)).filter(|from| all.arrive(*from, now)).count(), 5);
        assert_eq!((all.now(), all.refused()), (5, 1));
    }

    #[test]
    fn what_never_opens_counts_no_longer_than_its_handshake_may_take() {
        let (all, now) = (connections(1), Instant::now());
        assert!(all.arrive(from("10.0.0.1:1"), now));
        assert!(!all.arrive(from("10.0.0.1:2"), now + Duration::from_secs(60)));
        assert!(all.arrive(from("10.0.0.1:2"), now + Duration::from_secs(62)));
        drop(all.open(from("10.0.0.1:2")));
        let state = all.lock();
        assert!(state.by_address.is_empty() && state.arriving.is_empty() && state.order.is_empty());
        assert_eq!(state.total, 0);
    }

    #[test]
    fn a_port_that_is_used_again_counts_once() {
        let (all, now) = (connections(1), Instant::now());
        assert!(all.arrive(from("10.0.0.1:1"), now) && all.arrive(from("10.0.0.1:1"), now));
        drop(all.open(from("10.0.0.1:1")));
        assert!(all.lock().by_address.is_empty());
    }
}
