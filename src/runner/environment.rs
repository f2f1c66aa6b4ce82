//! Directories that the operator has prepared for jobs, a Python venv for example, each named by its directory.
//!
//! A job sees the one that it names, read-only and at the path that it has outside: what was installed there may have its
//! own path written into it, as the programs of a venv have.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::interpreter::{Interpreter, in_sight};

/// Where the sandbox puts something else.
const TAKEN: [&str; 6] = ["/tmp", "/work", "/dev", "/proc", "/usr", "/etc"];

/// Where an operator's environments are, if there are any.
#[derive(Debug, Clone, Default)]
pub struct Environments {
    /// Canonical.
    dir: Option<PathBuf>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    name: String,
    path: PathBuf,
}

/// A manifest names an environment that this worker has not.
#[derive(Debug)]
pub struct UnknownEnvironment {
    name: String,
    known: Vec<String>,
}

impl Environments {
    /// The directories in this one. What is put there later is found, too.
    ///
    /// # Errors
    /// When it cannot be read, or jobs see something else at its path.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.canonicalize()?;
        fs::read_dir(&dir)?;
        if let Some(taken) = TAKEN.iter().find(|taken| dir.starts_with(taken) || dir == Path::new("/")) {
            let sentence = format!("jobs have a {taken} of their own: it must be elsewhere");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        Ok(Self { dir: Some(dir) })
    }

    /// Whether jobs can read this file or directory (given canonically) in one of them.
    #[must_use]
    pub fn show(&self, path: &Path) -> bool {
        self.dir.as_ref().is_some_and(|dir| path.starts_with(dir))
    }

    /// All that there are now, sorted by name. Blocks.
    #[must_use]
    pub fn list(&self) -> Vec<Environment> {
        let entries = self.dir.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        let mut found: Vec<Environment> = entries
            .filter_map(|entry| {
                let (name, path) = (entry.file_name().into_string().ok()?, entry.path());
                (path.is_dir() && !name.starts_with('.')).then_some(Environment { name, path })
            })
            .collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// The one of this name. Blocks.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<Environment, UnknownEnvironment> {
        let known = self.list();
        known.iter().find(|environment| environment.name == name).cloned().ok_or_else(|| UnknownEnvironment {
            name: name.to_owned(),
            known: known.into_iter().map(|environment| environment.name).collect(),
        })
    }
}

impl Environment {
    /// What manifests call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, in the sandbox too.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its programs are.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.path.join("bin")
    }

    /// The interpreter that it brings along, if jobs can see what its links lead to.
    #[must_use]
    pub fn program(&self, interpreter: Interpreter) -> Option<PathBuf> {
        let program = self.programs().join(interpreter.name());
        let own = || program.canonicalize().is_ok_and(|real| real.is_file() && real.starts_with(&self.path));
        (in_sight(&program) || own()).then_some(program)
    }
}

impl fmt::Display for UnknownEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "The manifest cannot be used here: environment {:?} is not on this worker, which has ",
            self.name
        )?;
        if self.known.is_empty() { f.write_str("none") } else { f.write_str(&self.known.join(", ")) }
    }
}

impl std::error::Error for UnknownEnvironment {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_the_directories_that_are_there_now() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let environments = Environments::open(dir.path()).unwrap();
        assert!(environments.list().is_empty());
        for name in ["ml", "geo", ".hidden"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("file"), "").unwrap();
        let names: Vec<_> = environments.list().into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["geo", "ml"]);
        for unknown in ["", ".", "..", "ml/bin", ".hidden", "file"] {
            let error = environments.find(unknown).unwrap_err().to_string();
            assert!(error.ends_with("which has geo, ml"), "{error}");
        }
        assert!(Environments::default().find("ml").unwrap_err().to_string().ends_with("has none"));
    }

    #[test]
    fn directory_that_jobs_would_not_see_is_refused() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        for hidden in [dir.path(), Path::new("/"), Path::new("/usr/lib"), Path::new("/nowhere")] {
            assert!(Environments::open(hidden).is_err(), "{}", hidden.display());
        }
    }
}
