//! Rounds of faults under load, on real processes and cut networks: what was acknowledged is there once, in order, and whole again soon.
//! Does NOT cut power: see process_power.
//!
//! `MLCTL_TEST_SEED` repeats the faults of a run; what the machine does at the same time differs.

use std::time::{Duration, Instant};

use mlctl_tests::budget::full;
use mlctl_tests::process::faults::{self, Deck, Fault};
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::netns;
use mlctl_tests::process::trial::{Trial, seed};
use mlctl_tests::tidy::skips;

/// Rounds of one fleet, and fleets: 200 rounds when everything is asked for.
const ROUNDS: u32 = 20;
const FLEETS_FULL: u64 = 10;

/// What struck, for how long, and how long after it was over a coordinator said that it leads.
type Struck = (Fault, Duration, Duration);

/// Under load: trouble, a while, the end of it, a while.
fn struck(fleet: &mut Fleet, deck: &mut Deck) -> Struck {
    let fault = deck.draw();
    let hold = Duration::from_millis(deck.between(200, 1_200));
    std::thread::sleep(Duration::from_millis(250));
    faults::strike(fleet, deck, fault);
    std::thread::sleep(hold);
    faults::heal(fleet);
    let healed = Instant::now();
    fleet.wait_led();
    let led = healed.elapsed();
    std::thread::sleep(Duration::from_millis(150));
    (fault, hold, led)
}

#[test]
fn acknowledged_work_survives_rounds_of_faults() {
    let obstacle = netns::obstacle();
    if let Some(why) = &obstacle {
        skips::skip(
            "process_rounds::acknowledged_work_survives_rounds_of_faults",
            &format!("no cuts of the network, only kills and pauses: {why}"),
        );
    }
    let (seed, hosts) = (seed(), obstacle.is_none());
    let (mut submits, mut acts, mut rounds) = (0, 0, 0);
    let mut slowest = (Duration::ZERO, None);
    for number in 0..if full() { FLEETS_FULL } else { 1 } {
        let seed = seed.wrapping_add(number);
        let plan = Plan {
            hosts,
            ..Plan::default()
        };
        let (mut trial, mut deck) = (Trial::new(plan, seed), Deck::new(seed, hosts));
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let (fault, hold, led) = trial.round(|fleet| struck(fleet, &mut deck));
            rounds += 1;
            println!(
                "{rounds}: {fault:?} for {hold:?}, led {led:?} after it was over, round of {:?}",
                begun.elapsed()
            );
            slowest = slowest.max((led, Some(fault)));
        }
        let counts = trial.counts();
        (submits, acts) = (submits + counts.0, acts + counts.1);
        trial.agree();
    }
    println!(
        "{rounds} rounds, {acts} operations acknowledged, {submits} of them submits: 0 lost, 0 twice, 0 out of order, 0 started twice; slowest to be led: {slowest:?}"
    );
}
