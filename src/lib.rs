//! Coordinator for a private pool of trusted, sandboxed workers.
//!
//! The modules, in the order in which a job meets them:
//!
//! - [`proxy`]: every client's request enters here; uploads are taken in, reads pass through to the worker that has the job.
//! - [`auth`]: who makes a request, and what they may do.
//! - [`api`]: which request means what, and what the answers look like.
//! - [`spool`]: an upload becomes durable work while it streams.
//! - [`queue`]: every unfinished job, in order; the only writer of job state.
//! - [`store`]: what the pool remembers across a crash.
//! - [`job`]: what a job is, and the one function that moves it.
//! - [`dispatch`]: gives waiting jobs to free workers and follows each to its end.
//! - [`outputs`]: fetches what a job made before its worker forgets it, and keeps it for a while.
//! - [`pool`]: the workers, how they fare, and how much each has to do.
//! - [`worker`]: who a worker is.
//! - [`upstream`]: how the pool speaks to a worker.
//! - [`retention`]: forgets jobs that ended long ago.
//! - [`runner`]: the worker's side: it takes jobs and runs each in a sandbox.
//! - [`server`]: puts the parts together, starts and stops them.
//! - [`config`], [`cli`], [`client`]: what the operator decided, the command line, and a client of the pool's own API.
//! - [`keyfile`], [`telemetry`]: a secret key in a file; the log.
//! - [`time`], [`activity`], [`reconcile`]: points in time, counts of what is under way, and what is done again and again.
#![forbid(unsafe_code)]

pub mod activity;
pub mod api;
pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod dispatch;
pub mod job;
pub mod keyfile;
pub mod outputs;
pub mod pool;
pub mod proxy;
pub mod queue;
pub mod reconcile;
pub mod retention;
pub mod runner;
pub mod server;
#[cfg(test)]
mod simulation;
pub mod spool;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod upstream;
pub mod worker;
