//! The front's connections to workers: to the one that is meant, or none.

use pingora::http::ResponseHeader;
use pingora::protocols::Digest;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::Front;
use super::passage::OutputPassage;
use crate::upstream::Contact;
use crate::upstream::peer::{http_peer, is_of_worker, request_head};

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

    /// Asks a worker for a file, and reads the head of the answer.
    pub(super) async fn ask_for_file(
        &self,
        passage: &OutputPassage,
    ) -> Result<(HttpSession, ResponseHeader)> {
        let (contact, target) = (&passage.to.contact, passage.target());
        let peer = http_peer(&self.dialer, contact, passage.to.address, &target)?;
        let (mut connection, _) = self.connector.get_http_session(&peer).await?;
        self.confirm(contact, &peer, connection.digest()).await?;
        connection.set_read_timeout(peer.options.read_timeout);
        connection.write_request_header(Box::new(request_head("GET", contact, &target)?)).await?;
        connection.finish_request_body().await?;
        connection.read_response_header().await?;
        let head = connection.response_header().cloned();
        let head = head.ok_or_else(|| Error::new_up(ErrorType::InvalidHTTPHeader))?;
        Ok((connection, head))
    }
}
