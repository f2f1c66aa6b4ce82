//! The worker over TLS.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{TestWorker, exchange};
use crate::time::Clock;
use crate::upstream::tls::Dialer;
use crate::worker::certificate::OwnCertificate;
use crate::worker::identity::SecretKey;

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
    let worker = TestWorker::with_tls(Arc::clone(&identity)).await;
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
    let worker = TestWorker::with_tls(Arc::clone(&identity)).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(worker.address).await.unwrap());
    }
    let mut connection = connect(&worker, &identity).await;
    assert_eq!(exchange(&mut connection, HEALTH).await.status, 200);
}
