//! Who a worker is: its key on every connection, and not a byte for anybody else.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::harness::{Pool, command, write_config};
use crate::standin::{Quirks, Standin};
use crate::tls::{Shown, TlsFront, ask_over_tls, fresh_key};

const HOST: &str = "127.0.0.1";

/// Outputs stream from the workers, so that each read is a connection to one.
const STREAMED: &str = "outputs: {keep: 0s}\n";

/// The worker's id in an entry of workers.json.
fn id(entry: &Value) -> String {
    entry["worker_id"].as_str().expect("an id").to_owned()
}

/// A stand-in with its own key before it.
async fn worker_with_tls(quirks: Quirks) -> (Standin, Shown, TlsFront) {
    let standin = Standin::start(quirks).await;
    let shown = Shown::of(standin.key());
    let front = TlsFront::start(&shown, standin.address()).await;
    (standin, shown, front)
}

async fn output(pool: &Pool, job: &str, path: &str) -> (u16, Vec<u8>) {
    let answer = pool.get(&format!("/outputs/{job}/{path}")).await;
    (answer.status(), answer.body)
}

#[tokio::test]
async fn worker_with_tls_is_pinned_and_all_of_a_job_goes_over_it() {
    for (quirks, name, path) in [
        (Quirks::second(), "r/a b.txt", "r/a%20b.txt"),
        (Quirks::brisk(), "r/100%.txt", "r/100%25.txt"),
        (Quirks::brisk(), "r/a.txt", "r/a.txt"),
    ] {
        for keep in ["", STREAMED] {
            let (standin, _, front) = worker_with_tls(quirks.clone()).await;
            let pool = Pool::start(&[front.entry(standin.key(), HOST)], keep).await;
            let job = pool.complete(&[&format!("out={name}:hello"), "stdout=hi"]).await;
            assert_eq!(output(&pool, &job, path).await, (200, b"hello".to_vec()));
            assert_eq!(pool.get(&format!("/logs/{job}")).await.expect(200)["stdout"], "hi");
            assert_eq!(pool.get(&format!("/download/{job}")).await.status(), 200);
            assert_eq!(pool.worker(standin.worker_id()).await["identity"], "pinned");
        }
    }
}

#[tokio::test]
async fn whoever_has_not_the_workers_key_gets_not_a_byte() {
    for (show, why) in [
        (
            Box::new(|_: &SigningKey| Shown::of(&fresh_key())) as Box<dyn Fn(&SigningKey) -> Shown>,
            "another key",
        ),
        (Box::new(Shown::delegated), "self-signed"),
        (Box::new(Shown::expired), "expired"),
        (Box::new(Shown::stolen), "signature"),
        (Box::new(Shown::tls12), "alert"),
    ] {
        let wrong = Standin::start(Quirks::second()).await;
        let shown = show(wrong.key());
        let front = TlsFront::start(&shown, wrong.address()).await;
        let (good, _, good_front) = worker_with_tls(Quirks::second()).await;
        let entries = [front.entry(wrong.key(), HOST), good_front.entry(good.key(), HOST)];
        let pool = Pool::start(&entries, "").await;
        for _ in 0..4 {
            pool.complete(&[]).await;
        }
        let worker = pool.worker_until(wrong.worker_id(), |worker| worker["last_error"].is_string()).await;
        assert_eq!((&worker["is_healthy"], &worker["identity"]), (&json!(false), &Value::Null), "{worker}");
        assert!(worker["last_error"].as_str().unwrap().to_lowercase().contains(why), "{why}: {worker}");
        assert_eq!((shown.taken(), wrong.seen("").len(), good.ran().len()), (0, 0, 4), "{why}");
    }
}

#[tokio::test]
async fn address_of_one_worker_with_the_key_of_another_is_neither() {
    let (a, b) = (Standin::start(Quirks::second()).await, Standin::start(Quirks::second()).await);
    let (shown_a, shown_b) = (Shown::of(a.key()), Shown::of(b.key()));
    let at_a = TlsFront::start(&shown_b, b.address()).await;
    let at_b = TlsFront::start(&shown_a, a.address()).await;
    let entries = [at_a.entry(a.key(), HOST), at_b.entry(b.key(), HOST)];
    let pool = Pool::start(&entries, "").await;
    let job = pool.run(&[]).await;
    for (entry, other) in [(&entries[0], b.worker_id()), (&entries[1], a.worker_id())] {
        let worker = pool.worker_until(&id(entry), |worker| worker["last_error"].is_string()).await;
        assert!(worker["last_error"].as_str().unwrap().contains(other), "{worker}");
    }
    assert_eq!(pool.status(&job).await["pool_status"], "queued");
    assert_eq!((shown_a.taken(), shown_b.taken()), (0, 0));
}

#[tokio::test]
async fn server_without_tls_at_an_https_endpoint_gets_no_request() {
    let standin = Standin::start(Quirks::second()).await;
    let mut entry = standin.entry(1);
    entry["endpoint"] = json!(format!("https://{}", standin.address()));
    let pool = Pool::start(&[entry], "").await;
    pool.run(&[]).await;
    pool.worker_until(standin.worker_id(), |worker| worker["last_error"].is_string()).await;
    assert!(standin.seen("").is_empty());
}

#[tokio::test]
async fn connection_that_one_worker_was_reached_by_is_never_used_for_another() {
    // One address, listed under two names: first it is A's, then B's.
    let (a, shown_a, front) = worker_with_tls(Quirks::second()).await;
    let b = Standin::start(Quirks::second()).await;
    let entries = [front.entry(a.key(), "127.0.0.1"), front.entry(b.key(), "localhost")];
    let pool = Pool::start(&entries, STREAMED).await;
    let of_a = pool.complete(&["out=r.txt:of a"]).await;
    assert_eq!(output(&pool, &of_a, "r.txt").await, (200, b"of a".to_vec()));
    let shown_b = Shown::of(b.key());
    front.show(&shown_b, b.address());
    pool.worker_until(b.worker_id(), |worker| worker["is_healthy"] == true).await;
    let (taken, seen) = (shown_a.taken(), a.seen("").len());
    let of_b = pool.complete(&["out=r.txt:of b"]).await;
    for _ in 0..4 {
        assert_eq!(output(&pool, &of_b, "r.txt").await, (200, b"of b".to_vec()));
    }
    assert_eq!((shown_a.taken(), a.seen("").len()), (taken, seen), "A was asked for what is B's");
}

#[tokio::test]
async fn worker_whose_key_changes_is_given_nothing_more_whatever_connections_are_open() {
    let (worker, shown, front) = worker_with_tls(Quirks::second()).await;
    let pool = Pool::start(&[front.entry(worker.key(), HOST)], STREAMED).await;
    let job = pool.complete(&["out=r.txt:mine"]).await;
    assert_eq!(output(&pool, &job, "r.txt").await, (200, b"mine".to_vec()));
    let impostor = Standin::start(Quirks::second()).await;
    let other = Shown::of(impostor.key());
    front.show(&other, impostor.address());
    pool.healthy(0).await;
    let before = shown.taken();
    pool.run(&["out=r.txt:secret"]).await;
    for _ in 0..4 {
        // The connection that is open is still to the worker's key, and may serve it.
        let answer = output(&pool, &job, "r.txt").await;
        assert!(answer == (200, b"mine".to_vec()) || answer.0 == 502, "{answer:?}");
    }
    assert_eq!((other.taken(), impostor.seen("").len()), (0, 0));
    assert!(shown.taken() < before + 4096, "a job went to a worker that is down");
}

#[tokio::test]
async fn reader_of_outputs_is_never_connected_to_who_has_not_the_workers_key() {
    // A worker that closes after each answer, so that each read is a new connection, whatever checks find meanwhile.
    let (worker, shown, front) = worker_with_tls(Quirks::brisk()).await;
    let pool = Pool::start(&[front.entry(worker.key(), HOST)], STREAMED).await;
    let job = pool.complete(&["out=r.txt:mine", "out=a b:too"]).await;
    let key = worker.key();
    let impostors = [
        Shown::of(&fresh_key()),
        Shown::delegated(key),
        Shown::stolen(key),
        Shown::expired(key),
        Shown::tls12(key),
    ];
    for (n, impostor) in impostors.iter().enumerate() {
        front.show(&shown, worker.address());
        pool.healthy(1).await;
        assert_eq!(output(&pool, &job, "r.txt").await, (200, b"mine".to_vec()));
        front.show(impostor, worker.address());
        for path in ["r.txt", "a%20b"] {
            assert_eq!(output(&pool, &job, path).await.0, 502, "impostor {n}, {path}");
        }
        let archive = pool.get(&format!("/download/{job}")).await;
        assert_eq!((archive.status(), impostor.taken()), (502, 0), "impostor {n}");
    }
}

#[tokio::test]
async fn certificate_that_a_worker_renews_is_accepted_at_once() {
    // One worker's connections are kept open, the other's are new for each read.
    for quirks in [Quirks::second(), Quirks::brisk()] {
        let (worker, _, front) = worker_with_tls(quirks).await;
        let checks = format!("{STREAMED}health: {{interval: 1h, timeout: 5s}}\n");
        let pool = Pool::start(&[front.entry(worker.key(), HOST)], &checks).await;
        let job = pool.complete(&["out=r.txt:mine"]).await;
        for _ in 0..3 {
            assert_eq!(output(&pool, &job, "r.txt").await, (200, b"mine".to_vec()));
            front.show(&Shown::renewed(worker.key()), worker.address());
            assert_eq!(output(&pool, &job, "r.txt").await, (200, b"mine".to_vec()));
            assert_eq!(pool.get(&format!("/download/{job}")).await.status(), 200);
            pool.complete(&[]).await;
        }
    }
}

// --- without TLS ---

#[tokio::test]
async fn worker_without_tls_is_challenged_anew_at_each_check() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    pool.worker_until(standin.worker_id(), |_| standin.seen("GET /health").len() > 3).await;
    let pool_id = pool.get("/pool").await.expect(200)["pool_id"].as_str().expect("an id").to_owned();
    let mut challenges = Vec::new();
    for check in standin.seen("GET /health") {
        let header = |name: &str| {
            let line = check.header_lines.iter().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}in {:?}", check.header_lines)).to_owned()
        };
        assert_eq!(header("X-Pool-Id: "), pool_id);
        challenges.push(header("X-Pool-Challenge: "));
    }
    assert_eq!(challenges[0].len(), 44);
    let checks = challenges.len();
    challenges.sort();
    challenges.dedup();
    assert_eq!(challenges.len(), checks);
    assert_eq!(pool.worker(standin.worker_id()).await["identity"], "claimed");
}

#[tokio::test]
async fn worker_that_is_not_trusted_enough_is_given_no_job_and_the_pool_says_why() {
    for require in ["proved", "pinned"] {
        let standin = Standin::start(Quirks::brisk()).await;
        let pool = Pool::start(&[standin.entry(1)], &format!("trust: {{require: {require}}}\n")).await;
        let job = pool.run(&[]).await;
        let worker = pool.worker_until(standin.worker_id(), |worker| worker["last_error"].is_string()).await;
        let why = format!("its identity is claimed, and trust.require is {require}");
        assert_eq!((&worker["is_healthy"], &worker["last_error"]), (&json!(false), &json!(why)));
        assert_eq!(worker["identity"], "claimed");
        assert_eq!(pool.status(&job).await["pool_status"], "queued");
        assert!(standin.seen("POST").is_empty());
    }
}

#[tokio::test]
async fn check_names_the_workers_that_are_taken_at_their_word() {
    let dir = TempDir::new().expect("a temporary directory");
    let standin = Standin::start(Quirks::brisk()).await;
    write_config(dir.path(), &[standin.entry(1)], "");
    let config = dir.path().join("pool.yaml");
    let output = command(&["serve", "--check", "--config", config.to_str().unwrap()]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.starts_with("warning: trust.require is claimed"), "{said}");
    assert!(said.contains(standin.worker_id()), "{said}");
}

// --- the worker of this package ---

/// A process of `trusted-pool worker`; it ends with the handle.
struct Worker {
    id: String,
    url: String,
    _dir: TempDir,
    _child: Child,
}

impl Worker {
    async fn start(flags: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let key = dir.path().join("worker.pem").display().to_string();
        let data = dir.path().join("data").display().to_string();
        assert!(command(&["keygen", &key]).output().await.expect("keygen runs").status.success());
        let args = ["worker", "--key", &key, "--listen", "127.0.0.1:0", "--data", &data, "--sandbox", "none"];
        let mut worker = command(&[&args, flags].concat());
        let log = File::create(dir.path().join("log")).expect("a log file");
        let mut child = worker.stdout(Stdio::piped()).stderr(log).spawn().expect("the worker starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        let mut line = async |prefix: &str| {
            let line = lines.next_line().await.expect("a readable stdout");
            let line = line.unwrap_or_else(|| fs::read_to_string(dir.path().join("log")).unwrap());
            line.strip_prefix(prefix).unwrap_or_else(|| panic!("no {prefix}: {line}")).to_owned()
        };
        let (url, id) = (line("listening on ").await, line("Worker ID: ").await);
        Self { id, url, _dir: dir, _child: child }
    }

    fn entry(&self) -> Value {
        json!({"worker_id": self.id, "endpoint": self.url, "max_concurrent_jobs": 2})
    }

    fn address(&self) -> SocketAddr {
        self.url.rsplit('/').next().unwrap().parse().expect("an address")
    }
}

/// A directory for a pool that has its key already, and the pool's id.
async fn pool_with_key() -> (TempDir, String) {
    let dir = TempDir::new().expect("a temporary directory");
    fs::create_dir(dir.path().join("data")).expect("a new directory");
    let path = dir.path().join("data/pool.pem").display().to_string();
    let output = command(&["keygen", &path]).output().await.expect("keygen runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let id = said.trim().rsplit(' ').next().expect("an id").to_owned();
    (dir, id)
}

#[tokio::test]
async fn pool_makes_its_key_once_and_only_its_owner_can_read_it() {
    let standin = Standin::start(Quirks::brisk()).await;
    let mut pool = Pool::start(&[standin.entry(1)], "").await;
    let first = pool.get("/pool").await.expect(200)["pool_id"].clone();
    let mode = fs::metadata(pool.dir().join("data/pool.pem")).expect("a key file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = fs::read_to_string(pool.dir().join("stderr.log")).expect("a log");
    assert!(log.contains(&format!("pool id: {}", first.as_str().expect("an id"))));
    pool.kill9().await;
    pool.restart().await;
    assert_eq!(pool.get("/pool").await.expect(200)["pool_id"], first);
}

#[tokio::test]
async fn worker_without_tls_proves_its_key() {
    let worker = Worker::start(&[]).await;
    let pool = Pool::start(&[worker.entry()], "trust: {require: proved}\n").await;
    pool.complete(&[]).await;
    assert_eq!(pool.worker(&worker.id).await["identity"], "proved");
}

#[tokio::test]
async fn worker_takes_jobs_from_each_pool_it_names() {
    let ((dir, first), (other_dir, other)) = (pool_with_key().await, pool_with_key().await);
    let worker = Worker::start(&["--tls", "--pool-key", &first, "--pool-key", &other]).await;
    for (dir, id) in [(dir, first), (other_dir, other)] {
        let pool = Pool::start_in(dir, &[worker.entry()], STREAMED).await;
        let job = pool.complete(&[]).await;
        let view = pool.get("/pool").await.expect(200);
        assert_eq!((&view["pool_id"], &view["workers"][0]["identity"]), (&json!(id), &json!("pinned")));
        assert_eq!(pool.get(&format!("/download/{job}")).await.status(), 200);
        assert_eq!(pool.get(&format!("/outputs/{job}/main.py")).await.status(), 200);
    }
}

#[tokio::test]
async fn worker_takes_nothing_from_who_is_not_its_pool() {
    let (_dir, id) = pool_with_key().await;
    let worker = Worker::start(&["--tls", "--pool-key", &id]).await;
    let pool = Pool::start(&[worker.entry()], "").await;
    let job = pool.run(&[]).await;
    let refused = pool.worker_until(&worker.id, |worker| worker["last_error"].is_string()).await;
    assert!(refused["last_error"].as_str().unwrap().contains("--pool-key"), "{refused}");
    assert_eq!(pool.status(&job).await["pool_status"], "queued");
    for client in [None, Some(fresh_key())] {
        let answer = ask_over_tls(worker.address(), client.as_ref()).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn worker_with_tls_answers_whoever_asks_unless_it_names_pools() {
    let worker = Worker::start(&["--tls"]).await;
    let answer = ask_over_tls(worker.address(), None).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn pool_key_without_tls_is_refused_in_a_sentence() {
    let (dir, id) = pool_with_key().await;
    let key = dir.path().join("data/pool.pem").display().to_string();
    let output = command(&["worker", "--key", &key, "--pool-key", &id]).output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--pool-key needs --tls"), "{said}");
}
