//! Coordinator for a private pool of trusted, sandboxed workers.
#![forbid(unsafe_code)]

pub mod cli;
pub mod runner;
pub mod worker;
