//! Coordinator for a private pool of trusted, sandboxed workers.
#![forbid(unsafe_code)]

pub mod job;
pub mod spool;
pub mod store;
pub mod time;
pub mod worker;
