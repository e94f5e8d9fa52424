//! ChangeTeams: an admin changes the tree of teams: any number of edits, all of them or none, in force at once. What each may do is in the file of its name.
//! Nothing is ended by it: what is held beyond a lowered quota runs on, and it is said.
mod remove_team;
mod set_budget;
mod set_members;
mod set_quota;
mod set_team;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::{TEAM_CHANGES_TOLD_MAX, TEAM_EDITS_MAX};

pub use remove_team::RemoveTeam;
pub use set_budget::{SetBudget, budget_text, exhausted_word};
pub use set_members::{NewMember, SetMembers};
pub use set_quota::{SetQuota, quota_text};
pub use set_team::{SetTeam, limit_text};
use tree::{Around, Tree};

use super::{Context, accounts};
use crate::state::State;
use crate::state::change::Change;
use crate::state::records::{BudgetAccount, Reply, Team};
use crate::state::rules::budget::carried_over;
use crate::state::rules::flavors::{flavor_text, gpus_text, matches};
use crate::state::rules::quota::Ledger;
use crate::state::view::teams::{Flavor, Limit};

/// Edits, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeTeams {
    /// Each on what those before it have left.
    pub edits: Vec<TeamEdit>,
}

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeamEdit {
    /// Makes a team, or changes its weight and limits.
    Team(SetTeam),
    /// Removes a team.
    Remove(RemoveTeam),
    /// What a team may hold.
    Quota(SetQuota),
    /// Who may submit to it.
    Members(SetMembers),
    /// What it may use up.
    Budget(SetBudget),
}

impl TeamEdit {
    fn edit(&self, tree: &mut Tree, around: &Around) -> Result<(), Refusal> {
        match self {
            Self::Team(edit) => edit.edit(tree, around),
            Self::Remove(edit) => edit.edit(tree, around),
            Self::Quota(edit) => edit.edit(tree, around),
            Self::Members(edit) => edit.edit(tree, around),
            Self::Budget(edit) => edit.edit(tree, around),
        }
    }
}

impl ChangeTeams {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_admin()?;
        if self.edits.is_empty() {
            return Err(Refusal::new(
                Code::BadRequest,
                "the request changes nothing",
            ));
        }
        if self.edits.len() > TEAM_EDITS_MAX {
            let why = format!(
                "{} changes at once; at most {TEAM_EDITS_MAX}: make several requests of it",
                self.edits.len()
            );
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        let mut tree = self.tried(change.state(), context)?;
        tree.check()?;
        let before = change.state().ledger();
        write(change, &tree, context);
        for note in over_quota(change.state(), &before) {
            tree.note(note);
        }
        change.replan();
        Ok(told(tree))
    }

    /// A copy of the tree with all edits done.
    fn tried(&self, state: &State, context: &Context) -> Result<Tree, Refusal> {
        let teams = state.teams().map(|team| (team.name.clone(), team.clone()));
        let mut tree = Tree::new(teams.collect());
        let kinds = device_kinds(state);
        let has = |flavor: &Flavor| {
            let mut kinds = kinds.iter();
            kinds.len() == 0 || kinds.any(|(pool, model)| matches(flavor, pool, model))
        };
        let jobs_of =
            |team: &str| usize::try_from(state.holdings().team(team).jobs).unwrap_or(usize::MAX);
        let around = Around {
            now_ms: context.now_ms,
            has: &has,
            jobs_of: &jobs_of,
        };
        for edit in &self.edits {
            edit.edit(&mut tree, &around)?;
        }
        Ok(tree)
    }
}

/// Pool and model of every device that there is.
fn device_kinds(state: &State) -> BTreeSet<(&str, &str)> {
    let nodes = state.nodes();
    let of = nodes.flat_map(|node| {
        let pool = node.facts.pool.as_str();
        (node.facts.devices.iter()).map(move |device| (pool, device.model.as_str()))
    });
    of.collect()
}

fn write(change: &mut Change, tree: &Tree, context: &Context) {
    let mut budgets: Vec<(String, Flavor)> = Vec::new();
    for name in tree.touched() {
        let old = change.state().team(name).cloned();
        let new = tree.get(name);
        let flavors = old.iter().chain(new).flat_map(|team| team.budgets.keys());
        let flavors: BTreeSet<Flavor> = flavors.cloned().collect();
        let budget = |team: Option<&std::sync::Arc<Team>>, flavor: &Flavor| {
            team.and_then(|team| team.budgets.get(flavor)).cloned()
        };
        let differs = |flavor: &Flavor| budget(old.as_ref(), flavor) != budget(new, flavor);
        budgets.extend(
            flavors
                .into_iter()
                .filter(differs)
                .map(|flavor| (name.clone(), flavor)),
        );
    }
    // While the old budgets stand: what was used is theirs.
    for (team, flavor) in &budgets {
        accounts::settle_below(change, team, flavor, context.now_ms);
    }
    for (team, flavor) in &budgets {
        let windows = (
            change
                .state()
                .team(team)
                .and_then(|old| old.budgets.get(flavor))
                .cloned(),
            tree.get(team)
                .and_then(|new| new.budgets.get(flavor))
                .cloned(),
        );
        match windows {
            (Some(old), Some(new)) => {
                let account = change.state().account(team, flavor);
                let windows = (&old.window, &new.window);
                change.put_account(BudgetAccount {
                    team: team.clone(),
                    flavor: flavor.clone(),
                    account: carried_over(&account, windows, context.now_ms, std::iter::empty()),
                });
            }
            (Some(_), None) => change.remove_account(&(team.clone(), flavor.clone())),
            (None, _) => {}
        }
    }
    for name in tree.touched() {
        match tree.get(name) {
            Some(team) => change.put_team(Team::clone(team)),
            None => change.remove_team(name),
        }
    }
}

/// What is held beyond what may be held now, where that was not so before.
fn over_quota(state: &State, before: &Ledger) -> Vec<String> {
    let after = state.ledger();
    let mut notes = Vec::new();
    let over = |ledger: &Ledger, team: &Team, flavor: &Flavor| {
        let quota = ledger.quota(&team.name, flavor)?;
        let borrow = if team.parent().is_none() {
            Limit::Units(0)
        } else {
            quota.borrow
        };
        let Limit::Units(more) = borrow else {
            return None;
        };
        let (load, most) = (
            ledger.load(&team.name, flavor),
            quota.nominal.saturating_add(more),
        );
        (load > most).then_some((load, most))
    };
    for team in state.teams() {
        for flavor in state.flavors().iter() {
            let now = over(&after, team, flavor);
            if now == over(before, team, flavor) {
                continue;
            }
            if let Some((load, most)) = now {
                let (load, most, flavor) = (gpus_text(load), gpus_text(most), flavor_text(flavor));
                notes.push(format!(
                    "{load} {flavor} are in use or kept in `{}`, which may have {most} now: nothing is ended, and nothing more starts until less is in use",
                    team.name
                ));
            }
        }
    }
    notes
}

/// The answer, not longer than an answer may be.
fn told(tree: Tree) -> Reply {
    let (mut changes, mut notes) = tree.said();
    if changes.is_empty() {
        notes.push("everything was so already".into());
    }
    for (list, most) in [(changes.len(), "changes"), (notes.len(), "remarks")] {
        if list > TEAM_CHANGES_TOLD_MAX {
            let more = list - TEAM_CHANGES_TOLD_MAX;
            notes.insert(0, format!("{more} more {most} are not listed"));
        }
    }
    changes.truncate(TEAM_CHANGES_TOLD_MAX);
    notes.truncate(TEAM_CHANGES_TOLD_MAX);
    Reply::TeamsChanged { changes, notes }
}

/// Limits of a team as people read them, by the word of each.
pub fn limit_texts(team: &Team) -> BTreeMap<&'static str, String> {
    let limits = team.limits.iter();
    limits
        .map(|(which, limit)| (which.word(), limit_text(*which, Some(*limit))))
        .collect()
}

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
#[path = "change_teams_tests.rs"]
mod tests;
