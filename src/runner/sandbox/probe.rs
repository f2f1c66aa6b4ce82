//! Whether the walls can be had on this machine, found out before the first job.

use std::fmt;
use std::io;
use std::process::{Output, Stdio};

use super::view::View;
use super::{Bubblewrap, Network, Sandbox};
use crate::runner::enforcement::{Enforcement, Hold};
use crate::runner::limits::Limits;
use crate::runner::seccomp;

/// Why jobs cannot be sandboxed on this machine.
#[derive(Debug)]
pub enum SandboxError {
    /// There is no `bwrap` program.
    NotInstalled,
    /// There is no filter of system calls for this processor.
    NoFilter(String),
    /// It could not be started.
    Start(io::Error),
    /// It started and failed: what it said.
    Refused(String),
    /// Nothing here holds a job to a number of processes.
    Unbounded,
}

impl Sandbox {
    /// Finds bubblewrap and tries it on a program that does nothing, with the very walls and limits that jobs get.
    ///
    /// # Errors
    /// When it is not installed, or the machine does not let it make its namespaces, or a limit does not hold.
    pub fn bubblewrap(limits: &Limits, enforcement: &Enforcement) -> Result<Self, SandboxError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain(["/usr/bin".into(), "/usr/local/bin".into()])
            .map(|dir| dir.join("bwrap"))
            .find(|program| program.is_file())
            .ok_or(SandboxError::NotInstalled)?;
        let filter = seccomp::filter().map_err(|error| SandboxError::NoFilter(error.to_string()))?;
        let bubblewrap = Bubblewrap { program, filter: filter.into() };

        let hold = enforcement.hold(limits).map_err(SandboxError::Start)?;
        let Output { status, stderr, .. } = bubblewrap.run(limits, &hold)?;
        if !status.success() {
            return Err(SandboxError::Refused(String::from_utf8_lossy(&stderr).trim().to_owned()));
        }
        if let Hold::Rlimit = hold {
            // With one process, the first must not get as far as starting the program. The kernel does not count the
            // processes of root; this is asked and not assumed, because a container's root need not be that one.
            let one = Limits { pids: 1, ..*limits };
            if bubblewrap.run(&one, &hold)?.status.success() {
                return Err(SandboxError::Unbounded);
            }
        }
        Ok(Self::Bubblewrap(bubblewrap))
    }
}

impl Bubblewrap {
    /// Runs a program that does nothing: by its path, for a shell would do nothing itself and start none.
    fn run(&self, limits: &Limits, hold: &Hold) -> Result<Output, SandboxError> {
        let command = self.command(&View::new(Network::None, None), limits, hold);
        let mut command = command.map_err(SandboxError::Start)?;
        command.arg("/usr/bin/true").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.output().map_err(SandboxError::Start)
    }
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => f.write_str("bubblewrap is not installed (apt install bubblewrap)"),
            Self::NoFilter(why) => write!(f, "there is no filter of system calls for this machine: {why}"),
            Self::Start(error) => write!(f, "bubblewrap cannot be started: {error}"),
            Self::Refused(said) => write!(
                f,
                "bubblewrap cannot make a sandbox on this machine (are unprivileged user namespaces allowed?): {said}"
            ),
            Self::Unbounded => f.write_str(
                "nothing holds a job to its number of processes: control groups cannot be written, and resource \
                 limits do not bind this user. Run the worker as an ordinary user, or give it control groups",
            ),
        }
    }
}

impl std::error::Error for SandboxError {}
