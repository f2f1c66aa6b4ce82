//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod keygen;
pub mod worker;

#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keygen(keygen::Args),
    Worker(worker::Args),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Keygen(args) => keygen::run(args),
        Command::Worker(args) => worker::run(args),
    }
}
