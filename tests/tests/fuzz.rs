//! Every fuzz target on changed inputs until its box in tests/budget.toml closes; and the inputs to begin from are sound.
//! Does NOT run libFuzzer: see tests/fuzz.

use std::time::Duration;

use mlctl_tests::budget;
use mlctl_tests::fuzz::drive::{drive, keep};
use mlctl_tests::fuzz::{TARGETS, Target};

/// Peak memory of a run, MiB: the inputs are small, so what reads them has to be.
const PEAK_MIB: u64 = 1_024;

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("a size in kB")
        / 1024
}

fn until_the_box_closes(name: &str) {
    let target = Target::named(name).expect("it is a target");
    let report = drive(&target, rand::random(), budget::of("fuzz"));
    println!("fuzz: {}", report.line(&target));
    if let Some((why, input)) = report.broken {
        let path = keep(&target, &input).expect("the input can be kept");
        panic!(
            "{why}\n  replay: mlctl-tests fuzz {name} {}",
            path.display()
        );
    }
    let least = (TARGETS.len() * 2) as u64;
    assert!(report.inputs > least, "only {} inputs", report.inputs);
    assert!(peak_mib() < PEAK_MIB, "{} MiB", peak_mib());
}

#[test]
fn command_until_the_box_closes() {
    until_the_box_closes("command");
}

#[test]
fn apply_until_the_box_closes() {
    until_the_box_closes("apply");
}

#[test]
fn snapshot_until_the_box_closes() {
    until_the_box_closes("snapshot");
}

#[test]
fn segment_until_the_box_closes() {
    until_the_box_closes("segment");
}

#[test]
fn log_until_the_box_closes() {
    until_the_box_closes("log");
}

#[test]
fn message_until_the_box_closes() {
    until_the_box_closes("message");
}

/// A check that cannot fail is a defect: a reader that breaks at one byte is found, and the run repeats.
#[test]
fn a_reader_that_breaks_is_found() {
    let mut broken = Target::named("command").expect("it is a target");
    broken.run = |bytes| assert!(!bytes.contains(&0xa5), "it does not like that byte");
    let found = |seed| drive(&broken, seed, Duration::from_secs(60)).broken;
    let (why, input) = found(1).expect("one byte of 256 comes up soon");
    assert!(why.contains("does not like") && input.contains(&0xa5));
    assert_eq!(found(1), Some((why, input)));
}
