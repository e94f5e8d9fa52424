//! Why who waits waits: each reason where it holds.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{HOUR, NONE, job, nodes, two_teams};
use crate::scheduler::engine::fixtures::{ask, id, of_kinds, scene, submit, team};
use crate::scheduler::engine::{Why, propose};
use crate::state::view::amounts::GPU;
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::jobs::{Blocked, Class, Waiting};
use crate::state::view::nodes::{NodeView, Open};
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, TeamView};

#[test]
fn a_budget_covers_the_first_slice_of_each_start() {
    let flavor = Flavor {
        kind: "h100".into(),
        pool: None,
    };
    let mut org = team("org", &[("h100", 16, NONE)]);
    org.budgets.insert(flavor.clone(), 10 * 3_600 * GPU);
    let mut poor = scene(nodes(2), vec![org, team("org/a", &[("h100", 16, NONE)])]);
    submit(&mut poor, job(1, "org/a", Class::Normal, 1, 8));
    submit(&mut poor, job(2, "org/a", Class::Normal, 1, 8));
    let plan = propose(&poor, 0);
    assert_eq!(
        plan.starts.len(),
        1,
        "10 GPU-hours cover one slice of 8, not two"
    );
    let left = Why::BudgetExhausted {
        team: "org".into(),
        flavor,
        left: 2 * 3_600 * GPU,
        needs: 8 * 3_600 * GPU,
    };
    assert_eq!(plan.reasons[&id(2)], left);
}

#[test]
fn no_more_jobs_of_a_team_run_at_once_than_may() {
    let mut few = scene(
        nodes(2),
        vec![TeamView {
            max_running: Some(1),
            ..team("org", &[("h100", 16, NONE)])
        }],
    );
    submit(&mut few, job(1, "org", Class::Normal, 1, 8));
    submit(&mut few, job(2, "org", Class::Normal, 1, 8));
    let plan = propose(&few, 0);
    assert_eq!(plan.starts.len(), 1);
    assert_eq!(
        plan.reasons[&id(2)],
        Why::UserLimit {
            team: "org".into(),
            at_most: 1
        }
    );
}

#[test]
fn countables_are_never_given_out_twice() {
    let mut licensed = scene(nodes(2), vec![team("org", &[])]);
    licensed.licenses = BTreeMap::from([("ansys".to_owned(), (3, 1))]);
    let needs = Ask {
        licenses: vec![("ansys".to_owned(), 2)],
        ..ask(1, 1)
    };
    for number in 1..=2 {
        submit(
            &mut licensed,
            Waiting {
                ask: Arc::new(needs.clone()),
                ..job(number, "org", Class::Normal, 1, 1)
            },
        );
    }
    let plan = propose(&licensed, 0);
    assert_eq!(plan.starts.len(), 1);
    assert_eq!(
        plan.reasons[&id(2)],
        Why::Licenses {
            name: "ansys".into(),
            needs: 2,
            free: 0
        }
    );
}

/// Why a job waits that is alone in a cluster of two nodes, after a change of that cluster.
fn reason(change: &dyn Fn(&mut Scene), job: Waiting) -> Option<Why> {
    let mut scene = scene(nodes(2), two_teams(8, 8));
    change(&mut scene);
    let id = job.id;
    submit(&mut scene, job);
    propose(&scene, 0).reasons.get(&id).cloned()
}

/// The same, after a change of each node.
fn reason_on(change: &dyn Fn(&mut NodeView), job: Waiting) -> Option<Why> {
    let each = |scene: &mut Scene| {
        for name in ["n0", "n1"] {
            let mut node = (*scene.nodes[name]).clone();
            change(&mut node);
            scene.nodes.insert(name.into(), Arc::new(node));
        }
    };
    reason(&each, job)
}

/// A job that would start at once.
fn one() -> Waiting {
    job(1, "org/a", Class::Normal, 1, 8)
}

#[test]
fn each_reason_of_the_job_itself_is_the_one_that_holds() {
    assert_eq!(reason(&|_| {}, one()), None);
    let blocked = |why| Waiting {
        blocked: Some(why),
        ..one()
    };
    assert_eq!(
        reason(&|_| {}, blocked(Blocked::Held)),
        Some(Why::HeldByUser)
    );
    assert_eq!(
        reason(&|_| {}, blocked(Blocked::StartTime(5))),
        Some(Why::StartTime(5))
    );
    assert_eq!(
        reason(&|scene| scene.starts_paused = true, one()),
        Some(Why::SchedulingPaused)
    );
    let other = Waiting {
        ask: Arc::new(of_kinds(ask(1, 1), &["b200"])),
        ..one()
    };
    assert_eq!(reason(&|_| {}, other), Some(Why::GpuTypeMissing));
    let wide = reason(&|_| {}, job(1, "org/a", Class::Normal, 3, 8)).expect("waits");
    assert!(
        matches!(&wide, Why::QuotaExceeded(short) if &*short.team == "org" && short.adds == 24 * GPU),
        "{wide:?}"
    );
    let failed = Waiting {
        avoid: vec!["n0".into(), "n1".into()],
        ..one()
    };
    assert_eq!(
        reason(&|_| {}, failed),
        Some(Why::ExcludedNodes { nodes: 2 })
    );
    let shares = Waiting {
        ask: Arc::new(Ask {
            gpus: Gpus::Share(3_500),
            ..ask(1, 1)
        }),
        ..one()
    };
    assert_eq!(reason(&|_| {}, shares), None);
}

#[test]
fn each_reason_of_the_nodes_is_the_one_that_holds() {
    assert_eq!(
        reason_on(&|node| node.open = Open::No, one()),
        Some(Why::NodeDrained { nodes: 2 })
    );
    assert_eq!(
        reason_on(&|node| node.open = Open::From(9), one()),
        Some(Why::WakingNodes { nodes: 2, from: 9 })
    );
    assert_eq!(
        reason_on(&|node| node.devices[0].free = 0, one()),
        Some(Why::Fragmented {
            free: 14 * GPU,
            nodes: 1,
            fitting: 0
        })
    );
    assert_eq!(
        reason_on(&|node| node.free.cpu_milli = 0, one()),
        Some(Why::CpuOrMemory { fitting: 2 })
    );
    assert_eq!(
        reason_on(&|node| node.windows = vec![(HOUR, 2 * HOUR)], one()),
        Some(Why::Maintenance { until: 2 * HOUR })
    );
}
