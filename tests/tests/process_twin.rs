//! Faults that other queues of this kind were seen to fail on, each a test with its name.
//! Does NOT repeat what has a place of its own: power cuts (process_power), full disks, claimed identities on every call (process_trust).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mlctl_proto::api::Job;
use mlctl_proto::limits::CLIENT_RETRY_MS;
use mlctl_tests::budget::full;
use mlctl_tests::process::client::{Client, Key};
use mlctl_tests::process::command;
use mlctl_tests::process::faults::Deck;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::ledger::wrong_starts;
use mlctl_tests::process::load::{held, listed, probe};
use mlctl_tests::process::trial::seed;
use mlctl_tests::process::{Cluster, raw::Raw, until, workload::nap};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// On a machine that does something else as well.
const AT_ONCE: Duration = Duration::from_secs(3);

fn key(round: u64, number: u64) -> Key {
    (u128::from(round) << 64 | u128::from(number)).to_be_bytes()
}

/// The names that probes have written down.
fn started(work: &Path) -> Vec<String> {
    let text = fs::read_to_string(work.join("starts")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn submit_probe(client: &mut Client, work: &Path, key: Key, name: &str, gpus: u32) -> String {
    let mut spec = probe(name, work);
    spec.gpus = gpus;
    let reply = client.submit(key, &spec.canonical_json());
    reply.expect("no client is left without an answer").job
}

/// Waits until all of `jobs` have ended, and returns them. A hundred jobs are many processes for a busy machine.
fn ended(client: &mut Client, jobs: &[String]) -> Vec<Job> {
    until("the end of every job", 4 * SOON, || {
        let all: Vec<Job> = jobs.iter().filter_map(|id| client.get(id).ok()).collect();
        let over = |job: &Job| ["Completed", "Failed", "Cancelled"].contains(&job.state.as_str());
        (all.len() == jobs.len() && all.iter().all(over)).then_some(all)
    })
}

/// Each of `jobs` was started once, in one attempt, and completed.
#[track_caller]
fn ran_once(fleet: &Fleet, jobs: &[Job]) {
    let work = fleet.work();
    let starts = fs::read_to_string(work.join("starts")).unwrap_or_default();
    let all: Vec<_> = jobs.iter().map(listed).collect();
    assert_eq!(
        wrong_starts(&starts, &all.iter().collect::<Vec<_>>()),
        [""; 0]
    );
    let again: Vec<&Job> = jobs.iter().filter(|job| job.attempts.len() != 1).collect();
    assert!(again.is_empty(), "{again:?}");
    assert!(!work.join("doubles").exists(), "two processes of one job");
}

#[test]
fn a_leader_killed_while_it_dispatches_starts_nothing_twice_and_leaves_nothing_stuck() {
    const JOBS: u64 = 120;
    let mut fleet = Fleet::start(&Plan::default());
    let mut deck = Deck::new(seed(), false);
    let (context, work) = (fleet.context().clone(), fleet.work());
    let mut asks = Client::new(&context, 0);
    for round in 0..if full() { 20 } else { 3 } {
        let after = deck.between(1, 60) as usize;
        let leader = fleet.leader();
        let before = started(&work).len();
        let jobs: Vec<String> = std::thread::scope(|scope| {
            let (context, work) = (&context, &work);
            // Four at once: the leader dispatches while it takes more.
            let clients: Vec<_> = (0..4)
                .map(|number| {
                    scope.spawn(move || {
                        let mut client = Client::new(context, number);
                        let own = (0..JOBS).filter(|one| one % 4 == number as u64);
                        let name = |one: u64| format!("short-{round}-{one}");
                        own.map(|one| {
                            submit_probe(&mut client, work, key(round, one), &name(one), 0)
                        })
                        .collect::<Vec<_>>()
                    })
                })
                .collect();
            let begun = Instant::now();
            while started(work).len() < before + after && begun.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(1));
            }
            fleet.kill(&[&leader]);
            let submitted = clients.into_iter().map(|one| one.join().expect("answered"));
            submitted.flatten().collect()
        });
        assert_eq!(jobs.iter().collect::<BTreeSet<_>>().len(), JOBS as usize);
        ran_once(&fleet, &ended(&mut asks, &jobs));
        println!("round {round}: {leader} killed after {after} starts");
        fleet.start_one(&leader);
        fleet.wait_whole();
    }
}

#[test]
fn a_frozen_agent_keeps_no_other_from_starting_at_once() {
    let mut fleet = Fleet::start(&Plan {
        nodes: 3,
        gpus: 4,
        ..Plan::default()
    });
    let (context, work) = (fleet.context().clone(), fleet.work());
    let mut client = Client::new(&context, 0);
    let frozen = ["n1", "n1-launcher"];
    frozen
        .iter()
        .for_each(|name| fleet.signal(name, Signal::SIGSTOP));
    let mut wave = |round: u64, count: u64, wanted: usize| {
        let before = started(&work).len();
        let begun = Instant::now();
        let jobs: Vec<String> = (0..count)
            .map(|one| {
                let name = format!("wave-{round}-{one}");
                submit_probe(&mut client, &work, key(round, one), &name, 1)
            })
            .collect();
        until("the starts on the other nodes", SOON, || {
            (started(&work).len() >= before + wanted).then_some(())
        });
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{wanted} of {count} started after {took:?}");
        println!("wave {round}: {wanted} of {count} started within {took:?}");
        jobs
    };
    // Nobody knows yet that it is frozen: it gets its share, which has to wait for it.
    let mut jobs = wave(0, 12, 8);
    let mut asks = Client::new(&context, 1);
    until("the frozen node to be known as unreachable", SOON, || {
        let nodes = asks.nodes().ok()?.nodes;
        let one = nodes.into_iter().find(|node| node.name == "n1")?;
        (one.liveness == "Unreachable").then_some(())
    });
    jobs.extend(wave(1, 8, 8));
    frozen
        .iter()
        .for_each(|name| fleet.signal(name, Signal::SIGCONT));
    ran_once(&fleet, &ended(&mut asks, &jobs));
    fleet.wait_whole();
}

#[test]
fn a_frozen_leader_leaves_every_client_inside_its_deadline() {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let mut fleet = Fleet::start(&Plan {
        gpus: 1,
        ..Plan::default()
    });
    let mut client = Client::new(fleet.context(), 0);
    // More than there are GPUs, so that some wait; those are cancelled.
    let mut spec = held("held");
    spec.command.0 = vec!["sleep".to_owned(), nap()];
    let waiting: Vec<String> = (0..8)
        .map(|number| {
            let reply = client.submit(key(1, number), &spec.canonical_json());
            reply.expect("a whole fleet takes jobs").job
        })
        .collect();
    let leader = fleet.leader();
    fleet.signal(&leader, Signal::SIGSTOP);
    let deadline = Duration::from_millis(CLIENT_RETRY_MS);
    let slowest = std::thread::scope(|scope| {
        let fleet = &fleet;
        let mut commands = Vec::new();
        for (number, order) in ORDERS.iter().enumerate() {
            let context = fleet.context_file(order);
            let job = &waiting[number + 2];
            for words in [
                &["submit", "-q", "--no-code", "--gpus", "1", "--", "true"][..],
                &["jobs"],
                &["show", &waiting[0]],
                &["cancel", job],
            ] {
                let command = fleet.command(&context, words);
                commands.push(scope.spawn(move || command::run(command, deadline)));
            }
        }
        let outputs = commands
            .into_iter()
            .map(|one| one.join().expect("it ended"));
        outputs.map(|output| output.expect(0).wall).max()
    });
    println!("the slowest of 24 commands took {slowest:?}");
    let new = client.hello(0).is_ok() || client.hello(1).is_ok();
    assert!(new, "two of three answer");
    fleet.signal(&leader, Signal::SIGCONT);
    fleet.wait_whole();
    let all = client.list().expect("listed");
    let cancelled = all.iter().filter(|job| job.state == "Cancelled").count();
    assert_eq!((all.len(), cancelled), (8 + 6, 6), "{all:?}");
}

/// What the cluster still does with one coordinator away.
#[track_caller]
fn goes_on(fleet: &Fleet, round: u64) {
    let mut client = Client::new(fleet.context(), 0);
    let name = format!("meanwhile-{round}");
    let job = submit_probe(&mut client, &fleet.work(), key(7, round), &name, 0);
    let jobs = ended(&mut client, &[job]);
    assert_eq!(jobs[0].state, "Completed", "{jobs:?}");
}

#[test]
fn a_deleted_data_directory_does_not_vote_again() {
    let mut fleet = Fleet::start(&Plan::default());
    let leader = fleet.leader();
    let follower = fleet
        .coordinators()
        .into_iter()
        .find(|name| *name != leader);
    let follower = follower.expect("three coordinators");
    for (round, (name, lost)) in [
        (&follower, "disk/data"),
        (&follower, "disk/data/raft"),
        (&leader, "disk/data"),
    ]
    .into_iter()
    .enumerate()
    {
        if fleet.is_up(name) {
            fleet.kill(&[name]);
        }
        let kept = fleet.home(name).join("kept");
        let dir = fleet.home(name).join(lost);
        fs::rename(&dir, &kept).expect("moved away");
        let said = fleet.log(name).len();
        fleet.start_one(name);
        let status = fleet.ended_with(name);
        assert!(!status.success(), "{status}");
        let text = fleet.log(name).split_off(said);
        for word in ["is empty", "must not vote again", "new member id"] {
            assert!(text.contains(word), "nothing about `{word}`: {text}");
        }
        goes_on(&fleet, round as u64);
        // What a refused start left is nobody's; the disk is found again.
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("removed");
        }
        fs::rename(&kept, &dir).expect("moved back");
        fleet.start_one(name);
        fleet.wait_whole();
    }
    // For good: both come back as members that never voted, one after the other, and are the majority that decides.
    for (round, name) in [&follower, &leader].into_iter().enumerate() {
        fleet.kill(&[name]);
        fs::remove_dir_all(fleet.home(name).join("disk/data")).expect("removed");
        goes_on(&fleet, 10 + round as u64);
        fleet.start_coordinator(name, &["--rejoin"]);
        fleet.wait_whole();
    }
    let third = fleet
        .coordinators()
        .into_iter()
        .find(|name| ![&follower, &leader].contains(&name));
    fleet.kill(&[&third.expect("three coordinators")]);
    goes_on(&fleet, 12);
}

#[test]
fn an_identity_that_a_client_claims_changes_nothing() {
    let cluster = Cluster::start(1, 0);
    let (alice, bob) = (cluster.user("alice", false), cluster.user("bob", false));
    let hers = Raw::connect(&alice, 0)
        .and_then(|raw| raw.hello().map_err(|status| status.to_string()))
        .expect("answered");
    let output = cluster.mlctl_as(
        &alice,
        &["submit", "-q", "--no-code", "--", "sleep", &nap()],
    );
    let job = output.expect(0).stdout.trim().to_owned();
    cluster.wait_state(&job, "Running", SOON);
    for place in 0..3 {
        for (id, name) in [
            (hers.user_id.as_str(), "alice"),
            ("root", "root"),
            ("system", "system"),
        ] {
            let words = [
                ("mlctl-actor-id", id),
                ("mlctl-actor-name", name),
                ("mlctl-actor-admin", "true"),
                ("mlctl-actor-system", "true"),
                ("user", name),
            ];
            let forged = Raw::connect(&bob, place).expect("connected");
            let forged = words
                .into_iter()
                .fold(forged, |raw, (key, value)| raw.saying(key, value));
            let refused = forged
                .cancel(&key(9, place as u64), &[&job])
                .expect_err("bob cancels nothing of alice's");
            assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
        }
    }
    assert_eq!(cluster.job(&job).state(), "Running");
    cluster.mlctl_as(&alice, &["cancel", &job]).expect(0);
    assert_eq!(cluster.wait(&job, SOON), 130);
}
