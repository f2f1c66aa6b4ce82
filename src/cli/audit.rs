//! `audit`: looks after the audit log of a pool, on the pool's machine.

use std::path::PathBuf;
use std::process::ExitCode;

use super::exit::Failure;
use super::print;
use crate::config::Config;
use crate::telemetry::audit::FILE_NAME;
use crate::telemetry::audit::chain::{self, Broken, Sound};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Walk the chain of the log's lines, and say where it breaks
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The pool's data directory [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Verify(args) => verify(args),
    }
}

fn verify(args: VerifyArgs) -> Result<ExitCode, Failure> {
    let path = args.data.unwrap_or_else(|| Config::default().data).join(FILE_NAME);
    match chain::verify(&path) {
        Ok(Sound { lines, last }) => {
            print::line(&format!("ok: {lines} lines; the last one's SHA-256 is {last}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(Broken::Line { number, why }) => {
            print::line(&format!("broken at line {number}: {why}"))?;
            Ok(ExitCode::FAILURE)
        }
        Err(Broken::Io(error)) => Err(Failure::Setup(format!("{}: {error}", path.display()))),
    }
}
