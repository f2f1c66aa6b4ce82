//! What the pool tells its operator while it runs.

use log::LevelFilter;

/// Crates that speak of every connection at levels at which the pool speaks of jobs.
const TALKATIVE: [&str; 6] =
    ["pingora", "pingora_core", "pingora_proxy", "pingora_load_balancing", "h2", "hyper"];

/// Sends the log to standard error, one line an event.
///
/// The environment variable `RUST_LOG` wins over `level`, in the syntax of the `env_logger` crate.
pub fn log_to_stderr(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).format_timestamp_millis();
    for name in TALKATIVE {
        builder.filter_module(name, level.min(LevelFilter::Warn));
    }
    if let Ok(directives) = std::env::var("RUST_LOG") {
        builder.parse_filters(&directives);
    }
    // A second logger in one process is a test's, and not ours to replace.
    let _ = builder.try_init();
}
