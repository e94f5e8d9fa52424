//! Jobs that fail and start again, on real processes: as their spec says, with a wait; what kills its keepers again and again is held
//! until a person lets it go; what is over is tried again as another job. Does NOT lose nodes: process_faults does.

use std::fs;
use std::time::Duration;

use mlctl_tests::process::{Cluster, until};

const SOON: Duration = Duration::from_secs(30);

/// A spec in a file of the cluster's working directory.
fn spec(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.work().join(name);
    fs::write(&path, text).expect("the spec is written");
    path.to_string_lossy().into_owned()
}

#[test]
fn a_listed_exit_code_starts_again_and_another_one_does_not() {
    let cluster = Cluster::start(2, 0);
    let count = cluster.work().join("count");
    let script = format!(
        "echo x >> {0}; case $(wc -l < {0}) in 1|2) exit 17;; 3) exit 0;; *) exit 9;; esac",
        count.display()
    );
    let text = format!(
        "command = ['sh', '-c', '{script}']\n[retry]\nmax = 3\non = ['exit:17', 'node_lost']\n"
    );
    let spec = spec(&cluster, "retry.toml", &text);
    let id = cluster.submit(&[&spec]);
    assert_eq!(cluster.wait(&id, SOON), 0);
    let job = cluster.job(&id);
    assert_eq!((job.state(), job.attempts().len()), ("Completed", 3));
    let retries = &job.0["retries"];
    assert_eq!(
        (&retries["restarts"], &retries["used"], &retries["max"]),
        (&2.into(), &2.into(), &3.into())
    );
    let ended = job.attempts()[0]["ended_ms"].as_i64().expect("it ended");
    let again = job.attempts()[1]["started_ms"]
        .as_i64()
        .expect("it started");
    assert!(again - ended >= 200, "it waited {} ms only", again - ended);
    let shown = cluster.mlctl(&["show", &id]).expect(0).stdout;
    assert!(
        shown.contains("restarts 2, 2 of the 3 that the spec allows"),
        "{shown}"
    );

    // The same spec once more: its file counts on, and 9 is not listed.
    let id = cluster.submit(&[&spec]);
    assert_eq!(cluster.wait(&id, SOON), 9);
    assert_eq!(cluster.job(&id).attempts().len(), 1);
    let failed = cluster.mlctl(&["retry", &id]).expect(0).stdout;
    assert!(
        failed.contains(&format!("job {id} was over: queued anew as job 3")),
        "{failed}"
    );
    assert_eq!(cluster.wait("3", SOON), 9);
    let job = cluster.job("3");
    assert_eq!(job.0["retry_of"], serde_json::json!(id));
}

#[test]
fn what_kills_its_keepers_is_held_until_a_person_lets_it_go() {
    let cluster = Cluster::start(2, 0);
    let calm = cluster.work().join("calm");
    let script = format!("test -e {} || kill -KILL $PPID; exit 4", calm.display());
    let id = cluster.submit_shell(1, &script);
    let waits = cluster.spawn(&["wait", &id]);
    let job = cluster.wait_state(&id, "Held", SOON);
    let ends: Vec<&str> = (1..=3).map(|number| job.attempt_end(number)).collect();
    assert_eq!(ends, ["KeeperLost"; 3], "{:#}", job.0);
    assert_eq!(job.0["retries"]["hold"], "SuspectedPoison");
    assert_eq!(job.0["retries"]["losses"], 3);
    let why = cluster.mlctl(&["why", &id]).expect(0).stdout;
    assert!(
        why.contains("SuspectedPoison") && why.contains("`mlctl retry`"),
        "{why}"
    );
    let listed = cluster.mlctl(&["jobs"]).expect(0).stdout;
    assert!(
        listed.contains("Held") && listed.contains("SuspectedPoison"),
        "{listed}"
    );

    fs::write(&calm, "").expect("written");
    let answer = cluster.json(&["retry", &id]);
    assert_eq!(answer["released"], serde_json::json!([id]));
    let (code, _) = waits.end(SOON);
    assert_eq!(code, 4, "a held job is not over: who waits for it goes on");
    let job = cluster.job(&id);
    assert_eq!((job.state(), job.attempts().len()), ("Failed", 4));
}

#[test]
fn a_back_off_is_shown_and_cut_short() {
    let cluster = Cluster::start(1, 0);
    let text = "command = ['sh', '-c', 'exit 7']\n[retry]\nmax = 50\non = ['exit:7']\n";
    let spec = spec(&cluster, "again.toml", text);
    let id = cluster.submit(&[&spec]);
    // After some failures the waits are long enough to be seen.
    let job = cluster.wait_until(&id, "backing off", SOON, |job| {
        job.0["retries"]["restarts"].as_u64() >= Some(5) && job.state() == "Pending"
    });
    assert!(
        job.0["reason"]
            .as_str()
            .expect("it says why")
            .starts_with("RetryBackoff: ")
    );
    let why = until("why says so", SOON, || {
        let why = cluster.json(&["why", &id]);
        (why["reasons"][0]["code"] == "RetryBackoff").then_some(why)
    });
    assert_eq!(why["state"], "Pending");
    cluster.mlctl(&["retry", &id]).expect(0);
    cluster.wait_until(&id, "begun anew", SOON, |job| {
        job.attempts().len() >= 6 && job.0["retries"]["restarts"].as_u64() <= Some(2)
    });
    cluster.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 130);
}
