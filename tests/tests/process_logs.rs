//! Logs on real processes: they outlive a leader and a node that are lost with their disks, folding, and much output beside other work.
//! Does NOT test agents that are killed while ranks write: see process_faults.

use std::fs;
use std::time::{Duration, Instant};

use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::{Cluster, machine, until};

const SOON: Duration = Duration::from_secs(30);

/// Whether a coordinator has pieces of a job's first attempt.
fn has_pieces(fleet: &Fleet, coordinator: &str, job: &str) -> bool {
    let logs = fleet.home(coordinator).join("disk/data/logs").join(job);
    let entries = fs::read_dir(logs.join("1")).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| path.extension().is_some_and(|end| end == "piece"))
}

/// How many coordinators have copies of the job's log.
fn copies(fleet: &Fleet, job: &str) -> usize {
    let names = fleet.coordinators();
    let with = names.iter().filter(|name| has_pieces(fleet, name, job));
    with.count()
}

/// Kills a node with all that runs there, and its disk is gone.
fn lose_node(fleet: &mut Fleet, node: &str) {
    let launcher = format!("{node}-launcher");
    fleet.kill(&[node, &launcher]);
    let home = fleet.home(node);
    until("the end of all that runs on the node", SOON, || {
        for process in machine::around(&home) {
            machine::kill(process.pid);
        }
        fs::remove_dir_all(&home).ok()
    });
}

fn submit(fleet: &Fleet, script: &str) -> String {
    fleet.submit(&["--no-code", "--nodes", "1", "--", "sh", "-c", script])
}

/// `line 0`, `line 1`, … without a gap; how many.
fn counted(lines: &[String]) -> usize {
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("[0] line {number}"));
    }
    lines.len()
}

#[test]
fn a_log_outlives_its_leader_and_its_node() {
    const LINES: usize = 20_000;
    let plan = Plan {
        nodes: 1,
        ..Plan::default()
    };
    let mut fleet = Fleet::start(&plan);
    fleet.wait_whole();
    let script = format!("i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done");
    let id = submit(&fleet, &script);
    assert_eq!(fleet.ended(&id, SOON).state(), "Completed");
    until("a second copy of the log", SOON, || {
        (copies(&fleet, &id) >= 2).then_some(())
    });
    let leader = fleet.leader();
    fleet.kill(&[&leader]);
    fs::remove_dir_all(fleet.home(&leader)).expect("its disk is gone");
    fleet.wait_led();
    assert_eq!(counted(&fleet.lines(&id)), LINES, "without the old leader");
    lose_node(&mut fleet, "n1");
    assert_eq!(counted(&fleet.lines(&id)), LINES, "without the node too");
}

#[test]
fn the_log_of_a_lost_node_is_there_up_to_the_loss() {
    let plan = Plan {
        nodes: 2,
        lost_after_ms: 4_000,
        ..Plan::default()
    };
    let mut fleet = Fleet::start(&plan);
    fleet.wait_whole();
    let script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";
    let id = submit(&fleet, script);
    fleet.said(&id, "line 100", SOON);
    let node = fleet.job(&id).0["attempts"][0]["allocations"][0]["node"].clone();
    let node = node.as_str().expect("a name").to_owned();
    lose_node(&mut fleet, &node);
    // In doubt it is until the next attempt takes over.
    until("the loss of the node", SOON, || {
        let job = fleet.job(&id);
        (job.attempts().len() > 1 && job.attempt_end(1) == "NodeLost").then_some(())
    });
    let output = fleet.mlctl(&["logs", "--attempt", "1", &id]).expect(0);
    let lines: Vec<String> = output.lines().into_iter().map(str::to_owned).collect();
    assert!(counted(&lines) > 100);
    let note = format!("the log of {node} may lack its end: the node was lost");
    assert!(output.stderr.contains(&note), "{}", output.stderr);
}

#[test]
fn the_same_line_of_all_ranks_is_shown_once_if_asked_for() {
    let cluster = Cluster::start(2, 0);
    let script = "echo same; echo of rank $RANK; printf '\\033[31mred\\033[0m\\n'";
    let id = cluster.submit_shell(2, script);
    assert_eq!(cluster.wait(&id, SOON), 0);
    let output = cluster.mlctl(&["logs", "--fold", &id]).expect(0);
    let mut lines = output.lines();
    lines.sort_unstable();
    let red = "[0-1] \u{1b}[31mred\u{1b}[0m";
    assert_eq!(lines, [red, "[0-1] same", "[0] of rank 0", "[1] of rank 1"]);
    assert_eq!(
        cluster.log(&id).len(),
        6,
        "not unless asked for or on a terminal"
    );
    let json = cluster
        .mlctl(&["logs", "--fold", "-o", "json", &id])
        .expect(0);
    assert_eq!(json.lines().len(), 6, "programs get every line");
}

/// Resident memory of a process, KiB.
fn memory_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    word.unwrap_or_else(|| panic!("process {pid} has no memory"))
}

/// From the submit of a small job to its first line.
fn first_line(cluster: &Cluster) -> Duration {
    let begun = Instant::now();
    let run = cluster.spawn(&["run", "--no-code", "--", "sh", "-c", "echo here"]);
    run.line("[0] here", SOON);
    let took = begun.elapsed();
    assert_eq!(run.end(SOON).0, 0);
    took
}

#[test]
fn much_output_slows_neither_heartbeats_nor_other_jobs() {
    const BYTES: u64 = 160_000_000;
    const ROUNDS: u64 = 200;
    let cluster = Cluster::start(2, 0);
    let quiet = (0..3).map(|_| first_line(&cluster)).max().expect("three");
    // As fast as two cores make it with pauses in between: 15 to 20 MB/s, for 8 to 10 s.
    let script = format!(
        "i=0; while [ $i -lt {ROUNDS} ]; do head -c {} /dev/zero | tr '\\0' x | fold -w 99; i=$((i+1)); sleep 0.02; done; echo; echo last",
        BYTES / ROUNDS
    );
    let begun = Instant::now();
    let id = cluster.submit_shell(1, &script);
    until("its first lines", SOON, || {
        let output = cluster.mlctl(&["logs", "--tail", "1", &id]);
        (output.code == 0 && !output.lines().is_empty()).then_some(())
    });
    // Somebody follows it and does not read.
    let mut slow = cluster.command(&["logs", "-f", &id]);
    slow.stdout(std::process::Stdio::piped());
    let mut slow = slow.spawn().expect("started");
    let leader = cluster.leader();
    let (before, mut slowest, mut beside) = (memory_kib(leader.pid), Duration::ZERO, 0);
    while !cluster.job(&id).ended() {
        slowest = slowest.max(first_line(&cluster));
        beside += 1;
        for node in ["dev-0", "dev-1"] {
            assert_eq!(cluster.liveness(node), "Ready");
        }
    }
    let took = begun.elapsed();
    let grown = memory_kib(leader.pid).saturating_sub(before);
    slow.kill().expect("killed");
    slow.wait().expect("ended");
    assert_eq!(cluster.job(&id).state(), "Completed");
    let rate = BYTES as f64 / took.as_secs_f64() / 1e6;
    println!(
        "{rate:.1} MB/s for {took:?}; first line of {beside} jobs beside it: at most {slowest:?}, {quiet:?} when quiet; the leader grew by {grown} KiB"
    );
    let daemons = cluster.daemon_logs(100_000);
    for word in ["Suspect", "Unreachable"] {
        assert!(!daemons.contains(word), "a node was called {word}");
    }
    assert!(rate > 5.0, "the job was held up: {rate:.1} MB/s");
    assert!(beside >= 3, "{beside} jobs beside it");
    assert!(
        slowest < quiet * 3 + Duration::from_secs(2),
        "{slowest:?}, {quiet:?} when quiet"
    );
    assert!(grown < 64 * 1024, "the leader grew by {grown} KiB");
    // The beginning and the newest part are there, and what lies between is said to be gone.
    let output = cluster.mlctl(&["logs", &id]).expect(0);
    let lines = output.lines();
    let text = "x".repeat(99);
    let whole = lines
        .iter()
        .filter(|line| **line == format!("[0] {text}"))
        .count();
    assert!(
        whole as u64 * 112 > 60_000_000 && lines.last() == Some(&"[0] last"),
        "{whole} lines"
    );
    assert!(
        output.stderr.contains("are left out here"),
        "{}",
        output.stderr
    );
}

#[test]
fn what_a_failed_rank_dumped_can_be_fetched() {
    let cluster = Cluster::start(1, 0);
    let dumped = "printf 'a\\000b\\nc' > nccl-trace-rank-0; echo up; exit";
    let id = cluster.submit_shell(1, &format!("{dumped} 3"));
    assert_eq!(cluster.wait(&id, SOON), 3);
    let folder = cluster.work().join("dumps");
    let path = folder.join("nccl-trace-rank-0");
    let words = ["logs", &id, "--dumps", &folder.to_string_lossy()];
    let listed = until("the dump", SOON, || {
        let output = cluster.mlctl(&words).expect(0);
        path.exists().then_some(output)
    });
    assert_eq!(listed.lines(), [path.to_string_lossy()]);
    assert_eq!(fs::read(&path).expect("written"), b"a\0b\nc");
    let shown = cluster.mlctl(&["logs", &id]).expect(0);
    assert_eq!(shown.lines(), ["[0] up"], "a dump is no output");
    assert!(shown.stderr.contains("--dumps DIR"), "{}", shown.stderr);
    // A job that ended well has none, whatever lies in its directory.
    let id = cluster.submit_shell(1, &format!("{dumped} 0"));
    assert_eq!(cluster.wait(&id, SOON), 0);
    let words = ["logs", &id, "--dumps", &folder.to_string_lossy()];
    let none = cluster.mlctl(&words).expect(0);
    assert!(none.lines().is_empty() && none.stderr.contains("left a dump"));
}
