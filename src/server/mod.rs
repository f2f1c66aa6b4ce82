//! The composition root: puts the parts together from the configuration, starts them, and stops them.

mod background;
mod connections;
mod data;
mod dev_cert;
mod guard;
mod heads;
mod listen;
mod metrics;
mod reload;
mod signals;
pub mod tls;
mod workers;

use std::collections::HashSet;
use std::fs::File;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerOptions;
use pingora::connectors::http::Connector;
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::background::background_service;
use pingora::services::listening::Service;
use pingora_proxy::http_proxy;
use tokio::sync::{Notify, Semaphore};

use crate::auth::Gate;
use crate::auth::limits::Usage;
use crate::config::{Config, InspectMode, OutputsConfig, WorkersSource};
use crate::dispatch::{self, DispatchConfig, Dispatcher};
use crate::outputs::Outputs;
use crate::outputs::collect::Collector;
use crate::outputs::expire::ExpireOutputs;
use crate::outputs::policy::KeepConfig;
use crate::outputs::quota::Quota;
use crate::pool::Pool;
use crate::pool::membership::Departures;
use crate::pool::prober::Prober;
use crate::proxy::{
    Front, FrontConfig, HttpMetrics, IdleConnections, LARGE_ANSWERS_MAX, PROXY_TRIES, Shutdown,
};
use crate::queue::{LiveJob, Queue, QueueDeadlines};
use crate::retention::{Retention, UploadRoom};
use crate::spool::{Inspect, Spool, UploadLimits};
use crate::store::sqlite::SqliteStore;
use crate::store::{Drain, EndedRun, Store, StoreError};
use crate::telemetry;
use crate::telemetry::audit::{self, AuditLog};
use crate::telemetry::metrics::Metrics;
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::upstream::client::{HttpUpstream, Timeouts};
use crate::upstream::peer::Peers;
use crate::upstream::tls::Dialer;
use crate::worker::certificate::OwnCertificate;
use background::{Announcing, Collecting, Dispatching, Probing, Reconciling};
use connections::{ConnectionLimits, Connections};
use heads::WatchedApp;
use listen::Reserved;
use metrics::Shown;
use reload::{Reloading, Watched};
use signals::DrainOnSignal;
use tls::Tls;
use workers::Roster;

/// Between two looks whether uploads have room: a client that was refused is told to come back after ten seconds.
const ROOM_PERIOD: Duration = Duration::from_secs(1);

/// Between two looks for jobs to forget.
const RETENTION_PERIOD: Duration = Duration::from_secs(60);

/// Between two looks for jobs that have waited for too long.
const DEADLINE_PERIOD: Duration = Duration::from_secs(1);

/// Between two looks for workers that are no longer listed and have nothing left to do.
const DEPARTURES_PERIOD: Duration = Duration::from_secs(1);

/// Threads that send payloads to workers and follow jobs.
const DISPATCH_THREADS: usize = 2;

/// HTTP/2 windows: the default of 64 KiB would hold a transfer to 64 KiB for each round trip.
const H2_STREAM_WINDOW_BYTES: u32 = 4 << 20;
const H2_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Streams of one HTTP/2 connection at once; past it, a stream is refused.
const H2_STREAMS_MAX: u32 = 100;

/// Streams that a client has reset before anything was done about them; past it, the connection is closed.
const H2_RESETS_PENDING_MAX: usize = 20;

/// Errors of a client for which streams of one connection are reset; past it, the connection is closed.
const H2_ERRORS_MAX: usize = 128;

/// The decoded head of a request over HTTP/2, in bytes as RFC 9113 counts them, as over HTTP/1.1.
const H2_HEAD_BYTES_MAX: u32 = 64 << 10;

/// Bytes that are held of answers that a client of HTTP/2 does not read, for one stream.
const H2_SEND_BUFFER_BYTES: usize = 256 << 10;

/// Idle connections kept to workers, for each thread of the front.
const UPSTREAM_IDLE_MAX: usize = 128;

/// Runs a pool until it is told to stop; its list of workers is read again from `workers`.
pub fn run(config: Config, workers: WorkersSource) -> ExitCode {
    telemetry::log_to_stderr(config.log);
    log::info!("limits in force:\n{config}");
    for warning in config.warnings() {
        log::warn!("{warning}");
    }
    match Assembly::new(config, workers) {
        Ok(assembly) => {
            assembly.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("trusted-pool: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that a pool is made of, before it is started.
struct Assembly {
    config: Config,
    /// Held for as long as the pool runs: one data directory is one pool.
    _lock: File,
    reserved: Vec<Reserved>,
    tls: Option<Tls>,
    gate: Arc<Gate>,
    /// Files that are read again when they change.
    watched: Vec<Watched>,
    clock: Clock,
    store: Arc<dyn Store>,
    spool: Arc<Spool>,
    outputs: Outputs,
    queue: Queue,
    pool: Pool,
    dialer: Dialer,
    upstream: Arc<dyn Upstream>,
    prober: Arc<Prober>,
    dispatcher: Arc<Dispatcher>,
    under_way: Vec<Arc<LiveJob>>,
    audit: AuditLog,
    metrics: Arc<Metrics>,
    shutdown: Arc<Shutdown>,
}

impl Assembly {
    fn new(config: Config, source: WorkersSource) -> Result<Self, String> {
        // Two TLS providers would be compiled in by features of other crates; the choice is made here, once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let lock = data::lock(&config.data)?;
        let reserved = listen::reserve_all(&config.listen)?;
        let (gate, mut watched) = guard::gate(&config)?;
        let mut tls = None;
        if let Some(config_of_tls) = &config.tls {
            let (made, certificate) = Tls::new(config_of_tls, &config.data)?;
            watched.push(certificate);
            tls = Some(made);
        }
        let clock = Clock::System;
        let store = SqliteStore::open(&config.data.join("pool.db")).map_err(|error| error.to_string())?;
        let store_metrics = store.metrics().clone();
        let store: Arc<dyn Store> = Arc::new(store);
        let spool = Spool::open(config.data.join("spool"), config.uploads.spool_bytes_max)
            .map_err(|error| format!("{}: {error}", config.data.join("spool").display()))?;
        let spool = Arc::new(spool);
        let outputs = Outputs::open(config.data.join("outputs"))
            .map_err(|error| format!("{}: {error}", config.data.join("outputs").display()))?;
        let bell = Arc::new(Notify::new());
        let queue = Queue::new(
            Arc::clone(&store),
            Some(Arc::clone(&spool)),
            clock.clone(),
            config.dispatch.defaults,
            Arc::clone(&bell),
        );
        let Recovered { under_way, drains } = recover(&*store, &queue, &spool, &outputs)?;
        let workers = config.workers.workers().to_vec();
        let pool = Pool::new(workers, drains, config.trust.require, Arc::clone(&bell));
        let timeouts =
            Timeouts { health: config.health.timeout, longest_job: config.dispatch.submit_timeout };
        let key = data::own_key(&config.data)?;
        log::info!("pool id: {}", key.public());
        let dialer = Dialer::new(OwnCertificate::new(key, clock.clone()));
        let upstream = HttpUpstream::new(Arc::clone(&spool), dialer.clone(), timeouts);
        let upstream: Arc<dyn Upstream> = Arc::new(upstream.map_err(|error| error.to_string())?);
        let audit = AuditLog::open(config.data.join(audit::FILE_NAME))?;
        let roster = Roster {
            source,
            pool: pool.clone(),
            upstream: Arc::clone(&upstream),
            clock: clock.clone(),
            audit: audit.clone(),
        };
        watched.push(roster.watch()?);
        let interval = config.health.interval;
        let prober = Prober::new(pool.clone(), Arc::clone(&upstream), clock.clone(), interval, audit.clone());
        let parts = dispatch::Parts {
            queue: queue.clone(),
            pool: pool.clone(),
            store: Arc::clone(&store),
            upstream: Arc::clone(&upstream),
            clock: clock.clone(),
            bell,
        };
        let dispatcher = Dispatcher::new(parts, dispatch_config(&config));
        let shown = Shown {
            queue: &queue,
            dispatcher: &dispatcher,
            pool: &pool,
            store: &store_metrics,
            spool: &spool,
            tls: tls.as_ref(),
            clock: &clock,
        };
        let metrics = Arc::new(shown.metrics());
        Ok(Self {
            config,
            _lock: lock,
            reserved,
            tls,
            gate,
            watched,
            clock,
            store,
            spool,
            outputs,
            queue,
            pool,
            dialer,
            upstream,
            prober: Arc::new(prober),
            dispatcher,
            under_way,
            audit,
            metrics,
            shutdown: Arc::default(),
        })
    }

    fn run(mut self) {
        let mut server = Server::new_with_opt_and_conf(None, server_conf(&self.config));
        server.bootstrap();
        let connections = Connections::new(ConnectionLimits {
            per_address: self.config.server.connections_per_address_max as usize,
            total: listen::connections_max(),
        });
        metrics::add_connections(&self.metrics, &connections);
        let watched =
            WatchedApp::new(self.front(&server), connections.clone(), self.config.server.header_timeout);
        let mut front = Service::new("front".to_owned(), watched);
        front.set_connection_filter(Arc::new(connections));
        front.threads = Some(self.config.server.threads);
        for reserved in &self.reserved {
            front.add_listener(listen::listener(reserved.address));
        }
        for (address, settings) in self.tls.iter().flat_map(Tls::listeners) {
            front.add_listener(listen::listener(address).tls(settings));
        }
        server.add_service(front);
        let plain = self.reserved.iter().map(|reserved| ("http", reserved.address));
        let with_tls = self.tls.iter().flat_map(Tls::addresses).map(|address| ("https", address));
        let addresses: Vec<_> = plain.chain(with_tls).collect();
        let under_way = std::mem::take(&mut self.under_way);
        let mut dispatching =
            background_service("dispatch", Dispatching::new(Arc::clone(&self.dispatcher), under_way));
        dispatching.threads = Some(DISPATCH_THREADS);
        server.add_service(dispatching);
        server.add_service(background_service("health", Probing(Arc::clone(&self.prober))));
        self.add_departures(&mut server);
        self.add_outputs(&mut server);
        let room = UploadRoom { store: Arc::clone(&self.store), spool: Arc::clone(&self.spool) };
        server.add_service(background_service(
            "room for uploads",
            Reconciling { reconciler: room, clock: self.clock.clone(), period: ROOM_PERIOD },
        ));
        let retention = Retention {
            store: self.store,
            queue: self.queue.clone(),
            spool: self.spool,
            outputs: self.outputs,
            keep: self.config.history.keep,
            retry_keep: self.config.history.retry_keep,
        };
        server.add_service(background_service(
            "retention",
            Reconciling { reconciler: retention, clock: self.clock.clone(), period: RETENTION_PERIOD },
        ));
        server.add_service(background_service(
            "queue deadlines",
            Reconciling {
                reconciler: QueueDeadlines(self.queue),
                clock: self.clock,
                period: DEADLINE_PERIOD,
            },
        ));
        server.add_service(background_service("announce", Announcing(addresses)));
        let hangup: Arc<Notify> = Arc::default();
        let reloading = Reloading { watched: self.watched, hangup: Arc::clone(&hangup) };
        server.add_service(background_service("reload", reloading));
        let timeout = self.config.server.shutdown_timeout;
        let (dispatcher, shutdown, audit) = (self.dispatcher, self.shutdown, self.audit);
        let signals = DrainOnSignal { dispatcher, shutdown, audit, hangup, timeout };
        server.run(RunArgs { shutdown_signal: Box::new(signals) });
    }

    /// What lets go of workers that are no longer listed.
    fn add_departures(&self, server: &mut Server) {
        let fetches = !self.config.outputs.keep.is_zero();
        let departures = Departures {
            pool: self.pool.clone(),
            upstream: Arc::clone(&self.upstream),
            outputs: fetches.then(|| Arc::clone(&self.store)),
        };
        let (clock, period) = (self.clock.clone(), DEPARTURES_PERIOD);
        let departures = Reconciling { reconciler: departures, clock, period };
        server.add_service(background_service("departures", departures));
    }

    /// What fetches outputs, and what lets go of them.
    fn add_outputs(&self, server: &mut Server) {
        let config = keep_config(&self.config);
        let (store, outputs) = (Arc::clone(&self.store), self.outputs.clone());
        let quota = Arc::new(Quota::new(Arc::clone(&store), outputs.clone(), config.total_bytes_max));
        let collector = Collector {
            store: Arc::clone(&store),
            outputs: outputs.clone(),
            quota: Arc::clone(&quota),
            pool: self.pool.clone(),
            upstream: Arc::clone(&self.upstream),
            clock: self.clock.clone(),
            config,
            worker_lost_after: self.config.dispatch.worker_lost_after,
            bell: self.queue.ended(),
        };
        server.add_service(background_service("outputs", Collecting(Arc::new(collector))));
        let reconciler = ExpireOutputs { store, outputs, quota, keep: config.keep };
        let expiry = Reconciling { reconciler, clock: self.clock.clone(), period: RETENTION_PERIOD };
        server.add_service(background_service("kept outputs", expiry));
    }

    fn front(&self, server: &Server) -> pingora_proxy::HttpProxy<Front> {
        let config = FrontConfig {
            uploads: UploadLimits {
                body_bytes_max: self.config.uploads.bytes_max,
                inspect: match self.config.uploads.inspect {
                    InspectMode::Tar => Inspect::Tar(self.config.uploads.archives),
                    InspectMode::None => Inspect::Nothing,
                },
                ..UploadLimits::default()
            },
            upload_timeout: self.config.uploads.timeout,
            upload_idle_timeout: self.config.uploads.idle_timeout,
            status_timeout: self.config.dispatch.status_timeout,
            idle_timeout: self.config.server.idle_timeout,
            log_bytes_max: log_bytes_max(&self.config),
            queued_jobs_max: self.config.dispatch.queued_jobs_max as usize,
        };
        let http = HttpMetrics::default();
        http.add_to(&self.metrics);
        let front = Front {
            gate: Arc::clone(&self.gate),
            usage: Usage::new(self.config.client_limits),
            allowed_origins: Arc::new(self.config.allowed_origins()),
            queue: self.queue.clone(),
            pool: self.pool.clone(),
            prober: Arc::clone(&self.prober),
            store: Arc::clone(&self.store),
            spool: Arc::clone(&self.spool),
            outputs: self.outputs.clone(),
            upstream: Arc::clone(&self.upstream),
            clock: self.clock.clone(),
            config,
            shutdown: Arc::clone(&self.shutdown),
            uploads: Semaphore::new(self.config.uploads.open_max as usize),
            large_answers: Semaphore::new(LARGE_ANSWERS_MAX),
            connector: Connector::new(None),
            idle: IdleConnections::default(),
            peers: Peers::new(self.dialer.clone()),
            audit: self.audit.clone(),
            metrics: Arc::clone(&self.metrics),
            http,
        };
        let mut proxy = http_proxy(&server.configuration, front);
        let mut h2 = default_h2_options();
        h2.initial_window_size(H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_pending_accept_reset_streams(H2_RESETS_PENDING_MAX)
            .max_local_error_reset_streams(Some(H2_ERRORS_MAX))
            .max_header_list_size(H2_HEAD_BYTES_MAX)
            .max_send_buffer_size(H2_SEND_BUFFER_BYTES);
        proxy.h2_options = Some(h2);
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(self.config.server.idle_timeout);
        proxy.server_options = Some(options);
        proxy
    }
}

/// What a pool finds when it starts.
struct Recovered {
    under_way: Vec<Arc<LiveJob>>,
    drains: Vec<Drain>,
}

/// Loads the unfinished jobs, and removes payloads and outputs that belong to none.
fn recover(store: &dyn Store, queue: &Queue, spool: &Spool, outputs: &Outputs) -> Result<Recovered, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let (under_way, spooled, kept, drains) = runtime
        .block_on(async {
            let kept = store.oldest_kept(usize::MAX).await?;
            Ok((queue.recover().await?, store.spooled().await?, kept, store.drains().await?))
        })
        .map_err(|error: StoreError| error.to_string())?;
    let spooled: HashSet<_> = spooled.into_iter().collect();
    let swept = spool
        .sweep(|job| spooled.contains(job))
        .map_err(|error| format!("the spool cannot be swept: {error}"))?;
    let kept: HashSet<EndedRun> = kept.into_iter().map(|kept| kept.run).collect();
    let swept_outputs = outputs
        .sweep(|run| kept.contains(run))
        .map_err(|error| format!("the kept outputs cannot be swept: {error}"))?;
    log::info!(
        "{} jobs, {} of them waiting and {} under way; spool: {swept:?}; outputs of {} jobs are kept: {swept_outputs:?}",
        queue.total_jobs(),
        queue.waiting_jobs(),
        under_way.len(),
        kept.len()
    );
    Ok(Recovered { under_way, drains })
}

fn keep_config(config: &Config) -> KeepConfig {
    let OutputsConfig { keep, job_bytes_max, total_bytes_max } = config.outputs;
    KeepConfig { keep, job_bytes_max, total_bytes_max }
}

fn dispatch_config(config: &Config) -> DispatchConfig {
    DispatchConfig {
        worker_lost_after: config.dispatch.worker_lost_after,
        log_bytes_max: log_bytes_max(config),
        longest_job: config.dispatch.submit_timeout,
        defaults: config.dispatch.defaults,
        trust_required: config.trust.require,
    }
}

fn log_bytes_max(config: &Config) -> usize {
    usize::try_from(config.history.log_bytes_max).expect("the configuration bounds it far below")
}

/// Our configuration in Pingora's terms, field by field.
fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.server.threads,
        max_retries: PROXY_TRIES,
        upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
        // What is under way has ended before Pingora is told to stop.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}
