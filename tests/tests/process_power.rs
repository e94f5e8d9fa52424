//! The power of all three coordinators is cut under load: what was acknowledged is there once, and all three start again.
//! Does NOT cut the power of nodes.
//!
//! Each cut proves itself: beside the coordinators' data two files are written, one synced and one not, and only the first survives.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mlctl_tests::process::disk::{self, Disk, cut_power};
use mlctl_tests::process::faults::Deck;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::trial::{Trial, full, seed};
use mlctl_tests::tidy::skips;

const CUTS: u32 = 3;
const CUTS_FULL: u32 = 50;
/// Of each disk; the image is sparse.
const DISK_MIB: u64 = 1024;
const CONTROL: [u8; 16 * 1024] = [7; 16 * 1024];

/// Leaves a file that was synced and one that was not.
fn leave_controls(disk: &Disk) {
    let write = |path: &Path| {
        let mut file = File::create(path).expect("a file");
        file.write_all(&CONTROL).expect("written");
        file
    };
    for name in ["synced", "lazy"] {
        // Of the cut before; a file that is written over would tell nothing.
        let _ = fs::remove_file(disk.path().join(name));
    }
    let synced = write(&disk.path().join("synced"));
    synced.sync_all().expect("synced");
    let folder = File::open(disk.path()).expect("a folder");
    folder.sync_all().expect("synced");
    write(&disk.path().join("lazy"));
}

/// Panics unless exactly what was synced is there.
fn check_controls(disk: &Disk) {
    let read = |name: &str| fs::read(disk.path().join(name)).unwrap_or_default();
    let place = disk.path().display();
    assert_eq!(read("synced"), CONTROL, "{place}: a synced file is durable");
    assert_ne!(read("lazy"), CONTROL, "{place}: this cut took nothing away");
}

/// Under load: the power goes, on all disks at once or on one a little earlier; then it comes back and everything starts.
fn power_cut(fleet: &mut Fleet, deck: &mut Deck) -> (Duration, Duration) {
    std::thread::sleep(Duration::from_millis(deck.between(200, 800)));
    let all: Vec<&Disk> = fleet.disks().iter().collect();
    all.iter().for_each(|disk| leave_controls(disk));
    let early =
        Duration::from_millis([0, deck.between(1, 150)][usize::from(deck.between(0, 3) == 0)]);
    if early > Duration::ZERO {
        let first = deck.between(0, all.len() as u64) as usize;
        cut_power(&[all[first]]);
        std::thread::sleep(early);
    }
    cut_power(&all);
    let names = fleet.coordinators();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.kill(&names);
    for disk in fleet.disks() {
        disk.boot();
        check_controls(disk);
    }
    let booted = Instant::now();
    names.iter().for_each(|name| fleet.start_one(name));
    fleet.wait_led();
    let led = booted.elapsed();
    std::thread::sleep(Duration::from_millis(150));
    (early, led)
}

#[test]
fn acknowledged_work_survives_power_cuts_of_all() {
    if let Some(why) = disk::obstacle() {
        let name = "process_power::acknowledged_work_survives_power_cuts_of_all";
        return skips::skip(name, &why);
    }
    let seed = seed();
    let plan = Plan {
        disk_mib: Some(DISK_MIB),
        ..Plan::default()
    };
    let (mut trial, mut deck) = (Trial::new(plan, seed), Deck::new(seed, false));
    let cuts = if full() { CUTS_FULL } else { CUTS };
    for number in 1..=cuts {
        let begun = Instant::now();
        let (early, led) = trial.round(|fleet| power_cut(fleet, &mut deck));
        println!(
            "cut {number}: one disk {early:?} earlier, led {led:?} after the boot, round of {:?}",
            begun.elapsed()
        );
    }
    let (submits, acts) = trial.counts();
    println!(
        "{cuts} power cuts of all three, {acts} operations acknowledged, {submits} of them submits: 0 lost, 0 twice, 0 out of order"
    );
}
