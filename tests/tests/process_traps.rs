//! What frameworks do when something goes wrong, and what must follow all the same: gangs that meet anew, ranks that hear no TERM, peers that
//! never meet. With the real PyTorch, over hosts of their own.
//! Does NOT test what `process_launch` and `process_faults` do.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use mlctl_tests::process::workload::python_with_torch;
use mlctl_tests::process::{Fleet, machine, until};

const SOON: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// Rank 1 stays away from a collective in which rank 0 waits: its handler of TERM runs only after it.
const STUCK: &str = r#"import os, signal, sys, time, datetime
import torch, torch.distributed as dist
signal.signal(signal.SIGTERM, lambda *_: print("TERM was heard", flush=True))
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=600))
print("process", os.getpid(), "is", dist.get_rank(), flush=True)
if dist.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
dist.all_reduce(torch.ones(1))
"#;

/// Meets its peers within ten seconds, or fails.
const MEET: &str = r#"import datetime
import torch.distributed as dist
print("begins", flush=True)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=10))
print("met", flush=True)
"#;

/// A fleet with a script in `code`, and the Python that has torch.
fn fleet(test: &str, nodes: usize, script: &str) -> Option<(Fleet, &'static str)> {
    let python = python_with_torch(test)?;
    let fleet = Fleet::on_hosts(test, nodes, &[])?;
    let code = fleet.work().join("code");
    fs::create_dir(&code).expect("made");
    fs::write(code.join("run.py"), script).expect("written");
    Some((fleet, python))
}

fn submit(fleet: &Fleet, python: &str) -> String {
    let words = [
        "--code",
        "code",
        "--launcher",
        "python",
        "--nodes",
        "2",
        "--",
    ];
    fleet.submit(&[&words[..], &[python, "run.py"]].concat())
}

#[test]
fn a_stopped_rank_and_one_in_a_collective_end_after_the_grace() {
    let name = "process_traps::a_stopped_rank_and_one_in_a_collective_end_after_the_grace";
    let Some((fleet, python)) = fleet(name, 2, STUCK) else {
        return;
    };
    let id = submit(&fleet, python);
    let pids = until("both ranks", PATIENCE, || {
        let lines = fleet.lines(&id);
        let pids = lines.iter().filter_map(|line| {
            let (_, rest) = line.split_once("process ")?;
            rest.split(' ').next()?.parse::<i32>().ok()
        });
        Some(pids.collect::<Vec<_>>()).filter(|pids| pids.len() == 2)
    });
    let begun = Instant::now();
    fleet.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(fleet.ended(&id, SOON).state(), "Cancelled");
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "grace and little more: {took:?}"
    );
    assert!(
        !pids.iter().any(|pid| machine::alive(*pid)),
        "a rank lives on"
    );
}

#[test]
fn term_during_an_import_ends_the_rank() {
    let script = "print('imports', flush=True)\nimport torch\nimport time\ntime.sleep(600)\n";
    let name = "process_traps::term_during_an_import_ends_the_rank";
    let Some((fleet, python)) = fleet(name, 2, script) else {
        return;
    };
    let id = submit(&fleet, python);
    fleet.said(&id, "imports", SOON);
    let begun = Instant::now();
    fleet.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(fleet.ended(&id, SOON).state(), "Cancelled");
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "no grace is needed: {took:?}"
    );
}

#[test]
fn peers_that_cannot_meet_fail_and_are_not_waited_for() {
    let name = "process_traps::peers_that_cannot_meet_fail_and_are_not_waited_for";
    let Some((fleet, python)) = fleet(name, 2, MEET) else {
        return;
    };
    let net = fleet.net().expect("hosts");
    // Both are heard by the coordinators, not by each other.
    net.cut("n1", "n2");
    let id = submit(&fleet, python);
    let job = fleet.ended(&id, PATIENCE);
    let log = fleet.lines(&id);
    assert_eq!(job.state(), "Failed", "{log:#?}");
    assert!(!log.iter().any(|line| line.ends_with("] met")), "{log:#?}");
    net.heal();
    let id = submit(&fleet, python);
    assert_eq!(
        fleet.ended(&id, PATIENCE).state(),
        "Completed",
        "{:#?}",
        fleet.lines(&id)
    );
}

#[test]
fn each_attempt_meets_under_a_new_id_and_port() {
    let Some(fleet) = Fleet::on_hosts(
        "process_traps::each_attempt_meets_under_a_new_id_and_port",
        2,
        &[],
    ) else {
        return;
    };
    let script = "echo meet $PET_RDZV_ID $MASTER_PORT; exec sleep 600";
    let id = fleet.submit(&["--no-code", "--nodes", "2", "--", "sh", "-c", script]);
    let meetings = |count: usize| {
        until("every rank of the attempt", SOON, || {
            let lines = fleet.lines(&id);
            let meet = lines
                .iter()
                .filter_map(|line| Some(line.split_once("meet ")?.1.to_owned()));
            Some(meet.collect::<Vec<_>>()).filter(|lines| lines.len() == count)
        })
    };
    let first = meetings(2);
    assert_eq!(first[0], first[1], "one gang, one meeting");
    let there = machine::around(&fleet.home("n2"));
    let keeper = there.iter().find(|one| one.words.contains("mlctl keeper "));
    machine::kill(keeper.expect("a keeper").pid);
    let all = meetings(4);
    let second: Vec<&String> = all.iter().filter(|line| **line != first[0]).collect();
    assert!(second.len() == 2 && second[0] == second[1], "{all:#?}");
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (words(&first[0]), words(second[0]));
    assert!(before[0] != after[0] && before[1] != after[1], "{all:#?}");
    fleet.mlctl(&["cancel", &id]).expect(0);
}

/// PyTorch 1.13 on Python 3.11: its torchrun dies when it is told nothing of where its ranks' output goes.
#[test]
fn torchrun_of_pytorch_1_13_starts_on_python_3_11() {
    let name = "process_traps::torchrun_of_pytorch_1_13_starts_on_python_3_11";
    let script = "print('rank started', flush=True)\n";
    let Some((fleet, python)) = fleet(name, 1, script) else {
        return;
    };
    let script = fleet.work().join("code/run.py");
    let alone = Command::new(python)
        .args(["-m", "torch.distributed.run", "--standalone"])
        .arg(&script)
        .env_remove("PET_REDIRECTS")
        .env_remove("PET_TEE")
        .output()
        .expect("started");
    // With another PyTorch or Python there is no trap, and nothing to show.
    let said = String::from_utf8_lossy(&alone.stderr);
    if !alone.status.success() {
        assert!(said.contains("NoneType"), "{said}");
    }
    println!("by itself it ends with {}", alone.status);
    let words = [
        "--code",
        "code",
        "--launcher",
        "torchrun",
        "--",
        python,
        "run.py",
    ];
    let id = fleet.submit(&words);
    let job = fleet.ended(&id, PATIENCE);
    let log = fleet.lines(&id);
    assert_eq!(job.state(), "Completed", "{log:#?}");
    assert!(
        log.iter().any(|line| line.ends_with("rank started")),
        "{log:#?}"
    );
    // What a user sets counts.
    let words = [
        &["--env", "PET_REDIRECTS=3", "--env", "PET_TEE=3"],
        &words[..],
    ]
    .concat();
    let id = fleet.submit(&words);
    let job = fleet.ended(&id, PATIENCE);
    assert_eq!(
        job.state() == "Completed",
        alone.status.success(),
        "{:#?}",
        fleet.lines(&id)
    );
}
