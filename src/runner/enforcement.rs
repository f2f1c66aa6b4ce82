//! What holds a job to its memory and its number of processes on this machine.

use std::io;

use super::cgroup::{Group, Groups, Version};
use super::limits::{Limit, Limits};
use super::usage::Sample;

/// The machine's best means.
#[derive(Debug, Clone)]
pub enum Enforcement {
    /// Control groups: one bound for all processes of a job.
    Groups(Groups),
    /// Resource limits: the kernel bounds the memory of each process and the number of them; that all together keep to
    /// the memory is the worker's to see.
    Rlimit,
}

/// What holds one job.
#[derive(Debug)]
pub enum Hold {
    /// Its group.
    Group(Group),
    /// Its resource limits.
    Rlimit,
}

impl Enforcement {
    /// Finds the best means that this process may use, by trying them.
    #[must_use]
    pub fn find(limits: &Limits) -> Self {
        Groups::find(limits).map_or(Self::Rlimit, Self::Groups)
    }

    /// Its name, as `/health` has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Groups(groups) => match groups.version() {
                Version::One => "cgroup1",
                Version::Two => "cgroup2",
            },
            Self::Rlimit => "rlimit",
        }
    }

    /// Makes what holds a job to these limits.
    ///
    /// # Errors
    /// When its group cannot be made.
    pub fn hold(&self, limits: &Limits) -> io::Result<Hold> {
        match self {
            Self::Groups(groups) => groups.create(limits).map(Hold::Group),
            Self::Rlimit => Ok(Hold::Rlimit),
        }
    }
}

impl Hold {
    /// Adds to a sample what is known better here, and tells the limit that the job has broken.
    pub fn check(&self, sample: &mut Sample, limits: &Limits) -> Option<Limit> {
        let broken = match self {
            Self::Group(group) => {
                sample.usage.cpu = sample.usage.cpu.max(group.cpu());
                group.broken()
            }
            Self::Rlimit if sample.memory_bytes > limits.memory_bytes => Some(Limit::Memory),
            // The kernel lets no more start, and does not tell that one was refused.
            Self::Rlimit if sample.tasks > u64::from(limits.pids) => Some(Limit::Pids),
            Self::Rlimit => None,
        };
        broken.or_else(|| limits.cpu.filter(|most| sample.usage.cpu > *most).map(|_| Limit::Cpu))
    }
}
