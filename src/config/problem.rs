//! What is wrong with a configuration, and where.

use std::fmt;

/// One thing that is wrong: `conf/pool.yaml:12: health.interval: "30 parsecs" is not a duration; ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: Place,
    /// The key path, such as `health.interval`; empty where it is about a file as a whole.
    field: String,
    message: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    CommandLine,
    File(String),
    Line(String, usize),
}

impl Problem {
    pub(super) fn new(place: Place, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place, field: one_line(field.into()), message: one_line(message.into()) }
    }

    /// Whether a file could not be read at all, so that what it lacks is not worth a word.
    pub(super) fn is_of_whole_file(&self) -> bool {
        self.field.is_empty()
    }
}

/// A key or a value may hold anything; a problem is one line, and says nothing to a terminal but its text.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::CommandLine => {}
            Place::File(file) => write!(f, "{file}: ")?,
            Place::Line(file, line) => write!(f, "{file}:{line}: ")?,
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration: at least one problem, in the order of the lines.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// `Ok` where there is no problem.
    pub(super) fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::of(problems)) }
    }

    /// Of at least one problem.
    pub(super) fn of(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        Self(problems)
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_whatever_the_file_holds() {
        let place = Place::Line("pool.yaml".into(), 3);
        let problem = Problem::new(place, "workers[0].a\nb", "\u{1b}[31m is an ü\r");
        assert_eq!(problem.to_string(), "pool.yaml:3: workers[0].a\\nb: \\u{1b}[31m is an ü\\r");
    }
}
