//! `mlctl dev` itself: its processes, what it restarts, stopping without a trace, healing an old directory.
//! Does NOT test what the cluster does with jobs.

use std::time::Duration;

use mlctl_tests::process::workload::nap;
use mlctl_tests::process::{Cluster, Daemon, machine, until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);

fn shape(daemons: &[Daemon]) -> Vec<(&str, &str)> {
    let mut shape: Vec<(&str, &str)> = daemons
        .iter()
        .filter(|one| one.role != "keeper")
        .map(|one| (one.role.as_str(), one.name.as_str()))
        .collect();
    shape.sort_unstable();
    shape
}

#[test]
fn it_tells_its_timers_and_its_processes() {
    let cluster = Cluster::prepare();
    let output = cluster.up(&[]);
    for word in [
        "node_timeout 3000 ms",
        "lost_after 3000 ms",
        "heartbeat 500 ms",
    ] {
        assert!(
            output.stderr.contains(word),
            "timers are told: {}",
            output.text()
        );
    }
    let wanted = [
        ("agent", "dev-0"),
        ("agent", "dev-1"),
        ("coordinator", "c1"),
        ("coordinator", "c2"),
        ("coordinator", "c3"),
        ("launcher", "dev-0"),
        ("launcher", "dev-1"),
    ];
    let daemons = cluster.daemons();
    assert_eq!(shape(&daemons), wanted);
    assert!(
        daemons
            .iter()
            .all(|one| one.pid > 1 && machine::alive(one.pid)),
        "{daemons:#?}"
    );
    assert_eq!(
        daemons.iter().filter(|one| one.leader).count(),
        1,
        "{daemons:#?}"
    );
}

#[test]
fn an_existing_directory_heals_and_keeps_its_data() {
    let cluster = Cluster::prepare();
    cluster.up(&[]);
    let ended = cluster.submit_shell(1, "echo kept; exit 3");
    assert_eq!(cluster.wait(&ended, SOON), 3);
    let nap = nap();
    let running = cluster.submit_shell(1, &format!("echo up; sleep {nap}"));
    cluster.wait_line(&running, "[0] up", SOON);
    cluster.mlctl(&["dev", "stop"]).expect(0);
    let left: Vec<_> = machine::around(&cluster.dir())
        .into_iter()
        .chain(machine::with_word(&nap))
        .collect();
    assert_eq!(left, [], "`dev stop` leaves no process");
    cluster
        .mlctl(&["dev", "status"])
        .refused(66, &["no dev cluster"]);
    // Once more, and one node more.
    cluster.up(&["--nodes", "3"]);
    let job = cluster.job(&ended);
    assert_eq!((job.state(), job.exit_code()), ("Failed", 3), "{:#}", job.0);
    assert_eq!(cluster.log(&ended), ["[0] kept"]);
    let restarted = cluster.wait_until(&running, "restarted or ended", SOON, |job| {
        job.attempts().len() > 1 || job.ended()
    });
    assert!(
        restarted.attempts().len() == 2,
        "its keeper was lost, which is not its fault: {:#}",
        restarted.0
    );
    assert_eq!(shape(&cluster.daemons()).len(), 9);
    cluster.mlctl(&["cancel", &running]).expect(0);
    assert_eq!(cluster.wait(&running, SOON), 130);
    cluster
        .mlctl(&["dev", "--detach", "--nodes", "2"])
        .refused(64, &["3 nodes"]);
    // Starting what runs is harmless.
    let before = cluster.daemons();
    cluster.up(&[]);
    assert_eq!(shape(&cluster.daemons()), shape(&before));
    assert!(
        before.iter().all(|one| machine::alive(one.pid)),
        "{before:#?}"
    );
}

#[test]
fn what_dies_is_restarted_and_what_was_killed_is_not() {
    let cluster = Cluster::start(2, 0);
    for (role, name) in [
        ("coordinator", "c1"),
        ("agent", "dev-0"),
        ("launcher", "dev-1"),
    ] {
        let old = cluster.pid(role, name);
        machine::kill(old);
        let found =
            |one: &Daemon| one.role == role && one.name == name && one.pid > 1 && one.pid != old;
        until("its successor", SOON, || {
            cluster.daemons().into_iter().find(found)
        });
    }
    cluster.mlctl(&["dev", "kill", "dev-1"]).expect(0);
    cluster.mlctl(&["dev", "kill", "c2"]).expect(0);
    // Longer than the supervisor's pause before a restart.
    std::thread::sleep(Duration::from_millis(1500));
    let down: Vec<Daemon> = cluster
        .daemons()
        .into_iter()
        .filter(|one| one.pid == 0)
        .collect();
    assert_eq!(
        shape(&down),
        [
            ("agent", "dev-1"),
            ("coordinator", "c2"),
            ("launcher", "dev-1")
        ]
    );
    cluster
        .mlctl(&["dev", "kill", "dev-9"])
        .refused(64, &["dev-9", "dev-0"]);
    cluster.up(&[]);
    assert!(
        cluster.daemons().iter().all(|one| one.pid > 1),
        "`mlctl dev` heals: {:#?}",
        cluster.daemons()
    );
    assert_eq!(cluster.liveness("dev-1"), "Ready");
}

#[test]
fn ctrl_c_ends_a_cluster_in_the_foreground() {
    let cluster = Cluster::prepare();
    let dev = cluster.spawn(&["dev", "--nodes", "1"]);
    dev.line("Ctrl-C ends it", Duration::from_secs(60));
    assert_eq!(cluster.liveness("dev-0"), "Ready");
    dev.send(Signal::SIGINT);
    assert_eq!(dev.end(SOON).0, 0);
    until("the end of all", SOON, || {
        machine::around(&cluster.dir()).is_empty().then_some(())
    });
}

/// Nobody is left alone: daemons end with their supervisor, and the next `mlctl dev` takes over what the ranks left.
#[test]
fn a_killed_supervisor_takes_its_daemons_with_it() {
    let cluster = Cluster::start(1, 0);
    let id = cluster.submit_shell(1, "exit 2");
    assert_eq!(cluster.wait(&id, SOON), 2);
    let daemons = cluster.daemons();
    let supervisor = machine::around(&cluster.dir())
        .into_iter()
        .find(|one| one.words.contains("dev-supervisor"))
        .expect("a supervisor");
    machine::kill(supervisor.pid);
    until("the end of the daemons", SOON, || {
        daemons
            .iter()
            .all(|one| !machine::alive(one.pid))
            .then_some(())
    });
    cluster.up(&[]);
    assert_eq!(cluster.job(&id).exit_code(), 2);
}
