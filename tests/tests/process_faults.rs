//! Daemons that die or stop in the middle of a job: what was acknowledged stays, what was superseded is not believed.
//! Does NOT cut power: files that were written are there afterwards (lost writes are the simulator's matter).

use std::fs;
use std::time::{Duration, Instant};

use mlctl_tests::process::workload::{counting, nap};
use mlctl_tests::process::{Cluster, Job, machine, until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);

/// The lines of one rank in a log, without its number.
fn of_rank(log: &[String], rank: u32) -> Vec<&str> {
    log.iter()
        .filter_map(|line| line.strip_prefix(&format!("[{rank}] ")))
        .collect()
}

/// Checks that `lines` are `WORD 1` to `WORD LAST`, each once and in order.
#[track_caller]
fn counted(lines: &[&str], word: &str, last: u32, whose: &str) {
    let wanted: Vec<String> = (1..=last)
        .map(|number| format!("{word} {number}"))
        .collect();
    let wrong = lines
        .iter()
        .zip(&wanted)
        .find(|(line, wanted)| line != wanted);
    assert_eq!(wrong, None, "{whose}: first wrong line");
    assert_eq!(lines.len(), wanted.len(), "{whose}");
}

#[test]
fn a_killed_agent_costs_neither_exit_code_nor_a_line() {
    const LINES: u32 = 10_000;
    let cluster = Cluster::start(2, 0);
    let script = counting(LINES, 7);
    let run = cluster.spawn(&[
        "run",
        "--no-code",
        "--nodes",
        "2",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    run.line("[1] line 1000", SOON);
    let victims = ["dev-0", "dev-1"].map(|node| cluster.pid("agent", node));
    victims.into_iter().for_each(machine::kill);
    let (code, followed) = run.end(Duration::from_secs(40));
    assert_eq!(code, 7);
    let job = cluster.job("1");
    assert_eq!(
        (job.state(), job.attempts().len(), job.attempt_end(1)),
        ("Failed", 1, "Exited"),
        "{:#}",
        job.0
    );
    let stored = cluster.log("1");
    for (name, log) in [("followed", &followed), ("stored", &stored)] {
        for rank in 0..2 {
            counted(
                &of_rank(log, rank),
                "line",
                LINES,
                &format!("{name}, rank {rank}"),
            );
        }
    }
    for (node, old) in ["dev-0", "dev-1"].into_iter().zip(victims) {
        let new = until("the agent's successor", SOON, || {
            Some(cluster.pid("agent", node))
        });
        assert_ne!(new, old, "{node}");
    }
}

#[test]
fn a_killed_launcher_is_not_missed() {
    let cluster = Cluster::start(1, 0);
    let id = cluster.submit_shell(1, "echo up; sleep 2; exit 3");
    cluster.wait_line(&id, "[0] up", SOON);
    machine::kill(cluster.pid("launcher", "dev-0"));
    assert_eq!(cluster.wait(&id, SOON), 3);
    let next = cluster.submit_shell(1, "exit 4");
    assert_eq!(
        cluster.wait(&next, SOON),
        4,
        "a job that comes while the launcher is away waits for it"
    );
    assert_eq!(cluster.job(&id).attempts().len(), 1);
}

#[test]
fn a_killed_keeper_restarts_the_job_until_the_third_holds_it() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    let id = cluster.submit_shell(2, &format!("echo attempt $MLCTL_ATTEMPT; sleep {nap}"));
    for attempt in 1..=3 {
        cluster.wait_line(&id, &format!("[1] attempt {attempt}"), SOON);
        let keepers = until("a keeper on each node", SOON, || {
            let keepers = cluster.keepers(&id);
            (keepers.len() == 2).then_some(keepers)
        });
        assert!(
            machine::family(keepers[0]).len() >= 2,
            "ranks live below their keeper"
        );
        machine::kill(keepers[attempt % 2]);
        cluster.wait_until(&id, &format!("over attempt {attempt}"), SOON, |job| {
            !job.attempt_end(attempt).is_empty()
        });
    }
    let job = cluster.wait_state(&id, "Held", SOON);
    let ends: Vec<&str> = (1..=job.attempts().len())
        .map(|number| job.attempt_end(number))
        .collect();
    assert_eq!(ends, vec!["KeeperLost"; 3], "{:#}", job.0);
    assert_eq!(machine::with_word(&nap), [], "ranks die with their keeper");
    let epochs: Vec<&str> = job
        .attempts()
        .iter()
        .filter_map(|attempt| attempt["epoch"].as_str())
        .collect();
    assert!(
        epochs.windows(2).all(|pair| pair[0] != pair[1]),
        "{epochs:?}"
    );
    cluster.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 130, "a held job can be cancelled");
}

#[test]
fn a_killed_leader_is_a_hiccup() {
    let cluster = Cluster::start(3, 0);
    let mut ids: Vec<String> = (0..3).map(|_| cluster.submit_shell(1, "exit 0")).collect();
    let script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo tick $i; sleep 0.1; done; [ $RANK = 1 ] && exit 0; sleep 1; exit 4";
    let long = cluster.spawn(&["run", "--no-code", "--nodes", "2", "--", "sh", "-c", script]);
    long.line("[1] tick 5", SOON);
    let leader = cluster.leader();
    cluster.mlctl(&["dev", "kill", "leader"]).expect(0);
    assert!(!machine::alive(leader.pid));
    for number in 0..5 {
        let output = cluster
            .mlctl(&["submit", "-q", "--no-code", "--", "true"])
            .expect(0);
        let most = Duration::from_secs(3);
        assert!(
            output.wall < most,
            "submit {number} after the leader's death: {}",
            output.text()
        );
        ids.push(output.stdout.trim().to_owned());
    }
    let (code, followed) = long.end(SOON);
    assert_eq!(code, 4);
    let job = cluster.job("4");
    assert_eq!(
        (job.attempts().len(), job.attempt_end(1)),
        (1, "Exited"),
        "the job never noticed: {:#}",
        job.0
    );
    for rank in 0..2 {
        counted(
            &of_rank(&followed, rank),
            "tick",
            40,
            &format!("followed over two leaders, rank {rank}"),
        );
    }
    for id in &ids {
        assert_eq!(cluster.wait(id, SOON), 0, "job {id} was acknowledged");
    }
    let new = cluster.leader();
    assert_ne!(new.name, leader.name);
    cluster.mlctl(&["dev", "start", &leader.name]).expect(0);
    until("the old leader's return", SOON, || {
        (cluster
            .daemons()
            .iter()
            .filter(|one| one.role == "coordinator" && one.pid > 1)
            .count()
            == 3)
            .then_some(())
    });
    // With the third one back the cluster survives the loss of another.
    cluster.mlctl(&["dev", "kill", "leader"]).expect(0);
    let id = cluster.submit_shell(1, "exit 6");
    assert_eq!(cluster.wait(&id, SOON), 6);
}

#[test]
fn all_coordinators_killed_at_once_forget_nothing() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    let running = cluster.submit_shell(2, "echo up; sleep 6; exit 9");
    cluster.wait_line(&running, "[1] up", SOON);
    let more: Vec<String> = (0..8)
        .map(|number| cluster.submit(&["--name", &format!("job-{number}"), "--", "sleep", &nap]))
        .collect();
    let last = cluster.submit(&["--name", "the-last-one", "--", "sleep", &nap]);
    for name in ["c1", "c2", "c3"] {
        machine::kill(cluster.pid("coordinator", name));
    }
    // The supervisor starts them again after a second; a command that comes meanwhile tries until then.
    let all = cluster.json(&["jobs", "-a"]);
    let names: Vec<&str> = all["jobs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|job| job["name"].as_str())
        .collect();
    for number in 0..8 {
        assert!(
            names.contains(&format!("job-{number}").as_str()),
            "{names:?}"
        );
    }
    assert!(names.contains(&"the-last-one"), "{names:?}");
    assert_eq!(cluster.wait(&running, SOON), 9);
    let job = cluster.job(&running);
    assert_eq!(
        (job.attempts().len(), job.attempt_end(1)),
        (1, "Exited"),
        "{:#}",
        job.0
    );
    let next: u32 = cluster.submit_shell(1, "exit 0").parse().expect("a number");
    assert_eq!(
        next,
        last.parse::<u32>().expect("a number") + 1,
        "ids go on where they were"
    );
    let ids: Vec<&str> = more.iter().chain([&last]).map(String::as_str).collect();
    cluster.mlctl(&[&["cancel"], &ids[..]].concat()).expect(0);
    for id in ids {
        assert_eq!(cluster.wait(id, SOON), 130);
    }
}

#[test]
fn a_killed_node_costs_its_jobs_an_attempt() {
    let cluster = Cluster::start(3, 0);
    let nap = nap();
    let script = format!(
        "echo attempt $MLCTL_ATTEMPT on $MLCTL_NODE; [ $MLCTL_ATTEMPT = 1 ] && sleep {nap}; exit 0"
    );
    let id = cluster.submit_shell(2, &script);
    let job = cluster.wait_until(&id, "on two nodes", SOON, |job| {
        job.state() == "Running" && job.nodes().len() == 2
    });
    let victim = job.nodes()[1].clone();
    cluster.wait_line(&id, &format!("[1] attempt 1 on {victim}"), SOON);
    let boot = cluster.dir().join("nodes").join(&victim).join("boot_id");
    let before = fs::read_to_string(&boot).expect("a boot id");
    cluster.mlctl(&["dev", "kill", &victim]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 0);
    let job = cluster.job(&id);
    assert_eq!(
        (job.attempts().len(), job.attempt_end(1)),
        (2, "NodeLost"),
        "{:#}",
        job.0
    );
    assert!(!job.nodes().contains(&victim), "{:?}", job.nodes());
    assert_eq!(
        machine::with_word(&nap),
        [],
        "the rest of the first attempt was ended"
    );
    assert_ne!(cluster.liveness(&victim), "Ready");
    cluster.mlctl(&["dev", "start", &victim]).expect(0);
    until("the node's return", SOON, || {
        (cluster.liveness(&victim) == "Ready").then_some(())
    });
    assert_ne!(
        fs::read_to_string(&boot).expect("a boot id"),
        before,
        "it comes back as after a reboot"
    );
    let wide = cluster.submit_shell(3, "exit $RANK");
    assert!(
        [1, 2].contains(&cluster.wait(&wide, SOON)),
        "it takes work again"
    );
}

#[test]
fn a_node_that_reboots_at_once_proves_its_ranks_dead() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    let id = cluster.submit_shell(
        1,
        &format!("echo attempt $MLCTL_ATTEMPT; [ $MLCTL_ATTEMPT = 1 ] && sleep {nap}; exit 0"),
    );
    cluster.wait_line(&id, "[0] attempt 1", SOON);
    let node = cluster.job(&id).nodes().remove(0);
    cluster.mlctl(&["dev", "kill", &node]).expect(0);
    cluster.mlctl(&["dev", "start", &node]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 0);
    let job = cluster.job(&id);
    assert_eq!(
        (job.attempts().len(), job.attempt_end(1)),
        (2, "NodeLost"),
        "{:#}",
        job.0
    );
}

/// Everything of a node: its daemons, its keepers, its ranks.
fn node_pids(cluster: &Cluster, node: &str) -> Vec<i32> {
    let own = |name: &str| name == node || name.starts_with(&format!("{node}/"));
    let daemons = cluster
        .daemons()
        .into_iter()
        .filter(|one| one.role != "coordinator" && own(&one.name) && one.pid > 1);
    let mut pids: Vec<i32> = daemons.flat_map(|one| machine::family(one.pid)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn signal(pids: &[i32], signal: Signal) {
    pids.iter().for_each(|&pid| machine::send(pid, signal));
}

/// Two jobs on `dev-0`, while `dev-1` joins when they already run. The first one has an exit code of its own to tell in its first
/// attempt, 7, and 3 in its second; the second one sleeps: for the first nap in its first attempt, then for the second nap.
fn two_jobs_on_one_node(cluster: &Cluster, naps: &[String; 2]) -> (String, String) {
    cluster.mlctl(&["dev", "kill", "dev-1"]).expect(0);
    let by_attempt = |first: &str, second: &str| {
        format!(
            "echo attempt $MLCTL_ATTEMPT; if [ $MLCTL_ATTEMPT = 1 ]; then {first}; else {second}; fi"
        )
    };
    let talker = by_attempt("sleep 4; echo stale; exit 7", "sleep 8; exit 3");
    let sleeper = by_attempt(&format!("sleep {}", naps[0]), &format!("sleep {}", naps[1]));
    let (talker, sleeper) = (
        cluster.submit_shell(1, &talker),
        cluster.submit_shell(1, &sleeper),
    );
    for id in [&talker, &sleeper] {
        cluster.wait_line(id, "[0] attempt 1", SOON);
    }
    cluster.mlctl(&["dev", "start", "dev-1"]).expect(0);
    until("the other node", SOON, || {
        (cluster.liveness("dev-1") == "Ready").then_some(())
    });
    (talker, sleeper)
}

/// A node that stands still for longer than `lost_after` and then goes on: what it held was given to another node meanwhile.
#[test]
fn a_frozen_node_that_thaws_is_not_believed() {
    let cluster = Cluster::start(2, 0);
    let naps = [nap(), nap()];
    let (old, new) = (format!("sleep {}", naps[0]), format!("sleep {}", naps[1]));
    let (talker, sleeper) = two_jobs_on_one_node(&cluster, &naps);
    let pids = node_pids(&cluster, "dev-0");
    signal(&pids, Signal::SIGSTOP);
    for id in [&talker, &sleeper] {
        let second = |job: &Job| job.attempts().len() == 2 && job.state() == "Running";
        let job = cluster.wait_until(id, "on its second attempt", SOON, second);
        assert_eq!(
            (job.attempt_end(1), job.nodes()),
            ("NodeLost", vec!["dev-1".to_owned()]),
            "{:#}",
            job.0
        );
    }
    assert!(
        !machine::doing(&old).is_empty(),
        "the old attempt is frozen, not gone"
    );
    signal(&pids, Signal::SIGCONT);
    let thawed = Instant::now();
    until("the node's return", SOON, || {
        (cluster.liveness("dev-0") == "Ready").then_some(())
    });
    let two_seconds = Duration::from_secs(2);
    until("the end of what was superseded", two_seconds, || {
        machine::doing(&old).is_empty().then_some(())
    });
    let took = thawed.elapsed();
    assert!(
        took < Duration::from_secs(6),
        "back and clean after {took:?}"
    );
    assert_eq!(
        cluster.wait(&talker, SOON),
        3,
        "the result is the second attempt's"
    );
    let job = cluster.job(&talker);
    let ends = (job.attempts().len(), job.attempt_end(1), job.attempt_end(2));
    assert_eq!(ends, (2, "NodeLost", "Exited"), "{:#}", job.0);
    let job = cluster.job(&sleeper);
    let going_on = (
        job.state(),
        job.attempts().len(),
        machine::doing(&new).len(),
    );
    assert_eq!(going_on, ("Running", 2, 1), "{:#}", job.0);
    cluster.mlctl(&["cancel", &sleeper]).expect(0);
    assert_eq!(cluster.wait(&sleeper, SOON), 130);
}
