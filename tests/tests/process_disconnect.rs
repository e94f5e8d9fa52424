//! Nodes that are cut off while their ranks run on: what each `on_disconnect` promises, seen from the process table, locks and stamps.
//! Does NOT believe what the cluster says of ranks.
//!
//! The numbers of `--full` are the ones that are promised; otherwise all of them are about a third.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mlctl_proto::spec::{CheckpointSpec, JobSpec, OnDisconnect};
use mlctl_tests::budget::full;
use mlctl_tests::process::client::Client;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::{Job, machine, netns, until};
use mlctl_tests::tidy::skips;

const SOON: Duration = Duration::from_secs(20);

/// A rank that began: `RANK.ATTEMPT`, its process, its node, and when, milliseconds UTC.
#[derive(Debug, Clone)]
struct Began {
    rank: u32,
    attempt: u32,
    pid: i32,
    node: String,
    at_ms: u64,
}

/// Each rank holds a lock as long as it lives, whatever ends it; who finds it taken writes that down. Rank 0 stamps its end and claims a
/// success when it is told to go; rank 1 does not listen.
fn watched(policy: OnDisconnect, ranks: u32, work: &Path) -> JobSpec {
    let dir = work.display();
    let script = format!(
        "me=$RANK.$MLCTL_ATTEMPT; now() {{ date +%s%3N; }}
         exec 9>>{dir}/lock.$RANK; flock -n 9 || echo $me >>{dir}/doubles
         end() {{ [ -z \"$MLCTL_CHECKPOINT_DIR\" ] || {{ mkdir $MLCTL_CHECKPOINT_DIR/.new; mv $MLCTL_CHECKPOINT_DIR/.new $MLCTL_CHECKPOINT_DIR/step-9; }}
         echo $me $(now) >>{dir}/ends; exit 0; }}
         trap end TERM; [ $RANK = 0 ] || trap '' TERM
         echo $me $$ $MLCTL_NODE $(now) >>{dir}/starts
         while :; do sleep 0.05; done"
    );
    let mut spec = JobSpec::new(["sh", "-c", &script].map(str::to_owned).to_vec());
    spec.name = Some("watched".to_owned());
    spec.ranks = Some(ranks);
    spec.on_disconnect = policy;
    spec
}

fn stamps(work: &Path, file: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(work.join(file)).unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| line.split(' ').map(str::to_owned).collect());
    lines.collect()
}

/// Every rank that ever began, in that order.
fn began(work: &Path) -> Vec<Began> {
    let all = stamps(work, "starts").into_iter().filter_map(|words| {
        let (rank, attempt) = words.first()?.split_once('.')?;
        Some(Began {
            rank: rank.parse().ok()?,
            attempt: attempt.parse().ok()?,
            pid: words.get(1)?.parse().ok()?,
            node: words.get(2)?.clone(),
            at_ms: words.get(3)?.parse().ok()?,
        })
    });
    all.collect()
}

/// Waits until all ranks of an attempt have begun.
#[track_caller]
fn ranks_of(work: &Path, attempt: u32, count: usize, deadline: Duration) -> Vec<Began> {
    until(&format!("the ranks of attempt {attempt}"), deadline, || {
        let mut all = began(work);
        all.retain(|one| one.attempt == attempt);
        (all.len() == count).then_some(all)
    })
}

fn now_ms() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(time.expect("after 1970").as_millis()).expect("not that far")
}

/// When each of the processes was seen to be gone, milliseconds UTC, looking every few milliseconds.
#[track_caller]
fn deaths(ranks: &[Began], deadline: Duration) -> BTreeMap<u32, u64> {
    let begun = Instant::now();
    let mut gone = BTreeMap::new();
    while gone.len() < ranks.len() {
        for one in ranks {
            if !gone.contains_key(&one.rank) && !machine::alive(one.pid) {
                gone.insert(one.rank, now_ms());
            }
        }
        assert!(begun.elapsed() < deadline, "{ranks:?} live on: {gone:?}");
        std::thread::sleep(Duration::from_millis(3));
    }
    gone
}

fn submit(fleet: &Fleet, spec: &JobSpec) -> String {
    let mut client = Client::new(fleet.context(), 0);
    let reply = client.submit([7; 16], &spec.canonical_json());
    reply.expect("a whole fleet takes jobs").job
}

fn liveness(fleet: &Fleet, node: &str) -> String {
    let reply = Client::new(fleet.context(), 0).nodes().expect("listed");
    let found = reply.nodes.into_iter().find(|one| one.name == node);
    found.expect("it is known").liveness
}

#[track_caller]
fn until_liveness(fleet: &Fleet, node: &str, wanted: &str, deadline: Duration) {
    until(&format!("{node} to be {wanted}"), deadline, || {
        (liveness(fleet, node) == wanted).then_some(())
    });
}

fn fleet(test: &str, plan: Plan) -> Option<Fleet> {
    if let Some(why) = netns::obstacle() {
        skips::skip(test, &why);
        return None;
    }
    let fleet = Fleet::start(&Plan {
        nodes: 3,
        hosts: true,
        ..plan
    });
    fs::create_dir_all(fleet.work()).expect("a directory");
    Some(fleet)
}

fn unplug(fleet: &Fleet, node: &str) -> u64 {
    fleet.net().expect("hosts of their own").unplug(node);
    now_ms()
}

fn heal(fleet: &Fleet) {
    fleet.net().expect("hosts of their own").heal();
}

#[track_caller]
fn no_doubles(work: &Path) {
    let doubles = stamps(work, "doubles");
    assert!(doubles.is_empty(), "two of one rank at once: {doubles:?}");
}

#[test]
fn fenced_ranks_are_gone_before_the_next_epoch_starts() {
    let third = if full() { 1 } else { 3 };
    let (lost, after, grace) = (20_000 / third, 12_000 / third, 2_000 / third);
    let plan = Plan {
        node_timeout_ms: 6_000 / third,
        lost_after_ms: lost,
        fence_ms: (after, grace),
        ..Plan::default()
    };
    let name = "process_disconnect::fenced_ranks_are_gone_before_the_next_epoch_starts";
    let Some(fleet) = fleet(name, plan) else {
        return;
    };
    let work = fleet.work();
    let job = submit(&fleet, &watched(OnDisconnect::Fence, 2, &work));
    let first = ranks_of(&work, 1, 2, SOON);
    let cut_ms = unplug(&fleet, &first[0].node);
    let gone = deaths(&first, Duration::from_millis(u64::from(lost) + 5_000));
    let second = ranks_of(&work, 2, 2, Duration::from_millis(u64::from(lost) + 10_000));
    no_doubles(&work);
    let since = |at: u64| i64::try_from(at - cut_ms).expect("not that long");
    let (term, kill) = (since(gone[&0]), since(gone[&1]));
    let next = second.iter().map(|one| since(one.at_ms)).min();
    let next = next.expect("two ranks");
    println!("after the cut: TERM {term} ms, KILL {kill} ms, the next epoch {next} ms");
    let stamped = stamps(&work, "ends");
    assert_eq!(stamped[0][0], "0.1", "rank 0 heard of it: {stamped:?}");
    // The last confirmed heartbeat was sent up to a heartbeat and a round of reads before the cut.
    let (lost, after, grace) = (i64::from(lost), i64::from(after), i64::from(grace));
    assert!((after - 1_200..after + 500).contains(&term), "TERM {term}");
    assert!(kill < after + grace + 500, "KILL {kill}");
    assert!(
        next > kill,
        "the next epoch began {next}, the old one ended {kill}"
    );
    assert!(next >= lost - 600, "nothing starts before {lost}: {next}");
    // Back again, it says how its part ended, and nobody listens.
    heal(&fleet);
    until_liveness(&fleet, &first[0].node, "Ready", SOON);
    std::thread::sleep(Duration::from_millis(700));
    let shown = fleet.job(&job);
    assert_eq!((shown.state(), shown.attempts().len()), ("Running", 2));
    assert_eq!(shown.attempt_end(1), "NodeLost");
}

/// The link is back after the fence and before its node is Lost: the end is told, and the job starts again for that.
#[test]
fn a_fence_is_told_when_the_link_is_back() {
    let plan = Plan {
        node_timeout_ms: 2_000,
        lost_after_ms: 60_000,
        fence_ms: (3_000, 500),
        ..Plan::default()
    };
    let name = "process_disconnect::a_fence_is_told_when_the_link_is_back";
    let Some(mut fleet) = fleet(name, plan) else {
        return;
    };
    let work = fleet.work();
    let job = submit(&fleet, &watched(OnDisconnect::Fence, 2, &work));
    let first = ranks_of(&work, 1, 2, SOON);
    // With the agent dead too: nobody but the keeper is there to do it.
    let node = first[0].node.clone();
    unplug(&fleet, &node);
    fleet.kill(&[&node]);
    deaths(&first, SOON);
    heal(&fleet);
    fleet.start_one(&node);
    ranks_of(&work, 2, 2, SOON);
    no_doubles(&work);
    let shown = fleet.job(&job);
    assert_eq!(shown.attempt_end(1), "NodeLost");
    let detail = shown.attempts()[0]["end"]["detail"].as_str();
    assert!(
        detail.is_some_and(|detail| detail.contains("fence")),
        "{detail:?}"
    );
}

#[test]
fn a_replaced_attempt_is_stopped_when_its_node_is_back_and_says_nothing_that_counts() {
    let plan = Plan {
        lost_after_ms: 3_000,
        ..Plan::default()
    };
    let name = "process_disconnect::a_replaced_attempt_is_stopped_when_its_node_is_back_and_says_nothing_that_counts";
    let Some(fleet) = fleet(name, plan) else {
        return;
    };
    let work = fleet.work();
    let mut spec = watched(OnDisconnect::Replace, 1, &work);
    spec.checkpoint = Some(CheckpointSpec::in_dir("ckpt"));
    let job = submit(&fleet, &spec);
    let first = ranks_of(&work, 1, 1, SOON);
    unplug(&fleet, &first[0].node);
    let second = ranks_of(&work, 2, 1, SOON);
    assert!(
        machine::alive(first[0].pid),
        "it runs on where it is cut off"
    );
    assert_ne!(first[0].node, second[0].node);
    heal(&fleet);
    until_liveness(&fleet, &first[0].node, "Ready", SOON);
    let back = now_ms();
    let gone = deaths(&first, SOON);
    let took = gone[&0].saturating_sub(back);
    println!("stopped {took} ms after its node was back");
    assert!(took <= 2_000, "{took} ms");
    let stamped = until("its own stamp", SOON, || stamps(&work, "ends").pop());
    assert_eq!(stamped[0], "0.1", "it claimed a success");
    // Its checkpoint and its good end are refused, whenever they come.
    std::thread::sleep(Duration::from_secs(1));
    let shown = fleet.job(&job);
    assert_eq!((shown.state(), shown.attempts().len()), ("Running", 2));
    assert_eq!(shown.attempt_end(1), "NodeLost");
    assert_eq!(shown.checkpoints(), []);
    assert!(machine::alive(second[0].pid));
}

#[test]
fn what_is_held_waits_for_its_node_or_an_admin() {
    let plan = Plan {
        lost_after_ms: 3_000,
        ..Plan::default()
    };
    let name = "process_disconnect::what_is_held_waits_for_its_node_or_an_admin";
    let Some(fleet) = fleet(name, plan) else {
        return;
    };
    let work = fleet.work();
    let job = submit(&fleet, &watched(OnDisconnect::Hold, 1, &work));
    let first = ranks_of(&work, 1, 1, SOON);
    let node = first[0].node.clone();
    let declare = |words: &[&str]| fleet.mlctl(&[&["node", "declare-lost", &node], words].concat());
    declare(&["--yes"]).refused(73, &["answers"]);
    let same = |shown: &Job| {
        assert_eq!((shown.state(), shown.attempts().len()), ("Running", 1));
        assert!(machine::alive(first[0].pid));
    };
    // Lost, kept, and back: it went on.
    unplug(&fleet, &node);
    until_liveness(&fleet, &node, "Lost", SOON);
    std::thread::sleep(Duration::from_secs(4));
    same(&fleet.job(&job));
    let why = fleet.mlctl(&["why", &job]).expect(0).stdout;
    for word in ["NodeSilent", "hold", "mlctl node declare-lost", &node] {
        assert!(why.contains(word), "nothing about `{word}`: {why}");
    }
    heal(&fleet);
    until_liveness(&fleet, &node, "Ready", SOON);
    std::thread::sleep(Duration::from_secs(1));
    same(&fleet.job(&job));
    // Lost again, and an admin knows that it is gone for good.
    unplug(&fleet, &node);
    until_liveness(&fleet, &node, "Lost", SOON);
    declare(&[]).refused(64, &["--yes"]);
    same(&fleet.job(&job));
    let said = declare(&["--yes"]).expect(0).stdout;
    assert!(said.contains(&job), "{said}");
    let second = ranks_of(&work, 2, 1, SOON);
    assert_ne!(second[0].node, node);
    // The admin was wrong. At least nothing of it counts, and it is ended.
    heal(&fleet);
    deaths(&first, SOON);
    let shown = fleet.job(&job);
    assert_eq!((shown.state(), shown.attempts().len()), ("Running", 2));
    assert_eq!(shown.attempt_end(1), "NodeLost");
}

/// The coordinators do not hear a node, its peers do: it is left alone. When it is really gone, that is known soon.
#[test]
fn a_node_that_its_peers_hear_goes_on_undisturbed() {
    let (cut, node_timeout) = if full() { (60, 30_000) } else { (10, 3_000) };
    let plan = Plan {
        node_timeout_ms: node_timeout,
        lost_after_ms: 300_000,
        ..Plan::default()
    };
    let name = "process_disconnect::a_node_that_its_peers_hear_goes_on_undisturbed";
    let Some(mut fleet) = fleet(name, plan) else {
        return;
    };
    let work = fleet.work();
    let job = submit(&fleet, &watched(OnDisconnect::Replace, 2, &work));
    let first = ranks_of(&work, 1, 2, SOON);
    let node = first[0].node.clone();
    let part = |fleet: &Fleet| {
        let net = fleet.net().expect("hosts of their own");
        for coordinator in fleet.coordinators() {
            net.cut(&node, &coordinator);
        }
    };
    let undisturbed = |fleet: &Fleet| {
        let shown = fleet.job(&job);
        assert_eq!((shown.state(), shown.attempts().len()), ("Running", 1));
        assert!(first.iter().all(|one| machine::alive(one.pid)));
        assert_eq!(began(&work).len(), 2);
    };
    // First with the agent alive, then with nobody but the keeper to answer.
    for agent in [true, false] {
        if !agent {
            fleet.kill(&[&node]);
        }
        part(&fleet);
        let begun = Instant::now();
        let patience = SOON + Duration::from_millis(node_timeout.into());
        until_liveness(&fleet, &node, "Unreachable", patience);
        let rest = Duration::from_secs(cut).saturating_sub(begun.elapsed());
        std::thread::sleep(rest);
        assert_eq!(liveness(&fleet, &node), "Unreachable", "agent: {agent}");
        undisturbed(&fleet);
        let leader = fleet.leader();
        assert!(
            fleet.log(&leader).contains("it is not lost"),
            "a witness hears it"
        );
        heal(&fleet);
        if !agent {
            fleet.start_one(&node);
        }
        until_liveness(&fleet, &node, "Ready", SOON);
        std::thread::sleep(Duration::from_secs(1));
        undisturbed(&fleet);
    }
    // The power of the machine fails: nobody answers there, and nobody waits for lost_after.
    unplug(&fleet, &node);
    let begun = Instant::now();
    let patience = Duration::from_millis(u64::from(node_timeout) + 8_000);
    until_liveness(&fleet, &node, "Lost", patience);
    println!("lost after {:?}", begun.elapsed());
    ranks_of(&work, 2, 2, SOON);
}
