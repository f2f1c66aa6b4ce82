//! `serve`: runs the pool.

use std::io::Write;
use std::process::ExitCode;

use super::exit::SETUP;
use crate::config::{Config, ServeArgs, WorkersSource};

/// Runs the pool to its end, or says everything that is wrong with its configuration.
pub(super) fn run(args: &ServeArgs) -> ExitCode {
    match Config::load(args) {
        Ok(config) if args.check => {
            if let Err(error) = crate::server::tls::check(&config) {
                eprintln!("{error}");
                return ExitCode::from(SETUP);
            }
            // A reader that has seen enough is no error.
            let _ = writeln!(std::io::stdout(), "configuration is valid\n{config}");
            for warning in config.warnings() {
                eprintln!("warning: {warning}");
            }
            ExitCode::SUCCESS
        }
        Ok(config) => crate::server::run(config, WorkersSource::of(args)),
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(SETUP)
        }
    }
}
