//! A node's program is replaced while jobs run: agents and keepers of two builds work together, whichever is older.
//! Does NOT mix versions of coordinators.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mlctl_agent::keeper::protocol::{PROTOCOL, PROTOCOL_OLDEST};
use mlctl_proto::spec::JobSpec;
use mlctl_tests::process::client::Client;
use mlctl_tests::process::fleet::{Build, Fleet, Plan};
use mlctl_tests::process::until;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);

/// One rank on each of two nodes that count until they are told to end, with 7.
fn counting(work: &Path, name: &str) -> JobSpec {
    let dir = work.display();
    let script = format!(
        "i=0; until [ -e {dir}/finish ]; do i=$((i+1)); echo line $i; sleep 0.03; done; echo $i >{dir}/{name}.$RANK; exit 7"
    );
    let mut spec = JobSpec::new(["sh", "-c", &script].map(str::to_owned).to_vec());
    spec.name = Some(name.to_owned());
    spec.nodes = 2;
    spec
}

fn submit(fleet: &Fleet, number: u8, name: &str) -> String {
    let spec = counting(&fleet.work(), name);
    let mut client = Client::new(fleet.context(), 0);
    let reply = client.submit([number; 16], &spec.canonical_json());
    let job = reply.expect("a whole fleet takes jobs").job;
    until(&format!("job {job} to run"), SOON, || {
        (fleet.job(&job).state() == "Running").then_some(())
    });
    job
}

/// The nodes' agents and launchers end and are started again, as `build`.
fn replace(fleet: &mut Fleet, build: Build, how: Signal) {
    fleet.install(build);
    for node in fleet.nodes() {
        for name in [node.clone(), format!("{node}-launcher")] {
            fleet.signal(&name, how);
            fleet.ended_with(&name);
            fleet.start_one(&name);
        }
    }
    fleet.wait_whole();
}

/// The protocol that the keepers of a job speak.
fn protocols(fleet: &Fleet, job: &str) -> Vec<u64> {
    let all = fleet.nodes().into_iter().map(|node| {
        let folder = fleet.home(&node).join("data/jobs").join(job).join("1");
        let text = fs::read(folder.join("keeper.json")).expect("the keeper wrote it");
        let identity: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        identity["protocol"].as_u64().expect("a number")
    });
    all.collect()
}

#[test]
fn jobs_run_on_under_agents_and_launchers_of_two_builds() {
    let mut fleet = Fleet::start(&Plan::default());
    fs::create_dir_all(fleet.work()).expect("a directory");
    let (old, new) = (u64::from(PROTOCOL_OLDEST), u64::from(PROTOCOL));
    replace(&mut fleet, Build::Before, Signal::SIGTERM);
    let first = submit(&fleet, 1, "first");
    let stopped = submit(&fleet, 2, "stopped");
    assert_eq!(protocols(&fleet, &first), [old, old]);
    // Up: new agents find keepers of the build before.
    replace(&mut fleet, Build::This, Signal::SIGKILL);
    let second = submit(&fleet, 3, "second");
    assert_eq!(protocols(&fleet, &second), [new, new]);
    assert_eq!(protocols(&fleet, &first), [old, old]);
    fleet.mlctl(&["cancel", &stopped]).expect(0);
    assert_eq!(fleet.ended(&stopped, SOON).state(), "Cancelled");
    // And down: agents of the build before find keepers of the new one.
    replace(&mut fleet, Build::Before, Signal::SIGTERM);
    let third = submit(&fleet, 4, "third");
    assert_eq!(protocols(&fleet, &third), [old, old]);
    // Once more up, so that every build has seen keepers of both.
    replace(&mut fleet, Build::This, Signal::SIGTERM);
    for job in [&first, &second, &third] {
        let shown = fleet.job(job);
        assert_eq!((shown.state(), shown.attempts().len()), ("Running", 1));
    }
    fs::write(fleet.work().join("finish"), "").expect("written");
    for (job, name) in [(&first, "first"), (&second, "second"), (&third, "third")] {
        let ended = fleet.ended(job, SOON);
        assert_eq!(
            (ended.exit_code(), ended.attempts().len()),
            (7, 1),
            "{name}"
        );
        let lines = fleet.lines(job);
        for rank in 0..2 {
            // One that another's failure ended first wrote no count; its log is whole all the same.
            let count = fs::read_to_string(fleet.work().join(format!("{name}.{rank}")));
            let own: Vec<&str> = lines
                .iter()
                .filter_map(|line| line.split_once(&format!("[{rank}] ")).map(|(_, rest)| rest))
                .collect();
            let wanted: Vec<String> = (1..=own.len())
                .map(|number| format!("line {number}"))
                .collect();
            assert_eq!(own, wanted, "{name}, rank {rank}");
            if let Ok(count) = count {
                assert_eq!(count.trim(), own.len().to_string(), "{name}, rank {rank}");
            }
        }
    }
}
