//! Coordinator for a private pool of trusted, sandboxed workers.

use std::process::ExitCode;

fn main() -> ExitCode {
    trusted_pool::cli::run()
}
