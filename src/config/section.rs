//! Reads a YAML document (JSON is YAML too) key by key, and keeps account of everything that is wrong with it.
//!
//! Not serde: it stops at the first error, and knows no line once the text is parsed.

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::problem::{Place, Problem};

/// A file's text.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    lines: Vec<&'a str>,
}

/// A value of a document, and where it stands.
pub(super) struct Value<'a> {
    source: &'a Source<'a>,
    line: usize,
    field: String,
    yaml: &'a MarkedYaml<'a>,
}

/// The keys of a mapping, taken one by one. [`Section::finish`] reports what was not taken.
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    field: String,
    line: usize,
    entries: Vec<(String, Value<'a>)>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

/// How much of a line that cannot be read is shown: enough to find it.
const EXCERPT_CHARS: usize = 60;

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        // Some editors mark a UTF-8 file with this character.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { file, text, lines: text.lines().collect() }
    }

    /// The one document that the file is to hold; `None` stands for an empty one.
    pub(super) fn parse(&self) -> Result<Option<MarkedYaml<'a>>, Problem> {
        let mut documents = MarkedYaml::load_from_str(self.text).map_err(|error| {
            let line = error.marker().line();
            let excerpt = self.excerpt(line, 0, EXCERPT_CHARS).unwrap_or_default();
            self.problem(line, "", format!("cannot be read: {} at `{}`", error.info(), excerpt.trim()))
        })?;
        if let Some(second) = documents.get(1) {
            let message = "a second document begins here: one is expected";
            return Err(self.problem(second.span.start.line(), "", message));
        }
        Ok(documents.pop().filter(|document| !is_empty(&document.data)))
    }

    fn problem(&self, line: usize, field: &str, message: impl Into<String>) -> Problem {
        Problem::new(Place::Line(self.file.to_owned(), line), field, message)
    }

    /// Part of a line: lines count from 1, columns from 0.
    fn excerpt(&self, line: usize, column: usize, chars: usize) -> Option<String> {
        let line = self.lines.get(line.checked_sub(1)?)?;
        Some(line.chars().skip(column).take(chars).collect())
    }
}

fn is_empty<'a>(data: &YamlData<'a, MarkedYaml<'a>>) -> bool {
    matches!(data, YamlData::BadValue | YamlData::Value(Scalar::Null))
}

impl<'a> Value<'a> {
    pub(super) fn root(source: &'a Source<'a>, yaml: &'a MarkedYaml<'a>) -> Self {
        Self { source, line: yaml.span.start.line(), field: String::new(), yaml }
    }

    /// The same value under another name.
    pub(super) fn named(self, field: &str) -> Self {
        Self { field: field.to_owned(), ..self }
    }

    pub(super) fn field(&self) -> &str {
        &self.field
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        self.source.problem(self.line, &self.field, message)
    }

    /// The elements, where the value is a list.
    pub(super) fn items(&self) -> Option<Vec<Value<'a>>> {
        let YamlData::Sequence(items) = &self.yaml.data else { return None };
        let named = |(index, yaml): (usize, &'a MarkedYaml<'a>)| Value {
            source: self.source,
            line: yaml.span.start.line(),
            field: format!("{}[{index}]", self.field),
            yaml,
        };
        Some(items.iter().enumerate().map(named).collect())
    }

    /// The text of a single value, parsed. What `parse` returns as the reason is read after the quoted text.
    pub(super) fn read<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Problem> {
        if is_empty(&self.yaml.data) {
            return Err(self.problem("has no value; leave the key out for its default"));
        }
        let Some(text) = self.text(self.yaml) else { return Err(self.problem("is not a single value")) };
        parse(&text).map_err(|reason| self.problem(format!("{text:?} {reason}")))
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.yaml.data, YamlData::Mapping(_))
    }

    /// The keys, where the value is a mapping. One without any value is a mapping without keys.
    pub(super) fn section(&self) -> Result<Section<'a>, Problem> {
        let entries = match &self.yaml.data {
            YamlData::Mapping(mapping) => {
                mapping.iter().map(|(key, value)| self.entry(key, value)).collect::<Result<_, _>>()?
            }
            YamlData::Value(Scalar::Null) => Vec::new(),
            _ => return Err(self.problem("is not a list of `key: value`")),
        };
        let (field, known, problems) = (self.field.clone(), Vec::new(), Vec::new());
        Ok(Section { source: self.source, field, line: self.line, entries, known, problems })
    }

    fn entry(
        &self,
        key: &'a MarkedYaml<'a>,
        yaml: &'a MarkedYaml<'a>,
    ) -> Result<(String, Value<'a>), Problem> {
        let name = self.text(key).ok_or_else(|| self.problem("has a key that is not a single word"))?;
        // A key's own line: that of its value may be further down.
        let line = key.span.start.line();
        let value = Value { source: self.source, line, field: join(&self.field, &name), yaml };
        Ok((name, value))
    }

    /// A scalar's text as it stands in the file: `12.0` is a version here, not a number that could do without its zero.
    fn text(&self, yaml: &MarkedYaml<'_>) -> Option<String> {
        match &yaml.data {
            YamlData::Value(Scalar::String(text)) => Some(text.to_string()),
            YamlData::Value(Scalar::Boolean(_) | Scalar::Integer(_) | Scalar::FloatingPoint(_)) => {
                self.source.excerpt(yaml.span.start.line(), yaml.span.start.col(), yaml.span.len())
            }
            _ => None,
        }
    }
}

impl<'a> Section<'a> {
    /// The value of a key, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(index).1)
    }

    /// Reads an optional key into its place, which holds the default.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        into: &mut T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        if let Some(value) = self.take(key) {
            match value.read(parse) {
                Ok(parsed) => *into = parsed,
                Err(problem) => self.report(problem),
            }
        }
    }

    /// Reads a key that must be there; `None` when it is missing or wrong, which is reported.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(value) = self.take(key) else {
            self.missing(key);
            return None;
        };
        value.read(parse).map_err(|problem| self.report(problem)).ok()
    }

    /// Reports that a key must be there.
    pub(super) fn missing(&mut self, key: &str) {
        self.report(self.source.problem(self.line, &join(&self.field, key), "is missing"));
    }

    /// Reads an optional section below this one.
    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'a>)) {
        if let Some(value) = self.take(key) {
            match value.section() {
                Ok(mut section) => {
                    read(&mut section);
                    self.problems.extend(section.finish());
                }
                Err(problem) => self.report(problem),
            }
        }
    }

    /// Everything in this section, whatever its keys are called.
    pub(super) fn take_all(&mut self) -> Vec<(String, Value<'a>)> {
        std::mem::take(&mut self.entries)
    }

    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// All that is wrong with the section, the keys that nobody asked for included.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        for (name, value) in &self.entries {
            self.problems.push(value.problem(match nearest(name, &self.known) {
                Some(key) => format!("unknown key; did you mean `{key}`?"),
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            }));
        }
        self.problems
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Edits between two words up to which the one is taken for a slip of the other.
const SLIP_EDITS_MAX: usize = 2;

/// The known key that a misspelt one was meant to be.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let nearest = known.iter().map(|key| (edits(name, key), *key)).min()?;
    (nearest.0 <= SLIP_EDITS_MAX && nearest.0 < nearest.1.len()).then_some(nearest.1)
}

/// Characters to insert, remove or replace to come from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
