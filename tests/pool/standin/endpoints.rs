//! What each call answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::connection::LOOK;
use super::request::{Body, RequestHead};
use super::state::mime_type;
use super::{
    Content, FilesUnder, Identity, Open, Protocol, Quirks, Reply, Shared, Submission, connection, jobs,
};

/// Answers a GET. `stream` is watched while the answer waits for the running job: a client that leaves is gone.
pub async fn get(
    shared: &Arc<Shared>,
    head: &RequestHead,
    quirks: &Quirks,
    stream: &TcpStream,
) -> Option<Reply> {
    let path = if quirks.raw_paths { head.target.clone() } else { decoded_path(&head.target) };
    let mut segments = path.trim_start_matches('/').splitn(2, '/');
    let (endpoint, rest) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let _lock = match endpoint {
        "status" | "logs" | "outputs" if quirks.one_lock => {
            tokio::select! {
                lock = shared.lock.lock() => Some(lock),
                () = connection::closed(stream) => return None,
            }
        }
        "status" if quirks.protocol != Protocol::First => {
            long_poll(shared, head, rest).await;
            None
        }
        _ => None,
    };
    shared.state().forget(quirks);
    let gone = || Reply::error(404, "Job not found");
    let found = |value: Option<Value>| value.map_or_else(gone, |value| Reply::json(200, &value));
    let state = shared.state();
    Some(match (endpoint, rest) {
        ("", "") => Reply::json(200, &json!({"service": "sandrun", "status": "running", "version": "0.1"})),
        ("health", "") => Reply::json(200, &health(shared, quirks)),
        ("jobs", "") if quirks.protocol != Protocol::First => {
            let key = query(head, "key").unwrap_or_default();
            let jobs: Vec<Value> = state.find_by_key(key).iter().map(|id| json!({ "job_id": id })).collect();
            let remembers = shared.started.lock().unwrap().elapsed().as_secs_f64();
            Reply::json(200, &json!({ "jobs": jobs, "remembers_seconds": remembers }))
        }
        ("status", id) => found(state.status(id, &shared.worker_id)),
        ("outputs", rest) if quirks.files_under == FilesUnder::Outputs && rest.contains('/') => {
            drop(state);
            download(shared, head, quirks, rest)
        }
        ("outputs", id) => found(state.listing(id)),
        ("logs", id) => {
            found(state.jobs.get(id).map(|job| json!({"stdout": job.plan.stdout, "stderr": job.plan.stderr})))
        }
        ("download", rest) if quirks.files_under == FilesUnder::Download || !rest.contains('/') => {
            drop(state);
            download(shared, head, quirks, rest)
        }
        ("stats", "") => Reply::json(200, &json!({"system": {"queue_length": state.queue.len()}})),
        ("environments", "") => Reply::json(200, &json!({"environments": []})),
        _ => Reply::error(404, "Not found"),
    })
}

fn health(shared: &Shared, quirks: &Quirks) -> Value {
    let identity = match &quirks.identity {
        Identity::Own => json!(shared.worker_id),
        Identity::Null => Value::Null,
        Identity::Other(id) => json!(id),
    };
    match quirks.protocol {
        Protocol::First => json!({"status": "healthy", "worker_id": identity}),
        Protocol::Second { capacity } => {
            json!({"status": "healthy", "worker_id": identity, "protocol": 2, "capacity": capacity})
        }
    }
}

/// Waits for the job's end as long as the request asks for.
async fn long_poll(shared: &Shared, head: &RequestHead, id: &str) {
    let seconds = query(head, "wait").and_then(|value| value.parse().ok()).unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until && !shared.state().is_done(id) {
        tokio::time::sleep(LOOK).await;
    }
}

fn query<'a>(head: &'a RequestHead, name: &str) -> Option<&'a str> {
    let (_, query) = head.target.split_once('?')?;
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn decoded_path(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code.filter(|_| first == b'%') {
            Some(code) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn download(shared: &Shared, head: &RequestHead, quirks: &Quirks, rest: &str) -> Reply {
    let Some((id, path)) = rest.split_once('/') else { return archive(shared, quirks, rest) };
    let state = shared.state();
    let Some(job) = state.jobs.get(id) else { return Reply::error(404, "Job not found") };
    let Some(path) = resolve(path) else { return Reply::error(403, "Access denied") };
    let Some((name, content)) = job.outputs().find(|(name, _)| *name == path) else {
        return if quirks.missing_file_is_500 {
            let what = "filesystem error: cannot make canonical path: No such file or directory";
            Reply::error(500, &format!("{what} [/var/lib/sandrun/jobs/{id}/{path}]"))
        } else {
            Reply::error(404, "File not found")
        };
    };
    let base = name.rsplit('/').next().unwrap_or_default();
    let mut reply = Reply::content(200, mime_type(name), content.clone());
    reply.headers.push(("Content-Disposition".into(), format!("attachment; filename=\"{base}\"")));
    // What a worker must never be able to set through the pool.
    reply.headers.push(("Set-Cookie".into(), "worker=1".into()));
    drop(state);
    reply.conditional(head, quirks)
}

/// The path within the job's directory, or nothing if it leaves it.
fn resolve(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn archive(shared: &Shared, quirks: &Quirks, id: &str) -> Reply {
    let mut state = shared.state();
    let Some(job) = state.jobs.get(id) else { return Reply::error(404, "Job not found") };
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (name, content) in job.outputs() {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len());
        header.set_mode(0o644);
        let bytes = content.slice(0..content.len());
        archive.append_data(&mut header, name, bytes.as_slice()).expect("an archive in memory");
    }
    let bytes =
        archive.into_inner().and_then(flate2::write::GzEncoder::finish).expect("an archive in memory");
    if quirks.archive_deletes_job {
        state.jobs.remove(id);
    }
    Reply::content(200, "application/gzip", Content::Bytes(bytes))
}

/// Stops a job; one that has ended stays as it is.
pub fn cancel(shared: &Shared, head: &RequestHead) -> Reply {
    let id = head.target.trim_start_matches("/cancel/");
    let mut state = shared.state();
    let Some(job) = state.jobs.get_mut(id) else { return Reply::error(404, "Job not found") };
    job.cancel();
    Reply::json(200, &json!({"job_id": id, "status": job.status()}))
}

/// Takes a job, or says why not. Under the quirk the answer waits for the running job to end, and the job is
/// taken then even if the client has long left.
pub async fn submit(open: &Open, head: &RequestHead, body: &mut Body, quirks: &Quirks) -> Reply {
    let shared = &open.shared;
    let Ok(submission) = Submission::parse(head, body, quirks) else { return Reply::error(400, "Bad form") };
    open.note_submission(body, &submission);
    if submission.files.is_empty() {
        return Reply::error(400, "No files uploaded");
    }
    if submission.entrypoint.is_empty() && !submission.has_default_entrypoint() {
        return Reply::error(400, "No entrypoint specified");
    }
    if let Some(why) = shared.state().over_limit(quirks) {
        return Reply::error(429, &why);
    }
    let key = match quirks.protocol {
        Protocol::First => None,
        Protocol::Second { .. } => head.header("Idempotency-Key", quirks).map(str::to_owned),
    };
    if let Some(known) = key.as_ref().and_then(|key| shared.state().find_by_key(key).cloned()) {
        return Reply::json(200, &json!({"job_id": known, "status": "queued"}));
    }
    let _lock = if quirks.one_lock { Some(shared.lock.lock().await) } else { None };
    let plan = (shared.script)(&submission);
    let id = open.take(submission, plan, key);
    if !quirks.one_lock {
        jobs::start(shared, id.clone());
    }
    Reply::json(200, &json!({"job_id": id, "status": "queued"}))
}
