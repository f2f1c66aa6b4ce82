//! What the pool counts and measures, for Prometheus.
//!
//! Whoever counts owns its counters and hands them to the one [`Metrics`] of its pool, so that two pools in a process never mix. What
//! the pool holds anyway is never counted a second time: it is read when somebody asks, by a [`Live`] family.
//!
//! A counter for each value of a label is found once, when it is made: on the way of a request there is no label to be hashed.

mod counters;
mod live;
mod process;
mod text;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};

pub use counters::Counters;
pub use live::Live;
pub use text::{Family, Kind};

/// What [`Metrics::text`] is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The families of one pool.
#[derive(Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Those of the process and of the program's version.
    pub fn of_this_process() -> Self {
        let metrics = Self::default();
        process::add_to(&metrics);
        let about = "The program that runs: always 1, with its version as a label.";
        let options = Opts::new("trusted_pool_build_info", about);
        let version = IntGauge::with_opts(options.const_label("version", env!("CARGO_PKG_VERSION")));
        let version = version.expect("name and help are sound");
        version.set(1);
        metrics.add(version);
        metrics
    }

    /// Shows a family from now on.
    pub fn add(&self, family: impl Collector + 'static) {
        self.registry
            .register(Box::new(family))
            .expect("each family has a name of its own and is added once");
    }

    /// Shows what the pool holds anyway: what `read` gives is read whenever somebody asks; nothing is shown for `None`.
    pub fn read(&self, family: Family, read: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        self.add(Live::new(family, read));
    }

    /// All families, with their values of now.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("the families are sound")
    }
}

/// A counter without labels.
pub fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("the name and the help are sound")
}

/// A histogram without labels; `buckets` are upper bounds, in seconds.
pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    Histogram::with_opts(options).expect("the name, the help and the buckets are sound")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: Family = Family { name: "jobs", help: "Jobs.", kind: Kind::Gauge };

    #[test]
    fn what_was_never_counted_is_zero_and_what_is_not_known_is_absent() {
        let metrics = Metrics::default();
        let ends = Counters::new("ends_total", "Ends.", "outcome", ["good", "bad"]);
        metrics.add(ends.family());
        metrics.read(JOBS, || None);
        ends.at(1).inc();
        let text = "# HELP ends_total Ends.\n# TYPE ends_total counter\n\
                    ends_total{outcome=\"bad\"} 1\nends_total{outcome=\"good\"} 0\n";
        assert_eq!(metrics.text(), text);
    }

    #[test]
    fn live_values_are_those_of_now() {
        let metrics = Metrics::default();
        let ticks = std::sync::atomic::AtomicU32::new(0);
        metrics.add(Live::labelled(JOBS, "state", &["first", "second"], move || {
            let tick = ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            vec![f64::from(tick), 0.5]
        }));
        metrics.text();
        let text =
            "# HELP jobs Jobs.\n# TYPE jobs gauge\njobs{state=\"first\"} 1\njobs{state=\"second\"} 0.5\n";
        assert_eq!(metrics.text(), text);
    }

    #[test]
    fn a_process_knows_itself() {
        let text = Metrics::of_this_process().text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
        };
        let mebibyte = 1048576.0;
        assert!(value("process_resident_memory_bytes") > mebibyte);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") < 3600.0);
        let now = crate::time::Clock::System.now().as_unix_seconds();
        let age = now - value("process_start_time_seconds");
        assert!((-1.0..3600.0).contains(&age), "{age}");
    }
}
