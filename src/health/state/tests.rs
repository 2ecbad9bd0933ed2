//! The judge: by table, and as properties of any sequence of events.

use proptest::prelude::*;

use super::*;

const CHECK: CheckRules = CheckRules { rise: 2, fall: 3 };
const EJECT: EjectRules = EjectRules {
    after: 5,
    time_ms: 30_000,
    time_max_ms: 300_000,
    part_max: 10,
};

fn id(index: usize) -> BackendId {
    BackendId::new(index).unwrap()
}

fn fleet(count: usize) -> FleetHealth {
    FleetHealth::new(count, CHECK, EJECT)
}

fn passed(index: usize) -> Event {
    Event {
        backend: id(index),
        news: News::CheckPassed,
    }
}

fn failed(index: usize) -> Event {
    Event {
        backend: id(index),
        news: News::CheckFailed(CheckFailure::Timeout),
    }
}

fn fault(index: usize) -> Event {
    Event {
        backend: id(index),
        news: News::Fault(Fault::Status(500)),
    }
}

fn refused(index: usize) -> Event {
    Event {
        backend: id(index),
        news: News::Fault(Fault::Connect),
    }
}

fn recovered(index: usize) -> Event {
    Event {
        backend: id(index),
        news: News::Recovered,
    }
}

/// Ejects a backend and returns for how long.
fn eject(fleet: &mut FleetHealth, index: usize, now_ms: u64) -> u64 {
    for _ in 1..EJECT.after {
        assert_eq!(fleet.take(fault(index), now_ms), []);
    }
    match fleet.take(fault(index), now_ms)[..] {
        [
            Change {
                reason: Reason::Faults(5, Fault::Status(500), time_ms),
                ..
            },
        ] => time_ms,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn until_its_first_success_one_failure_takes_a_backend_down() {
    let mut fleet = fleet(2);
    assert_eq!(fleet.health(id(0)), Health::Up);
    let change = fleet.take(failed(0), 0).remove(0);
    assert_eq!(change.health, Health::Down);
    let text = change.reason.to_string();
    assert_eq!(text, "checks failed: 1, the last one: no answer in time");
    assert_eq!(fleet.health(id(1)), Health::Up);
}

#[test]
fn checks_decide_by_rise_and_fall() {
    // Results of checks, and what the backend is after each.
    let table = [
        ("++", "UU"),
        ("+--+--", "UUUUUU"),
        ("+---", "UUUD"),
        ("-+", "DD"),
        ("-++", "DDU"),
        ("-+-++", "DDDDU"),
        ("-++---", "DDUUUD"),
    ];
    for (results, states) in table {
        let mut fleet = fleet(1);
        for (result, state) in results.chars().zip(states.chars()) {
            let event = if result == '+' { passed(0) } else { failed(0) };
            let before = fleet.health(id(0));
            let changes = fleet.take(event, 0);
            let expected = if state == 'U' {
                Health::Up
            } else {
                Health::Down
            };
            assert_eq!(fleet.health(id(0)), expected, "{results}");
            assert_eq!(changes.len(), usize::from(before != expected), "{results}");
        }
    }
}

#[test]
fn checks_come_faster_while_a_state_is_changing() {
    let mut fleet = fleet(1);
    assert!(fleet.is_changing(id(0)), "nothing is known yet");
    fleet.take(passed(0), 0);
    assert!(!fleet.is_changing(id(0)));
    fleet.take(failed(0), 0);
    assert!(fleet.is_changing(id(0)));
    fleet.take(failed(0), 0);
    fleet.take(failed(0), 0);
    assert_eq!(fleet.health(id(0)), Health::Down);
    down_for_good(&mut fleet);
    fleet.take(passed(0), 0);
    assert!(fleet.is_changing(id(0)));
    fleet.take(failed(0), 0);
    assert!(!fleet.is_changing(id(0)), "one success proves nothing");
}

#[test]
fn a_backend_that_is_down_at_the_start_is_checked_faster_for_a_while() {
    let mut fleet = fleet(1);
    fleet.take(failed(0), 0);
    assert_eq!(fleet.health(id(0)), Health::Down);
    down_for_good(&mut fleet);
    fleet.take(passed(0), 0);
    fleet.take(passed(0), 0);
    assert!(!fleet.is_changing(id(0)) && !fleet.has_just_gone_down(id(0)));
}

/// Fails checks of a backend that has just gone down until they come no faster any more.
fn down_for_good(fleet: &mut FleetHealth) {
    for check in 0..limits::HEALTH_FASTER_CHECKS {
        assert!(fleet.has_just_gone_down(id(0)), "after {check} more");
        fleet.take(failed(0), 0);
    }
    for _ in 0..1_000 {
        assert!(!fleet.is_changing(id(0)) && !fleet.has_just_gone_down(id(0)));
        fleet.take(failed(0), 0);
    }
}

#[test]
fn faults_in_a_row_eject_and_time_readmits() {
    let mut fleet = fleet(3);
    assert_eq!(fleet.due_ms(), None);
    assert_eq!(eject(&mut fleet, 0, 1_000), 30_000);
    assert_eq!(fleet.health(id(0)), Health::Ejected);
    assert_eq!(fleet.due_ms(), Some(31_000));
    assert_eq!(fleet.advance(30_999), []);
    let readmitted = Change {
        backend: id(0),
        health: Health::Up,
        reason: Reason::TimeServed,
    };
    assert_eq!(fleet.advance(31_000), [readmitted]);
    assert_eq!(fleet.due_ms(), None);
}

#[test]
fn an_ejection_is_as_long_as_it_says() {
    let said = |time_ms| Reason::Faults(5, Fault::Timeout, time_ms).to_string();
    let text = "5 requests in a row failed, for 30 s: it did not answer in time";
    assert_eq!(said(30_000), text);
    assert_eq!(said(1_500), text.replace("30 s", "1500 ms"));
}

#[test]
fn a_success_in_between_starts_the_row_again() {
    let mut fleet = fleet(3);
    for _ in 0..100 {
        for _ in 1..EJECT.after {
            assert_eq!(fleet.take(fault(0), 0), []);
        }
        assert_eq!(fleet.take(recovered(0), 0), []);
    }
}

#[test]
fn ejections_grow_up_to_the_longest_and_are_forgotten() {
    let mut fleet = fleet(3);
    let mut now_ms = 0;
    for times in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10] {
        assert_eq!(eject(&mut fleet, 0, now_ms), times * 30_000);
        now_ms = fleet.due_ms().unwrap();
        assert_eq!(fleet.advance(now_ms).len(), 1);
    }
    now_ms += EJECT.time_max_ms;
    assert_eq!(eject(&mut fleet, 0, now_ms), 30_000);
}

#[test]
fn never_more_than_a_part_is_ejected_and_never_the_last() {
    let ejectable = |count: usize| {
        let mut fleet = fleet(count);
        for index in 0..count {
            for _ in 0..20 {
                fleet.take(fault(index), 0);
            }
        }
        (0..count)
            .filter(|&index| fleet.health(id(index)) == Health::Ejected)
            .count()
    };
    let counts = [1, 2, 9, 10, 19, 20, 35, 100].map(ejectable);
    assert_eq!(counts, [0, 1, 1, 1, 1, 2, 3, 10]);
}

#[test]
fn the_last_that_is_up_is_not_ejected() {
    let mut fleet = fleet(2);
    fleet.take(failed(1), 0);
    for _ in 0..20 {
        assert_eq!(fleet.take(fault(0), 0), []);
    }
    assert_eq!(fleet.health(id(0)), Health::Up);
}

/// Three that were up, of which the first is ejected for refused connections.
fn fleet_with_one_refusing() -> FleetHealth {
    let mut fleet = fleet(3);
    for index in 0..3 {
        fleet.take(passed(index), 0);
    }
    for _ in 0..EJECT.after {
        fleet.take(refused(0), 0);
    }
    fleet
}

#[test]
fn checks_that_pass_readmit_who_could_not_be_connected_to() {
    let mut fleet = fleet_with_one_refusing();
    assert_eq!(fleet.health(id(0)), Health::Ejected);
    assert!(fleet.is_changing(id(0)), "it may come back soon");
    assert_eq!(fleet.take(passed(0), 1), []);
    assert_eq!(fleet.take(failed(0), 2), []);
    assert_eq!(fleet.take(passed(0), 3), [], "in a row");
    let readmitted = Change {
        backend: id(0),
        health: Health::Up,
        reason: Reason::ChecksPassed(2),
    };
    assert_eq!(fleet.take(passed(0), 4), [readmitted]);
    // No check tells whether its answers are any better.
    eject(&mut fleet, 0, 5);
    for _ in 0..10 {
        assert_eq!(fleet.take(passed(0), 6), []);
    }
}

#[test]
fn who_is_down_and_ejected_is_checked_no_faster_than_who_is_down() {
    let mut fleet = fleet_with_one_refusing();
    for _ in 0..CHECK.fall {
        fleet.take(failed(0), 1);
    }
    assert_eq!(fleet.health(id(0)), Health::Down);
    down_for_good(&mut fleet);
}

#[test]
fn who_is_ejected_is_readmitted_where_the_others_go_down() {
    let mut fleet = fleet(3);
    eject(&mut fleet, 0, 0);
    assert_eq!(fleet.take(failed(1), 1).len(), 1);
    let changes = fleet.take(failed(2), 2);
    let readmitted = Change {
        backend: id(0),
        health: Health::Up,
        reason: Reason::LastResort,
    };
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[1], readmitted);
    assert_eq!(fleet.due_ms(), None);
}

#[test]
fn two_that_are_bad_take_turns_where_nothing_checks_them() {
    let mut fleet = fleet(2);
    eject(&mut fleet, 0, 0);
    for _ in 1..EJECT.after {
        assert_eq!(fleet.take(fault(1), 1), []);
    }
    let changes = fleet.take(fault(1), 1);
    assert_eq!((changes.len(), changes[0].backend), (1, id(0)));
    assert_eq!(changes[0].reason, Reason::LastResort);
    // The next failure ejects the other one, whose turn it was.
    assert_eq!(fleet.take(fault(1), 2)[0].health, Health::Ejected);
    assert_eq!(fleet.health(id(0)), Health::Up);
}

#[test]
fn a_backend_that_comes_back_from_being_down_is_not_ejected_any_more() {
    let mut fleet = fleet(3);
    eject(&mut fleet, 0, 0);
    fleet.take(passed(0), 0);
    assert_eq!(fleet.health(id(0)), Health::Ejected, "it never was down");
    for _ in 0..3 {
        fleet.take(failed(0), 1);
    }
    assert_eq!(fleet.health(id(0)), Health::Down);
    assert_eq!(fleet.take(passed(0), 2), []);
    let change = fleet.take(passed(0), 3).remove(0);
    assert_eq!(change.health, Health::Up);
    assert_eq!(fleet.due_ms(), None);
}

#[test]
fn the_end_of_an_ejection_changes_nothing_while_checks_fail() {
    let mut fleet = fleet(3);
    eject(&mut fleet, 0, 0);
    fleet.take(failed(0), 1);
    assert_eq!(fleet.advance(30_000), []);
    assert_eq!(fleet.health(id(0)), Health::Down);
}

#[test]
fn no_ejection_where_it_is_turned_off() {
    let rules = EjectRules { after: 0, ..EJECT };
    let mut fleet = FleetHealth::new(3, CheckRules::default(), rules);
    for _ in 0..1_000 {
        assert_eq!(fleet.take(fault(0), 0), []);
    }
}

fn news() -> impl Strategy<Value = News> {
    prop_oneof![
        1 => Just(News::CheckPassed),
        1 => Just(News::CheckFailed(CheckFailure::Broken)),
        5 => Just(News::Fault(Fault::Broken)),
        1 => Just(News::Recovered),
    ]
}

proptest! {
    /// Any sequence of events over any time: within the limit, every change told, nobody lost.
    #[test]
    fn ejections_stay_within_the_limit_and_nobody_is_forgotten(
        count in 1_usize..40,
        events in prop::collection::vec((0_usize..40, news(), 0_u64..5_000), 0..400),
    ) {
        let mut fleet = fleet(count);
        let mut told = vec![Health::Up; count];
        let mut now_ms = 0;
        for (index, news, pause_ms) in events {
            now_ms += pause_ms;
            for change in fleet.advance(now_ms) {
                told[change.backend.index()] = change.health;
            }
            let event = Event { backend: id(index % count), news };
            for change in fleet.take(event, now_ms) {
                told[change.backend.index()] = change.health;
            }
            let healths: Vec<Health> = (0..count).map(|index| fleet.health(id(index))).collect();
            prop_assert_eq!(&healths, &told, "every change is told");
            let ejected = healths.iter().filter(|&&health| health == Health::Ejected).count();
            prop_assert!(ejected <= (count / 10).max(1));
            let up = healths.iter().filter(|&&health| health == Health::Up).count();
            prop_assert!(up > 0 || ejected == 0, "only checks leave nobody");
        }
        // Left alone, whoever is ejected comes back, and with passing checks everybody else.
        fleet.advance(now_ms + EJECT.time_max_ms);
        let ejected = (0..count).any(|index| fleet.health(id(index)) == Health::Ejected);
        prop_assert!(!ejected);
        for index in 0..count {
            fleet.take(passed(index), now_ms);
            fleet.take(passed(index), now_ms);
            prop_assert_eq!(fleet.health(id(index)), Health::Up);
        }
    }
}
