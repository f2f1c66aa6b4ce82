//! A TCP proxy that breaks what passes through it: the network between the pool and a worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What happens to connections; a change holds for the ones that are open, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Whole,
    /// Closes each connection at once: a reset before any byte is taken.
    Refused,
    /// Takes connections and moves nothing.
    Stalled,
    /// Cuts a connection after so many bytes towards the worker.
    CutRequest(u64),
    /// Cuts a connection after so many bytes towards the pool.
    CutResponse(u64),
    /// Holds back each piece, in both directions, for so long.
    Slow(Duration),
}

/// A running proxy; it ends with the handle.
pub struct FaultProxy {
    address: SocketAddr,
    link: Arc<watch::Sender<Link>>,
    acceptor: AbortHandle,
}

/// One direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Worker,
    Pool,
}

impl FaultProxy {
    pub async fn start(worker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener");
        let link = Arc::new(watch::Sender::new(Link::Whole));
        let acceptor = tokio::spawn(accept(listener, worker, Arc::clone(&link))).abort_handle();
        Self { address, link, acceptor }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, worker: SocketAddr, link: Arc<watch::Sender<Link>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(carry(client, worker, link.subscribe()));
    }
}

async fn carry(client: TcpStream, worker: SocketAddr, link: watch::Receiver<Link>) {
    if *link.borrow() == Link::Refused {
        // Without lingering, the close is a reset.
        let _ = client.set_zero_linger();
        return;
    }
    let Ok(server) = TcpStream::connect(worker).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    // A worker that closes has ended the exchange; so has a cut in either direction.
    tokio::select! {
        () = pump(client_read, server_write, Towards::Worker, link.clone()) => {}
        () = pump(server_read, client_write, Towards::Pool, link) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    towards: Towards,
    mut link: watch::Receiver<Link>,
) {
    let mut moved = 0_u64;
    let mut piece = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut piece).await else {
            // A half-closed request still waits for its answer.
            return if towards == Towards::Worker {
                std::future::pending().await
            };
        };
        let now = *link.borrow();
        let allowed = match now {
            Link::CutRequest(limit) if towards == Towards::Worker => limit.saturating_sub(moved),
            Link::CutResponse(limit) if towards == Towards::Pool => limit.saturating_sub(moved),
            _ => u64::MAX,
        };
        let take = read.min(usize::try_from(allowed).unwrap_or(usize::MAX));
        match now {
            Link::Refused => return,
            Link::Stalled if link.wait_for(|link| *link != Link::Stalled).await.is_err() => return,
            Link::Slow(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        if to.write_all(&piece[..take]).await.is_err() || take < read {
            return;
        }
        moved += take as u64;
    }
}
