//! What came of the jobs of a chaos run, by the pool's word and by the jobs' own notes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Rerun, Submitted};
use crate::harness::{Pool, is_final};

/// The jobs that still wait when the killing stops, one after another, on a machine that does other things too.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(240);

/// How many jobs came to what; of those to which it must not come, what is wrong with each.
#[derive(Default)]
pub struct Report {
    unacknowledged: usize,
    acknowledged: usize,
    completed: usize,
    failed: BTreeMap<String, usize>,
    run_again: usize,
    run_twice: Vec<String>,
    /// Acknowledged, and not known or not brought to an end.
    lost: Vec<String>,
    /// Run to its end, says the pool, and the job never came there.
    untrue: Vec<String>,
}

impl Report {
    /// Waits until all jobs have ended, and counts.
    pub async fn of(jobs: &[Submitted], pool: &Pool, notes: &Path) -> Self {
        let mut report = Self::default();
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        for job in jobs {
            let Some(id) = &job.id else {
                report.unacknowledged += 1;
                continue;
            };
            report.acknowledged += 1;
            match end_of(pool, id, deadline).await {
                Ok(status) => report.count_end(job, &status, notes),
                Err(why) => report.lost.push(why),
            }
        }
        report.count_runs(jobs, notes);
        report
    }

    fn count_end(&mut self, job: &Submitted, status: &Value, notes: &Path) {
        let code = status["error"]["code"].as_str();
        let Runs { ended, .. } = Runs::of(job, notes);
        if ended == 0 && code.is_none_or(|code| code == "job_failed") {
            self.untrue.push(format!("{}: {status}", job.name));
        }
        match code {
            None => self.completed += 1,
            Some(code) => *self.failed.entry(code.to_owned()).or_default() += 1,
        }
    }

    /// Also of jobs that were not acknowledged: they may have been taken, and still run no more than once.
    fn count_runs(&mut self, jobs: &[Submitted], notes: &Path) {
        for job in jobs {
            match (Runs::of(job, notes).started, job.rerun) {
                (0 | 1, _) => {}
                (_, Rerun::Allowed) => self.run_again += 1,
                (started, Rerun::Forbidden) => {
                    self.run_twice.push(format!("{} ({:?}) was started {started} times", job.name, job.id));
                }
            }
        }
    }

    /// Fails when a job came to what it must not, with all that the coordinator has logged of it.
    pub fn assert_sound(&self, pool: &Pool) {
        assert!(self.completed > 0, "nothing ran at all");
        let wrong = [&self.lost[..], &self.run_twice[..], &self.untrue[..]].concat().join("\n");
        let is_about_one = |line: &&str| {
            let id = line.split_whitespace().find(|word| word.starts_with("pool-"));
            id.is_some_and(|id| wrong.contains(id))
        };
        let log = pool.log();
        let log: Vec<_> = log.lines().filter(is_about_one).collect();
        assert!(wrong.is_empty(), "{wrong}\n{}", log.join("\n"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: usize = self.failed.values().sum();
        let by_code: Vec<_> = self.failed.iter().map(|(code, jobs)| format!("{code} {jobs}")).collect();
        writeln!(f, "acknowledged      {:6}  (and {} not)", self.acknowledged, self.unacknowledged)?;
        writeln!(f, "completed         {:6}", self.completed)?;
        writeln!(f, "failed            {:6}  ({})", failed, by_code.join(", "))?;
        writeln!(f, "run again         {:6}  as their terms allow", self.run_again)?;
        writeln!(f, "run twice         {:6}", self.run_twice.len())?;
        writeln!(f, "completed in part {:6}", self.untrue.len())?;
        write!(f, "lost              {:6}", self.lost.len())
    }
}

/// How often a job was started, and how often it came to its end.
struct Runs {
    started: usize,
    ended: usize,
}

impl Runs {
    fn of(job: &Submitted, notes: &Path) -> Self {
        // A job that never started has noted nothing.
        let text = fs::read_to_string(notes.join(&job.name)).unwrap_or_default();
        let count = |word| text.lines().filter(|line| *line == word).count();
        Self { started: count("started"), ended: count("ended") }
    }
}

/// A job's final status, or why it has none.
async fn end_of(pool: &Pool, id: &str, deadline: Instant) -> Result<Value, String> {
    loop {
        let answer = pool.get(&format!("/status/{id}")).await;
        if answer.status() != 200 {
            return Err(format!("{id}: {} {}", answer.status(), answer.text()));
        }
        match answer.json() {
            status if is_final(&status) => return Ok(status),
            status if Instant::now() > deadline => return Err(format!("{id} does not end: {status}")),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
