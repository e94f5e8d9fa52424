//! Tests of the invariants: each rule is broken once, so that a check that cannot fail shows.
use super::*;
use crate::state::records::{Allocation, End, EndKind, ExcludedNode, HoldReason, RankExit};
use crate::state::testing::{Cluster, sealed};
use crate::state::view::Holding;
use mlctl_proto::spec::Ranges;

fn cluster() -> (Cluster, JobId, Epoch) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    cluster.gpu_node("b", 1);
    let job = cluster.submitted("ann", 2, 1);
    let epoch = cluster.started(job, &["a", "b"]);
    cluster.event("a", job, epoch, sealed("step-1", 1));
    (cluster, job, epoch)
}

/// Breaks a sound state and expects to be told of `rule`.
fn broken(rule: &str, spoil: fn(&mut State, Job, Attempt)) {
    let (mut cluster, job, epoch) = cluster();
    let attempt = cluster
        .state
        .attempt(job, epoch)
        .cloned()
        .expect("it was started");
    let job = cluster.job(job);
    spoil(&mut cluster.state, job, Attempt::clone(&attempt));
    let found = check(&cluster.state);
    let told = found
        .iter()
        .any(|violation| violation.rule.starts_with(rule));
    assert!(told, "{rule}: {found:?}");
}

/// The same with the job alone.
fn broken_job(rule: &str, spoil: fn(&mut Job)) {
    let (mut cluster, job, _) = cluster();
    let mut job = cluster.job(job);
    spoil(&mut job);
    cluster.state.put_job(job);
    let found = check(&cluster.state);
    let told = found
        .iter()
        .any(|violation| violation.rule.starts_with(rule));
    assert!(told, "{rule}: {found:?}");
}

#[test]
fn each_rule_of_a_job_can_fail() {
    broken_job("a job has a current attempt", |job| {
        job.state = JobState::Pending
    });
    broken_job("an attempt that is not current", |job| {
        job.epoch_counter = 2
    });
    broken_job("what was recalled", |job| job.recalled_counter = 1);
    broken_job("a job has an outcome", |job| {
        job.outcome = Some(End::of(EndKind::Hung))
    });
    broken_job("a job has a time", |job| job.ended_ms = 9);
    broken_job("epochs count", |job| job.epoch_counter = 3);
    broken_job("a job's spec", |job| job.spec_hash = [9; 32]);
    broken_job("a job is Stopping", |job| job.state = JobState::Stopping);
    broken_job("checkpoints are in order", |job| {
        job.checkpoints[0].parts.clear()
    });
    broken_job("a job is Held", |job| {
        job.retries.hold = Some(HoldReason::SuspectedPoison)
    });
    broken_job("nodes that failed a job", |job| {
        let failed = ExcludedNode {
            node: "a".into(),
            why: EndKind::NodeLost,
        };
        job.retries.excluded = vec![failed.clone(), failed];
    });
    broken_job("what waited", |job| job.retries.waits = 1);
    broken_job("the digest", |job| job.owner_name = "eve".into());
}

#[test]
fn each_rule_of_an_attempt_can_fail() {
    broken("one device", |state, job, mut attempt| {
        attempt.epoch.counter += 1;
        state.put_job(Job {
            epoch_counter: 2,
            ..job
        });
        state.put_attempt(attempt);
    });
    broken("a gang is whole", |state, _, mut attempt| {
        attempt.allocations.pop();
        state.put_attempt(attempt);
    });
    broken("an allocation has an end", |state, _, mut attempt| {
        attempt.allocations[0].phase = AllocationPhase::Ended;
        state.put_attempt(attempt);
    });
    broken("a closed attempt has an end", |state, _, mut attempt| {
        let all = attempt.allocations.iter_mut();
        all.for_each(|allocation| allocation.phase = AllocationPhase::Ended);
        state.put_attempt(attempt);
    });
    broken("an attempt that stops", |state, _, attempt| {
        state.put_attempt(Attempt {
            stopping: true,
            ..attempt
        });
    });
    broken("who resumes from another", |state, job, attempt| {
        state.put_attempt(Attempt {
            resume_job: Some(job.id),
            ..attempt
        });
    });
    broken("a success", |state, _, mut attempt| {
        for allocation in &mut attempt.allocations {
            allocation.phase = AllocationPhase::Ended;
            allocation.exits.push(RankExit {
                rank: 0,
                code: 1,
                signal: 0,
                killed_by_us: false,
                oom: None,
            });
        }
        attempt.end = Some(End::of(EndKind::Exited));
        state.put_attempt(attempt);
    });
    broken("the indexes say", |state, job, _| {
        state
            .indexes
            .add_spec(job.spec_hash, crate::state::testing::spec(1, 0));
    });
}

/// An array with a wave on each of two nodes, one task of which has ended.
fn array_cluster() -> (Cluster, JobId, Epoch) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    cluster.gpu_node("b", 1);
    let spec = crate::state::testing::array_spec("0-9%4", 0);
    let job = cluster.submitted_spec("ann", &spec);
    let first = cluster.wave(job, "a", 2, Ranges::span(0, 3));
    let epoch = first.epoch;
    cluster.propose(vec![first]);
    let second = cluster.wave(job, "b", 2, Ranges::span(4, 7));
    cluster.propose(vec![second]);
    let ended = crate::state::testing::tasks_ended(0, Ranges::one(1));
    cluster.event("a", job, epoch, ended);
    (cluster, job, epoch)
}

#[test]
fn each_rule_of_an_array_can_fail() {
    type Spoil = fn(&mut Job, &mut Attempt);
    let check = |rule: &str, spoil: Spoil| {
        let (mut cluster, job, epoch) = array_cluster();
        let before = cluster.state.clone();
        let attempt = before.attempt(job, epoch).expect("it was started");
        let (mut job, mut attempt) = (cluster.job(job), Attempt::clone(attempt));
        spoil(&mut job, &mut attempt);
        cluster.state.put_job(job);
        cluster.state.put_attempt(attempt);
        let found = check(&cluster.state).into_iter();
        let found: Vec<_> = found.chain(check_step(&before, &cluster.state)).collect();
        let told = found.iter().any(|one| one.rule.starts_with(rule));
        assert!(told, "{rule}: {found:?}");
    };
    fn array(job: &mut Job) -> &mut crate::state::records::Array {
        job.array_mut().expect("an array")
    }
    fn wave(attempt: &mut Attempt) -> &mut crate::state::records::Wave {
        attempt.wave.as_mut().expect("a wave")
    }
    let everywhere = "every task of an array is in one place";
    check(everywhere, |job, _| array(job).pending = Ranges::new());
    check(everywhere, |job, _| array(job).pending.insert(3));
    check(everywhere, |_, attempt| wave(attempt).left.insert(1));
    check("attempts of arrays", |_, attempt| attempt.wave = None);
    check("no more tasks at once", |_, attempt| {
        wave(attempt).slots = 3
    });
    check("a wave has left", |_, attempt| {
        wave(attempt).tasks = Ranges::one(1)
    });
    check("a wave has left", |_, attempt| {
        wave(attempt).spoke.insert(2)
    });
    check("the open waves", |_, attempt| {
        attempt.allocations[0].node = "b".into();
    });
    check("an array that is over", |job, _| {
        job.state = JobState::Failed;
    });
    check("an array is Completed", |job, _| {
        job.state = JobState::Completed;
    });
    check("an array waits", |job, _| {
        job.state = JobState::Pending;
        array(job).pending = Ranges::new();
    });
    check("what became of a task", |job, _| array(job).ended.clear());
    check("an attempt only", |_, attempt| wave(attempt).slots = 1);
}

#[test]
fn each_rule_of_doubt_can_fail() {
    broken("what is in doubt is open", |state, _, attempt| {
        state.put_attempt(Attempt {
            in_doubt: true,
            ..attempt
        });
    });
    broken("nothing is in doubt", |state, job, attempt| {
        state.put_job(Job {
            state: JobState::Running,
            ..job
        });
        state.put_attempt(Attempt {
            in_doubt: true,
            ..attempt
        });
    });
    broken("a job holds at most two", |state, _, attempt| {
        for counter in 2..=3 {
            let mut other = attempt.clone();
            other.epoch.counter = counter;
            state.put_attempt(other);
        }
    });
}

#[test]
fn each_rule_of_a_step_can_fail() {
    type Spoil = fn(&mut State, Job, Attempt);
    let check = |rule: &str, spoil: Spoil| {
        let (mut cluster, job, epoch) = cluster();
        let before = cluster.state.clone();
        let attempt = before
            .attempt(job, epoch)
            .map(|one| Attempt::clone(one))
            .expect("it was started");
        let job = cluster.job(job);
        spoil(&mut cluster.state, job, attempt);
        let found = check_step(&before, &cluster.state);
        assert!(
            found
                .iter()
                .any(|violation| violation.rule.starts_with(rule)),
            "{rule}: {found:?}"
        );
    };
    check("the applied index", |state, _, _| state.applied_index = 0);
    check("epochs never", |state, job, _| {
        state.put_job(Job {
            epoch_counter: 0,
            ..job
        })
    });
    check("what was submitted", |state, job, _| {
        state.put_job(Job {
            owner_id: "eve".into(),
            ..job
        })
    });
    check("an attempt only", |state, _, mut attempt| {
        attempt.allocations[0].devices.clear();
        state.put_attempt(attempt);
    });
    check("an event mark", |state, _, _| {
        let node = state.node("a").map(|node| crate::state::records::Node {
            event_mark: 0,
            ..(**node).clone()
        });
        state.put_node(node.expect("it registered"));
    });
    check("no job disappears", |state, _, _| *state = State::new());
}

#[test]
fn what_is_over_stays_and_a_cancel_is_kept() {
    let (cluster, job, _) = cluster();
    let over = Job {
        state: JobState::Failed,
        outcome: Some(End::of(EndKind::Hung)),
        ended_ms: 5,
        cancel_requested: true,
        ..cluster.job(job)
    };
    let mut before = cluster.state.clone();
    before.put_job(over.clone());
    for (rule, changed) in [
        (
            "what is over",
            Job {
                state: JobState::Completed,
                ..over.clone()
            },
        ),
        (
            "what is over",
            Job {
                outcome: Some(End::of(EndKind::Exited)),
                ..over.clone()
            },
        ),
        (
            "a cancel",
            Job {
                cancel_requested: false,
                ..over.clone()
            },
        ),
    ] {
        let mut after = before.clone();
        after.put_job(changed);
        let found = check_step(&before, &after);
        assert!(
            found
                .iter()
                .any(|violation| violation.rule.starts_with(rule)),
            "{rule}: {found:?}"
        );
    }
}

#[test]
fn room_that_is_counted_wrong_shows_in_the_rows_that_changed() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let job = cluster.submitted("ann", 1, 0);
    let epoch = cluster.started(job, &["a"]);
    let before = cluster.state.clone();
    let changed = [Changed::Job(job)];
    assert_eq!(check_changed(&before, &before, &changed), []);

    let mut after = before.clone();
    let attempt = before.attempt(job, epoch).expect("it was started");
    let kinds = |_: &Allocation| Vec::new();
    let holding = Holding {
        cpu_ranks: 1,
        team: "",
        user: "ann",
        kinds: &kinds,
    };
    after.indexes.attempt(Some(attempt), attempt, &holding);
    assert_eq!(check_changed(&before, &after, &changed), [], "a control");
    after.indexes.attempt(None, attempt, &holding);
    let rules: Vec<_> = check_changed(&before, &after, &changed)
        .iter()
        .map(|violation| violation.rule)
        .collect();
    assert!(
        rules.contains(&"a node's room is what its open attempts leave"),
        "{rules:?}"
    );
}
