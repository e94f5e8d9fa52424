//! The quota inequality (docs/QUOTAS.md, Quotas): what each team holds and claims, and whether one more gang is legal. Plan, apply and explain ask the same.
//! Does NOT know which job comes first.
//!
//! Per flavor and team t: `load(t) = own(t) + sum of claim(child)`, `claim(t) = max(load(t), nominal(t) - lend(t))`: what a team keeps for itself it claims
//! though it does not use it. A start is legal iff afterwards `load(t) <= nominal(t) + borrow(t)` for every t from its team to the root, where borrow is 0.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::state::view::teams::{Flavor, Limit, Quota, TeamView};

/// The inequality that fails, at the level where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// The team of that level.
    pub team: Arc<str>,
    /// Of what.
    pub flavor: Flavor,
    /// What it and those below hold and claim, units.
    pub load: u64,
    /// What the start would add there, units.
    pub adds: u64,
    /// Its own, units.
    pub nominal: u64,
    /// What it may have beyond.
    pub borrow: Limit,
}

/// All teams' loads, to be filled. A clone shares all but these.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    tree: Arc<Tree>,
    /// By flavor, then team.
    columns: Vec<Column>,
}

/// Who stands below whom.
#[derive(Debug, Default)]
struct Tree {
    names: Vec<Arc<str>>,
    by_name: BTreeMap<Arc<str>, usize>,
    parents: Vec<Option<usize>>,
    roots: Vec<usize>,
    flavors: Vec<Flavor>,
}

#[derive(Debug, Clone, Default)]
struct Column {
    quotas: Arc<Quotas>,
    loads: Vec<u64>,
    /// Levels that allow any amount, for a what-if; empty: none.
    open: Vec<bool>,
}

/// Of one flavor.
#[derive(Debug, Default)]
struct Quotas {
    /// By root: whether a team of its tree names this flavor.
    governed: Vec<bool>,
    /// By team.
    all: Vec<Quota>,
}

const NOTHING: Quota = Quota {
    nominal: 0,
    borrow: Limit::Units(0),
    lend: Limit::Unlimited,
};

impl Ledger {
    /// Of these teams, with what their jobs hold.
    pub fn new<'a>(teams: impl Iterator<Item = &'a TeamView>) -> Self {
        let teams: Vec<&TeamView> = teams.collect();
        let mut tree = Tree::new(&teams);
        let flavors: BTreeSet<&Flavor> = (teams.iter())
            .flat_map(|team| team.quotas.keys().chain(team.own.keys()))
            .collect();
        tree.flavors = flavors.into_iter().cloned().collect();
        let columns = (tree.flavors.iter())
            .map(|one| tree.column(&teams, one))
            .collect();
        let mut ledger = Self {
            tree: Arc::new(tree),
            columns,
        };
        for team in teams {
            for (flavor, units) in &team.own {
                ledger.add(&team.name, flavor, *units);
            }
        }
        ledger
    }
}

impl Tree {
    fn new(teams: &[&TeamView]) -> Self {
        let mut tree = Self::default();
        for (place, team) in teams.iter().enumerate() {
            tree.names.push(team.name.clone());
            tree.by_name.insert(team.name.clone(), place);
        }
        tree.parents = teams.iter().map(|team| tree.parent(&team.name)).collect();
        tree.roots = (0..teams.len()).map(|place| tree.root(place)).collect();
        tree
    }

    fn parent(&self, name: &str) -> Option<usize> {
        let (above, _) = name.rsplit_once('/')?;
        self.by_name.get(above).copied()
    }

    fn root(&self, mut place: usize) -> usize {
        while let Some(parent) = self.parents[place] {
            place = parent;
        }
        place
    }

    fn column(&self, teams: &[&TeamView], flavor: &Flavor) -> Column {
        let mut governed = vec![false; teams.len()];
        let mut quotas: Vec<Option<Quota>> = teams
            .iter()
            .map(|team| team.quotas.get(flavor).copied())
            .collect();
        for (quota, root) in quotas.iter().zip(&self.roots) {
            governed[*root] |= quota.is_some();
        }
        // A team without a word of its own passes on what those below have. Children come after their parents, so from the end.
        let mut below: Vec<Option<u64>> = vec![None; teams.len()];
        let places = self.deepest_first();
        for place in places.iter().copied() {
            if let (None, Some(nominal)) = (quotas[place], below[place]) {
                quotas[place] = Some(Quota {
                    nominal,
                    borrow: Limit::Unlimited,
                    lend: Limit::Unlimited,
                });
            }
            let own = quotas[place].map(|quota| quota.nominal);
            if let (Some(parent), Some(own)) = (self.parents[place], own) {
                below[parent] = Some(below[parent].unwrap_or(0).saturating_add(own));
            }
        }
        let all: Vec<Quota> = quotas
            .into_iter()
            .map(|one| one.unwrap_or(NOTHING))
            .collect();
        // What is kept from lending is claimed from the start.
        let mut column = Column {
            quotas: Arc::new(Quotas { governed, all }),
            loads: vec![0; teams.len()],
            open: Vec::new(),
        };
        for place in places {
            if let Some(parent) = self.parents[place] {
                let claim = column.claim(place);
                column.loads[parent] = column.loads[parent].saturating_add(claim);
            }
        }
        column
    }

    fn deepest_first(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.names.len()).collect();
        let depth = |place: &usize| self.names[*place].matches('/').count();
        places.sort_by_cached_key(|place| std::cmp::Reverse(depth(place)));
        places
    }
}

impl Ledger {
    /// The place of a team, for the calls that are made often.
    pub fn team(&self, name: &str) -> Option<usize> {
        self.tree.by_name.get(name).copied()
    }

    /// The teams from `team` to its root.
    pub fn path(&self, team: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(team), |place| self.tree.parents[*place])
    }

    /// Its path, as people write it.
    pub fn name(&self, team: usize) -> &Arc<str> {
        &self.tree.names[team]
    }

    fn at(&self, team: &str, flavor: &Flavor) -> Option<(usize, usize)> {
        let column = self.tree.flavors.binary_search(flavor).ok()?;
        Some((self.team(team)?, column))
    }

    /// The place of a flavor, for the calls that are made often; `None`: no team has a word about it.
    pub fn column_of(&self, flavor: &Flavor) -> Option<usize> {
        self.tree.flavors.binary_search(flavor).ok()
    }

    /// How many teams there are.
    pub fn teams(&self) -> usize {
        self.tree.names.len()
    }

    /// The team above.
    pub fn parent_of(&self, team: usize) -> Option<usize> {
        self.tree.parents.get(team).copied().flatten()
    }

    /// What its own nominal counts as, units; `None`: no team of its tree names the flavor.
    pub fn nominal_at(&self, team: usize, column: usize) -> Option<u64> {
        let column = self.columns.get(column)?;
        let governed = *column.quotas.governed.get(*self.tree.roots.get(team)?)?;
        governed.then(|| column.quotas.all.get(team).map(|quota| quota.nominal))?
    }

    /// What it and those below hold and claim, units.
    pub fn load_at(&self, team: usize, column: usize) -> u64 {
        let column = self.columns.get(column);
        column
            .and_then(|one| one.loads.get(team))
            .copied()
            .unwrap_or(0)
    }

    /// What a team and those below hold and claim of a flavor, units.
    pub fn load(&self, team: &str, flavor: &Flavor) -> u64 {
        let at = self.at(team, flavor);
        at.map_or(0, |(place, column)| self.columns[column].loads[place])
    }

    /// Its quota, as it counts: passed on from those below where it has none.
    pub fn quota(&self, team: &str, flavor: &Flavor) -> Option<Quota> {
        let (place, column) = self.at(team, flavor)?;
        let column = &self.columns[column];
        column.quotas.governed[self.tree.roots[place]].then(|| column.quotas.all[place])
    }

    /// Whether a start of `units` by a job of `team` is legal; the first inequality that fails, from its team upwards.
    ///
    /// # Errors
    /// That inequality.
    pub fn legal(&self, team: &str, flavor: &Flavor, units: u64) -> Result<(), Shortfall> {
        match self.at(team, flavor) {
            Some((place, column)) => self.legal_at(place, column, units),
            None => Ok(()),
        }
    }

    /// The same by places.
    ///
    /// # Errors
    /// The inequality that fails.
    pub fn legal_at(&self, place: usize, at: usize, units: u64) -> Result<(), Shortfall> {
        self.shortfalls_at(place, at, units)
            .next()
            .map_or(Ok(()), Err)
    }

    /// All inequalities that fail, from its team upwards.
    pub fn shortfalls_at(
        &self,
        place: usize,
        at: usize,
        units: u64,
    ) -> impl Iterator<Item = Shortfall> + '_ {
        let column = &self.columns[at];
        let governed = column.quotas.governed[self.tree.roots[place]];
        let mut adds = units;
        self.path(place)
            .take_while(move |_| governed)
            .filter_map(move |level| {
                let added = adds;
                adds = column.grows(level, adds);
                let (quota, load) = (column.quotas.all[level], column.loads[level]);
                let root = self.tree.parents[level].is_none();
                let borrow = if root { Limit::Units(0) } else { quota.borrow };
                let fits = match borrow {
                    Limit::Unlimited => true,
                    Limit::Units(more) => {
                        load.saturating_add(added) <= quota.nominal.saturating_add(more)
                    }
                };
                (!fits && !column.is_open(level)).then(|| Shortfall {
                    team: self.tree.names[level].clone(),
                    flavor: self.tree.flavors[at].clone(),
                    load,
                    adds: added,
                    nominal: quota.nominal,
                    borrow,
                })
            })
    }

    /// What if a team might have any amount of a flavor: nothing is started on it.
    pub fn open(&mut self, team: &str, flavor: &Flavor) {
        if let Some((place, column)) = self.at(team, flavor) {
            let open = &mut self.columns[column].open;
            open.resize(self.tree.names.len(), false);
            open[place] = true;
        }
    }

    /// Whether every level, from the team to the root, stays within its nominal: nothing is borrowed.
    pub fn inside_nominal(&self, team: &str, flavor: &Flavor, units: u64) -> bool {
        let at = self.at(team, flavor);
        at.is_none_or(|(place, column)| self.inside_nominal_at(place, column, units))
    }

    /// The same by places.
    pub fn inside_nominal_at(&self, place: usize, column: usize, units: u64) -> bool {
        let column = &self.columns[column];
        if !column.quotas.governed[self.tree.roots[place]] {
            return true;
        }
        let mut adds = units;
        self.path(place).all(|level| {
            let fits = column.loads[level].saturating_add(adds) <= column.quotas.all[level].nominal;
            adds = column.grows(level, adds);
            fits
        })
    }

    /// A job of `team` holds `units` more.
    pub fn add(&mut self, team: &str, flavor: &Flavor, units: u64) {
        if let Some((place, column)) = self.at(team, flavor) {
            self.add_at(place, column, units);
        }
    }

    /// It holds `units` less.
    pub fn remove(&mut self, team: &str, flavor: &Flavor, units: u64) {
        if let Some((place, column)) = self.at(team, flavor) {
            self.remove_at(place, column, units);
        }
    }

    /// By places: `units` more.
    pub fn add_at(&mut self, place: usize, column: usize, units: u64) {
        self.change(place, column, |load| load.saturating_add(units));
    }

    /// By places: `units` less.
    pub fn remove_at(&mut self, place: usize, column: usize, units: u64) {
        self.change(place, column, |load| load.saturating_sub(units));
    }

    fn change(&mut self, place: usize, column: usize, own: impl Fn(u64) -> u64) {
        let column = &mut self.columns[column];
        let mut delta: Option<(u64, u64)> = None;
        let mut next = Some(place);
        while let Some(level) = next {
            next = self.tree.parents[level];
            let before = column.claim(level);
            let load = column.loads[level];
            column.loads[level] = match delta {
                None => own(load),
                Some((old, new)) => load.saturating_sub(old).saturating_add(new),
            };
            delta = Some((before, column.claim(level)));
        }
    }
}

impl Column {
    fn is_open(&self, place: usize) -> bool {
        self.open.get(place).is_some_and(|open| *open)
    }

    /// What a team takes of its parent's.
    fn claim(&self, place: usize) -> u64 {
        let quota = self.quotas.all[place];
        let kept = match quota.lend {
            Limit::Unlimited => 0,
            Limit::Units(lend) => quota.nominal.saturating_sub(lend),
        };
        self.loads[place].max(kept)
    }

    /// By how much its claim grows with `adds` more load.
    fn grows(&self, place: usize, adds: u64) -> u64 {
        let before = self.claim(place);
        let quota = self.quotas.all[place];
        let kept = match quota.lend {
            Limit::Unlimited => 0,
            Limit::Units(lend) => quota.nominal.saturating_sub(lend),
        };
        let after = self.loads[place].saturating_add(adds).max(kept);
        after.saturating_sub(before)
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
