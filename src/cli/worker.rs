//! `trusted-pool worker`: runs jobs on this machine.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::keyfile;
use crate::runner::enforcement::Enforcement;
use crate::runner::environment::Environments;
use crate::runner::interpreter::Interpreter;
use crate::runner::sandbox::Sandbox;
use crate::runner::server::{Stop, serve};
use crate::runner::tls::Access;
use crate::runner::worker::{Settings, Worker};
use crate::time::Clock;
use crate::worker::certificate::OwnCertificate;
use crate::worker::identity::PoolKey;
use limits::LimitArgs;

mod limits;

/// The first file after standard input, output and error.
const FIRST_FD: i32 = 3;

/// Run jobs on this machine for a pool
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker's secret key, made by keygen
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Encrypt connections to the worker's key; its endpoint in the pool's list begins with https:// then
    #[arg(long)]
    tls: bool,
    /// Accept connections only from the pool with this id, which it prints when it starts; may be given more than once
    #[arg(long, value_name = "ID")]
    pool_key: Vec<PoolKey>,
    /// Jobs that run at once [default: number of CPUs]
    #[arg(long, value_name = "N")]
    capacity: Option<NonZeroU32>,
    /// Directory for jobs and their results
    #[arg(long, value_name = "DIR", default_value = "./worker-data")]
    data: PathBuf,
    /// What is around each job
    #[arg(long, value_enum, default_value_t = Walls::Bubblewrap)]
    sandbox: Walls,
    /// Directory of prepared environments, a Python venv for example: each is a directory that a manifest may name
    #[arg(long, value_name = "DIR")]
    environments: Option<PathBuf>,
    /// What the worker says of itself at /health; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// How long a finished job's results are kept
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    keep: Duration,
    /// How long running jobs may go on when the worker is told to stop (SIGTERM), which takes no new ones then
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    drain: Duration,
    /// Largest submission taken
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    max_upload: u64,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Walls {
    /// Namespaces of its own, no network, the system read-only
    Bubblewrap,
    /// Nothing but the worker's own user: for jobs that are trusted
    None,
}

/// Runs the worker until a signal stops it.
pub fn run(args: Args) -> ExitCode {
    // Whoever embeds this may have set up logging already.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).try_init();
    match run_worker(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_worker(args: Args) -> Result<(), Box<dyn Error>> {
    // Whoever has started this worker may have left files open in it, which are no job's business.
    close_fds::set_fds_cloexec(FIRST_FD, &[]);
    let identity = OwnCertificate::new(keyfile::read(&args.key)?, Clock::System);
    let worker_id = identity.public();
    let access = args.access()?;
    let Args { listen, data, keep, drain, max_upload, .. } = args;
    let capacity = match args.capacity {
        Some(capacity) => capacity,
        None => NonZeroU32::try_from(std::thread::available_parallelism()?).unwrap_or(NonZeroU32::MIN),
    };
    let grant = args.limits.grant(capacity)?;
    let enforcement = Enforcement::find(&grant.limits);
    let sandbox = match args.sandbox {
        Walls::Bubblewrap => Sandbox::bubblewrap(&grant.limits, &enforcement)
            .map_err(|error| format!("{error}; to run jobs without a sandbox, say --sandbox none"))?,
        Walls::None => {
            log::warn!("jobs run without a sandbox: each can read and do whatever this user can");
            Sandbox::None
        }
    };
    let environments = match &args.environments {
        Some(dir) => {
            Environments::open(dir).map_err(|error| format!("--environments {}: {error}", dir.display()))?
        }
        None => Environments::default(),
    };
    if args.key.canonicalize().is_ok_and(|key| sandbox.shows(&key) || environments.show(&key)) {
        return Err(format!("--key {}: every job can read that file", args.key.display()).into());
    }
    log::info!(
        "capacity {capacity}, sandbox {}, data {}, results kept {keep:?}, uploads up to {max_upload} bytes",
        sandbox.name(),
        data.display(),
    );
    log::info!("{grant:?}, held by {}", enforcement.name());
    let named = data.display().to_string();
    let interpreters = Interpreter::installed();
    let labels = args.labels.into_iter().collect();
    let settings = Settings {
        identity,
        capacity,
        data,
        sandbox,
        enforcement,
        grant,
        interpreters,
        environments,
        labels,
        keep,
        drain,
        max_upload,
    };
    let worker = Worker::open(settings).map_err(|error| format!("--data {named}: {error}"))?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(listen).await.map_err(|error| format!("--listen {listen}: {error}"))?;
        let address = listener.local_addr()?;
        let (stop, scheme) = (stop_signals()?, access.scheme());
        log::info!("listening on {scheme}://{address} as worker {worker_id}");
        // Nobody may be reading stdout, which is no reason to stop.
        let _ = writeln!(io::stdout(), "listening on {scheme}://{address}\nWorker ID: {worker_id}");
        serve(worker, listener, access, stop).await?;
        log::info!("stopped");
        Ok(())
    })
}

impl Args {
    /// Who may speak to the worker, and how.
    fn access(&self) -> Result<Access, &'static str> {
        match (self.tls, self.pool_key.as_slice()) {
            (false, []) => Ok(Access::Plain),
            (false, _) => Err("--pool-key needs --tls: in the clear, nobody can be told from the pool"),
            (true, []) => Ok(Access::Tls),
            (true, pools) => Ok(Access::Pools(pools.to_vec())),
        }
    }
}

/// Turns SIGTERM and SIGINT into what the server is told.
fn stop_signals() -> io::Result<mpsc::Receiver<Stop>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The first word and one that hurries it up; more say nothing new.
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                _ = terminate.recv() => Stop::Drain,
                _ = interrupt.recv() => Stop::Now,
            };
            let _ = sender.try_send(stop);
        }
    });
    Ok(receiver)
}

/// Reads a label: its key and its value.
fn parse_label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a label is written like gpu=a100"),
    }
}

/// Reads a time: a whole number and its unit.
fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    scaled(text, &units)
        .map(Duration::from_millis)
        .ok_or_else(|| "a time is written like 500ms, 30s, 5m, 1h, 7d".into())
}

/// Reads a size: a whole number and its unit.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];
    scaled(text, &units).ok_or_else(|| "a size is written like 4096B, 512KiB, 100MiB, 1GiB".into())
}

/// A positive number times the unit that it ends with.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|char: char| !char.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor).filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_need_a_unit_they_know() {
        assert_eq!(parse_time("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("7B"), Ok(7));
        for text in
            ["", "5", "h", "0s", "-1s", "1.5h", "1 h", "1y", "99999999999999999999d", "9999999999999999999d"]
        {
            assert!(parse_time(text).is_err(), "{text:?}");
        }
        assert!(parse_size("1GB").is_err());
    }
}
