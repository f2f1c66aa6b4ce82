//! What the operator decided: a file and flags in, a checked [`Config`] out.
//!
//! The file is read key by key into a `Config` that already holds the defaults, so that an empty file is the default and
//! no value exists twice. All that is wrong is reported at once, with file, line and key. Nothing is clamped and no
//! unknown key is passed over: a configuration means what it says or is refused.

mod access;
mod args;
mod file;
mod problem;
mod section;
mod show;
pub mod units;
mod warning;
mod workers;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use args::ServeArgs;
pub use problem::{ConfigErrors, Problem};
pub use workers::WorkersSource;

use crate::api::origins::AllowedOrigins;
use crate::auth::jwt::JwtConfig;
use crate::auth::limits::ClientLimits;
use crate::job::{DefaultTerms, OnUnknown, OnWorkerLost};
use crate::spool::ArchiveLimits;
use crate::worker::Allowlist;
use crate::worker::trust::Identity;
use problem::Place;

/// The whole configuration of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on without TLS: at least one, unless there is [`Self::tls`].
    pub listen: Vec<SocketAddr>,
    pub tls: Option<TlsConfig>,
    pub auth: AuthConfig,
    pub client_limits: ClientLimits,
    /// Whose pages may use the pool (`cors.allow_origins`); [`Self::allowed_origins`] says what holds where nothing is said.
    pub allow_origins: Option<AllowedOrigins>,
    /// The directory that keeps jobs and uploads, relative to the working directory.
    pub data: PathBuf,
    /// The workers that may be given jobs: at least one, once it is loaded.
    pub workers: Allowlist,
    pub trust: TrustConfig,
    pub uploads: UploadsConfig,
    pub dispatch: DispatchConfig,
    pub history: HistoryConfig,
    pub outputs: OutputsConfig,
    pub health: HealthConfig,
    pub server: ServerConfig,
    pub log: log::LevelFilter,
}

/// Which workers are given jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustConfig {
    /// How surely a worker must be known.
    pub require: Identity,
}

/// Where the pool speaks TLS, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// At least one address (`listen_tls`).
    pub listen: Vec<SocketAddr>,
    pub certificate: Certificate,
    /// Only clients with a certificate of these authorities can connect; a PEM file.
    pub client_ca: Option<PathBuf>,
}

/// Where a certificate and its key come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Nobody said; a configuration that is loaded has another.
    Missing,
    /// PEM files.
    Files { cert: PathBuf, key: PathBuf },
    /// Made by the pool, for trying it out (`--dev-tls`).
    Dev,
}

/// Who may use the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuthConfig {
    /// Nobody said: whoever reaches it, which is this machine alone.
    #[default]
    Unset,
    /// Whoever reaches it (`auth: none`).
    Open,
    /// Who proves to be a client.
    Guarded(GuardConfig),
}

/// How clients prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardConfig {
    /// The file of tokens, unless it is the one in the data directory.
    pub tokens: Option<PathBuf>,
    /// An issuer whose tokens are good as well.
    pub jwt: Option<JwtConfig>,
}

/// What a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadsConfig {
    /// Bytes of one job's upload (`max_upload`).
    pub bytes_max: u64,
    /// For one whole upload.
    pub timeout: Duration,
    /// Between two pieces of an upload.
    pub idle_timeout: Duration,
    /// Uploads at once (`max_open_uploads`).
    pub open_max: u32,
    /// Bytes of all payloads that wait on disk (`max_spool_bytes`).
    pub spool_bytes_max: u64,
    pub inspect: InspectMode,
    /// What archives that are inspected may hold (`max_entries`, `max_unpacked`).
    pub archives: ArchiveLimits,
}

/// Which uploads are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectMode {
    /// Archives named `.tar.gz` or `.tgz`.
    Tar,
    None,
}

/// How jobs are sent to workers and followed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchConfig {
    /// Until a worker has answered a submit. Longer than the longest job: a sandrun worker answers when its running job
    /// ends, and a submit without an answer may be running.
    pub submit_timeout: Duration,
    /// Until a client's status request is answered from what the pool knows.
    pub status_timeout: Duration,
    /// Until the jobs of a worker that is down count as lost.
    pub worker_lost_after: Duration,
    /// What holds where a job's own terms say nothing.
    pub defaults: DefaultTerms,
    /// Waiting jobs (`max_queued_jobs`).
    pub queued_jobs_max: u32,
}

/// What is kept of a job that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    pub keep: Duration,
    /// How long the payload of a job that failed or was cancelled is kept, so that it can be run again.
    pub retry_keep: Duration,
    /// Bytes of standard output kept for a job, and as many of standard error (`max_log_bytes`).
    pub log_bytes_max: u64,
}

/// Which outputs the pool keeps itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputsConfig {
    /// For how long; zero leaves all of them on the workers.
    pub keep: Duration,
    /// Bytes of one job's outputs; more stay on the worker (`max_job_bytes`).
    pub job_bytes_max: u64,
    /// Bytes of all kept outputs (`max_total_bytes`).
    pub total_bytes_max: u64,
}

/// How workers are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Between two checks of a healthy worker.
    pub interval: Duration,
    pub timeout: Duration,
}

/// How the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Threads that serve clients.
    pub threads: usize,
    /// For the head of a request, from its first byte on.
    pub header_timeout: Duration,
    /// How long a connection is kept that has no request; whole seconds.
    pub idle_timeout: Duration,
    /// Connections from one address (`max_connections_per_address`).
    pub connections_per_address_max: u32,
    /// How long uploads and downloads may go on once the pool is told to end.
    pub shutdown_timeout: Duration,
}

const PORT: u16 = 9000;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))],
            tls: None,
            auth: AuthConfig::Unset,
            client_limits: ClientLimits::default(),
            allow_origins: None,
            data: PathBuf::from("./data"),
            workers: Allowlist::default(),
            trust: TrustConfig { require: Identity::Claimed },
            uploads: UploadsConfig::default(),
            dispatch: DispatchConfig::default(),
            history: HistoryConfig::default(),
            outputs: OutputsConfig::default(),
            health: HealthConfig::default(),
            server: ServerConfig::default(),
            log: log::LevelFilter::Info,
        }
    }
}

impl Default for UploadsConfig {
    fn default() -> Self {
        Self {
            bytes_max: 1 << 30,
            timeout: Duration::from_secs(3600),
            idle_timeout: Duration::from_secs(60),
            open_max: 256,
            spool_bytes_max: 64 << 30,
            inspect: InspectMode::Tar,
            archives: ArchiveLimits { entries_max: 100_000, unpacked_bytes_max: 10 << 30 },
        }
    }
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            submit_timeout: Duration::from_secs(15 * 60),
            status_timeout: Duration::from_secs(2),
            worker_lost_after: Duration::from_secs(10 * 60),
            defaults: DefaultTerms {
                on_unknown: OnUnknown::Hold,
                on_worker_lost: OnWorkerLost::Fail,
                max_attempts: 3,
                queue_timeout: None,
            },
            queued_jobs_max: 100_000,
        }
    }
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(7 * 24 * 3600),
            retry_keep: Duration::from_secs(24 * 3600),
            log_bytes_max: 10 << 20,
        }
    }
}

impl Default for OutputsConfig {
    fn default() -> Self {
        Self { keep: Duration::from_secs(24 * 3600), job_bytes_max: 256 << 20, total_bytes_max: 10 << 30 }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), timeout: Duration::from_secs(5) }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        // A machine that does not tell has at least one.
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            connections_per_address_max: 1024,
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// The file of tokens in a data directory.
pub fn tokens_in(data: &Path) -> PathBuf {
    data.join("tokens.json")
}

impl Config {
    /// Reads what the flags point at.
    ///
    /// # Errors
    /// Everything that is wrong, in all the files at once.
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        // The flag's list stands for the one that the file names, which then need not exist.
        let mut listed = args.workers.as_deref().map(|path| {
            workers::from_file(path).unwrap_or_else(|found| {
                problems.extend(found);
                Allowlist::default()
            })
        });
        if let Some(path) = &args.config {
            file::read(path, &mut config, &mut listed, &mut problems);
        }
        match listed {
            Some(workers) => config.workers = workers,
            None if problems.iter().any(Problem::is_of_whole_file) => {}
            None => problems.push(Problem::new(
                Place::CommandLine,
                "workers",
                "are missing: give --workers FILE, or `workers` in the file that --config names",
            )),
        }
        if let Some(port) = args.port {
            config.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        }
        if let Some(data) = &args.data {
            config.data.clone_from(data);
        }
        access::settle(args, &mut config, &mut problems);
        ConfigErrors::check(problems)?;
        Ok(config)
    }

    /// Every address to listen on, with TLS or without.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.iter().chain(self.tls.iter().flat_map(|tls| &tls.listen)).copied()
    }

    /// Whose pages may use the pool: every origin's where it asks nobody who they are, as a sandrun worker's front end needs it;
    /// else none that is not listed.
    pub fn allowed_origins(&self) -> AllowedOrigins {
        self.allow_origins.clone().unwrap_or(match self.auth {
            AuthConfig::Unset | AuthConfig::Open => AllowedOrigins::Any,
            AuthConfig::Guarded(_) => AllowedOrigins::These(Vec::new()),
        })
    }

    /// The file of tokens.
    pub fn tokens(&self) -> PathBuf {
        match &self.auth {
            AuthConfig::Guarded(GuardConfig { tokens: Some(path), .. }) => path.clone(),
            AuthConfig::Unset | AuthConfig::Open | AuthConfig::Guarded(_) => tokens_in(&self.data),
        }
    }
}
