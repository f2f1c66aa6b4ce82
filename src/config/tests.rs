//! The loader, on whole files.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const KEY_A: &str = "1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAM=";
const KEY_B: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// A directory with these files, and the flags that load `pool.yaml` from it.
fn directory(files: &[(&str, &str)]) -> (TempDir, ServeArgs) {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let config = Some(directory.path().join("pool.yaml"));
    (directory, ServeArgs { config, ..ServeArgs::default() })
}

fn workers_json() -> String {
    format!(r#"[{{"worker_id": "{KEY_A}", "endpoint": "https://worker1.example.com:8443"}}]"#)
}

/// What is said about a `pool.yaml`, without the directory.
fn complaints(files: &[(&str, &str)]) -> String {
    let (directory, args) = directory(files);
    let complaints = Config::load(&args).unwrap_err().to_string();
    complaints.replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn empty_file_is_the_default_but_for_the_workers() {
    for text in ["", "\n# nothing\n", "---\n", "health:\nserver:\n"] {
        let workers = workers_json();
        let (directory, mut args) = directory(&[("pool.yaml", text), ("workers.json", &workers)]);
        args.workers = Some(directory.path().join("workers.json"));
        let config = Config::load(&args).unwrap();
        assert_eq!(config, Config { workers: config.workers.clone(), ..Config::default() }, "{text:?}");
        assert_eq!(config.workers.workers().len(), 1);
    }
}

#[test]
fn workers_are_found_beside_the_file_that_names_them() {
    let (_directory, args) =
        directory(&[("pool.yaml", "workers: workers.json\n"), ("workers.json", &workers_json())]);
    let worker = &Config::load(&args).unwrap().workers.into_workers()[0];
    assert_eq!(worker.key.to_string(), KEY_A);
    assert_eq!(worker.endpoint.host_port(), "worker1.example.com:8443");
    assert_eq!((worker.max_concurrent_jobs, worker.labels.len()), (None, 0));
}

#[test]
fn flags_win_over_the_file() {
    let text = "listen: 0.0.0.0:80\ndata: /elsewhere\nworkers: there-is-no-such-file.json\n";
    let (directory, mut args) = directory(&[("pool.yaml", text), ("mine.json", &workers_json())]);
    args.port = Some(0);
    args.data = Some("here".into());
    args.workers = Some(directory.path().join("mine.json"));
    let config = Config::load(&args).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!((config.data.as_path(), config.workers.workers().len()), (Path::new("here"), 1));
}

#[test]
fn workers_are_read_again_from_where_they_were_read() {
    let inline = format!("workers: {}\n", workers_json());
    for (text, flag, from) in [
        ("workers: w.json\n", None, "w.json"),
        ("workers: gone.json\n", Some("w.json"), "w.json"),
        (inline.as_str(), Some("w.json"), "w.json"),
        (inline.as_str(), None, "pool.yaml"),
    ] {
        let (directory, mut args) = directory(&[("pool.yaml", text), ("w.json", &workers_json())]);
        let file = |name: &str| directory.path().join(name);
        args.workers = flag.map(file);
        let source = WorkersSource::of(&args);
        assert_eq!(source.files(), [file(from)]);
        assert_eq!(source.read().unwrap(), Config::load(&args).unwrap().workers);
        fs::write(file(from), "colour: red\n").unwrap();
        let complaint = source.read().unwrap_err().to_string();
        assert!(complaint.contains(from), "{complaint}");
    }
}

#[test]
fn every_key_is_read() {
    let text = format!(
        r#"
listen: ["0.0.0.0:9001", "[::]:9001"]
listen_tls: 0.0.0.0:9443
cert: /etc/pool/cert.pem
key: /etc/pool/key.pem
client_ca: /etc/pool/clients.pem
auth:
  tokens: /etc/pool/tokens.json
  jwt: {{issuer: "https://id", audience: pool, jwks: /etc/pool/jwks.json, role_claim: a.b, algorithms: [ES256]}}
data: /var/lib/pool
max_upload: 10MB
submit_timeout: 20m
status_timeout: 1500ms
worker_lost_after: 1h
on_unknown: retry
on_worker_lost: hold
max_attempts: 5
queue_timeout: 1d
max_queued_jobs: 1000
max_open_uploads: 8
max_spool_bytes: 1GiB
retry_keep: 1h
cors: {{allow_origins: ["https://front.example.com"]}}
client_limits: {{queued_jobs: 5, requests_per_second: 10, upload_per_minute: 1MiB}}
history: {{keep: 30d, max_log_bytes: 64KiB}}
outputs: {{keep: 0s, max_job_bytes: 1MiB, max_total_bytes: 1GiB}}
health: {{interval: 10s, timeout: 1s}}
uploads: {{timeout: 2h, idle_timeout: 30s, inspect: none, max_entries: 10, max_unpacked: 2MiB}}
server: {{threads: 3, shutdown_timeout: 0s, header_timeout: 5s, idle_timeout: 20s, max_connections_per_address: 9}}
log: debug
workers:
  - worker_id: {KEY_A}
    endpoint: https://worker1:8443
    max_concurrent_jobs: 4
    labels: {{gpu: a100, cuda: 12.0, fast: True}}
  - {{worker_id: "{KEY_B}", endpoint: "http://[::1]:8443"}}
"#
    );
    let (_directory, args) = directory(&[("pool.yaml", &text)]);
    let config = Config::load(&args).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(config.listen, ["0.0.0.0:9001".parse().unwrap(), "[::]:9001".parse().unwrap()]);
    let tls = TlsConfig {
        listen: vec!["0.0.0.0:9443".parse().unwrap()],
        certificate: Certificate::Files {
            cert: "/etc/pool/cert.pem".into(),
            key: "/etc/pool/key.pem".into(),
        },
        client_ca: Some("/etc/pool/clients.pem".into()),
    };
    assert_eq!(config.tls, Some(tls));
    let jwt = JwtConfig {
        issuer: "https://id".into(),
        audience: "pool".into(),
        jwks: "/etc/pool/jwks.json".into(),
        role_claim: "a.b".into(),
        algorithms: vec!["ES256".parse().unwrap()],
    };
    let guard = GuardConfig { tokens: Some("/etc/pool/tokens.json".into()), jwt: Some(jwt) };
    assert_eq!(config.auth, AuthConfig::Guarded(guard));
    let limits = ClientLimits {
        queued_jobs: Some(5),
        requests_per_second: Some(10),
        upload_bytes_per_minute: Some(1 << 20),
    };
    assert_eq!(config.client_limits, limits);
    let origins = AllowedOrigins::These(vec!["https://front.example.com".parse().unwrap()]);
    assert_eq!(config.allowed_origins(), origins);
    assert_eq!(config.data, Path::new("/var/lib/pool"));
    assert_eq!(
        config.uploads,
        UploadsConfig {
            bytes_max: 10_000_000,
            timeout: seconds(7200),
            idle_timeout: seconds(30),
            open_max: 8,
            spool_bytes_max: 1 << 30,
            inspect: InspectMode::None,
            archives: ArchiveLimits { entries_max: 10, unpacked_bytes_max: 2 << 20 },
        }
    );
    assert_eq!(
        config.dispatch,
        DispatchConfig {
            submit_timeout: seconds(1200),
            status_timeout: Duration::from_millis(1500),
            worker_lost_after: seconds(3600),
            defaults: DefaultTerms {
                on_unknown: OnUnknown::Retry,
                on_worker_lost: OnWorkerLost::Hold,
                max_attempts: 5,
                queue_timeout: Some(seconds(86400)),
            },
            queued_jobs_max: 1000,
        }
    );
    assert_eq!(
        config.history,
        HistoryConfig { keep: seconds(30 * 86400), retry_keep: seconds(3600), log_bytes_max: 65536 }
    );
    assert_eq!(
        config.outputs,
        OutputsConfig { keep: Duration::ZERO, job_bytes_max: 1 << 20, total_bytes_max: 1 << 30 }
    );
    assert_eq!(config.health, HealthConfig { interval: seconds(10), timeout: seconds(1) });
    let server = ServerConfig {
        threads: 3,
        header_timeout: seconds(5),
        idle_timeout: seconds(20),
        connections_per_address_max: 9,
        shutdown_timeout: Duration::ZERO,
    };
    assert_eq!(config.server, server);
    assert_eq!(config.log, log::LevelFilter::Debug);
    let first = &config.workers.workers()[0];
    assert_eq!(first.max_concurrent_jobs.map(u32::from), Some(4));
    let labels: Vec<_> = first.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(labels, ["cuda=12.0", "fast=True", "gpu=a100"]);
}

#[test]
fn what_is_shown_loads_as_the_same_configuration() {
    let workers = format!(
        r#"[{{"worker_id": "{KEY_A}", "endpoint": "https://worker1:8443/", "max_concurrent_jobs": 2,
             "labels": {{"note": "it's: \"quoted\", # ü", "empty": ""}}}}]"#
    );
    for more in [
        "listen: '[::1]:0'",
        "listen_tls: 0.0.0.0:1\ncert: /c\nkey: /k\nclient_ca: /ca\nauth: none\ncors: {allow_origins: '*'}",
        "auth: tokens\nclient_limits: {queued_jobs: 3, upload_per_minute: 2MiB}\ncors: {allow_origins: []}",
        "auth: {tokens: /t}\ncors: {allow_origins: ['https://a.example', 'http://b.example:1']}",
        "auth: {jwt: {issuer: 'https://i', audience: a, jwks: /j, role_claim: r, algorithms: [EdDSA, RS512]}}",
    ] {
        let text = format!("workers: w.json\nlog: off\n{more}");
        let (directory, args) = directory(&[("pool.yaml", &text), ("w.json", &workers)]);
        let config = Config::load(&args).unwrap();
        fs::write(directory.path().join("pool.yaml"), config.to_string()).unwrap();
        assert_eq!(Config::load(&args).unwrap(), config, "{config}");
    }
}

#[test]
fn everything_wrong_is_said_at_once_with_its_place() {
    let text = "\
listen: localhost:9000
data:
max_upload: 1 GiB
submit_timeout: 15
status_timeout: 2h
histroy:
  keep: 7d
history:
  keep: [7d]
health:
  interval: 30 parsecs
  timeout: 5s
  timeot: 5s
uploads: 1h
server:
  threads: 0
log: loud
colour: blue
workers: workers.json
";
    let workers = format!(
        r#"[
  {{"worker_id": "{KEY_A}", "endpoint": "https://worker1:8443"}},
  {{"worker_id": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "endpoint": "worker2:8443"}},
  {{"worker_id": "abc", "endpoint": "https://worker3:8443/path", "max_concurrent_jobs": 0}},
  {{"worker_id": "{KEY_B}", "endpoint": "http://WORKER1:8443/"}},
  {{"worker_id": "{KEY_A}",
    "endpiont": "https://worker5:8443"}},
  "worker6",
  {{"worker_id": "{KEY_A}", "endpoint": "https://worker7", "labels": ["gpu"]}}
]"#
    );
    let expected = "\
pool.yaml:1: listen: \"localhost:9000\" is not an address and a port; write for example 127.0.0.1:9000 or [::]:9000
pool.yaml:2: data: has no value; leave the key out for its default
pool.yaml:3: max_upload: \"1 GiB\" is not a size; write for example 64KiB, 10MB, 1GiB
pool.yaml:4: submit_timeout: \"15\" has no unit; write for example 15s or 15m
pool.yaml:5: status_timeout: \"2h\" is too large: the most is 1m
pool.yaml:6: histroy: unknown key; did you mean `history`?
pool.yaml:9: history.keep: is not a single value
pool.yaml:11: health.interval: \"30 parsecs\" is not a duration; write for example 30s, 5m, 1h
pool.yaml:13: health.timeot: unknown key; did you mean `timeout`?
pool.yaml:14: uploads: is not a list of `key: value`
pool.yaml:16: server.threads: \"0\" is too small: the least is 1
pool.yaml:17: log: \"loud\" is not one of off, error, warn, info, debug, trace
pool.yaml:18: colour: unknown key; known here: workers, listen, listen_tls, cert, key, client_ca, \
auth, cors, data, log, trust, max_upload, uploads, client_limits, submit_timeout, \
status_timeout, worker_lost_after, on_unknown, on_worker_lost, max_attempts, queue_timeout, max_queued_jobs, \
max_open_uploads, max_spool_bytes, retry_keep, history, outputs, health, server
workers.json:3: workers[1].worker_id: \"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" is no worker id: a small-order \
point, for which anybody can sign: use the id of a key made by keygen
workers.json:3: workers[1].endpoint: \"worker2:8443\" is no http:// or https:// URL; write for example \
https://worker1.example.com:8443
workers.json:4: workers[2].worker_id: \"abc\" is no worker id: an id is 44 characters, the standard base64 of a \
32-byte Ed25519 public key; this has 3
workers.json:4: workers[2].endpoint: \"https://worker3:8443/path\" goes on after the port; write for example \
https://worker1.example.com:8443
workers.json:4: workers[2].max_concurrent_jobs: \"0\" is too small: the least is 1
workers.json:5: workers[3]: has the same endpoint as workers[0] (line 2)
workers.json:6: workers[4].endpoint: is missing
workers.json:7: workers[4].endpiont: unknown key; did you mean `endpoint`?
workers.json:8: workers[5]: is not a list of `key: value`
workers.json:9: workers[6].labels: is not a list of `key: value`
workers.json:9: workers[6]: has the same worker_id as workers[0] (line 2)";
    assert_eq!(complaints(&[("pool.yaml", text), ("workers.json", &workers)]), expected);
}

#[test]
fn what_tls_and_clients_need_is_said() {
    let said = |text: &str| {
        let text = format!("{text}\nworkers: workers.json");
        let (directory, args) = directory(&[("pool.yaml", &text), ("workers.json", &workers_json())]);
        match Config::load(&args) {
            Ok(config) => config.to_string(),
            Err(errors) => errors.to_string().replace(&format!("{}/", directory.path().display()), ""),
        }
    };
    for (text, complaint) in [
        ("listen_tls: 127.0.0.1:1\ncert: c.pem", "pool.yaml:1: key: is missing"),
        ("listen_tls: 127.0.0.1:1\nkey: k.pem", "pool.yaml:1: cert: is missing"),
        ("listen_tls: 127.0.0.1:1", "pool.yaml: cert: is missing, and so is key"),
        ("cert: c.pem\nkey: k.pem", "pool.yaml: listen_tls: is missing"),
        ("listen: 127.0.0.1:1\nlisten_tls: 127.0.0.1:1\ncert: c\nkey: k", "is in listen as well"),
        ("auth: maybe", "pool.yaml:1: auth: \"maybe\" is neither none nor tokens"),
        ("auth: {tokens: t, token: u}", "pool.yaml:1: auth.token: unknown key; did you mean `tokens`?"),
        ("auth: {jwt: {issuer: a, audience: b}}", "pool.yaml:1: auth.jwt.jwks: is missing"),
        (
            "auth: {jwt: {issuer: a, audience: b, jwks: c, algorithms: [HS256]}}",
            "\"HS256\" is not one of RS256",
        ),
        ("cors: {allow_origins: [\"https://a.example/x\"]}", "is no origin"),
        ("listen: 0.0.0.0:1", "pool.yaml: auth: is missing: 0.0.0.0:1 is reached"),
        ("listen_tls: 192.0.2.1:1\ncert: c\nkey: k", "pool.yaml: auth: is missing: 192.0.2.1:1 is reached"),
    ] {
        assert!(said(text).contains(complaint), "{text}: {}", said(text));
    }
    assert!(!said("auth: maybe\nlisten: 0.0.0.0:1").contains("is missing"));
    // With TLS there is no plain address, unless it is asked for.
    let with_tls = said("listen_tls: 127.0.0.1:1\ncert: c.pem\nkey: k.pem");
    assert!(
        with_tls.contains("listen_tls: [\"127.0.0.1:1\"]") && !with_tls.contains("listen: "),
        "{with_tls}"
    );
}

#[test]
fn what_cannot_be_read_at_all_is_said_with_the_line() {
    let workers = ("workers.json", &*workers_json());
    for (text, complaint) in [
        (
            "log: info\nlog: warn\nworkers: workers.json",
            "pool.yaml:2: cannot be read: duplicated key in mapping at `log: warn`",
        ),
        ("- a\n- b\n", "pool.yaml:1: is not a list of `key: value`"),
        ("log: info\n---\nlog: warn\n", "pool.yaml:3: a second document begins here: one is expected"),
        (
            "log: info",
            "workers: are missing: give --workers FILE, or `workers` in the file that --config names",
        ),
        ("workers: []", "pool.yaml:1: workers: lists no worker: a pool needs at least one"),
        ("workers: {}", "pool.yaml:1: workers: is not a single value"),
        ("workers: other.json", "other.json: cannot be read: No such file or directory (os error 2)"),
    ] {
        assert_eq!(complaints(&[("pool.yaml", text), workers]), complaint);
    }
    let broken = complaints(&[("pool.yaml", "log: info\nhealth: {interval: 3s\nserver: [\n"), workers]);
    assert!(broken.starts_with("pool.yaml:") && broken.contains("cannot be read"), "{broken}");
}

#[test]
fn a_worker_list_may_be_any_json() {
    for text in [
        // Indented with tabs, on one line, with a byte order mark and Windows line ends.
        format!("[\n\t{{\n\t\t\"worker_id\": \"{KEY_A}\",\n\t\t\"endpoint\": \"http://w:1\"\n\t}}\n]\n"),
        format!("[{{\"worker_id\":\"{KEY_A}\",\"endpoint\":\"http:\\/\\/w:1\"}}]"),
        format!(
            "\u{feff}[\r\n  {{\"worker_id\" : \"{KEY_A}\",\r\n  \"endpoint\" : \"http://w:1\"}}\r\n]\r\n"
        ),
    ] {
        let (_directory, args) = directory(&[("pool.yaml", "workers: w.json"), ("w.json", &text)]);
        let config = Config::load(&args).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert_eq!(config.workers.workers()[0].endpoint.host_port(), "w:1");
    }
}

#[test]
fn a_worker_that_occurs_twice_is_refused_inline_too() {
    let text = format!(
        "workers:\n  - worker_id: {KEY_A}\n    endpoint: http://a:1\n  - worker_id: {KEY_A}\n    endpoint: http://b:1\n"
    );
    assert_eq!(
        complaints(&[("pool.yaml", &text)]),
        "pool.yaml:4: workers[1]: has the same worker_id as workers[0] (line 2)"
    );
}

#[test]
fn the_files_that_ship_load_and_show_the_defaults() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let args = ServeArgs { config: Some(conf.join("pool.yaml")), ..ServeArgs::default() };
    let config = Config::load(&args).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config, Config { workers: config.workers.clone(), ..Config::default() });
    let args = ServeArgs { workers: Some(conf.join("workers.example.json")), ..ServeArgs::default() };
    assert_eq!(Config::load(&args).unwrap().workers, config.workers);
    assert_eq!(config.workers.workers().len(), 2);
    for example in ["hello", "mandelbrot"] {
        let manifest = fs::read(conf.join("examples").join(example).join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["entrypoint"], "main.py");
    }
}
