//! The client commands, against a pool with one worker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::harness::{Pool, command, nobody};
use crate::standin::{Quirks, Standin};

/// A pool, and a directory to run its commands in.
struct Shell {
    standin: Standin,
    pool: Pool,
    dir: TempDir,
}

impl Shell {
    async fn start() -> Self {
        let standin = Standin::start(Quirks::brisk()).await;
        let pool = Pool::start(&[standin.entry(1)], "").await;
        Self { standin, pool, dir: TempDir::new().expect("a temporary directory") }
    }

    async fn run(&self, args: &[&str]) -> Output {
        run_at(&self.pool.url(), self.dir.path(), args).await
    }

    /// Standard output of a command that must succeed.
    async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let (out, talk) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {}\n{out}\n{talk}", output.status);
        out.into_owned()
    }

    async fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(args).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    /// A directory to submit, with these arguments for its job.
    fn job_directory(&self, args: &[&str]) -> PathBuf {
        let job = self.dir.path().join("job");
        fs::create_dir_all(job.join("data")).expect("a writable directory");
        let manifest = json!({"entrypoint": "main.py", "args": args});
        for (name, text) in
            [("main.py", "print(1)"), ("data/in.txt", "in"), ("manifest.json", &manifest.to_string())]
        {
            fs::write(job.join(name), text).expect("a writable directory");
        }
        job
    }
}

async fn run_at(url: &str, dir: &Path, args: &[&str]) -> Output {
    command(args).env("TRUSTED_POOL_URL", url).current_dir(dir).output().await.expect("the binary runs")
}

/// Every file below `dir` with this name.
fn find(dir: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(find(&path, name));
        } else if path.file_name().is_some_and(|found| found == name) {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn submit_packs_a_directory_and_prints_the_jobs_id_alone() {
    let shell = Shell::start().await;
    let dir = shell.job_directory(&["id=cli"]);
    let out = shell.ok(&["submit", dir.to_str().expect("UTF-8")]).await;
    let job = out.trim();
    assert!(job.starts_with("pool-") && job.lines().count() == 1, "{out}");
    assert_eq!(shell.pool.finished(job).await["pool_status"], "completed");
    assert_eq!(shell.standin.ran(), ["cli"]);
    let submission = shell.standin.submissions().remove(0);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(submission.files[0].content.as_slice()));
    let entries = archive.entries().expect("an archive").map(|entry| entry.expect("an entry"));
    let names: Vec<String> =
        entries.map(|e| e.path().expect("a path").to_string_lossy().into_owned()).collect();
    for name in ["main.py", "data/in.txt"] {
        assert!(names.iter().any(|found| found.trim_start_matches("./") == name), "{names:?}");
    }
}

#[tokio::test]
async fn commands_show_a_job_from_status_to_download() {
    let shell = Shell::start().await;
    let job = shell.pool.complete(&["stdout=hello", "out=r/o.txt:data"]).await;
    assert!(shell.ok(&["status", &job]).await.contains("completed"));
    assert!(shell.ok(&["logs", &job]).await.contains("hello"));
    assert!(shell.ok(&["outputs", &job]).await.contains("r/o.txt"));
    assert!(shell.ok(&["jobs"]).await.contains(&job));
    assert!(shell.ok(&["workers"]).await.contains(&shell.standin.address().to_string()));
    shell.ok(&["download", &job]).await;
    let files = find(shell.dir.path(), "o.txt");
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(fs::read(&files[0]).expect("the file"), b"data");
}

#[tokio::test]
async fn json_is_all_there_is_on_stdout_when_it_is_asked_for() {
    let shell = Shell::start().await;
    let dir = shell.job_directory(&["stdout=hello", "out=o.txt:data"]);
    let submitted = shell.json(&["submit", dir.to_str().expect("UTF-8"), "--json"]).await;
    let job = submitted["job_id"].as_str().expect("an id");
    shell.pool.finished(job).await;
    assert_eq!(shell.json(&["status", job, "--json"]).await["pool_status"], "completed");
    assert_eq!(shell.json(&["logs", job, "--json"]).await["stdout"], "hello");
    assert!(shell.json(&["outputs", job, "--json"]).await.to_string().contains("o.txt"));
    assert!(shell.json(&["jobs", "--json"]).await.to_string().contains(job));
    assert!(shell.json(&["workers", "--json"]).await.to_string().contains(shell.standin.worker_id()));
}

#[tokio::test]
async fn failed_job_is_not_a_failed_command() {
    let shell = Shell::start().await;
    let job = shell.pool.run(&["exit=3"]).await;
    shell.pool.failed(&job, "job_failed").await;
    assert!(shell.ok(&["status", &job]).await.contains("failed"));
    shell.ok(&["logs", &job]).await;
}

#[tokio::test]
async fn exit_codes_tell_an_unknown_job_an_absent_pool_and_a_wrong_command_apart() {
    let shell = Shell::start().await;
    let unknown = shell.run(&["status", "pool-0123456789abcdef01234567"]).await;
    let away = run_at("http://127.0.0.1:9", shell.dir.path(), &["jobs"]).await;
    let wrong = shell.run(&["statsu"]).await;
    let codes = [&unknown, &away, &wrong].map(|output| output.status.code().expect("an exit code"));
    assert!(codes.iter().all(|code| *code != 0), "{codes:?}");
    assert!(codes[0] != codes[1] && codes[1] != codes[2] && codes[0] != codes[2], "{codes:?}");
    for output in [unknown, away, wrong] {
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[tokio::test]
async fn what_the_pool_refuses_is_said_in_the_pools_words() {
    let shell = Shell::start().await;
    let dir = shell.job_directory(&[]);
    fs::write(dir.join("manifest.json"), r#"{"entrypoint": 7}"#).expect("a writable directory");
    let output = shell.run(&["submit", dir.to_str().expect("UTF-8")]).await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("entrypoint"));
}

#[tokio::test]
async fn pool_option_wins_over_the_environment() {
    let pool = Pool::start(&[nobody()], "").await;
    let dir = TempDir::new().expect("a temporary directory");
    let output = run_at("http://127.0.0.1:9", dir.path(), &["workers", "--pool", &pool.url()]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn demo_runs_its_job_in_the_real_sandbox_and_fetches_its_outputs() {
    let done = timeout(Duration::from_secs(60), command(&["demo"]).output())
        .await
        .expect("in time")
        .expect("it starts");
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    let output = said.lines().find(|line| line.ends_with("results/output.txt") && line.starts_with('/'));
    let output = Path::new(output.expect("the output's path"));
    assert!(output.metadata().expect("the output").len() > 0, "{said}");
    let directory =
        output.ancestors().nth(3).expect("outputs/results/output.txt is below the demo's directory");
    fs::remove_dir_all(directory).expect("the demo's directory is ours to remove");
}
