//! The words of the sandrun protocol: what a worker's answers mean. Pure.
//!
//! Source: the sandrun worker 0.1 as observed on the wire.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::evidence::Inquiry;
use super::{CheckFailure, HealthReport, RemoteStatus, SendOutcome, Stage};
use crate::api::OutputPath;
use crate::job::Verdict;
use crate::worker::Dialect;

/// A worker's own words are shown to clients up to this length; an error is a sentence, not a page.
const WORDS_MAX: usize = 1000;

/// A worker that asks for a longer pause than this is asked again all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
struct HealthBody {
    status: Option<String>,
    worker_id: Option<String>,
    protocol: Option<u32>,
    capacity: Option<u32>,
    proof: Option<String>,
}

/// Reads the answer of `/health` to an inquiry.
pub fn health(body: &[u8], inquiry: Inquiry) -> Result<HealthReport, CheckFailure> {
    let body: HealthBody = serde_json::from_slice(body)
        .map_err(|error| format!("its /health is no JSON object of the protocol: {error}"))?;
    match body.status.as_deref() {
        Some("healthy") => {}
        Some(other) => return Err(format!("it says that it is {:?}", words(other)).into()),
        None => return Err("its /health has no `status`".to_owned().into()),
    }
    let dialect = match body.protocol {
        None | Some(0 | 1) => Dialect::Sandrun,
        Some(_) => Dialect::V2,
    };
    Ok(HealthReport {
        evidence: inquiry.evidence(body.proof.as_deref()).map_err(CheckFailure::NotTheWorker)?,
        worker_id: body.worker_id,
        dialect,
        capacity: body.capacity.filter(|capacity| *capacity > 0),
        address: None,
    })
}

/// The file that an answer is about, where it is another one than was asked for: a sandrun worker cuts a request target at a
/// space, and may have a file of the shorter name. `disposition` is the answer's `Content-Disposition`.
pub fn another_file(disposition: &[u8], path: &OutputPath) -> Option<String> {
    if !path.as_bytes().contains(&b' ') {
        return None;
    }
    const NAME: &[u8] = b"filename=\"";
    let start = disposition.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let name = disposition[start..].strip_suffix(b"\"")?;
    (name != path.base_name()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// What an answer to `/submit` means.
pub fn submit(status: u16, retry_after: Option<&str>, body: &[u8]) -> SendOutcome {
    #[derive(Deserialize)]
    struct Accepted {
        job_id: String,
    }
    match status {
        200..=299 => match serde_json::from_slice::<Accepted>(body) {
            Ok(Accepted { job_id }) if is_remote_id(&job_id) => SendOutcome::Accepted { remote: job_id },
            Ok(_) | Err(_) => SendOutcome::Unknown {
                reason: format!("it answered {status} without a usable job_id: {}", error_words(body)),
            },
        },
        429 | 503 => {
            let message = error_words(body);
            let retry_after = retry_after
                .and_then(|seconds| seconds.trim().parse().ok())
                .or_else(|| seconds_in(&message))
                .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
            SendOutcome::Throttled { message, retry_after }
        }
        // 409: our worker is still receiving the same attempt, sent before; it will tell what became of it.
        409 | 500..=599 => {
            SendOutcome::Unknown { reason: format!("it answered {status}: {}", error_words(body)) }
        }
        // The server there is no worker: the job was not taken, and no other would be.
        300..=399 | 404 | 405 => SendOutcome::Unreachable {
            reason: format!("it does not take jobs: {status} {}", error_words(body)),
        },
        // Whatever the code: it will not take this job, and may well take the next.
        400..=499 => SendOutcome::Refused { message: error_words(body) },
        _ => SendOutcome::Unknown { reason: format!("it answered {status}, which means nothing here") },
    }
}

/// Reads a `200` of `/status/{id}`.
pub fn status(body: &[u8]) -> Result<RemoteStatus, String> {
    #[derive(Deserialize)]
    struct Body {
        status: String,
        reason: Option<String>,
        execution_metadata: Option<Metadata>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        exit_code: Option<i64>,
    }
    let json: Arc<str> = std::str::from_utf8(body).map_err(|_| "its status is not UTF-8".to_owned())?.into();
    let body: Body =
        serde_json::from_str(&json).map_err(|error| format!("its status is not of the protocol: {error}"))?;
    if !json.trim_ascii_start().starts_with('{') {
        return Err("its status is no JSON object".to_owned());
    }
    let stage = match body.status.as_str() {
        "queued" | "running" => Stage::Active,
        "completed" => Stage::Ended(Verdict::Completed),
        "failed" if matches!(body.reason.as_deref(), Some("worker_lost" | "worker_stopped")) => Stage::Lost,
        "failed" => Stage::Ended(Verdict::Failed {
            exit_code: body.execution_metadata.and_then(|data| data.exit_code),
        }),
        other => return Err(format!("its status is an unknown word: {:?}", words(other))),
    };
    Ok(RemoteStatus { stage, json })
}

/// A worker's name for a job goes into request paths: letters, digits, `_`, `-`, `.`, and not too long.
pub fn is_remote_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !id.bytes().all(|b| b == b'.')
}

/// The sentence in an error answer: `{"error": "..."}`, else the text itself.
pub fn error_words(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        error: String,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(body) => words(&body.error),
        Err(_) => words(&String::from_utf8_lossy(body)),
    }
}

/// A stranger's text on one line, cut to what fits in a sentence.
fn words(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// The number in "wait 42 seconds".
fn seconds_in(message: &str) -> Option<u64> {
    let mut rest = message.split_whitespace();
    while let Some(word) = rest.next() {
        if word.eq_ignore_ascii_case("wait") {
            return rest.next()?.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::evidence::Evidence;
    use crate::worker::WorkerKey;
    use crate::worker::identity::{PoolKey, SecretKey};
    use crate::worker::proof::{Challenge, Proof};

    #[test]
    fn each_answer_to_a_submit_has_its_meaning() {
        let accepted = SendOutcome::Accepted { remote: "job_1795478492_1".into() };
        assert_eq!(submit(200, None, br#"{"job_id":"job_1795478492_1","status":"queued"}"#), accepted);
        for lost in [&b"OK"[..], b"{}", br#"{"job_id":""}"#, br#"{"job_id":"../x"}"#, br#"{"job_id":7}"#, b""]
        {
            assert!(matches!(submit(200, None, lost), SendOutcome::Unknown { .. }), "{lost:?}");
        }
        for code in [400, 401, 403, 410, 413, 422] {
            let refused = SendOutcome::Refused { message: "No files uploaded".into() };
            assert_eq!(submit(code, None, br#"{"error":"No files uploaded"}"#), refused);
        }
        for code in [102, 409, 500, 502, 504] {
            assert!(matches!(submit(code, None, b"oops"), SendOutcome::Unknown { .. }), "{code}");
        }
        for code in [301, 404, 405] {
            assert!(matches!(submit(code, None, b""), SendOutcome::Unreachable { .. }), "{code}");
        }
    }

    #[test]
    fn a_throttle_says_how_long_in_its_header_or_in_its_words() {
        let pause = |header, body: &str| match submit(429, header, body.as_bytes()) {
            SendOutcome::Throttled { retry_after, .. } => retry_after.map(|pause| pause.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(Some("7"), "{}"), Some(7));
        assert_eq!(pause(None, r#"{"error":"CPU quota exhausted, wait 42 seconds"}"#), Some(42));
        assert_eq!(pause(None, r#"{"error":"Max concurrent jobs reached (2)"}"#), None);
        assert_eq!(pause(Some("999999999"), "{}"), Some(3600));
    }

    #[test]
    fn a_file_of_a_shorter_name_is_another_file() {
        let stated = |disposition: &str, path: &str| {
            another_file(disposition.as_bytes(), &OutputPath::from_bytes(path.into()).unwrap())
        };
        let a = "attachment; filename=\"a\"";
        assert_eq!(stated(a, "r/a b"), Some("a".to_owned()));
        assert_eq!(stated("attachment; filename=\"a b\"", "r/a b"), None);
        // Nothing was cut, whatever the worker makes of the name.
        assert_eq!(stated(a, "r/ü"), None);
        assert_eq!(stated("attachment", "r/a b"), None);
    }

    #[test]
    fn a_status_says_how_the_job_ended() {
        let stage = |text: &str| status(text.as_bytes()).map(|status| status.stage);
        assert_eq!(stage(r#"{"status":"running"}"#), Ok(Stage::Active));
        assert_eq!(stage(r#"{"status":"completed"}"#), Ok(Stage::Ended(Verdict::Completed)));
        let lost = r#"{"status":"failed","reason":"worker_lost","execution_metadata":{"exit_code":137}}"#;
        assert_eq!(stage(lost), Ok(Stage::Lost));
        let failed = Stage::Ended(Verdict::Failed { exit_code: Some(3) });
        assert_eq!(stage(r#"{"status":"failed","execution_metadata":{"exit_code":3}}"#), Ok(failed));
        for broken in [r#"{"status":"sleeping"}"#, "<html>", r#"["running",null]"#, "{} {}"] {
            assert!(stage(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_worker_without_a_protocol_number_is_a_sandrun() {
        let pool = PoolKey(WorkerKey::for_tests(9));
        let worker = WorkerKey::for_tests(1);
        let read =
            |body: &[u8]| health(body, Inquiry::Challenged { worker, challenge: Challenge::random(), pool });
        let report = read(br#"{"status":"healthy","worker_id":null}"#).unwrap();
        let evidence = Evidence::Claimed;
        assert_eq!(
            report,
            HealthReport {
                worker_id: None,
                dialect: Dialect::Sandrun,
                capacity: None,
                address: None,
                evidence
            }
        );
        let report = read(br#"{"status":"healthy","worker_id":"k","protocol":2,"capacity":8}"#).unwrap();
        assert_eq!((report.dialect, report.capacity), (Dialect::V2, Some(8)));
        assert!(read(b"{}").is_err() && read(br#"{"status":"sick"}"#).is_err());
    }

    #[test]
    fn a_proof_counts_for_the_worker_and_the_challenge_it_was_made_for() {
        let (key, pool) = (SecretKey::generate(), PoolKey(WorkerKey::for_tests(9)));
        let challenge = Challenge::random();
        let proof = Proof::sign(&key, &challenge, pool);
        let body = format!(r#"{{"status":"healthy","worker_id":"k","proof":"{proof}"}}"#);
        let read = |worker, challenge| {
            health(body.as_bytes(), Inquiry::Challenged { worker, challenge, pool })
                .map(|report| report.evidence)
        };
        assert_eq!(read(key.public(), challenge), Ok(Evidence::Proved));
        assert!(read(key.public(), Challenge::random()).is_err());
        assert!(read(WorkerKey::for_tests(1), challenge).is_err());
    }
}
