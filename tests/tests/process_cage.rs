//! What jobs may use, and that nothing of them stays: nasty process trees on a real cluster, and bounds that a spec asks for.
//! Does NOT look at single keepers: the agent's own tests do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mlctl_tests::budget;
use mlctl_tests::process::{Cluster, machine};
use mlctl_tests::tidy::skips;
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
/// From the end of a job to the last of its processes; they are gone before it is told, so this is for a busy machine only.
const GONE: Duration = Duration::from_secs(2);

/// Trees of processes that do not want to go. `S` is a shell with a name of its own, by which all of them are found. Each is bounded by
/// itself: if the product failed here, the machine would not.
const TREES: [(&str, &str); 7] = [
    (
        "double fork",
        r#"( ( setsid "$S" -c 'while :; do sleep 1000; done' </dev/null >/dev/null 2>&1 & ) & )"#,
    ),
    (
        "wiped environment",
        r#"env -i setsid "$S" -c 'sleep 1000; :' </dev/null >/dev/null 2>&1 &"#,
    ),
    (
        "deaf",
        r#"setsid "$S" -c 'trap "" TERM HUP INT QUIT; while :; do sleep 1000; done' & "#,
    ),
    (
        "stopped",
        r#"env -i setsid "$S" -c 'kill -STOP $$; sleep 1000; :' </dev/null >/dev/null 2>&1 &"#,
    ),
    (
        "many",
        r#"env -i S="$S" setsid "$S" -c 'trap "" TERM; i=0; while [ $i -lt 40 ]; do i=$((i+1)); "$S" -c "sleep 1000; :" & done; wait' </dev/null >/dev/null 2>&1 &"#,
    ),
    (
        "chain",
        r#"B='[ $1 -gt 0 ] && { setsid "$S" -c "$0" "$0" $(($1-1)) & }; sleep 1000; :'; setsid env -i S="$S" "$S" -c "$B" "$B" 12 </dev/null >/dev/null 2>&1 &"#,
    ),
    (
        "holds the output",
        r#"setsid "$S" -c 'trap "" TERM; while :; do sleep 1000; done' &"#,
    ),
];

/// Ends of the rank that has started them.
const ENDS: [(&str, &str); 4] = [
    ("exits", "exit 0"),
    ("fails", "exit 3"),
    ("is cancelled", "while :; do sleep 1000; done"),
    ("loses its keeper", "while :; do sleep 1000; done"),
];

fn marked_shell(dir: &Path) -> PathBuf {
    let shell = dir.join("nasty-shell");
    std::fs::copy("/bin/sh", &shell).expect("copied");
    shell
}

/// Processes that run this file, and what they say they are.
fn running(file: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = pids
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == file));
    ours.map(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!(
            "{pid} {}",
            String::from_utf8_lossy(&words).replace('\0', " ")
        )
    })
    .collect()
}

/// Does this test's cluster have cgroups? A word about it if not.
fn cages(cluster: &Cluster, test: &str) -> bool {
    let nodes = cluster.json(&["nodes"]);
    let node = &nodes["nodes"][0];
    let there = node["isolation"] != json!("none");
    if !there {
        skips::skip(
            test,
            &format!("no cgroups can be made here: {}", node["isolation_missing"]),
        );
    }
    there
}

#[test]
fn nothing_is_left_of_nasty_process_trees() {
    let test = "process_cage::nothing_is_left_of_nasty_process_trees";
    let cluster = Cluster::start(1, 0);
    if !cages(&cluster, test) {
        return;
    }
    let shell = marked_shell(&cluster.work());
    let rounds = if budget::full() { 200 } else { 20 };
    let mut left = 0;
    for round in 0..rounds {
        // All pairs come up: 7 and 4 have no common divisor.
        let ((tree, plant), (how, end)) = (TREES[round % TREES.len()], ENDS[round % ENDS.len()]);
        let script = format!(
            "S='{}'; export S; {plant}\nsleep 0.1; echo planted; {end}",
            shell.display()
        );
        let job = cluster.submit_shell(1, &script);
        cluster.wait_line(&job, "[0] planted", SOON);
        match how {
            "is cancelled" => drop(cluster.mlctl(&["cancel", &job]).expect(0)),
            "loses its keeper" => {
                assert!(!running(&shell).is_empty(), "{tree}: nothing was planted");
                cluster.keepers(&job).into_iter().for_each(machine::kill);
                // It starts again elsewhere, which is here.
                cluster.wait_until(&job, "a second attempt", SOON, |job| {
                    job.attempts().len() > 1
                });
                cluster.mlctl(&["cancel", &job]).expect(0);
            }
            _ => {}
        }
        cluster.wait_until(&job, "an end", SOON, |job| job.ended());
        let begin = std::time::Instant::now();
        while !running(&shell).is_empty() && begin.elapsed() < GONE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let stay = running(&shell);
        if !stay.is_empty() {
            eprintln!("round {round}: {tree}, the rank {how}: {stay:#?}");
            left += stay.len();
            stay.iter()
                .filter_map(|line| line.split(' ').next()?.parse().ok())
                .for_each(machine::kill);
        }
    }
    println!("{rounds} process trees, {left} processes left");
    assert_eq!(left, 0);
}

#[test]
fn a_job_without_memory_ends_as_out_of_memory() {
    let test = "process_cage::a_job_without_memory_ends_as_out_of_memory";
    let cluster = Cluster::start(1, 0);
    if !cages(&cluster, test) {
        return;
    }
    let spec = cluster.work().join("job.toml");
    let text = "name = 'hungry'\ncommand = ['sh', '-c', 'tail /dev/zero']\nmem = '32MiB'\ncpus = 1\nshm = '8MiB'\n";
    std::fs::write(&spec, text).expect("written");
    let spec = spec.to_str().expect("UTF-8");
    let plan = cluster
        .mlctl(&["submit", "--dry-run", spec])
        .expect(0)
        .stdout;
    for word in [
        "32.0 MiB of memory",
        "1 processor(s)",
        "8.0 MiB of /dev/shm",
    ] {
        assert!(plan.contains(word), "{word}: {plan}");
    }
    let job = cluster.submit(&[spec]);
    assert_eq!(cluster.wait(&job, SOON), 137);
    let job = cluster.job(&job);
    let outcome = job.outcome();
    assert_eq!(
        (&outcome["kind"], &outcome["rank"]),
        (&json!("OutOfMemory"), &json!(0)),
        "{:#}",
        job.0
    );
    let detail = outcome["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("32.0 MiB") && detail.contains("`mem`"),
        "{detail}"
    );
    let shown = cluster.mlctl(&["show", job.id()]).expect(0).stdout;
    assert!(
        shown.contains("OutOfMemory") && shown.contains("32.0 MiB"),
        "{shown}"
    );
    // More than any node has is refused at once, with what there is.
    std::fs::write(spec, text.replace("32MiB", "60TiB")).expect("written");
    cluster
        .mlctl(&["submit", spec])
        .refused(64, &["60.0 TiB", "the most on one node"]);
}
