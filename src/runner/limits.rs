//! What a job may use, and what it is told when it used more.

use std::fmt;
use std::time::Duration;

/// The most that one job may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Memory of all its processes, in bytes.
    pub memory_bytes: u64,
    /// Its processes and their threads, those that hold the sandbox included.
    pub pids: u32,
    /// CPU time of all its processes, if it is bounded by more than the wall time.
    pub cpu: Option<Duration>,
    /// Everything that it keeps on disk, in bytes: its work directory with what was uploaded, `/tmp` and `/dev/shm`.
    pub disk_bytes: u64,
    /// Any one file, in bytes.
    pub file_bytes: u64,
    /// Files that one process has open.
    pub open_files: u32,
    /// What it writes to stdout and stderr, in bytes, whether it is kept or not.
    pub output_bytes: u64,
}

/// What an operator grants each job of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// The limits; a manifest may ask for lower ones.
    pub limits: Limits,
    /// How long a job may run whose manifest does not say.
    pub default_timeout: Duration,
    /// Whether a manifest may ask for the network.
    pub network: NetworkPolicy,
}

/// Whether jobs of this worker may use the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkPolicy {
    /// None may.
    Refuse,
    /// Those whose manifest asks for it.
    OnRequest,
}

/// A limit that a job has broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Its memory.
    Memory,
    /// Its processes.
    Pids,
    /// Its CPU time.
    Cpu,
    /// Its disk space, or number of files.
    Disk,
    /// The worker's disk is full, whoever filled it.
    DiskReserve,
    /// The size of a file.
    FileSize,
    /// Its stdout and stderr.
    Output,
}

/// A wish of a manifest that this worker does not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotGranted(String);

impl Limits {
    /// The limits of a job that asks for these.
    ///
    /// # Errors
    /// When it asks for more than the worker gives.
    pub fn asked(self, memory_bytes: Option<u64>, cpu: Option<Duration>) -> Result<Self, NotGranted> {
        let memory_bytes = memory_bytes.unwrap_or(self.memory_bytes);
        if memory_bytes > self.memory_bytes {
            let (asked, most) = (memory_bytes >> 20, self.memory_bytes >> 20);
            return Err(NotGranted(format!("memory_mb is {asked}; this worker gives a job at most {most}")));
        }
        let cpu = match (cpu, self.cpu) {
            (Some(asked), Some(most)) if asked > most => {
                let (asked, most) = (asked.as_secs_f64(), most.as_secs_f64());
                return Err(NotGranted(format!(
                    "cpu_seconds is {asked}; this worker gives a job at most {most}"
                )));
            }
            (asked, most) => asked.or(most),
        };
        Ok(Self { memory_bytes, cpu, ..self })
    }
}

impl NetworkPolicy {
    /// Grants a job the network that it asks for.
    ///
    /// # Errors
    /// When this worker's jobs have none.
    pub fn ask(self) -> Result<(), NotGranted> {
        match self {
            Self::OnRequest => Ok(()),
            Self::Refuse => Err(NotGranted(
                "network: this worker's jobs have none (it runs without --allow-network)".into(),
            )),
        }
    }
}

impl Limit {
    /// The word for machines.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Memory => "memory_limit",
            Self::Pids => "pids_limit",
            Self::Cpu => "cpu_limit",
            Self::Disk => "disk_limit",
            Self::DiskReserve => "disk_full",
            Self::FileSize => "file_size_limit",
            Self::Output => "output_limit",
        }
    }
}

impl fmt::Display for Limit {
    /// The sentence for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "The job needed more memory than it may use",
            Self::Pids => "The job started more processes and threads than it may have",
            Self::Cpu => "The job used more CPU time than it may",
            Self::Disk => "The job kept more bytes or files on disk than it may",
            Self::DiskReserve => "The worker's disk is full",
            Self::FileSize => "The job wrote a larger file than it may",
            Self::Output => "The job wrote more to stdout and stderr than it may",
        })
    }
}

impl fmt::Display for NotGranted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The manifest cannot be used here: {}", self.0)
    }
}

impl std::error::Error for NotGranted {}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Limits that no test job reaches by accident, and that hold a runaway one well below what harms the machine.
    pub const ROOMY: Limits = Limits {
        memory_bytes: 512 << 20,
        pids: 128,
        cpu: None,
        disk_bytes: 256 << 20,
        file_bytes: 128 << 20,
        open_files: 256,
        output_bytes: 64 << 20,
    };

    #[test]
    fn manifest_may_lower_a_limit_and_not_raise_it() {
        let lowered = ROOMY.asked(Some(64 << 20), Some(Duration::from_secs(3))).unwrap();
        assert_eq!((lowered.memory_bytes, lowered.cpu), (64 << 20, Some(Duration::from_secs(3))));
        assert_eq!(ROOMY.asked(None, None).unwrap().memory_bytes, ROOMY.memory_bytes);
        let refused = ROOMY.asked(Some(513 << 20), None).unwrap_err().to_string();
        assert!(refused.contains("memory_mb is 513") && refused.contains("at most 512"), "{refused}");
        let limits = Limits { cpu: Some(Duration::from_secs(2)), ..ROOMY };
        assert_eq!(limits.asked(None, None).unwrap().cpu, limits.cpu);
        assert!(limits.asked(None, Some(Duration::from_millis(2500))).is_err());
    }
}
