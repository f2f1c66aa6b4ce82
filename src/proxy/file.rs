//! A file on its way from the worker that has it: what the worker is asked, and what of its answer the client gets.

use http::{HeaderName, Method, StatusCode, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::passage::{Destination, copy};
use super::respond;
use crate::api::{OutputPath, Problem, ProblemCode};
use crate::store::EndedRun;
use crate::upstream::peer::{Target, request_head};
use crate::upstream::sandrun;
use crate::worker::Dialect;

/// A file, and the worker that has it.
pub struct OutputPassage {
    pub to: Destination,
    pub path: OutputPath,
    pub remote: String,
    /// Under which of a worker's paths it is asked for.
    pub at: FileAt,
    /// Where it is said whether the job has it.
    pub listed: Listed,
}

/// The path under which a worker serves a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAt {
    /// `/download/{job}/{path}`, where a sandrun worker has it.
    Download,
    /// `/outputs/{job}/{path}`, where some other worker may.
    Outputs,
}

/// Where it is said whether a job has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It was found in the job's listing.
    Yes,
    /// In the listing that is kept of this run, if any is.
    In(EndedRun),
    /// Nowhere: the job has not ended.
    Nowhere,
}

/// What becomes of a worker's answer.
pub enum Admitted {
    /// The client gets this head, and the body as it is.
    Yes(Box<ResponseHeader>),
    /// The request goes out again, to another path.
    TryAgain,
    /// The worker does not give the file, with this status: [`OutputPassage::refusal`] says what it means.
    Refused(StatusCode),
    No(Problem),
}

/// Request headers that a worker may see: what a partial or conditional request needs.
const REQUEST_HEADERS: [(HeaderName, &str); 5] = [
    (header::RANGE, "Range"),
    (header::IF_RANGE, "If-Range"),
    (header::IF_NONE_MATCH, "If-None-Match"),
    (header::IF_MODIFIED_SINCE, "If-Modified-Since"),
    (header::IF_MATCH, "If-Match"),
];

/// Response headers of a worker that reach a client, beside those that the pool sets itself.
const RESPONSE_HEADERS: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::CONTENT_ENCODING,
];

impl OutputPassage {
    pub fn target(&self) -> Target {
        let prefix = match self.at {
            FileAt::Download => format!("/download/{}/", self.remote),
            FileAt::Outputs => format!("/outputs/{}/", self.remote),
        };
        Target::file(&prefix, &self.path.encoded(), self.path.as_bytes())
    }

    /// The head that the worker gets for a client's request; `target` is the passage's own.
    pub fn request_head(&self, client: &RequestHeader, target: &Target) -> Result<RequestHeader> {
        // A sandrun worker knows no HEAD: it is asked for the file, and let go after the head of its answer.
        let method = match self.to.contact.dialect {
            Dialect::Sandrun => Method::GET,
            Dialect::V2 => client.method.clone(),
        };
        let mut head = request_head(method.as_str(), &self.to.contact, target)?;
        for (name, title) in REQUEST_HEADERS {
            copy(client, &mut head, name, title)?;
        }
        Ok(head)
    }

    /// Decides what becomes of a worker's answer to a request for a file.
    pub fn admit(&mut self, head: &ResponseHeader) -> Result<Admitted> {
        match head.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => self.admit_file(head),
            StatusCode::NOT_MODIFIED
            | StatusCode::RANGE_NOT_SATISFIABLE
            | StatusCode::PRECONDITION_FAILED => Ok(Admitted::Yes(self.head(head)?)),
            StatusCode::NOT_FOUND if self.at == FileAt::Download => {
                self.at = FileAt::Outputs;
                Ok(Admitted::TryAgain)
            }
            status => Ok(Admitted::Refused(status)),
        }
    }

    fn admit_file(&self, head: &ResponseHeader) -> Result<Admitted> {
        if let Some(other) = self.another_file(head) {
            let message =
                format!("the worker answered with another file, {other:?}: it cannot serve this name");
            return Ok(Admitted::No(Problem::new(ProblemCode::WorkerError, message)));
        }
        if !says_where_it_ends(head) {
            // Cut short, it would look whole.
            let message = "the worker does not say how long the file is";
            return Ok(Admitted::No(Problem::new(ProblemCode::WorkerError, message)));
        }
        Ok(Admitted::Yes(self.head(head)?))
    }

    fn another_file(&self, head: &ResponseHeader) -> Option<String> {
        if self.to.contact.dialect != Dialect::Sandrun {
            return None;
        }
        let stated = head.headers.get(header::CONTENT_DISPOSITION)?;
        sandrun::another_file(stated.as_bytes(), &self.path)
    }

    /// The head that the client gets for a worker's.
    fn head(&self, from: &ResponseHeader) -> Result<Box<ResponseHeader>> {
        let mut head = Box::new(ResponseHeader::build(from.status, Some(RESPONSE_HEADERS.len() + 8))?);
        for name in RESPONSE_HEADERS {
            if let Some(value) = from.headers.get(&name) {
                head.insert_header(name, value.clone())?;
            }
        }
        head.insert_header(header::CONTENT_DISPOSITION, content_disposition(&self.path))?;
        respond::distrust_content(&mut head)?;
        Ok(head)
    }

    /// What an error of the worker means. A sandrun worker answers 500 for a file that is not there, so its listing
    /// decides between a missing file and a worker that fails.
    pub fn refusal(&self, status: StatusCode, is_listed: bool) -> Problem {
        match (status, is_listed) {
            (StatusCode::NOT_FOUND, true) => {
                Problem::new(ProblemCode::OutputExpired, "the worker no longer has this job's outputs")
            }
            (StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::INTERNAL_SERVER_ERROR, false) => {
                no_such_output(&self.path)
            }
            (status, _) => {
                let message = format!("the worker could not serve the file: it answered {}", status.as_u16());
                Problem::new(ProblemCode::WorkerError, message)
            }
        }
    }
}

pub fn no_such_output(path: &OutputPath) -> Problem {
    Problem::new(ProblemCode::OutputNotFound, format!("the job has no output {path:?}"))
}

/// Whether the end of the body can be told from the end of the connection.
fn says_where_it_ends(head: &ResponseHeader) -> bool {
    let chunked = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    head.headers.contains_key(header::CONTENT_LENGTH)
        || head.headers.get(header::TRANSFER_ENCODING).is_some_and(chunked)
}

/// `attachment` with the file's base name, plain and as RFC 5987 has it for other characters.
pub fn content_disposition(path: &OutputPath) -> String {
    let name = path.base_name();
    let plain: String = name
        .iter()
        .map(|byte| match byte {
            b'"' | b'\\' => '_',
            byte if byte.is_ascii_graphic() || *byte == b' ' => char::from(*byte),
            _ => '_',
        })
        .collect();
    match OutputPath::from_bytes(name.to_vec()) {
        Ok(base) if plain.as_bytes() != name => {
            format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", base.encoded())
        }
        Ok(_) | Err(_) => format!("attachment; filename=\"{plain}\""),
    }
}
