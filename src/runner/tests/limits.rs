//! What becomes of a job that uses more than it may. Each of these would harm a machine that did not hold it.

use std::time::Duration;

use super::client::{Part, TestWorker};
use crate::runner::limits::Limits;
use crate::runner::limits::tests::ROOMY;

/// Runs a script under these limits: it must fail for this reason, soon, and the worker must run the next.
async fn assert_broken(limits: Limits, script: &str, reason: &str) {
    let worker = TestWorker::limited(limits).await;
    let id = worker.run(script, "{}").await;
    let status = worker.end(&id).await;
    let logs = worker.get(&format!("/logs/{id}")).await.text();
    let logs = logs.get(..300).unwrap_or(&logs);
    assert_eq!((&status["status"], &status["reason"]), (&"failed".into(), &reason.into()), "{status} {logs}");
    assert!(status["error"].is_string(), "{status}");
    let next = worker.run("true", "{}").await;
    assert_eq!(worker.end(&next).await["status"], "completed");
    assert_eq!(worker.get("/health").await.json()["active"], 0);
}

#[tokio::test]
async fn fork_bomb_is_held_and_ended() {
    let limits = Limits { pids: 64, ..ROOMY };
    let script = "for i in $(seq 200); do sleep 60 & done; wait";
    assert_broken(limits, script, "pids_limit").await;
}

#[tokio::test]
async fn memory_of_one_process_and_of_all_together_is_held() {
    let limits = Limits { memory_bytes: 128 << 20, ..ROOMY };
    let bomb = "exec python3 -c 'x = [bytearray(1 << 20) for _ in range(400)]'";
    assert_broken(limits, bomb, "memory_limit").await;
    let part = "for i in 1 2 3; do python3 -c 'import time; x = bytearray(b\"x\") * (60 << 20); time.sleep(20)' & done";
    assert_broken(limits, &format!("{part}; wait"), "memory_limit").await;
}

#[tokio::test]
async fn disk_filler_is_ended_wherever_it_writes() {
    let limits = Limits { disk_bytes: 16 << 20, file_bytes: 8 << 20, ..ROOMY };
    for dir in ["/work", "/tmp", "/dev/shm"] {
        // Slow enough to be seen before it is too late, should it not be held.
        let fill = format!("for i in $(seq 200); do head -c 1000000 /dev/zero > {dir}/$i; sleep 0.02; done");
        assert_broken(limits, &fill, "disk_limit").await;
    }
    // Sooner at its end than the worker looks.
    assert_broken(limits, "for i in 1 2 3 4; do head -c 7000000 /dev/zero > $i; done", "disk_limit").await;
}

#[tokio::test]
async fn sparse_files_count_as_what_they_claim_to_be() {
    assert_broken(ROOMY, "truncate -s 1T file", "file_size_limit").await;
    assert_broken(ROOMY, "for i in 1 2 3; do truncate -s 100M $i; done", "disk_limit").await;
}

#[tokio::test]
async fn file_that_grows_beyond_its_limit_is_cut() {
    let limits = Limits { file_bytes: 1 << 20, ..ROOMY };
    assert_broken(limits, "head -c 2000000 /dev/zero > file", "file_size_limit").await;
}

#[tokio::test]
async fn flood_of_output_ends_its_job() {
    let limits = Limits { output_bytes: 16 << 20, ..ROOMY };
    assert_broken(limits, "head -c 10G /dev/zero", "output_limit").await;
    assert_broken(limits, "head -c 10G /dev/zero >&2", "output_limit").await;
}

#[tokio::test]
async fn cpu_time_is_that_of_all_processes_together() {
    let limits = Limits { cpu: Some(Duration::from_secs(1)), ..ROOMY };
    let spin = "(while :; do :; done) & ";
    assert_broken(limits, &format!("{spin}{spin}wait"), "cpu_limit").await;
}

#[tokio::test]
async fn open_files_are_bounded() {
    let worker = TestWorker::limited(Limits { open_files: 32, ..ROOMY }).await;
    let script = "exec python3 -c 'x = [open(\"/dev/null\") for _ in range(40)]'";
    let id = worker.run(script, "{}").await;
    assert_eq!(worker.end(&id).await["status"], "failed");
    let stderr = worker.get(&format!("/logs/{id}")).await.text();
    assert!(stderr.contains("Too many open files"), "{stderr}");
}

#[tokio::test]
async fn manifest_lowers_its_limits_and_is_refused_more() {
    let worker = TestWorker::limited(ROOMY).await;
    let manifest = r#"{"entrypoint":"run.sh","interpreter":"bash","cpu_seconds":0.3}"#;
    let id = worker.run("while :; do :; done", manifest).await;
    assert_eq!(worker.end(&id).await["reason"], "cpu_limit");
    let greedy = [Part::file("run.sh", b""), Part::manifest(r#"{"memory_mb":100000}"#)];
    let refused = worker.submit(&greedy, "").await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("memory_mb is 100000"), "{}", refused.text());
}

#[tokio::test]
async fn flood_of_output_is_cut_and_does_not_block() {
    let worker = TestWorker::start(1).await;
    let id = worker.run("head -c 12000000 /dev/zero | tr '\\0' x; echo err >&2", "{}").await;
    assert_eq!(worker.end(&id).await["status"], "completed");
    let logs = worker.get(&format!("/logs/{id}")).await.json();
    assert_eq!(logs["stdout"].as_str().unwrap().len(), 10 * 1024 * 1024);
    assert_eq!(
        (&logs["stdout_truncated"], &logs["stderr_truncated"]),
        (&true.into(), &serde_json::Value::Null)
    );
}
