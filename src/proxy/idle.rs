//! Connections to workers between one file and the next.
//!
//! Pingora's pool sets a task over each connection that lies idle, with a timer and a read, and wakes and awaits that task before
//! the connection is used again: a fifth of what a small file costs. Here a connection lies where it is until it is wanted, or has
//! lain for too long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// Connections that lie idle at once, to all workers.
const IDLE_MAX: usize = 256;

/// How long one is kept: less than workers do.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one may lie past that.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// The idle connections. Clones share them.
#[derive(Clone, Default)]
pub struct IdleConnections(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    /// By what Pingora says makes a connection one to this peer and no other; those used last are at the end.
    lines: HashMap<u64, Vec<Lying>>,
    number: usize,
    is_swept: bool,
}

struct Lying {
    stream: Stream,
    since: Instant,
}

// === impl IdleConnections ===

impl IdleConnections {
    /// A connection to the peer, if one is idle on which nothing has come: neither its end nor what nobody has asked for.
    pub fn take(&self, peer: &HttpPeer) -> Option<HttpSession> {
        let way = peer.reuse_hash();
        loop {
            let mut lying = self.lock().take(way)?;
            if !lying.is_expired() && lying.is_quiet() {
                return Some(HttpSession::new_with_options(lying.stream, peer));
            }
        }
    }

    /// Keeps a connection, if it may be and its answer was read to the end.
    pub async fn keep(&self, mut session: HttpSession, peer: &HttpPeer) {
        session.respect_keepalive();
        let Some(stream) = session.reuse().await else { return };
        let mut idle = self.lock();
        if idle.number == IDLE_MAX {
            return;
        }
        idle.put(peer.reuse_hash(), Lying { stream, since: Instant::now() });
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes what has lain for too long, until nothing lies idle.
    async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP_PERIOD).await;
            let mut idle = self.lock();
            idle.close_expired();
            if idle.number == 0 {
                idle.is_swept = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().expect("no code panics while it holds the idle connections' lock")
    }
}

// === impl Idle ===

impl Idle {
    fn take(&mut self, way: u64) -> Option<Lying> {
        let line = self.lines.get_mut(&way)?;
        let lying = line.pop()?;
        self.number -= 1;
        Some(lying)
    }

    fn put(&mut self, way: u64, lying: Lying) {
        self.lines.entry(way).or_default().push(lying);
        self.number += 1;
    }

    fn close_expired(&mut self) {
        self.lines.retain(|_, line| {
            line.retain(|lying| !lying.is_expired());
            !line.is_empty()
        });
        self.number = self.lines.values().map(Vec::len).sum();
    }
}

// === impl Lying ===

impl Lying {
    fn is_expired(&self) -> bool {
        self.since.elapsed() >= IDLE_TIMEOUT
    }

    fn is_quiet(&mut self) -> bool {
        // Unconstrained: a task that has done much is told to wait for what is there already.
        tokio::task::unconstrained(self.stream.read(&mut [0])).now_or_never().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use pingora::http::RequestHeader;
    use pingora::protocols::l4::stream::Stream as Tcp;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A worker at the other end of one connection, over which one answer has come.
    async fn answered(listener: &TcpListener) -> (HttpSession, HttpPeer, TcpStream) {
        let address = listener.local_addr().unwrap();
        let ours = TcpStream::connect(address).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let peer = peer(address, 1);
        let mut session = HttpSession::new_with_options(Box::new(Tcp::from(ours)), &peer);
        let head = RequestHeader::build("GET", b"/", None).unwrap();
        session.write_request_header(Box::new(head)).await.unwrap();
        theirs.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1").await.unwrap();
        session.read_resp_header_parts().await.unwrap();
        while session.read_body_ref().await.unwrap().is_some() {}
        (session, peer, theirs)
    }

    fn peer(address: SocketAddr, group: u64) -> HttpPeer {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.group_key = group;
        peer
    }

    #[tokio::test]
    async fn a_connection_is_for_its_own_worker_once_at_a_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (session, same, _theirs) = answered(&listener).await;
        let idle = IdleConnections::default();
        idle.keep(session, &same).await;
        let another_worker = peer(listener.local_addr().unwrap(), 2);
        assert!(idle.take(&another_worker).is_none());
        assert!(idle.take(&same).is_some());
        assert!(idle.take(&same).is_none());
    }

    #[tokio::test]
    async fn one_that_has_ended_or_says_what_nobody_asked_is_not_used() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for unasked in [&b""[..], b"HTTP/1.1 200 OK\r\n\r\n"] {
            let (session, peer, mut theirs) = answered(&listener).await;
            let idle = IdleConnections::default();
            idle.keep(session, &peer).await;
            theirs.write_all(unasked).await.unwrap();
            drop(theirs);
            // Until the end of the connection is seen, it looks quiet.
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(idle.take(&peer).is_none());
        }
    }

    #[tokio::test]
    async fn one_that_lies_for_too_long_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (session, peer, mut theirs) = answered(&listener).await;
        let idle = IdleConnections::default();
        idle.keep(session, &peer).await;
        tokio::time::pause();
        tokio::time::advance(IDLE_TIMEOUT + 2 * SWEEP_PERIOD).await;
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await.unwrap();
        assert!(rest.starts_with(b"GET / "));
        assert!(idle.take(&peer).is_none());
    }

    #[tokio::test]
    async fn no_more_are_kept_than_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let idle = IdleConnections::default();
        let mut others = Vec::new();
        for _ in 0..=IDLE_MAX {
            let (session, peer, theirs) = answered(&listener).await;
            idle.keep(session, &peer).await;
            others.push(theirs);
        }
        assert_eq!(idle.lock().number, IDLE_MAX);
    }
}
