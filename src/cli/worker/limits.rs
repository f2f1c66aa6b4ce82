//! The options that say what a job may use.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{parse_size, parse_time};
use crate::runner::limits::{Grant, Limits, NetworkPolicy};

/// What each job may use
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits of each job")]
pub(super) struct LimitArgs {
    /// How long a job may run whose manifest does not say
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = parse_time)]
    default_timeout: Duration,
    /// Memory [default: the machine's, shared by --capacity]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Processes and threads
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(PIDS_MIN..))]
    pids: u32,
    /// CPU time of all its processes together [default: as much as fits into its timeout]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    cpu_time: Option<Duration>,
    /// Disk space for its files, what was uploaded, /tmp and /dev/shm
    #[arg(long, value_name = "SIZE", default_value = "16GiB", value_parser = parse_size)]
    disk: u64,
    /// Any one file [default: as --disk]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    file_size: Option<u64>,
    /// Files that one process has open
    #[arg(long, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(OPEN_FILES_MIN..))]
    open_files: u32,
    /// What it writes to stdout and stderr, of which 10 MiB each are kept
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    output: u64,
    /// Let jobs use the machine's network whose manifest asks for it
    #[arg(long)]
    allow_network: bool,
}

/// The sandbox itself takes two, and an interpreter that can do anything a few more.
const PIDS_MIN: i64 = 8;

/// With less, interpreters do not start.
const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// With fewer, interpreters do not start.
const OPEN_FILES_MIN: i64 = 16;

impl LimitArgs {
    /// What jobs are granted by a worker that runs so many at once.
    pub(super) fn grant(self, capacity: NonZeroU32) -> io::Result<Grant> {
        let Self {
            default_timeout,
            memory,
            pids,
            cpu_time,
            disk,
            file_size,
            open_files,
            output,
            allow_network,
        } = self;
        let memory_bytes = match memory {
            Some(bytes) => bytes,
            None => machine_memory()? / u64::from(capacity.get()),
        };
        if memory_bytes < MEMORY_BYTES_MIN {
            let sentence =
                format!("--memory is {memory_bytes} bytes; it must be at least {MEMORY_BYTES_MIN}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        Ok(Grant {
            limits: Limits {
                memory_bytes,
                pids,
                cpu: cpu_time,
                disk_bytes: disk,
                file_bytes: file_size.unwrap_or(disk),
                open_files,
                output_bytes: output,
            },
            default_timeout,
            network: if allow_network { NetworkPolicy::OnRequest } else { NetworkPolicy::Refuse },
        })
    }
}

/// The machine's memory in bytes.
fn machine_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = value.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo does not tell the memory"))
}
