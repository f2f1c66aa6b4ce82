//! The pool beside nginx and HAProxy, on loopback, in one run: `make bench`.
//!
//! Machines are noisy, so nothing here is asserted: the servers take turns, each case is repeated, and what counts is the ratio of medians.
//!
//! ```text
//! cargo bench --bench peers -- [--only TEXT] [--repeat N] [--seconds N] [--json FILE]
//! ```

mod cases;
mod client;
mod dispatch;
mod guard;
mod jobs;
mod load;
mod process;
mod report;
mod site;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Only cases that have this in their name
    #[arg(long, default_value = "")]
    only: String,
    /// How often each case is measured at each server
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where every repetition is written for programs to read
    #[arg(long, default_value = "target/bench-peers.json")]
    json: PathBuf,
    /// Dispatches jobs, and runs them on real workers
    #[arg(long)]
    jobs: bool,
    /// Counts instructions, and holds them to those of this file
    #[arg(long, value_name = "FILE")]
    guard: Option<PathBuf>,
    /// Writes that file
    #[arg(long, requires = "guard")]
    write: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    rustls::crypto::ring::default_provider().install_default().expect("nobody else has chosen one");
    let site = site::Site::new();
    if let Some(baseline) = &args.guard {
        return if guard::run(&site, baseline, args.write) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if args.jobs {
        dispatch::measure(&site);
        jobs::measure(&site);
        return ExitCode::SUCCESS;
    }
    let plan = cases::Plan {
        site: &site,
        only: &args.only,
        repeat: args.repeat.max(1),
        time: Duration::from_secs(args.seconds.max(1)),
    };
    let rows = plan.run();
    report::print(&rows);
    let json = serde_json::to_string_pretty(&report::to_json(&rows)).expect("numbers are JSON");
    if let Err(error) = std::fs::write(&args.json, json) {
        eprintln!("{}: {error}", args.json.display());
        return ExitCode::FAILURE;
    }
    println!("\neach repetition: {}", args.json.display());
    ExitCode::SUCCESS
}
