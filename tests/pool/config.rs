//! What `serve` makes of its configuration before it listens.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{command, nobody, serve, write_config};
use crate::standin::{Quirks, Standin};
use crate::wire::Call;

/// Runs `serve --check` on a directory that was prepared.
async fn check(dir: &Path) -> (Output, String) {
    let config = dir.join("pool.yaml");
    let output = command(&["serve", "--config", config.to_str().expect("a UTF-8 path"), "--check"]).output();
    let output = output.await.expect("the binary runs");
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output, String::from_utf8_lossy(&text).into_owned())
}

/// What `--check` says about a list of workers, which must be a refusal.
async fn refused_workers(workers: &[Value]) -> String {
    let dir = TempDir::new().expect("a temporary directory");
    write_config(dir.path(), workers, "");
    let (output, text) = check(dir.path()).await;
    assert!(!output.status.success(), "{workers:?} passed: {text}");
    assert!(text.contains("workers.json"), "{text}");
    text
}

#[tokio::test]
async fn check_of_a_good_configuration_succeeds_and_starts_nothing() {
    let dir = TempDir::new().expect("a temporary directory");
    write_config(dir.path(), &[nobody()], "max_upload: 10MB\nhistory: {keep: 1h}\nlog: debug");
    let (output, text) = check(dir.path()).await;
    assert!(output.status.success(), "{text}");
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn check_names_every_mistake_at_once_with_file_line_and_key() {
    let dir = TempDir::new().expect("a temporary directory");
    write_config(dir.path(), &[nobody()], "");
    let yaml = "listen: nowhere\n\
                workers: workers.json\n\
                max_upload: lots\n\
                helth: {interval: 1s}\n\
                health:\n  interval: 30 parsecs\n  timeot: 5s\n\
                history: {keep: -1d}\n\
                server: {threads: many}\n";
    fs::write(dir.path().join("pool.yaml"), yaml).expect("a writable directory");
    let (output, text) = check(dir.path()).await;
    assert!(!output.status.success() && text.contains("pool.yaml"), "{text}");
    for (line, key) in [
        (1, "listen"),
        (3, "max_upload"),
        (4, "helth"),
        (6, "health.interval"),
        (7, "health.timeot"),
        (8, "history.keep"),
        (9, "server.threads"),
    ] {
        let told =
            text.lines().any(|said| said.contains(&format!("pool.yaml:{line}:")) && said.contains(key));
        assert!(told, "{key} in line {line}: {text}");
    }
}

#[tokio::test]
async fn serve_with_a_wrong_configuration_ends_with_the_same_words() {
    let dir = TempDir::new().expect("a temporary directory");
    write_config(dir.path(), &[nobody()], "max_upload: lots");
    let config = dir.path().join("pool.yaml");
    let output = command(&["serve", "--config", config.to_str().expect("a UTF-8 path")]).output();
    let output =
        tokio::time::timeout(crate::harness::SOON, output).await.expect("an end").expect("the binary runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("max_upload"));
}

#[tokio::test]
async fn missing_or_broken_files_are_named() {
    let dir = TempDir::new().expect("a temporary directory");
    let (output, text) = check(dir.path()).await;
    assert!(!output.status.success() && text.contains("pool.yaml"), "{text}");
    write_config(dir.path(), &[nobody()], "");
    fs::write(dir.path().join("workers.json"), "[{").expect("a writable directory");
    let (output, text) = check(dir.path()).await;
    assert!(!output.status.success() && text.contains("workers.json"), "{text}");
    fs::remove_file(dir.path().join("workers.json")).expect("it is there");
    let (output, text) = check(dir.path()).await;
    assert!(!output.status.success() && text.contains("workers.json"), "{text}");
}

#[tokio::test]
async fn worker_id_that_is_no_ed25519_key_is_refused() {
    let short = "c2hvcnQ=";
    // 32 bytes that are the y of no point of the curve.
    let off_curve = "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for key in ["", "not base64!", short, off_curve] {
        let text = refused_workers(&[json!({"worker_id": key, "endpoint": "http://127.0.0.1:1"})]).await;
        assert!(text.contains("worker_id"), "{key}: {text}");
    }
}

#[tokio::test]
async fn endpoint_that_is_no_http_url_is_refused() {
    for endpoint in ["", "worker1:8443", "ftp://worker1", "http://", "https://worker1:port"] {
        let mut worker = nobody();
        worker["endpoint"] = json!(endpoint);
        assert!(refused_workers(&[worker]).await.contains("endpoint"), "{endpoint}");
    }
}

#[tokio::test]
async fn key_or_endpoint_that_occurs_twice_is_refused() {
    let (first, mut same_key, mut same_endpoint) = (nobody(), nobody(), nobody());
    same_key["worker_id"] = first["worker_id"].clone();
    same_key["endpoint"] = json!("http://127.0.0.1:10");
    assert!(refused_workers(&[first.clone(), same_key]).await.contains("worker_id"));
    same_endpoint["endpoint"] = first["endpoint"].clone();
    assert!(refused_workers(&[first, same_endpoint]).await.contains("endpoint"));
}

#[tokio::test]
async fn unknown_field_or_impossible_limit_of_a_worker_is_refused() {
    for (field, value) in
        [("max_jobs", json!(1)), ("max_concurrent_jobs", json!(0)), ("max_concurrent_jobs", json!("x"))]
    {
        let mut worker = nobody();
        worker[field] = value;
        assert!(refused_workers(&[worker]).await.contains(field), "{field}");
    }
}

#[tokio::test]
async fn serve_takes_the_flags_that_the_script_took_and_no_file() {
    let dir = TempDir::new().expect("a temporary directory");
    let standin = Standin::start(Quirks::brisk()).await;
    let workers = dir.path().join("workers.json");
    fs::write(&workers, json!([standin.entry(1)]).to_string()).expect("a writable directory");
    let data = dir.path().join("data");
    let (workers, data) = (workers.to_str().expect("UTF-8"), data.to_str().expect("UTF-8"));
    let log = fs::File::create(dir.path().join("stderr.log")).expect("a writable directory");
    let command = command(&["serve", "--port", "0", "--workers", workers, "--data", data]);
    let (_child, address) = serve(command, log).await.expect("a start");
    assert!(address.ip().is_loopback());
    let root = Call::get("/").send(address).await.expect("an answer").expect(200);
    assert_eq!(root["role"], "pool");
}

#[tokio::test]
async fn workers_may_stand_in_the_configuration_itself() {
    let dir = TempDir::new().expect("a temporary directory");
    let worker = nobody();
    let yaml = format!(
        "listen: 127.0.0.1:0\ndata: {}/data\nworkers:\n  - worker_id: {}\n    endpoint: {}\n",
        dir.path().display(),
        worker["worker_id"],
        worker["endpoint"]
    );
    fs::write(dir.path().join("pool.yaml"), yaml).expect("a writable directory");
    let (output, text) = check(dir.path()).await;
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn address_that_is_in_use_is_said_soon() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let dir = TempDir::new().expect("a temporary directory");
    write_config(dir.path(), &[nobody()], "");
    let config = dir.path().join("pool.yaml");
    let port = taken.local_addr().expect("a bound listener").port().to_string();
    let args = ["serve", "--config", config.to_str().expect("UTF-8"), "--port", &port];
    let output = tokio::time::timeout(crate::harness::SOON, command(&args).output()).await;
    let output = output.expect("an end well before Pingora's 30 tries").expect("the binary runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&port));
}
