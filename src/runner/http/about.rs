//! What the worker says about itself.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Map, Value, json};

use crate::runner::environment::Environment;
use crate::runner::interpreter::Interpreter;
use crate::runner::job::Status;
use crate::runner::refusal::Refusal;
use crate::runner::worker::Worker;
use crate::worker::identity::SecretKey;
use crate::worker::proof::{CHALLENGE_HEADER, POOL_HEADER, Proof};

/// Version of the protocol: 1 is sandrun's; 2 adds parallel jobs, long polls, idempotency keys, decoded paths.
const PROTOCOL: u32 = 2;

pub(super) async fn service(State(worker): State<Arc<Worker>>) -> Json<Value> {
    Json(json!({
        // Clients recognise a worker by this word.
        "service": "sandrun",
        "status": "running",
        "role": "worker",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": PROTOCOL,
        "worker_id": worker.id(),
        "endpoints": [
            "GET /health", "GET /stats", "GET /environments", "POST /submit", "GET /jobs", "GET /status/{id}",
            "GET /logs/{id}", "GET /outputs/{id}", "GET /download/{id}", "GET /download/{id}/{path}",
            "GET /stream/{id}", "POST /cancel/{id}",
        ],
    }))
}

/// Answers a pool's challenge, if there is one: whoever asks gets to know that the key is here, and no more.
pub(super) async fn health(State(worker): State<Arc<Worker>>, headers: HeaderMap) -> Json<Value> {
    let interpreters = worker.settings.interpreters.iter();
    let interpreters: Map<String, Value> =
        interpreters.map(|found| (found.interpreter.name().to_owned(), json!(found.version))).collect();
    let proof = proof(worker.settings.identity.secret(), &headers).map(|proof| proof.to_string());
    Json(json!({
        "status": "healthy",
        "worker_id": worker.id(),
        "proof": proof,
        "protocol": PROTOCOL,
        "capacity": worker.registry.capacity(),
        "active": worker.registry.active(),
        "sandbox": worker.settings.sandbox.name(),
        "limits": worker.settings.enforcement.name(),
        "interpreters": interpreters,
        "labels": worker.settings.labels,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

fn proof(key: &SecretKey, headers: &HeaderMap) -> Option<Proof> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let challenge = text(CHALLENGE_HEADER)?.parse().ok()?;
    let pool = text(POOL_HEADER)?.parse().ok()?;
    Some(Proof::sign(key, &challenge, pool))
}

pub(super) async fn stats(State(worker): State<Arc<Worker>>) -> Json<Value> {
    let count = |status| worker.registry.count(status);
    Json(json!({
        "capacity": worker.registry.capacity(),
        "active": worker.registry.active(),
        "jobs": {
            "queued": count(Status::Queued),
            "running": count(Status::Running),
            "completed": count(Status::Completed),
            "failed": count(Status::Failed),
        },
        "uptime_seconds": worker.started.elapsed().as_secs(),
    }))
}

/// The environments that there are now, each with the interpreters that it brings along.
pub(super) async fn environments(State(worker): State<Arc<Worker>>) -> Result<Json<Value>, Refusal> {
    let listed = tokio::task::spawn_blocking(move || {
        let environments = worker.settings.environments.list();
        environments.iter().map(environment).collect::<Vec<Value>>()
    });
    let listed =
        listed.await.map_err(|error| Refusal::disk("listing environments", &io::Error::other(error)))?;
    Ok(Json(json!({ "environments": listed })))
}

fn environment(environment: &Environment) -> Value {
    let interpreters = Interpreter::ALL.into_iter().filter(|known| environment.program(*known).is_some());
    json!({
        "name": environment.name(),
        "interpreters": interpreters.map(Interpreter::name).collect::<Vec<_>>(),
    })
}
