//! The front: every request of a client enters here.
//!
//! ```text
//! early_request_filter   limits on the connection
//! request_filter         route; who asks, and whether they may; what the pool answers itself is answered here, uploads are taken in here,
//!                        and files are passed on from here
//! upstream_peer          where a request that passes through goes
//! connected_to_upstream  that it is the worker who is there
//! upstream_request_filter   the head that the worker gets, rebuilt
//! upstream_response_filter  what of the worker's head the client gets
//! upstream_response_body_filter   the pool's envelope around a worker's status
//! response_filter        how the client learns where the body ends
//! fail_to_proxy          what the client gets when the worker gave nothing
//! logging                what is counted when it is over
//! ```

mod actions;
mod archive;
mod auth;
mod cors;
mod file;
mod follow;
mod health;
mod idle;
mod jobs;
mod kept;
mod metrics;
mod openapi;
mod outputs;
mod passage;
mod receipt;
mod relay;
mod respond;
mod results;
mod scrape;
mod submit;
mod subprotocols;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::sync::Semaphore;

use crate::activity::{Counted, CountedGuard};
use crate::api::origins::AllowedOrigins;
use crate::api::{Problem, ProblemCode, Route, head};
use crate::auth::Gate;
use crate::auth::limits::Usage;
use crate::outputs::Outputs;
use crate::pool::Pool;
use crate::pool::prober::Prober;
use crate::queue::Queue;
use crate::spool::{Spool, UploadLimits};
use crate::store::Store;
use crate::telemetry::audit::AuditLog;
use crate::telemetry::metrics::Metrics;
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::upstream::peer::Peers;
use cors::CorsBuilder;
pub use idle::IdleConnections;
pub use metrics::HttpMetrics;
use metrics::{Exchange, RouteName};
use passage::Passage;

/// A client that reads nothing for this long has gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Tries of one request to a worker: a connection that was kept may be dead.
pub const PROXY_TRIES: usize = 3;

/// How long an answer waits for the rest of a request's body before the connection is closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers of up to 20 MiB that are held whole in memory at once.
pub const LARGE_ANSWERS_MAX: usize = 3;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    pub uploads: UploadLimits,
    /// For one whole upload.
    pub upload_timeout: Duration,
    /// Between two pieces of an upload.
    pub upload_idle_timeout: Duration,
    /// How long a client waits for a worker's word on a running job before it is told what the pool knows.
    pub status_timeout: Duration,
    /// How long a connection is kept that has no request; Pingora itself would keep it for ever.
    pub idle_timeout: Duration,
    /// Bytes shown of each log stream.
    pub log_bytes_max: usize,
    /// Waiting jobs past which no more are taken in.
    pub queued_jobs_max: usize,
}

/// The parts that the front works with.
pub struct Front {
    pub gate: Arc<Gate>,
    pub usage: Usage,
    /// Whose pages may read the answers.
    pub allowed_origins: Arc<AllowedOrigins>,
    pub queue: Queue,
    pub pool: Pool,
    pub prober: Arc<Prober>,
    pub store: Arc<dyn Store>,
    pub spool: Arc<Spool>,
    pub outputs: Outputs,
    pub upstream: Arc<dyn Upstream>,
    pub clock: Clock,
    pub config: FrontConfig,
    pub shutdown: Arc<Shutdown>,
    /// One permit for each upload under way.
    pub uploads: Semaphore,
    /// One permit for each answer that may be long and is held whole in memory: about a running job, or looked into for a name.
    pub large_answers: Semaphore,
    /// Makes the connections that archives are fetched over; it lives as long as the front's runtime.
    pub connector: Connector,
    pub idle: IdleConnections,
    pub peers: Peers,
    pub audit: AuditLog,
    /// What `/metrics` shows; `http` is among it.
    pub metrics: Arc<Metrics>,
    pub http: HttpMetrics,
}

/// What the front lets go on when the pool is told to stop.
#[derive(Debug, Default)]
pub struct Shutdown {
    stopping: AtomicBool,
    /// Uploads, downloads and answers under way; not the streams of running jobs, which have no end of their own.
    pub under_way: Counted,
}

impl Shutdown {
    /// No more jobs are taken from now on, and connections end with their current request.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// What one request carries through the phases.
#[derive(Default)]
pub struct Ctx {
    passage: Option<Passage>,
    /// What to say instead of the upstream's answer.
    problem: Option<Problem>,
    under_way: Option<CountedGuard>,
    /// Measures the request until it is dropped.
    exchange: Option<Exchange>,
}

#[async_trait]
impl ProxyHttp for Front {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(CorsBuilder(Arc::clone(&self.allowed_origins))));
    }

    async fn early_request_filter(&self, session: &mut Session, _ctx: &mut Ctx) -> Result<()> {
        if session.get_keepalive().is_some() {
            let idle = self.config.idle_timeout.as_secs();
            session.set_keepalive(if self.shutdown.is_stopping() { None } else { Some(idle) });
        }
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if let Err(problem) = unambiguous(session) {
            ctx.exchange = Some(self.http.begin(RouteName::None));
            // Where the next request would begin is anybody's guess.
            session.set_keepalive(None);
            return respond::problem(session, &problem).await.map(|()| true);
        }
        let head = session.req_header();
        let route = Route::of(&head.method, head.uri.path());
        let follows = matches!(route, Route::Logs(_)) && follow::is_wanted(session);
        let name = if follows { RouteName::Follow } else { RouteName::of(&route) };
        ctx.exchange = Some(self.http.begin(name));
        if !route.may_have_body() && !session.as_mut().is_body_empty() {
            let problem =
                Problem::new(ProblemCode::BadRequest, "this request takes no body").in_field("body");
            return respond::problem(session, &problem).await.map(|()| true);
        }
        ctx.under_way = (!matches!(route, Route::Stream(_))).then(|| self.shutdown.under_way.enter());
        let caller = match self.admit(&session.req_header().headers, &route).await {
            Ok(caller) => caller,
            Err(barred) => return self.bar(session, &barred).await.map(|()| true),
        };
        // Boxed, all but what is asked most: each request would move the longest of these about.
        let answered = match route {
            Route::Refused(refused) => respond::refused(session, &refused).await,
            Route::Preflight => respond::preflight(session).await,
            Route::Submit => Box::pin(self.submit(session, &caller)).await,
            Route::Status(job) => return self.status(session, ctx, &job).await,
            Route::Logs(job) if follows => {
                return Box::pin(self.follow(session, ctx, &job)).await;
            }
            Route::Logs(job) => Box::pin(self.logs(session, &job)).await,
            Route::Receipt(job) => Box::pin(self.receipt(session, &job)).await,
            Route::Listing(job) => Box::pin(self.listing(session, &job)).await,
            Route::Output(job, path) => self.output(session, &job, path).await,
            Route::Archive(job) => Box::pin(self.archive(session, &job)).await,
            Route::Stream(job) => return Box::pin(self.stream(session, ctx, &job)).await,
            Route::Cancel(job) => Box::pin(self.cancel(session, &caller, &job)).await,
            Route::Retry(job) => Box::pin(self.retry(session, &caller, &job)).await,
            Route::Drain(worker) => Box::pin(self.drain(session, &caller, worker)).await,
            Route::Resume(worker) => Box::pin(self.resume(session, &caller, worker)).await,
            Route::Jobs => Box::pin(self.jobs(session, &caller)).await,
            Route::Pool => self.pool_view(session).await,
            Route::Health => self.health(session).await,
            Route::Ready => self.ready(session).await,
            Route::Metrics => Box::pin(self.scrape(session)).await,
            Route::OpenApi => openapi::describe(session).await,
            Route::Root => self.root(session).await,
        };
        answered.map(|()| true)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        ctx.passage.as_ref().ok_or_else(no_passage)?.peer(&self.peers).map_err(pingora::Error::into_up)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let contact = ctx.passage.as_ref().ok_or_else(no_passage)?.contact();
        self.confirm(contact, peer, digest).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        *head = ctx.passage.as_ref().ok_or_else(no_passage)?.request_head(session.req_header())?;
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        match ctx.passage.as_ref().ok_or_else(no_passage)?.admit(head)? {
            Ok(()) => Ok(()),
            Err(problem) => {
                ctx.problem = Some(problem);
                Err(Error::explain(
                    ErrorType::Custom("not passed on"),
                    "the worker's answer is not passed on",
                )
                .into_up())
            }
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        _ctx: &mut Ctx,
    ) -> Result<()> {
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            respond::without_length(session, head)?;
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        if let Some(passage) = &mut ctx.passage {
            passage.wrap(body, end_of_stream)?;
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let gone = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if *error.esource() == ErrorSource::Downstream {
            return gone;
        }
        if session.response_written().is_some() {
            // Of a status only the head is on its way, and that is the same whoever tells the rest.
            if let Some(Passage::Status(status)) = &mut ctx.passage {
                status.turn.take();
                let known = self.known_status(&status.job);
                let _ = session.write_response_body(Some(Bytes::from(known)), true).await;
            }
            return gone;
        }
        if let Some(passage) = &ctx.passage
            && *error.esource() == ErrorSource::Upstream
            && ctx.problem.is_none()
        {
            passage.report_failure(&self.pool, error);
        }
        let answered = match (&ctx.passage, ctx.problem.take()) {
            (Some(Passage::Status(status)), _) => {
                let known = self.known_status(&status.job);
                respond::text(session, http::StatusCode::OK, known).await.map(|()| 200)
            }
            (_, Some(problem)) => answer(session, &problem).await,
            (Some(_), None) if *error.esource() == ErrorSource::Upstream => {
                answer(session, &passage::problem_of(error)).await
            }
            (_, None) => {
                log::error!("a request failed: {error}");
                answer(session, &Problem::new(ProblemCode::Internal, "the pool could not handle the request"))
                    .await
            }
        };
        match answered {
            Ok(status) => FailToProxy { error_code: status, can_reuse_downstream: true },
            Err(_) => gone,
        }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Ctx) {
        if let Some(exchange) = ctx.exchange.take() {
            let status = session.response_written().map(|head| head.status);
            exchange.end(status, session.body_bytes_read(), session.body_bytes_sent());
        }
    }

    /// What went wrong with a worker is said where it is known, once.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }
}

/// Whether the head of a request means one thing alone, and is not too long.
fn unambiguous(session: &Session) -> std::result::Result<(), Problem> {
    if let Some(connection) = session.as_ref().as_http1() {
        head::check_framing(&connection.get_headers_raw_bytes())?;
    }
    let head = session.req_header();
    head::check_size(&head.uri, &head.headers)
}

async fn answer(session: &mut Session, problem: &Problem) -> Result<u16> {
    respond::problem(session, problem).await?;
    Ok(problem.code.status().as_u16())
}

fn no_passage() -> pingora::BError {
    Error::explain(ErrorType::InternalError, "only a request with a passage goes to a worker")
}
