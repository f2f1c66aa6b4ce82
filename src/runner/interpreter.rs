//! The programs that may run a job's entrypoint.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// Where an interpreter is looked for: directories that every job sees.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

/// Trees that every job sees, one of which must hold what an interpreter's links lead to.
const VISIBLE: [&str; 3] = ["/usr", "/bin", "/lib"];

/// Longest time, in seconds, that an interpreter may take to tell its version.
const VERSION_SECONDS_MAX: &str = "5";

/// Most bytes read of what it tells.
const VERSION_BYTES_MAX: u64 = 4096;

/// An interpreter that a manifest may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// An interpreter that jobs can be run with here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Which one.
    pub interpreter: Interpreter,
    /// Its version, if it tells one.
    pub version: Option<String>,
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
    /// All that there are.
    pub const ALL: [Self; 7] =
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

    /// All that are installed where jobs can see them. Blocks: each is asked for its version.
    #[must_use]
    pub fn installed() -> Vec<Installed> {
        let found = Self::ALL.into_iter().filter_map(|known| Some((known, known.locate().ok()?)));
        found
            .map(|(interpreter, program)| Installed { interpreter, version: interpreter.version(&program) })
            .collect()
    }

    fn version(self, program: &Path) -> Option<String> {
        let args: &[&str] = match self {
            Self::Python3 | Self::Python | Self::Node | Self::Bash | Self::Ruby => &["--version"],
            Self::Perl => &["-e", "print $^V"],
            // The small ones take this for a script's name, and have no version to tell.
            Self::Sh => return None,
        };
        let mut asked = Command::new("timeout");
        asked.arg(VERSION_SECONDS_MAX).arg(program).args(args).stdin(Stdio::null());
        let mut child = asked.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut told = String::new();
        let read = child.stdout.take()?.take(VERSION_BYTES_MAX).read_to_string(&mut told);
        child.wait().ok().filter(|status| status.success()).and(read.ok())?;
        version_in(&told)
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

/// The first word of a text that is a version, without what is around it.
fn version_in(text: &str) -> Option<String> {
    let mut words = text.split_whitespace().map(|word| word.trim_start_matches(['v', '(']));
    let word =
        words.find(|word| word.starts_with(|char: char| char.is_ascii_digit()) && word.contains('.'))?;
    let end = word.find(|char: char| !char.is_ascii_alphanumeric() && char != '.').unwrap_or(word.len());
    Some(word[..end].to_owned())
}

/// Whether a program exists and everything its links lead through to is in a tree that jobs see.
pub(super) fn in_sight(program: &Path) -> bool {
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
    fn versions_are_found_in_what_interpreters_say() {
        for (text, version) in [
            ("Python 3.11.2\n", Some("3.11.2")),
            ("v18.20.4\n", Some("18.20.4")),
            ("GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)\n", Some("5.2.15")),
            ("ruby 3.1.2p20 (2022-04-12 revision 4491bb740a) [x86_64-linux-gnu]\n", Some("3.1.2p20")),
            ("v5.36.0", Some("5.36.0")),
            ("", None),
            ("busybox sh 2 go\n", None),
        ] {
            assert_eq!(version_in(text).as_deref(), version, "{text}");
        }
    }

    #[test]
    fn installed_interpreters_tell_their_versions() {
        let installed = Interpreter::installed();
        let found = |wanted| installed.iter().find(|found| found.interpreter == wanted).unwrap();
        assert_eq!(found(Interpreter::Sh).version, None);
        assert!(found(Interpreter::Python3).version.as_deref().unwrap().starts_with("3."));
    }

    #[test]
    fn shell_is_found_in_a_directory_that_jobs_see() {
        assert_eq!(Interpreter::Sh.locate().unwrap(), Path::new("/usr/bin/sh"));
    }
}
