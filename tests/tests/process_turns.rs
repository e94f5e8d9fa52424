//! When a job's turn comes, on real processes: holds, chains, start times, deadlines, changes in place, and the exit codes of what is refused. Does NOT
//! fail jobs that retry: process_retry does.

use std::time::Duration;

use mlctl_tests::process::Cluster;

const SOON: Duration = Duration::from_secs(30);

/// The leading reason why a job waits.
fn reason(cluster: &Cluster, id: &str) -> String {
    let why = cluster.json(&["why", id]);
    why["reasons"][0]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn detail(cluster: &Cluster, id: &str) -> String {
    let job = cluster.job(id);
    job.0["outcome"]["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn what_is_held_starts_when_it_is_released() {
    let cluster = Cluster::start(1, 0);
    let id = cluster.submit(&["--hold", "--", "true"]);
    let job = cluster.wait_state(&id, "Held", SOON);
    assert_eq!(job.0["turn"]["hold"]["word"], "HeldByUser");
    assert_eq!(reason(&cluster, &id), "HeldByUser");
    let released = cluster.json(&["release", &id]);
    assert_eq!(released["jobs"], serde_json::json!([id]));
    assert_eq!(cluster.wait(&id, SOON), 0);
    cluster.mlctl(&["release", &id]).expect(73);
    cluster.mlctl(&["hold", &id]).expect(73);
}

#[test]
fn a_chain_goes_on_as_its_first_job_ends() {
    let cluster = Cluster::start(1, 0);
    let first = cluster.submit(&["--hold", "--", "sh", "-c", "exit 3"]);
    let after = |kind: &str, on: &str| {
        let after = format!("{kind}:{on}");
        cluster.submit(&["--after", &after, "--", "true"])
    };
    let (ok, notok, any) = (
        after("ok", &first),
        after("notok", &first),
        after("any", &first),
    );
    let last = after("ok", &ok);
    assert_eq!(reason(&cluster, &ok), "Dependency");
    cluster.mlctl(&["release", &first]).expect(0);
    assert_eq!(cluster.wait(&first, SOON), 3);
    for id in [&ok, &last] {
        assert_eq!(cluster.wait(id, SOON), 130);
        let why = detail(&cluster, id);
        assert!(why.contains("could never start"), "{why}");
    }
    for id in [&notok, &any] {
        assert_eq!(cluster.wait(id, SOON), 0);
    }
    let submit =
        |after: &str| cluster.mlctl(&["submit", "--no-code", "--after", after, "--", "true"]);
    submit("ok:99").expect(66);
    submit(&format!("ok:{first}")).expect(73);
    submit("412").expect(64);
}

#[test]
fn a_start_time_is_waited_for_and_a_deadline_is_not_outlived() {
    let cluster = Cluster::start(1, 0);
    let later = cluster.submit(&["--begin", "+2h", "--", "true"]);
    let soon = cluster.submit(&["--begin", "+2s", "--", "true"]);
    let late = cluster.submit(&["--hold", "--start-by", "+2s", "--", "true"]);
    assert_eq!(reason(&cluster, &later), "StartTime");
    assert_eq!(cluster.wait(&soon, SOON), 0);
    assert_eq!(cluster.wait(&late, SOON), 130);
    assert!(detail(&cluster, &late).contains("start_by"));
    cluster
        .mlctl(&["update", &later, "--begin", "none"])
        .expect(0);
    assert_eq!(cluster.wait(&later, SOON), 0);
    let past = [
        "submit",
        "--no-code",
        "--end-by",
        "2020-01-01T00:00Z",
        "--",
        "true",
    ];
    cluster.mlctl(&past).expect(64);
}

#[test]
fn jobs_change_in_place_and_what_is_refused_has_its_exit_code() {
    let cluster = Cluster::start(2, 0);
    let id = cluster.submit(&["--hold", "--nodes", "2", "--", "true"]);
    let update = |flags: &[&str]| cluster.mlctl(&[&["update", &id], flags].concat());
    update(&[
        "--nodes", "1", "--name", "small", "--class", "low", "--time", "1h",
    ])
    .expect(0);
    let job = cluster.job(&id);
    assert_eq!(
        (&job.0["name"], &job.0["nodes"]),
        (&"small".into(), &1.into())
    );
    assert_eq!(job.0["turn"]["class"], "low");
    update(&[]).expect(64);
    update(&["--nodes", "0"]).expect(64);
    update(&["--nodes", "3"]).refused(64, &["could ever run it"]);
    update(&["--at-once", "2"]).expect(64);
    cluster
        .mlctl(&["update", "99", "--class", "low"])
        .expect(66);
    let bob = cluster.user("bob", false);
    cluster
        .mlctl_as(&bob, &["update", &id, "--class", "low"])
        .expect(77);
    cluster
        .mlctl_as(&bob, &["hold", "--where", "name=small"])
        .expect(66);
    let released = cluster.json(&["release", "--where", "name=sm*", "--where", "state=held"]);
    assert_eq!(released["jobs"], serde_json::json!([id]));
    assert_eq!(cluster.wait(&id, SOON), 0);
    cluster.mlctl(&["update", &id, "--name", "x"]).expect(73);
}
