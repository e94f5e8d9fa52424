//! What an admin has decided: every row makes sense, and no step begins what a decision of its state was against. Counted from the rows alone, not through the
//! predicates that apply asks.
use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::ids::JobId;

use super::{Violation, require};
use crate::state::State;
use crate::state::records::{Attempt, Automatic, Decision, Target};
use crate::state::rules::sched;

/// Everything about decisions that is wrong with one state.
pub(super) fn check(state: &State, found: &mut Vec<Violation>) {
    for decision in state.decisions() {
        let sound = match decision.as_ref() {
            Decision::Setting(key, values) => sched::check(*key, values),
            Decision::License(name, 0) => Err(format!("none of {name}")),
            Decision::Maintenance(one) if one.from_ms >= one.until_ms => Err(format!("{one:?}")),
            Decision::Pool(rules) if rules.says_nothing() => Err(rules.pool.clone()),
            _ => Ok(()),
        };
        require(found, sound.is_ok(), "what was decided makes sense", || {
            sound.clone().err().unwrap_or_default()
        });
    }
    let agree = sched::agree(&state.scheduling());
    require(
        found,
        agree.is_ok(),
        "settings do not contradict each other",
        || agree.clone().err().unwrap_or_default(),
    );
}

/// What a step began against a decision that it found.
pub(super) fn check_step(before: &State, after: &State, found: &mut Vec<Violation>) {
    let new =
        |attempt: &&std::sync::Arc<Attempt>| before.attempt(attempt.job, attempt.epoch).is_none();
    for attempt in after.attempts().filter(new) {
        for allocation in &attempt.allocations {
            let Some(node) = after.node(&allocation.node) else {
                continue;
            };
            let facts = &node.facts;
            let against = before.decisions().find(|one| match one.as_ref() {
                Decision::Pause(pause) => {
                    let here = pause.pool.is_empty() || pause.pool == facts.pool;
                    pause.what == Automatic::Starts && here && pause.holds(after.now_ms())
                }
                Decision::Maintenance(one) => {
                    let here = match &one.target {
                        Target::Node(name) => *name == facts.name,
                        Target::Pool(name) => *name == facts.pool,
                    };
                    here && (one.from_ms..one.until_ms).contains(&after.now_ms())
                }
                _ => false,
            });
            require(
                found,
                against.is_none(),
                "nothing starts where it is paused or maintained",
                || format!("job {} on {}: {against:?}", attempt.job, facts.name),
            );
        }
    }
    let (was, is) = (held(before), held(after));
    for (name, held) in is {
        let total = after.license_total(&name);
        let grew = held > was.get(&name).copied().unwrap_or(0);
        require(
            found,
            !grew || held <= u64::from(total),
            "countables are not exceeded",
            || format!("{held} of {total} {name} are held"),
        );
    }
}

/// What jobs hold of each countable.
fn held(state: &State) -> BTreeMap<String, u64> {
    let open = state
        .attempts()
        .filter(|one| !one.closed() && !one.in_doubt);
    let jobs: BTreeSet<JobId> = open.map(|one| one.job).collect();
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for job in jobs.iter().filter_map(|id| state.job(*id)) {
        let facts = state.spec_facts(job);
        for (name, count) in facts.iter().flat_map(|facts| &facts.ask.licenses) {
            *sums.entry(name.clone()).or_default() += u64::from(*count);
        }
    }
    sums
}
