//! Signals: how the pool is told to stop.
//!
//! At SIGTERM and SIGINT the pool takes no more jobs and lets what is under way finish, for a bounded time; it ends at once when nothing is. Pingora's own
//! handling would wait a fixed time, idle or not, and SIGHUP would kill the process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::dispatch::Dispatcher;
use crate::proxy::Shutdown;
use crate::telemetry::audit::AuditLog;

/// How often it is looked whether all that was under way has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How long the last lines of the audit log may take to get to the disk.
const AUDIT_TIME: Duration = Duration::from_secs(2);

/// Waits for a signal to stop, and then for what is under way.
pub struct DrainOnSignal {
    pub dispatcher: Arc<Dispatcher>,
    pub shutdown: Arc<Shutdown>,
    pub audit: AuditLog,
    /// Rung at SIGHUP.
    pub hangup: Arc<Notify>,
    /// How long what is under way may go on.
    pub timeout: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for DrainOnSignal {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = Signals::new(Arc::clone(&self.hangup));
        signals.stop().await;
        self.dispatcher.stop();
        self.shutdown.stop();
        log::info!("stopping: {}", self.under_way());
        tokio::select! {
            () = self.idle() => log::info!("stopped: nothing is under way"),
            () = tokio::time::sleep(self.timeout) => {
                log::warn!("stopped after {:?}: {} cut off", self.timeout, self.under_way());
            }
            () = signals.stop() => log::warn!("stopped by a second signal: {} cut off", self.under_way()),
        }
        // A disk that takes nothing must not keep the pool from ending.
        let _ = tokio::time::timeout(AUDIT_TIME, self.audited()).await;
        ShutdownSignal::FastShutdown
    }
}

impl DrainOnSignal {
    async fn idle(&self) {
        while self.shutdown.under_way.now() > 0 || self.dispatcher.sending() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn audited(&self) {
        while !self.audit.is_written() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn under_way(&self) -> String {
        format!("{} requests and {} dispatches", self.shutdown.under_way.now(), self.dispatcher.sending())
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reload: Arc<Notify>,
}

impl Signals {
    fn new(reload: Arc<Notify>) -> Self {
        let listen = |kind| signal(kind).expect("the server's runtime handles signals");
        Self {
            terminate: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
            hangup: listen(SignalKind::hangup()),
            reload,
        }
    }

    /// The next signal to stop. A hangup is none: files are read again.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => self.reload.notify_one(),
            }
        }
    }
}
