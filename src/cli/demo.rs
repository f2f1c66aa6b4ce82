//! `demo`: a whole pool on this machine, with fresh keys and the example job. Everything is done by the commands that a
//! user would give, as processes of their own, so that what is shown is the product and not a part of it.

mod process;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::process::Process;
use super::exit::Failure;
use super::follow::{self, LogMode};
use super::live_log::Shown;
use super::{download, pack};
use crate::client::{Client, ClientError, Part, Upload};
use crate::job::{JobId, PoolStatus};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leave the pool running when the job is done, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

const MANIFEST: &str = include_str!("../../conf/examples/hello/manifest.json");
const PROGRAM: &str = include_str!("../../conf/examples/hello/main.py");

const WORKERS: usize = 2;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_PAUSE: Duration = Duration::from_millis(100);
/// The example takes two seconds.
const JOB_TIMEOUT: Duration = Duration::from_secs(120);

/// What a shell gives for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// A demo's directory and the processes that it has started.
struct Demo {
    directory: PathBuf,
    processes: Vec<Process>,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    require_sandbox()?;
    let directory =
        tempfile::Builder::new().prefix("trusted-pool-demo-").tempdir().map_err(Failure::set_up)?.keep();
    let mut demo = Demo { directory, processes: Vec::new() };
    let mut done = tokio::select! {
        done = demo.show(&args) => done.map(|()| ExitCode::SUCCESS),
        ended = interruption() => ended.map(|()| ExitCode::from(INTERRUPTED)),
    };
    if args.keep && done.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS) {
        // What it was kept for is over then: no failure.
        done = interruption().await.map(|()| ExitCode::SUCCESS);
    }
    for process in &mut demo.processes {
        process.stop().await;
    }
    if done.is_err() {
        eprintln!("the logs are in {}", demo.directory.display());
    }
    done
}

impl Demo {
    async fn show(&mut self, args: &Args) -> Result<(), Failure> {
        println!("everything is in {}", self.directory.display());
        let client = self.start().await?;
        let job = self.submit(&client).await?;
        println!("submitted {job}; its log:");
        let live = LogMode::Live(Shown::Both);
        let status = follow::until_finished(&client, &job, Some(JOB_TIMEOUT), live).await?.value;
        println!("{job}: {}", follow::outcome(&status));
        if status.pool_status != PoolStatus::Completed {
            return Err(ClientError::Unexpected("the example job did not complete".to_owned()).into());
        }
        println!("its outputs:");
        download::all(&client, &job, &self.directory.join("outputs")).await?;
        if args.keep {
            self.invite(client.url(), &job);
        }
        Ok(())
    }

    /// Starts the workers, then the pool; a client of it, once it is ready.
    async fn start(&mut self) -> Result<Client, Failure> {
        let data = self.directory.join("data");
        DirBuilder::new().mode(0o700).create(&data).map_err(Failure::set_up)?;
        let pool_id = self.keygen("data/pool.pem").await?;
        let mut listed = Vec::new();
        for number in 1..=WORKERS {
            let name = format!("worker{number}");
            let key = format!("{name}.pem");
            let id = self.keygen(&key).await?;
            let (key, data) = (self.path(&key), self.path(&name));
            let mut arguments = vec!["worker", "--key", &key, "--tls", "--pool-key", &pool_id];
            arguments.extend(["--listen", "127.0.0.1:0", "--capacity", "2", "--data", &data]);
            let worker = Process::start(&name, &arguments, &self.directory).await?;
            println!("{name} listens on {}, id {id}", worker.url());
            listed.push(json!({"worker_id": id, "endpoint": worker.url()}));
            self.processes.push(worker);
        }
        self.write("workers.json", &serde_json::Value::from(listed).to_string())?;
        let config = json!({
            "listen": "127.0.0.1:0", "data": self.path("data"), "workers": "workers.json",
            "trust": {"require": "pinned"},
        });
        self.write("pool.yaml", &config.to_string())?;
        let arguments = ["serve", "--config", &self.path("pool.yaml")];
        let pool = Process::start("pool", &arguments, &self.directory).await?;
        println!("the pool listens on {}", pool.url());
        let client = Client::new(pool.url(), None)?;
        self.processes.push(pool);
        wait_until_ready(&client).await?;
        Ok(client)
    }

    /// Makes a key in this file of the directory; its id.
    async fn keygen(&self, file: &str) -> Result<String, Failure> {
        let said = process::output(&["keygen", &self.path(file)]).await?;
        let id = said.trim().strip_prefix("Worker ID: ");
        id.map(str::to_owned).ok_or_else(|| Failure::Setup(format!("keygen said {said:?}")))
    }

    async fn submit(&self, client: &Client) -> Result<JobId, Failure> {
        let job = self.directory.join("job");
        fs::create_dir(&job).map_err(Failure::set_up)?;
        self.write("job/manifest.json", MANIFEST)?;
        self.write("job/main.py", PROGRAM)?;
        let packed = pack::directory(&job).and_then(|file| Part::new("hello.tar.gz".to_owned(), file));
        let upload = Upload {
            files: vec![packed.map_err(Failure::set_up)?],
            manifest: MANIFEST.to_owned(),
            priority: None,
            idempotency_key: None,
            progress: Box::new(|_| ()),
        };
        Ok(client.submit(upload).await?.value.job_id)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        fs::write(self.directory.join(name), text).map_err(Failure::set_up)
    }

    fn invite(&self, url: &str, job: &JobId) {
        println!(
            "\nThe pool goes on until Ctrl-C. Try:
  curl {url}/pool
  curl {url}/status/{job}
  curl {url}/logs/{job}
  curl {url}/outputs/{job}/results/output.txt
  curl -F files=@{program} -F 'manifest={{\"entrypoint\":\"main.py\"}}' {url}/submit
  export TRUSTED_POOL_URL={url}   # then: trusted-pool jobs",
            program = self.path("job/main.py")
        );
    }
}

/// The workers would say it too, but later and in a log.
fn require_sandbox() -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory: PathBuf| is_program(&directory.join("bwrap"))) {
        return Ok(());
    }
    Err(Failure::Setup(
        "bubblewrap is missing: the workers run each job in its sandbox. Install it, on Debian or Ubuntu with: \
         apt install bubblewrap"
            .to_owned(),
    ))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

async fn wait_until_ready(client: &Client) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match client.ready().await {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > READY_TIMEOUT => {
                return Err(Failure::TimedOut(format!("the pool does not get ready: {error}")));
            }
            Err(_) => tokio::time::sleep(READY_PAUSE).await,
        }
    }
}

/// Ctrl-C, a closed terminal, or an order to end: whatever it is, no process is to be left behind.
async fn interruption() -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::set_up)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::set_up)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::set_up)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
