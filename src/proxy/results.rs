//! What is kept of a finished job, sent in pieces: it may be long, and its reader slow.

use std::collections::VecDeque;

use bytes::Bytes;
use http::StatusCode;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::jobs::store_problem;
use super::{Front, respond};
use crate::api::{Problem, ProblemCode};
use crate::store::{EndedRun, ResultsText, Store, TEXT_PIECE_BYTES};

/// A part of an answer.
pub(super) enum Section {
    Said(String),
    /// A kept text from byte `from` on; `absent` where there is none.
    Kept {
        text: ResultsText,
        from: u64,
        absent: &'static str,
    },
    /// A kept text, as the inside of a JSON string.
    Quoted(ResultsText),
}

/// An answer being read from the store.
struct Rendering<'a> {
    store: &'a dyn Store,
    run: &'a EndedRun,
    sections: VecDeque<Section>,
    /// Bytes read of the first section.
    read: u64,
}

impl Rendering<'_> {
    /// At least a piece; less only at the end, and nothing after it.
    async fn next(&mut self) -> std::result::Result<Vec<u8>, Problem> {
        let mut out = Vec::new();
        while let Some(section) = self.sections.front()
            && out.len() < TEXT_PIECE_BYTES
        {
            let (text, from, absent) = match section {
                Section::Said(said) => {
                    out.extend_from_slice(said.as_bytes());
                    self.sections.pop_front();
                    continue;
                }
                Section::Kept { text, from, absent } => (*text, *from, *absent),
                Section::Quoted(text) => (*text, 0, ""),
            };
            let piece = self.store.results_text(self.run, text, from + self.read).await;
            let piece = match piece.map_err(|error| store_problem(&error))? {
                Some(piece) => piece,
                None if self.read == 0 => Bytes::from_static(absent.as_bytes()),
                None => return Err(Problem::new(ProblemCode::Internal, "the job was forgotten meanwhile")),
            };
            match section {
                Section::Quoted(_) => quote(&mut out, &piece),
                Section::Said(_) | Section::Kept { .. } => out.extend_from_slice(&piece),
            }
            self.read += piece.len() as u64;
            if piece.len() < TEXT_PIECE_BYTES {
                self.sections.pop_front();
                self.read = 0;
            }
        }
        Ok(out)
    }
}

impl Front {
    /// Answers with these parts, which together are JSON.
    pub(super) async fn send_results(
        &self,
        session: &mut Session,
        run: &EndedRun,
        sections: impl Into<VecDeque<Section>>,
    ) -> Result<()> {
        let mut rendering = Rendering { store: &*self.store, run, sections: sections.into(), read: 0 };
        let first = match rendering.next().await {
            Ok(first) => first,
            Err(problem) => return respond::problem(session, &problem).await,
        };
        if rendering.sections.is_empty() {
            return respond::json_bytes(session, StatusCode::OK, Bytes::from(first)).await;
        }
        if !respond::begin(session, "application/json").await? {
            return Ok(());
        }
        session.write_response_body(Some(Bytes::from(first)), false).await?;
        while !rendering.sections.is_empty() {
            let broken = |problem: Problem| Error::explain(ErrorType::InternalError, problem.message);
            let piece = rendering.next().await.map_err(broken)?;
            session.write_response_body(Some(Bytes::from(piece)), false).await?;
        }
        session.write_response_body(None, true).await
    }
}

/// Escapes as RFC 8259, section 7, has it. No character is cut by it: only ASCII is changed.
fn quote(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len());
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quoted_text_reads_back(text in "[\\x00-\\x7f\u{80}-\u{2ff}🦀]{0,200}") {
            let mut json = vec![b'"'];
            quote(&mut json, text.as_bytes());
            json.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
        }
    }
}
