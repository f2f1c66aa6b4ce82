//! The worker as a whole: what its HTTP handlers share.

use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::enforcement::Enforcement;
use super::execute::{Surroundings, execute};
use super::interpreter::Installed;
use super::job::{Job, Order};
use super::jobdir::{DataDir, JobDir};
use super::limits::Grant;
use super::refusal::Refusal;
use super::registry::{Registry, Ticket};
use super::sandbox::Sandbox;
use super::upload::Upload;
use crate::worker::WorkerKey;
use crate::worker::certificate::OwnCertificate;

/// What an operator decides about a worker.
#[derive(Debug)]
pub struct Settings {
    /// Who the worker is.
    pub identity: Arc<OwnCertificate>,
    /// Jobs that run at once.
    pub capacity: NonZeroU32,
    /// Where jobs and their results are.
    pub data: PathBuf,
    /// What is around each job.
    pub sandbox: Sandbox,
    /// What holds it to its limits.
    pub enforcement: Enforcement,
    /// What it is granted.
    pub grant: Grant,
    /// What can run it.
    pub interpreters: Vec<Installed>,
    /// How long the results of a finished job are kept.
    pub keep: Duration,
    /// Largest submission taken, in bytes.
    pub max_upload: u64,
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

    pub(super) fn id(&self) -> WorkerKey {
        self.settings.identity.public()
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
        let grant = self.settings.grant;
        let subject = ticket.subject(&upload);
        let order = tokio::task::spawn_blocking(move || Order::prepare(dir, upload, grant));
        let order =
            order.await.map_err(|error| Refusal::disk("preparing a job", &io::Error::other(error)))??;
        let job = Arc::new(Job::new(ticket.id().clone(), order, subject));
        let slot = self.registry.accept(ticket, &job)?;
        let around = Surroundings {
            sandbox: self.settings.sandbox.clone(),
            enforcement: self.settings.enforcement.clone(),
            stop: self.kill.clone(),
            identity: Arc::clone(&self.settings.identity),
        };
        tokio::spawn(execute(Arc::clone(&job), slot, around));
        Ok(job)
    }
}
