//! The audit log: who has asked for what, in a chain that shows where it was broken.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::bodies;
use crate::harness::{Pool, SOON, command, eventually, nobody};
use crate::standin::{Quirks, Standin};
use crate::wire::Call;

fn lines(pool: &Pool) -> Vec<Value> {
    let text = fs::read_to_string(pool.data().join("audit.log")).expect("an audit log");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits for a line of this event.
async fn recorded(pool: &Pool, event: &str) -> Value {
    eventually(&format!("{event} is recorded"), SOON, async || {
        lines(pool).into_iter().find(|line| line["event"] == event)
    })
    .await
}

async fn verify(data: &Path) -> (Option<i32>, String) {
    let args = ["audit", "verify", "--data", data.to_str().expect("a UTF-8 path")];
    let output = command(&args).output().await.expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn token(pool: &Pool, args: &[&str]) -> String {
    let data = pool.data().display().to_string();
    let output = command(&[&["token"], args, &["--data", &data]].concat()).output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn what_is_asked_of_the_pool_is_recorded_with_who_asked() {
    let mut pool = Pool::start(&[nobody()], "auth: tokens").await;
    let secret = token(&pool, &["new", "--name", "ops", "--role", "admin"]).await;
    let call = async |call: Call| pool.call(call.header("Authorization", &format!("Bearer {secret}"))).await;
    eventually("the token is known", SOON, async || {
        (call(Call::get("/pool")).await.status() == 200).then_some(())
    })
    .await;
    let form = bodies::form(&[("main.py", b"1")], Some(r#"{"entrypoint": "main.py"}"#));
    let job = call(form).await.expect(200)["job_id"].clone();
    let of_job = |verb: &str| Call::post(&format!("/{verb}/{}", job.as_str().unwrap()), "");
    let worker = call(Call::get("/pool")).await.expect(200)["workers"][0]["worker_id"].clone();
    let key = base64::engine::general_purpose::STANDARD.decode(worker.as_str().unwrap()).unwrap();
    let of_worker = |verb: &str| format!("/workers/{}/{verb}", URL_SAFE_NO_PAD.encode(&key));
    call(of_job("cancel")).await.expect(200);
    call(of_job("retry")).await.expect(200);
    // What is refused has changed nothing.
    call(of_job("retry")).await.expect(409);
    call(Call::post(&of_worker("drain"), r#"{"reason": "disk"}"#)).await.expect(200);
    call(Call::post(&of_worker("resume"), "")).await.expect(200);
    // The command writes its line itself, and would be ahead of what the pool still gathers.
    recorded(&pool, "resume").await;
    token(&pool, &["revoke", "ops"]).await;
    pool.term().await;
    let lines = lines(&pool);
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["token_new", "submit", "cancel", "retry", "drain", "resume", "token_revoke"]);
    for line in &lines[1..6] {
        assert_eq!((&line["caller"], &line["remote"]), (&json!("ops"), &json!("127.0.0.1")), "{line}");
    }
    assert_eq!((&lines[1]["about"]["job_id"], &lines[4]["about"]["reason"]), (&job, &json!("disk")));
    assert!(!lines.iter().any(|line| line.to_string().contains(&secret)));
    let mode = fs::metadata(pool.data().join("audit.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, said) = verify(&pool.data()).await;
    assert!(code == Some(0) && said.contains("7 lines"), "{said}");
}

#[tokio::test]
async fn change_of_the_log_is_found_where_it_was_made() {
    let mut pool = Pool::start(&[nobody()], "").await;
    for _ in 0..3 {
        pool.run(&[]).await;
    }
    pool.term().await;
    let path = pool.data().join("audit.log");
    let text = fs::read_to_string(&path).unwrap();
    let changed = text.replacen("127.0.0.1", "127.0.0.2", 1);
    fs::write(&path, changed).unwrap();
    let (code, said) = verify(&pool.data()).await;
    assert!(code == Some(1) && said.contains("line 2"), "{said}");
}

#[tokio::test]
async fn line_that_a_crash_has_cut_is_repaired_at_the_start_and_said() {
    let mut pool = Pool::start(&[nobody()], "").await;
    pool.run(&[]).await;
    recorded(&pool, "submit").await;
    pool.kill9().await;
    let path = pool.data().join("audit.log");
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"sequence\":2,\"ti").unwrap();
    let (code, said) = verify(&pool.data()).await;
    assert!(code == Some(1) && said.contains("line 2"), "{said}");
    pool.restart().await;
    let repair = recorded(&pool, "tail_repaired").await;
    assert_eq!(repair["about"]["bytes_removed"], 17);
    pool.run(&[]).await;
    pool.term().await;
    let (code, said) = verify(&pool.data()).await;
    assert!(code == Some(0) && said.contains("3 lines"), "{said}");
}

#[tokio::test]
async fn who_a_worker_is_taken_for_is_recorded_once() {
    let (known, other) = (Standin::start(Quirks::brisk()).await, Standin::start(Quirks::brisk()).await);
    let mut entry = other.entry(1);
    entry["worker_id"] = nobody()["worker_id"].clone();
    let pool = Pool::start(&[known.entry(1), entry.clone()], "").await;
    let refused = recorded(&pool, "identity_refused").await;
    assert_eq!(refused["about"]["worker_id"], entry["worker_id"]);
    assert!(refused["about"]["reason"].as_str().unwrap().contains(other.worker_id()), "{refused}");
    let changed = recorded(&pool, "identity_change").await;
    let about = json!({"worker_id": known.worker_id(), "from": null, "to": "claimed"});
    assert_eq!(changed["about"], about);
    let seen = other.seen("GET /health").len();
    eventually("it is asked again", SOON, async || {
        (other.seen("GET /health").len() > seen + 1).then_some(())
    })
    .await;
    assert_eq!(lines(&pool).len(), 2);
}
