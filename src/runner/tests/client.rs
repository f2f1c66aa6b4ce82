//! A worker in this process, and an HTTP client that sends what the test says and nothing else.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::runner::enforcement::Enforcement;
use crate::runner::environment::Environments;
use crate::runner::limits::tests::ROOMY;
use crate::runner::limits::{Grant, Limits, NetworkPolicy};
use crate::runner::sandbox::Sandbox;
use crate::runner::server::{Stop, serve};
use crate::runner::tls::Access;
use crate::runner::worker::{Settings, Worker};
use crate::time::Clock;
use crate::worker::certificate::OwnCertificate;
use crate::worker::identity::SecretKey;

pub const BOUNDARY: &str = "XBOUNDARYX";

pub struct TestWorker {
    pub address: SocketAddr,
    pub data: tempfile::TempDir,
    pub stop: mpsc::Sender<Stop>,
    pub serving: JoinHandle<std::io::Result<()>>,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// What tests grant their jobs.
pub const GRANT: Grant =
    Grant { limits: ROOMY, default_timeout: Duration::from_secs(30), network: NetworkPolicy::Refuse };

/// The machine's best sandbox.
pub fn sandbox() -> Sandbox {
    Sandbox::bubblewrap(&ROOMY, &Enforcement::find(&ROOMY)).unwrap_or(Sandbox::None)
}

impl TestWorker {
    /// Where a job's own files are.
    pub fn work_of(&self, id: &str) -> std::path::PathBuf {
        self.data.path().join("data").join("jobs").join(id).join("work")
    }

    pub async fn start(capacity: u32) -> Self {
        Self::with(capacity, sandbox(), Duration::from_secs(3600)).await
    }

    pub async fn with(capacity: u32, sandbox: Sandbox, keep: Duration) -> Self {
        Self::open(capacity, sandbox, keep, GRANT).await
    }

    /// A worker whose jobs have these limits.
    pub async fn limited(limits: Limits) -> Self {
        Self::granting(Grant { limits, ..GRANT }).await
    }

    /// A worker whose jobs are granted this.
    pub async fn granting(grant: Grant) -> Self {
        Self::open(2, sandbox(), Duration::from_secs(3600), grant).await
    }

    /// A worker whose operator has prepared these.
    pub async fn in_environments(sandbox: Sandbox, environments: Environments) -> Self {
        let identity = OwnCertificate::new(SecretKey::generate(), Clock::System);
        let own = (identity, Access::Plain, environments);
        Self::open_as(2, sandbox, Duration::from_secs(3600), GRANT, own).await
    }

    /// A worker with this certificate.
    pub async fn with_tls(identity: Arc<OwnCertificate>, access: Access) -> Self {
        let keep = Duration::from_secs(3600);
        Self::open_as(1, Sandbox::None, keep, GRANT, (identity, access, Environments::default())).await
    }

    async fn open(capacity: u32, sandbox: Sandbox, keep: Duration, grant: Grant) -> Self {
        let identity = OwnCertificate::new(SecretKey::generate(), Clock::System);
        let own = (identity, Access::Plain, Environments::default());
        Self::open_as(capacity, sandbox, keep, grant, own).await
    }

    async fn open_as(
        capacity: u32,
        sandbox: Sandbox,
        keep: Duration,
        grant: Grant,
        (identity, access, environments): (Arc<OwnCertificate>, Access, Environments),
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        let worker = Worker::open(Settings {
            identity,
            capacity: NonZeroU32::new(capacity).unwrap(),
            data: data.path().join("data"),
            sandbox,
            enforcement: Enforcement::find(&grant.limits),
            grant,
            interpreters: Vec::new(),
            environments,
            labels: [("gpu".to_owned(), "a100".to_owned())].into(),
            keep,
            drain: Duration::from_secs(30),
            max_upload: 1024 * 1024,
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stops) = mpsc::channel(2);
        Self { address, data, stop, serving: tokio::spawn(serve(worker, listener, access, stops)) }
    }

    /// Sends a request as it stands, on a connection of its own.
    pub async fn send(&self, request: &[u8]) -> Answer {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        exchange(&mut connection, request).await
    }

    /// A request without a body; `headers` are whole lines.
    pub async fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nhost: w\r\n{headers}\r\n").as_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "").await
    }

    pub async fn submit(&self, parts: &[Part<'_>], headers: &str) -> Answer {
        self.send(&submission(parts, headers)).await
    }

    /// Submits a shell script that is accepted, and tells the job's id.
    pub async fn run(&self, script: &str, manifest: &str) -> String {
        let parts = [Part::file("run.sh", script.as_bytes()), Part::manifest(manifest)];
        let answer = self.submit(&parts, "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["job_id"].as_str().unwrap().to_owned()
    }

    /// The status of a job when it has ended.
    pub async fn end(&self, id: &str) -> Value {
        let status = self.get(&format!("/status/{id}?wait=60")).await.json();
        assert!(matches!(status["status"].as_str(), Some("completed" | "failed")), "{status}");
        status
    }

    /// What a script wrote to stdout by the time it ended.
    pub async fn output_of(&self, script: &str) -> String {
        let id = self.run(script, "{}").await;
        self.end(&id).await;
        self.get(&format!("/logs/{id}")).await.json()["stdout"].as_str().unwrap().to_owned()
    }
}

/// One part of a multipart form.
pub struct Part<'a> {
    disposition: String,
    content: &'a [u8],
}

impl<'a> Part<'a> {
    pub fn file(name: &str, content: &'a [u8]) -> Self {
        Self { disposition: format!("name=\"files\"; filename=\"{name}\""), content }
    }

    pub fn manifest(json: &'a str) -> Self {
        Self { disposition: "name=\"manifest\"".into(), content: json.as_bytes() }
    }
}

pub fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {}\r\n\r\n", part.disposition);
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(part.content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub fn submission(parts: &[Part<'_>], headers: &str) -> Vec<u8> {
    let body = form(parts);
    let mut request = format!(
        "POST /submit HTTP/1.1\r\nhost: w\r\ncontent-type: multipart/form-data; boundary={BOUNDARY}\r\n\
         content-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}

pub fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// Sends a request and reads one answer, leaving the connection open for another.
pub async fn exchange<S>(connection: &mut S, request: &[u8]) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(connection.read_buf(&mut bytes).await.unwrap() > 0, "closed before an answer");
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
    let status = head[9..12].parse().unwrap();
    let mut answer = Answer { status, head, body: Vec::new() };
    if answer.header("transfer-encoding").is_some() {
        while !body.ends_with(b"\r\n0\r\n\r\n") && connection.read_buf(&mut body).await.unwrap() > 0 {}
        answer.body = unchunk(&body);
        return answer;
    }
    let bodiless = request.starts_with(b"HEAD") || status == 304;
    let length =
        answer.header("content-length").filter(|_| !bodiless).map_or(0, |length| length.parse().unwrap());
    while body.len() < length && connection.read_buf(&mut body).await.unwrap() > 0 {}
    assert_eq!(body.len(), length, "the body is as long as announced");
    answer.body = body;
    answer
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}
