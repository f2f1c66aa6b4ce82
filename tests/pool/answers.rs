//! What each answer to a submit means, from the bytes on the wire to the job's status.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Pool, SOON};
use crate::standin::{Fault, Quirks, Reads, Say, Standin};

/// What a job comes to whose only worker answers its first submit so, and any later one well.
enum Means {
    Accepted,
    /// `rejected`, with these words of the worker.
    Refused(&'static str),
    /// Sent again, and accepted then.
    Again,
    Unknown,
}
use Means::{Accepted, Again, Refused, Unknown};
use Reads::{All, Head};

fn bytes(text: &str) -> Say {
    Say::Bytes(text.as_bytes().to_vec())
}

/// An answer with its length, in one piece.
fn answer(status: &str, body: &str) -> Vec<Say> {
    vec![bytes(&format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))]
}

const PAUSE: Duration = Duration::from_millis(300);

/// `FILES` bytes are more than sockets buffer: a worker that reads the head alone answers while the body is being sent.
const FILES: usize = 8 << 20;

#[tokio::test]
async fn each_answer_to_a_submit_has_its_meaning() {
    let accepted = r#"{"job_id":"job_1_1","status":"queued"}"#;
    let table: Vec<(&str, Reads, Vec<Say>, Means)> = vec![
        ("200", All, answer("200 OK", accepted), Accepted),
        ("200 without a length", All, vec![bytes("HTTP/1.1 200 OK\r\n\r\n"), bytes(accepted)], Accepted),
        ("200 in small pieces", All, accepted_slowly(accepted), Accepted),
        ("200 that is no JSON", All, answer("200 OK", "<html>"), Unknown),
        ("200 without a job_id", All, answer("200 OK", r#"{"status":"queued"}"#), Unknown),
        ("200 with a job_id that is a path", All, answer("200 OK", r#"{"job_id":"../../x"}"#), Unknown),
        ("200 with an empty body", All, answer("200 OK", ""), Unknown),
        (
            "200 whose body is cut",
            All,
            vec![bytes("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"job_id\":\"job_1_1\"}")],
            Unknown,
        ),
        ("200 whose head is cut", All, vec![bytes("HTTP/1.1 200 OK\r\nContent-Le")], Unknown),
        (
            "200 whose body is reset",
            All,
            vec![bytes("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), Say::Pause(PAUSE), Say::Reset],
            Unknown,
        ),
        (
            "a head that never ends",
            All,
            vec![bytes("HTTP/1.1 200 OK\r\n"), Say::Drip("X: y\r\n", PAUSE)],
            Unknown,
        ),
        (
            "a body that never ends",
            All,
            vec![bytes("HTTP/1.1 200 OK\r\n\r\n"), Say::Drip(" ", PAUSE)],
            Unknown,
        ),
        ("nothing, for ever", All, vec![Say::Pause(SOON)], Unknown),
        ("the end of the connection", All, vec![], Unknown),
        ("a reset", All, vec![Say::Reset], Unknown),
        ("something that is not HTTP", All, vec![bytes("SSH-2.0-OpenSSH_9.6\r\n")], Unknown),
        ("500", All, answer("500 Internal Server Error", r#"{"error":"oops"}"#), Unknown),
        ("502", All, answer("502 Bad Gateway", "<html>"), Unknown),
        (
            "400",
            All,
            answer("400 Bad Request", r#"{"error":"No entrypoint specified"}"#),
            Refused("No entrypoint specified"),
        ),
        (
            "400 whose body is cut",
            All,
            vec![bytes("HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{\"err")],
            Refused(""),
        ),
        (
            "422",
            All,
            answer("422 Unknown", r#"{"error":"no such interpreter"}"#),
            Refused("no such interpreter"),
        ),
        ("418", All, answer("418 I'm a teapot", "short and stout"), Refused("short and stout")),
        (
            "413 while the body is sent",
            Head,
            early(413, "Request too large", vec![]),
            Refused("Request too large"),
        ),
        (
            "413 while the body is sent, then a reset",
            Head,
            early(413, "Request too large", vec![Say::Reset]),
            Refused("Request too large"),
        ),
        (
            "400 while the body is sent",
            Head,
            early(400, "No files uploaded", vec![]),
            Refused("No files uploaded"),
        ),
        ("a reset while the body is sent", Head, vec![Say::Pause(PAUSE), Say::Reset], Unknown),
        (
            "429 that says when",
            All,
            answer("429 Unknown", r#"{"error":"CPU quota exhausted, wait 1 seconds"}"#),
            Again,
        ),
        ("429 that says nothing", All, answer("429 Unknown", "{}"), Again),
        (
            "503 with Retry-After",
            All,
            vec![bytes("HTTP/1.1 503 Unknown\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")],
            Again,
        ),
        ("429 while the body is sent", Head, early(429, "Max concurrent jobs reached (2)", vec![]), Again),
        ("404", All, answer("404 Not Found", "{}"), Again),
        (
            "a redirect",
            All,
            vec![bytes("HTTP/1.1 302 Unknown\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")],
            Again,
        ),
    ];
    let rows = table.into_iter().map(|(name, reads, says, means)| row(name, reads, says, means));
    futures_util::future::join_all(rows).await;
}

fn accepted_slowly(body: &str) -> Vec<Say> {
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let pieces = whole.as_bytes().chunks(9).map(|piece| Say::Bytes(piece.to_vec()));
    pieces.flat_map(|piece| [piece, Say::Pause(Duration::from_millis(10))]).collect()
}

/// An answer that comes while the body is still being sent, and what comes after it.
fn early(status: u16, words: &str, then: Vec<Say>) -> Vec<Say> {
    let body = json!({ "error": words }).to_string();
    [answer(&format!("{status} Unknown"), &body), vec![Say::Pause(PAUSE)], then].concat()
}

async fn row(name: &str, reads: Reads, says: Vec<Say>, means: Means) {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "submit_timeout: 3s").await;
    pool.healthy(1).await;
    standin.fail("POST /submit", 1, Fault::Wire(reads, says));
    let payload = vec![7; if reads == Head { FILES } else { 10 }];
    let job = pool.submit(&[("main.py", &payload)], &json!({"entrypoint": "main.py"})).await;
    let (status, submits) = match means {
        // The stand-in has not heard of the job that it is said to have taken.
        Accepted => (pool.failed(&job, "worker_lost").await, 1),
        Refused(words) => {
            let status = pool.failed(&job, "rejected").await;
            assert!(
                status["error"]["message"].as_str().is_some_and(|said| said.contains(words)),
                "{name}: {status}"
            );
            (status, 1)
        }
        Unknown => (pool.failed(&job, "outcome_unknown").await, 1),
        Again => (pool.finished(&job).await, 2),
    };
    if let Again = means {
        assert_eq!(
            (&status["pool_status"], &status["attempts"]),
            (&json!("completed"), &json!(1)),
            "{name}: {status}"
        );
    }
    assert_eq!(standin.seen("POST /submit").len(), submits, "{name}");
}

/// Longer than any job of the deployed worker keeps a submit waiting.
#[tokio::test]
#[ignore = "takes four minutes"]
async fn answer_after_four_minutes_is_an_answer() {
    let standin = Standin::start(Quirks::tame()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    pool.healthy(1).await;
    let late = Duration::from_secs(240);
    standin.fail("POST /submit", 1, Fault::Late(late));
    let job = pool.run(&[]).await;
    let done = pool.wait_until(&job, |status| status["completed_at"].is_number(), late + SOON).await;
    assert_eq!((&done["pool_status"], &done["attempts"]), (&json!("completed"), &json!(1)), "{done}");
    assert!(
        done["completed_at"].as_f64().unwrap() - done["submitted_at"].as_f64().unwrap() > 239.0,
        "{done}"
    );
    assert_eq!(standin.seen("POST /submit").len(), 1);
}
