//! I10: what teams hold is what their jobs hold, no start goes beyond a quota, and no budget covers more than there is.
use std::collections::BTreeMap;

use super::{Violation, require};
use crate::state::State;
use crate::state::records::{AllocationPhase, Charge, Team};
use crate::state::rules::budget::{Book, committed};
use crate::state::rules::quota_tree;
use crate::state::view::amounts::GPU;
use crate::state::view::teams::Limit;

/// Everything about teams that is wrong with one state.
pub(super) fn check(state: &State, found: &mut Vec<Violation>) {
    check_units(state, found);
    check_tree(state, found);
    check_accounts(state, found);
}

/// Counted from the attempts alone, not through the hooks that keep the numbers.
fn check_units(state: &State, found: &mut Vec<Violation>) {
    let mut counted: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    // What is in doubt is on a Lost node, and counts for nobody.
    for attempt in state.attempts().filter(|attempt| !attempt.in_doubt) {
        let Some(job) = state.job(attempt.job) else {
            continue;
        };
        let all = attempt.allocations.iter();
        for allocation in all.filter(|one| one.phase != AllocationPhase::Ended) {
            let Some(node) = state.node(&allocation.node) else {
                continue;
            };
            for uuid in &allocation.devices {
                let mut devices = node.facts.devices.iter();
                if let Some(device) = devices.find(|device| device.uuid == *uuid) {
                    let key = (
                        job.team.as_str(),
                        node.facts.pool.as_str(),
                        device.model.as_str(),
                    );
                    *counted.entry(key).or_default() += GPU;
                }
            }
        }
    }
    let mut kept: BTreeMap<(&str, String, String), u64> = BTreeMap::new();
    for team in state.teams() {
        for ((pool, model), units) in state.holdings().team(&team.name).units {
            kept.insert(
                (team.name.as_str(), pool.to_string(), model.to_string()),
                units,
            );
        }
    }
    let counted: BTreeMap<(&str, String, String), u64> = (counted.into_iter())
        .map(|((team, pool, model), units)| ((team, pool.to_owned(), model.to_owned()), units))
        .collect();
    require(
        found,
        kept == counted,
        "what teams hold is what their jobs hold",
        || format!("{kept:?} kept, {counted:?} counted"),
    );
}

fn check_tree(state: &State, found: &mut Vec<Violation>) {
    let teams = state.teams().map(|team| (team.name.clone(), team.clone()));
    let sound = quota_tree::check(&teams.collect());
    require(found, sound.is_ok(), "the tree of teams is one", || {
        sound.clone().err().unwrap_or_default()
    });
    let mut defaults: BTreeMap<&str, &str> = BTreeMap::new();
    for team in state.teams() {
        for (user, _) in team.members.iter().filter(|(_, member)| member.default) {
            let other = defaults.insert(user, &team.name);
            let one = other.is_none() && state.default_team_of(user) == Some(team.name.as_str());
            require(found, one, "jobs of a user go to one team", || user.clone());
        }
    }
    for job in state.jobs().filter(|job| !job.state.terminal()) {
        let there = state.team(&job.team).is_some();
        require(found, there, "a job that is not over has its team", || {
            format!("job {}: {}", job.id, job.team)
        });
    }
}

fn check_accounts(state: &State, found: &mut Vec<Violation>) {
    let open: Vec<&Charge> = (state.attempts())
        .flat_map(|attempt| &attempt.charges)
        .collect();
    for account in state.accounts() {
        let (name, flavor) = (account.team.as_str(), &account.flavor);
        let budget = state.team(name).and_then(|team| team.budgets.get(flavor));
        let here = open
            .iter()
            .filter(|charge| charge.flavor == *flavor && charge.at.iter().any(|at| at == name));
        let stretches = here.map(|charge| (charge.units, charge.from_ms, charge.until_ms));
        let counted = budget.map(|budget| committed(&budget.window, stretches));
        require(
            found,
            counted.as_ref() == Some(&account.account.committed),
            "what a budget has committed is what open attempts say",
            || {
                format!(
                    "{name}: {counted:?} counted, {:?} kept",
                    account.account.committed
                )
            },
        );
    }
    for attempt in state.attempts().filter(|attempt| attempt.closed()) {
        let none = attempt.charges.is_empty();
        require(found, none, "a closed attempt is charged no more", || {
            format!("job {} epoch {}", attempt.job, attempt.epoch)
        });
    }
}

/// What a step did beyond a quota or a budget that it found. Who lowers one, or has devices renamed, does not make more of anything start.
pub(super) fn check_step(before: &State, after: &State, found: &mut Vec<Violation>) {
    let one_entry = after.applied_index() <= before.applied_index().saturating_add(1);
    if after.flavors().is_empty() || !one_entry || !comparable(before, after) {
        return;
    }
    let (was, is) = (before.ledger(), after.ledger());
    let (promised, promises) = (before.promised_ledger(), after.promised_ledger());
    for team in after.teams() {
        for flavor in after.flavors().iter() {
            let most = is.quota(&team.name, flavor).and_then(|quota| {
                let borrow = if team.parent().is_none() {
                    Limit::Units(0)
                } else {
                    quota.borrow
                };
                match borrow {
                    Limit::Units(more) => Some(quota.nominal.saturating_add(more)),
                    Limit::Unlimited => None,
                }
            });
            let load = promises.load(&team.name, flavor);
            let old = promised.load(&team.name, flavor);
            require(
                found,
                most.is_none_or(|most| load <= most.max(old)),
                "I10: nothing beyond a quota is kept for anybody",
                || {
                    format!(
                        "{}: {load} units of {flavor:?}, at most {most:?}",
                        team.name
                    )
                },
            );
            let (load, old) = (is.load(&team.name, flavor), was.load(&team.name, flavor));
            require(
                found,
                most.is_none_or(|most| load <= most.max(old)),
                "I10: no start goes beyond a quota",
                || {
                    format!(
                        "{}: {load} units of {flavor:?}, {old} before, at most {most:?}",
                        team.name
                    )
                },
            );
        }
        check_budgets(before, after, team, found);
    }
}

/// Nothing happened that may bring a team above its quota without a start: no change of teams or devices, and nobody that was given up is back.
fn comparable(before: &State, after: &State) -> bool {
    let back = before
        .attempts()
        .filter(|attempt| attempt.in_doubt)
        .any(|old| {
            let new = after.attempt(old.job, old.epoch);
            new.is_some_and(|new| !new.in_doubt && !new.closed())
        });
    !back && before.inventory() == after.inventory() && before.teams().eq(after.teams())
}

fn check_budgets(before: &State, after: &State, team: &Team, found: &mut Vec<Violation>) {
    for (flavor, budget) in &team.budgets {
        let now_ms = after.now_ms();
        let counted = |book: Book| book.counted(now_ms);
        let was = counted(before.book(&team.name, flavor, budget));
        let is = counted(after.book(&team.name, flavor, budget));
        require(
            found,
            is <= budget.limit.max(was),
            "I10: no budget covers more than there is",
            || {
                format!(
                    "{}: {is} of {flavor:?}, {was} before, of {}",
                    team.name, budget.limit
                )
            },
        );
    }
}
