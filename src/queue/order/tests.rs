//! The order, by properties.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn id(n: i64) -> JobId {
    let mut bits = [0; 12];
    bits[..8].copy_from_slice(&n.to_be_bytes());
    JobId::from_random(bits)
}

fn class(n: u8) -> Class {
    Class { requires: BTreeMap::from([("gpu".into(), n.to_string())]), refused_by: None }
}

fn client(n: u8) -> Client {
    n.checked_sub(1).map(|n| format!("client-{n}").parse().unwrap())
}

/// A job of the middle priority.
fn place(of: u8, class_number: u8, sequence: i64) -> Place {
    Place { priority: Priority::Normal, client: client(of), class: class(class_number), sequence }
}

fn drain(waiting: &mut Waiting) -> Vec<JobId> {
    std::iter::from_fn(|| waiting.take_first(|_| Some(())).map(|taken| taken.job)).collect()
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Submit {
        priority: u8,
        of: u8,
        class: u8,
    },
    /// Take a job of this class, if there is one.
    Take {
        class: u8,
    },
    /// A job that was taken goes back.
    Return {
        which: prop::sample::Index,
    },
    Cancel {
        which: prop::sample::Index,
    },
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..3_u8, 0..4_u8, 0..3_u8).prop_map(|(priority, of, class)| Deed::Submit { priority, of, class }),
        2 => (0..3_u8).prop_map(|class| Deed::Take { class }),
        1 => any::<prop::sample::Index>().prop_map(|which| Deed::Return { which }),
        1 => any::<prop::sample::Index>().prop_map(|which| Deed::Cancel { which }),
    ]
}

/// What a queue has come to by some deeds, with what waits in it.
fn after(deeds: &[Deed]) -> (Waiting, BTreeMap<i64, Place>) {
    let (mut waiting, mut waits) = (Waiting::default(), BTreeMap::<i64, Place>::new());
    let mut taken: Vec<(Place, Turn)> = Vec::new();
    for (deed, sequence) in deeds.iter().zip(1..) {
        match deed {
            Deed::Submit { priority, of, class } => {
                let priority = [Priority::High, Priority::Normal, Priority::Low][usize::from(*priority)];
                let place = Place { priority, ..place(*of, *class, sequence) };
                waits.insert(sequence, place.clone());
                waiting.insert(place, id(sequence), None);
            }
            Deed::Take { class: wanted } => {
                let found = waiting.take_first(|of| (*of == class(*wanted)).then_some(()));
                assert_eq!(found.is_some(), waits.values().any(|place| place.class == class(*wanted)));
                if let Some(Taken { job, turn, .. }) = found {
                    let sequence = *waits.keys().find(|sequence| id(**sequence) == job).expect("it waited");
                    taken.push((waits.remove(&sequence).expect("it waited"), turn));
                }
            }
            Deed::Return { which } if !taken.is_empty() => {
                let (place, turn) = taken.swap_remove(which.index(taken.len()));
                waits.insert(place.sequence, place.clone());
                let job = id(place.sequence);
                waiting.insert(place, job, Some(turn));
            }
            Deed::Cancel { which } if !waits.is_empty() => {
                let sequence = *waits.keys().nth(which.index(waits.len())).expect("within");
                let place = waits.remove(&sequence).expect("it waited");
                assert_eq!(waiting.remove(&place), Some(id(sequence)));
                assert_eq!(waiting.remove(&place), None);
            }
            Deed::Return { .. } | Deed::Cancel { .. } => {}
        }
        assert_eq!((waiting.len(), waiting.is_empty()), (waits.len(), waits.is_empty()));
    }
    (waiting, waits)
}

proptest! {
    #[test]
    fn position_says_when_a_job_is_taken_whatever_came_before(deeds in vec(any_deed(), 0..80)) {
        let (mut waiting, waits) = after(&deeds);
        let mut expected: Vec<(usize, JobId)> =
            waits.values().map(|place| (waiting.ahead_of(place), id(place.sequence))).collect();
        expected.sort();
        for (n, (ahead, _)) in expected.iter().enumerate() {
            prop_assert_eq!(*ahead, n);
        }
        let order: Vec<JobId> = expected.into_iter().map(|(_, job)| job).collect();
        prop_assert_eq!(drain(&mut waiting), order);
        prop_assert!(waiting.is_empty());
    }

    #[test]
    fn priority_comes_first_and_each_clients_jobs_are_in_order(deeds in vec(any_deed(), 0..80)) {
        let (mut waiting, waits) = after(&deeds);
        let order: Vec<&Place> = drain(&mut waiting)
            .iter()
            .map(|job| waits.values().find(|place| id(place.sequence) == *job).expect("it waited"))
            .collect();
        prop_assert!(order.is_sorted_by_key(|place| place.priority));
        for of in 0..4 {
            let own = order.iter().filter(|place| place.client == client(of));
            let own: Vec<_> = own.map(|place| (place.priority, place.sequence)).collect();
            prop_assert!(own.is_sorted());
        }
    }

    #[test]
    fn no_client_gets_two_jobs_more_than_another_that_waits(counts in vec(1..30_usize, 1..5)) {
        let mut waiting = Waiting::default();
        let mut sequence = 0;
        for (of, count) in (0..).zip(&counts) {
            for _ in 0..*count {
                sequence += 1;
                waiting.insert(place(of, 0, sequence), id(sequence), None);
            }
        }
        let clients: Vec<u8> = (0..).zip(&counts).map(|(of, _)| of).collect();
        let left = |waiting: &Waiting, of: u8| waiting.len_of(&client(of));
        let got = |waiting: &Waiting, of: u8| counts[usize::from(of)] - left(waiting, of);
        while waiting.take_first(|_| Some(())).is_some() {
            let waits: Vec<u8> = clients.iter().copied().filter(|of| left(&waiting, *of) > 0).collect();
            for one in &waits {
                for other in &clients {
                    prop_assert!(got(&waiting, *other) <= got(&waiting, *one) + 1);
                }
            }
        }
    }

    #[test]
    fn with_one_client_jobs_leave_by_priority_and_then_as_they_came(jobs in vec((0_u8..3, 0_u8..3), 0..50)) {
        let deeds: Vec<Deed> =
            jobs.iter().map(|(priority, class)| Deed::Submit { priority: *priority, of: 1, class: *class }).collect();
        let (mut waiting, waits) = after(&deeds);
        let mut ranked: Vec<_> = waits.values().map(|place| (place.priority, place.sequence)).collect();
        ranked.sort();
        let order: Vec<_> = ranked.into_iter().map(|(_, sequence)| id(sequence)).collect();
        prop_assert_eq!(drain(&mut waiting), order);
    }
}

#[test]
fn a_single_job_is_second_at_most_behind_ten_thousand_of_another_client() {
    let mut waiting = Waiting::default();
    for sequence in 0..10_000 {
        waiting.insert(place(1, 0, sequence), id(sequence), None);
    }
    waiting.insert(place(2, 0, 10_000), id(10_000), None);
    assert_eq!(waiting.ahead_of(&place(2, 0, 10_000)), 1);
    let first_two: Vec<_> = std::iter::from_fn(|| waiting.take_first(|_| Some(()))).take(2).collect();
    assert_eq!(first_two[1].job, id(10_000));
}

#[test]
fn who_comes_and_goes_does_not_go_before_who_waits() {
    let mut waiting = Waiting::default();
    for sequence in 0..10 {
        waiting.insert(place(1, 0, sequence), id(sequence), None);
    }
    let mut taken = Vec::new();
    for sequence in (100..).take(6) {
        // The other client submits one job after the other, whenever it has none.
        if waiting.len_of(&client(2)) == 0 {
            waiting.insert(place(2, 0, sequence), id(sequence), None);
        }
        taken.push(waiting.take_first(|_| Some(())).unwrap().job);
    }
    assert_eq!(taken, [id(0), id(100), id(1), id(102), id(2), id(104)]);
}

#[test]
fn a_job_that_goes_back_has_its_place_and_its_clients_turn() {
    let mut waiting = Waiting::default();
    for (sequence, of) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
        waiting.insert(place(of, 0, sequence), id(sequence), None);
    }
    let taken = waiting.take_first(|_| Some(())).unwrap();
    assert_eq!(taken.job, id(1));
    waiting.insert(place(1, 0, 1), id(1), Some(taken.turn));
    assert_eq!(drain(&mut waiting), [id(1), id(3), id(2), id(4)]);
}

#[test]
fn a_job_that_cannot_be_taken_holds_up_none_behind_it_and_keeps_its_place() {
    let mut waiting = Waiting::default();
    for n in 1..=3 {
        waiting.insert(place(0, u8::from(n == 1), n), id(n), None);
    }
    let taken = waiting.take_first(|of| (*of == class(0)).then_some(())).unwrap();
    assert_eq!(taken.job, id(2));
    assert_eq!(waiting.take_first(|_| None::<()>), None);
    assert_eq!(waiting.ahead_of(&place(0, 0, 3)), 1);
    assert_eq!(waiting.remove(&place(0, 0, 2)), None);
    assert_eq!(drain(&mut waiting), [id(1), id(3)]);
}
