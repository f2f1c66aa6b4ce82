//! How soon a job that was acknowledged is at a worker, while many come in.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trusted_pool::worker::identity::SecretKey;

use crate::client::Connection;
use crate::site::{Peer, Site, upload};

/// Jobs that come in each second, from so many clients.
const JOBS_PER_SECOND: u32 = 500;
const CLIENTS: u32 = 10;

const TIME: Duration = Duration::from_secs(6);

/// When a job's first byte was read by the worker.
type Arrivals = Arc<Mutex<HashMap<String, Instant>>>;

pub fn measure(site: &Site) {
    let arrivals = Arrivals::default();
    let entry = play_worker(Arc::clone(&arrivals));
    let pool = site.pool_of("pool-of-dispatch", &json!([entry]));
    let warm_up = pool.submit(b"exit 0");
    pool.wait_for(&warm_up, "completed");
    let acknowledged: Vec<(String, Instant)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| {
                scope.spawn({
                    let pool = &pool;
                    move || client(pool, at)
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect()
    });
    thread::sleep(Duration::from_secs(1));
    let arrivals = arrivals.lock().expect("it is not poisoned");
    let mut times: Vec<Duration> = acknowledged
        .iter()
        .map(|(job, at)| arrivals.get(job).expect("every job is sent").saturating_duration_since(*at))
        .collect();
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{JOBS_PER_SECOND} jobs/s: acknowledged to the worker's first byte: p50 {:.2?}, p99 {:.2?}, most {:.2?} ({} jobs)",
        at(50),
        at(99),
        at(100),
        times.len()
    );
}

/// Submits at an even pace; each job, and when it was acknowledged.
fn client(pool: &Peer, at: u32) -> Vec<(String, Instant)> {
    let pause = Duration::from_secs(1) * CLIENTS / JOBS_PER_SECOND;
    let (begun, request) = (Instant::now() + pause * at / CLIENTS, upload(b"exit 0"));
    let mut connection = Connection::open(&pool.plain()).expect("the pool listens");
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let due = begun + pause * number;
        if due > begun + TIME {
            break;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        connection.write(&request).expect("the pool reads");
        let head = connection.head().expect("the pool answers");
        let body = connection.body(&head).expect("the pool answers");
        let answered = Instant::now();
        let answer: Value = serde_json::from_slice(&body).expect("the pool answers JSON");
        acknowledged.push((answer["job_id"].as_str().expect("a job has an id").to_owned(), answered));
    }
    acknowledged
}

/// A worker that notes when a job comes and ends it at once; its entry in the list of workers.
fn play_worker(arrivals: Arrivals) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    let id = SecretKey::generate().public().to_string();
    let entry = json!({"worker_id": id, "endpoint": endpoint, "max_concurrent_jobs": 64});
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (arrivals, id) = (Arc::clone(&arrivals), id.clone());
            thread::spawn(move || serve(stream, &arrivals, &id));
        }
    });
    entry
}

/// Answers one request, and closes the connection.
fn serve(stream: TcpStream, arrivals: &Arrivals, id: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let arrived = Instant::now();
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut key) = (0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "idempotency-key" => key = value.to_owned(),
            _ => {}
        }
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
    let answer = match path.split('/').nth(1)? {
        "health" => json!({"status": "healthy", "worker_id": id, "protocol": 2, "capacity": 64}),
        "submit" => {
            let job = key.split('/').next()?.to_owned();
            arrivals.lock().expect("it is not poisoned").insert(job.clone(), arrived);
            json!({"job_id": job, "status": "queued"})
        }
        "status" => json!({"status": "completed", "execution_metadata": {"exit_code": 0}}),
        "logs" => json!({"stdout": "", "stderr": ""}),
        _ => json!({"files": []}),
    };
    let body = answer.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    reader.get_mut().write_all((head + &body).as_bytes()).ok()
}
