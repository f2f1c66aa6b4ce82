//! The walls around a job: the command line that starts its process.
//!
//! Under bubblewrap a job has namespaces of its own for users, mounts, processes, network, IPC, host name and cgroups,
//! no capabilities, and a filter of system calls. It sees the system's programs read-only, its work directory as
//! `/work`, a `/tmp` of its own, and nothing else: neither other jobs nor the worker's key are there to be protected.
//! `--sandbox none` is for machines whose operator has other walls, and for trying things out.
//!
//! Whatever has to happen in the new process before it is the job (joining a group, setting limits, taking over the
//! filter) is done by small programs that start the next one: a shell, `setsid`, `bwrap`, `prlimit`, a shell.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::enforcement::Hold;
use super::environment::Environment;
use super::interpreter::Interpreter;
use super::jobdir::JobDir;
use super::limits::Limits;
use super::path::JobPath;
use view::View;

mod probe;
mod view;

pub use probe::SandboxError;

/// Where a job's programs are found.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What else its variables are before its manifest adds to them.
const VARIABLES: [(&str, &str); 2] = [("LANG", "C.UTF-8"), ("HOME", "/tmp")];

/// Joins the groups whose doors come first, and becomes what comes after `--`.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@""#;

/// Hands the filter, which comes in as standard input, on as this file.
const FILTER_FD: &str = "3";
const HAND_FILTER_ON: &str = "3<&0 </dev/null";

/// The first process of a PID namespace ignores signals that it does not handle and must reap orphans. A shell does
/// both, and passes the exit code and the CPU time of what it waited for up to us; the reaper that bubblewrap offers
/// loses the CPU time.
const FIRST_PROCESS: [&str; 4] = ["/bin/sh", "-c", r#""$@"; exit $?"#, "sh"];

/// What each job's walls are.
#[derive(Debug, Clone)]
pub enum Sandbox {
    /// Bubblewrap.
    Bubblewrap(Bubblewrap),
    /// None but the worker's own user. The limits hold all the same.
    None,
}

/// A bubblewrap that works on this machine.
#[derive(Debug, Clone)]
pub struct Bubblewrap {
    program: PathBuf,
    /// The filter of system calls, as the kernel takes it.
    filter: Arc<[u8]>,
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
    /// The prepared directory that it sees.
    pub environment: Option<Environment>,
    /// What it can reach.
    pub network: Network,
}

/// What a job can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nothing, not even the machine's loopback.
    None,
    /// What the worker's machine can reach, the machine itself included.
    Host,
}

impl Sandbox {
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

    /// The command that runs a job in its directory.
    ///
    /// # Errors
    /// When the filter cannot be put into a pipe.
    pub fn command(&self, plan: &Plan, dir: &JobDir, limits: &Limits, hold: &Hold) -> io::Result<Command> {
        let variables = plan.variables();
        let mut command = match self {
            Self::Bubblewrap(bubblewrap) => {
                let mut view = View::new(plan.network, plan.environment.as_ref());
                view.show_job(dir);
                for (name, value) in &variables {
                    view.arg("--setenv").arg(name).arg(value);
                }
                bubblewrap.command(&view, limits, hold)?
            }
            Self::None => {
                let mut command = enter(ENTER.to_owned(), hold);
                command.args(resource_limits(limits, hold)).arg("--").current_dir(dir.work()?.path());
                command.envs(variables).stdin(Stdio::null());
                command
            }
        };
        command.arg(&plan.program).arg(plan.entrypoint.as_str()).args(&plan.args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }
}

impl Plan {
    /// The job's environment variables: those of the manifest come last, and so win.
    fn variables(&self) -> Vec<(String, OsString)> {
        let mut variables = vec![("PATH".to_owned(), PATH.into())];
        if let Some(environment) = &self.environment {
            let mut path = environment.programs().into_os_string();
            path.push(format!(":{PATH}"));
            variables = vec![("PATH".to_owned(), path)];
            variables.push(("VIRTUAL_ENV".to_owned(), environment.path().into()));
        }
        variables.extend(VARIABLES.map(|(name, value)| (name.to_owned(), value.into())));
        variables.extend(self.env.iter().map(|(name, value)| (name.clone(), value.into())));
        variables
    }
}

impl Bubblewrap {
    /// The command that starts, with these walls and limits, the program that is added to it.
    fn command(&self, view: &View, limits: &Limits, hold: &Hold) -> io::Result<Command> {
        // The filter is far smaller than what a pipe holds without a reader.
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(&self.filter)?;

        let mut command = enter(format!("{ENTER} {HAND_FILTER_ON}"), hold);
        command.arg(&self.program).args(["--seccomp", FILTER_FD]).args(view.args()).arg("--");
        command.args(resource_limits(limits, hold));
        if let Hold::Rlimit = hold {
            // In here the kernel counts this namespace's processes; outside it would count all of the worker's user.
            command.arg(format!("--nproc={}", limits.pids));
        }
        command.arg("--").args(FIRST_PROCESS).stdin(reader);
        Ok(command)
    }
}

/// The command that joins the job's group and makes a session.
///
/// Bubblewrap's own `--new-session` would take a job out of bubblewrap's process group. Made from outside, the session
/// (which keeps the job away from the worker's terminal) holds both, and one signal to the group reaches them in
/// whatever state they are: bubblewrap killed while it sets up leaves a child that waits for it for ever.
fn enter(script: String, hold: &Hold) -> Command {
    let mut command = Command::new("/bin/sh");
    command.env_clear().args(["-c", &script, "sh"]);
    if let Hold::Group(group) = hold {
        command.args(group.doors());
    }
    command.args(["--", "/usr/bin/setsid"]);
    command
}

/// Starts the next program with what the kernel bounds for each single process.
fn resource_limits(limits: &Limits, hold: &Hold) -> Vec<String> {
    let mut args = vec![
        "/usr/bin/prlimit".into(),
        "--core=0".into(),
        format!("--nofile={}", limits.open_files),
        format!("--fsize={}", limits.file_bytes),
    ];
    if let Hold::Rlimit = hold {
        // What a process may write to: bounding its addresses would stop programs that reserve many and use few. Twice
        // the limit, because the worker, which looks often, can say why it ends a job; a program that the kernel gives
        // no more memory ends in whatever way it likes.
        args.push(format!("--data={}", limits.memory_bytes.saturating_mul(2)));
    }
    args
}
