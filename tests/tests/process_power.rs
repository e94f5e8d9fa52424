//! The power of all three coordinators is cut under load: what was acknowledged is there once, and all three start again.
//! Does NOT cut the power of nodes.
//!
//! Each cut proves itself: beside the coordinators' data two files are written, one synced and one not, and only the first survives.
//! That the loss of an acknowledged job would show is a test of its own, with coordinators whose syncs do nothing.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mlctl_tests::budget::full;
use mlctl_tests::process::client::Client;
use mlctl_tests::process::disk::{self, Disk, cut_power};
use mlctl_tests::process::faults::Deck;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::load::held;
use mlctl_tests::process::trial::{Trial, seed};
use mlctl_tests::process::until;
use mlctl_tests::tidy::skips;

const CUTS: u32 = 3;
const CUTS_FULL: u32 = 50;
/// Of each disk; the image is sparse.
const DISK_MIB: u64 = 1024;
const CONTROL: [u8; 16 * 1024] = [7; 16 * 1024];

/// Leaves a file that is synced.
fn leave_control(disk: &Disk) {
    let mut file = File::create(disk.path().join("synced")).expect("a file");
    file.write_all(&CONTROL).expect("written");
    file.sync_all().expect("synced");
    let folder = File::open(disk.path()).expect("a folder");
    folder.sync_all().expect("synced");
}

/// Boots a disk whose power was cut, which fails if the cut took nothing away, and panics unless what was synced is there.
fn boot(disk: &Disk) {
    disk.boot();
    let synced = disk.path().join("synced");
    assert_eq!(
        fs::read(&synced).unwrap_or_default(),
        CONTROL,
        "{}: what is synced is durable",
        synced.display()
    );
    fs::remove_file(synced).expect("removed");
}

/// Under load: the power goes, on all disks at once or on one a little earlier; then it comes back and everything starts.
fn power_cut(fleet: &mut Fleet, deck: &mut Deck) -> (Duration, Duration) {
    std::thread::sleep(Duration::from_millis(deck.between(200, 800)));
    let mut all: Vec<&Disk> = fleet.disks().iter().collect();
    all.iter().for_each(|disk| leave_control(disk));
    let early =
        Duration::from_millis([0, deck.between(1, 150)][usize::from(deck.between(0, 3) == 0)]);
    if early > Duration::ZERO {
        let first = deck.between(0, all.len() as u64) as usize;
        cut_power(&[all.remove(first)]);
        std::thread::sleep(early);
    }
    cut_power(&all);
    let names = fleet.coordinators();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.kill(&names);
    for disk in fleet.disks() {
        boot(disk);
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
    trial.agree();
    println!(
        "{cuts} power cuts of all three, {acts} operations acknowledged, {submits} of them submits: 0 lost, 0 twice, 0 out of order"
    );
}

/// A library that makes every sync do nothing, if it is installed.
fn no_sync() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library = |folder: fs::DirEntry| folder.path().join("libeatmydata.so.1");
    folders.map(library).find(|library| library.exists())
}

/// The test of the test: coordinators whose syncs do nothing lose what they acknowledged, and that shows.
#[test]
fn coordinators_that_sync_nothing_are_found_out() {
    let name = "process_power::coordinators_that_sync_nothing_are_found_out";
    let preload = no_sync();
    let missing = || {
        preload
            .is_none()
            .then(|| "libeatmydata is not installed".to_owned())
    };
    if let Some(why) = disk::obstacle().or_else(missing) {
        return skips::skip(name, &why);
    }
    let mut fleet = Fleet::start(&Plan {
        disk_mib: Some(DISK_MIB),
        preload,
        ..Plan::default()
    });
    let mut client = Client::new(fleet.context(), 0);
    const JOBS: u8 = 40;
    for number in 0..JOBS {
        let spec = held(&format!("held-{number}"));
        // There are no GPUs here; a command that runs will do as well.
        let spec = mlctl_proto::spec::JobSpec { gpus: 0, ..spec };
        let reply = client.submit([number; 16], &spec.canonical_json());
        reply.expect("a whole fleet takes jobs");
    }
    let all: Vec<&Disk> = fleet.disks().iter().collect();
    all.iter().for_each(|disk| leave_control(disk));
    cut_power(&all);
    let names = fleet.coordinators();
    fleet.kill(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for disk in fleet.disks() {
        boot(disk);
    }
    names.iter().for_each(|name| fleet.start_one(name));
    let found = until(
        "a refusal to start, or a leader",
        Duration::from_secs(30),
        || {
            if let Some(name) = names.iter().find(|name| fleet.has_ended(name)) {
                return Some(format!("{name} does not start"));
            }
            fleet.leader_now()?;
            let left = client.list().ok()?.len();
            Some(format!("{left} of {JOBS} jobs are left"))
        },
    );
    println!("{found}");
    assert_ne!(found, format!("{JOBS} of {JOBS} jobs are left"));
}
