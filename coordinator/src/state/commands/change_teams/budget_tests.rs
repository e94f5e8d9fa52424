//! Budgets in a small cluster: what is committed, renewed, used up and given back. Every invariant is checked after each command.
use mlctl_proto::errors::Code;
use mlctl_proto::ids::JobId;

use super::tests::{GPU_HOUR, HOUR, acme, budget, change, sim, start};
use super::{SetBudget, TeamEdit};
use crate::state::Body;
use crate::state::commands::RenewCharges;
use crate::state::records::{EndKind, JobState, WhenExhausted};
use crate::state::testing::{Cluster, person, system};
use crate::state::view::amounts::GPU;

#[test]
fn a_budget_is_committed_at_the_start_and_the_rest_is_given_back() {
    let mut cluster = acme();
    change(
        &mut cluster,
        vec![
            budget("acme/nlp", 100, WhenExhausted::Stop),
            budget("acme", 3, WhenExhausted::Stop),
        ],
    );
    let jobs: Vec<JobId> = (0..2).map(|_| cluster.submitted("ann", 1, 2)).collect();
    let counted = |cluster: &Cluster, team: &str| {
        let budget = cluster
            .state
            .team(team)
            .and_then(|team| team.budgets.get(&sim()).cloned());
        let budget = budget.expect("it has one");
        cluster
            .state
            .book(team, &sim(), &budget)
            .counted(cluster.now_ms)
    };
    let epoch = cluster.started(jobs[0], &["a"]);
    assert_eq!(
        (counted(&cluster, "acme"), counted(&cluster, "acme/nlp")),
        (2 * GPU_HOUR, 2 * GPU_HOUR)
    );
    let why = start(&mut cluster, jobs[1], &["a"]).expect("one hour is left");
    assert_eq!(
        why,
        "budget of team acme: 1 GPU-h of SIM left of 3 GPU-h, and 2 GPU-h are needed"
    );
    assert_eq!(
        counted(&cluster, "acme/nlp"),
        2 * GPU_HOUR,
        "all levels or none"
    );
    cluster.now_ms += HOUR / 4;
    cluster.ended("a", jobs[0], epoch, EndKind::Exited);
    let used = counted(&cluster, "acme");
    assert!(
        (GPU_HOUR / 2..GPU_HOUR / 2 + 1_000 * GPU).contains(&used),
        "{used}"
    );
    assert_eq!(start(&mut cluster, jobs[1], &["a"]), None);
    let usage = cluster.state.usage_of("acme/nlp", "id-ann");
    let half_life_ms = cluster.state.half_life_ms();
    let left = crate::state::rules::decay::left(usage, cluster.now_ms, half_life_ms) >> 16;
    assert!(
        (12_599_000..12_610_000).contains(&left),
        "2 GPUs for 15 minutes: {left}"
    );
    assert_eq!(usage, cluster.state.usage_of("acme/nlp", ""));
}

#[test]
fn commitments_are_renewed_until_the_budget_is_used_up_and_then_the_job_waits() {
    let mut cluster = acme();
    change(&mut cluster, vec![budget("acme", 4, WhenExhausted::Stop)]);
    let job = cluster.submitted("ann", 1, 2);
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    let mut renewals = 0;
    while cluster.job(job).state == JobState::Running {
        let due = cluster.state.next_charge_due().expect("it is committed");
        cluster.now_ms = cluster.now_ms.max(due);
        cluster.run(system(), Body::RenewCharges(RenewCharges { most: 10 }));
        renewals += 1;
        assert!(renewals < 30);
    }
    assert!(renewals >= 2, "{renewals}");
    let attempt = cluster.state.attempt(job, epoch).cloned().expect("there");
    let end = attempt.end.clone().expect("it is being ended");
    assert_eq!(end.kind, EndKind::Preempted);
    assert!(
        end.detail.starts_with("budget of team acme:"),
        "{}",
        end.detail
    );
    assert_eq!(
        cluster.state.next_charge_due(),
        None,
        "it is not asked for again and again"
    );
    cluster.ended("a", job, epoch, EndKind::Preempted);
    assert_eq!(cluster.job(job).state, JobState::Pending);
    assert!(
        start(&mut cluster, job, &["a"]).is_some(),
        "there is nothing left"
    );
    change(&mut cluster, vec![budget("acme", 40, WhenExhausted::Stop)]);
    assert_eq!(start(&mut cluster, job, &["a"]), None);
    for actor in [person("ann", false), person("root", true)] {
        let applied = cluster.run(actor, Body::RenewCharges(RenewCharges { most: 1 }));
        assert_eq!(
            applied.refusal().map(|refusal| refusal.code),
            Some(Code::Denied)
        );
    }
}

#[test]
fn what_a_lost_node_wasted_is_not_charged() {
    let mut cluster = acme();
    change(&mut cluster, vec![budget("acme", 4, WhenExhausted::Stop)]);
    let job = cluster.submitted("ann", 1, 2);
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    cluster.now_ms += HOUR / 2;
    cluster.ended("a", job, epoch, EndKind::NodeLost);
    let account = cluster.state.account("acme", &sim());
    assert_eq!(
        (
            account.used.values().sum::<u64>(),
            account.committed.len(),
            account.beyond
        ),
        (0, 0, 0)
    );
    assert_eq!(cluster.state.usage_of("acme/nlp", "").value, 0);
}

#[test]
fn a_budget_that_comes_while_jobs_run_covers_them_from_then_on() {
    let mut cluster = acme();
    let job = cluster.submitted("ann", 1, 2);
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    cluster.now_ms += 3 * HOUR;
    change(&mut cluster, vec![budget("acme", 40, WhenExhausted::Stop)]);
    assert_eq!(
        cluster.state.next_charge_due(),
        Some(cluster.now_ms),
        "at once"
    );
    cluster.run(system(), Body::RenewCharges(RenewCharges { most: 10 }));
    let account = cluster.state.account("acme", &sim());
    assert_eq!(account.committed.values().sum::<u64>(), 2 * GPU_HOUR);
    assert!(
        account.used.values().sum::<u64>() <= 2 * GPU * 10,
        "nothing of before"
    );
    let none = TeamEdit::Budget(SetBudget {
        team: "acme".into(),
        flavor: sim(),
        budget: None,
    });
    change(&mut cluster, vec![none]);
    cluster.run(system(), Body::RenewCharges(RenewCharges { most: 10 }));
    assert_eq!(cluster.state.next_charge_due(), None);
    assert_eq!(cluster.state.accounts().count(), 0);
    cluster.ended("a", job, epoch, EndKind::Exited);
}
