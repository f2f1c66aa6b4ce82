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
    Attempt { number, worker: key(), since: at(1) }
}

fn refusal() -> Refusal {
    Refusal { worker: WorkerKey::for_tests(2), message: "No entrypoint specified".into() }
}

fn states() -> Vec<(&'static str, JobState)> {
    vec![
        ("queued", JobState::Queued { attempts: 0, refusal: None }),
        ("refused once", JobState::Queued { attempts: 1, refusal: Some(refusal()) }),
        ("assigned", JobState::Assigned { attempt: attempt(1), refusal: None }),
        ("assigned again", JobState::Assigned { attempt: attempt(2), refusal: Some(refusal()) }),
        ("unknown", JobState::Unknown { attempt: attempt(1), since: at(2), reason: "timed out".into() }),
        ("running", JobState::Running { attempt: attempt(1), remote: "job_1".into() }),
        (
            "collecting",
            JobState::Collecting { attempt: attempt(1), remote: "job_1".into(), verdict: Verdict::Completed },
        ),
        (
            "finished",
            JobState::Finished { outcome: Outcome::Completed, at: at(3), attempt: attempt(1), remote: None },
        ),
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
        ("collected", JobEvent::Collected),
    ]
}

/// The edges of the graph; every pair that is not here must be refused.
const EDGES: &[(&str, &str, PoolStatus, u32)] = &[
    ("queued", "assigned", PoolStatus::Dispatched, 1),
    ("refused once", "assigned", PoolStatus::Dispatched, 2),
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
    ("unknown", "accepted", PoolStatus::Running, 1),
    ("unknown", "absent", PoolStatus::Queued, 1),
    ("unknown", "given up", PoolStatus::Failed, 1),
    ("running", "ended", PoolStatus::Running, 1),
    ("running", "lost", PoolStatus::Failed, 1),
    ("collecting", "collected", PoolStatus::Completed, 1),
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
                    )
                }
                (edge, got) => panic!("{state_name} × {event_name}: expected {edge:?}, got {got:?}"),
            }
        }
    }
}

#[test]
fn a_second_refusal_carries_the_workers_own_words() {
    let assigned = JobState::Assigned { attempt: attempt(2), refusal: Some(refusal()) };
    let event = JobEvent::Refused { message: "No files uploaded".into(), elsewhere: Elsewhere::Possible };
    let failure = Failure { code: FailureCode::Rejected, message: "No files uploaded".into() };
    let outcome = Outcome::Failed(failure);
    assert_eq!(
        apply(assigned, event, at(9)),
        Ok(JobState::Finished { outcome, at: at(9), attempt: attempt(2), remote: None })
    );
}

#[test]
fn a_state_reads_back_as_it_was_written() {
    for (name, state) in states() {
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<JobState>(&text).unwrap(), state, "{name}");
    }
}
