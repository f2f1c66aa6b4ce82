//! Answers that the pool gives itself.

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, Version, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::Value;

use crate::api::{Problem, route::Refused};

/// What a page of another origin may send, where its origin is allowed; the browser front end needs it.
const PREFLIGHT: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, OPTIONS"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Priority, Range, X-API-Key",
    ),
    (header::ACCESS_CONTROL_MAX_AGE, "86400"),
];

/// What a job wrote is a stranger's file: a browser is told not to run it.
pub fn distrust_content(head: &mut ResponseHeader) -> Result<()> {
    head.insert_header(header::CONTENT_SECURITY_POLICY, "sandbox")
}

/// Readies the head of a body whose length is known only at its end.
pub fn without_length(session: &mut Session, head: &mut ResponseHeader) -> Result<()> {
    if session.req_header().version == Version::HTTP_10 {
        // It knows no chunks: the end of the connection is the end of the body.
        head.remove_header(&header::TRANSFER_ENCODING);
        session.set_keepalive(None);
        return Ok(());
    }
    head.insert_header(header::TRANSFER_ENCODING, "chunked")
}

/// Begins an answer whose length is known only at its end; `false` where the client asked for the head alone, which is then all.
pub async fn begin(session: &mut Session, content_type: &'static str) -> Result<bool> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, content_type)?;
    without_length(session, &mut head)?;
    let head_only = session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(head), head_only).await?;
    Ok(!head_only)
}

/// Answers with JSON.
pub async fn json(session: &mut Session, status: StatusCode, body: &Value) -> Result<()> {
    text(session, status, body.to_string()).await
}

/// Answers with a text that is JSON.
pub async fn text(session: &mut Session, status: StatusCode, json: String) -> Result<()> {
    json_bytes(session, status, Bytes::from(json)).await
}

/// Answers with bytes that are JSON.
pub async fn json_bytes(session: &mut Session, status: StatusCode, json: Bytes) -> Result<()> {
    let mut head = ResponseHeader::build(status, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    write(session, head, json).await
}

/// Answers with an error.
pub async fn problem(session: &mut Session, problem: &Problem) -> Result<()> {
    problem_with(session, problem, None).await
}

/// Answers with an error and one header more.
pub async fn problem_with(
    session: &mut Session,
    problem: &Problem,
    more: Option<(HeaderName, &'static str)>,
) -> Result<()> {
    let mut head = problem_head(problem)?;
    if let Some((name, value)) = more {
        head.insert_header(name, value)?;
    }
    write(session, head, Bytes::from(problem.body().to_string())).await
}

/// Answers a request that has no route.
pub async fn refused(session: &mut Session, refused: &Refused) -> Result<()> {
    problem_with(session, &refused.problem, refused.allow.map(|allow| (header::ALLOW, allow))).await
}

/// Answers a browser that asks whether a page of another origin may make a request.
pub async fn preflight(session: &mut Session) -> Result<()> {
    let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
    for (name, value) in PREFLIGHT {
        head.insert_header(name, value)?;
    }
    session.write_response_header(Box::new(head), true).await?;
    drain(session).await;
    Ok(())
}

fn problem_head(problem: &Problem) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(problem.code.status(), Some(8))?;
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    if let Some(wait) = problem.retry_after() {
        head.insert_header(header::RETRY_AFTER, wait.as_secs().to_string())?;
    }
    Ok(head)
}

/// Answers with this head and a body of known length, which a `HEAD` does not get.
pub async fn write(session: &mut Session, mut head: ResponseHeader, body: Bytes) -> Result<()> {
    head.insert_header(header::CONTENT_LENGTH, body.len().to_string())?;
    let body = (session.req_header().method != Method::HEAD).then_some(body);
    session.write_response_header(Box::new(head), body.is_none()).await?;
    if let Some(body) = body {
        session.write_response_body(Some(body), true).await?;
    }
    drain(session).await;
    Ok(())
}

/// Takes in what is left of the request's body, for a bounded time: a client that is still sending would otherwise see the
/// connection reset before it reads the answer.
async fn drain(session: &mut Session) {
    if session.drain_request_body().await.is_err() {
        // Where the body ends is not known, so nothing that follows may be taken for a request.
        session.set_keepalive(None);
    }
}
