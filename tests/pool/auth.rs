//! Who gets in, and what each may do.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::bodies;
use crate::harness::{Pool, SOON, command, eventually, nobody};
use crate::standin::{Quirks, Standin};
use crate::wire::{Answer, Call};

/// A pool that lets in who has a token.
pub struct Guarded {
    pub pool: Pool,
}

impl Guarded {
    pub async fn start(workers: &[Value], extra: &str) -> Self {
        Self { pool: Pool::start(workers, &format!("auth: tokens\n{extra}")).await }
    }

    async fn token_command(&self, args: &[&str]) -> String {
        let data = self.pool.data();
        let data = data.to_str().expect("a UTF-8 path");
        let output = command(&[&["token"], args, &["--data", data]].concat()).output().await;
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// A new token, once the running pool knows it.
    pub async fn token(&self, name: &str, role: &str) -> String {
        let token = self.token_command(&["new", "--name", name, "--role", role]).await;
        eventually("the token is known", SOON, async || {
            (self.get(&token, "/pool").await.status() == 200).then_some(())
        })
        .await;
        token
    }

    async fn as_client(&self, token: &str, call: Call) -> Answer {
        self.pool.call(call.header("Authorization", &format!("Bearer {token}"))).await
    }

    pub async fn get(&self, token: &str, target: &str) -> Answer {
        self.as_client(token, Call::get(target)).await
    }

    pub async fn submit(&self, token: &str) -> String {
        let answer = self.as_client(token, submission()).await.expect(200);
        answer["job_id"].as_str().expect("a job id").to_owned()
    }
}

fn submission() -> Call {
    bodies::form(&[("main.py", b"print(1)")], Some(r#"{"entrypoint": "main.py"}"#))
}

/// Every call: its method and path, the least role for it, and whether it is about the job.
fn calls(job: &str, worker: &str) -> Vec<(Call, &'static str, bool)> {
    let get = |path: &str| Call::get(&path.replace("JOB", job));
    let post = |path: &str| Call::post(&path.replace("JOB", job).replace("WORKER", worker), "");
    let mut calls: Vec<_> = ["status", "logs", "outputs", "download", "stream"]
        .iter()
        .map(|call| (get(&format!("/{call}/JOB")), "read", true))
        .collect();
    calls.extend(["outputs", "download"].map(|call| (get(&format!("/{call}/JOB/a.txt")), "read", true)));
    calls.extend(["/jobs", "/pool"].map(|path| (get(path), "read", false)));
    calls.push((submission(), "submit", false));
    calls
        .extend(["/workers/WORKER/drain", "/workers/WORKER/resume"].map(|path| (post(path), "admin", false)));
    calls.extend(["/retry/JOB", "/cancel/JOB"].map(|path| (post(path), "submit", true)));
    calls
}

fn rank(role: &str) -> usize {
    ["read", "submit", "admin"].iter().position(|known| *known == role).expect("a role")
}

fn url_safe(worker: &Value) -> String {
    worker["worker_id"].as_str().expect("an id").replace('+', "-").replace('/', "_")
}

#[tokio::test]
async fn each_call_takes_its_role_and_another_clients_job_is_not_there() {
    let worker = nobody();
    let guarded = Guarded::start(std::slice::from_ref(&worker), "").await;
    let owner = guarded.token("ci", "submit").await;
    let job = guarded.submit(&owner).await;
    let mut tokens = vec![("ci", "submit", owner)];
    for (name, role) in [("ci", "read"), ("other", "read"), ("other", "submit"), ("ops", "admin")] {
        tokens.push((name, role, guarded.token(name, role).await));
    }
    for (call, least, of_job) in calls(&job, &url_safe(&worker)) {
        let stranger = guarded.pool.call(call.clone()).await;
        assert_eq!(stranger.expect(401)["code"], "unauthorized", "{call:?}");
        for (name, role, token) in &tokens {
            let answer = guarded.as_client(token, call.clone()).await;
            let what = format!("{name} {role} {call:?}: {}", answer.text());
            if of_job && *name == "other" {
                assert_eq!(
                    answer.expect(404),
                    json!({"error": "Job not found", "code": "job_not_found"}),
                    "{what}"
                );
            } else if rank(role) < rank(least) {
                assert_eq!(answer.expect(403)["code"], "forbidden", "{what}");
                let challenge = answer.head.header("WWW-Authenticate").expect("a challenge");
                assert!(challenge.contains("insufficient_scope"), "{challenge}");
            } else {
                assert!(!matches!(answer.status(), 401 | 403), "{what}");
                assert_ne!(answer.json()["code"], "job_not_found", "{what}");
            }
        }
    }
}

#[tokio::test]
async fn what_watches_the_pool_and_preflights_need_no_token() {
    let guarded = Guarded::start(&[nobody()], "").await;
    for path in ["/", "/health", "/ready"] {
        guarded.pool.get(path).await.expect(200);
    }
    assert_eq!(guarded.pool.call(Call::new("OPTIONS", "/submit")).await.status(), 204);
    // What is not there is no one's business either.
    for path in ["/nothing", "/status/nonsense"] {
        guarded.pool.get(path).await.expect(401);
    }
}

#[tokio::test]
async fn a_credential_that_is_none_is_401_with_the_challenge() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let token = guarded.token("ci", "read").await;
    let challenge = |answer: &Answer| {
        answer.expect(401);
        answer.head.header("WWW-Authenticate").expect("a challenge").to_owned()
    };
    assert_eq!(challenge(&guarded.pool.get("/pool").await), "Bearer realm=\"trusted-pool\"");
    let mut forged = token.clone();
    forged.replace_range(token.len() - 4.., "AAAA");
    for (name, value) in [
        ("Authorization", format!("Bearer {forged}")),
        ("Authorization", format!("Basic {token}")),
        ("Authorization", token.clone()),
        ("X-API-Key", forged.clone()),
        ("X-API-Key", String::new()),
        ("Authorization", format!("Bearer {}", "x".repeat(20_000))),
    ] {
        let answer = guarded.pool.call(Call::get("/pool").header(name, &value)).await;
        assert!(challenge(&answer).contains("invalid_token"), "{name}: {value}");
    }
    guarded.pool.call(Call::get("/pool").header("X-API-Key", &token)).await.expect(200);
}

#[tokio::test]
async fn jobs_lists_a_clients_own_and_all_for_an_admin() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let (one, two) = (guarded.token("one", "submit").await, guarded.token("two", "submit").await);
    let admin = guarded.token("ops", "admin").await;
    let jobs = [guarded.submit(&one).await, guarded.submit(&two).await, guarded.submit(&admin).await];
    let listed = async |token: &str| -> Vec<(String, String)> {
        let page = guarded.get(token, "/jobs").await.expect(200);
        let text = |job: &Value, key: &str| job[key].as_str().expect("text").to_owned();
        let jobs = page["jobs"].as_array().expect("jobs").iter();
        jobs.map(|job| (text(job, "job_id"), text(job, "client"))).collect()
    };
    assert_eq!(listed(&one).await, [(jobs[0].clone(), "one".to_owned())]);
    assert_eq!(listed(&two).await, [(jobs[1].clone(), "two".to_owned())]);
    assert_eq!(listed(&admin).await.len(), 3);
}

#[tokio::test]
async fn a_job_and_its_idempotency_key_stay_its_clients_across_a_crash() {
    let mut guarded = Guarded::start(&[nobody()], "").await;
    let (one, two) = (guarded.token("one", "submit").await, guarded.token("two", "submit").await);
    let keyed = || submission().header("Idempotency-Key", "mine");
    let first = guarded.as_client(&one, keyed()).await.expect(200)["job_id"].clone();
    let second = guarded.as_client(&two, keyed()).await.expect(200)["job_id"].clone();
    assert_ne!(first, second);
    guarded.pool.kill9().await;
    guarded.pool.restart().await;
    assert_eq!(guarded.as_client(&one, keyed()).await.expect(200)["job_id"], first);
    assert_eq!(guarded.as_client(&two, keyed()).await.expect(200)["job_id"], second);
    let path = format!("/status/{}", first.as_str().expect("an id"));
    assert_eq!(guarded.get(&one, &path).await.expect(200)["client"], "one");
    guarded.get(&two, &path).await.expect(404);
}

#[tokio::test]
async fn an_ended_job_is_its_clients_too() {
    let standin = Standin::start(Quirks::brisk()).await;
    let guarded = Guarded::start(&[standin.entry(1)], "").await;
    let (one, two) = (guarded.token("one", "submit").await, guarded.token("two", "submit").await);
    let job = guarded.submit(&one).await;
    let path = format!("/status/{job}");
    eventually("the job has ended", SOON, async || {
        let status = guarded.get(&one, &path).await.expect(200);
        (status["pool_status"] == "completed").then_some(())
    })
    .await;
    for path in [path, format!("/logs/{job}"), format!("/outputs/{job}"), format!("/download/{job}")] {
        assert_eq!(guarded.get(&one, &path).await.status(), 200, "{path}");
        assert_eq!(guarded.get(&two, &path).await.expect(404)["code"], "job_not_found", "{path}");
    }
}

#[tokio::test]
async fn a_revoked_token_is_out_at_once_and_the_others_stay() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let (leaked, kept) = (guarded.token("ci", "read").await, guarded.token("ci", "read").await);
    let other = guarded.token("other", "read").await;
    let id = leaked.split('_').nth(1).expect("an id");
    assert_eq!(guarded.token_command(&["revoke", id]).await, format!("revoked {id}"));
    let gone = async |token: &str| {
        eventually("the token is worthless", Duration::from_secs(5), async || {
            (guarded.get(token, "/pool").await.status() == 401).then_some(())
        })
        .await;
    };
    gone(&leaked).await;
    guarded.get(&kept, "/pool").await.expect(200);
    guarded.token_command(&["revoke", "ci"]).await;
    gone(&kept).await;
    guarded.get(&other, "/pool").await.expect(200);
    assert!(!guarded.token_command(&["list"]).await.contains("ci"));
}

#[tokio::test]
async fn a_token_expires_by_itself() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let args = ["new", "--name", "ci", "--role", "read", "--expires", "3s"];
    let token = guarded.token_command(&args).await;
    for status in [200, 401] {
        eventually("the token comes and goes", SOON, async || {
            (guarded.get(&token, "/pool").await.status() == status).then_some(())
        })
        .await;
    }
    assert!(guarded.token_command(&["list"]).await.contains("expired"));
}

#[tokio::test]
async fn no_secret_reaches_the_file_of_tokens_or_the_log() {
    let guarded = Guarded::start(&[nobody()], "log: trace").await;
    let token = guarded.token("ci", "submit").await;
    guarded.submit(&token).await;
    let secret = token.splitn(3, '_').nth(2).expect("a secret");
    let file = std::fs::read_to_string(guarded.pool.data().join("tokens.json")).expect("the file of tokens");
    assert!(file.contains("\"sha256\"") && !file.contains(secret));
    assert!(!guarded.pool.log().contains(secret));
    assert!(!guarded.token_command(&["list", "--json"]).await.contains(secret));
}

#[tokio::test]
async fn client_commands_send_the_token_of_the_environment() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let token = guarded.token("ci", "read").await;
    let run = async |token: Option<&str>| {
        let url = guarded.pool.url();
        let mut command = command(&["workers", "--pool", &url]);
        token.map(|token| command.env("TRUSTED_POOL_TOKEN", token));
        command.output().await.expect("the binary runs")
    };
    assert!(run(Some(&token)).await.status.success());
    let refused = run(None).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unauthorized"));
}

#[tokio::test]
async fn off_loopback_a_pool_says_who_may_use_it_or_does_not_start() {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let check = async |extra: &str| {
        crate::harness::write_config(dir.path(), &[nobody()], extra);
        let path = dir.path().join("pool.yaml");
        let yaml = std::fs::read_to_string(&path).expect("the configuration");
        std::fs::write(&path, yaml.replace("127.0.0.1:0", "0.0.0.0:9000")).expect("a writable directory");
        let args = ["serve", "--check", "--config", path.to_str().expect("UTF-8")];
        command(&args).output().await.expect("the binary runs")
    };
    let refused = check("").await;
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("auth: is missing: 0.0.0.0:9000") && said.contains("auth: none"), "{said}");
    for auth in ["auth: none", "auth: tokens", "auth: {tokens: tokens.json}"] {
        assert!(check(auth).await.status.success(), "{auth}");
    }
}

#[tokio::test]
async fn a_broken_file_of_tokens_changes_nothing_in_a_running_pool() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let token = guarded.token("ci", "read").await;
    std::fs::write(guarded.pool.data().join("tokens.json"), "{").expect("a writable file");
    eventually("the pool says so", SOON, async || {
        guarded.pool.log().contains("what was read before stays in force").then_some(())
    })
    .await;
    guarded.get(&token, "/pool").await.expect(200);
}

#[tokio::test]
async fn a_clients_single_job_goes_right_after_one_of_many() {
    let standin = Standin::start(Quirks::brisk()).await;
    let guarded = Guarded::start(&[standin.entry(1)], "").await;
    let (many, single) = (guarded.token("many", "submit").await, guarded.token("single", "submit").await);
    let long = |ms: u32| {
        let manifest = json!({"entrypoint": "main.py", "args": [format!("run_ms={ms}")]});
        bodies::form(&[("main.py", b"print(1)")], Some(&manifest.to_string()))
    };
    let id = |answer: Answer| answer.expect(200)["job_id"].as_str().expect("a job id").to_owned();
    // Holds the only slot while the others line up.
    let running = id(guarded.as_client(&many, long(3_000)).await);
    eventually("the slot is taken", SOON, async || {
        let status = guarded.get(&many, &format!("/status/{running}")).await.expect(200);
        (status["pool_status"] == "running").then_some(())
    })
    .await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(id(guarded.as_client(&many, long(10)).await));
    }
    let alone = id(guarded.as_client(&single, long(10)).await);
    let position =
        guarded.get(&single, &format!("/status/{alone}")).await.expect(200)["queue_position"].clone();
    assert_eq!(position, 1);
    let ended = async |token: &str, job: &str| {
        eventually("the job has ended", SOON, async || {
            let status = guarded.get(token, &format!("/status/{job}")).await.expect(200);
            status["completed_at"].as_f64()
        })
        .await
    };
    let end = ended(&single, &alone).await;
    assert!(end < ended(&many, &waiting[1]).await, "a second job of the other client went before");
}

#[tokio::test]
async fn past_its_limits_a_client_is_told_to_wait_and_others_are_not() {
    let limits = "client_limits: {queued_jobs: 2, upload_per_minute: 20KiB}";
    let guarded = Guarded::start(&[nobody()], limits).await;
    let (one, two) = (guarded.token("one", "submit").await, guarded.token("two", "submit").await);
    let too_many = |answer: Answer, code: &str| {
        let body = answer.expect(429);
        assert_eq!(body["code"], code);
        let wait: u64 = answer.head.header("Retry-After").expect("a wait").parse().expect("seconds");
        assert_eq!(body["retry_after"], wait);
        wait
    };
    guarded.submit(&one).await;
    guarded.submit(&one).await;
    assert_eq!(too_many(guarded.as_client(&one, submission()).await, "client_queue_full"), 10);
    // More than is left is taken, and waited for.
    let large = || bodies::form(&[("main.py", &[b'#'; 60_000])], Some(r#"{"entrypoint": "main.py"}"#));
    guarded.as_client(&two, large()).await.expect(200);
    let wait = too_many(guarded.as_client(&two, submission()).await, "rate_limited");
    assert!((100..=130).contains(&wait), "{wait}");
    // The jobs of the one and the bytes of the other are nobody else's.
    let three = guarded.token("three", "submit").await;
    guarded.submit(&three).await;
}

#[tokio::test]
async fn an_upload_of_unsaid_length_is_counted_as_it_comes() {
    let guarded = Guarded::start(&[nobody()], "client_limits: {upload_per_minute: 1KiB}").await;
    let token = guarded.token("ci", "submit").await;
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = chunk("--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"main.py\"\r\n\r\n");
    let content = chunk(&"x".repeat(40_000));
    let body = format!("{head}{content}{content}{content}0\r\n\r\n");
    let call = Call::post("/submit", body)
        .header("Transfer-Encoding", "chunked")
        .header("Content-Type", "multipart/form-data; boundary=b");
    let answer = guarded.as_client(&token, call).await;
    assert_eq!(answer.expect(429)["code"], "rate_limited");
}

#[tokio::test]
async fn requests_past_the_rate_are_429_until_the_next_second() {
    let guarded = Guarded::start(&[nobody()], "client_limits: {requests_per_second: 5}").await;
    let token = guarded.token("ci", "read").await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(guarded.get(&token, "/pool").await.status());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    eventually("it may again", SOON, async || {
        (guarded.get(&token, "/pool").await.status() == 200).then_some(())
    })
    .await;
    // What watches the pool is not counted.
    for _ in 0..30 {
        guarded.pool.get("/health").await.expect(200);
    }
}

/// An OIDC issuer with one P-256 key.
struct Issuer {
    key: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Self { key: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key") }
    }

    fn jwks(&self) -> String {
        let point = self.key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "x": x, "y": y}]})
            .to_string()
    }

    fn token(&self, subject: &str, role: &Value) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!(
            "{}.{}",
            part(json!({"alg": "ES256", "kid": "k"})),
            part(
                json!({"iss": "https://id.test", "aud": ["pool"], "sub": subject, "exp": now.as_secs() + 300, "role": role})
            )
        );
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn tokens_of_an_issuer_are_clients_until_its_keys_change() {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let (issuer, jwks) = (Issuer::new(), dir.path().join("jwks.json"));
    std::fs::write(&jwks, issuer.jwks()).expect("a writable directory");
    let auth = format!(
        "auth: {{jwt: {{issuer: \"https://id.test\", audience: pool, jwks: \"{}\"}}}}",
        jwks.display()
    );
    let guarded = Guarded { pool: Pool::start(&[nobody()], &auth).await };
    let alice = issuer.token("alice", &json!("submit"));
    let job = guarded.submit(&alice).await;
    let path = format!("/status/{job}");
    assert_eq!(guarded.get(&alice, &path).await.expect(200)["client"], "oidc:alice");
    guarded.get(&issuer.token("bob", &json!(["read"])), &path).await.expect(404);
    guarded.get(&issuer.token("carol", &json!("admin")), &path).await.expect(200);
    assert_eq!(
        guarded.get(&issuer.token("dave", &json!("guest")), "/pool").await.expect(403)["code"],
        "forbidden"
    );
    guarded.get(&Issuer::new().token("alice", &json!("admin")), "/pool").await.expect(401);
    // Tokens of the pool's own are good beside them.
    guarded.token("ci", "read").await;
    std::fs::write(&jwks, Issuer::new().jwks()).expect("a writable file");
    eventually("the old key is worth nothing", SOON, async || {
        (guarded.get(&alice, "/pool").await.status() == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn pages_of_listed_origins_alone_may_read_answers() {
    let standin = Standin::start(Quirks::brisk()).await;
    let cors = "cors: {allow_origins: [\"https://front.example.com\"]}";
    let guarded = Guarded::start(&[standin.entry(1)], cors).await;
    let token = guarded.token("ci", "submit").await;
    let job = guarded.submit(&token).await;
    let targets = [
        "/health".to_owned(),
        format!("/status/{job}"),
        format!("/outputs/{job}/none"),
        "/nothing".to_owned(),
    ];
    for target in &targets {
        for (origin, allowed) in [("https://front.example.com", true), ("https://evil.example.com", false)] {
            let answer = guarded.as_client(&token, Call::get(target).header("Origin", origin)).await;
            let said = answer.head.header("Access-Control-Allow-Origin");
            assert_eq!(said, allowed.then_some(origin), "{target}");
            assert_eq!(answer.head.header("Vary"), Some("Origin"), "{target}");
            assert_eq!(answer.head.header("X-Content-Type-Options"), Some("nosniff"), "{target}");
        }
    }
    let preflight = Call::new("OPTIONS", "/submit").header("Origin", "https://front.example.com");
    let answer = guarded.pool.call(preflight).await;
    assert_eq!(answer.head.header("Access-Control-Allow-Origin"), Some("https://front.example.com"));
    assert!(
        answer
            .head
            .header("Access-Control-Allow-Headers")
            .is_some_and(|names| names.contains("Authorization"))
    );
}

#[tokio::test]
async fn with_auth_no_page_may_read_answers_unless_it_is_said() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let answer = guarded.pool.call(Call::get("/health").header("Origin", "https://front.example.com")).await;
    assert_eq!(answer.head.header("Access-Control-Allow-Origin"), None);
}

#[tokio::test]
async fn a_page_gives_its_token_as_a_subprotocol_and_no_log_has_it() {
    let standin = Standin::start(Quirks::tame()).await;
    let guarded = Guarded::start(&[standin.entry(1)], "").await;
    let token = guarded.token("page", "submit").await;
    let manifest = r#"{"entrypoint":"main.py","args":["run_ms=3000"]}"#;
    let answer =
        guarded.as_client(&token, bodies::form(&[("main.py", b"1")], Some(manifest))).await.expect(200);
    let job = answer["job_id"].as_str().expect("a job id");
    eventually("the job runs", SOON, async || {
        let status = guarded.get(&token, &format!("/status/{job}")).await.json();
        (status["pool_status"] == "running").then_some(())
    })
    .await;
    let connect = async |offered: &str| {
        let url = format!("ws://{}/stream/{job}", guarded.pool.address());
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("Sec-WebSocket-Protocol", offered.parse().expect("a value"));
        tokio_tungstenite::connect_async(request).await
    };
    let (_socket, handshake) = connect(&format!("trusted-pool, bearer.{token}")).await.expect("a web socket");
    assert_eq!(handshake.headers()["sec-websocket-protocol"], "trusted-pool");
    for refused in ["trusted-pool", "trusted-pool, bearer.wrong", "bearer."] {
        match connect(refused).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 401, "{refused}")
            }
            other => panic!("{refused}: {other:?}"),
        }
    }
    // It is a credential of that call alone.
    let elsewhere = Call::get("/pool").header("Sec-WebSocket-Protocol", &format!("bearer.{token}"));
    guarded.pool.call(elsewhere).await.expect(401);
    assert!(!guarded.pool.log().contains(&token));
}
