//! The worker as a whole: what its HTTP handlers share.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::datadir::DataDir;
use super::enforcement::Enforcement;
use super::environment::Environments;
use super::execute::{Surroundings, execute};
use super::interpreter::Installed;
use super::job::{Facts, Job, Order, Phase};
use super::jobdir::JobDir;
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
    /// What is prepared for it.
    pub environments: Environments,
    /// What the worker says of itself; where jobs may run is decided by what the pool's list says of it.
    pub labels: BTreeMap<String, String>,
    /// How long the results of a finished job are kept.
    pub keep: Duration,
    /// How long running jobs may go on after the worker is told to drain.
    pub drain: Duration,
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
    /// Makes a worker, which knows the jobs that its data directory tells of.
    ///
    /// # Errors
    /// When the data directory cannot be used, or jobs could see it.
    pub fn open(settings: Settings) -> io::Result<Arc<Self>> {
        let data = DataDir::open(&settings.data)?;
        if settings.sandbox.shows(data.path()) || settings.environments.show(data.path()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "every job can read that directory"));
        }
        let known = data.restore()?;
        if !known.is_empty() {
            log::info!("{} jobs of an earlier process are known", known.len());
        }
        let registry = Registry::new(settings.capacity.get(), known, data.remembers_since()?);
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
        let (id, key) = (ticket.id().clone(), ticket.key().cloned());
        let subject = ticket.subject(&upload);
        let environments = self.settings.environments.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let order = Order::prepare(&dir, &upload, subject, grant, &environments)?;
            let environment =
                order.plan.environment.as_ref().map(|environment| environment.name().to_owned());
            let facts = Facts {
                key,
                interpreter: order.plan.interpreter,
                environment: environment.unwrap_or_default(),
                hash: upload.hash,
            };
            Job::create(id, facts, order, dir)
                .map_err(|error| Refusal::disk("putting a job on record", &error))
        });
        let job =
            prepared.await.map_err(|error| Refusal::disk("preparing a job", &io::Error::other(error)))??;
        let job = Arc::new(job);
        let Phase::Queued(order) = job.phase() else {
            unreachable!("nobody has moved a job that nobody knows")
        };
        let slot = self.registry.accept(ticket, &job)?;
        job.dir.keep();
        let around = Surroundings {
            sandbox: self.settings.sandbox.clone(),
            enforcement: self.settings.enforcement.clone(),
            stop: self.kill.clone(),
            identity: Arc::clone(&self.settings.identity),
        };
        tokio::spawn(execute(Arc::clone(&job), order, slot, around));
        Ok(job)
    }

    /// Forgets the jobs whose time is over, and removes their files when nobody reads them any more. Blocks.
    pub(super) fn forget_expired(&self) {
        let (forgotten, since) = self.registry.forget_expired(self.settings.keep, SystemTime::now());
        if forgotten.is_empty() {
            return;
        }
        if let Err(error) = self.data.remember_since(since) {
            log::error!("the worker cannot put on record that it has forgotten jobs: {error}");
        }
        for job in forgotten {
            job.dir.release();
        }
    }
}
