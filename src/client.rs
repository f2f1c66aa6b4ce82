//! A typed client of the pool's own HTTP API.
//!
//! Each call gives the pool's answer twice: parsed, and as the text it came as, so that what is shown to a program is
//! what the pool said and not what this version understands of it.

pub mod answers;
mod download;
mod error;
mod live_log;
mod multipart;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Method, RequestBuilder, Response, Url, redirect};
use serde::de::DeserializeOwned;

use answers::{Drained, Job, JobsPage, Listing, Logs, Moved, Pool, Refusal, Status};
pub use download::{Progress, local_path};
pub use error::ClientError;
pub use live_log::LiveLog;
pub use multipart::{Part, Upload};

use crate::job::JobId;
use crate::worker::WorkerKey;

/// An answer, parsed and as it came.
#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub text: String,
}

/// Which jobs a page of [`Client::jobs`] lists.
#[derive(Clone, Debug, Default)]
pub struct JobsQuery {
    pub status: Option<String>,
    pub worker: Option<String>,
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// A pool, by its URL.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    authorization: Option<HeaderValue>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For a whole answer in JSON. The pool answers from what it knows when a worker is slow, so this is a pool that hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of an answer in JSON: two logs at the largest that a pool can be told to keep, with some of it escaped.
const ANSWER_BYTES_MAX: usize = 1 << 30;

impl Client {
    /// The pool at this URL; the token, if any, goes along with every request.
    ///
    /// # Errors
    /// When the URL is no `http` or `https` URL, or the token cannot be sent in a header.
    pub fn new(pool: &str, token: Option<&str>) -> Result<Self, ClientError> {
        Self::trusting(None, pool, token)
    }

    /// The same; an `https` pool must show a certificate from the PEM file `ca`, and what the system trusts counts for nothing.
    ///
    /// # Errors
    /// As [`Self::new`], and when the file holds no certificate.
    pub fn trusting(ca: Option<&Path>, pool: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let url: Url =
            pool.parse().map_err(|error| ClientError::Usage(format!("{pool:?} is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.query().is_some() {
            return Err(ClientError::Usage(format!("{pool:?} is no http:// or https:// URL of a pool")));
        }
        let authorization = token.map(authorization).transpose()?;
        let roots = ca.map(certificates).transpose()?;
        let http = http_client(&url, roots).map_err(|error| ClientError::Usage(error::chain(&error)))?;
        Ok(Self { http, base: url.as_str().trim_end_matches('/').to_owned(), authorization })
    }

    pub fn url(&self) -> &str {
        &self.base
    }

    pub async fn status(&self, job: &JobId) -> Result<Answer<Status>, ClientError> {
        self.answer(self.get(&format!("/status/{job}"))).await
    }

    pub async fn logs(&self, job: &JobId) -> Result<Answer<Logs>, ClientError> {
        self.answer(self.get(&format!("/logs/{job}"))).await
    }

    pub async fn outputs(&self, job: &JobId) -> Result<Answer<Listing>, ClientError> {
        self.answer(self.get(&format!("/outputs/{job}"))).await
    }

    pub async fn pool(&self) -> Result<Answer<Pool>, ClientError> {
        self.answer(self.get("/pool")).await
    }

    pub async fn jobs(&self, query: &JobsQuery) -> Result<Answer<JobsPage>, ClientError> {
        let JobsQuery { status, worker, limit, cursor } = query;
        let limit = limit.map(|limit| limit.to_string());
        let pairs = [("status", status), ("worker", worker), ("limit", &limit), ("cursor", cursor)];
        let mut path = "/jobs".to_owned();
        for (name, value) in pairs.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            let separator = if path.contains('?') { '&' } else { '?' };
            let _ = write!(path, "{separator}{name}={}", percent_encoded(value, ""));
        }
        self.answer(self.get(&path)).await
    }

    pub async fn cancel(&self, job: &JobId) -> Result<Answer<Moved>, ClientError> {
        self.answer(self.request(Method::POST, &format!("/cancel/{job}"))).await
    }

    pub async fn retry(&self, job: &JobId) -> Result<Answer<Moved>, ClientError> {
        self.answer(self.request(Method::POST, &format!("/retry/{job}"))).await
    }

    pub async fn drain(&self, worker: &WorkerKey, reason: &str) -> Result<Answer<Drained>, ClientError> {
        let request = self.request(Method::POST, &format!("/workers/{}/drain", worker.to_url_safe()));
        self.answer(request.body(serde_json::json!({ "reason": reason }).to_string())).await
    }

    pub async fn resume(&self, worker: &WorkerKey) -> Result<Answer<Drained>, ClientError> {
        self.answer(self.request(Method::POST, &format!("/workers/{}/resume", worker.to_url_safe()))).await
    }

    /// Whether the pool takes jobs; its reason where it does not.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.send(self.get("/ready").timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    pub async fn submit(&self, upload: Upload) -> Result<Answer<Job>, ClientError> {
        // No timeout: an upload takes what it takes, and the pool ends one that stands still.
        let request = upload.into_request(self.request(Method::POST, "/submit"));
        parse(self.send(request).await?).await
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>, ClientError> {
        parse(self.send(request.timeout(ANSWER_TIMEOUT)).await?).await
    }

    /// The pool's answer, where it is no refusal.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| ClientError::sending(&self.base, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let refusal = parse::<Refusal>(response).await.map(|answer| answer.value);
        // Something between us and the pool may answer in a language of its own.
        let refusal = refusal.unwrap_or_else(|_| Refusal {
            error: format!("the pool answered {status}"),
            ..Refusal::default()
        });
        Err(ClientError::Refused { status, refusal })
    }
}

fn authorization(token: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| ClientError::Usage("the token holds characters that cannot be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let wrong = |what: String| ClientError::Usage(format!("{}: {what}", path.display()));
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => Err(wrong("holds no certificate".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(error::chain(&error))),
    }
}

fn http_client(url: &Url, roots: Option<Vec<Certificate>>) -> Result<reqwest::Client, reqwest::Error> {
    // A process has one provider; another part of this program may have been first, with the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder =
        reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(redirect::Policy::none());
    if let Some(roots) = roots {
        builder = builder.tls_certs_only(roots);
    } else if url.scheme() == "http" {
        // Else the system's certificates are loaded, and it is an error when it has none.
        builder = builder.tls_certs_only([]);
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if loopback {
        // A proxy's loopback is not ours.
        builder = builder.no_proxy();
    }
    builder.build()
}

/// Reads an answer to its end and parses it.
async fn parse<T: DeserializeOwned>(response: Response) -> Result<Answer<T>, ClientError> {
    let mut bytes = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| ClientError::broken(&error))?);
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(ClientError::Unexpected(format!(
                "the answer is larger than {ANSWER_BYTES_MAX} bytes"
            )));
        }
    }
    let unexpected = |error: &dyn std::error::Error| {
        ClientError::Unexpected(format!("the answer is not the pool's: {error}"))
    };
    let text = String::from_utf8(bytes).map_err(|error| unexpected(&error))?;
    let value = serde_json::from_str(&text).map_err(|error| unexpected(&error))?;
    Ok(Answer { value, text })
}

/// The text as it may stand in a URL. Bytes of `kept` stay as they are.
fn percent_encoded(text: &str, kept: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
