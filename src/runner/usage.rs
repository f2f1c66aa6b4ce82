//! What a job costs: CPU time and memory, read from `/proc`.
//!
//! `wait4` would tell, but is out of reach of safe Rust. Two sources stand in for it. The kernel adds the CPU time of
//! a child, and of all that the child waited for, to its parent's account when the parent reaps it: the step of our
//! own account over one reaping is exact. Memory, and the CPU time of a job that is killed before its parts are waited
//! for, come from samples of the live processes; a process's peak memory is kept by the kernel, so a late sample sees
//! an early peak.

use std::fs;
use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Length of the clock tick of `/proc/*/stat`: `USER_HZ` is 100 on every Linux platform that Rust supports well.
const TICK: Duration = Duration::from_millis(10);

/// Fields of `/proc/*/stat` counted from the state, which is the first after the program's name.
const FIELD_CPU: [usize; 4] = [11, 12, 13, 14];
const FIELD_CHILDREN_CPU: [usize; 2] = [13, 14];

/// Most processes of one job that a sample looks at: sampling a fork bomb must not become one.
const PROCESSES_MAX: usize = 1024;

/// Held over each reaping, because all reapings of this process book to the same account.
static ACCOUNT: Mutex<()> = Mutex::new(());

/// What a job has used.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// CPU time of all its processes, user and system.
    pub cpu: Duration,
    /// The largest peak of resident memory among its processes, in bytes.
    pub memory_peak_bytes: u64,
}

/// What the live processes of a job show at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// What they have used so far.
    pub usage: Usage,
    /// Resident memory of all of them now, in bytes. What they share counts for each.
    pub memory_bytes: u64,
    /// Processes and their threads.
    pub tasks: u64,
}

/// Reaps a child if it has ended, and tells the CPU time that it and all that it waited for have used.
///
/// # Errors
/// When the child cannot be waited for.
pub fn try_reap(child: &mut Child) -> io::Result<Option<(ExitStatus, Duration)>> {
    let _account = ACCOUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let before = cpu_of("self", &FIELD_CHILDREN_CPU).unwrap_or_default();
    let Some(status) = child.try_wait()? else { return Ok(None) };
    let after = cpu_of("self", &FIELD_CHILDREN_CPU).unwrap_or_default();
    Ok(Some((status, after.saturating_sub(before))))
}

impl Usage {
    /// Takes in what another look at the same job has shown.
    pub fn take_in(&mut self, seen: Self) {
        self.cpu = self.cpu.max(seen.cpu);
        self.memory_peak_bytes = self.memory_peak_bytes.max(seen.memory_peak_bytes);
    }
}

impl Sample {
    /// What the processes from `root` down show now.
    #[must_use]
    pub fn of(root: u32) -> Self {
        let mut sample = Self::default();
        for pid in descent(root) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let kibibytes = |key| number(&status, key).unwrap_or_default() * 1024;
            sample.usage.cpu += cpu_of(&pid.to_string(), &FIELD_CPU).unwrap_or_default();
            sample.usage.memory_peak_bytes = sample.usage.memory_peak_bytes.max(kibibytes("VmHWM:"));
            sample.memory_bytes += kibibytes("VmRSS:");
            sample.tasks += number(&status, "Threads:").unwrap_or_default();
        }
        sample
    }
}

/// A process and all that descend from it.
#[must_use]
pub fn descent(root: u32) -> Vec<u32> {
    let mut processes = vec![root];
    let mut at = 0;
    while let Some(pid) = processes.get(at) {
        at += 1;
        // A child is listed with the thread that has started it.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads.take(PROCESSES_MAX) {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            processes.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        processes.truncate(PROCESSES_MAX);
    }
    processes
}

/// The sum of some CPU time fields of a process, or `None` when it is gone.
fn cpu_of(pid: &str, fields: &[usize]) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses and may hold anything, spaces and parentheses too.
    let values: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.iter().map(|field| values.get(*field)?.parse::<u32>().ok()).sum::<Option<u32>>()?;
    Some(TICK * ticks)
}

/// The number after a key of `/proc/*/status`.
fn number(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn reaping_tells_the_cpu_time_of_a_child_and_its_children() {
        let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let mut child =
            Command::new("sh").args(["-c", "sh -c \"$1\"; exit 3", "sh", script]).spawn().unwrap();
        let mut usage = Usage::default();
        let (status, cpu) = loop {
            usage.take_in(Sample::of(child.id()).usage);
            if let Some(end) = try_reap(&mut child).unwrap() {
                break end;
            }
            std::thread::yield_now();
        };
        assert_eq!(status.code(), Some(3));
        assert!(cpu >= TICK, "{cpu:?}");
        assert!(usage.memory_peak_bytes > 100_000, "{usage:?}");
    }
}
