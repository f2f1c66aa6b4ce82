//! From method and path to what is asked. Total: every request has a [`Route`].

use http::Method;

use super::problem::{Problem, ProblemCode};
use crate::job::JobId;
use crate::worker::WorkerKey;

/// Longest path of an output, in bytes after decoding: what Linux takes.
const OUTPUT_PATH_BYTES_MAX: usize = 4096;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Root,
    Submit,
    Status(JobId),
    /// The listing of a job's outputs.
    Listing(JobId),
    Output(JobId, OutputPath),
    /// All outputs of a job as one archive.
    Archive(JobId),
    Logs(JobId),
    /// What the worker has signed of a job's run.
    Receipt(JobId),
    Stream(JobId),
    Cancel(JobId),
    Retry(JobId),
    Drain(WorkerKey),
    Resume(WorkerKey),
    Jobs,
    Pool,
    Health,
    Ready,
    /// What the pool counts, for Prometheus.
    Metrics,
    /// The description of this API.
    OpenApi,
    /// A browser asks whether a page of another origin may make a request.
    Preflight,
    /// Nothing of the above, and what to say.
    Refused(Refused),
}

impl Route {
    /// Whether a body makes sense, be it one that nobody reads.
    pub fn may_have_body(&self) -> bool {
        match self {
            Self::Submit | Self::Cancel(_) | Self::Retry(_) | Self::Drain(_) | Self::Resume(_) => true,
            Self::Preflight | Self::Refused(_) => true,
            Self::Root | Self::Status(_) | Self::Listing(_) | Self::Output(..) | Self::Archive(_) => false,
            Self::Receipt(_) | Self::Metrics | Self::OpenApi => false,
            Self::Logs(_) | Self::Stream(_) | Self::Jobs | Self::Pool | Self::Health | Self::Ready => false,
        }
    }
}

/// A request that has no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub problem: Problem,
    /// The methods that the path knows, for `Allow`.
    pub allow: Option<&'static str>,
}

/// The path of an output below its job's directory: bytes, because the worker's names are.
///
/// Relative, with no empty, `.` or `..` segment and no control characters.
#[derive(Clone, PartialEq, Eq)]
pub struct OutputPath(Vec<u8>);

impl OutputPath {
    /// From a percent-encoded path without its leading slash.
    fn decode(encoded: &str) -> Result<Self, Problem> {
        let refuse = |message: &str| Err(Problem::new(ProblemCode::BadRequest, message).in_field("path"));
        let Some(bytes) = percent_decoded(encoded) else {
            return refuse("the output path holds a `%` that is not followed by two hexadecimal digits");
        };
        Self::from_bytes(bytes)
    }

    /// From the bytes of a path that may not be one.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Problem> {
        let refuse = |message: &str| Err(Problem::new(ProblemCode::BadRequest, message).in_field("path"));
        if bytes.len() > OUTPUT_PATH_BYTES_MAX {
            return refuse("the output path is longer than 4096 bytes");
        }
        if bytes.iter().any(u8::is_ascii_control) {
            return refuse("the output path holds a control character");
        }
        if bytes.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"" | b"." | b"..")) {
            return refuse("the output path holds an empty segment, `.` or `..`");
        }
        Ok(Self(bytes))
    }

    /// The bytes as the worker's file system has them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last segment.
    pub fn base_name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or(&self.0)
    }

    /// Percent-encoded, for a request target; slashes stay.
    pub fn encoded(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for byte in &self.0 {
            match byte {
                b'/' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(*byte)),
                byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
                byte => text.push_str(&format!("%{byte:02X}")),
            }
        }
        text
    }
}

impl std::fmt::Debug for OutputPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            let digits = std::str::from_utf8(digits).expect("hexadecimal digits are ASCII");
            bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

/// What the paths of a resource allow.
#[derive(Clone, Copy)]
enum Allows {
    Get,
    Post,
}

impl Allows {
    fn methods(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD, OPTIONS",
            Self::Post => "POST, OPTIONS",
        }
    }

    fn permits(self, method: &Method) -> bool {
        match self {
            Self::Get => matches!(*method, Method::GET | Method::HEAD),
            Self::Post => *method == Method::POST,
        }
    }
}

impl Route {
    /// The route of a request; `path` is as it came, percent-encoded and without its query.
    pub fn of(method: &Method, path: &str) -> Self {
        if *method == Method::OPTIONS {
            return Self::Preflight;
        }
        let (allows, route) = match Self::resource(path) {
            Ok(resource) => resource,
            Err(problem) => return Self::Refused(Refused { problem, allow: None }),
        };
        if allows.permits(method) {
            return route;
        }
        let allow = allows.methods();
        let message = format!("{path} does not take {method}; it takes {allow}");
        let problem = Problem::new(ProblemCode::MethodNotAllowed, message);
        Self::Refused(Refused { problem, allow: Some(allow) })
    }

    fn resource(path: &str) -> Result<(Allows, Self), Problem> {
        let not_found = || Problem::new(ProblemCode::NotFound, "there is nothing at this path; see GET /");
        let rest = path.strip_prefix('/').ok_or_else(not_found)?;
        let (first, rest) = match rest.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (rest, None),
        };
        let route = match (first, rest) {
            ("", None) => Self::Root,
            ("submit", None) => return Ok((Allows::Post, Self::Submit)),
            ("jobs", None) => Self::Jobs,
            ("pool", None) => Self::Pool,
            ("health", None) => Self::Health,
            ("ready", None) => Self::Ready,
            ("metrics", None) => Self::Metrics,
            ("openapi.json", None) => Self::OpenApi,
            ("cancel", Some(job)) => return Ok((Allows::Post, Self::Cancel(job_id(job)?))),
            ("retry", Some(job)) => return Ok((Allows::Post, Self::Retry(job_id(job)?))),
            ("workers", Some(rest)) => match rest.split_once('/') {
                Some((worker, "drain")) => return Ok((Allows::Post, Self::Drain(worker_key(worker)?))),
                Some((worker, "resume")) => return Ok((Allows::Post, Self::Resume(worker_key(worker)?))),
                Some(_) | None => return Err(not_found()),
            },
            ("status", Some(job)) => Self::Status(job_id(job)?),
            ("logs", Some(job)) => Self::Logs(job_id(job)?),
            ("receipt", Some(job)) => Self::Receipt(job_id(job)?),
            ("stream", Some(job)) => Self::Stream(job_id(job)?),
            ("outputs", Some(rest)) => match rest.split_once('/') {
                None => Self::Listing(job_id(rest)?),
                Some((job, "")) => Self::Listing(job_id(job)?),
                Some((job, path)) => Self::Output(job_id(job)?, OutputPath::decode(path)?),
            },
            ("download", Some(rest)) => match rest.split_once('/') {
                None => Self::Archive(job_id(rest)?),
                Some((job, path)) => Self::Output(job_id(job)?, OutputPath::decode(path)?),
            },
            _ => return Err(not_found()),
        };
        Ok((Allows::Get, route))
    }
}

/// What is no job id is no job.
fn job_id(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|_| Problem::job_not_found())
}

/// A worker's key in a path is base64url, with or without its padding; what is none names no worker.
fn worker_key(text: &str) -> Result<WorkerKey, Problem> {
    let decoded = percent_decoded(text).and_then(|bytes| String::from_utf8(bytes).ok());
    let key = decoded.and_then(|text| WorkerKey::parse_any(&text).ok());
    key.ok_or_else(Problem::worker_not_found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JOB: &str = "pool-0123456789abcdef01234567";

    fn get(path: &str) -> Route {
        Route::of(&Method::GET, path)
    }

    fn refusal(route: Route) -> ProblemCode {
        match route {
            Route::Refused(refused) => refused.problem.code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_call_of_the_api_has_its_route() {
        let job: JobId = JOB.parse().unwrap();
        let output = |path: &str| Route::Output(job.clone(), OutputPath(path.as_bytes().to_vec()));
        assert_eq!(get("/"), Route::Root);
        assert_eq!(Route::of(&Method::POST, "/submit"), Route::Submit);
        assert_eq!(get(&format!("/status/{JOB}")), Route::Status(job.clone()));
        assert_eq!(get(&format!("/outputs/{JOB}")), Route::Listing(job.clone()));
        assert_eq!(get(&format!("/outputs/{JOB}/results/a.txt")), output("results/a.txt"));
        assert_eq!(get(&format!("/download/{JOB}/a%20b%25%3F%23.txt")), output("a b%?#.txt"));
        assert_eq!(Route::of(&Method::HEAD, "/metrics"), Route::Metrics);
        assert_eq!(Route::of(&Method::HEAD, &format!("/download/{JOB}")), Route::Archive(job.clone()));
        assert_eq!(get(&format!("/logs/{JOB}")), Route::Logs(job.clone()));
        assert_eq!(get(&format!("/receipt/{JOB}")), Route::Receipt(job.clone()));
        assert_eq!(get(&format!("/stream/{JOB}")), Route::Stream(job.clone()));
        assert_eq!(Route::of(&Method::POST, &format!("/cancel/{JOB}")), Route::Cancel(job.clone()));
        assert_eq!(Route::of(&Method::POST, &format!("/retry/{JOB}")), Route::Retry(job));
        let key = WorkerKey::for_tests(1);
        let path = format!("/workers/{}/drain", key.to_url_safe());
        assert_eq!(Route::of(&Method::POST, &path), Route::Drain(key));
        assert_eq!(Route::of(&Method::OPTIONS, "/submit"), Route::Preflight);
    }

    #[test]
    fn what_is_no_call_says_why() {
        assert_eq!(refusal(get("/nothing")), ProblemCode::NotFound);
        assert_eq!(refusal(get("/status/job_1_1")), ProblemCode::JobNotFound);
        assert_eq!(refusal(get("/submit")), ProblemCode::MethodNotAllowed);
        assert_eq!(refusal(Route::of(&Method::DELETE, "/pool")), ProblemCode::MethodNotAllowed);
        for path in
            ["..", "a/../b", "a//b", "%2e%2e/x", "a/%2E%2e", "a%00b", "a%0d%0ab", "a%zz", "a%2", "./a", "a/."]
        {
            assert_eq!(refusal(get(&format!("/outputs/{JOB}/{path}"))), ProblemCode::BadRequest, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_that_is_encoded_decodes_to_itself(bytes in proptest::collection::vec(0x20_u8..=0xff, 1..40)) {
            if let Ok(path) = OutputPath::from_bytes(bytes) {
                prop_assert_eq!(OutputPath::decode(&path.encoded()).unwrap(), path);
            }
        }

        #[test]
        fn no_request_panics(path in ".{0,60}") {
            get(&path);
            get(&format!("/outputs/{JOB}/{path}"));
        }
    }
}
