//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod keygen;

#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keygen(keygen::Args),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Keygen(args) => keygen::run(args),
    }
}
