//! The walls around a job: the command line that starts its process.
//!
//! Under bubblewrap a job has namespaces of its own for users, mounts, processes, network, IPC, host name and cgroups.
//! It sees the system's programs read-only, an empty `/tmp`, its work directory as `/work`, and nothing else: neither
//! other jobs nor the worker's key are there to be protected. `--sandbox none` is for machines whose operator has
//! other walls, and for trying things out.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::interpreter::Interpreter;
use super::path::JobPath;

/// What a job's environment is before its manifest adds to it.
const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/tmp")];

/// Directories beside `/usr` that hold programs and libraries: links into `/usr` on a merged system.
const SYSTEM_DIRECTORIES: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// The little that programs need of `/etc`: how to find shared libraries, and what alternatives stand for.
const ETC: [&str; 4] = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"];

/// The user and group that a job believes to be: nobody.
const NOBODY: &str = "65534";

/// What each job's walls are.
#[derive(Debug, Clone)]
pub enum Sandbox {
    /// Bubblewrap, at this path.
    Bubblewrap(PathBuf),
    /// None but the worker's own user.
    None,
}

/// Everything that decides what a job's process is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The named interpreter.
    pub interpreter: Interpreter,
    /// Where it is.
    pub program: PathBuf,
    /// The file to run.
    pub entrypoint: JobPath,
    /// Its arguments.
    pub args: Vec<String>,
    /// The manifest's environment variables.
    pub env: Vec<(String, String)>,
}

/// Why jobs cannot be sandboxed on this machine.
#[derive(Debug)]
pub enum SandboxError {
    /// There is no `bwrap` program.
    NotInstalled,
    /// It could not be started.
    Start(io::Error),
    /// It started and failed: what it said.
    Refused(String),
}

impl Sandbox {
    /// Finds bubblewrap and tries it on a program that does nothing, with the very walls that jobs get.
    ///
    /// # Errors
    /// When it is not installed, or the machine does not let it make its namespaces.
    pub fn bubblewrap() -> Result<Self, SandboxError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain(["/usr/bin".into(), "/usr/local/bin".into()])
            .map(|dir| dir.join("bwrap"))
            .find(|program| program.is_file())
            .ok_or(SandboxError::NotInstalled)?;
        let mut probe = walls(&program);
        probe.args(["--", "true"]).env_clear().stdin(Stdio::null());
        let Output { status, stderr, .. } = probe.output().map_err(SandboxError::Start)?;
        if !status.success() {
            return Err(SandboxError::Refused(String::from_utf8_lossy(&stderr).trim().to_owned()));
        }
        Ok(Self::Bubblewrap(program))
    }

    /// The sandbox's name, as `/health` has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bubblewrap(_) => "bubblewrap",
            Self::None => "none",
        }
    }

    /// Whether jobs can read a directory of the host (given canonically) whoever it belongs to.
    #[must_use]
    pub fn shows(&self, directory: &Path) -> bool {
        match self {
            Self::Bubblewrap(_) => directory.starts_with("/usr"),
            // Without walls they can read everything; that was the operator's choice.
            Self::None => false,
        }
    }

    /// The command that runs a job in its work directory.
    #[must_use]
    pub fn command(&self, plan: &Plan, work: &Path) -> Command {
        let mut command = match self {
            Self::Bubblewrap(program) => {
                let mut command = walls(program);
                command.arg("--bind").arg(work).args(["/work", "--chdir", "/work"]);
                for (name, value) in environment(plan) {
                    command.args(["--setenv", name, value]);
                }
                // The first process of a PID namespace ignores signals that it does not handle and must reap orphans.
                // A shell does both, and passes the exit code and the CPU time of what it waited for up to us; the
                // reaper that bubblewrap offers loses the CPU time.
                command.args(["--", "/bin/sh", "-c", "\"$@\"; exit $?", "sh"]).arg(&plan.program).env_clear();
                command
            }
            Self::None => {
                let mut command = Command::new("/usr/bin/setsid");
                command.arg(&plan.program).current_dir(work).env_clear().envs(environment(plan));
                command
            }
        };
        command.arg(plan.entrypoint.as_str()).args(&plan.args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn environment(plan: &Plan) -> impl Iterator<Item = (&str, &str)> {
    ENVIRONMENT.into_iter().chain(plan.env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Everything about the sandbox that is the same for each job.
///
/// Bubblewrap's own `--new-session` would take a job out of bubblewrap's process group. Made from outside, the session
/// (which keeps the job away from the worker's terminal) holds both, and one signal to the group reaches them in
/// whatever state they are: bubblewrap killed while it sets up leaves a child that waits for it for ever.
fn walls(program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/setsid");
    command.arg(program);
    // "--unshare-all" alone would only try for a user namespace and do without.
    command.args(["--unshare-all", "--unshare-user", "--uid", NOBODY, "--gid", NOBODY, "--cap-drop", "ALL"]);
    command.args(["--hostname", "sandbox", "--die-with-parent", "--as-pid-1", "--clearenv"]);
    command.args(["--ro-bind", "/usr", "/usr"]);
    for name in SYSTEM_DIRECTORIES {
        let path = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&path) {
            command.arg("--symlink").arg(target).arg(path);
        } else {
            command.arg("--ro-bind-try").arg(&path).arg(path);
        }
    }
    for name in ETC {
        let path = Path::new("/etc").join(name);
        command.arg("--ro-bind-try").arg(&path).arg(path);
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/work"]);
    // The root itself is a tmpfs: memory that a job could fill.
    command.args(["--remount-ro", "/"]);
    command
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => f.write_str("bubblewrap is not installed (apt install bubblewrap)"),
            Self::Start(error) => write!(f, "bubblewrap cannot be started: {error}"),
            Self::Refused(said) => write!(
                f,
                "bubblewrap cannot make a sandbox on this machine (are unprivileged user namespaces allowed?): {said}"
            ),
        }
    }
}

impl std::error::Error for SandboxError {}
