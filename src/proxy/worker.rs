//! The front's connections to workers: to the one that is meant, or none.

use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::file::OutputPassage;
use super::{Front, PROXY_TRIES};
use crate::upstream::Contact;
use crate::upstream::peer::{is_of_worker, request_head};

impl Front {
    /// Sees to it that a connection is to the worker, before anything is written to it.
    pub(super) async fn confirm(
        &self,
        contact: &Contact,
        peer: &HttpPeer,
        digest: Option<&Digest>,
    ) -> Result<()> {
        if is_of_worker(contact, peer, digest) {
            return Ok(());
        }
        // It may have renewed its certificate just now: then the control path verifies the new one, and exactly its key.
        let worker = contact.spec.key;
        self.prober.check(worker).await;
        match self.pool.contact(worker) {
            Some(contact) if is_of_worker(&contact, peer, digest) => Ok(()),
            Some(_) | None => {
                log::warn!("a connection to worker {worker} was not made to its key, and is not used");
                Err(Error::explain(ErrorType::InvalidCert, "not the worker's certificate").into_up())
            }
        }
    }

    /// Asks a worker for a file, and reads the head of the answer. The worker is told which part or version of it a client wants.
    pub(super) async fn ask_for_file(
        &self,
        passage: &OutputPassage,
        client: Option<&RequestHeader>,
    ) -> Result<Answered> {
        let (contact, target) = (&passage.to.contact, passage.target());
        let peer = self.peers.peer(contact, passage.to.address, &target)?;
        let request = match client {
            Some(client) => passage.request_head(client, &target)?,
            None => request_head("GET", contact, &target)?,
        };
        let mut tries = 1;
        loop {
            let (mut connection, kept) = match self.idle.take(&peer) {
                Some(connection) => (HttpSession::H1(connection), true),
                // Boxed: seldom needed, and much to move about.
                None => {
                    let (connection, _) =
                        Box::pin(self.connector.get_http_session(&peer)).await.map_err(Error::into_up)?;
                    (connection, false)
                }
            };
            self.confirm(contact, &peer, connection.digest()).await?;
            connection.set_read_timeout(peer.options.read_timeout);
            connection.set_write_timeout(peer.options.write_timeout);
            match exchange_heads(&mut connection, request.clone()).await {
                Ok(()) => return Ok(Answered { connection, peer }),
                // A connection that was kept may have ended meanwhile, unseen until it was used.
                Err(_) if kept && tries < PROXY_TRIES => tries += 1,
                Err(error) => return Err(error.into_up()),
            }
        }
    }

    /// Keeps the connection for another request, if it may be and its answer was read to the end.
    pub(super) async fn let_go(&self, answered: Answered) {
        let Answered { connection, peer } = answered;
        if let HttpSession::H1(connection) = connection {
            self.idle.keep(connection, &peer).await;
        }
    }
}

/// A worker's answer, up to its body.
pub(super) struct Answered {
    pub connection: HttpSession,
    peer: HttpPeer,
}

impl Answered {
    pub fn head(&self) -> &ResponseHeader {
        self.connection.response_header().expect("it was read")
    }
}

async fn exchange_heads(connection: &mut HttpSession, request: RequestHeader) -> Result<()> {
    connection.write_request_header(Box::new(request)).await?;
    connection.finish_request_body().await?;
    loop {
        connection.read_response_header().await?;
        let head = connection.response_header().ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
        // What comes before the answer (RFC 9110, section 15.2).
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
    }
}
