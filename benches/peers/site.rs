//! What stands on loopback during a measurement: the files, nginx as a worker, and beside each other nginx, HAProxy and the pool before it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use trusted_pool::time::Clock;
use trusted_pool::worker::certificate::OwnCertificate;
use trusted_pool::worker::identity::SecretKey;

use crate::client::{Door, ask};
use crate::process::{Process, free_address};

/// What is downloaded, by name and size.
pub const FILES: [(&str, u64); 3] = [("1GiB", 1 << 30), ("1MiB", 1 << 20), ("4KiB", 4 << 10)];

/// Long enough for a job to be dispatched, run and collected by a pool that has just started.
const JOB_MAX: Duration = Duration::from_secs(30);

/// A directory with files, keys and configurations, and the two workers that nginx plays.
pub struct Site {
    directory: TempDir,
    client_tls: Arc<ClientConfig>,
    worker_id: String,
    /// Ends every job at once.
    worker: Addresses,
    /// Never ends a job.
    busy: SocketAddr,
    _nginx: Process,
}

/// Where one server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
}

/// How the server under measurement speaks to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    Plain,
    /// TLS 1.3 with the worker's key, and no other.
    PinnedTls,
}

/// A server under measurement.
pub struct Peer {
    pub name: &'static str,
    pub process: Process,
    addresses: Addresses,
    client_tls: Arc<ClientConfig>,
    /// What comes before the name of a file.
    pub prefix: String,
}

impl Addresses {
    fn free() -> Self {
        Self { plain: free_address(), tls: free_address() }
    }
}

impl Site {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("trusted-pool-bench").tempdir();
        let directory = directory.expect("a directory for the measurement");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("files")).expect("the site is writable");
        for (name, bytes) in FILES {
            fill(&at("files").join(name), bytes);
        }
        let client_tls = front_certificate(directory.path());
        let worker_id = worker_certificate(directory.path());
        let (worker, busy) = (Addresses::free(), free_address());
        fs::write(at("worker.conf"), worker_conf(directory.path(), &worker_id, worker, busy))
            .expect("the site is writable");
        let nginx = nginx(directory.path(), "worker", &[worker.plain, worker.tls, busy]);
        Self { directory, client_tls, worker_id, worker, busy, _nginx: nginx }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// nginx as a reverse proxy.
    pub fn nginx(&self, behind: Behind) -> Peer {
        let (addresses, name) = (Addresses::free(), format!("nginx-{behind:?}"));
        let conf = nginx_conf(self.path(), addresses, self.worker, behind);
        fs::write(self.path().join(format!("{name}.conf")), conf).expect("the site is writable");
        let process = nginx(self.path(), &name, &[addresses.plain, addresses.tls]);
        self.peer("nginx", process, addresses, "/download/job/".to_owned())
    }

    pub fn haproxy(&self, behind: Behind) -> Peer {
        let addresses = Addresses::free();
        let conf = self.path().join(format!("haproxy-{behind:?}.cfg"));
        fs::write(&conf, haproxy_conf(self.path(), addresses, self.worker, behind))
            .expect("the site is writable");
        let mut command = Command::new(program("haproxy"));
        command.arg("-db").arg("-f").arg(conf);
        let log = self.path().join(format!("haproxy-{behind:?}.log"));
        let process = Process::start(command, &[addresses.plain, addresses.tls], &log);
        self.peer("haproxy", process, addresses, "/download/job/".to_owned())
    }

    /// The pool, with a job whose outputs are the files.
    pub fn pool(&self, behind: Behind) -> Peer {
        self.pool_under(Command::new(POOL), behind)
    }

    /// The same, started by this command in its place.
    pub fn pool_under(&self, mut command: Command, behind: Behind) -> Peer {
        if command.get_program() != POOL {
            command.arg(POOL);
        }
        let endpoint = match behind {
            Behind::Plain => format!("http://{}", self.worker.plain),
            Behind::PinnedTls => format!("https://{}", self.worker.tls),
        };
        let mut peer = self.start_pool(command, &format!("pool-{behind:?}"), &self.workers(&endpoint));
        let job = peer.submit(b"x");
        peer.wait_for(&job, "completed");
        peer.prefix = format!("/outputs/{job}/");
        peer
    }

    /// A pool whose only worker is at its first job for ever, and that job: others wait.
    pub fn busy_pool(&self) -> (Peer, String) {
        let workers = json!([{"worker_id": self.worker_id, "endpoint": format!("http://{}", self.busy),
            "max_concurrent_jobs": 1}]);
        let peer = self.pool_of("pool-busy", &workers);
        let job = peer.submit(b"x");
        peer.wait_for(&job, "running");
        (peer, job)
    }

    fn workers(&self, endpoint: &str) -> Value {
        json!([{"worker_id": self.worker_id, "endpoint": endpoint, "max_concurrent_jobs": 256}])
    }

    /// A pool with these workers.
    pub fn pool_of(&self, name: &str, workers: &Value) -> Peer {
        self.start_pool(Command::new(POOL), name, workers)
    }

    fn start_pool(&self, mut command: Command, name: &str, workers: &Value) -> Peer {
        let (addresses, at) = (Addresses::free(), self.path().join(name));
        // Each pool begins with nothing.
        let _ = fs::remove_dir_all(&at);
        fs::create_dir_all(&at).expect("the site is writable");
        let workers_file = at.join("workers.json");
        fs::write(&workers_file, workers.to_string()).expect("the site is writable");
        let (certificate, key) = (self.path().join("front.crt"), self.path().join("front.key"));
        let conf = format!(
            "listen: {}\nlisten_tls: {}\ncert: {}\nkey: {}\ndata: {}\nworkers: {}\nmax_queued_jobs: 10000000\nmax_upload: 2GiB\nlog: warn\n",
            addresses.plain,
            addresses.tls,
            certificate.display(),
            key.display(),
            at.join("data").display(),
            workers_file.display()
        );
        fs::write(at.join("pool.yaml"), conf).expect("the site is writable");
        command.arg("serve").arg("--config").arg(at.join("pool.yaml"));
        let process = Process::start(command, &[addresses.plain, addresses.tls], &at.join("log"));
        self.peer("pool", process, addresses, String::new())
    }

    fn peer(&self, name: &'static str, process: Process, addresses: Addresses, prefix: String) -> Peer {
        Peer { name, process, addresses, client_tls: Arc::clone(&self.client_tls), prefix }
    }
}

impl Peer {
    pub fn plain(&self) -> Door {
        Door { address: self.addresses.plain, tls: None }
    }

    pub fn tls(&self) -> Door {
        Door { address: self.addresses.tls, tls: Some(Arc::clone(&self.client_tls)) }
    }

    /// Has a job run whose one file this is; its id.
    pub fn submit(&self, file: &[u8]) -> String {
        let (status, body) = ask(&self.plain(), &upload(file)).expect("the pool answers");
        let answer: Value = serde_json::from_slice(&body).expect("the pool answers JSON");
        assert_eq!(status, 200, "{answer}");
        answer["job_id"].as_str().expect("a job has an id").to_owned()
    }

    pub fn wait_for(&self, job: &str, status: &str) {
        let deadline = Instant::now() + JOB_MAX;
        loop {
            let request = b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let (_, body) = ask(&self.plain(), request).expect("the pool answers");
            let jobs: Value = serde_json::from_slice(&body).expect("the pool answers JSON");
            let mut jobs = jobs["jobs"].as_array().into_iter().flatten();
            if jobs.any(|of| of["job_id"] == job && of["status"] == status) {
                return;
            }
            assert!(Instant::now() < deadline, "the job is not {status}: {}", String::from_utf8_lossy(&body));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The program under measurement.
pub const POOL: &str = env!("CARGO_BIN_EXE_trusted-pool");

const BOUNDARY: &str = "the-boundary-of-a-measurement";

/// What a `/submit` has before and after its one file.
pub fn form() -> (String, String) {
    form_for("sh")
}

fn form_for(interpreter: &str) -> (String, String) {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\n\
         {{\"entrypoint\":\"main.sh\",\"interpreter\":\"{interpreter}\"}}\r\n--{BOUNDARY}\r\n\
         Content-Disposition: form-data; name=\"files\"; filename=\"main.sh\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    (head, format!("\r\n--{BOUNDARY}--\r\n"))
}

pub fn form_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// The head of a `/submit` of so many bytes.
pub fn upload_head(file_bytes: u64) -> String {
    let (head, tail) = form();
    request_head((head.len() + tail.len()) as u64 + file_bytes)
}

fn request_head(body_bytes: u64) -> String {
    format!(
        "POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        form_type(),
        body_bytes
    )
}

/// A whole `/submit` of one file.
pub fn upload(file: &[u8]) -> Vec<u8> {
    job_upload(file, "sh")
}

/// The same, of a script for this interpreter.
pub fn job_upload(file: &[u8], interpreter: &str) -> Vec<u8> {
    let (head, tail) = form_for(interpreter);
    let request_head = request_head((head.len() + file.len() + tail.len()) as u64);
    [request_head.as_bytes(), head.as_bytes(), file, tail.as_bytes()].concat()
}

fn fill(path: &Path, bytes: u64) {
    let file = File::create(path).expect("the site is writable");
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..bytes / 8 {
        // xorshift64: nothing on the way can compress it.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).expect("there is room for 1 GiB");
    }
    file.flush().expect("there is room for 1 GiB");
}

/// Makes what every front shows, and returns what its clients trust.
fn front_certificate(at: &Path) -> Arc<ClientConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("the name is a name");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(at.join("front.crt"), &certificate).expect("the site is writable");
    fs::write(at.join("front.key"), &key).expect("the site is writable");
    // HAProxy wants both in one file.
    fs::write(at.join("front.pem"), certificate + &key).expect("the site is writable");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("it has just been made");
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// Makes the worker's key and the certificate that the pool expects of it; the worker's id.
fn worker_certificate(at: &Path) -> String {
    let key = SecretKey::generate();
    let own = OwnCertificate::new(key, Clock::System);
    let der = own.current().cert[0].to_vec();
    let base64 = BASE64_STANDARD.encode(der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    fs::write(at.join("worker.crt"), pem).expect("the site is writable");
    fs::write(at.join("worker.key"), own.secret().to_pkcs8_pem().as_bytes()).expect("the site is writable");
    own.public().to_string()
}

fn nginx(at: &Path, name: &str, listens: &[SocketAddr]) -> Process {
    let mut command = Command::new(program("nginx"));
    command.arg("-p").arg(at).arg("-e").arg(at.join(format!("{name}.err")));
    command.arg("-c").arg(at.join(format!("{name}.conf"))).args(["-g", "daemon off;"]);
    Process::start(command, listens, &at.join(format!("{name}.log")))
}

/// Debian keeps servers where the path of an ordinary user does not lead.
pub fn program(name: &str) -> PathBuf {
    let there = Path::new("/usr/sbin").join(name);
    if there.exists() { there } else { PathBuf::from(name) }
}

/// What every nginx here has in common.
fn nginx_frame(at: &Path, name: &str, workers: usize, http: &str) -> String {
    let at = at.display();
    format!(
        "pid {at}/{name}.pid;\nworker_processes {workers};\nuser root;\nworker_rlimit_nofile 20000;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n access_log off;\n sendfile on;\n tcp_nopush on;\n keepalive_requests 1000000000;\n keepalive_timeout 300s;\n\
         client_max_body_size 0;\n client_body_temp_path {at}/{name}-body;\n proxy_temp_path {at}/{name}-proxy;\n\
         fastcgi_temp_path {at}/{name}-1;\n uwsgi_temp_path {at}/{name}-2;\n scgi_temp_path {at}/{name}-3;\n{http}\n}}\n"
    )
}

/// nginx as a worker of the second dialect, which keeps its connections.
fn worker_conf(at: &Path, id: &str, worker: Addresses, busy: SocketAddr) -> String {
    let files: Vec<Value> = FILES.iter().map(|(name, size)| json!({"name": name, "size": size})).collect();
    let listing = json!({"job_id": "job", "status": "completed", "files": files});
    let health = json!({"status": "healthy", "worker_id": id, "protocol": 2, "capacity": 1024});
    let status = |word: &str| json!({"job_id": "job", "status": word, "progress": "0".repeat(64), "execution_metadata": {"exit_code": 0}});
    let locations = |word: &str| {
        format!(
            "default_type application/json;\n\
             location = /health {{ return 200 '{health}'; }}\n\
             location = /submit {{ return 200 '{{\"job_id\":\"job-$request_id\",\"status\":\"queued\"}}'; }}\n\
             location /status/ {{ return 200 '{}'; }}\n\
             location /outputs/ {{ return 200 '{listing}'; }}\n\
             location /logs/ {{ return 200 '{{\"stdout\":\"\",\"stderr\":\"\"}}'; }}\n\
             location ~ ^/download/[^/]+/(?<file>[^/]+)$ {{ default_type application/octet-stream; alias {}/files/$file; }}\n",
            status(word),
            at.display()
        )
    };
    let (plain, tls, certificates) = (worker.plain, worker.tls, at.display());
    let http = format!(
        " server {{ listen {plain} backlog=4096;\n listen {tls} ssl backlog=4096;\n ssl_certificate {certificates}/worker.crt;\n\
         ssl_certificate_key {certificates}/worker.key;\n ssl_protocols TLSv1.3;\n{} }}\n server {{ listen {busy};\n{} }}\n",
        locations("completed"),
        locations("running")
    );
    nginx_frame(at, "worker", 1, &http)
}

/// nginx as it is set up for large answers: kept connections to the worker, large buffers, nothing written to disk.
fn nginx_conf(at: &Path, own: Addresses, worker: Addresses, behind: Behind) -> String {
    let (address, scheme) = match behind {
        Behind::Plain => (worker.plain, "http"),
        Behind::PinnedTls => (worker.tls, "https"),
    };
    let (plain, tls, certificates) = (own.plain, own.tls, at.display());
    let http = format!(
        " upstream worker {{ server {address}; keepalive 128; keepalive_requests 1000000000; }}\n\
         server {{ listen {plain} reuseport;\n listen {tls} ssl http2 reuseport;\n ssl_certificate {certificates}/front.crt;\n\
         ssl_certificate_key {certificates}/front.key;\n ssl_protocols TLSv1.2 TLSv1.3;\n http2_max_requests 1000000000;\n\
         location / {{ proxy_pass {scheme}://worker; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_max_temp_file_size 0; proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 256k;\n\
         proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificates}/worker.crt;\n\
         proxy_ssl_name trusted-pool; }} }}\n"
    );
    nginx_frame(at, &format!("nginx-{behind:?}"), 2, &http)
}

fn haproxy_conf(at: &Path, own: Addresses, worker: Addresses, behind: Behind) -> String {
    let at = at.display();
    let server = match behind {
        Behind::Plain => worker.plain.to_string(),
        Behind::PinnedTls => format!("{} ssl verify required ca-file {at}/worker.crt", worker.tls),
    };
    format!(
        "global\n nbthread 2\n maxconn 4096\n tune.ssl.default-dh-param 2048\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n option splice-auto\n option http-keep-alive\n\
         http-reuse always\n\
         frontend front\n bind {}\n bind {} ssl crt {at}/front.pem alpn h2,http/1.1\n default_backend worker\n\
         backend worker\n server worker {server} pool-max-conn 128\n",
        own.plain, own.tls
    )
}
