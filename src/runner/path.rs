//! Names of files inside a job's directory.

use std::fmt;
use std::path::Path;

/// A file's path relative to its job's directory: `/` between its parts, none of them `.`, `..` or empty.
///
/// Whatever comes from a client (a URL, a manifest, an archive) becomes one of these before it touches a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct JobPath(String);

/// Why a text names no file inside a job's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPathError {
    /// Nothing is named.
    Empty,
    /// The path starts at the file system's root.
    Absolute,
    /// The path climbs with `..`.
    Climbs,
    /// The path holds a NUL byte, which no file name can.
    Nul,
}

impl JobPath {
    /// Reads a relative path; `./` and doubled or trailing slashes are tidied away.
    ///
    /// # Errors
    /// When the path is empty, absolute, climbs, or holds a NUL.
    pub fn parse(text: &str) -> Result<Self, JobPathError> {
        if text.contains('\0') {
            return Err(JobPathError::Nul);
        }
        if text.starts_with('/') {
            return Err(JobPathError::Absolute);
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(JobPathError::Climbs);
        }
        if parts.is_empty() {
            return Err(JobPathError::Empty);
        }
        Ok(Self(parts.join("/")))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn base_name(&self) -> &str {
        self.0.rsplit('/').next().expect("a job path has at least one part")
    }
}

impl TryFrom<String> for JobPath {
    type Error = JobPathError;

    fn try_from(text: String) -> Result<Self, JobPathError> {
        Self::parse(&text)
    }
}

impl AsRef<Path> for JobPath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for JobPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for JobPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the path is empty",
            Self::Absolute => "the path is absolute; it must be relative to the job's directory",
            Self::Climbs => "the path leaves the job's directory with '..'",
            Self::Nul => "the path holds a NUL byte",
        })
    }
}

impl std::error::Error for JobPathError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_tidied_or_refused() {
        for (text, tidy) in [("a", "a"), ("./a//b/", "a/b"), ("a/./ b%é", "a/ b%é"), ("..a/b..", "..a/b..")]
        {
            assert_eq!(JobPath::parse(text).unwrap().as_str(), tidy);
        }
        for (text, error) in [
            ("", JobPathError::Empty),
            ("./", JobPathError::Empty),
            ("/etc/shadow", JobPathError::Absolute),
            ("..", JobPathError::Climbs),
            ("a/../../b", JobPathError::Climbs),
            ("a\0b", JobPathError::Nul),
        ] {
            assert_eq!(JobPath::parse(text), Err(error), "{text:?}");
        }
    }
}
