//! The subprotocols of a WebSocket: some of what a client offers is for the pool, and never reaches a worker.

use http::{HeaderMap, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::auth::credential::{bearer_of, subprotocols};

/// What a page offers beside its token: a browser takes no connection for which none of what it offers is chosen, and the token
/// is not sent back.
const OWN: &str = "trusted-pool";

/// What a client offers, without its credential.
pub struct Subprotocols {
    /// What is left for the worker.
    others: Vec<String>,
    own: Offered,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Offered {
    Yes,
    No,
}

impl Subprotocols {
    pub fn of(headers: &HeaderMap) -> Self {
        let (own, others): (Vec<&str>, Vec<&str>) = subprotocols(headers)
            .filter(|name| !name.is_empty() && bearer_of(name).is_none())
            .partition(|name| *name == OWN);
        Self {
            others: others.into_iter().map(str::to_owned).collect(),
            own: if own.is_empty() { Offered::No } else { Offered::Yes },
        }
    }

    /// Offers the worker what is not the pool's.
    pub fn forward(&self, head: &mut RequestHeader) -> Result<()> {
        if self.others.is_empty() {
            return Ok(());
        }
        head.insert_header("Sec-WebSocket-Protocol", self.others.join(", "))
    }

    /// Lets a worker choose what it was offered, and chooses the pool's where it chose nothing.
    pub fn answer(&self, head: &mut ResponseHeader) -> Result<()> {
        let chosen = head.headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|name| name.to_str().ok());
        if chosen.is_some_and(|chosen| self.others.iter().any(|name| name == chosen)) {
            return Ok(());
        }
        head.remove_header(&header::SEC_WEBSOCKET_PROTOCOL);
        if self.own == Offered::Yes {
            head.insert_header(header::SEC_WEBSOCKET_PROTOCOL, OWN)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(offered: &str, chosen: Option<&str>) -> (Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap());
        let protocols = Subprotocols::of(&headers);
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        protocols.forward(&mut request).unwrap();
        let mut response = ResponseHeader::build(101, None).unwrap();
        if let Some(chosen) = chosen {
            response.insert_header(header::SEC_WEBSOCKET_PROTOCOL, chosen).unwrap();
        }
        protocols.answer(&mut response).unwrap();
        let of = |headers: &HeaderMap| {
            headers.get(header::SEC_WEBSOCKET_PROTOCOL).map(|value| value.to_str().unwrap().to_owned())
        };
        (of(&request.headers), of(&response.headers))
    }

    #[test]
    fn a_worker_is_offered_neither_the_token_nor_what_is_the_pools() {
        let own = Some("trusted-pool".to_owned());
        assert_eq!(passed("trusted-pool, bearer.secret", None), (None, own.clone()));
        assert_eq!(passed("bearer.secret", None), (None, None));
        assert_eq!(passed("bearer.secret, log", Some("log")), (Some("log".into()), Some("log".into())));
        assert_eq!(passed("log, trusted-pool, Bearer.secret, x", None), (Some("log, x".into()), own.clone()));
        // A worker that sends back what it was not offered is not believed.
        assert_eq!(passed("trusted-pool, bearer.secret", Some("bearer.secret")), (None, own));
    }
}
