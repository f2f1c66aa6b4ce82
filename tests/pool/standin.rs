//! A stand-in for the deployed sandrun worker, written on raw TCP because its faults are on the wire.
//!
//! `Quirks` says which faults it has, the script what its jobs do, and the handle what was asked of it and how it
//! breaks. It lives on the test's own runtime and ends with the handle.

mod connection;
mod endpoints;
mod jobs;
mod quirks;
mod reply;
mod request;
mod script;
mod state;
mod submission;

mod selftest;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub use quirks::{FilesUnder, Identity, Limiter, Protocol, Quirks, TICK};
use reply::Reply;
use request::{Body, RequestHead};
pub use script::{Content, Plan, pattern, pattern_sha256};
pub use state::Seen;
use state::State;
pub use submission::Submission;

/// What a job does, given what was submitted.
type Script = Box<dyn Fn(&Submission) -> Plan + Send + Sync>;

/// A running stand-in.
pub struct Standin {
    shared: Arc<Shared>,
    acceptor: AbortHandle,
}

struct Shared {
    address: SocketAddr,
    worker_id: String,
    key: SigningKey,
    script: Script,
    quirks: Mutex<Quirks>,
    /// The one lock of the deployed worker.
    lock: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// When its process was, last.
    started: Mutex<Instant>,
    mode: watch::Sender<Mode>,
    listening: watch::Sender<bool>,
    /// The job loop, or one task per job.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Serving,
    /// Accepts and never answers.
    Stalled,
    /// Nothing listens.
    Refusing,
}

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// Reads nothing after the head, for ever.
    NeverAnswer,
    /// Reads the whole request, forgets it and closes.
    CloseBeforeTaking,
    /// Does what was asked and closes without a word.
    CloseAfterTaking,
    Late(Duration),
    /// Does what was asked and answers 200 with a page of HTML.
    NotJson,
    /// Promises the whole body and closes after so many bytes of it.
    CutBody(u64),
    /// Reads the request, or only its head, and says these very bytes.
    Wire(Reads, Vec<Say>),
}

/// What a worker reads before it says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Head,
    All,
}

/// What a worker does on the wire; after the last it closes.
#[derive(Clone, Debug)]
pub enum Say {
    Bytes(Vec<u8>),
    /// The same bytes again and again, with a pause before each.
    Drip(&'static str, Duration),
    Pause(Duration),
    Reset,
}

struct Armed {
    prefix: String,
    times: usize,
    fault: Fault,
}

/// Counts a request as open until dropped.
struct Open {
    shared: Arc<Shared>,
    endpoint: String,
    /// Where its record stands in the log.
    record: usize,
}

// === impl Fault ===

impl Fault {
    /// An answer with `status` and an `error` text, as the deployed worker words its refusals.
    pub fn error(status: u16, message: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), body: json!({ "error": message }).to_string() }
    }
}

// === impl Standin ===

impl Standin {
    /// Starts a worker whose jobs do what their arguments say.
    pub async fn start(quirks: Quirks) -> Self {
        Self::scripted(quirks, |submission| Plan::from_args(&submission.args)).await
    }

    /// Starts a worker whose jobs do what `script` says.
    pub async fn scripted(
        quirks: Quirks,
        script: impl Fn(&Submission) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = connection::bind(any, quirks.listen_backlog).expect("a free port on loopback");
        let key = SigningKey::from_bytes(&rand::random());
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("a bound listener"),
            worker_id: STANDARD.encode(key.verifying_key().as_bytes()),
            key,
            script: Box::new(script),
            quirks: Mutex::new(quirks),
            lock: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
            started: Mutex::new(Instant::now()),
            mode: watch::Sender::new(Mode::Serving),
            listening: watch::Sender::new(true),
            tasks: Mutex::default(),
        });
        let acceptor = tokio::spawn(connection::accept(Arc::clone(&shared), listener)).abort_handle();
        let standin = Self { shared, acceptor };
        standin.start_jobs();
        standin
    }

    fn start_jobs(&self) {
        if self.shared.quirks().one_lock {
            self.shared.tasks.lock().unwrap().spawn(jobs::run_one_by_one(Arc::clone(&self.shared)));
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    pub fn worker_id(&self) -> &str {
        &self.shared.worker_id
    }

    /// The secret half of its id, for whoever speaks TLS in its stead.
    pub fn key(&self) -> &SigningKey {
        &self.shared.key
    }

    /// This worker's entry in workers.json.
    pub fn entry(&self, max_concurrent_jobs: usize) -> Value {
        self.entry_at(self.address(), max_concurrent_jobs)
    }

    /// The same, reached through `address`: a fault proxy's.
    pub fn entry_at(&self, address: SocketAddr, max_concurrent_jobs: usize) -> Value {
        json!({
            "worker_id": self.worker_id(),
            "endpoint": format!("http://{address}"),
            "max_concurrent_jobs": max_concurrent_jobs,
        })
    }

    // --- what breaks ---

    /// Refuses connections and cuts the open ones; running jobs go on.
    pub async fn stop(&self) {
        self.switch(Mode::Refusing).await;
    }

    /// Serves again after `stop` or `stall`.
    pub async fn resume(&self) {
        self.switch(Mode::Serving).await;
    }

    /// Accepts connections and never answers.
    pub async fn stall(&self) {
        self.switch(Mode::Stalled).await;
    }

    /// A new process on the same port: it knows none of its jobs.
    pub async fn restart(&self) {
        self.stop().await;
        let mut tasks = std::mem::take(&mut *self.shared.tasks.lock().unwrap());
        tasks.shutdown().await;
        {
            let mut state = self.shared.state();
            state.jobs.clear();
            state.queue.clear();
        }
        *self.shared.started.lock().unwrap() = Instant::now();
        self.start_jobs();
        self.resume().await;
    }

    async fn switch(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        let mut listening = self.shared.listening.subscribe();
        let wanted = mode != Mode::Refusing;
        listening.wait_for(|listening| *listening == wanted).await.expect("the acceptor lives");
    }

    pub fn change(&self, change: impl FnOnce(&mut Quirks)) {
        change(&mut self.shared.quirks.lock().unwrap());
    }

    /// Arms `fault` for the next `times` requests whose `METHOD target` begins with `prefix`.
    pub fn fail(&self, prefix: &str, times: usize, fault: Fault) {
        self.shared.state().faults.push(Armed { prefix: prefix.into(), times, fault });
    }

    /// Disarms every fault.
    pub fn heal(&self) {
        self.shared.state().faults.clear();
    }

    // --- what was asked ---

    /// The requests so far whose `METHOD target` begins with `prefix`, in order.
    pub fn seen(&self, prefix: &str) -> Vec<Seen> {
        let state = self.shared.state();
        let matches = |seen: &&Seen| format!("{} {}", seen.method, seen.target).starts_with(prefix);
        state.seen.iter().filter(matches).cloned().collect()
    }

    /// What was submitted so far, in order.
    pub fn submissions(&self) -> Vec<Submission> {
        self.seen("POST /submit").into_iter().filter_map(|seen| seen.submission).collect()
    }

    /// Markers (`id=...` arguments) of the jobs that were started, in order.
    pub fn ran(&self) -> Vec<String> {
        self.shared.state().ran.clone()
    }

    /// When the runs ended, in order.
    pub fn ended(&self) -> Vec<Instant> {
        self.shared.state().ended.clone()
    }

    /// The most jobs the pool ever had here at once, uploads included.
    pub fn in_hand_peak(&self) -> usize {
        self.shared.state().in_hand_peak
    }

    /// Begins the count of both peaks anew.
    pub fn reset_peaks(&self) {
        let mut state = self.shared.state();
        state.in_hand_peak = 0;
        state.open_peak.clear();
    }

    /// The most requests to `endpoint` (`/status`) that ever waited here at once.
    pub fn open_peak(&self, endpoint: &str) -> usize {
        self.shared.state().open_peak.get(endpoint).copied().unwrap_or_default()
    }

    /// The jobs this worker still knows.
    pub fn known_jobs(&self) -> usize {
        self.shared.state().jobs.len()
    }

    /// The jobs that are running or waiting here.
    pub fn unfinished(&self) -> usize {
        self.shared.state().unfinished()
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.shared.tasks.lock().unwrap().abort_all();
    }
}

// === impl Shared ===

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn quirks(&self) -> Quirks {
        self.quirks.lock().unwrap().clone()
    }

    /// Records a request and counts it as open.
    fn open(self: &Arc<Self>, head: &RequestHead, connection: u64) -> Open {
        let endpoint = head.endpoint();
        let mut state = self.state();
        state.seen.push(Seen {
            at: Instant::now(),
            connection,
            method: head.method.clone(),
            target: head.target.clone(),
            header_lines: head.lines.clone(),
            body_bytes: 0,
            body_sha256: String::new(),
            submission: None,
        });
        let count = |counts: &mut HashMap<String, usize>| {
            let open = counts.entry(endpoint.clone()).or_default();
            *open += 1;
            *open
        };
        let record = state.seen.len() - 1;
        let now = count(&mut state.open);
        let peak = state.open_peak.entry(endpoint.clone()).or_default();
        *peak = now.max(*peak);
        if endpoint == "/submit" {
            state.submitting.insert(record);
            state.in_hand_peak = state.in_hand_peak.max(state.submitting.len() + state.unfinished());
        }
        Open { shared: Arc::clone(self), endpoint, record }
    }
}

// === impl Open ===

impl Open {
    /// Completes the record of a submit.
    fn note_submission(&self, body: &Body, submission: &Submission) {
        let mut state = self.shared.state();
        let seen = &mut state.seen[self.record];
        seen.body_bytes = body.bytes;
        seen.body_sha256 = body.sha256.clone();
        seen.submission = Some(submission.clone());
    }

    /// Turns the submit into a job.
    fn take(&self, submission: Submission, plan: Plan, key: Option<String>) -> String {
        let mut state = self.shared.state();
        state.submitting.remove(&self.record);
        state.take(submission, plan, key)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.submitting.remove(&self.record);
        if let Some(open) = state.open.get_mut(&self.endpoint) {
            *open -= 1;
        }
    }
}
