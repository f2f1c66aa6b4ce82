//! The pool seen from outside: the real binary, driven over loopback, with stand-ins for its workers.
//!
//! Nothing here imports the crate: what these tests hold is what a client, a worker and an operator can see.
//! `wire` is the client, `standin` the worker (with every fault of the deployed one), `worker` the package's own, `fault` a
//! proxy that breaks connections, `tls` one that encrypts them, `harness` the coordinator under test, `bodies` what clients send
//! to it, `exposition` reads what Prometheus would; the other modules are one subject each.

// Clippy knows a test by its attribute; what serves the tests is here not known as such.
#![allow(clippy::unwrap_used)]

mod bodies;
mod exposition;
mod fault;
mod harness;
mod standin;
mod tls;
mod wire;
mod worker;

mod answers;
mod api;
mod archives;
mod audit;
mod auth;
mod chaos;
mod cli;
mod config;
mod dispatch;
mod figures;
mod follow;
mod framing;
mod front;
mod health;
mod hostile;
mod hostile_http2;
mod kept;
mod live_log;
mod metrics;
mod openapi;
mod outputs;
mod policies;
mod readme;
mod receipts;
mod reload;
mod resilience;
mod restart;
mod sick;
mod submit;
mod survival;
mod systemd;
mod tidy;
mod trust;
mod unknown;
mod walls;
