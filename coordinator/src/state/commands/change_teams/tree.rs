//! A working copy of the tree of teams, on which edits are tried: what each of them does is noted for people. Checks what holds of one team;
//! the tree as a whole is checked by `rules::quota_tree` once all edits are done.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::units::UtcMs;

use crate::state::records::{Team, TeamChange};
use crate::state::rules::flavors::flavor_text;
use crate::state::rules::quota_tree::{self, Teams};
use crate::state::view::teams::Flavor;

/// What edits may look at beside the teams.
pub struct Around<'a> {
    /// State time.
    pub now_ms: UtcMs,
    /// Whether the cluster has a device of this flavor, or has no device at all.
    pub has: &'a dyn Fn(&Flavor) -> bool,
    /// Jobs of a team that are not over.
    pub jobs_of: &'a dyn Fn(&str) -> usize,
}

/// Teams under change.
#[derive(Debug, Default)]
pub struct Tree {
    teams: Teams,
    touched: BTreeSet<String>,
    changes: Vec<TeamChange>,
    notes: Vec<String>,
}

impl Tree {
    /// Of these teams.
    pub fn new(teams: Teams) -> Self {
        Self {
            teams,
            ..Self::default()
        }
    }

    /// All teams as they are now.
    pub fn teams(&self) -> &Teams {
        &self.teams
    }

    /// Teams that were changed, made or removed.
    pub fn touched(&self) -> &BTreeSet<String> {
        &self.touched
    }

    /// What was done, and what there is to say about it.
    pub fn said(self) -> (Vec<TeamChange>, Vec<String>) {
        (self.changes, self.notes)
    }

    /// Checks the tree as a whole.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), Refusal> {
        quota_tree::check(&self.teams).map_err(refused)
    }

    /// A team, if it is there.
    pub fn get(&self, name: &str) -> Option<&Arc<Team>> {
        self.teams.get(name)
    }

    /// A team to change.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn team(&self, name: &str) -> Result<Team, Refusal> {
        let missing = || {
            let why = format!(
                "there is no team `{}`: `mlctl team ls` lists all, `mlctl team set` makes one",
                clip(name)
            );
            Refusal::new(Code::NotFound, why)
        };
        self.teams
            .get(name)
            .map(|team| Team::clone(team))
            .ok_or_else(missing)
    }

    /// Writes a team.
    pub fn put(&mut self, team: Team) {
        self.touched.insert(team.name.clone());
        self.teams.insert(team.name.clone(), Arc::new(team));
    }

    /// Takes a team out.
    pub fn remove(&mut self, name: &str) {
        self.touched.insert(name.to_owned());
        self.teams.remove(name);
    }

    /// Notes what was done, unless nothing was.
    pub fn change(&mut self, team: &str, what: impl Into<String>, before: String, after: String) {
        if before != after {
            self.changes.push(TeamChange {
                team: team.to_owned(),
                what: what.into(),
                before,
                after,
            });
        }
    }

    /// Something to say about it.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

/// A request that makes no sense, and why.
pub fn refused(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, why)
}

/// Refuses a flavor that is none, or of which the cluster has nothing and no team names it.
pub fn check_flavor(flavor: &Flavor, tree: &Tree, around: &Around) -> Result<(), Refusal> {
    let shown = clip(&flavor_text(flavor));
    let kind = &*flavor.kind;
    let legal = (1..=128).contains(&kind.len())
        && !kind
            .chars()
            .any(|c| c.is_control() || matches!(c, '@' | '=' | ',') || c.is_uppercase())
        && kind.trim() == kind;
    if !legal {
        return Err(refused(format!(
            "`{shown}` names no type of GPU: write a part of its model's name, such as H100, with @POOL behind it for one pool alone"
        )));
    }
    if let Some(Err(error)) = flavor.pool.as_deref().map(mlctl_proto::ids::check_name) {
        return Err(refused(format!("`{shown}`: the pool {error}")));
    }
    let named = || {
        tree.teams
            .values()
            .any(|team| team.flavors().any(|one| one == flavor))
    };
    if (around.has)(flavor) || named() {
        return Ok(());
    }
    Err(refused(format!(
        "this cluster has no `{shown}`, and no team names it: `mlctl nodes` lists what there is"
    )))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub fn flavor(text: &str) -> Flavor {
        let (kind, pool) = match text.split_once('@') {
            Some((kind, pool)) => (kind, Some(pool.into())),
            None => (text, None),
        };
        Flavor {
            kind: kind.to_lowercase().into(),
            pool,
        }
    }

    pub fn tree(names: &[&str]) -> Tree {
        Tree::new(
            names
                .iter()
                .map(|name| ((*name).to_owned(), Arc::new(Team::new(*name))))
                .collect(),
        )
    }

    /// A cluster of H100 and A100, in which `busy` has two jobs.
    pub fn try_on(
        tree: &mut Tree,
        edit: impl Fn(&mut Tree, &Around) -> Result<(), Refusal>,
    ) -> Result<(), String> {
        let has = |flavor: &Flavor| ["h100", "a100"].contains(&&*flavor.kind);
        let jobs_of = |team: &str| if team == "busy" { 2 } else { 0 };
        let around = Around {
            now_ms: 1_000_000,
            has: &has,
            jobs_of: &jobs_of,
        };
        edit(tree, &around).map_err(|refusal| refusal.message)
    }

    /// What was said, one line each.
    pub fn lines(tree: Tree) -> Vec<String> {
        let (changes, notes) = tree.said();
        let line =
            |one: TeamChange| format!("{} {}: {} -> {}", one.team, one.what, one.before, one.after);
        changes.into_iter().map(line).chain(notes).collect()
    }
}
