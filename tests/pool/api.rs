//! Every request and response of the HTTP API, by shape.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::{Pool, SOON, nobody};
use crate::standin::{Quirks, Standin};
use crate::tls::{Shown, TlsFront};
use crate::wire::{Call, Wire};

async fn brisk_pool() -> (Standin, Pool) {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = Pool::start(&[standin.entry(3)], "").await;
    (standin, pool)
}

fn assert_time(value: &Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64();
    assert!(value.as_f64().is_some_and(|time| (now - 120.0..now + 5.0).contains(&time)), "{value} at {now}");
}

#[tokio::test]
async fn status_of_a_waiting_job_has_nulls_for_what_is_not_known() {
    let pool = Pool::start(&[nobody()], "").await;
    let jobs = [pool.run(&[]).await, pool.run(&[]).await];
    let mut positions = Vec::new();
    for job in &jobs {
        let status = pool.status(job).await;
        assert_eq!((&status["job_id"], &status["pool_status"]), (&json!(job), &json!("queued")));
        assert_eq!(status["status"], "queued");
        for unknown in ["worker_id", "worker_status", "completed_at"] {
            assert_eq!(status.get(unknown), Some(&Value::Null), "{unknown}: {status}");
        }
        assert_time(&status["submitted_at"]);
        positions.push(status["queue_position"].as_u64().expect("a position"));
    }
    assert_eq!(positions[0] + 1, positions[1]);
}

#[tokio::test]
async fn status_of_an_ended_job_tells_all() {
    let (standin, pool) = brisk_pool().await;
    let job = pool.complete(&["out=o.txt:data"]).await;
    let status = pool.status(&job).await;
    assert_eq!((&status["pool_status"], &status["status"]), (&json!("completed"), &json!("completed")));
    assert_eq!(status["worker_id"], standin.worker_id());
    assert_eq!(status["worker_status"]["execution_metadata"]["exit_code"], 0);
    assert_eq!(status["worker_status"]["output_files"]["o.txt"]["type"], "text");
    assert_time(&status["submitted_at"]);
    assert_time(&status["completed_at"]);
    assert!(status["completed_at"].as_f64() >= status["submitted_at"].as_f64());
    assert!(status["error"].is_null());
}

#[tokio::test]
async fn logs_of_a_job_are_its_two_streams() {
    let (_standin, pool) = brisk_pool().await;
    let job = pool.complete(&["stdout=out", "stderr=err"]).await;
    let logs = pool.get(&format!("/logs/{job}")).await.expect(200);
    assert_eq!((&logs["stdout"], &logs["stderr"]), (&json!("out"), &json!("err")));
}

#[tokio::test]
async fn stream_is_the_workers_web_socket() {
    let standin = Standin::start(Quirks::tame()).await;
    streams_the_log(&Pool::start(&[standin.entry(1)], "").await).await;
    let front = TlsFront::start(&Shown::of(standin.key()), standin.address()).await;
    streams_the_log(&Pool::start(&[front.entry(standin.key(), "127.0.0.1")], "").await).await;
}

async fn streams_the_log(pool: &Pool) {
    let job = pool.run(&["run_ms=1000", "stdout=hello"]).await;
    pool.wait_until(&job, |status| status["pool_status"] == "running", SOON).await;
    let url = format!("ws://{}/stream/{job}", pool.address());
    let (socket, handshake) = tokio_tungstenite::connect_async(url).await.expect("a web socket");
    assert!(!handshake.headers().contains_key("set-cookie"), "{handshake:?}");
    // The worker closes the connection after its last word, and does not wait for the client's farewell.
    let messages: Vec<String> =
        socket.take(3).map(|message| message.expect("a message").to_string()).collect().await;
    assert_eq!(messages[..2], ["hello", "[STATUS] completed"]);
    assert!(messages[2].starts_with("[DONE] Job completed (exit=0"), "{messages:?}");
}

#[tokio::test]
async fn stream_of_an_unknown_job_is_a_404() {
    let pool = Pool::start(&[nobody()], "").await;
    let call = Call::get("/stream/pool-0123456789abcdef")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    assert!(pool.call(call).await.expect(404)["code"].is_string());
}

#[tokio::test]
async fn pool_tells_of_its_workers_and_jobs() {
    let (standin, pool) = brisk_pool().await;
    pool.healthy(1).await;
    pool.complete(&[]).await;
    pool.worker_until(standin.worker_id(), |worker| worker["active_jobs"] == 0).await;
    let view = pool.get("/pool").await.expect(200);
    let counts =
        ["total_workers", "healthy_workers", "total_jobs", "queued_jobs"].map(|key| view[key].clone());
    assert_eq!(counts, [json!(1), json!(1), json!(1), json!(0)]);
    let worker = &view["workers"][0];
    assert_eq!((&worker["worker_id"], &worker["is_healthy"]), (&json!(standin.worker_id()), &json!(true)));
    assert_eq!(worker["endpoint"], format!("http://{}", standin.address()));
    assert_eq!((&worker["active_jobs"], &worker["max_concurrent_jobs"]), (&json!(0), &json!(3)));
    assert_time(&worker["last_health_check"]);
    assert_eq!(worker["identity"], "claimed");
}

#[tokio::test]
async fn pool_tells_of_each_of_many_workers_once() {
    // Told in pieces of 200: none, one and two of them are full.
    for total in [199, 200, 450] {
        let mut listed: Vec<Value> = (0..total).map(|_| nobody()).collect();
        for (at, worker) in listed.iter_mut().enumerate() {
            worker["endpoint"] = json!(format!("http://127.1.{}.{}:9", at / 250, at % 250 + 1));
        }
        let pool = Pool::start(&listed, "").await;
        let view = pool.get("/pool").await.expect(200);
        assert_eq!((&view["total_workers"], &view["healthy_workers"]), (&json!(total), &json!(0)));
        let ids = |workers: &[Value]| -> BTreeSet<String> {
            workers.iter().map(|worker| worker["worker_id"].as_str().expect("an id").to_owned()).collect()
        };
        let shown = view["workers"].as_array().expect("workers");
        assert_eq!((shown.len(), ids(shown)), (total, ids(&listed)));
        let head = pool.call(Call::new("HEAD", "/pool")).await;
        assert_eq!((head.status(), head.text()), (200, String::new()));
    }
}

#[tokio::test]
async fn jobs_are_listed_newest_first_and_paged_by_cursor() {
    let (_standin, pool) = brisk_pool().await;
    let mut submitted = Vec::new();
    for _ in 0..5 {
        submitted.push(pool.complete(&[]).await);
    }
    submitted.reverse();
    let (mut listed, mut target) = (Vec::new(), "/jobs?limit=2".to_owned());
    loop {
        let page = pool.get(&target).await.expect(200);
        let jobs = page["jobs"].as_array().expect("jobs");
        assert!(jobs.len() <= 2);
        listed.extend(jobs.iter().map(|job| job["job_id"].as_str().expect("an id").to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        target = format!("/jobs?limit=2&cursor={cursor}");
    }
    assert_eq!(listed, submitted);
}

#[tokio::test]
async fn jobs_are_filtered_by_status_and_worker() {
    let (standin, pool) = brisk_pool().await;
    let good = pool.complete(&[]).await;
    let bad = pool.run(&["exit=1"]).await;
    pool.finished(&bad).await;
    let listed = async |query: &str| {
        let page = pool.get(&format!("/jobs?{query}")).await.expect(200);
        let jobs = page["jobs"].as_array().expect("jobs").iter();
        jobs.map(|job| job["job_id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    let key = standin.worker_id().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    assert_eq!(listed("status=completed").await, [&*good]);
    assert_eq!(listed("status=failed").await, [&*bad]);
    assert_eq!(listed("status=queued").await, Vec::<String>::new());
    assert_eq!(listed(&format!("worker={key}")).await, [bad, good]);
    assert_eq!(listed(&format!("worker={key}&status=running")).await, Vec::<String>::new());
}

#[tokio::test]
async fn jobs_query_that_means_nothing_is_a_400_that_names_it() {
    let pool = Pool::start(&[nobody()], "").await;
    for (query, name) in
        [("status=lost", "status"), ("limit=x", "limit"), ("limit=0", "limit"), ("cursor=!", "cursor")]
    {
        let problem = pool.get(&format!("/jobs?{query}")).await.expect(400);
        assert!(problem["error"].as_str().is_some_and(|text| text.contains(name)), "{problem}");
    }
}

#[tokio::test]
async fn root_is_a_sandrun_service_with_the_role_of_a_pool() {
    let pool = Pool::start(&[nobody()], "").await;
    let root = pool.get("/").await.expect(200);
    assert_eq!((&root["service"], &root["role"]), (&json!("sandrun"), &json!("pool")));
}

#[tokio::test]
async fn health_and_ready_answer_200() {
    let pool = Pool::start(&[nobody()], "").await;
    for target in ["/health", "/ready"] {
        let answer = pool.get(target).await;
        assert_eq!(answer.status(), 200, "{target}");
        assert!(answer.json().is_object());
    }
}

#[tokio::test]
async fn unknown_jobs_and_paths_are_404_with_a_code() {
    let pool = Pool::start(&[nobody()], "").await;
    let unknown = "pool-0123456789abcdef";
    let known = ["status", "logs", "outputs", "download"].map(|path| format!("/{path}/{unknown}"));
    let other = ["/nothing", "/status", "/status/", "/status/job_1_1", "/status/a/b", "/logs/../pool"];
    for target in known.iter().map(String::as_str).chain(other) {
        let problem = pool.get(target).await.expect(404);
        assert!(problem["code"].is_string() && problem["error"].is_string(), "{target}: {problem}");
    }
}

#[tokio::test]
async fn wrong_method_is_a_405_that_says_which_are_allowed() {
    let pool = Pool::start(&[nobody()], "").await;
    let get_only = [
        "/status/pool-0123456789abcdef",
        "/logs/pool-0123456789abcdef",
        "/jobs",
        "/pool",
        "/health",
        "/ready",
    ];
    let wrong = get_only.map(|target| ("POST", target, "GET"));
    for (method, target, allowed) in
        wrong.into_iter().chain([("GET", "/submit", "POST"), ("DELETE", "/submit", "POST")])
    {
        let answer = pool.call(Call::new(method, target).header("Content-Length", "0")).await;
        assert!(answer.expect(405)["code"].is_string(), "{method} {target}");
        assert!(
            answer.head.header("allow").is_some_and(|allow| allow.contains(allowed)),
            "{method} {target}"
        );
    }
}

#[tokio::test]
async fn any_origin_may_call_and_preflights_are_answered() {
    let (_standin, pool) = brisk_pool().await;
    let job = pool.complete(&["out=o.txt:1"]).await;
    for target in ["/submit", "/pool", &format!("/status/{job}"), &format!("/outputs/{job}/o.txt")] {
        let call = Call::new("OPTIONS", target)
            .header("Origin", "http://localhost:8000")
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "idempotency-key, content-type");
        let answer = pool.call(call).await;
        assert!(matches!(answer.status(), 200 | 204), "{target}: {}", answer.status());
        let header = |name| answer.head.header(name).unwrap_or_default().to_ascii_lowercase();
        assert_eq!(header("access-control-allow-origin"), "*");
        assert!(header("access-control-allow-methods").contains("post"), "{target}");
        assert!(header("access-control-allow-headers").contains("idempotency-key"), "{target}");
    }
    for target in ["/", "/pool", "/jobs", "/nothing", &format!("/status/{job}"), &format!("/logs/{job}")] {
        let answer = pool.get(target).await;
        assert_eq!(answer.head.header("access-control-allow-origin"), Some("*"), "{target}");
    }
}

#[tokio::test]
async fn json_answers_say_that_they_are() {
    let (_standin, pool) = brisk_pool().await;
    let job = pool.complete(&["out=o.txt:1"]).await;
    let of_job = ["status", "logs", "outputs"].map(|path| format!("/{path}/{job}"));
    for target in
        of_job.iter().map(String::as_str).chain(["/", "/pool", "/jobs", "/health", "/ready", "/nothing"])
    {
        let answer = pool.get(target).await;
        let content_type = answer.head.header("content-type").unwrap_or_default();
        assert!(content_type.starts_with("application/json"), "{target}: {content_type}");
        answer.json();
    }
}

#[tokio::test]
async fn connection_to_the_pool_serves_many_requests() {
    let (_standin, pool) = brisk_pool().await;
    let job = pool.complete(&["out=o.txt:1"]).await;
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    for target in
        ["/pool", &format!("/status/{job}"), &format!("/logs/{job}"), &format!("/outputs/{job}/o.txt"), "/no"]
    {
        wire.write(&Call::get(target).to_bytes()).await.unwrap();
        let (head, _) =
            wire.read_answer("GET", |_| {}).await.unwrap_or_else(|error| panic!("{target}: {error}"));
        assert!(matches!(head.status, 200 | 404), "{target}");
    }
}

#[tokio::test]
async fn head_of_a_json_answer_has_no_body() {
    let pool = Pool::start(&[nobody()], "").await;
    for target in ["/", "/pool", "/health"] {
        let answer = pool.call(Call::new("HEAD", target)).await;
        assert!(matches!(answer.status(), 200 | 405), "{target}: {}", answer.status());
        assert!(answer.body.is_empty());
    }
}
