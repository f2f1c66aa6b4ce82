//! Control groups: how the kernel holds all processes of a job together to one bound.
//!
//! A job's group is made below the worker's own, so that a bound on the worker bounds its jobs too. Under version 2
//! that needs a worker to which its group was delegated (`Delegate=yes` of systemd) or one that may write at the root;
//! under version 1 hierarchies that the worker may write. A worker that has neither does with resource limits.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::limits::{Limit, Limits};
use place::Places;

mod place;

/// Begins the name of every group that a worker makes; its process id and a number follow.
const NAME: &str = "trusted-pool-";

/// How often, and after which pause, the removal of a group is tried: the processes in it are dead, and take a moment
/// to be gone.
const REMOVALS_MAX: u32 = 200;
const REMOVAL_PAUSE: Duration = Duration::from_millis(5);

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Version of the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each kind of bound.
    One,
    /// One hierarchy.
    Two,
}

/// Where groups for jobs can be made.
#[derive(Debug, Clone)]
pub struct Groups {
    version: Version,
    parents: Vec<PathBuf>,
}

/// The group of one job. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Group {
    version: Version,
    /// One for each hierarchy; a file of a group is in one of them.
    dirs: Vec<PathBuf>,
}

impl Groups {
    /// Finds where this process may make groups that bound memory and processes, and tries it.
    #[must_use]
    pub fn find(limits: &Limits) -> Option<Self> {
        let places = Places::read();
        let two = places.version_two().into_iter().map(|parent| (Version::Two, vec![parent]));
        let one = places.version_one().map(|parents| (Version::One, parents));
        let groups = two.chain(one).map(|(version, parents)| Self { version, parents });
        groups.inspect(Self::sweep).find(|groups| groups.create(limits).is_ok())
    }

    /// Which version of the interface they belong to.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the group of a job.
    ///
    /// # Errors
    /// When it cannot be made, or does not take a limit.
    pub fn create(&self, limits: &Limits) -> io::Result<Group> {
        let name = format!("{NAME}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut group = Group { version: self.version, dirs: Vec::new() };
        for parent in &self.parents {
            let dir = parent.join(&name);
            fs::create_dir(&dir)?;
            group.dirs.push(dir);
        }
        let memory = limits.memory_bytes.to_string();
        match self.version {
            Version::One => {
                group.write("memory.limit_in_bytes", &memory)?;
                group.write_where_known("memory.memsw.limit_in_bytes", &memory)?;
            }
            Version::Two => {
                group.write("memory.max", &memory)?;
                group.write_where_known("memory.swap.max", "0")?;
                group.write_where_known("memory.oom.group", "1")?;
            }
        }
        group.write("pids.max", &limits.pids.to_string())?;
        Ok(group)
    }

    /// Removes what workers have left that were killed. A group that still has processes stays.
    fn sweep(&self) {
        for parent in &self.parents {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let worker = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next());
                if worker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

impl Group {
    /// The files into which a process of one thread writes `0` to join.
    pub fn doors(&self) -> impl Iterator<Item = PathBuf> {
        // A process that moves as one thread waits for nobody; one that moves as a process waits ten milliseconds for
        // all processors. Version 2 does not move single threads.
        let door = match self.version {
            Version::One => "tasks",
            Version::Two => "cgroup.procs",
        };
        self.dirs.iter().map(move |dir| dir.join(door))
    }

    /// The limit that was broken, if one was: the kernel counts how often it had to hold a group back.
    #[must_use]
    pub fn broken(&self) -> Option<Limit> {
        let memory = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let count = |file, key| self.value(file, key).unwrap_or_default();
        if count(memory, "oom_kill") > 0 {
            return Some(Limit::Memory);
        }
        (count("pids.events", "max") > 0).then_some(Limit::Pids)
    }

    /// CPU time of everything that was ever in the group.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let cpu = match self.version {
            Version::One => {
                let text = self.read("cpuacct.usage");
                text.and_then(|text| text.trim().parse().ok()).map(Duration::from_nanos)
            }
            Version::Two => self.value("cpu.stat", "usage_usec").map(Duration::from_micros),
        };
        cpu.unwrap_or_default()
    }

    /// A number from a file of lines with a key and a number each.
    fn value(&self, file: &str, key: &str) -> Option<u64> {
        let text = self.read(file)?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value?.trim().parse().ok()
    }

    fn read(&self, file: &str) -> Option<String> {
        self.dirs.iter().find_map(|dir| fs::read_to_string(dir.join(file)).ok())
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let dir = self.dirs.iter().find(|dir| dir.join(file).exists());
        let path = dir.ok_or(io::ErrorKind::NotFound)?.join(file);
        write(&path, value)
    }

    /// Writes a file that not every kernel has.
    fn write_where_known(&self, file: &str, value: &str) -> io::Result<()> {
        match self.write(file, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let dirs = std::mem::take(&mut self.dirs);
        let remove = move || dirs.iter().for_each(|dir| remove(dir));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Kills what is in a group and removes it.
fn remove(dir: &Path) {
    for _ in 0..REMOVALS_MAX {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return,
            Err(error) => error,
        };
        if error.kind() != io::ErrorKind::ResourceBusy {
            log::warn!("{} cannot be removed: {error}", dir.display());
            return;
        }
        let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            // It may be gone already.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(REMOVAL_PAUSE);
    }
    log::error!("{} cannot be removed: a process in it does not end", dir.display());
}

/// Writes to a file of a group, which must be there: these file systems take no new ones.
fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests;
