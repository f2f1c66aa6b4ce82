//! The keys of the configuration file, and the bounds of each.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::Problem;
use super::section::{Section, Source, Value};
use super::{Config, InspectMode, access, units, workers};
use crate::auth::limits::ClientLimits;
use crate::worker::Allowlist;

const fn millis(from: u64, to: Duration) -> RangeInclusive<Duration> {
    Duration::from_millis(from)..=to
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

// Each range is what somebody could mean; a value outside of it is a slip of the unit.
const UPLOAD_BYTES: RangeInclusive<u64> = 1 << 10..=1 << 40;
const UPLOAD_TIMEOUT: RangeInclusive<Duration> = millis(1_000, DAY);
const UPLOAD_IDLE_TIMEOUT: RangeInclusive<Duration> = millis(100, HOUR);
const SUBMIT_TIMEOUT: RangeInclusive<Duration> = millis(1_000, DAY);
// Clients wait for it.
const STATUS_TIMEOUT: RangeInclusive<Duration> = millis(100, MINUTE);
const WORKER_LOST_AFTER: RangeInclusive<Duration> = millis(1_000, Duration::from_secs(7 * 24 * 60 * 60));
const ATTEMPTS: RangeInclusive<u32> = 1..=100;
const QUEUE_TIMEOUT: RangeInclusive<Duration> = millis(1_000, Duration::from_secs(365 * 24 * 60 * 60));
// A waiting job takes about half a KiB of memory.
const QUEUED_JOBS: RangeInclusive<u32> = 1..=10_000_000;
// More than one process answers.
const REQUESTS_PER_SECOND: RangeInclusive<u32> = 1..=1_000_000;
// Each may hold 1 MiB of buffers.
const OPEN_UPLOADS: RangeInclusive<u32> = 1..=10_000;
const SPOOL_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 50;
const HISTORY_KEEP: RangeInclusive<Duration> = millis(1_000, Duration::from_secs(3650 * 24 * 60 * 60));
// A log is one value of a row, read and written whole.
const LOG_BYTES: RangeInclusive<u64> = 1 << 10..=256 << 20;
// Zero is a wish that can be meant: workers keep their outputs.
const OUTPUTS_KEEP: RangeInclusive<Duration> = millis(0, Duration::from_secs(3650 * 24 * 60 * 60));
const OUTPUTS_JOB_BYTES: RangeInclusive<u64> = 1 << 10..=1 << 40;
const OUTPUTS_TOTAL_BYTES: RangeInclusive<u64> = 1 << 10..=1 << 50;
const HEALTH_INTERVAL: RangeInclusive<Duration> = millis(100, HOUR);
const HEALTH_TIMEOUT: RangeInclusive<Duration> = millis(100, MINUTE);
const THREADS: RangeInclusive<u32> = 1..=1024;
const HEADER_TIMEOUT: RangeInclusive<Duration> = millis(500, HOUR);
// Pingora counts it in seconds.
const IDLE_TIMEOUT: RangeInclusive<Duration> = millis(1_000, HOUR);
const CONNECTIONS_PER_ADDRESS: RangeInclusive<u32> = 1..=1_000_000;
const ARCHIVE_ENTRIES: RangeInclusive<u32> = 1..=100_000_000;
const UNPACKED_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 50;
const SHUTDOWN_TIMEOUT: RangeInclusive<Duration> = millis(0, HOUR);

/// More addresses than a machine has uses for.
const ADDRESSES_MAX: usize = 64;

/// Reads the file into `config`, which holds the defaults, and the workers it lists into `listed`, unless they are known
/// from elsewhere.
pub(super) fn read(
    path: &Path,
    config: &mut Config,
    listed: &mut Option<Allowlist>,
    problems: &mut Vec<Problem>,
) {
    let text = match workers::read_text(path) {
        Ok(text) => text,
        Err(problem) => return problems.push(problem),
    };
    let file = path.display().to_string();
    let source = Source::new(&file, &text);
    let document = match source.parse() {
        Ok(Some(document)) => document,
        Ok(None) => return,
        Err(problem) => return problems.push(problem),
    };
    match Value::root(&source, &document).section() {
        Ok(mut top) => {
            read_workers(&mut top, path, listed, problems);
            access::read_listeners(&mut top, path, config);
            access::read_auth(&mut top, path, config);
            access::read_cors(&mut top, config);
            read_keys(&mut top, config);
            problems.extend(top.finish());
        }
        Err(problem) => problems.push(problem),
    }
}

fn read_keys(top: &mut Section<'_>, config: &mut Config) {
    top.read("data", &mut config.data, |text| match text {
        "" => Err("is no directory".to_owned()),
        _ => Ok(PathBuf::from(text)),
    });
    top.read("log", &mut config.log, |text| {
        text.parse().map_err(|_| "is not one of off, error, warn, info, debug, trace".to_owned())
    });

    let Config {
        listen: _,
        tls: _,
        auth: _,
        client_limits,
        allow_origins: _,
        data: _,
        workers: _,
        trust,
        uploads,
        dispatch,
        history,
        outputs,
        health,
        server,
        log: _,
    } = config;
    top.section("trust", |section| {
        section.read("require", &mut trust.require, |text| {
            text.parse().map_err(|_| "is not one of pinned, proved, claimed".to_owned())
        });
    });
    read_size(top, "max_upload", &mut uploads.bytes_max, &UPLOAD_BYTES);
    top.section("uploads", |section| {
        read_duration(section, "timeout", &mut uploads.timeout, &UPLOAD_TIMEOUT);
        read_duration(section, "idle_timeout", &mut uploads.idle_timeout, &UPLOAD_IDLE_TIMEOUT);
        section.read("inspect", &mut uploads.inspect, |text| match text {
            "tar" => Ok(InspectMode::Tar),
            "none" => Ok(InspectMode::None),
            _ => Err("is neither tar nor none".to_owned()),
        });
        let archives = &mut uploads.archives;
        section.read("max_entries", &mut archives.entries_max, |text| units::count(text, &ARCHIVE_ENTRIES));
        read_size(section, "max_unpacked", &mut archives.unpacked_bytes_max, &UNPACKED_BYTES);
    });
    top.section("client_limits", |section| {
        let ClientLimits { queued_jobs, requests_per_second, upload_bytes_per_minute } = client_limits;
        section.read("queued_jobs", queued_jobs, |text| units::count(text, &QUEUED_JOBS).map(Some));
        section.read("requests_per_second", requests_per_second, |text| {
            units::count(text, &REQUESTS_PER_SECOND).map(Some)
        });
        section.read("upload_per_minute", upload_bytes_per_minute, |text| {
            units::size(text, &UPLOAD_BYTES).map(Some)
        });
    });
    read_duration(top, "submit_timeout", &mut dispatch.submit_timeout, &SUBMIT_TIMEOUT);
    read_duration(top, "status_timeout", &mut dispatch.status_timeout, &STATUS_TIMEOUT);
    read_duration(top, "worker_lost_after", &mut dispatch.worker_lost_after, &WORKER_LOST_AFTER);
    let defaults = &mut dispatch.defaults;
    top.read("on_unknown", &mut defaults.on_unknown, |text| {
        text.parse().map_err(|_| "is neither hold nor retry".to_owned())
    });
    top.read("on_worker_lost", &mut defaults.on_worker_lost, |text| {
        text.parse().map_err(|_| "is not one of hold, retry, fail".to_owned())
    });
    top.read("max_attempts", &mut defaults.max_attempts, |text| units::count(text, &ATTEMPTS));
    top.read("queue_timeout", &mut defaults.queue_timeout, |text| {
        units::duration(text, &QUEUE_TIMEOUT).map(Some)
    });
    top.read("max_queued_jobs", &mut dispatch.queued_jobs_max, |text| units::count(text, &QUEUED_JOBS));
    top.read("max_open_uploads", &mut uploads.open_max, |text| units::count(text, &OPEN_UPLOADS));
    read_size(top, "max_spool_bytes", &mut uploads.spool_bytes_max, &SPOOL_BYTES);
    read_duration(top, "retry_keep", &mut history.retry_keep, &HISTORY_KEEP);
    top.section("history", |section| {
        read_duration(section, "keep", &mut history.keep, &HISTORY_KEEP);
        read_size(section, "max_log_bytes", &mut history.log_bytes_max, &LOG_BYTES);
    });
    top.section("outputs", |section| {
        read_duration(section, "keep", &mut outputs.keep, &OUTPUTS_KEEP);
        read_size(section, "max_job_bytes", &mut outputs.job_bytes_max, &OUTPUTS_JOB_BYTES);
        read_size(section, "max_total_bytes", &mut outputs.total_bytes_max, &OUTPUTS_TOTAL_BYTES);
    });
    top.section("health", |section| {
        read_duration(section, "interval", &mut health.interval, &HEALTH_INTERVAL);
        read_duration(section, "timeout", &mut health.timeout, &HEALTH_TIMEOUT);
    });
    top.section("server", |section| {
        section.read("threads", &mut server.threads, |text| Ok(units::count(text, &THREADS)? as usize));
        read_duration(section, "header_timeout", &mut server.header_timeout, &HEADER_TIMEOUT);
        section.read("idle_timeout", &mut server.idle_timeout, |text| {
            let idle = units::duration(text, &IDLE_TIMEOUT)?;
            if idle.subsec_nanos() == 0 { Ok(idle) } else { Err("is no whole number of seconds".to_owned()) }
        });
        section.read("max_connections_per_address", &mut server.connections_per_address_max, |text| {
            units::count(text, &CONNECTIONS_PER_ADDRESS)
        });
        read_duration(section, "shutdown_timeout", &mut server.shutdown_timeout, &SHUTDOWN_TIMEOUT);
    });
}

fn read_duration(
    section: &mut Section<'_>,
    key: &'static str,
    into: &mut Duration,
    range: &RangeInclusive<Duration>,
) {
    section.read(key, into, |text| units::duration(text, range));
}

fn read_size(section: &mut Section<'_>, key: &'static str, into: &mut u64, range: &RangeInclusive<u64>) {
    section.read(key, into, |text| units::size(text, range));
}

/// One address, or a list of them.
pub(super) fn read_addresses(value: &Value<'_>) -> Result<Vec<SocketAddr>, Problem> {
    let address = |text: &str| {
        text.parse().map_err(|_| {
            "is not an address and a port; write for example 127.0.0.1:9000 or [::]:9000".to_owned()
        })
    };
    let Some(items) = value.items() else { return Ok(vec![value.read(address)?]) };
    if items.is_empty() || items.len() > ADDRESSES_MAX {
        return Err(
            value.problem(format!("names {} addresses: from 1 to {ADDRESSES_MAX} are possible", items.len()))
        );
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for item in &items {
        let address = item.read(address)?;
        // Port 0 is a new port each time.
        if address.port() != 0 && addresses.contains(&address) {
            return Err(item.problem(format!("\"{address}\" occurs twice")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// The file of workers that the file names; `None` when it has the list itself, or none that can be read.
pub(super) fn workers_file(path: &Path) -> Option<PathBuf> {
    let text = workers::read_text(path).ok()?;
    let file = path.display().to_string();
    let source = Source::new(&file, &text);
    let document = source.parse().ok()??;
    let value = Value::root(&source, &document).section().ok()?.take("workers")?;
    named_file(&value, path).ok()
}

fn named_file(value: &Value<'_>, file: &Path) -> Result<PathBuf, Problem> {
    value.read(|text| match text {
        "" => Err("names no file".to_owned()),
        _ => Ok(file.parent().unwrap_or(Path::new("")).join(text)),
    })
}

/// The list itself, or the path of the file that has it, relative to this one.
fn read_workers(
    top: &mut Section<'_>,
    file: &Path,
    listed: &mut Option<Allowlist>,
    problems: &mut Vec<Problem>,
) {
    let Some(value) = top.take("workers") else { return };
    if listed.is_some() {
        return;
    }
    let read = if value.items().is_some() {
        workers::from_value(&value)
    } else {
        named_file(&value, file).map_err(|problem| vec![problem]).and_then(|path| workers::from_file(&path))
    };
    *listed = Some(read.unwrap_or_else(|found| {
        problems.extend(found);
        Allowlist::default()
    }));
}
