//! Entitlement on worked examples, and against a slow oracle that fills nominals by the words of docs/SCHEDULING.md, Preemption.
use super::*;
use crate::scheduler::engine::fixtures::{h100, id, team};
use crate::scheduler::engine::property_tests::Draw;
use crate::state::view::amounts::GPU;
use crate::state::view::teams::{Limit, TeamView};

const ALL: Limit = Limit::Unlimited;

fn holder(ledger: &Ledger, name: &str, class: Class, start: i64, gpus: u64) -> Holder {
    let number = u64::try_from(start).unwrap_or(0);
    Holder {
        team: ledger.team(name),
        class,
        start,
        submit: (number, id(number)),
        units: gpus * GPU,
    }
}

fn org() -> Vec<TeamView> {
    vec![
        team("org", &[("h100", 16, Limit::Units(0))]),
        team("org/a", &[("h100", 8, ALL)]),
        team("org/b", &[("h100", 8, ALL)]),
    ]
}

#[test]
fn an_owner_stands_above_a_borrower_of_any_class() {
    let ledger = Ledger::new(org().iter());
    let all = [
        holder(&ledger, "org/a", Class::Low, 1, 8),
        holder(&ledger, "org/b", Class::Low, 2, 8),
        holder(&ledger, "org/b", Class::Critical, 3, 8),
    ];
    // The critical one fills b's nominal first, so the low one of b borrows; the root covers 16 of 24.
    let covers = Covers::new(&ledger, ledger.column_of(&h100()), &all);
    let of = |at: usize| covers.of(at, all[at].class).cover;
    assert_eq!((of(0), of(1), of(2)), (2, 0, 2));
}

#[test]
fn sizes_that_do_not_divide_leave_the_rest_to_who_fits() {
    let ledger = Ledger::new([team("a", &[("h100", 8, ALL)])].iter());
    let all = [
        holder(&ledger, "a", Class::High, 1, 5),
        holder(&ledger, "a", Class::Normal, 2, 4),
        holder(&ledger, "a", Class::Low, 3, 3),
    ];
    let covers = Covers::new(&ledger, ledger.column_of(&h100()), &all);
    assert_eq!(covers.of(0, Class::High).cover, 1);
    assert_eq!(
        covers.of(1, Class::Normal).cover,
        0,
        "4 do not fit beside 5"
    );
    assert_eq!(covers.of(2, Class::Low).cover, 1, "3 do");
}

#[test]
fn of_a_flavor_that_nobody_names_no_level_covers_anybody() {
    let ledger = Ledger::new(org().iter());
    let all = [holder(&ledger, "org/a", Class::High, 1, 1)];
    let covers = Covers::new(&ledger, None, &all);
    assert_eq!(covers.of(0, Class::High).cover, 0);
    assert_eq!(
        covers
            .of_new(&ledger, ledger.team("org/a"), Class::Low, 1)
            .cover,
        0
    );
}

#[test]
fn more_of_a_higher_entitlement_is_growth_whatever_is_lost_below() {
    let of = |cover, class| Entitlement { cover, class };
    let before = [(of(2, Class::Normal), 8), (of(1, Class::High), 100)];
    assert!(grows(&before, &[(of(2, Class::Normal), 9)]));
    assert!(grows(&before, &[(of(2, Class::High), 1)]));
    assert!(!grows(&before, &before));
    assert!(!grows(
        &before,
        &[(of(2, Class::Normal), 8), (of(1, Class::High), 99)]
    ));
    assert!(!grows(&before, &[(of(1, Class::High), 1_000)]));
}

/// By the words: level by level upwards, one holder after the other.
fn slow(teams: &[TeamView], ledger: &Ledger, all: &[Holder]) -> Vec<u32> {
    let deepest = teams
        .iter()
        .map(|team| team.name.matches('/').count() + 1)
        .max()
        .unwrap_or(1);
    let mut hits: Vec<Vec<bool>> = vec![Vec::new(); all.len()];
    for depth in (1..=deepest).rev() {
        for team in teams
            .iter()
            .filter(|team| team.name.matches('/').count() + 1 == depth)
        {
            let place = ledger.team(&team.name).expect("known");
            let column = ledger.column_of(&h100()).expect("named");
            let mut left = ledger.nominal_at(place, column).expect("governed");
            let mut here: Vec<usize> = (0..all.len())
                .filter(|at| {
                    ledger
                        .path(all[*at].team.expect("known"))
                        .any(|level| level == place)
                })
                .collect();
            let key = |at: &usize| {
                let misses = hits[*at].iter().filter(|hit| !**hit).count();
                let covers = hits[*at].iter().filter(|hit| **hit).count();
                (
                    misses,
                    std::cmp::Reverse(covers),
                    std::cmp::Reverse(all[*at].class),
                    all[*at].start,
                    all[*at].submit,
                )
            };
            here.sort_by_key(key);
            for at in here {
                let fits = all[at].units <= left;
                left -= if fits { all[at].units } else { 0 };
                hits[at].push(fits);
            }
        }
    }
    let missed =
        |hits: &Vec<bool>| u32::try_from(hits.iter().filter(|hit| !**hit).count()).expect("small");
    hits.iter()
        .map(|hits| u32::try_from(deepest).expect("small") - missed(hits))
        .collect()
}

#[test]
fn covers_are_those_of_the_slow_oracle_and_a_new_one_is_as_foretold() {
    let mut draw = Draw(7);
    for _ in 0..300 {
        let names = ["org", "org/a", "org/a/x", "org/a/y", "org/b", "org/b/z"];
        let teams: Vec<TeamView> = names
            .iter()
            .map(|name| team(name, &[("h100", draw.below(13), ALL)]))
            .collect();
        let ledger = Ledger::new(teams.iter());
        let mut all: Vec<Holder> = Vec::new();
        for start in 1..=1 + draw.below(12) {
            let name = names[usize::try_from(draw.below(6)).expect("small")];
            let class = Class::ALL[usize::try_from(draw.below(4)).expect("small")];
            let gpus = 1 + draw.below(6);
            all.push(holder(
                &ledger,
                name,
                class,
                i64::try_from(start).expect("small"),
                gpus,
            ));
        }
        let column = ledger.column_of(&h100());
        let covers = Covers::new(&ledger, column, &all);
        let found: Vec<u32> = (0..all.len())
            .map(|at| covers.of(at, all[at].class).cover)
            .collect();
        assert_eq!(found, slow(&teams, &ledger, &all));
        let new = all.pop().expect("one");
        let before = Covers::new(&ledger, column, &all);
        assert_eq!(
            before.of_new(&ledger, new.team, new.class, new.units).cover,
            found[all.len()]
        );
    }
}
