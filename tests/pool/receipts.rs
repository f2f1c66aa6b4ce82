//! Receipts: what a worker signs of a run, and what becomes of a run that is not as it was signed.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::harness::{Pool, SOON, command};
use crate::standin::{Quirks, Standin};
use crate::wire::{Wire, sha256};
use crate::worker::Worker;

const PROVED: &str = "trust: {require: proved}\n";

const SCRIPT: &[u8] = b"import os\nos.mkdir('r')\nopen('r/out.txt', 'w').write('hello')\n";

/// Changes the body of an answer to a request for this target.
type Tamper = dyn Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync;

/// Somebody between the pool and a worker who changes what the worker says; ends with the handle.
struct Tampering {
    address: SocketAddr,
    acceptor: AbortHandle,
}

impl Tampering {
    async fn start(worker: SocketAddr, tamper: Arc<Tamper>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let acceptor = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, worker, Arc::clone(&tamper)));
            }
        });
        Self { address, acceptor: acceptor.abort_handle() }
    }

    fn entry(&self, worker: &Worker) -> Value {
        json!({"worker_id": worker.worker_id(), "endpoint": format!("http://{}", self.address)})
    }
}

impl Drop for Tampering {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Carries one request and its answer.
async fn carry(client: TcpStream, worker: SocketAddr, tamper: Arc<Tamper>) -> Option<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (from_worker, mut to_worker) = TcpStream::connect(worker).await.ok()?.into_split();
    let mut piece = vec![0; 16 << 10];
    let read = from_client.read(&mut piece).await.ok()?;
    let line = String::from_utf8_lossy(piece[..read].split(|byte| *byte == b'\r').next()?).into_owned();
    let (method, target) = line.split_once(' ')?;
    to_worker.write_all(&piece[..read]).await.ok()?;
    let rest = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_worker).await });
    let mut body = Vec::new();
    let (head, _) =
        Wire::over(from_worker).read_answer(method, |bytes| body.extend_from_slice(bytes)).await.ok()?;
    let body = tamper(target.split([' ', '?']).next()?, body);
    let mut answer = format!("HTTP/1.1 {} {}\r\n", head.status, head.reason);
    for (name, value) in &head.headers {
        if !["content-length", "transfer-encoding", "connection"].contains(&name.to_lowercase().as_str()) {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    answer.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()));
    to_client.write_all(answer.as_bytes()).await.ok()?;
    to_client.write_all(&body).await.ok()?;
    rest.abort();
    Some(())
}

/// A job's status, once it has a receipt, changed.
fn changed(target: &str, body: Vec<u8>, change: impl Fn(&mut Value)) -> Vec<u8> {
    if !target.starts_with("/status/") {
        return body;
    }
    let mut status: Value = serde_json::from_slice(&body).expect("a status");
    if status["receipt"].is_object() {
        change(&mut status);
    }
    status.to_string().into_bytes()
}

/// The listing of a job's outputs, changed.
fn relisted(target: &str, body: Vec<u8>, change: impl Fn(&mut Vec<Value>)) -> Vec<u8> {
    if !target.starts_with("/outputs/") {
        return body;
    }
    let mut listing: Value = serde_json::from_slice(&body).expect("a listing");
    change(listing["files"].as_array_mut().expect("files"));
    listing.to_string().into_bytes()
}

async fn submit(pool: &Pool) -> String {
    pool.submit(&[("main.py", SCRIPT)], &json!({"entrypoint": "main.py", "outputs": ["r/"]})).await
}

/// Runs `verify` in a directory.
async fn verify(dir: &Path, args: &[&str]) -> (Output, String) {
    let mut command = command(&[&["verify", "receipt.json"], args].concat());
    let output = command.current_dir(dir).output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

#[tokio::test]
async fn receipt_of_a_run_is_kept_and_says_what_went_in_and_what_came_out() {
    let worker = Worker::start(2).await;
    let mut pool = Pool::start(&[worker.entry()], PROVED).await;
    let job = submit(&pool).await;
    let status = pool.finished(&job).await;
    assert_eq!(status["pool_status"], "completed", "{status}");
    let receipt = pool.get(&format!("/receipt/{job}")).await.expect(200);
    assert_eq!(receipt, status["worker_status"]["receipt"]);
    assert_eq!((&receipt["job_id"], &receipt["attempt"]), (&json!(job), &json!(1)));
    assert_eq!((&receipt["worker_id"], &receipt["exit_code"]), (&json!(worker.worker_id()), &json!(0)));
    let output = json!([{"path": "r/out.txt", "size": 5, "sha256": sha256(b"hello")}]);
    assert_eq!(receipt["outputs"], output);
    assert!(receipt["started_at_micros"].as_u64() < receipt["finished_at_micros"].as_u64());
    drop(worker);
    pool.kill9().await;
    pool.restart().await;
    assert_eq!(pool.get(&format!("/receipt/{job}")).await.expect(200), receipt);
}

#[tokio::test]
async fn receipt_and_files_are_verified_offline() {
    let worker = Worker::start(2).await;
    let pool = Pool::start(&[worker.entry()], "").await;
    let job = submit(&pool).await;
    pool.finished(&job).await;
    let (dir, other) = (pool.dir(), Worker::start(2).await);
    fs::write(dir.join("receipt.json"), pool.get(&format!("/receipt/{job}")).await.body).unwrap();
    fs::create_dir_all(dir.join("got/r")).unwrap();
    fs::write(dir.join("got/r/out.txt"), pool.get(&format!("/outputs/{job}/r/out.txt")).await.body).unwrap();
    let key = ["--key", worker.worker_id()];
    let (output, said) = verify(dir, &[&key[..], &["got/r/out.txt"]].concat()).await;
    assert!(output.status.success() && said.contains("\"r/out.txt\"") && said.contains(&job), "{said}");
    let (output, said) = verify(dir, &[&key[..], &["got/r/out.txt", "main.py"]].concat()).await;
    assert!(output.status.code() == Some(1) && said.contains("WRONG  main.py"), "{said}");
    fs::write(dir.join("got/r/out.txt"), "hullo").unwrap();
    let (output, said) = verify(dir, &[&key[..], &["got/r/out.txt"]].concat()).await;
    assert!(output.status.code() == Some(1) && said.contains("SHA-256"), "{said}");
    let (output, said) = verify(dir, &["--key", other.worker_id()]).await;
    assert!(output.status.code() == Some(1) && said.contains(worker.worker_id()), "{said}");
    let receipt = fs::read_to_string(dir.join("receipt.json")).unwrap();
    fs::write(dir.join("receipt.json"), receipt.replace("\"exit_code\":0", "\"exit_code\":1")).unwrap();
    let (output, said) = verify(dir, &[]).await;
    assert!(output.status.code() == Some(1) && said.contains("signature"), "{said}");
}

#[tokio::test]
async fn run_that_is_not_as_its_worker_signed_it_is_a_bad_receipt_and_its_outputs_are_refused() {
    let cases: [(&str, Arc<Tamper>); 8] = [
        (
            "signature",
            Arc::new(|at: &str, body| changed(at, body, |status| status["receipt"]["attempt"] = json!(2))),
        ),
        (
            "signature",
            Arc::new(|at: &str, body| changed(at, body, |status| status["receipt"]["outputs"] = json!([]))),
        ),
        (
            "of worker",
            Arc::new(|at: &str, body| {
                let key = "1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAM=";
                changed(at, body, |status| status["receipt"]["worker_id"] = json!(key))
            }),
        ),
        (
            "cannot be read",
            Arc::new(|at: &str, body| changed(at, body, |status| status["receipt"]["more"] = json!(1))),
        ),
        (
            "no receipt",
            Arc::new(|at: &str, body| {
                changed(at, body, |status| drop(status.as_object_mut().unwrap().remove("receipt")))
            }),
        ),
        (
            "exit code 0",
            Arc::new(|at: &str, body| {
                changed(at, body, |status| {
                    status["status"] = json!("failed");
                    status["execution_metadata"]["exit_code"] = json!(3);
                })
            }),
        ),
        ("does not list", Arc::new(|at: &str, body| relisted(at, body, Vec::clear))),
        ("r/out.txt", Arc::new(|at: &str, body| relisted(at, body, |files| files[0]["size"] = json!(6)))),
    ];
    for (why, tamper) in cases {
        let worker = Worker::start(2).await;
        let between = Tampering::start(worker.address(), tamper).await;
        let pool = Pool::start(&[between.entry(&worker)], PROVED).await;
        let job = submit(&pool).await;
        let status = pool.failed(&job, "bad_receipt").await;
        assert!(status["error"]["message"].as_str().unwrap().contains(why), "{why}: {status}");
        for target in [format!("/outputs/{job}/r/out.txt"), format!("/download/{job}")] {
            assert_eq!(pool.get(&target).await.expect(502)["code"], "worker_error", "{why}");
        }
    }
}

#[tokio::test]
async fn output_that_changes_on_its_way_makes_the_job_fail() {
    let worker = Worker::start(2).await;
    let tamper = |at: &str, mut body: Vec<u8>| {
        if at.starts_with("/download/") {
            body[1] ^= 1;
        }
        body
    };
    let between = Tampering::start(worker.address(), Arc::new(tamper)).await;
    let pool = Pool::start(&[between.entry(&worker)], PROVED).await;
    let job = submit(&pool).await;
    let refused = |status: &Value| status["error"]["code"] == "bad_receipt";
    let status = pool.wait_until(&job, refused, SOON).await;
    assert_eq!(status["pool_status"], "failed");
    assert!(status["error"]["message"].as_str().unwrap().contains("r/out.txt"), "{status}");
    assert_eq!(pool.get(&format!("/outputs/{job}/r/out.txt")).await.status(), 502);
    // What the worker signed is the proof of what it should have been.
    let receipt = pool.get(&format!("/receipt/{job}")).await.expect(200);
    assert_eq!(receipt["outputs"][0]["sha256"], sha256(b"hello"));
    let failed = pool.get("/jobs?status=failed").await.expect(200);
    assert_eq!(failed["jobs"][0]["job_id"], json!(job));
}

#[tokio::test]
async fn receipt_that_does_not_hold_is_not_shown_as_one() {
    let worker = Worker::start(2).await;
    let swap = |at: &str, body| {
        changed(at, body, |status| status["receipt"]["manifest_sha256"] = json!("ab".repeat(32)))
    };
    let between = Tampering::start(worker.address(), Arc::new(swap)).await;
    let pool = Pool::start(&[between.entry(&worker)], "").await;
    let job = submit(&pool).await;
    pool.failed(&job, "bad_receipt").await;
    assert_eq!(pool.get(&format!("/receipt/{job}")).await.expect(404)["code"], "no_receipt");
}

#[tokio::test]
async fn worker_that_signs_nothing_is_good_for_a_pool_that_asks_for_no_proof() {
    for quirks in [Quirks::second(), Quirks::brisk()] {
        let standin = Standin::start(quirks).await;
        let pool = Pool::start(&[standin.entry(1)], "").await;
        let running = pool.run(&["run_ms=300"]).await;
        assert_eq!(pool.get(&format!("/receipt/{running}")).await.expect(409)["code"], "not_finished");
        let job = pool.complete(&[]).await;
        let problem = pool.get(&format!("/receipt/{job}")).await.expect(404);
        assert_eq!(problem["code"], "unverifiable", "{problem}");
    }
}
