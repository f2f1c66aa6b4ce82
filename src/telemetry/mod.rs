//! What the pool tells its operator while it runs.

pub mod audit;
pub mod metrics;

use log::{Level, LevelFilter, Log, Metadata, Record};

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
    let inner = builder.build();
    let loudest = inner.filter();
    // A second logger in one process is a test's, and not ours to replace.
    if log::set_boxed_logger(Box::new(Sober { inner })).is_ok() {
        log::set_max_level(loudest);
    }
}

/// The log without the errors that any passer-by can cause.
struct Sober {
    inner: env_logger::Logger,
}

/// Where Pingora calls it an error that a client did not come through a handshake, as nobody does who only knocks.
const HANDSHAKES: &str = "pingora_core::services::listening";

impl Log for Sober {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let failed_handshake =
            record.target() == HANDSHAKES && record.args().to_string().starts_with("Downstream handshake");
        if failed_handshake {
            let quiet = Record::builder()
                .metadata(Metadata::builder().target(HANDSHAKES).level(Level::Debug).build())
                .args(*record.args())
                .build();
            self.inner.log(&quiet);
        } else {
            self.inner.log(record);
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}
