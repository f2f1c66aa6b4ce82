//! The table of all states × events.

use super::*;
use crate::job::outcome::Failure;

fn key() -> WorkerKey {
    WorkerKey::for_tests(1)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn attempt(number: u32) -> Attempt {
    Attempt { number, losses: 0, worker: key(), since: at(1) }
}

fn refusal() -> Refusal {
    Refusal { worker: WorkerKey::for_tests(2), message: "No entrypoint specified".into() }
}

fn queued(attempts: u32, refusal: Option<Refusal>) -> JobState {
    JobState::Queued { since: at(0), tries: Tries { attempts, losses: 0 }, refusal }
}

fn ended(outcome: Outcome) -> JobState {
    JobState::Finished { outcome, at: at(3), attempts: 1, last: None }
}

fn states() -> Vec<(&'static str, JobState)> {
    let remote = || "job_1".to_owned();
    let failure = || Outcome::failed(FailureCode::JobFailed, "exit 1");
    let stopping =
        |remote| JobState::Settling { outcome: Outcome::Cancelled, at: at(3), attempt: attempt(1), remote };
    vec![
        ("queued", queued(0, None)),
        ("refused once", queued(1, Some(refusal()))),
        ("assigned", JobState::Assigned { attempt: attempt(1), waited_since: at(0), refusal: None }),
        (
            "assigned again",
            JobState::Assigned { attempt: attempt(2), waited_since: at(0), refusal: Some(refusal()) },
        ),
        ("unknown", JobState::Unknown { attempt: attempt(1), since: at(2), reason: "timed out".into() }),
        ("running", JobState::Running { attempt: attempt(1), remote: remote(), since: at(2) }),
        (
            "collecting",
            JobState::Collecting { attempt: attempt(1), remote: remote(), verdict: Verdict::Completed },
        ),
        ("settling", stopping(None)),
        ("settling there", stopping(Some(remote()))),
        ("completed", ended(Outcome::Completed)),
        ("failed", ended(failure())),
        ("cancelled", ended(Outcome::Cancelled)),
    ]
}

fn events() -> Vec<(&'static str, JobEvent)> {
    let refused = |elsewhere| JobEvent::Refused { message: "no".into(), elsewhere };
    vec![
        ("assigned", JobEvent::Assigned { worker: key() }),
        ("not taken", JobEvent::NotTaken),
        ("refused", refused(Elsewhere::Possible)),
        ("refused by all", refused(Elsewhere::Impossible)),
        ("accepted", JobEvent::Accepted { remote: "job_9".into() }),
        ("unanswered", JobEvent::Unanswered { reason: "timed out".into() }),
        ("absent", JobEvent::Absent),
        ("given up", JobEvent::GivenUp),
        ("ended", JobEvent::Ended { verdict: Verdict::Failed { exit_code: Some(3) } }),
        ("lost", JobEvent::Lost { reason: "gone".into() }),
        ("requeued", JobEvent::Requeued),
        ("exhausted", JobEvent::Exhausted { reason: "gone".into() }),
        ("collected", JobEvent::Collected),
        ("disproved", JobEvent::Disproved { reason: "not signed".into() }),
        ("cancelled", JobEvent::Cancelled),
        ("overdue", JobEvent::Overdue { deadline: Deadline::Running(Duration::from_secs(9)) }),
        ("settled", JobEvent::Settled),
        ("retried", JobEvent::Retried),
    ]
}

/// The edges of the graph; every pair that is not here must be refused.
const EDGES: &[(&str, &str, PoolStatus, u32)] = &[
    ("queued", "assigned", PoolStatus::Dispatched, 1),
    ("queued", "cancelled", PoolStatus::Cancelled, 0),
    ("queued", "overdue", PoolStatus::Failed, 0),
    ("refused once", "assigned", PoolStatus::Dispatched, 2),
    ("refused once", "cancelled", PoolStatus::Cancelled, 1),
    ("refused once", "overdue", PoolStatus::Failed, 1),
    ("assigned", "not taken", PoolStatus::Queued, 0),
    ("assigned again", "not taken", PoolStatus::Queued, 1),
    ("assigned", "refused", PoolStatus::Queued, 1),
    ("assigned", "refused by all", PoolStatus::Failed, 1),
    ("assigned again", "refused", PoolStatus::Failed, 2),
    ("assigned again", "refused by all", PoolStatus::Failed, 2),
    ("assigned", "accepted", PoolStatus::Running, 1),
    ("assigned again", "accepted", PoolStatus::Running, 2),
    ("assigned", "unanswered", PoolStatus::Dispatched, 1),
    ("assigned again", "unanswered", PoolStatus::Dispatched, 2),
    ("assigned", "cancelled", PoolStatus::Cancelled, 1),
    ("assigned again", "cancelled", PoolStatus::Cancelled, 2),
    ("unknown", "accepted", PoolStatus::Running, 1),
    ("unknown", "absent", PoolStatus::Queued, 1),
    ("unknown", "given up", PoolStatus::Failed, 1),
    ("unknown", "requeued", PoolStatus::Queued, 1),
    ("unknown", "exhausted", PoolStatus::Failed, 1),
    ("unknown", "cancelled", PoolStatus::Cancelled, 1),
    ("running", "ended", PoolStatus::Running, 1),
    ("running", "lost", PoolStatus::Failed, 1),
    ("running", "requeued", PoolStatus::Queued, 1),
    ("running", "exhausted", PoolStatus::Failed, 1),
    ("running", "overdue", PoolStatus::Failed, 1),
    ("running", "cancelled", PoolStatus::Cancelled, 1),
    ("collecting", "collected", PoolStatus::Completed, 1),
    ("collecting", "disproved", PoolStatus::Failed, 1),
    ("collecting", "cancelled", PoolStatus::Cancelled, 1),
    ("settling", "accepted", PoolStatus::Cancelled, 1),
    ("settling", "unanswered", PoolStatus::Cancelled, 1),
    ("settling", "not taken", PoolStatus::Cancelled, 1),
    ("settling", "refused", PoolStatus::Cancelled, 1),
    ("settling", "refused by all", PoolStatus::Cancelled, 1),
    ("settling", "absent", PoolStatus::Cancelled, 1),
    ("settling", "ended", PoolStatus::Cancelled, 1),
    ("settling", "collected", PoolStatus::Cancelled, 1),
    ("settling", "disproved", PoolStatus::Cancelled, 1),
    ("settling", "settled", PoolStatus::Cancelled, 1),
    ("settling there", "not taken", PoolStatus::Cancelled, 1),
    ("settling there", "refused", PoolStatus::Cancelled, 1),
    ("settling there", "refused by all", PoolStatus::Cancelled, 1),
    ("settling there", "absent", PoolStatus::Cancelled, 1),
    ("settling there", "ended", PoolStatus::Cancelled, 1),
    ("settling there", "collected", PoolStatus::Cancelled, 1),
    ("settling there", "disproved", PoolStatus::Cancelled, 1),
    ("settling there", "settled", PoolStatus::Cancelled, 1),
    ("completed", "disproved", PoolStatus::Failed, 1),
    ("failed", "disproved", PoolStatus::Failed, 1),
    ("failed", "retried", PoolStatus::Queued, 1),
    ("cancelled", "retried", PoolStatus::Queued, 1),
];

#[test]
fn every_state_and_event_moves_along_an_edge_or_is_refused() {
    for (state_name, state) in states() {
        for (event_name, event) in events() {
            let edge = EDGES.iter().find(|(from, by, ..)| (*from, *by) == (state_name, event_name));
            match (edge, apply(state.clone(), event.clone(), at(9))) {
                (Some((_, _, status, attempts)), Ok(next)) => {
                    assert_eq!(next.status(), *status, "{state_name} × {event_name}");
                    assert_eq!(next.attempts(), *attempts, "{state_name} × {event_name}");
                }
                (None, Err(refused)) => {
                    assert_eq!(
                        refused,
                        InvalidTransition { state: state.clone().into(), event: event.into() }
                    );
                }
                (edge, got) => panic!("{state_name} × {event_name}: expected {edge:?}, got {got:?}"),
            }
        }
    }
}

#[test]
fn a_second_refusal_carries_the_workers_own_words() {
    let assigned = JobState::Assigned { attempt: attempt(2), waited_since: at(0), refusal: Some(refusal()) };
    let event = JobEvent::Refused { message: "No files uploaded".into(), elsewhere: Elsewhere::Possible };
    let failure = Failure { code: FailureCode::Rejected, message: "No files uploaded".into() };
    let last = Some(Last { worker: key(), remote: None });
    let outcome = Outcome::Failed(failure);
    assert_eq!(
        apply(assigned, event, at(9)),
        Ok(JobState::Finished { outcome, at: at(9), attempts: 2, last })
    );
}

#[test]
fn losses_add_up_until_the_client_retries() {
    let state = apply(states()[5].1.clone(), JobEvent::Requeued, at(4)).unwrap();
    let state = apply(state, JobEvent::Assigned { worker: key() }, at(5)).unwrap();
    assert_eq!(state.attempt().map(|attempt| (attempt.number, attempt.losses)), Some((2, 1)));
    let state = apply(state, JobEvent::Accepted { remote: "job_2".into() }, at(6)).unwrap();
    let state = apply(state, JobEvent::Exhausted { reason: "gone".into() }, at(7)).unwrap();
    let JobState::Queued { tries, .. } = apply(state, JobEvent::Retried, at(8)).unwrap() else {
        panic!("not queued")
    };
    assert_eq!(tries, Tries { attempts: 2, losses: 0 });
}

#[test]
fn the_end_that_a_client_saw_stays_the_end() {
    let (_, settling) = states().swap_remove(8);
    let seen = settling.end().map(|(outcome, at)| (outcome.clone(), at));
    let finished = apply(settling, JobEvent::Settled, at(99)).unwrap();
    assert_eq!(finished.end().map(|(outcome, at)| (outcome.clone(), at)), seen);
}

#[test]
fn a_state_reads_back_as_it_was_written() {
    for (name, state) in states() {
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<JobState>(&text).unwrap(), state, "{name}");
    }
}

#[test]
fn a_job_that_no_worker_takes_has_waited_since_it_came() {
    let mut state = JobState::submitted(at(1));
    for second in 2..5 {
        state = apply(state, JobEvent::Assigned { worker: key() }, at(second)).unwrap();
        state = apply(state, JobEvent::NotTaken, at(second)).unwrap();
    }
    assert_eq!(state, JobState::submitted(at(1)));
}
