//! The pool's HTTP API: which request means what, and what the answers look like. Pure.

pub mod bodies;
pub mod head;
pub mod listing;
pub mod live_log;
pub mod openapi;
pub mod origins;
pub mod problem;
pub mod range;
pub mod route;

pub use problem::{Problem, ProblemCode};
pub use route::{OutputPath, Route};
