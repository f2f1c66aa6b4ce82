//! The worker's side: takes jobs over HTTP, runs each in a sandbox, and serves what it made.
//!
//! In the order a job meets them:
//! - [`server`] listens, in the clear or with [`tls`], and stops in good order; `http` has one file per kind of request;
//! - [`registry`] admits a job if it can run at once, and knows all jobs;
//! - [`upload`] writes the request's files to the job's directory ([`jobdir`], in [`datadir`]) as they arrive;
//! - [`order`] unpacks them ([`unpack`]) and decides with the [`manifest`] what is run, by which [`interpreter`] in which [`environment`];
//! - [`execute`] runs it: a [`process`] in a [`sandbox`] with a [`seccomp`] filter, its output kept as [`logs`];
//! - [`enforcement`], by [`cgroup`] or resource limits, and [`disk`] hold it to its [`limits`], and [`usage`] is measured;
//! - [`record`] keeps what outlives the process;
//! - [`job`] is what is then known, and [`follow`] tells it as it comes; [`outputs`] lists its files and [`workdir`] opens them safely.

pub mod cgroup;
pub mod datadir;
pub mod disk;
pub mod enforcement;
pub mod environment;
pub mod execute;
pub mod follow;
mod http;
pub mod interpreter;
pub mod job;
pub mod jobdir;
pub mod limits;
pub mod logs;
pub mod manifest;
pub mod order;
pub mod outputs;
pub mod path;
pub mod process;
pub mod record;
pub mod refusal;
pub mod registry;
pub mod sandbox;
pub mod seccomp;
pub mod server;
pub mod tls;
pub mod unpack;
pub mod upload;
pub mod usage;
pub mod workdir;
pub mod worker;

#[cfg(test)]
mod tests;
