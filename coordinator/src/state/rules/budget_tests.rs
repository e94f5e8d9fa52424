//! Budgets on worked examples, and a random history in which no index may see more used than there is.
use super::*;
use crate::state::records::Zone;
use crate::state::view::teams::Flavor;

const GPU_HOUR: u64 = 7_000 * 3_600_000;
const BEGIN: i64 = 1_769_904_000_000; // 2026-02-01, a full hour.

fn book(team: &str, gpu_hours: u64, window: Window, when_exhausted: WhenExhausted) -> Book {
    Book {
        team: team.into(),
        budget: Budget {
            limit: gpu_hours * GPU_HOUR,
            window,
            when_exhausted,
            until_ms: 0,
        },
        account: Account::default(),
    }
}

fn charge(units: u64, from_ms: i64, (until_ms, at): (i64, Vec<String>)) -> Charge {
    Charge {
        flavor: Flavor {
            kind: "h100".into(),
            pool: None,
        },
        units,
        from_ms,
        until_ms,
        at,
    }
}

fn month() -> Window {
    Window::Month(Zone::utc())
}

#[test]
fn a_start_commits_a_slice_at_every_level_and_gives_back_what_it_did_not_use() {
    let mut books = [
        book("acme/vision", 100, month(), WhenExhausted::Stop),
        book("acme", 150, month(), WhenExhausted::Stop),
    ];
    let begun = begin(&mut books, 8 * 7_000, BEGIN, (None, Asks::ToBegin)).expect("there is room");
    assert_eq!(begun.1, ["acme/vision", "acme"]);
    let mut charge = charge(8 * 7_000, BEGIN, begun);
    for book in &books {
        assert_eq!(book.counted(BEGIN), 8 * GPU_HOUR);
        assert_eq!(book.used(BEGIN), 0);
    }
    settle(&mut books, &mut charge, BEGIN + HOUR_MS / 4, None);
    for book in &books {
        assert_eq!(
            (book.counted(BEGIN), book.used(BEGIN)),
            (2 * GPU_HOUR, 2 * GPU_HOUR)
        );
        assert!(book.account.committed.is_empty());
    }
    assert_eq!(books[0].left(BEGIN), 98 * GPU_HOUR);
    let short =
        begin(&mut books, 99 * 7_000, BEGIN, (None, Asks::ToBegin)).expect_err("one too many");
    assert_eq!(
        (&*short.team, short.needs, short.left, short.limit),
        ("acme/vision", 99 * GPU_HOUR, 98 * GPU_HOUR, 100 * GPU_HOUR)
    );
    assert!(books[1].account.committed.is_empty(), "all levels or none");
    let (until, _) = begin(
        &mut books,
        150 * 7_000,
        BEGIN,
        (Some(60_000), Asks::ToBegin),
    )
    .expect("for a minute");
    assert_eq!(until, BEGIN + 60_000, "no more than the job may run");
}

#[test]
fn what_crosses_the_edge_of_a_month_is_split_by_the_second() {
    let edge = 1_772_323_200_000; // 2026-03-01
    let mut books = [book("t", 2, month(), WhenExhausted::Stop)];
    let at = edge - 600_000;
    let begun = begin(&mut books, 7_000, at, (None, Asks::ToBegin)).expect("there is room");
    let mut charge = charge(7_000, at, begun);
    assert_eq!(
        books[0].account.committed,
        BTreeMap::from([(BEGIN, GPU_HOUR / 6), (edge, GPU_HOUR * 5 / 6)])
    );
    settle(&mut books, &mut charge, edge + 1_000, None);
    assert_eq!(
        books[0].account.used,
        BTreeMap::from([(BEGIN, GPU_HOUR / 6), (edge, 7_000_000)])
    );
    assert_eq!(
        (books[0].used(edge), books[0].used(at)),
        (7_000_000, GPU_HOUR / 6)
    );
    // The new month begins anew, and the old one may be full.
    books[0].account.used.insert(BEGIN, 2 * GPU_HOUR);
    assert!(books[0].covers(7_000, at, edge, Asks::ToBegin).is_err());
    assert!(
        books[0]
            .covers(7_000, edge, edge + HOUR_MS, Asks::ToBegin)
            .is_ok()
    );
}

#[test]
fn a_rolling_window_forgets_hour_by_hour() {
    let mut books = [book("t", 10, Window::Rolling(1), WhenExhausted::Stop)];
    for hour in 0..10 {
        let at = BEGIN + hour * HOUR_MS;
        let begun = begin(&mut books, 7_000, at, (None, Asks::ToBegin)).expect("there is room");
        let mut charge = charge(7_000, at, begun);
        settle(&mut books, &mut charge, at + HOUR_MS, None);
    }
    let full = |at: i64| {
        books[0]
            .covers(7_000, at, at + HOUR_MS, Asks::ToBegin)
            .is_err()
    };
    assert!(full(BEGIN + 10 * HOUR_MS) && full(BEGIN + 23 * HOUR_MS));
    assert!(!full(BEGIN + 24 * HOUR_MS), "the first hour counts no more");
    // An hour that begins before it does not count, and ends after, is too early by its first part.
    assert!(full(BEGIN + 24 * HOUR_MS - 1));
}

#[test]
fn the_reserve_of_hold_is_for_what_had_been_started() {
    let hold = book("t", 100, month(), WhenExhausted::Hold);
    let ask = |gpus: u64, asks| {
        hold.covers(gpus * 7_000, BEGIN, BEGIN + HOUR_MS, asks)
            .is_ok()
    };
    assert!(ask(95, Asks::ToBegin) && !ask(96, Asks::ToBegin));
    assert!(ask(100, Asks::ToGoOn) && !ask(101, Asks::ToGoOn));
}

#[test]
fn low_priority_goes_on_uncharged_and_is_counted_apart() {
    let mut books = [
        book("t/a", 1, month(), WhenExhausted::LowPriority),
        book("t", 100, month(), WhenExhausted::Stop),
    ];
    let begun = begin(&mut books, 14_000, BEGIN, (None, Asks::ToBegin)).expect("it may");
    assert_eq!(begun.1, ["t"]);
    let mut charge = charge(14_000, BEGIN, begun);
    settle(&mut books, &mut charge, BEGIN + HOUR_MS, None);
    assert_eq!(
        (books[0].account.beyond, books[0].used(BEGIN)),
        (2 * GPU_HOUR, 0)
    );
    assert_eq!(
        (books[1].account.beyond, books[1].used(BEGIN)),
        (0, 2 * GPU_HOUR)
    );
}

#[test]
fn a_renewal_takes_what_is_left_and_then_fails() {
    let mut books = [book("t", 2, month(), WhenExhausted::Stop)];
    let begun = begin(&mut books, 7_000, BEGIN, (None, Asks::ToBegin)).expect("there is room");
    let mut charge = charge(7_000, BEGIN, begun);
    let mut at = BEGIN;
    let mut renewals = 0;
    let short = loop {
        at = renew_at(&charge).max(at + 1_000);
        match renew(&mut books, &mut charge, at) {
            Ok(()) => renewals += 1,
            Err(short) => break short,
        }
        assert!(books[0].counted(at) <= 2 * GPU_HOUR);
    };
    assert!(renewals >= 2, "{renewals}");
    assert!(short.left < short.needs && short.limit == 2 * GPU_HOUR);
    assert_eq!(
        (charge.from_ms, charge.until_ms, charge.at.len()),
        (at, at, 0)
    );
    assert!(books[0].account.committed.is_empty());
    assert!(
        books[0].used(at) + 7_000 * 600_000 > 2 * GPU_HOUR,
        "little is left over"
    );
}

#[test]
fn what_the_infrastructure_wasted_and_what_nobody_could_renew_is_not_used() {
    let mut books = [book("t", 2, month(), WhenExhausted::Stop)];
    let begun = begin(&mut books, 7_000, BEGIN, (None, Asks::ToBegin)).expect("there is room");
    let mut lost = charge(7_000, BEGIN, begun);
    settle(&mut books, &mut lost, BEGIN + HOUR_MS, Some(BEGIN));
    assert_eq!(books[0].account, Account::default());
    let begun = begin(&mut books, 7_000, BEGIN, (None, Asks::ToBegin)).expect("there is room");
    let mut late = charge(7_000, BEGIN, begun);
    settle(&mut books, &mut late, BEGIN + 3 * HOUR_MS, None);
    assert_eq!(
        (books[0].used(BEGIN), books[0].account.beyond),
        (GPU_HOUR, 2 * GPU_HOUR)
    );
}

#[test]
fn what_was_charged_since_the_last_checkpoint_is_given_back_when_the_node_is_lost() {
    let mut books = [book("t", 10, month(), WhenExhausted::Stop)];
    let begun = begin(&mut books, 7_000, BEGIN, (None, Asks::ToBegin)).expect("there is room");
    let mut lost = charge(7_000, BEGIN, begun);
    renew(&mut books, &mut lost, BEGIN + HOUR_MS / 2).expect("there is room");
    assert_eq!(books[0].used(BEGIN), GPU_HOUR / 2);
    settle(
        &mut books,
        &mut lost,
        BEGIN + HOUR_MS,
        Some(BEGIN + HOUR_MS / 4),
    );
    assert_eq!(
        (books[0].used(BEGIN), books[0].account.beyond),
        (GPU_HOUR / 4, 0)
    );
}

#[test]
fn a_gang_whose_nodes_end_one_by_one_pays_for_each_as_long_as_it_held_it() {
    let mut books = [book("t", 10, month(), WhenExhausted::Stop)];
    let begun = begin(&mut books, 14_000, BEGIN, (None, Asks::ToBegin)).expect("there is room");
    let mut gang = charge(14_000, BEGIN, begun);
    shrink(&mut books, &mut gang, 7_000, (BEGIN + HOUR_MS / 4, None));
    assert_eq!(
        (gang.units, gang.from_ms, gang.until_ms),
        (7_000, BEGIN, BEGIN + HOUR_MS)
    );
    assert_eq!(books[0].used(BEGIN), GPU_HOUR / 4);
    shrink(&mut books, &mut gang, 7_000, (BEGIN + HOUR_MS / 2, None));
    assert_eq!((gang.units, gang.at.len()), (0, 0));
    assert_eq!(
        (books[0].used(BEGIN), books[0].counted(BEGIN)),
        (GPU_HOUR * 3 / 4, GPU_HOUR * 3 / 4)
    );
}

#[test]
fn a_clock_that_is_wrong_by_ages_costs_no_time() {
    for window in [month(), Window::Rolling(366)] {
        let mut books = [book("t", 10, window, WhenExhausted::Stop)];
        for now in [i64::MIN, -1 << 60, BEGIN, 1 << 60, i64::MAX] {
            let begun = begin(&mut books, 7_000, now, (None, Asks::ToBegin));
            let Ok(begun) = begun else {
                continue;
            };
            let mut charge = charge(7_000, now, begun);
            settle(&mut books, &mut charge, i64::MAX, None);
            settle(&mut books, &mut charge, i64::MAX, Some(i64::MIN));
        }
        assert!(books[0].account.committed.is_empty());
    }
}

#[test]
fn a_budget_that_has_ended_covers_nothing() {
    let mut ended = book("t", 2, month(), WhenExhausted::Stop);
    ended.budget.until_ms = BEGIN + HOUR_MS;
    assert!(
        ended
            .covers(7_000, BEGIN, BEGIN + HOUR_MS, Asks::ToBegin)
            .is_ok()
    );
    let short = ended
        .covers(7_000, BEGIN, BEGIN + HOUR_MS + 1, Asks::ToBegin)
        .expect_err("too long");
    assert!(short.left < short.needs);
    assert_eq!(
        (ended.left(BEGIN), ended.left(BEGIN + HOUR_MS)),
        (2 * GPU_HOUR, 0)
    );
}

#[test]
fn another_window_keeps_what_was_used() {
    let mut old = Account::default();
    old.used.insert(BEGIN, 5);
    let open = || [(7_000, BEGIN, BEGIN + HOUR_MS)].into_iter();
    let now = BEGIN + 30 * HOUR_MS;
    let new = carried_over(&old, (&month(), &Window::Rolling(3)), now, open());
    assert_eq!(
        new.used,
        BTreeMap::from([(now, 5)]),
        "as long as it could count"
    );
    assert_eq!(new.committed, BTreeMap::from([(BEGIN, GPU_HOUR)]));
    let back = carried_over(&new, (&Window::Rolling(3), &month()), now, open());
    assert_eq!(back.used, BTreeMap::from([(BEGIN, 5)]));
    assert_eq!(back.committed, committed(&month(), open()));
}

/// No window counts more than its limit, and what is committed is what those that run say.
fn check(books: &[Book], open: &[Charge], seed: u64) {
    for book in books {
        let (account, window) = (&book.account, &book.budget.window);
        for begin in account.used.keys().chain(account.committed.keys()) {
            let counted = account.counted(window, *begin);
            assert!(counted <= book.budget.limit, "seed {seed}");
        }
        let named = open.iter();
        let named = named.filter(|one| one.at.iter().any(|team| **team == *book.team));
        let stretches = named.map(|one| (one.units, one.from_ms, one.until_ms));
        assert_eq!(
            account.committed,
            committed(window, stretches),
            "seed {seed}"
        );
    }
}

/// Many attempts of random widths and lengths, begun, renewed and ended at random: at no time more is used or committed than there is, and what
/// is committed is what those that run say.
#[test]
fn no_history_uses_more_than_there_is() {
    for seed in 0..40_u64 {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = move |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % sides
        };
        let window = [month(), Window::Rolling(1), Window::Rolling(2)][(seed % 3) as usize].clone();
        let mut books = [
            book("t/a", 300, window, WhenExhausted::Stop),
            book("t", 500, month(), WhenExhausted::Hold),
        ];
        let mut open: Vec<Charge> = Vec::new();
        let mut now = BEGIN + 25 * 24 * HOUR_MS;
        for _ in 0..600 {
            now += (roll(1_200_000) + 1) as i64;
            match roll(3) {
                0 if !open.is_empty() => {
                    let mut charge = open.swap_remove(roll(open.len() as u64) as usize);
                    let wasted = (roll(4) == 0).then(|| now - (roll(7_200_000) as i64));
                    if roll(2) == 0 {
                        let units = roll(charge.units) + 1;
                        shrink(&mut books, &mut charge, units, (now, wasted));
                        if charge.units > 0 {
                            open.push(charge);
                        }
                    } else {
                        settle(&mut books, &mut charge, now, wasted);
                    }
                }
                1 => {
                    let units = (roll(16) + 1) * 3_500;
                    let limit = [None, Some(roll(5_000_000) + 1)][roll(2) as usize];
                    let asks = [Asks::ToBegin, Asks::ToGoOn][roll(2) as usize];
                    if let Ok(begun) = begin(&mut books, units, now, (limit, asks)) {
                        open.push(charge(units, now, begun));
                    }
                }
                _ => {
                    let mut kept = Vec::new();
                    for mut charge in open.drain(..) {
                        let due = renew_at(&charge) <= now;
                        if !due || renew(&mut books, &mut charge, now).is_ok() {
                            kept.push(charge);
                        }
                    }
                    open = kept;
                }
            }
            check(&books, &open, seed);
        }
    }
}
