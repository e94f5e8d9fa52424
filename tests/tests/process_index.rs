//! The index of all three coordinators is deleted while jobs are submitted, then all are killed: nothing acknowledged is lost.
//! Does NOT damage the log, snapshots or segments.

use std::fs;
use std::time::Duration;

use mlctl_tests::budget::full;
use mlctl_tests::process::faults::Deck;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::trial::{Trial, seed};

/// Few stay, so that most jobs of a round are in history by its end.
const KEPT: u32 = 40;

/// Deletes every index twice under load, kills all three with no word, and starts them again.
fn delete_and_kill(fleet: &mut Fleet, deck: &mut Deck) -> usize {
    let names = fleet.coordinators();
    let mut deleted = 0;
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(deck.between(200, 1_200)));
        for name in &names {
            let index = fleet.home(name).join("disk/data/index");
            // Its owner may be writing there, or building it anew.
            if fs::remove_dir_all(&index).is_ok() {
                deleted += 1;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(deck.between(1, 300)));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.kill(&names);
    names.iter().for_each(|name| fleet.start_one(name));
    fleet.wait_led();
    deleted
}

#[test]
fn a_deleted_index_on_all_under_load_loses_nothing() {
    let seed = seed();
    let plan = Plan {
        keep_finished: KEPT,
        ..Plan::default()
    };
    let (mut trial, mut deck) = (Trial::new(plan, seed), Deck::new(seed, false));
    let rounds = if full() { 20 } else { 2 };
    let mut deleted = 0;
    for _ in 0..rounds {
        deleted += trial.round(|fleet| delete_and_kill(fleet, &mut deck));
    }
    assert!(deleted > 0, "no index was there to be deleted");
    let (submits, acts) = trial.counts();
    let segments = trial.fleet.coordinators().into_iter().map(|name| {
        let dir = trial.fleet.home(&name).join("disk/data/segments");
        fs::read_dir(dir).map_or(0, Iterator::count)
    });
    println!(
        "{deleted} indexes deleted in {rounds} rounds, {acts} operations acknowledged, {submits} of them submits, segments {:?}: 0 lost, 0 twice",
        segments.collect::<Vec<_>>()
    );
}
