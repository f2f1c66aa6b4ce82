//! The command line: one file per family of commands.

mod audit;
mod cancel;
mod demo;
mod download;
mod drain;
mod exit;
mod follow;
mod jobs;
mod keygen;
mod live_log;
mod logs;
mod outputs;
mod pack;
mod pool;
mod print;
mod progress;
mod serve;
mod status;
mod submit;
mod token;
mod verify;
mod worker;
mod workers;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Failure;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; a job that failed is not a command that failed
  1  the pool refused, or answered with an error, or a file could not be written
  2  the command line, the configuration or the set-up is wrong
  3  the pool cannot be reached
  4  waiting took too long

Data goes to standard output, everything else to standard error.";

/// Runs jobs on a pool of trusted workers
#[derive(Parser)]
#[command(name = "trusted-pool", version, after_help = EXIT_CODES, infer_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the pool
    Serve(crate::config::ServeArgs),
    Worker(worker::Args),
    Keygen(keygen::Args),
    /// Run a whole pool on this machine, with an example job
    Demo(demo::Args),
    /// Send a job to the pool
    Submit(submit::Args),
    /// Show how a job is doing
    Status(pool::JobArgs),
    /// Show what a job has printed
    Logs(logs::Args),
    /// List the files that a job has put out
    Outputs(pool::JobArgs),
    /// Fetch the files that a job has put out
    Download(download::Args),
    /// Cancel a job
    Cancel(pool::JobArgs),
    /// Run a job again that failed or was cancelled
    Retry(pool::JobArgs),
    /// Give a worker no more jobs
    Drain(drain::Args),
    /// Give a drained worker jobs again
    Resume(drain::ResumeArgs),
    /// List jobs, the newest first
    Jobs(jobs::Args),
    /// List the pool's workers
    Workers(workers::Args),
    Verify(verify::Args),
    /// Look after the record of who has asked for what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Let clients in, and out
    #[command(subcommand)]
    Token(token::Command),
}

/// Runs the command that the arguments name; the first argument is the program's own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // It prints help and version on standard output, and errors on standard error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match cli.command {
        Command::Serve(args) => return serve::run(&args),
        Command::Worker(args) => return worker::run(args),
        Command::Keygen(args) => return keygen::run(args),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Submit(args) => block_on(submit::run(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Logs(args) => block_on(logs::run(args)),
        Command::Outputs(args) => block_on(outputs::run(args)),
        Command::Download(args) => block_on(download::run(args)),
        Command::Cancel(args) => block_on(cancel::cancel(args)),
        Command::Retry(args) => block_on(cancel::retry(args)),
        Command::Drain(args) => block_on(drain::drain(args)),
        Command::Resume(args) => block_on(drain::resume(args)),
        Command::Jobs(args) => block_on(jobs::run(args)),
        Command::Workers(args) => block_on(workers::run(args)),
        Command::Verify(args) => verify::run(&args),
        Command::Audit(command) => audit::run(command),
        Command::Token(command) => token::run(command),
    };
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// A command does one thing after the other: a single thread is enough for it.
fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Setup(format!("cannot start: {error}")))?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
