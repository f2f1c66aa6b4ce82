//! The programs that may run a job's entrypoint.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an interpreter is looked for: directories that every job sees.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

/// Trees that every job sees, one of which must hold what an interpreter's links lead to.
const VISIBLE: [&str; 3] = ["/usr", "/bin", "/lib"];

/// An interpreter that a manifest may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpreter {
    /// Python 3, the default.
    Python3,
    /// Whatever the system calls `python`.
    Python,
    /// Node.js.
    Node,
    /// The GNU shell.
    Bash,
    /// The POSIX shell.
    Sh,
    /// Ruby.
    Ruby,
    /// Perl.
    Perl,
}

/// A manifest names an interpreter that is not in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownInterpreter(String);

/// An interpreter of the list that this machine cannot run jobs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissingInterpreter {
    /// It is nowhere to be found.
    NotInstalled(Interpreter),
    /// It is only where jobs cannot see it.
    OutOfSight(Interpreter, PathBuf),
}

impl Interpreter {
    const ALL: [Self; 7] =
        [Self::Python3, Self::Python, Self::Node, Self::Bash, Self::Sh, Self::Ruby, Self::Perl];

    /// The interpreter's name, in manifests and on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python3 => "python3",
            Self::Python => "python",
            Self::Node => "node",
            Self::Bash => "bash",
            Self::Sh => "sh",
            Self::Ruby => "ruby",
            Self::Perl => "perl",
        }
    }

    /// The program to start, as a path that holds inside the sandbox too.
    ///
    /// # Errors
    /// When the machine has no such program where jobs can see it.
    pub fn locate(self) -> Result<PathBuf, MissingInterpreter> {
        if let Some(program) =
            DIRECTORIES.iter().map(|dir| Path::new(dir).join(self.name())).find(|p| in_sight(p))
        {
            return Ok(program);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let elsewhere = std::env::split_paths(&path).map(|dir| dir.join(self.name())).find(|p| p.is_file());
        Err(elsewhere
            .map_or(MissingInterpreter::NotInstalled(self), |p| MissingInterpreter::OutOfSight(self, p)))
    }
}

/// Whether a program exists and everything its links lead through to is in a tree that jobs see.
fn in_sight(program: &Path) -> bool {
    program
        .canonicalize()
        .is_ok_and(|real| real.is_file() && VISIBLE.iter().any(|tree| real.starts_with(tree)))
}

impl FromStr for Interpreter {
    type Err = UnknownInterpreter;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| UnknownInterpreter(name.to_owned()))
    }
}

impl fmt::Display for UnknownInterpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Interpreter::ALL.map(Interpreter::name).join(", ");
        write!(f, "interpreter {:?} is not allowed: use one of {known}", self.0)
    }
}

impl std::error::Error for UnknownInterpreter {}

impl fmt::Display for MissingInterpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled(interpreter) => {
                write!(f, "interpreter {} is not installed on this worker", interpreter.name())
            }
            Self::OutOfSight(interpreter, path) => write!(
                f,
                "interpreter {} is on this worker only at {}, where jobs cannot see it: install the system's package",
                interpreter.name(),
                path.display()
            ),
        }
    }
}

impl std::error::Error for MissingInterpreter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused_with_the_list() {
        for interpreter in Interpreter::ALL {
            assert_eq!(interpreter.name().parse(), Ok(interpreter));
        }
        let error = "/bin/sh".parse::<Interpreter>().unwrap_err().to_string();
        assert!(error.contains("python3, python, node, bash"), "{error}");
    }

    #[test]
    fn shell_is_found_in_a_directory_that_jobs_see() {
        assert_eq!(Interpreter::Sh.locate().unwrap(), Path::new("/usr/bin/sh"));
    }
}
