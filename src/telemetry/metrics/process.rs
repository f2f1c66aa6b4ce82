//! What the system knows of the process, by the names that Prometheus' own clients give it.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::{Family, Kind, Metrics};

/// Adds the families of the process; where `/proc` cannot be read they are absent.
pub fn add_to(metrics: &Metrics) {
    let gauge = |name, help, read: fn() -> Option<f64>| {
        metrics.read(Family { name, help, kind: Kind::Gauge }, read);
    };
    let cpu = Family {
        name: "process_cpu_seconds_total",
        help: "Total user and system CPU time spent in seconds.",
        kind: Kind::Counter,
    };
    metrics.read(cpu, || Some((Stat::UTIME.read()? + Stat::STIME.read()?) / ticks_per_second()));
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", || {
        Some(Stat::RSS.read()? * rustix::param::page_size() as f64)
    });
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", || Stat::VSIZE.read());
    gauge("process_open_fds", "Number of open file descriptors.", || {
        // The descriptor that reads the directory is one of them, and not ours.
        Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
    });
    gauge("process_max_fds", "Maximum number of open file descriptors.", || {
        Some(getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64))
            .filter(|limit| limit.is_finite())
    });
    let start = "Start time of the process since unix epoch in seconds.";
    gauge("process_start_time_seconds", start, || {
        Some(booted_at()? + Stat::STARTTIME.read()? / ticks_per_second())
    });
}

/// A field of `/proc/self/stat`, by its number in proc(5).
struct Stat(usize);

impl Stat {
    const UTIME: Self = Self(14);
    const STIME: Self = Self(15);
    const STARTTIME: Self = Self(22);
    const VSIZE: Self = Self(23);
    const RSS: Self = Self(24);

    fn read(&self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name, and may hold anything.
        let (_, after_name) = stat.rsplit_once(") ")?;
        after_name.split(' ').nth(self.0 - 3)?.parse().ok()
    }
}

/// Unix seconds.
fn booted_at() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}
