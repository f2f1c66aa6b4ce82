//! What clients ask for and how they are served, counted by route.
//!
//! A request is measured by a guard: one that is cut off, by its client or by the pool, counts like any other.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use crate::activity::{Counted, CountedGuard};
use crate::api::Route;
use crate::telemetry::metrics::{Counters, Family, Kind, Live, Metrics};

/// Upper bounds in seconds: from an answer out of memory to a long download or upload.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0, 300.0];

/// Classes of status codes; the first is of requests that got no answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

const DENIED: [&str; 3] = ["unauthorized", "forbidden", "rate_limited"];

/// What a request is counted as: a route without what it is about, so that there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteName {
    Root,
    Submit,
    Status,
    Listing,
    Output,
    Archive,
    Logs,
    /// A log while it is written.
    Follow,
    Receipt,
    Stream,
    Cancel,
    Retry,
    Drain,
    Resume,
    Jobs,
    Pool,
    Health,
    Ready,
    Metrics,
    OpenApi,
    Preflight,
    /// It has no route, or could not be read as a request.
    None,
}

const ROUTES: usize = 22;

/// By their numbers.
const NAMES: [&str; ROUTES] = [
    "root",
    "submit",
    "status",
    "outputs",
    "output",
    "archive",
    "logs",
    "follow",
    "receipt",
    "stream",
    "cancel",
    "retry",
    "drain",
    "resume",
    "jobs",
    "pool",
    "health",
    "ready",
    "metrics",
    "openapi",
    "preflight",
    "none",
];

impl RouteName {
    pub(super) fn of(route: &Route) -> Self {
        match route {
            Route::Root => Self::Root,
            Route::Submit => Self::Submit,
            Route::Status(_) => Self::Status,
            Route::Listing(_) => Self::Listing,
            Route::Output(..) => Self::Output,
            Route::Archive(_) => Self::Archive,
            Route::Logs(_) => Self::Logs,
            Route::Receipt(_) => Self::Receipt,
            Route::Stream(_) => Self::Stream,
            Route::Cancel(_) => Self::Cancel,
            Route::Retry(_) => Self::Retry,
            Route::Drain(_) => Self::Drain,
            Route::Resume(_) => Self::Resume,
            Route::Jobs => Self::Jobs,
            Route::Pool => Self::Pool,
            Route::Health => Self::Health,
            Route::Ready => Self::Ready,
            Route::Metrics => Self::Metrics,
            Route::OpenApi => Self::OpenApi,
            Route::Preflight => Self::Preflight,
            Route::Refused(_) => Self::None,
        }
    }
}

/// What the front counts; clones share it.
#[derive(Clone)]
pub struct HttpMetrics {
    shared: Arc<Shared>,
}

struct Shared {
    routes: [Counts; ROUTES],
    denied: Counters<{ DENIED.len() }>,
    requests: IntCounterVec,
    durations: HistogramVec,
    received: IntCounterVec,
    sent: IntCounterVec,
}

/// The counters of one route.
struct Counts {
    in_flight: Counted,
    requests: [IntCounter; CLASSES.len()],
    duration: Histogram,
    received: IntCounter,
    sent: IntCounter,
}

/// A request that is being served; dropped, it has ended.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    route: RouteName,
    begun: Instant,
    status: Option<StatusCode>,
    _in_flight: CountedGuard,
}

// === impl HttpMetrics ===

impl Default for HttpMetrics {
    fn default() -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("name and help are sound")
        };
        let requests = counters(
            "trusted_pool_http_requests_total",
            "Requests that were served to their end, by route and class of status; none: cut off without an answer.",
            &["route", "status"],
        );
        let received = counters(
            "trusted_pool_http_received_bytes_total",
            "Bytes of request bodies that were read, by route.",
            &["route"],
        );
        let sent = counters(
            "trusted_pool_http_sent_bytes_total",
            "Bytes of response bodies that were sent, by route.",
            &["route"],
        );
        let durations = HistogramOpts::new(
            "trusted_pool_http_request_duration_seconds",
            "Seconds from the head of a request to the end of its answer, by route.",
        );
        let durations = HistogramVec::new(durations.buckets(DURATION_BUCKETS.to_vec()), &["route"])
            .expect("name, help and buckets are sound");
        let routes = NAMES.map(|route| Counts {
            in_flight: Counted::default(),
            requests: CLASSES.map(|class| requests.with_label_values(&[route, class])),
            duration: durations.with_label_values(&[route]),
            received: received.with_label_values(&[route]),
            sent: sent.with_label_values(&[route]),
        });
        let denied = Counters::new(
            "trusted_pool_http_denied_total",
            "Requests that were answered 401, 403 or 429.",
            "reason",
            DENIED,
        );
        Self { shared: Arc::new(Shared { routes, denied, requests, durations, received, sent }) }
    }
}

impl HttpMetrics {
    pub fn add_to(&self, metrics: &Metrics) {
        let Shared { denied, requests, durations, received, sent, .. } = &*self.shared;
        metrics.add(denied.family());
        metrics.add(requests.clone());
        metrics.add(durations.clone());
        metrics.add(received.clone());
        metrics.add(sent.clone());
        let family = Family {
            name: "trusted_pool_http_requests_in_flight",
            help: "Requests that are being served now, by route; the scrape that asks is one.",
            kind: Kind::Gauge,
        };
        let shared = Arc::clone(&self.shared);
        metrics.add(Live::labelled(family, "route", &NAMES, move || {
            shared.routes.iter().map(|counts| counts.in_flight.now() as f64).collect()
        }));
    }

    /// Measures a request from now on.
    pub(super) fn begin(&self, route: RouteName) -> Exchange {
        let in_flight = self.shared.routes[route as usize].in_flight.enter();
        let shared = Arc::clone(&self.shared);
        Exchange { shared, route, begun: Instant::now(), status: None, _in_flight: in_flight }
    }
}

// === impl Exchange ===

impl Exchange {
    /// The request has ended, with so many bytes read of its body and sent of the answer's.
    pub(super) fn end(mut self, status: Option<StatusCode>, received: usize, sent: usize) {
        self.status = status;
        let counts = &self.shared.routes[self.route as usize];
        counts.received.inc_by(received as u64);
        counts.sent.inc_by(sent as u64);
        let denied = match status {
            Some(StatusCode::UNAUTHORIZED) => 0,
            Some(StatusCode::FORBIDDEN) => 1,
            Some(StatusCode::TOO_MANY_REQUESTS) => 2,
            Some(_) | None => return,
        };
        self.shared.denied.at(denied).inc();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let counts = &self.shared.routes[self.route as usize];
        let class = self.status.map_or(0, |status| usize::from(status.as_u16() / 100));
        // What no class is of is no answer.
        counts.requests.get(class).unwrap_or(&counts.requests[0]).inc();
        counts.duration.observe(self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, series: &str) -> f64 {
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series}")).parse().unwrap()
    }

    #[test]
    fn each_route_has_its_name() {
        assert_eq!(NAMES[RouteName::None as usize], "none");
        for (route, name) in [(Route::Pool, "pool"), (Route::Metrics, "metrics"), (Route::Jobs, "jobs")] {
            assert_eq!(NAMES[RouteName::of(&route) as usize], name);
        }
        assert_eq!(
            (NAMES[RouteName::Follow as usize], NAMES[RouteName::Resume as usize]),
            ("follow", "resume")
        );
    }

    #[test]
    fn a_request_counts_once_however_it_ends() {
        let (http, metrics) = (HttpMetrics::default(), Metrics::default());
        http.add_to(&metrics);
        let (answered, cut_off) = (http.begin(RouteName::Submit), http.begin(RouteName::Submit));
        let in_flight = "trusted_pool_http_requests_in_flight{route=\"submit\"}";
        assert_eq!(value(&metrics, in_flight), 2.0);
        answered.end(Some(StatusCode::TOO_MANY_REQUESTS), 7, 11);
        drop(cut_off);
        assert_eq!(value(&metrics, in_flight), 0.0);
        let requests =
            |class| format!("trusted_pool_http_requests_total{{route=\"submit\",status=\"{class}\"}}");
        assert_eq!([value(&metrics, &requests("4xx")), value(&metrics, &requests("none"))], [1.0, 1.0]);
        assert_eq!(value(&metrics, "trusted_pool_http_denied_total{reason=\"rate_limited\"}"), 1.0);
        assert_eq!(value(&metrics, "trusted_pool_http_received_bytes_total{route=\"submit\"}"), 7.0);
        assert_eq!(value(&metrics, "trusted_pool_http_sent_bytes_total{route=\"submit\"}"), 11.0);
        let durations = "trusted_pool_http_request_duration_seconds_count{route=\"submit\"}";
        assert_eq!(value(&metrics, durations), 2.0);
    }
}
