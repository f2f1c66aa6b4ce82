//! Reads the list of workers, from a file of its own or from within the configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::problem::{ConfigErrors, Place, Problem};
use super::section::{Section, Source, Value};
use super::{Config, ServeArgs, file, units};
use crate::worker::spec::RepeatedField;
use crate::worker::{Allowlist, WorkerSpec};

/// Jobs at once on one worker: more than any machine runs, so a larger number is a slip.
const CONCURRENT_JOBS: RangeInclusive<u32> = 1..=1024;

/// Labels of one worker; each is looked at for every job that asks for any.
const LABELS_MAX: usize = 64;

/// Characters of a label's name or value: a word, not a document.
const LABEL_CHARS_MAX: usize = 128;

/// Bytes of a file of the configuration: room for 100,000 workers, and an end for a path that is a device.
pub(super) const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Where the list of workers is, to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkersSource {
    /// A file of its own.
    File(PathBuf),
    /// The configuration file that these flags name.
    Inline(ServeArgs),
}

impl WorkersSource {
    /// Where a pool that is started with these flags finds its workers.
    pub fn of(args: &ServeArgs) -> Self {
        let named = || args.config.as_deref().and_then(file::workers_file);
        args.workers.clone().or_else(named).map_or_else(|| Self::Inline(args.clone()), Self::File)
    }

    /// Reads the list.
    ///
    /// # Errors
    /// Everything that is wrong with it, or with the file that it stands in.
    pub fn read(&self) -> Result<Allowlist, ConfigErrors> {
        match self {
            Self::File(path) => from_file(path).map_err(ConfigErrors::of),
            Self::Inline(args) => Config::load(args).map(|config| config.workers),
        }
    }

    /// The file that it is in.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => vec![path.clone()],
            Self::Inline(args) => args.config.iter().cloned().collect(),
        }
    }
}

impl fmt::Display for WorkersSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Self::File(path) => Some(path),
            Self::Inline(args) => args.config.as_ref(),
        };
        path.map_or(Ok(()), |path| path.display().fmt(f))
    }
}

/// Reads a whole file of the configuration.
pub(super) fn read_text(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem::new(Place::File(path.display().to_string()), "", message);
    let metadata = fs::metadata(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(problem("is not a file".to_owned()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(problem(format!("is larger than {}", units::show_size(FILE_BYTES_MAX))));
    }
    fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))
}

/// Reads a `workers.json`; JSON is YAML, and so may be what this file holds.
pub(super) fn from_file(path: &Path) -> Result<Allowlist, Vec<Problem>> {
    let file = path.display().to_string();
    let text = read_text(path).map_err(|problem| vec![problem])?;
    let source = Source::new(&file, &text);
    match source.parse() {
        Ok(Some(document)) => from_value(&Value::root(&source, &document).named("workers")),
        Ok(None) => {
            Err(vec![Problem::new(Place::File(file.clone()), "workers", "are not listed: the file is empty")])
        }
        Err(problem) => Err(vec![problem]),
    }
}

/// Reads the list itself.
pub(super) fn from_value(list: &Value<'_>) -> Result<Allowlist, Vec<Problem>> {
    let Some(items) = list.items() else {
        return Err(vec![list.problem("is not a list of workers")]);
    };
    if items.is_empty() {
        return Err(vec![list.problem("lists no worker: a pool needs at least one")]);
    }
    let mut problems = Vec::new();
    // With its place in the file, because a wrong one in between leaves no entry here.
    let mut workers = Vec::new();
    for item in &items {
        match item.section() {
            Ok(mut section) => {
                let worker = worker(&mut section);
                problems.extend(section.finish());
                workers.extend(worker.map(|worker| (item, worker)));
            }
            Err(problem) => problems.push(problem),
        }
    }
    let (places, workers): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
    let allowlist = Allowlist::new(workers).unwrap_or_else(|repeated| {
        problems.extend(repeated.iter().map(|repeated| {
            let (first, again): (&Value<'_>, &Value<'_>) = (places[repeated.first], places[repeated.again]);
            let what = match repeated.field {
                RepeatedField::Key => "worker_id",
                RepeatedField::Endpoint => "endpoint",
            };
            again.problem(format!("has the same {what} as {} (line {})", first.field(), first.line()))
        }));
        Allowlist::default()
    });
    if problems.is_empty() { Ok(allowlist) } else { Err(problems) }
}

/// One entry; `None` when it lacks something, which is reported.
fn worker(section: &mut Section<'_>) -> Option<WorkerSpec> {
    let key = section
        .require("worker_id", |text| text.parse().map_err(|error| format!("is no worker id: {error}")));
    let endpoint = section.require("endpoint", |text| text.parse().map_err(|error| format!("{error}")));
    let mut max_concurrent_jobs = None;
    section.read("max_concurrent_jobs", &mut max_concurrent_jobs, |text| {
        Ok(NonZeroU32::new(units::count(text, &CONCURRENT_JOBS)?))
    });
    let mut labels = BTreeMap::new();
    section.section("labels", |section| labels = read_labels(section));
    Some(WorkerSpec { key: key?, endpoint: endpoint?, max_concurrent_jobs, labels })
}

fn read_labels(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (index, (name, value)) in section.take_all().into_iter().enumerate() {
        if index == LABELS_MAX {
            section
                .report(value.problem(format!("is one label too many: a worker has at most {LABELS_MAX}")));
            break;
        }
        if name.is_empty() || name.chars().count() > LABEL_CHARS_MAX {
            section.report(value.problem(format!("a label's name has 1 to {LABEL_CHARS_MAX} characters")));
        }
        let text = value.read(|text| match text.chars().count() {
            0..=LABEL_CHARS_MAX => Ok(text.to_owned()),
            _ => Err(format!("is too long: a label has at most {LABEL_CHARS_MAX} characters")),
        });
        match text {
            Ok(text) => drop(labels.insert(name, text)),
            Err(problem) => section.report(problem),
        }
    }
    labels
}
