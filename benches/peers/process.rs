//! A server under measurement: started, watched through `/proc`, and ended.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A server that does not listen by then is not going to.
const START_MAX: Duration = Duration::from_secs(30);

/// What `/proc/PID/stat` counts in; Linux tells programs 100 a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// A server and the processes that it has started.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a server and waits until each address takes connections; its output goes to `log`.
    pub fn start(mut command: Command, listens: &[SocketAddr], log: &Path) -> Self {
        let log_file = File::create(log).expect("the site is writable");
        command.stdin(Stdio::null()).stdout(log_file.try_clone().expect("a file has two handles"));
        let child = command.stderr(log_file).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let mut process = Self { child };
        let deadline = Instant::now() + START_MAX;
        for address in listens {
            while TcpStream::connect(address).is_err() {
                let ended = process.child.try_wait().expect("it is our child");
                assert!(
                    ended.is_none() && Instant::now() < deadline,
                    "{command:?} does not listen on {address}: {}",
                    fs::read_to_string(log).unwrap_or_default()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        process
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it and its children have taken, user and system.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self.family().iter().map(|pid| ticks_of(*pid)).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// The most memory that it has had since [`Process::reset_peak`], in bytes; its children's are added.
    pub fn peak_memory(&self) -> u64 {
        self.family().iter().map(|pid| peak_of(*pid)).sum()
    }

    pub fn reset_peak(&self) {
        for pid in self.family() {
            // Documented in proc(5): it resets VmHWM.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
        let parents: Vec<(u32, u32)> = processes().collect();
        let mut at = 0;
        while at < family.len() {
            let parent = family[at];
            family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        family
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine on which nobody listens.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound")
}

/// Processes, each with its parent.
fn processes() -> impl Iterator<Item = (u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let parent = fields_of(pid).ok()?.get(1)?.parse().ok()?;
        Some((pid, parent))
    })
}

/// The fields of `/proc/PID/stat` that follow the name, which may hold anything.
fn fields_of(pid: u32) -> io::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(after_name.split_whitespace().map(str::to_owned).collect())
}

fn ticks_of(pid: u32) -> u64 {
    const UTIME: usize = 11;
    let fields = fields_of(pid).unwrap_or_default();
    fields.iter().skip(UTIME).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() << 10
}
