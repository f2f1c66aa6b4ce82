//! A job's manifest: what to run and how.
//!
//! A manifest is checked when it comes in and re-encoded when it goes out. The keys that the pool knows are checked one
//! by one; the others, and every number, keep the client's own text, so that nothing is rounded or reordered on the way.

mod field;
mod sandrun;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::Terms;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest manifest in bytes: it is kept in memory and in the job's row.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// How deep a manifest may be nested, with what only workers know: many readers of JSON recurse.
const DEPTH_MAX: usize = 64;

/// The keys that a sandrun worker reads, in the order in which they are sent: its reader takes the first `"key"` that it
/// finds anywhere in the text, so nothing may stand before them.
const LEADING_KEYS: [&str; 5] = ["entrypoint", "interpreter", "environment", "args", "outputs"];

/// Files that a worker runs when no entrypoint is named, or that may name it.
const DEFAULT_ENTRYPOINTS: [&str; 4] = ["job.json", "main.py", "index.js", "run.sh"];

/// What a worker looks for, anywhere in a file's name, to unpack the file.
const ARCHIVE_MARKS: [&str; 3] = [".tar.gz", ".tgz", ".zip"];

/// A checked manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Every key given, in the client's order, with the text of its value.
    given: Vec<(String, Box<RawValue>)>,
    entrypoint: Option<String>,
    interpreter: Option<String>,
    environment: Option<String>,
    args: Vec<String>,
    outputs: Vec<String>,
    env: BTreeMap<String, String>,
    timeout: Option<Duration>,
    terms: Terms,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// `manifest`, or `manifest.` and the key that is wrong.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ManifestError {
    fn whole(message: impl Into<String>) -> Self {
        Self { field: "manifest".into(), message: message.into() }
    }

    fn key(key: &str, message: impl Into<String>) -> Self {
        Self { field: format!("manifest.{key}"), message: message.into() }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for ManifestError {}

/// How deep the brackets of a JSON text are nested. What is no JSON has some depth too.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl Manifest {
    /// Reads and checks a manifest. A known key that is `null` counts as absent, and so does an empty entrypoint: that is what
    /// a form with an empty field sends, and what workers take it for.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::whole(format!("is longer than {MANIFEST_BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(json).map_err(|_| ManifestError::whole("is not UTF-8"))?;
        if depth(text) > DEPTH_MAX {
            return Err(ManifestError::whole(format!("is nested more than {DEPTH_MAX} deep")));
        }
        let Object(given) = serde_json::from_str(text).map_err(|e| ManifestError::whole(e.to_string()))?;
        let mut manifest = Self {
            given: Vec::with_capacity(given.len()),
            entrypoint: None,
            interpreter: None,
            environment: None,
            args: Vec::new(),
            outputs: Vec::new(),
            env: BTreeMap::new(),
            timeout: None,
            terms: Terms::default(),
        };
        for (key, value) in given {
            let is_absent = match key.as_str() {
                "entrypoint" => matches!(value.get(), "null" | "\"\""),
                key => field::is_checked(key) && value.get() == "null",
            };
            if is_absent {
                continue;
            }
            manifest.check(&key, value.get()).map_err(|message| ManifestError::key(&key, message))?;
            manifest.given.push((key, value));
        }
        Ok(manifest)
    }

    fn check(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "entrypoint" => self.entrypoint = Some(field::path(value)?),
            "interpreter" => self.interpreter = Some(field::word(value)?),
            "environment" => self.environment = Some(field::word(value)?),
            "args" => self.args = field::arguments(value)?,
            "outputs" => self.outputs = field::paths(value)?,
            "env" => self.env = field::environment(value)?,
            "timeout" => self.timeout = Some(field::timeout(value)?),
            "requires" => self.terms.requires = field::labels(value)?,
            "pool" => field::terms(value, &mut self.terms)?,
            "memory_mb" | "cpu_seconds" => field::positive(value).map(drop)?,
            _ => {}
        }
        Ok(())
    }

    /// The file to run, relative to the job's directory.
    pub fn entrypoint(&self) -> Option<&str> {
        self.entrypoint.as_deref()
    }

    /// The program that runs the entrypoint; absent or empty, the worker's default.
    pub fn interpreter(&self) -> Option<&str> {
        self.interpreter.as_deref().filter(|name| !name.is_empty())
    }

    /// The worker's environment template; absent or empty, none.
    pub fn environment(&self) -> Option<&str> {
        self.environment.as_deref().filter(|name| !name.is_empty())
    }

    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// Glob patterns of the files to keep.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// The variables to set for the program.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// How long the program may run.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// What the client asks of the pool: `requires`, `timeout`, and what stands under `pool`.
    pub fn terms(&self) -> Terms {
        Terms { run_timeout: self.timeout, ..self.terms.clone() }
    }

    /// Refuses an upload of which it is certain that no worker would find anything to run in it.
    ///
    /// An archive may contain anything, so it always passes.
    pub fn check_entrypoint<'a>(
        &self,
        mut file_names: impl Iterator<Item = &'a str>,
    ) -> Result<(), ManifestError> {
        let may_start = |name: &str| {
            DEFAULT_ENTRYPOINTS.contains(&name) || ARCHIVE_MARKS.iter().any(|mark| name.contains(mark))
        };
        if self.entrypoint.is_some() || file_names.any(may_start) {
            return Ok(());
        }
        let defaults = DEFAULT_ENTRYPOINTS.join(", ");
        Err(ManifestError::key(
            "entrypoint",
            format!("is missing: name the file to run, or upload an archive or one of {defaults}"),
        ))
    }

    /// The manifest as it is sent to a worker: the five keys that every worker reads, then the rest in the client's order.
    pub fn to_worker_json(&self) -> String {
        let is_leading = |key: &str| LEADING_KEYS.contains(&key);
        let leading = LEADING_KEYS.into_iter().filter(|key| self.given.iter().any(|(given, _)| given == key));
        let rest = self.given.iter().filter(|(key, _)| !is_leading(key));
        let members: Vec<String> = leading
            .map(|key| member(key, &self.leading(key)))
            .chain(rest.map(|(key, value)| member(key, value.get())))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    /// One of the leading keys' values, without the escapes that the client may have used and need not have.
    fn leading(&self, key: &str) -> String {
        let text = |value: &Option<String>| Value::from(value.clone()).to_string();
        match key {
            "entrypoint" => text(&self.entrypoint),
            "interpreter" => text(&self.interpreter),
            "environment" => text(&self.environment),
            "args" => Value::from(self.args.as_slice()).to_string(),
            "outputs" => Value::from(self.outputs.as_slice()).to_string(),
            _ => unreachable!("{key} is no leading key"),
        }
    }

    /// Why a sandrun worker would run something else than this manifest means, if it would.
    pub fn sandrun_hazard(&self) -> Option<String> {
        let sent = self.to_worker_json();
        let misread = LEADING_KEYS.into_iter().find(|key| match *key {
            "entrypoint" => sandrun::string(&sent, key) != self.entrypoint().unwrap_or_default(),
            "interpreter" => sandrun::string(&sent, key) != self.interpreter().unwrap_or_default(),
            "environment" => sandrun::string(&sent, key) != self.environment().unwrap_or_default(),
            "args" => sandrun::strings(&sent, key) != self.args,
            _ => sandrun::strings(&sent, key) != self.outputs,
        })?;
        Some(format!(
            "a sandrun worker would misread `{misread}`: it does not understand a quote, backslash, bracket or control \
             character in a value, nor the quoted name of a key elsewhere in the manifest"
        ))
    }
}

fn member(key: &str, value: &str) -> String {
    format!("{}:{value}", Value::from(key))
}

/// A JSON object's members in their order, each key once.
struct Object(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut seen = HashSet::new();
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format!("the key `{key}` occurs twice")));
                    }
                    members.push((key, value));
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}
