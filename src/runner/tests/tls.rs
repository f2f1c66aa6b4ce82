//! The worker over TLS.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{TestWorker, exchange};
use crate::job::JobId;
use crate::runner::tls::Access;
use crate::spool::Spool;
use crate::store::{Payload, Work};
use crate::time::Clock;
use crate::upstream::client::{HttpUpstream, Timeouts};
use crate::upstream::tls::Dialer;
use crate::upstream::{Contact, SendOutcome, Upstream};
use crate::worker::certificate::OwnCertificate;
use crate::worker::identity::{PoolKey, SecretKey};
use crate::worker::{Dialect, WorkerSpec};

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: w\r\n\r\n";

/// Longer than a certificate is shown, and not as long as it is valid.
const LATER: Duration = Duration::from_secs(31 * 24 * 60 * 60);

async fn connect(worker: &TestWorker, identity: &OwnCertificate) -> TlsStream<TcpStream> {
    let pool = Dialer::new(OwnCertificate::new(SecretKey::generate(), Clock::System));
    let connector = TlsConnector::from(Arc::new(pool.config_for(identity.public())));
    let tcp = TcpStream::connect(worker.address).await.unwrap();
    connector.connect(ServerName::IpAddress(worker.address.ip().into()), tcp).await.unwrap()
}

fn shown(connection: &TlsStream<TcpStream>) -> Vec<u8> {
    connection.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_new_certificate_is_shown_in_time_and_open_connections_go_on() {
    let clock = Clock::runtime(Clock::System.now().minus(LATER));
    let identity = OwnCertificate::new(SecretKey::generate(), clock);
    let worker = TestWorker::with_tls(Arc::clone(&identity), Access::Tls).await;
    let mut open = connect(&worker, &identity).await;
    assert_eq!(exchange(&mut open, HEALTH).await.status, 200);
    tokio::time::pause();
    tokio::time::advance(LATER).await;
    tokio::time::resume();
    let mut new = connect(&worker, &identity).await;
    assert_ne!(shown(&new), shown(&open));
    assert_eq!(exchange(&mut new, HEALTH).await.status, 200);
    assert_eq!(exchange(&mut open, HEALTH).await.status, 200);
}

#[tokio::test]
async fn a_client_that_is_silent_in_its_handshake_holds_up_no_other() {
    let identity = OwnCertificate::new(SecretKey::generate(), Clock::System);
    let worker = TestWorker::with_tls(Arc::clone(&identity), Access::Tls).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(worker.address).await.unwrap());
    }
    let mut connection = connect(&worker, &identity).await;
    assert_eq!(exchange(&mut connection, HEALTH).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_a_worker_refuses_knows_that_its_job_was_not_taken() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let identity = OwnCertificate::new(SecretKey::generate(), Clock::System);
    let another = PoolKey(SecretKey::generate().public());
    let worker = TestWorker::with_tls(Arc::clone(&identity), Access::Pools(vec![another])).await;
    let mut spec = WorkerSpec::for_tests(identity.public());
    spec.endpoint = format!("https://{}", worker.address).parse().unwrap();
    let to = Contact { spec: Arc::new(spec), dialect: Dialect::V2, leaf: None, is_proven: true };
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(dir.path(), 1 << 20).unwrap());
    let timeouts = Timeouts { health: Duration::from_secs(5), longest_job: Duration::from_secs(5) };
    let dialer = Dialer::new(OwnCertificate::new(SecretKey::generate(), Clock::System));
    let pool = HttpUpstream::new(spool, dialer, timeouts).unwrap();
    let work = Work {
        manifest: "{}".into(),
        boundary: "b".into(),
        payload: Payload::Inline(vec![b'x'; 60 << 10].into()),
        sha256: [0; 32],
    };
    for _ in 0..50 {
        let outcome = pool.submit(&to, &JobId::from_random([1; 12]), 1, &work).await;
        assert!(matches!(outcome, SendOutcome::Unreachable { .. }), "{outcome:?}");
    }
}
