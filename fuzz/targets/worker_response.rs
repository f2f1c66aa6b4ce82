//! Whatever a worker answers: an id that is taken from it is fit for a path, words of its are one bounded line, and every link that the
//! pool makes of its listing leads to the file that the listing names.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use trusted_pool::api::{Route, listing};
use trusted_pool::job::JobId;
use trusted_pool::upstream::evidence::{Evidence, Inquiry};
use trusted_pool::upstream::{SendOutcome, sandrun};
use trusted_pool::worker::WorkerKey;
use trusted_pool::worker::identity::PoolKey;
use trusted_pool::worker::proof::Challenge;

/// What a client is shown of a worker's words, in characters, with what the pool says around them.
const WORDS_MAX: usize = 1000 + 100;

const RETRY_AFTER_SECONDS_MAX: u64 = 3600;

/// A worker's key is 44 characters of base64.
const WORKER: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fuzz_target!(|input: &[u8]| {
    let Some((code, body)) = input.split_first_chunk::<2>() else { return };
    let code = 100 + u16::from_be_bytes(*code) % 500;
    // A header and its answer come together, so the first line does for both.
    let retry_after = std::str::from_utf8(body).ok().and_then(|body| body.lines().next());
    for retry_after in [None, retry_after] {
        submitted(code, retry_after, body);
    }
    one_line(&sandrun::error_words(body));
    status(body);
    health(body);
    if let Ok(text) = std::str::from_utf8(body) {
        listed(text);
    }
});

fn submitted(code: u16, retry_after: Option<&str>, body: &[u8]) {
    match sandrun::submit(code, retry_after, body) {
        SendOutcome::Accepted { remote } => {
            assert!((200..300).contains(&code));
            assert!(!remote.is_empty() && remote.len() <= 128 && remote != "." && remote != "..");
            assert!(
                remote.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)),
                "{remote}"
            );
        }
        SendOutcome::Throttled { message, retry_after } => {
            assert!(matches!(code, 429 | 503));
            assert!(retry_after.is_none_or(|pause| pause.as_secs() <= RETRY_AFTER_SECONDS_MAX));
            one_line(&message);
        }
        SendOutcome::Refused { message } => {
            assert!((400..500).contains(&code), "only what is the job's own fault counts against it: {code}");
            one_line(&message);
        }
        SendOutcome::Unreadable { .. } => panic!("an answer says nothing of what the spool holds"),
        SendOutcome::Unreachable { reason } | SendOutcome::Unknown { reason } => one_line(&reason),
    }
}

fn one_line(words: &str) {
    assert!(words.chars().count() <= WORDS_MAX && !words.chars().any(char::is_control), "{words:?}");
}

fn status(body: &[u8]) {
    let Ok(status) = sandrun::status(body) else { return };
    assert_eq!(status.json.as_bytes(), body, "it is passed on as it came");
    assert!(status.json.trim_start().starts_with('{'));
    serde_json::from_str::<&RawValue>(&status.json).expect("it is JSON");
}

fn health(body: &[u8]) {
    let worker: WorkerKey = WORKER.parse().expect("it is a key");
    let inquiry = Inquiry::Challenged { worker, challenge: Challenge::random(), pool: PoolKey(worker) };
    if let Ok(report) = sandrun::health(body, inquiry) {
        assert_eq!(report.evidence, Evidence::Claimed, "nobody can have signed this challenge");
        assert_ne!(report.capacity, Some(0));
    }
}

fn listed(text: &str) {
    let job = JobId::from_random([7; 12]);
    let Some(listing) = listing::in_pool_terms(&job, text) else { return };
    let whole = format!("{}{}", listing::begin(&job, "completed"), &listing[1..]);
    let body: &RawValue = serde_json::from_str(&whole).expect("a listing is JSON");
    // Deeper than this reader goes, which only a client would notice.
    let Ok(body) = serde_json::from_str::<Value>(body.get()) else { return };
    assert_eq!((&body["job_id"], &body["status"]), (&job.as_str().into(), &"completed".into()));
    for file in body["files"].as_array().expect("the files are a list") {
        let name = file["name"].as_str().expect("a file has a name");
        match &file["download_url"] {
            Value::Null => {}
            Value::String(url) => match Route::of(&Method::GET, url) {
                Route::Output(of, path) => assert_eq!((of, path.as_bytes()), (job.clone(), name.as_bytes())),
                other => panic!("{url} leads to {other:?}"),
            },
            other => panic!("{other} is no link"),
        }
    }
    let names = listing::files(&whole).expect("it has files").count();
    assert_eq!(names, body["files"].as_array().map_or(0, Vec::len));
}
