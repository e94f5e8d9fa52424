//! Jobs from submit to exit code on real processes: output, signals, gangs, environment, cancelling.
//! Does NOT break anything on purpose but the jobs themselves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mlctl_tests::process::workload::nap;
use mlctl_tests::process::{Cluster, machine, until};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn two_ranks_print_and_the_failing_one_gives_the_exit_code() {
    let cluster = Cluster::start(3, 0);
    let script = "echo rank $RANK of $WORLD_SIZE on $MLCTL_NODE; sleep 1; exit $RANK";
    let output = cluster
        .mlctl(&["run", "--nodes", "2", "--", "sh", "-c", script])
        .expect(1);
    let mut lines = output.lines();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{}", output.text());
    let mut nodes = Vec::new();
    for (rank, line) in lines.iter().enumerate() {
        let node = line
            .strip_prefix(&format!("[{rank}] rank {rank} of 2 on "))
            .unwrap_or_else(|| panic!("{}", output.text()));
        nodes.push(node.to_owned());
    }
    assert_ne!(nodes[0], nodes[1], "a gang's nodes are distinct machines");
    let job = cluster.job("1");
    assert_eq!(
        (job.state(), job.exit_code(), job.nodes()),
        ("Failed", 1, nodes)
    );
    assert_eq!(
        (
            &job.outcome()["kind"],
            &job.outcome()["rank"],
            &job.outcome()["by_job"]
        ),
        (&"Exited".into(), &1.into(), &true.into())
    );
    // What the rank that failed said last.
    let last = format!("rank 1 of 2 on {}", job.nodes()[1]);
    assert_eq!(job.0["last_lines"], serde_json::json!([last]));
    let shown = cluster.mlctl(&["show", "1"]).expect(0).stdout;
    assert!(shown.ends_with(&format!("[1] {last}\n")), "{shown}");
}

/// One job per row, all at once; the exit code is the job's own, 128 + n for a signal, and mlctl's own above that.
#[test]
fn exit_codes_are_the_jobs_own() {
    let cluster = Cluster::start(2, 0);
    let rows = [
        ("exit 0", 0, "Completed", "Exited"),
        ("exit 3", 3, "Failed", "Exited"),
        ("exit 255", 255, "Failed", "Exited"),
        ("kill -KILL $$", 137, "Failed", "Signalled"),
        ("kill -TERM $$", 143, "Failed", "Signalled"),
        ("kill -SEGV $$", 139, "Failed", "Signalled"),
    ];
    let ids: Vec<String> = rows
        .iter()
        .map(|row| cluster.submit_shell(1, row.0))
        .collect();
    let missing = cluster.submit(&["--", "no-such-program-anywhere"]);
    for (id, (script, code, state, kind)) in ids.iter().zip(rows) {
        assert_eq!(cluster.wait(id, SOON), code, "{script}");
        let job = cluster.job(id);
        assert_eq!(
            (job.state(), job.attempt_end(1), job.attempts().len()),
            (state, kind, 1),
            "{script}: {:#}",
            job.0
        );
    }
    assert_eq!(cluster.wait(&missing, SOON), 141);
    let shown = cluster.mlctl(&["show", &missing]).expect(0).stdout;
    assert!(shown.contains("no-such-program-anywhere"), "{shown}");
}

#[test]
fn a_failing_rank_ends_its_gang_within_seconds() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    // Rank 0 and its children do not mind TERM; one child even left its session.
    let script = format!(
        "if [ $RANK = 1 ]; then sleep 1; echo failing; exit 5; fi; trap '' TERM; setsid sleep {nap} & sleep {nap} & echo napping; wait; wait"
    );
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
    run.line("[0] napping", SOON);
    until("three processes of rank 0", SOON, || {
        (machine::with_word(&nap).len() >= 3).then_some(())
    });
    let failed = run.line("[1] failing", SOON).at;
    let (code, _) = run.end(SOON);
    let took = failed.elapsed();
    assert_eq!(code, 5);
    assert!(
        took < Duration::from_secs(10),
        "the gang ended {took:?} after its rank"
    );
    assert_eq!(machine::with_word(&nap), [], "what the gang left running");
    let job = cluster.job("1");
    assert_eq!(
        (job.state(), &job.outcome()["rank"]),
        ("Failed", &1.into()),
        "a rank that was killed for it is not the reason"
    );
}

#[test]
fn two_jobs_at_once_do_not_mix() {
    let cluster = Cluster::start(2, 0);
    let script = |word: &str, code: u32| {
        format!(
            "for i in 1 2 3; do echo {word} $RANK $i $MASTER_ADDR:$MASTER_PORT; sleep 0.3; done; exit {code}"
        )
    };
    let ids = [
        cluster.submit_shell(2, &script("one", 0)),
        cluster.submit_shell(2, &script("two", 4)),
    ];
    assert_eq!(ids, ["1", "2"], "ids count from 1");
    until("both running", SOON, || {
        let states = ids.each_ref().map(|id| cluster.job(id).state().to_owned());
        (states == ["Running", "Running"]).then_some(())
    });
    assert_eq!((cluster.wait("1", SOON), cluster.wait("2", SOON)), (0, 4));
    let mut meetings = Vec::new();
    for (id, word, other) in [("1", "one", "two"), ("2", "two", "one")] {
        let log = cluster.log(id);
        assert_eq!(log.len(), 6, "{log:#?}");
        assert!(
            log.iter()
                .all(|line| line.contains(word) && !line.contains(other)),
            "{log:#?}"
        );
        let meeting: Vec<String> = log
            .iter()
            .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
            .collect();
        assert!(
            meeting
                .iter()
                .all(|one| *one == meeting[0] && one.starts_with("127.0.0.")),
            "{log:#?}"
        );
        meetings.push(meeting[0].clone());
    }
    assert_ne!(meetings[0], meetings[1], "ports are leased, not fixed");
    let all = cluster.json(&["jobs", "-a"]);
    let listed = all["jobs"].as_array().into_iter().flatten();
    let mut jobs: Vec<(&str, &str)> = listed
        .filter_map(|job| Some((job["id"].as_str()?, job["state"].as_str()?)))
        .collect();
    jobs.sort_unstable();
    assert_eq!(
        (&all["v"], jobs),
        (&1.into(), vec![("1", "Completed"), ("2", "Failed")]),
        "{all}"
    );
    let active = cluster.json(&["jobs"]);
    assert_eq!(
        active["jobs"],
        serde_json::json!([]),
        "ended jobs only with -a"
    );
}

#[test]
fn a_cancelled_job_leaves_nothing() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    let id = cluster.submit_shell(2, &format!("sleep {nap}"));
    cluster.wait_state(&id, "Running", SOON);
    until("both ranks", SOON, || {
        (machine::with_word(&nap).len() >= 2).then_some(())
    });
    let waiting = cluster.spawn(&["wait", &id]);
    cluster.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(waiting.end(SOON).0, 130);
    assert_eq!(cluster.job(&id).state(), "Cancelled");
    assert_eq!(machine::with_word(&nap), []);
    let again = cluster.json(&["cancel", &id]);
    assert_eq!(
        (&again["cancelled"], &again["already_ended"]),
        (&serde_json::json!([]), &serde_json::json!([id]))
    );
    // A job that waits goes at once; one unknown id spoils the whole command.
    let other = cluster.submit_shell(1, &format!("sleep {nap}"));
    cluster
        .mlctl(&["cancel", &other, "99"])
        .refused(66, &["99"]);
    assert!(!cluster.job(&other).ended());
    cluster.mlctl(&["cancel", &other]).expect(0);
    assert_eq!(cluster.wait(&other, SOON), 130);
}

/// Variables of the ranks, by rank.
fn environments(cluster: &Cluster, id: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut ranks: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for line in cluster.log(id) {
        let (rank, pair) = line.split_once("] ").unwrap_or_else(|| panic!("{line}"));
        if let Some((key, value)) = pair.split_once('=') {
            ranks
                .entry(rank[1..].to_owned())
                .or_default()
                .insert(key.to_owned(), value.to_owned());
        }
    }
    ranks
}

#[test]
fn every_rank_gets_its_place_and_nothing_of_mlctls_own() {
    let cluster = Cluster::start(2, 0);
    let id = cluster.submit(&[
        "--nodes", "2", "--ranks", "2", "--name", "who", "--env", "MINE=a b", "--env", "RANK=9",
        "--", "env",
    ]);
    assert_eq!(cluster.wait(&id, SOON), 0);
    let job = cluster.job(&id);
    let ranks = environments(&cluster, &id);
    assert_eq!(ranks.len(), 4, "{ranks:#?}");
    let nodes = job.nodes();
    for (number, (rank, env)) in ranks.iter().enumerate() {
        let node = nodes[number / 2].as_str();
        let (local, node_rank) = ((number % 2).to_string(), (number / 2).to_string());
        for (key, value) in [
            ("RANK", rank.as_str()),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", &local),
            ("LOCAL_WORLD_SIZE", "2"),
            ("NODE_RANK", &node_rank),
            ("MASTER_ADDR", ranks["0"]["MASTER_ADDR"].as_str()),
            ("MASTER_PORT", ranks["0"]["MASTER_PORT"].as_str()),
            ("CUDA_VISIBLE_DEVICES", ""),
            ("NCCL_SOCKET_IFNAME", "lo"),
            ("GLOO_SOCKET_IFNAME", "lo"),
            ("MLCTL_JOB", &id),
            ("MLCTL_JOB_NAME", "who"),
            ("MLCTL_NODE", node),
            ("MLCTL_ATTEMPT", "1"),
            ("MINE", "a b"),
        ] {
            assert_eq!(
                env.get(key).map(String::as_str),
                Some(value),
                "{key} of rank {rank}"
            );
        }
        assert!(env.keys().any(|key| key.starts_with("PET_")), "{env:#?}");
        // The cluster's files hold keys and the job is another's: no variable of the daemons reaches it.
        assert!(
            !env.contains_key("MLCTL_CONFIG") && !env.contains_key("MLCTL_DEV_DIR"),
            "{env:#?}"
        );
    }
    let trace = |text: &str| text.split('-').nth(1).unwrap_or_default().to_owned();
    let of_job = trace(job.0["traceparent"].as_str().unwrap_or_default());
    assert_eq!(of_job.len(), 32, "{:#}", job.0);
    assert_eq!(
        trace(&ranks["3"]["TRACEPARENT"]),
        of_job,
        "one trace from the submit to the rank"
    );
}

#[test]
fn logs_are_followed_picked_and_tagged() {
    let cluster = Cluster::start(2, 0);
    let script =
        "echo out $RANK; echo err $RANK >&2; printf 'no newline'; sleep 2; echo; echo late";
    let id = cluster.submit_shell(2, script);
    let follow = cluster.spawn(&["logs", "-f", &id]);
    let early = follow.line("[1] out 1", SOON).at;
    let late = follow.line("late", SOON).at;
    assert!(
        late.duration_since(early) > Duration::from_secs(1),
        "a line is shown when it is printed, not at the end"
    );
    let (code, lines) = follow.end(SOON);
    assert_eq!((code, cluster.wait(&id, SOON)), (0, 0));
    for rank in 0..2 {
        let of_rank: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(&format!("[{rank}] ")))
            .collect();
        // The unfinished line may come in two pieces; nothing may come twice.
        for (text, count) in [
            (format!("out {rank}"), 1),
            (format!("err {rank}"), 1),
            ("late".to_owned(), 1),
        ] {
            assert_eq!(
                of_rank.iter().filter(|line| **line == text).count(),
                count,
                "{text}: {of_rank:#?}"
            );
        }
        assert!(of_rank.concat().contains("no newline"), "{of_rank:#?}");
    }
    let one = cluster.mlctl(&["logs", "--rank", "1", &id]).expect(0);
    assert!(
        !one.lines().is_empty() && one.lines().iter().all(|line| line.starts_with("[1] ")),
        "{}",
        one.text()
    );
    let json = cluster
        .mlctl(&["-o", "json", "logs", "--rank", "0", &id])
        .expect(0);
    let values: Vec<serde_json::Value> = json
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let stream = |text: &str| {
        values
            .iter()
            .find(|value| value["text"] == text)
            .map(|value| value["stream"].clone())
    };
    assert_eq!(
        (stream("out 0"), stream("err 0")),
        (Some("stdout".into()), Some("stderr".into())),
        "{values:#?}"
    );
    let picked = cluster.mlctl(&["logs", "--grep", "^(out|err) [01]$", "--tail", "1", &id]);
    assert_eq!(picked.expect(0).lines().len(), 1);
    let bad = cluster.mlctl(&["logs", "--grep", "(", &id]);
    bad.refused(64, &["--grep", "unclosed group"]);
    cluster.mlctl(&["logs", "77"]).refused(66, &["77"]);
}

#[test]
fn waiting_has_a_deadline_and_ctrl_c_leaves_the_job_alone() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    let script = format!("echo up; sleep {nap}");
    let run = cluster.spawn(&["run", "--no-code", "--", "sh", "-c", &script]);
    run.line("[0] up", SOON);
    run.send(nix::sys::signal::Signal::SIGINT);
    let begun = Instant::now();
    let lines = until("the farewell", SOON, || {
        let lines = run.lines();
        lines
            .iter()
            .any(|line| line.stderr && line.text.contains("goes on"))
            .then_some(lines)
    });
    assert_eq!(run.end(SOON).0, 75);
    assert!(begun.elapsed() < Duration::from_secs(5), "{lines:#?}");
    assert_eq!(cluster.job("1").state(), "Running");
    assert!(!machine::with_word(&nap).is_empty());
    let waited = cluster
        .mlctl(&["wait", "--timeout", "1", "1"])
        .refused(75, &["it lives"]);
    assert!(
        waited.wall >= Duration::from_secs(1) && waited.wall < Duration::from_secs(5),
        "{}",
        waited.text()
    );
    cluster.mlctl(&["cancel", "1"]).expect(0);
    assert_eq!(cluster.wait("1", SOON), 130);
}
