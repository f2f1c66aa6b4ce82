//! What a job must not be able to do.

use std::time::Duration;

use super::client::{TestWorker, sandbox};
use crate::runner::sandbox::Sandbox;

/// A worker with real walls, or `None` on a machine without bubblewrap.
async fn walled() -> Option<TestWorker> {
    match sandbox() {
        Sandbox::Bubblewrap(_) => Some(TestWorker::start(2).await),
        Sandbox::None => {
            eprintln!("skipped: bubblewrap does not work here");
            None
        }
    }
}

#[tokio::test]
async fn job_has_no_network() {
    let Some(worker) = walled().await else { return };
    let port = worker.address.port();
    let reached =
        format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo reached || echo unreachable");
    assert_eq!(worker.output_of(&reached).await, "unreachable\n");
}

#[tokio::test]
async fn job_sees_neither_secrets_nor_the_data_directory() {
    let Some(worker) = walled().await else { return };
    let data = worker.data.path().display().to_string();
    let script = format!(
        "for f in /etc/shadow /etc/passwd /root /home {data} /sys; do [ -e $f ] && echo $f; done; echo end"
    );
    assert_eq!(worker.output_of(&script).await, "end\n");
    assert_eq!(
        worker.output_of("ls -A /tmp; id -u; hostname; pwd; echo $HOME").await,
        "65534\nsandbox\n/work\n/tmp\n"
    );
}

#[tokio::test]
async fn job_writes_only_to_its_own_directories() {
    let Some(worker) = walled().await else { return };
    let script = "for d in /usr /usr/bin /etc /proc/sys/kernel; do touch $d/x 2>/dev/null && echo $d; done; touch /tmp/x x && echo ok";
    assert_eq!(worker.output_of(script).await, "ok\n");
    assert_eq!(
        worker
            .output_of("mount -t tmpfs x /usr 2>/dev/null && echo mounted; grep CapEff /proc/self/status")
            .await,
        "CapEff:\t0000000000000000\n"
    );
}

#[tokio::test]
async fn job_environment_is_its_manifest_and_nothing_of_the_worker() {
    let Some(worker) = walled().await else { return };
    let id =
        worker.run("env | sort", r#"{"entrypoint":"run.sh","interpreter":"sh","env":{"A":"b c"}}"#).await;
    worker.end(&id).await;
    let stdout = worker.get(&format!("/logs/{id}")).await.json()["stdout"].as_str().unwrap().to_owned();
    assert_eq!(stdout, "A=b c\nHOME=/tmp\nLANG=C.UTF-8\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD=/work\n");
}

#[tokio::test]
async fn timeout_ends_everything_a_job_has_started() {
    for sandbox in [sandbox(), Sandbox::None] {
        let worker = TestWorker::with(1, sandbox, Duration::from_secs(60)).await;
        // The background process would write its file long before the test ends, were it left alive.
        let script = "trap '' TERM; (sleep 1; touch survived) & sleep 600";
        let id = worker.run(script, r#"{"timeout":0.3}"#).await;
        let status = worker.end(&id).await;
        assert_eq!((status["status"].as_str(), status["reason"].as_str()), (Some("failed"), Some("timeout")));
        assert_eq!(status["execution_metadata"]["exit_code"], 137);
        let after = worker.run("sleep 1.2", "{}").await;
        worker.end(&after).await;
        assert_eq!(worker.get(&format!("/download/{id}/survived")).await.status, 404);
    }
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

#[tokio::test]
async fn links_that_a_job_leaves_are_not_followed() {
    let worker = TestWorker::start(1).await;
    let id = worker
        .run("ln -s /etc/passwd out; ln -s / root; mkfifo pipe; echo x > plain; ln -s plain in", "{}")
        .await;
    worker.end(&id).await;
    for (path, status) in [("out", 403), ("root/etc/passwd", 403), ("in", 403), ("pipe", 404), ("plain", 200)]
    {
        assert_eq!(worker.get(&format!("/download/{id}/{path}")).await.status, status, "{path}");
    }
    let listing = worker.get(&format!("/outputs/{id}")).await.json();
    assert_eq!((&listing["total_files"], &listing["files"][0]["name"]), (&1.into(), &"plain".into()));
}
