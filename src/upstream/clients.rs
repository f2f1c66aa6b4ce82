//! The HTTP clients of the control path: one for all workers in the clear, and one for each that is reached over TLS.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use reqwest::tls::TlsInfo;
use reqwest::{Client, ClientBuilder, Response};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::tls::Dialer;
use crate::worker::certificate::Leaf;
use crate::worker::{WorkerKey, WorkerSpec};

/// How long a TCP connection may take to be made; a worker is near, and a silent one must not hold a slot.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients for every worker that there is.
pub struct Clients {
    plain: Client,
    /// Each connects to that worker's key and to no other.
    pinned: DashMap<WorkerKey, Client>,
    dialer: Dialer,
}

impl Clients {
    pub fn new(dialer: Dialer) -> Result<Self, reqwest::Error> {
        // Workers are known by their keys; a system without certificate authorities is as good as any.
        let plain = settings().tls_certs_only([]).build()?;
        Ok(Self { plain, pinned: DashMap::new(), dialer })
    }

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The client for a worker: of an `https` endpoint, one that gets no further than the handshake with anybody else.
    pub fn of(&self, worker: &WorkerSpec) -> Client {
        if !worker.endpoint.is_tls() {
            return self.plain.clone();
        }
        let pinned = || {
            let settings = settings().tls_backend_preconfigured(self.dialer.config_for(worker.key));
            settings.https_only(true).tls_info(true).build().expect("a client like it was built at the start")
        };
        self.pinned.entry(worker.key).or_insert_with(pinned).clone()
    }

    /// Drops a worker's client; calls that it makes go on.
    pub fn forget(&self, worker: WorkerKey) {
        self.pinned.remove(&worker);
    }
}

fn settings() -> ClientBuilder {
    Client::builder()
        // A sandrun worker finds headers by their Title-Case spelling only.
        .http1_only()
        .http1_title_case_headers()
        // It closes after each answer without saying so: a pooled connection to it is always dead. And a socket
        // belongs to the runtime that made it, while a client serves several.
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}

/// The certificate that a worker showed on the connection of this response.
pub fn shown_leaf(worker: &WorkerSpec, response: &Response) -> Result<Arc<Leaf>, String> {
    let shown = response.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
    let shown = CertificateDer::from(shown.ok_or("it showed no certificate")?);
    let leaf = Leaf::read_as(worker.key, &shown, UnixTime::now());
    leaf.map(Arc::new).map_err(|error| error.to_string())
}
