//! Arrays from submit to end: waves beside each other, losses, cancels, and what is refused.
use super::*;
use crate::state::Body;
use crate::state::commands::{CancelJobs, Placement, TasksEnded};
use crate::state::records::Reply;
use crate::state::testing::{Cluster, array_spec, ended, exit, person, sealed};

fn set(text: &str) -> Ranges {
    Ranges::parse(text, 1_000_000).expect("good")
}

fn cluster(array: &str) -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    cluster.gpu_node("b", 2);
    let job = cluster.submitted_spec("ann", &array_spec(array, 0));
    (cluster, job)
}

fn wave(cluster: &Cluster, job: JobId, node: &str, slots: u32, tasks: &str) -> StartAttempt {
    let start = cluster.start(job, &[node]);
    StartAttempt {
        wave: Some(Wave::new(slots, set(tasks))),
        ..start
    }
}

fn begun(cluster: &mut Cluster, job: JobId, node: &str, slots: u32, tasks: &str) -> Epoch {
    let start = wave(cluster, job, node, slots, tasks);
    let epoch = start.epoch;
    let reply = cluster.propose(vec![start]).reply;
    let jobs = vec![job];
    let refused = vec![];
    assert_eq!(reply, Reply::Started { jobs, refused });
    epoch
}

fn ends(groups: &[(i32, &str)], first_failed: Option<u32>) -> Happening {
    let group = |(code, tasks): &(i32, &str)| TaskGroup {
        kind: EndKind::Exited,
        code: *code,
        tasks: set(tasks),
    };
    Happening::TasksEnded(TasksEnded {
        groups: groups.iter().map(group).collect(),
        first_failed,
        spoke: Ranges::new(),
    })
}

fn array(cluster: &Cluster, job: JobId) -> Array {
    cluster
        .job(job)
        .array
        .as_deref()
        .cloned()
        .expect("an array")
}

#[test]
fn waves_beside_each_other_to_the_end() {
    let (mut cluster, job) = cluster("0-9");
    assert_eq!(cluster.state.queue().count(), 1);
    let first = begun(&mut cluster, job, "a", 2, "0-3");
    assert_eq!(cluster.job(job).state, JobState::Starting);
    let second = begun(&mut cluster, job, "b", 2, "4-7");
    assert_eq!((first.counter, second.counter), (1, 2));
    assert_eq!(cluster.state.pending().count(), 0);
    assert_eq!(cluster.state.queue().count(), 1, "two tasks wait");
    assert_eq!(cluster.state.cpu_ranks_on("a"), 2);

    cluster.event("a", job, first, Happening::RanksStarted);
    assert_eq!(cluster.job(job).state, JobState::Running);
    cluster.event("a", job, first, ends(&[(0, "0-1"), (3, "2")], Some(2)));
    // Said again, of others' tasks, and of tasks that nobody has: only what is left of this wave counts.
    cluster.event("a", job, first, ends(&[(4, "0-2,4-9,77")], Some(0)));
    assert_eq!(
        (
            array(&cluster, job).succeeded(),
            array(&cluster, job).failed()
        ),
        (2, 1)
    );
    cluster.event("a", job, first, ends(&[(0, "3")], None));
    cluster.event("a", job, first, ended(EndKind::Exited, 0));
    assert_eq!(
        cluster.job(job).state,
        JobState::Running,
        "b still has some"
    );

    let third = begun(&mut cluster, job, "a", 2, "8-9");
    assert_eq!(cluster.state.queue().count(), 0);
    cluster.event("b", job, second, ends(&[(0, "4-6"), (1, "7")], Some(7)));
    cluster.event("b", job, second, ended(EndKind::Exited, 0));
    cluster.event("a", job, third, ends(&[(0, "8-9")], None));
    cluster.event("a", job, third, ended(EndKind::Exited, 0));
    let job = cluster.job(job);
    assert_eq!(job.state, JobState::Failed);
    let outcome = job.outcome.expect("it is over");
    assert_eq!(
        (outcome.code, outcome.rank),
        (3, Some(2)),
        "the first in commit order"
    );
    assert_eq!(cluster.state.cpu_ranks_on("a"), 0);
}

#[test]
fn all_well_is_completed() {
    let (mut cluster, job) = cluster("5,7");
    let epoch = begun(&mut cluster, job, "a", 2, "5,7");
    cluster.event("a", job, epoch, ends(&[(0, "5,7")], None));
    cluster.event("a", job, epoch, ended(EndKind::Exited, 0));
    let job = cluster.job(job);
    assert_eq!(
        (job.state, job.outcome.map(|end| end.success())),
        (JobState::Completed, Some(true))
    );
}

#[test]
fn what_a_lost_wave_had_left_waits_again_and_its_words_are_late() {
    let (mut cluster, job) = cluster("0-9");
    let first = begun(&mut cluster, job, "a", 2, "0-9");
    cluster.event("a", job, first, ends(&[(0, "0-3")], None));
    cluster.lose("a");
    let lost = cluster.job(job);
    assert_eq!(lost.state, JobState::Pending);
    assert_eq!(array(&cluster, job).pending, set("4-9"));
    assert!(cluster.state.in_doubt(job).is_none());
    let node = crate::state::testing::node("a", 2, "SIM");
    cluster.register(&node);
    cluster.event("a", job, first, ends(&[(0, "4-9")], None));
    assert_eq!(
        array(&cluster, job).pending,
        set("4-9"),
        "of a closed epoch nothing is accepted"
    );
    let second = begun(&mut cluster, job, "a", 2, "4-9");
    cluster.event("a", job, second, ends(&[(0, "4-9")], None));
    cluster.event("a", job, second, ended(EndKind::Exited, 0));
    assert_eq!(cluster.job(job).state, JobState::Completed);
}

#[test]
fn a_task_is_given_up_after_three_losses() {
    let (mut cluster, job) = cluster("0-1");
    for round in 0..4 {
        let epoch = begun(&mut cluster, job, "a", 1, "0");
        let state = if round < 3 { "Pending" } else { "" };
        cluster.event("a", job, epoch, ended(EndKind::KeeperLost, 0));
        assert_eq!(
            cluster.job(job).state.word(),
            "Pending",
            "{state} {round}: task 1 waits"
        );
    }
    assert_eq!(
        (array(&cluster, job).failed(), array(&cluster, job).pending),
        (1, set("1"))
    );
    let epoch = begun(&mut cluster, job, "a", 1, "1");
    cluster.event("a", job, epoch, ends(&[(0, "1")], None));
    cluster.event("a", job, epoch, ended(EndKind::Exited, 0));
    let job = cluster.job(job);
    assert_eq!(job.outcome.map(|end| end.exit_code()), Some((140, false)));
}

#[test]
fn a_cancel_stops_every_wave_and_the_rest_never_starts() {
    let (mut cluster, job) = cluster("0-9");
    let first = begun(&mut cluster, job, "a", 2, "0-3");
    let second = begun(&mut cluster, job, "b", 2, "4-6");
    cluster.event("a", job, first, ends(&[(0, "0")], None));
    let cancel = || Body::CancelJobs(CancelJobs::of(vec![job]));
    let applied = cluster.run(person("ann", false), cancel());
    assert_eq!(applied.effects.len(), 2, "{:?}", applied.effects);
    assert_eq!(cluster.job(job).state, JobState::Stopping);
    assert_eq!(cluster.state.queue().count(), 0);
    let start = wave(&cluster, job, "a", 1, "7");
    let refused = matches!(cluster.propose(vec![start]).reply, Reply::Started { jobs, .. } if jobs.is_empty());
    assert!(refused);
    cluster.event("a", job, first, ended(EndKind::Cancelled, 0));
    cluster.event("b", job, second, ended(EndKind::Cancelled, 0));
    let over = cluster.job(job);
    assert_eq!(over.state, JobState::Cancelled);
    assert_eq!(array(&cluster, job).cancelled, set("1-9"));
    assert_eq!(
        over.outcome.map(|end| end.detail),
        Some("cancelled by ann".into())
    );

    let waits = cluster.submitted_spec("ann", &array_spec("0-99", 0));
    cluster.run(
        person("ann", false),
        Body::CancelJobs(CancelJobs::of(vec![waits])),
    );
    assert_eq!(cluster.job(waits).state, JobState::Cancelled);
    assert_eq!(array(&cluster, waits).cancelled.count(), 100);
}

#[test]
fn what_cannot_be_launched_ends_the_array_at_once() {
    let (mut cluster, job) = cluster("0-9");
    let first = begun(&mut cluster, job, "a", 2, "0-3");
    let second = begun(&mut cluster, job, "b", 2, "4-6");
    cluster.event("a", job, first, ended(EndKind::LaunchFailed, 0));
    assert_eq!(cluster.job(job).state, JobState::Stopping);
    cluster.event("b", job, second, ended(EndKind::LaunchFailed, 0));
    let over = cluster.job(job);
    assert_eq!(
        (over.state, over.outcome.map(|end| end.kind)),
        (JobState::Failed, Some(EndKind::LaunchFailed))
    );
    assert_eq!(array(&cluster, job).cancelled.count(), 10);
    // Where tasks have run before, it is that node's trouble.
    let other = cluster.submitted_spec("ann", &array_spec("0-1", 0));
    let first = begun(&mut cluster, other, "a", 1, "0");
    cluster.event("a", other, first, ends(&[(0, "0")], None));
    cluster.event("a", other, first, ended(EndKind::Exited, 0));
    let second = begun(&mut cluster, other, "a", 1, "1");
    cluster.event("a", other, second, ended(EndKind::LaunchFailed, 0));
    assert_eq!(cluster.job(other).state, JobState::Pending);
}

#[test]
fn a_gpu_array_holds_devices_for_its_slots() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    let job = cluster.submitted_spec("ann", &array_spec("0-9", 1));
    let mut start = wave(&cluster, job, "a", 2, "0-9");
    let devices = vec!["a-0".to_owned(), "a-1".to_owned()];
    start.placements = vec![Placement {
        devices,
        ..start.placements[0].clone()
    }];
    let epoch = start.epoch;
    cluster.propose(vec![start]);
    assert!(cluster.state.device_holder("a", "a-1").is_some());
    cluster.event("a", job, epoch, ended(EndKind::NodeLost, 0));
    assert!(cluster.state.device_holder("a", "a-1").is_none());
}

#[test]
fn what_is_refused_and_what_is_passed_over() {
    let (mut cluster, job) = cluster("0-9%3");
    let plain = cluster.submitted("ann", 1, 0);
    let check = |cluster: &mut Cluster, start: StartAttempt, says: &str| match cluster
        .propose(vec![start])
        .reply
    {
        Reply::Started { jobs, refused } if jobs.is_empty() => {
            assert!(refused[0].1.contains(says), "{says}: {refused:?}");
        }
        other => panic!("{says}: {other:?}"),
    };
    let none = cluster.start(job, &["a"]);
    check(&mut cluster, none, "names the tasks");
    let mut stray = cluster.start(plain, &["a"]);
    stray.wave = Some(Wave::new(1, set("0")));
    check(&mut cluster, stray, "it is no array");
    for (slots, tasks, says) in [
        (0, "0-3", "at once of"),
        (5, "0-3", "at once of"),
        (4, "0-3", "its limit is 3"),
        (1, "9-10", "do not wait"),
    ] {
        let start = wave(&cluster, job, "a", slots, tasks);
        check(&mut cluster, start, says);
    }
    let epoch = begun(&mut cluster, job, "a", 2, "0-3");
    let start = wave(&cluster, job, "a", 1, "4");
    check(&mut cluster, start, "run on node a");
    let start = wave(&cluster, job, "b", 2, "4-5");
    check(&mut cluster, start, "its limit is 3");
    let start = wave(&cluster, job, "b", 1, "3-4");
    check(&mut cluster, start, "do not wait");
    let before = array(&cluster, job);
    cluster.event("a", job, epoch, exit(0, 1, 0, false));
    cluster.event("a", job, epoch, sealed("step-1", 1));
    cluster.event("b", job, epoch, ends(&[(0, "0")], None));
    assert_eq!(array(&cluster, job), before);
}
