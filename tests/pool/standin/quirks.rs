//! What the stand-in does as the deployed worker does it, each fault by itself.

use std::time::Duration;

/// The tick of the job loop in tests that do not care: short, so that a job costs milliseconds.
pub const TICK: Duration = Duration::from_millis(20);

/// One field per surprise of the deployed worker; `real()` has them all, `tame()` none.
#[derive(Clone, Debug)]
pub struct Quirks {
    /// Closes after one response, without saying so.
    pub closes_unannounced: bool,
    /// Finds request and part headers by their Title-Case spelling alone. A body whose length it does not find is
    /// what came with the first read.
    pub case_sensitive_headers: bool,
    /// Reads a chunked body as if it were plain bytes.
    pub chunked_not_understood: bool,
    /// Drops the connection on a header without a value (it reads the value two bytes past the colon).
    pub crashes_on_empty_header: bool,
    /// Answers 413 to more, and closes while the client may still be sending.
    pub body_bytes_max: Option<u64>,
    /// Any method but GET and POST is a 404, HEAD too.
    pub get_and_post_only: bool,
    pub listen_backlog: u32,
    /// Reads the manifest by searching for `"key"` in its text, without unescaping.
    pub substring_json: bool,
    /// Status, logs, outputs and submit wait for the running job; jobs run one after another.
    pub one_lock: bool,
    /// How long the job loop sleeps between two looks at its queue (with `one_lock`).
    pub tick: Duration,
    /// A job that is not running is forgotten so long after its submit; one still queued then takes the process down.
    pub forget_after: Option<Duration>,
    pub limiter: Option<Limiter>,
    /// Takes the path as raw bytes, its query included; otherwise it is percent-decoded and the query dropped.
    pub raw_paths: bool,
    /// A missing file is a 500 with a C++ exception's text; otherwise a 404.
    pub missing_file_is_500: bool,
    pub files_under: FilesUnder,
    /// `GET /download/{id}` deletes the job.
    pub archive_deletes_job: bool,
    /// The status text of any code but 200, 400, 404 and 500 is `Unknown`.
    pub unknown_status_text: bool,
    /// No `ETag`, no `Range`, no conditional requests.
    pub no_ranges: bool,
    pub protocol: Protocol,
    pub identity: Identity,
}

/// The path of a worker's single files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesUnder {
    /// `/download/{id}/{path}`, the deployed worker's.
    Download,
    /// `/outputs/{id}/{path}`, which the deployed worker does not have.
    Outputs,
}

/// The version of the protocol, as `/health` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The deployed worker's, which it does not name.
    First,
    /// With parallel jobs, long polls (`/status/{id}?wait=s`), idempotency keys (`/jobs?key=k`) and `/cancel/{id}`.
    Second { capacity: usize },
}

/// The per-client limiter: to the worker the whole pool is one client.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    pub at_once: usize,
    pub per_hour: usize,
}

/// What `/health` gives as `worker_id`.
#[derive(Clone, Debug)]
pub enum Identity {
    Own,
    Null,
    Other(String),
}

impl Quirks {
    /// The deployed worker, to the number.
    pub fn real() -> Self {
        Self {
            closes_unannounced: true,
            case_sensitive_headers: true,
            chunked_not_understood: true,
            crashes_on_empty_header: true,
            body_bytes_max: Some(100 * 1024 * 1024),
            get_and_post_only: true,
            listen_backlog: 10,
            substring_json: true,
            one_lock: true,
            tick: Duration::from_secs(1),
            forget_after: Some(Duration::from_secs(6 * 60)),
            limiter: Some(Limiter { at_once: 2, per_hour: 20 }),
            raw_paths: true,
            missing_file_is_500: true,
            files_under: FilesUnder::Download,
            archive_deletes_job: true,
            unknown_status_text: true,
            no_ranges: true,
            protocol: Protocol::First,
            identity: Identity::Own,
        }
    }

    /// The deployed worker, with a tick and an hourly limit that suit a test.
    pub fn brisk() -> Self {
        Self { tick: TICK, limiter: None, ..Self::real() }
    }

    /// A tame worker that speaks the second version of the protocol.
    pub fn second() -> Self {
        Self { protocol: Protocol::Second { capacity: 8 }, ..Self::tame() }
    }

    /// A worker as one would wish it: polite on the wire, jobs in parallel, answers at any time.
    pub fn tame() -> Self {
        Self {
            closes_unannounced: false,
            case_sensitive_headers: false,
            chunked_not_understood: false,
            crashes_on_empty_header: false,
            body_bytes_max: None,
            get_and_post_only: false,
            listen_backlog: 1024,
            substring_json: false,
            one_lock: false,
            tick: TICK,
            forget_after: None,
            limiter: None,
            raw_paths: false,
            missing_file_is_500: false,
            files_under: FilesUnder::Download,
            archive_deletes_job: false,
            unknown_status_text: false,
            no_ranges: false,
            protocol: Protocol::First,
            identity: Identity::Own,
        }
    }
}
