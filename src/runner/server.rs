//! Serves a worker until it is told to stop, and stops it in good order.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::{Listener, ListenerExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::http::router;
use super::tls::{Access, TlsListener, acceptor};
use super::worker::Worker;

/// How long killed jobs take to be recorded, and last answers to be sent.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// How often expired jobs are looked for. `--keep` is a promise of at least, not of exactly.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// How a worker is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Take no new jobs, and let running ones finish for a while.
    Drain,
    /// Take no new jobs, and kill the running ones.
    Now,
}

/// Serves until told to stop; a second word may hurry the first one up.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    worker: Arc<Worker>,
    listener: TcpListener,
    access: Access,
    mut stop: mpsc::Receiver<Stop>,
) -> io::Result<()> {
    let silence = CancellationToken::new();
    let mut serving = match acceptor(access, &worker.settings.identity) {
        Some(acceptor) => listen(TlsListener::new(listener, acceptor), &worker, &silence),
        None => listen(plain(listener), &worker, &silence),
    };
    let sweeping = tokio::spawn(sweep(Arc::clone(&worker)));

    let told = tokio::select! {
        told = stop.recv() => told.unwrap_or(Stop::Now),
        ended = &mut serving => return ended.map_err(io::Error::other)?,
    };
    log::info!("stopping ({told:?}); {} jobs are running", worker.registry.active());
    worker.registry.close();
    if told == Stop::Drain {
        let drain_max = worker.settings.drain;
        tokio::select! {
            () = worker.registry.idle() => {}
            () = tokio::time::sleep(drain_max) => log::warn!("jobs still run after {drain_max:?} and are killed"),
            _ = stop.recv() => log::warn!("told to hurry, running jobs are killed"),
        }
    }
    worker.kill.cancel();
    // Who waits for a job that was killed just now gets its answer, too.
    let _ = timeout(FAREWELL_MAX, worker.registry.idle()).await;
    silence.cancel();
    let _ = timeout(FAREWELL_MAX, serving).await;
    sweeping.abort();
    Ok(())
}

/// A listener for connections in the clear.
fn plain(listener: TcpListener) -> impl Listener<Addr = SocketAddr> {
    listener.tap_io(|connection| {
        // Answers are small and awaited. A socket that refuses the option still works.
        let _ = connection.set_nodelay(true);
    })
}

/// Answers what comes in, until there is silence.
fn listen<L>(listener: L, worker: &Arc<Worker>, silence: &CancellationToken) -> JoinHandle<io::Result<()>>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let serving = axum::serve(listener, router(Arc::clone(worker)));
    tokio::spawn(serving.with_graceful_shutdown(silence.clone().cancelled_owned()).into_future())
}

async fn sweep(worker: Arc<Worker>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD.min(worker.settings.keep)).await;
        let worker = Arc::clone(&worker);
        if let Err(error) = tokio::task::spawn_blocking(move || worker.forget_expired()).await {
            log::error!("expired jobs cannot be looked for: {error}");
        }
    }
}
