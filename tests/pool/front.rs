//! The front's TLS, with real handshakes.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{SOON, command, eventually, nobody, write_config};
use crate::standin::{Quirks, Standin};
use crate::wire::{Answer, Call, Wire};

/// A certificate and its key.
struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Issued {
    /// For `localhost`, signed by itself.
    fn new() -> Self {
        let key = key();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.is_ca = IsCa::ExplicitNoCa;
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, key }
    }

    fn write(&self, dir: &TempDir) {
        // As a renewal does: each file is replaced, one after the other.
        for (name, text) in [("cert.pem", self.certificate.pem()), ("key.pem", self.key.serialize_pem())] {
            fs::write(dir.path().join("new.pem"), text).expect("a writable directory");
            fs::rename(dir.path().join("new.pem"), dir.path().join(name)).expect("a writable directory");
        }
    }

    fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

/// A pool that speaks TLS alone.
pub struct TlsPool {
    dir: TempDir,
    child: Child,
    pub address: SocketAddr,
    shown: Issued,
}

impl TlsPool {
    pub async fn start(workers: &[serde_json::Value], extra: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let shown = Issued::new();
        shown.write(&dir);
        write_config(
            dir.path(),
            workers,
            &format!("listen_tls: 127.0.0.1:0\ncert: cert.pem\nkey: key.pem\n{extra}"),
        );
        let config = dir.path().join("pool.yaml");
        // Only TLS: the harness asks for a plain address.
        let yaml =
            fs::read_to_string(&config).expect("the configuration").replace("listen: 127.0.0.1:0\n", "");
        fs::write(&config, yaml).expect("a writable directory");
        let (child, address) = launch(&dir, &["serve", "--config", config.to_str().expect("UTF-8")]).await;
        Self { dir, child, address, shown }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr.log")).unwrap_or_default()
    }

    pub fn client(&self) -> Client {
        Client::trusting(self.shown.der())
    }
}

/// Starts a pool and reads where it speaks TLS.
async fn launch(dir: &TempDir, args: &[&str]) -> (Child, SocketAddr) {
    let file = |name: &str| File::create(dir.path().join(name)).expect("a writable directory");
    let mut command = command(args);
    let child =
        command.stdout(file("stdout.log")).stderr(file("stderr.log")).spawn().expect("the binary starts");
    let address = eventually("the pool says where it speaks TLS", SOON, async || {
        let said = fs::read_to_string(dir.path().join("stdout.log")).ok()?;
        said.lines().find_map(|line| line.strip_prefix("listening on https://"))?.parse().ok()
    })
    .await;
    (child, address)
}

/// How a client connects.
pub struct Client {
    root: CertificateDer<'static>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
}

impl Client {
    fn trusting(root: CertificateDer<'static>) -> Self {
        Self { root, versions: vec![&TLS13, &TLS12], alpn: Vec::new(), identity: None }
    }

    pub fn offering(self, protocols: &[&str]) -> Self {
        Self { alpn: protocols.iter().map(|name| name.as_bytes().to_vec()).collect(), ..self }
    }

    fn speaking(self, version: &'static SupportedProtocolVersion) -> Self {
        Self { versions: vec![version], ..self }
    }

    fn being(self, identity: &Issued) -> Self {
        let key = PrivateKeyDer::try_from(identity.key.serialize_der()).expect("a key");
        Self { identity: Some((identity.der(), key)), ..self }
    }

    pub async fn connect(&self, to: SocketAddr) -> Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions);
        let builder = builder.expect("versions").with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((certificate, key)) => builder
                .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
                .expect("a certificate with its key"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(to).await?).await
    }

    /// Makes a call over HTTP/1.1.
    pub async fn call(&self, to: SocketAddr, call: &Call) -> Result<Answer> {
        h1(&mut Wire::over(self.connect(to).await?), call).await
    }
}

async fn h1(wire: &mut Wire<TlsStream<TcpStream>>, call: &Call) -> Result<Answer> {
    wire.write(&call.to_bytes()).await?;
    let mut body = Vec::new();
    let (head, ended) = wire.read_answer("GET", |bytes| body.extend_from_slice(bytes)).await?;
    Ok(Answer { head, body, ended })
}

/// Makes a call over HTTP/2 on a connection of its own: status and body.
async fn h2(stream: TlsStream<TcpStream>, request: http::Request<()>, upload: Bytes) -> (u16, Bytes) {
    let (send, connection) = h2::client::handshake(stream).await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    let mut send = send.ready().await.expect("a stream");
    let (response, mut body) = send.send_request(request, upload.is_empty()).expect("a request");
    if !upload.is_empty() {
        body.send_data(upload, true).expect("a body");
    }
    let response = response.await.expect("a response");
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("a whole body");
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    (status, bytes.into())
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
    chain[0].clone().into_owned()
}

fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("https://localhost{path}")).body(()).expect("a request")
}

#[tokio::test]
async fn alpn_chooses_between_http_2_and_1_1_under_tls_1_2_and_1_3() {
    let pool = TlsPool::start(&[nobody()], "").await;
    for (version, spoken) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let client = pool.client().speaking(version).offering(&["h2", "http/1.1"]);
        let stream = client.connect(pool.address).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        let (status, body) = h2(stream, get("/health"), Bytes::new()).await;
        assert!(status == 200 && body.starts_with(b"{"), "{status} {body:?}");
        for offered in [&["http/1.1"][..], &[]] {
            let client = pool.client().speaking(version).offering(offered);
            client.call(pool.address, &Call::get("/health")).await.expect("an answer").expect(200);
        }
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_open_connections_go_on() {
    let pool = TlsPool::start(&[nobody()], "").await;
    let mut old = Wire::over(pool.client().connect(pool.address).await.expect("a handshake"));
    h1(&mut old, &Call::get("/health")).await.expect("an answer").expect(200);
    let renewed = Issued::new();
    renewed.write(&pool.dir);
    let client = Client::trusting(renewed.der());
    eventually("the new certificate is shown", SOON, async || {
        let stream = client.connect(pool.address).await.ok()?;
        (shown(&stream) == renewed.der()).then_some(())
    })
    .await;
    assert!(pool.client().connect(pool.address).await.is_err(), "the old certificate is shown");
    h1(&mut old, &Call::get("/health")).await.expect("an answer on the old connection").expect(200);
}

#[tokio::test]
async fn sighup_reads_the_certificate_again_and_ends_nothing() {
    let mut pool = TlsPool::start(&[nobody()], "").await;
    let mut old = Wire::over(pool.client().connect(pool.address).await.expect("a handshake"));
    let pid = i32::try_from(pool.child.id().expect("it runs")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGHUP).expect("it runs");
    eventually("the certificate is read again", SOON, async || {
        pool.log().contains("read again: the certificate").then_some(())
    })
    .await;
    h1(&mut old, &Call::get("/health")).await.expect("an answer").expect(200);
    assert!(pool.child.try_wait().expect("a child").is_none(), "it ended");
}

#[tokio::test]
async fn a_certificate_without_its_key_changes_nothing() {
    let pool = TlsPool::start(&[nobody()], "").await;
    fs::write(pool.dir.path().join("key.pem"), key().serialize_pem()).expect("a writable directory");
    eventually("the pool says so", SOON, async || {
        pool.log().contains("what was read before stays in force").then_some(())
    })
    .await;
    pool.client().call(pool.address, &Call::get("/health")).await.expect("an answer").expect(200);
}

#[tokio::test]
async fn with_a_client_ca_only_its_clients_connect() {
    let dir = TempDir::new().expect("a temporary directory");
    let (ca_key, mut params) = (key(), CertificateParams::new(Vec::new()).expect("no name"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).expect("an authority");
    let path = dir.path().join("clients.pem");
    fs::write(&path, ca.pem()).expect("a writable directory");
    let known = {
        let key = key();
        let client = CertificateParams::new(vec!["client".to_owned()]).expect("a name");
        let certificate =
            client.signed_by(&key, &Issuer::from_params(&params, &ca_key)).expect("a certificate");
        Issued { certificate, key }
    };
    let pool = TlsPool::start(&[nobody()], &format!("client_ca: {}", path.display())).await;
    let health = Call::get("/health");
    pool.client().being(&known).call(pool.address, &health).await.expect("an answer").expect(200);
    for stranger in [pool.client(), pool.client().being(&Issued::new())] {
        // Under TLS 1.3 the refusal comes after the client's side of the handshake.
        let refused: Result<Answer> = stranger.call(pool.address, &health).await;
        assert!(refused.is_err(), "{refused:?}");
    }
}

#[tokio::test]
async fn a_job_goes_in_and_its_output_comes_out_over_http_2() {
    let standin = Standin::start(Quirks::brisk()).await;
    let pool = TlsPool::start(&[standin.entry(1)], "auth: tokens").await;
    let data = pool.dir.path().join("data");
    let args = ["token", "new", "--name", "ci", "--role", "submit", "--data", data.to_str().expect("UTF-8")];
    let made = command(&args).output().await.expect("the binary runs");
    let token = String::from_utf8(made.stdout).expect("a token").trim().to_owned();
    let connect = async || pool.client().offering(&["h2"]).connect(pool.address).await.expect("a handshake");
    let with_token =
        |builder: http::request::Builder| builder.header("authorization", format!("Bearer {token}"));
    let body = "--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"main.py\"\r\n\r\nprint(1)\r\n\
                --b\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\n\
                {\"entrypoint\": \"main.py\", \"args\": [\"out=o.txt:data\"]}\r\n--b--\r\n";
    let submit = || {
        let builder = http::Request::post("https://localhost/submit");
        let builder = builder.header("content-type", "multipart/form-data; boundary=b");
        (builder, Bytes::from_static(body.as_bytes()))
    };
    let (builder, upload) = submit();
    let refused = h2(connect().await, builder.body(()).expect("a request"), upload).await;
    assert_eq!(refused.0, 401);
    let job = eventually("the token is known", SOON, async || {
        let (builder, upload) = submit();
        let request = with_token(builder).body(()).expect("a request");
        let (status, body) = h2(connect().await, request, upload).await;
        let answer: serde_json::Value = serde_json::from_slice(&body).ok()?;
        (status == 200).then(|| answer["job_id"].as_str().expect("a job id").to_owned())
    })
    .await;
    eventually("the output is there", SOON, async || {
        let uri = format!("https://localhost/outputs/{job}/o.txt");
        let request = with_token(http::Request::get(uri)).body(()).expect("a request");
        let (status, body) = h2(connect().await, request, Bytes::new()).await;
        (status == 200 && &body[..] == b"data").then_some(())
    })
    .await;
}

#[tokio::test]
async fn dev_tls_makes_a_certificate_that_clients_can_be_told_to_trust() {
    let dir = TempDir::new().expect("a temporary directory");
    write_config(dir.path(), &[nobody()], "listen_tls: 127.0.0.1:0");
    let config = dir.path().join("pool.yaml");
    let args = ["serve", "--dev-tls", "--config", config.to_str().expect("UTF-8")];
    let (_child, address) = launch(&dir, &args).await;
    let ca: PathBuf = dir.path().join("data/dev-tls/cert.pem");
    let said = fs::read_to_string(dir.path().join("stderr.log")).expect("what it said");
    assert!(said.contains("curl --cacert") && said.contains("cert.pem"), "{said}");
    for (host, trust, code) in [("localhost", true, 0), ("127.0.0.1", true, 0), ("localhost", false, 3)] {
        let url = format!("https://{host}:{}", address.port());
        let mut args = vec!["workers", "--pool", &url];
        if trust {
            args.extend(["--ca", ca.to_str().expect("UTF-8")]);
        }
        let output = tokio::time::timeout(Duration::from_secs(30), command(&args).output()).await;
        let output = output.expect("an end").expect("the binary runs");
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_is_dropped_and_logs_no_error() {
    let pool = TlsPool::start(&[nobody()], "").await;
    let answer: std::result::Result<Answer, Error> = Call::get("/health").send(pool.address).await;
    assert!(answer.is_err(), "{answer:?}");
    pool.client().call(pool.address, &Call::get("/health")).await.expect("an answer").expect(200);
    assert!(!pool.log().contains("ERROR"), "{}", pool.log());
}

#[tokio::test]
async fn check_finds_a_certificate_that_is_not_its_keys() {
    let dir = TempDir::new().expect("a temporary directory");
    Issued::new().write(&dir);
    write_config(dir.path(), &[nobody()], "listen_tls: 127.0.0.1:0\ncert: cert.pem\nkey: key.pem");
    let config = dir.path().join("pool.yaml");
    let check = async || {
        let args = ["serve", "--check", "--config", config.to_str().expect("UTF-8")];
        command(&args).output().await.expect("the binary runs")
    };
    assert!(check().await.status.success());
    fs::write(dir.path().join("key.pem"), key().serialize_pem()).expect("a writable directory");
    let output = check().await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("key.pem"));
}
