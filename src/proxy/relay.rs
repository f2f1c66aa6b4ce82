//! A file from the worker that has it to the client, piece by piece.
//!
//! The connection is Pingora's, from its connector; its general path between the two sides, made for requests and answers
//! with bodies at once, copies each piece and hands it from task to task. Here a piece goes from the buffer that it was read into
//! to the client's socket.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_proxy::Session;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::file::{Admitted, OutputPassage};
use super::outputs::stated_length;
use super::passage::{problem_of, report_failure};
use super::worker::Answered;
use super::{Front, respond};
use crate::upstream::peer::READ_TIMEOUT;

/// A file of up to so many bytes is read whole before anything is sent: it leaves at once with its head, and one that breaks off is
/// an error that the client is told.
const SHORT_FILE_BYTES: u64 = 16 << 10;

/// A longer file is read past Pingora's reader in larger pieces than that has room for; its connection is not kept then. On
/// loopback that takes half of the processor time: of both sides, nobody wakes up for each 64 KiB.
const LONG_FILE_BYTES: u64 = 8 << 20;

/// Bytes of a long file that are held at once.
const LONG_PIECE_BYTES: usize = 256 << 10;

impl Front {
    /// Answers with a file from the worker.
    pub(super) async fn relay(&self, session: &mut Session, mut passage: OutputPassage) -> Result<()> {
        loop {
            let answered = match self.ask_for_file(&passage, Some(session.req_header())).await {
                Ok(answered) => answered,
                Err(error) => {
                    report_failure(&self.pool, &passage.to.contact, &error);
                    return respond::problem(session, &problem_of(&error)).await;
                }
            };
            match passage.admit(answered.head())? {
                Admitted::Yes(head) => return self.pass_on(session, &passage, answered, head).await,
                Admitted::TryAgain => self.let_go(answered).await,
                Admitted::Refused(status) => {
                    let problem = self.refusal(&passage, status).await;
                    return respond::problem(session, &problem).await;
                }
                Admitted::No(problem) => return respond::problem(session, &problem).await,
            }
        }
    }

    async fn pass_on(
        &self,
        session: &mut Session,
        passage: &OutputPassage,
        mut answered: Answered,
        mut head: Box<ResponseHeader>,
    ) -> Result<()> {
        let connection = &mut answered.connection;
        let length = stated_length(&head);
        if has_no_body(session, &head) {
            session.write_response_header(head, true).await?;
        } else if let Some(short) = length.filter(|length| *length <= SHORT_FILE_BYTES) {
            match read_short(connection, short).await {
                Ok(file) => {
                    session.write_response_header(head, false).await?;
                    session.write_response_body(Some(file), true).await?;
                }
                Err(error) => {
                    report_failure(&self.pool, &passage.to.contact, &error);
                    return respond::problem(session, &problem_of(&error)).await;
                }
            }
        } else {
            if length.is_none() {
                // Pingora takes a length that is stated twice for one; a client might not.
                head.remove_header(&header::CONTENT_LENGTH);
                respond::without_length(session, &mut head)?;
            }
            session.write_response_header(head, false).await?;
            if let Some(long) = length.filter(|length| *length >= LONG_FILE_BYTES) {
                return copy_long(answered.connection, long, session).await;
            }
            copy(connection, session).await?;
        }
        self.let_go(answered).await;
        Ok(())
    }
}

fn has_no_body(session: &Session, head: &ResponseHeader) -> bool {
    session.req_header().method == Method::HEAD
        || head.status == StatusCode::NOT_MODIFIED
        || head.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0")
}

async fn read_short(connection: &mut HttpSession, bytes: u64) -> Result<Bytes> {
    let mut file = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    while let Some(piece) = read(connection).await? {
        file.extend_from_slice(piece);
    }
    Ok(Bytes::from(file))
}

async fn copy(from: &mut HttpSession, to: &mut Session) -> Result<()> {
    while let Some(piece) = read(from).await? {
        write(to, piece).await?;
    }
    finish(to).await
}

/// Copies a file of so many bytes.
async fn copy_long(mut from: HttpSession, bytes: u64, to: &mut Session) -> Result<()> {
    // What came with the head is in Pingora's reader; the rest is on the connection.
    let mut left = bytes;
    if let Some(first) = read(&mut from).await? {
        left -= first.len() as u64;
        write(to, first).await?;
    }
    let HttpSession::H1(worker) = from else { return Err(not_http1()) };
    let mut connection = worker.into_inner();
    let mut piece = Vec::with_capacity(LONG_PIECE_BYTES);
    while left > 0 {
        piece.clear();
        let wanted = left.min(LONG_PIECE_BYTES as u64);
        let read = timeout(READ_TIMEOUT, (&mut connection).take(wanted).read_buf(&mut piece)).await;
        let read = read.map_err(|_| Error::new_up(ErrorType::ReadTimedout))?;
        let read = read.or_err(ErrorType::ReadError, "reading a file").map_err(Error::into_up)?;
        if read == 0 {
            return Err(Error::new_up(ErrorType::ConnectionClosed));
        }
        write(to, &piece).await?;
        left -= read as u64;
    }
    finish(to).await
}

/// The next piece of a body, where it was read.
async fn read(connection: &mut HttpSession) -> Result<Option<&[u8]>> {
    match connection {
        HttpSession::H1(worker) => worker.read_body_ref().await.map_err(Error::into_up),
        HttpSession::H2(_) | HttpSession::Custom(()) => Err(not_http1()),
    }
}

async fn write(session: &mut Session, piece: &[u8]) -> Result<()> {
    match session.as_downstream_mut() {
        ServerSession::H1(client) => client.write_body(piece).await.map_err(Error::into_down).map(drop),
        _ => session.write_response_body(Some(Bytes::copy_from_slice(piece)), false).await,
    }
}

async fn finish(session: &mut Session) -> Result<()> {
    match session.as_downstream_mut() {
        ServerSession::H1(client) => client.finish_body().await.map_err(Error::into_down).map(drop),
        _ => session.write_response_body(None, true).await,
    }
}

fn not_http1() -> pingora::BError {
    Error::explain(ErrorType::InternalError, "workers are spoken to in HTTP/1.1").into_up()
}
