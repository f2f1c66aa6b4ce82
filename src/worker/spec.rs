//! A worker as the operator lists it: its key, where it is reached, how much it may take, what it is good for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::Ipv6Addr;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use super::WorkerKey;

/// One entry of the allowlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSpec {
    pub key: WorkerKey,
    pub endpoint: Endpoint,
    /// Jobs at once, as the operator limits them; `None` leaves it to what the worker advertises.
    pub max_concurrent_jobs: Option<NonZeroU32>,
    /// What a job may ask for, such as `gpu: a100`.
    pub labels: BTreeMap<String, String>,
}

/// Where a worker is reached: `http` or `https`, a host and a port, and nothing else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// As the operator wrote it.
    text: Box<str>,
    scheme: Scheme,
    /// In lower case; an IPv6 address without its brackets.
    host: Box<str>,
    port: NonZeroU16,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
}

/// Longest host name that the DNS knows.
const HOST_BYTES_MAX: usize = 253;

impl Endpoint {
    /// Host name or address; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port.get()
    }

    /// `host:port`, as a connection or a `Host` header wants it.
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub fn is_tls(&self) -> bool {
        match self.scheme {
            Scheme::Http => false,
            Scheme::Https => true,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidEndpoint {
    Scheme,
    Userinfo,
    Path,
    Host,
    Port,
}

impl fmt::Display for InvalidEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self {
            Self::Scheme => "is no http:// or https:// URL",
            Self::Userinfo => "has a user name in it: a worker is known by its key alone",
            Self::Path => "goes on after the port",
            Self::Host => "has no valid host",
            Self::Port => "has no valid port (1 to 65535)",
        };
        write!(f, "{reason}; write for example https://worker1.example.com:8443")
    }
}

impl std::error::Error for InvalidEndpoint {}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    // Not left to a URL library: those repair what they read, and here the text is to mean what it says.
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidEndpoint::Scheme)?;
        let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            _ => return Err(InvalidEndpoint::Scheme),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(InvalidEndpoint::Path);
        }
        if authority.contains('@') {
            return Err(InvalidEndpoint::Userinfo);
        }
        let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
            let (address, after) = bracketed.split_once(']').ok_or(InvalidEndpoint::Host)?;
            let address: Ipv6Addr = address.parse().map_err(|_| InvalidEndpoint::Host)?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or(InvalidEndpoint::Port)?),
            };
            (address.to_string(), port)
        } else {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            if !is_host_name(host) {
                return Err(InvalidEndpoint::Host);
            }
            (host.to_ascii_lowercase(), port)
        };
        let port = match port {
            None => default_port,
            // A number may carry a sign for `parse`, but not in a URL.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| InvalidEndpoint::Port)?
            }
            Some(_) => return Err(InvalidEndpoint::Port),
        };
        let port = NonZeroU16::new(port).ok_or(InvalidEndpoint::Port)?;
        Ok(Self { text: text.into(), scheme, host: host.into(), port })
    }
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// The workers that may be given jobs: no key and no endpoint occurs twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowlist(Vec<WorkerSpec>);

/// An entry of an allowlist repeats what an earlier one has; both by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated {
    pub field: RepeatedField,
    pub first: usize,
    pub again: usize,
}

/// What must not occur twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatedField {
    Key,
    /// The same host and port, whatever the scheme: one socket is one worker.
    Endpoint,
}

impl Allowlist {
    /// The list of these workers, or everything that occurs twice in it.
    pub fn new(workers: Vec<WorkerSpec>) -> Result<Self, Vec<Repeated>> {
        let mut keys = HashMap::new();
        let mut endpoints = HashMap::new();
        let mut repeated = Vec::new();
        for (again, worker) in workers.iter().enumerate() {
            let first = *keys.entry(worker.key).or_insert(again);
            if first != again {
                repeated.push(Repeated { field: RepeatedField::Key, first, again });
            }
            let first = *endpoints.entry(worker.endpoint.host_port()).or_insert(again);
            if first != again {
                repeated.push(Repeated { field: RepeatedField::Endpoint, first, again });
            }
        }
        if repeated.is_empty() { Ok(Self(workers)) } else { Err(repeated) }
    }

    pub fn workers(&self) -> &[WorkerSpec] {
        &self.0
    }

    pub fn into_workers(self) -> Vec<WorkerSpec> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_as_it_was_written_and_reached_where_it_says() {
        for (text, host_port, tls) in [
            ("https://worker1.example.com:8443", "worker1.example.com:8443", true),
            ("http://127.0.0.1:8443/", "127.0.0.1:8443", false),
            ("HTTPS://Worker1", "worker1:443", true),
            ("http://[::1]:8443", "[::1]:8443", false),
            ("http://[2001:DB8::1]", "[2001:db8::1]:80", false),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert_eq!((endpoint.host_port().as_str(), endpoint.is_tls()), (host_port, tls));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_reason() {
        use InvalidEndpoint::{Host, Path, Port, Scheme, Userinfo};
        for (text, reason) in [
            ("", Scheme),
            ("worker1:8443", Scheme),
            ("ftp://worker1:21", Scheme),
            ("https://", Host),
            ("https:///", Host),
            ("https://:8443", Host),
            ("https://wor ker:8443", Host),
            ("https://wörker:8443", Host),
            ("https://[::1:8443", Host),
            ("https://[worker]:8443", Host),
            ("https://worker:0", Port),
            ("https://worker:65536", Port),
            ("https://worker:+80", Port),
            ("https://worker:", Port),
            ("https://worker:1:2", Port),
            ("https://[::1]8443", Port),
            ("https://worker/path", Path),
            ("https://worker//", Path),
            ("https://worker?x=1", Path),
            ("https://worker#x", Path),
            ("https://user:secret@worker", Userinfo),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(reason), "{text}");
        }
    }
}
