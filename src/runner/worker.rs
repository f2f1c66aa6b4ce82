//! The worker as a whole: what its HTTP handlers share.

use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::execute::execute;
use super::job::{Job, Order};
use super::jobdir::{DataDir, JobDir};
use super::refusal::Refusal;
use super::registry::{Registry, Ticket};
use super::sandbox::Sandbox;
use super::upload::Upload;
use crate::worker::identity::WorkerKey;

/// What an operator decides about a worker.
#[derive(Debug)]
pub struct Settings {
    /// Who the worker is.
    pub worker_id: WorkerKey,
    /// Jobs that run at once.
    pub capacity: NonZeroU32,
    /// Where jobs and their results are.
    pub data: PathBuf,
    /// What is around each job.
    pub sandbox: Sandbox,
    /// How long the results of a finished job are kept.
    pub keep: Duration,
    /// Largest submission taken, in bytes.
    pub max_upload: u64,
    /// How long a job may run whose manifest does not say.
    pub default_timeout: Duration,
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    pub(super) settings: Settings,
    pub(super) registry: Arc<Registry>,
    pub(super) data: DataDir,
    pub(super) started: Instant,
    /// Kills all jobs when cancelled.
    pub(super) kill: CancellationToken,
}

impl Worker {
    /// Makes a worker, whose data directory is cleaned and locked.
    ///
    /// # Errors
    /// When the data directory cannot be used, or jobs could see it.
    pub fn open(settings: Settings) -> io::Result<Arc<Self>> {
        let data = DataDir::open(&settings.data)?;
        if settings.sandbox.shows(data.path()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "every job can read that directory"));
        }
        let registry = Registry::new(settings.capacity.get());
        Ok(Arc::new(Self {
            settings,
            registry,
            data,
            started: Instant::now(),
            kill: CancellationToken::new(),
        }))
    }

    /// Makes a job of a received upload and starts it.
    ///
    /// # Errors
    /// When the upload cannot be run, or the worker has begun to stop.
    pub(super) async fn start(
        self: Arc<Self>,
        ticket: Ticket,
        dir: JobDir,
        upload: Upload,
    ) -> Result<Arc<Job>, Refusal> {
        let default_timeout = self.settings.default_timeout;
        let order = tokio::task::spawn_blocking(move || Order::prepare(dir, upload, default_timeout));
        let order =
            order.await.map_err(|error| Refusal::disk("preparing a job", &io::Error::other(error)))??;
        let job = Arc::new(Job::new(ticket.id().clone(), order));
        let slot = self.registry.accept(ticket, &job)?;
        tokio::spawn(execute(Arc::clone(&job), slot, self.settings.sandbox.clone(), self.kill.clone()));
        Ok(job)
    }
}
