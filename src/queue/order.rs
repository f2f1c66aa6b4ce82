//! In which order waiting jobs are taken. Pure.
//!
//! All jobs of a higher priority go before any of a lower one. Within a priority the clients with waiting jobs take turns, one
//! job each, and each client's jobs are first come, first served: a client with ten thousand jobs delays another's first job
//! by one. Who begins to wait goes to the end of the round, so that to come and go gains nothing. A job that goes back to the
//! queue takes the place it had among its client's, which is its sequence, given once at submission; and its client gets back
//! the turn that it was taken in.
//!
//! Jobs that may go to the same workers form a class, so that a job that nobody can take now holds up none behind it, and
//! costs a look for its class alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::job::{ClientName, JobId, Priority};
use crate::worker::WorkerKey;

/// Whose turn it is: the least goes first. No two clients ever have the same.
pub type Turn = u64;

/// A client in a round; nobody in particular is one, too.
type Client = Option<ClientName>;

/// Which workers a job may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// The labels that its worker must have.
    pub requires: BTreeMap<String, String>,
    /// The worker that refused it.
    pub refused_by: Option<WorkerKey>,
}

/// What says where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub priority: Priority,
    pub client: Client,
    pub class: Class,
    /// The order of submission.
    pub sequence: i64,
}

/// The waiting jobs in the order in which they are taken.
#[derive(Debug, Default)]
pub struct Waiting {
    rounds: BTreeMap<Priority, Round>,
}

/// A job that was taken out.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<T> {
    pub job: JobId,
    /// The turn that it was taken in; it goes back with the job.
    pub turn: Turn,
    /// What was found for it.
    pub value: T,
}

/// The jobs of one priority.
#[derive(Debug, Default)]
struct Round {
    last_turn: Turn,
    /// Every client with a job here.
    clients: BTreeMap<Client, Standing>,
    /// No class is empty.
    classes: BTreeMap<Class, Line>,
}

/// A client in a round.
#[derive(Debug, Default)]
struct Standing {
    turn: Turn,
    /// Sequences of all its jobs, whatever their class.
    jobs: BTreeSet<i64>,
}

/// The jobs of one class. Both have the same clients, and no client is there without a job.
#[derive(Debug, Default)]
struct Line {
    turns: BTreeMap<Turn, Client>,
    jobs: BTreeMap<Client, BTreeMap<i64, JobId>>,
}

// === impl Waiting ===

impl Waiting {
    /// Lets a job wait. One that was taken before brings the turn of then.
    pub fn insert(&mut self, place: Place, job: JobId, turn: Option<Turn>) {
        self.rounds.entry(place.priority).or_default().insert(place, job, turn);
    }

    /// Takes out the first job for whose class `take` finds what it needs.
    pub fn take_first<T>(&mut self, mut take: impl FnMut(&Class) -> Option<T>) -> Option<Taken<T>> {
        self.rounds.values_mut().find_map(|round| round.take_first(&mut take))
    }

    /// Takes out a job, if it waits.
    pub fn remove(&mut self, place: &Place) -> Option<JobId> {
        self.rounds.get_mut(&place.priority)?.remove(&place.class, &place.client, place.sequence)
    }

    pub fn len(&self) -> usize {
        self.rounds.values().map(Round::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.rounds.values().all(|round| round.clients.is_empty())
    }

    /// How many jobs of a client wait.
    pub fn len_of(&self, client: &Client) -> usize {
        let standing = |round: &Round| round.clients.get(client).map_or(0, |standing| standing.jobs.len());
        self.rounds.values().map(standing).sum()
    }

    /// How many jobs are taken before this one, if every one can be.
    pub fn ahead_of(&self, place: &Place) -> usize {
        let higher = self.rounds.range(..place.priority).map(|(_, round)| round.len());
        let round = self.rounds.get(&place.priority);
        higher.sum::<usize>() + round.map_or(0, |round| round.ahead_of(place))
    }
}

// === impl Round ===

impl Round {
    fn len(&self) -> usize {
        self.clients.values().map(|standing| standing.jobs.len()).sum()
    }

    fn next_turn(&mut self) -> Turn {
        self.last_turn += 1;
        self.last_turn
    }

    fn insert(&mut self, place: Place, job: JobId, turn: Option<Turn>) {
        let Place { client, class, sequence, .. } = place;
        match (self.clients.get(&client).map(|standing| standing.turn), turn) {
            (Some(now), Some(given)) if given < now => self.move_to(&client, given),
            (Some(_), _) => {}
            (None, given) => {
                let turn = given.unwrap_or_else(|| self.next_turn());
                self.clients.insert(client.clone(), Standing { turn, jobs: BTreeSet::new() });
            }
        }
        let standing = self.clients.get_mut(&client).expect("it was put there if it was not there");
        standing.jobs.insert(sequence);
        let line = self.classes.entry(class).or_default();
        line.turns.insert(standing.turn, client.clone());
        line.jobs.entry(client).or_default().insert(sequence, job);
    }

    fn take_first<T>(&mut self, take: &mut impl FnMut(&Class) -> Option<T>) -> Option<Taken<T>> {
        let mut heads: Vec<_> = self.classes.iter().map(|(class, line)| (line.head(), class)).collect();
        heads.sort_by_key(|(head, _)| *head);
        let find = |((turn, sequence), class): ((Turn, i64), &Class)| {
            take(class).map(|value| (turn, sequence, class.clone(), value))
        };
        let (turn, sequence, class, value) = heads.into_iter().find_map(find)?;
        let client = self.classes[&class].turns[&turn].clone();
        let job = self.remove(&class, &client, sequence).expect("it was first just now");
        if self.clients.contains_key(&client) {
            let last = self.next_turn();
            self.move_to(&client, last);
        }
        Some(Taken { job, turn, value })
    }

    fn remove(&mut self, class: &Class, client: &Client, sequence: i64) -> Option<JobId> {
        let line = self.classes.get_mut(class)?;
        let job = line.jobs.get_mut(client)?.remove(&sequence)?;
        let standing = self.clients.get_mut(client).expect("it has a job in a line");
        standing.jobs.remove(&sequence);
        if line.jobs[client].is_empty() {
            line.jobs.remove(client);
            line.turns.remove(&standing.turn);
        }
        if standing.jobs.is_empty() {
            self.clients.remove(client);
        }
        if line.jobs.is_empty() {
            self.classes.remove(class);
        }
        Some(job)
    }

    /// Gives a client another turn, in every class that it has a job in.
    fn move_to(&mut self, client: &Client, turn: Turn) {
        let standing = self.clients.get_mut(client).expect("only a client with jobs takes turns");
        let before = std::mem::replace(&mut standing.turn, turn);
        for line in self.classes.values_mut() {
            if let Some(client) = line.turns.remove(&before) {
                line.turns.insert(turn, client);
            }
        }
    }

    /// A job that is its client's nth goes in the nth round: before it, of everybody, those of the rounds before, and in its own
    /// round one of each client whose turn is sooner.
    fn ahead_of(&self, place: &Place) -> usize {
        let Some(own) = self.clients.get(&place.client) else { return 0 };
        let rounds = own.jobs.range(..place.sequence).count();
        let of_others = self.clients.values().filter(|standing| standing.turn != own.turn);
        let before =
            |standing: &Standing| standing.jobs.len().min(rounds + usize::from(standing.turn < own.turn));
        rounds + of_others.map(before).sum::<usize>()
    }
}

// === impl Line ===

impl Line {
    /// The turn and the sequence of its first job.
    fn head(&self) -> (Turn, i64) {
        let (turn, client) = self.turns.first_key_value().expect("no class is empty");
        let (sequence, _) = self.jobs[client].first_key_value().expect("no client is there without a job");
        (*turn, *sequence)
    }
}

#[cfg(test)]
mod tests;
