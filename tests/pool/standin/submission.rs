//! A submit as the worker understands it: multipart by exact header spelling, the manifest by substring search.

use std::io::Result;

use sha2::{Digest, Sha256};

use super::Quirks;
use super::request::{Body, RequestHead};
use crate::wire::{find, hex};

/// File bytes kept for assertions; of more, only the hash and the length are kept.
const KEPT_BYTES_MAX: u64 = 1024 * 1024;
const PART_HEAD_BYTES_MAX: u64 = 4096;

#[derive(Clone, Debug, Default)]
pub struct Submission {
    pub files: Vec<FilePart>,
    /// The manifest's text, as it came.
    pub manifest: String,
    pub entrypoint: String,
    pub interpreter: String,
    pub args: Vec<String>,
    /// The form's other fields, by name.
    pub fields: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct FilePart {
    /// The part's header block, as it came.
    pub head: String,
    pub filename: String,
    pub bytes: u64,
    pub sha256: String,
    /// The content, unless it is large.
    pub content: Vec<u8>,
}

impl Submission {
    pub fn parse(head: &RequestHead, body: &mut Body, quirks: &Quirks) -> Result<Self> {
        let content_type = head.header("Content-Type", quirks).unwrap_or_default();
        let boundary = content_type.split_once("boundary=").map_or("", |(_, boundary)| boundary);
        if boundary.is_empty() {
            return Ok(Self::default());
        }
        let delimiter = format!("--{boundary}");
        let marks = body.find_all(delimiter.as_bytes())?;
        let mut submission = Self::default();
        for pair in marks.windows(2) {
            // A part lies between the line break after one delimiter and the one before the next.
            let (from, to) = (pair[0] + delimiter.len() as u64 + 2, pair[1].saturating_sub(2));
            if from < to {
                submission.part(body, from, to, quirks)?;
            }
        }
        Ok(submission)
    }

    fn part(&mut self, body: &mut Body, from: u64, to: u64, quirks: &Quirks) -> Result<()> {
        let mut start = Vec::new();
        body.read_range(from..to.min(from + PART_HEAD_BYTES_MAX), |bytes| start.extend_from_slice(bytes))?;
        let Some(end) = find(&start, b"\r\n\r\n") else { return Ok(()) };
        let head = String::from_utf8_lossy(&start[..end]).into_owned();
        let content = from + end as u64 + 4..to;
        match (parameter(&head, "name", quirks), parameter(&head, "filename", quirks)) {
            (Some(name), Some(filename)) if name == "files" => {
                self.files.push(FilePart::read(body, head, filename, content)?);
            }
            (Some(name), _) => {
                let mut text = Vec::new();
                body.read_range(content, |bytes| text.extend_from_slice(bytes))?;
                self.field(name, String::from_utf8_lossy(&text).into_owned(), quirks);
            }
            _ => {}
        }
        Ok(())
    }

    fn field(&mut self, name: String, text: String, quirks: &Quirks) {
        if name != "manifest" {
            self.fields.push((name, text));
            return;
        }
        let reader = if quirks.substring_json { Reader::Substring(&text) } else { Reader::whole(&text) };
        self.entrypoint = reader.text("entrypoint").unwrap_or_default();
        self.interpreter = reader.text("interpreter").unwrap_or_else(|| "python3".into());
        self.args = reader.list("args");
        self.manifest = text;
    }

    /// Whether the upload itself says what to start, so that the manifest need not.
    pub fn has_default_entrypoint(&self) -> bool {
        let known = ["job.json", "main.py", "index.js", "run.sh"];
        self.files.iter().any(|file| {
            known.contains(&file.filename.as_str())
                || (file.filename.ends_with(".tar.gz") || file.filename.ends_with(".tgz"))
                    && archive_names(&file.content).iter().any(|name| known.contains(&name.as_str()))
        })
    }

    /// What names this job in assertions: its argument `id=...`, else the hash of its first file.
    pub fn marker(&self) -> String {
        let named = self.args.iter().find_map(|arg| arg.strip_prefix("id="));
        named.map(str::to_owned).or_else(|| self.files.first().map(|f| f.sha256.clone())).unwrap_or_default()
    }
}

impl FilePart {
    fn read(body: &mut Body, head: String, filename: String, range: std::ops::Range<u64>) -> Result<Self> {
        let bytes = range.end - range.start;
        let (mut hash, mut content) = (Sha256::new(), Vec::new());
        body.read_range(range, |piece| {
            hash.update(piece);
            if bytes <= KEPT_BYTES_MAX {
                content.extend_from_slice(piece);
            }
        })?;
        Ok(Self { head, filename, bytes, sha256: hex(&hash.finalize()), content })
    }
}

/// A quoted parameter of the part's `Content-Disposition` line.
fn parameter(head: &str, name: &str, quirks: &Quirks) -> Option<String> {
    let line = head.split("\r\n").find(|line| {
        let exact = line.starts_with("Content-Disposition: form-data; ");
        exact
            || !quirks.case_sensitive_headers && line.to_ascii_lowercase().starts_with("content-disposition:")
    })?;
    let from = line.find(&format!(" {name}=\""))? + name.len() + 3;
    line[from..].split('"').next().map(str::to_owned)
}

fn archive_names(gzip: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(gzip));
    let Ok(entries) = archive.entries() else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| Some(entry.path().ok()?.to_str()?.to_owned()));
    names.map(|name| name.trim_start_matches("./").to_owned()).collect()
}

enum Reader<'a> {
    /// The first `"key"` anywhere, then the next quoted string or bracketed list after its colon; nothing is unescaped.
    Substring(&'a str),
    Whole(serde_json::Value),
}

impl Reader<'_> {
    fn whole(text: &str) -> Self {
        Self::Whole(serde_json::from_str(text).unwrap_or_default())
    }

    fn text(&self, key: &str) -> Option<String> {
        match self {
            Self::Substring(text) => quoted(after_key(text, key)?).map(|(value, _)| value.to_owned()),
            Self::Whole(value) => Some(value.get(key)?.as_str()?.to_owned()),
        }
    }

    fn list(&self, key: &str) -> Vec<String> {
        match self {
            Self::Substring(text) => substring_list(text, key).unwrap_or_default(),
            Self::Whole(value) => {
                let items = value.get(key).and_then(|value| value.as_array()).cloned().unwrap_or_default();
                items.iter().filter_map(|item| Some(item.as_str()?.to_owned())).collect()
            }
        }
    }
}

fn after_key<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let quoted = format!("\"{key}\"");
    let rest = &text[text.find(&quoted)? + quoted.len()..];
    rest.split_once(':').map(|(_, rest)| rest)
}

/// The next quoted string, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let from = text.find('"')? + 1;
    let to = from + text[from..].find('"')?;
    Some((&text[from..to], &text[to + 1..]))
}

fn substring_list(text: &str, key: &str) -> Option<Vec<String>> {
    let rest = after_key(text, key)?;
    let from = rest.find('[')? + 1;
    let mut rest = &rest[from..from + rest[from..].find(']')?];
    let mut items = Vec::new();
    while let Some((item, tail)) = quoted(rest) {
        items.push(item.to_owned());
        rest = tail;
    }
    Some(items)
}
