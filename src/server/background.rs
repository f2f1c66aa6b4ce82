//! What goes on beside the front, as Pingora's background services: each has a runtime of its own and ends when the server does.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::net::TcpStream;

use crate::dispatch::Dispatcher;
use crate::outputs::collect::Collector;
use crate::pool::prober::Prober;
use crate::queue::LiveJob;
use crate::reconcile::{self, Reconciler};
use crate::time::Clock;

/// Between two tries to connect to our own listener.
const ANNOUNCE_TRY: Duration = Duration::from_millis(5);

/// Pairs jobs with workers. It begins with the jobs that were under way when the pool last stopped.
pub struct Dispatching {
    dispatcher: Arc<Dispatcher>,
    under_way: Mutex<Vec<Arc<LiveJob>>>,
}

impl Dispatching {
    pub fn new(dispatcher: Arc<Dispatcher>, under_way: Vec<Arc<LiveJob>>) -> Self {
        Self { dispatcher, under_way: Mutex::new(under_way) }
    }
}

#[async_trait]
impl BackgroundService for Dispatching {
    async fn start(&self, shutdown: ShutdownWatch) {
        let under_way = std::mem::take(&mut *self.under_way.lock().expect("taken once, at the start"));
        until_shutdown(Arc::clone(&self.dispatcher).run(under_way), shutdown).await;
    }
}

/// Asks the workers how they are.
pub struct Probing(pub Arc<Prober>);

#[async_trait]
impl BackgroundService for Probing {
    async fn start(&self, shutdown: ShutdownWatch) {
        until_shutdown(Arc::clone(&self.0).run(), shutdown).await;
    }
}

/// Fetches outputs of jobs that have ended.
pub struct Collecting(pub Arc<Collector>);

#[async_trait]
impl BackgroundService for Collecting {
    async fn start(&self, shutdown: ShutdownWatch) {
        until_shutdown(Arc::clone(&self.0).run(), shutdown).await;
    }
}

/// Runs a reconciler.
pub struct Reconciling<R> {
    pub reconciler: R,
    pub clock: Clock,
    pub period: Duration,
}

#[async_trait]
impl<R: Reconciler + 'static> BackgroundService for Reconciling<R> {
    async fn start(&self, shutdown: ShutdownWatch) {
        until_shutdown(reconcile::run(&self.reconciler, &self.clock, self.period), shutdown).await;
    }
}

/// Says where the pool listens, once it does: whoever reads the line can connect.
pub struct Announcing(pub Vec<(&'static str, SocketAddr)>);

#[async_trait]
impl BackgroundService for Announcing {
    async fn start(&self, shutdown: ShutdownWatch) {
        let announce = async {
            for (scheme, address) in &self.0 {
                while TcpStream::connect(reachable(*address)).await.is_err() {
                    tokio::time::sleep(ANNOUNCE_TRY).await;
                }
                // Nobody need read it.
                let _ = writeln!(std::io::stdout(), "listening on {scheme}://{address}");
            }
        };
        until_shutdown(announce, shutdown).await;
    }
}

/// An address that stands for all of the machine's is reached at loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match (address.ip().is_unspecified(), address) {
        (false, address) => address,
        (true, SocketAddr::V4(_)) => (std::net::Ipv4Addr::LOCALHOST, address.port()).into(),
        (true, SocketAddr::V6(_)) => (std::net::Ipv6Addr::LOCALHOST, address.port()).into(),
    }
}

async fn until_shutdown(work: impl Future<Output = ()>, mut shutdown: ShutdownWatch) {
    tokio::select! {
        () = work => {}
        _ = shutdown.changed() => {}
    }
}
