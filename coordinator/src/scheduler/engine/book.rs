//! What a pass has given away: quotas, budgets, countables and numbers of running jobs, always checked at every level before a start. Does NOT know where devices are.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::kinds::Kinds;
use super::why::Why;
use crate::state::rules::quota::{Ledger, Shortfall};
use crate::state::view::jobs::Waiting;
use crate::state::view::scene::Scene;
use crate::state::view::teams::Flavor;

/// A slice of a budget, milliseconds (docs/QUOTAS.md, Budgets).
const SLICE_MS: u64 = 3_600_000;

/// Units of flavors, by number.
pub type Charges = [(u32, u64)];

/// What is held, now and after what ends has ended.
#[derive(Debug, Clone)]
pub struct Book {
    /// With what attempts hold that are being ended.
    pub now: Ledger,
    /// Without them, and with those for whom they end.
    pub after: Ledger,
    /// For starts: without those that ended before this pass only, so that what this pass frees goes to nobody who comes later in it.
    strict: Ledger,
    /// Whether these differ.
    differ: bool,
    /// By team and flavor: what budgets still allow to commit, unit-seconds. Below nothing where more was promised than is left.
    budgets: BTreeMap<(usize, u32), i128>,
    licenses: BTreeMap<String, u32>,
    /// By team: jobs that run.
    running: Vec<u32>,
    max_running: Vec<Option<u32>>,
    /// What failed, by team, then flavor's column: loads only grow while nothing is given back.
    short: Vec<Vec<Short>>,
    /// Columns of a team there.
    columns: usize,
}

/// So many units failed, and why.
type Short = (u64, Arc<Shortfall>);

/// How a start stands to quotas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Within nominal at every level.
    Inside,
    /// Only by borrowing.
    Borrows,
}

impl Book {
    /// As the scene says.
    pub fn new(scene: &Scene, ledger: Ledger, kinds: &Kinds) -> Self {
        let mut budgets = BTreeMap::new();
        for team in scene.teams.values().filter(|team| !team.budgets.is_empty()) {
            let Some(place) = ledger.team(&team.name) else {
                continue;
            };
            for (flavor, left) in &team.budgets {
                if let Some(number) = kinds.flavor_number(flavor) {
                    budgets.insert((place, number), i128::from(*left));
                }
            }
        }
        let licenses = (scene.licenses.iter())
            .map(|(name, (all, held))| (name.clone(), all.saturating_sub(*held)));
        let mut max_running = vec![None; ledger.teams()];
        for team in scene.teams.values() {
            if let Some(place) = ledger.team(&team.name) {
                max_running[place] = team.max_running;
            }
        }
        Self {
            after: ledger.clone(),
            strict: ledger.clone(),
            differ: false,
            budgets,
            licenses: licenses.collect(),
            running: vec![0; max_running.len()],
            max_running,
            short: Vec::new(),
            columns: kinds.columns.iter().flatten().count(),
            now: ledger,
        }
    }

    /// It is being ended, since before this pass.
    pub fn ends(&mut self, team: Option<usize>, charges: &Charges, kinds: &Kinds) {
        self.will_end(team, charges, kinds);
        each(team, charges, kinds, |team, column, units| {
            self.strict.remove_at(team, column, units)
        });
    }

    /// This pass ends it.
    pub fn will_end(&mut self, team: Option<usize>, charges: &Charges, kinds: &Kinds) {
        self.differ = true;
        each(team, charges, kinds, |team, column, units| {
            self.after.remove_at(team, column, units)
        });
    }

    /// Somebody will hold it, once others have ended.
    pub fn promise(&mut self, team: Option<usize>, charges: &Charges, kinds: &Kinds) {
        self.differ = true;
        let (after, strict) = (&mut self.after, &mut self.strict);
        each(team, charges, kinds, |team, column, units| {
            after.add_at(team, column, units);
            strict.add_at(team, column, units);
        });
    }

    /// It will not: it starts now, or somewhere else.
    pub fn unpromise(
        &mut self,
        job: &Waiting,
        team: Option<usize>,
        charges: &Charges,
        kinds: &Kinds,
    ) {
        let (after, strict) = (&mut self.after, &mut self.strict);
        each(team, charges, kinds, |team, column, units| {
            after.remove_at(team, column, units);
            strict.remove_at(team, column, units);
        });
        self.each_budget(job, team, charges, |left, commits| {
            left.saturating_add(commits.into())
        });
        for (name, count) in &job.ask.licenses {
            self.licenses
                .entry(name.clone())
                .and_modify(|free| *free = free.saturating_add(*count));
        }
        if let Some(count) = team.and_then(|team| self.running.get_mut(team)) {
            *count = count.saturating_sub(1);
        }
        self.short.clear();
    }

    /// The inequality, for charges of several flavors; also after what ends has ended.
    ///
    /// # Errors
    /// The first that fails.
    pub fn legal(
        &mut self,
        team: Option<usize>,
        charges: &Charges,
        kinds: &Kinds,
    ) -> Result<Standing, Arc<Shortfall>> {
        let Some(team) = team else {
            return Ok(Standing::Inside);
        };
        let mut standing = Standing::Inside;
        for (flavor, units) in charges {
            let Some(column) = kinds.column(*flavor) else {
                continue;
            };
            let place = team * self.columns + column;
            let known = self.short.get(place);
            if let Some((_, short)) =
                known.and_then(|all| all.iter().find(|(least, _)| least == units))
            {
                return Err(short.clone());
            }
            let mut found = self.now.legal_at(team, column, *units);
            if self.differ && found.is_ok() {
                found = self.strict.legal_at(team, column, *units);
            }
            if let Err(short) = found {
                let short = Arc::new(short);
                if self.short.len() <= place {
                    self.short.resize(place + 1, Vec::new());
                }
                self.short[place].push((*units, short.clone()));
                return Err(short);
            }
            let inside = self.now.inside_nominal_at(team, column, *units)
                && (!self.differ || self.strict.inside_nominal_at(team, column, *units));
            if !inside {
                standing = Standing::Borrows;
            }
        }
        Ok(standing)
    }

    /// What starts are checked against beside what is held now.
    pub fn strict(&self) -> &Ledger {
        &self.strict
    }

    /// Whether both ledgers allow it.
    pub fn strict_legal(&self, team: usize, column: usize, units: u64) -> bool {
        self.now.legal_at(team, column, units).is_ok()
            && self.strict.legal_at(team, column, units).is_ok()
    }

    /// What a start would commit of budgets, unit-seconds.
    fn commits(units: u64, limit_ms: Option<u64>) -> u64 {
        let slice = limit_ms.unwrap_or(SLICE_MS).min(SLICE_MS);
        units.saturating_mul(slice.div_ceil(1_000))
    }

    /// Whether every budget on the way to the root covers a start's first slice (docs/QUOTAS.md, Budgets).
    pub fn budget(
        &self,
        job: &Waiting,
        team: Option<usize>,
        charges: &Charges,
        kinds: &Kinds,
    ) -> Option<Why> {
        if self.budgets.is_empty() {
            return None;
        }
        for (flavor, units) in charges {
            for level in self.now.path(team?) {
                if let Some((left, needs)) = self.budget_short(level, *flavor, *units, job.limit_ms)
                {
                    let flavor = kinds.flavors.get(*flavor as usize)?.clone();
                    return Some(Why::BudgetExhausted {
                        team: self.now.name(level).clone(),
                        flavor,
                        left,
                        needs,
                    });
                }
            }
        }
        None
    }

    /// What is left of a team's own budget and what a start would commit of it, unit-seconds, if that is more.
    pub fn budget_short(
        &self,
        team: usize,
        flavor: u32,
        units: u64,
        limit_ms: Option<u64>,
    ) -> Option<(u64, u64)> {
        let needs = Self::commits(units, limit_ms);
        let left = *self.budgets.get(&(team, flavor))?;
        (left < i128::from(needs)).then(|| (u64::try_from(left).unwrap_or(0), needs))
    }

    /// Whether anybody has a budget.
    pub fn has_budgets(&self) -> bool {
        !self.budgets.is_empty()
    }

    /// How many of a countable are free.
    pub fn licenses_free(&self, name: &str) -> u32 {
        self.licenses.get(name).copied().unwrap_or(0)
    }

    /// Whether a team runs as many jobs as it may.
    pub fn runs_all(&self, team: usize) -> bool {
        let most = self.max_running.get(team).copied().flatten();
        most.zip(self.running.get(team))
            .is_some_and(|(most, running)| *running >= most)
    }

    /// What does not depend on the place: countables, and how many jobs the team may run.
    pub fn limits(&self, job: &Waiting, team: Option<usize>) -> Option<Why> {
        let few = job.ask.licenses.iter().find_map(|(name, needs)| {
            let free = self.licenses_free(name);
            (free < *needs).then(|| Why::Licenses {
                name: name.clone(),
                needs: *needs,
                free,
            })
        });
        few.or_else(|| self.full(team))
    }

    /// Whether a team may run no more jobs, as a reason.
    pub fn full(&self, team: Option<usize>) -> Option<Why> {
        let team = team?;
        let at_most = self.max_running.get(team).copied().flatten()?;
        (self.running.get(team)? >= &at_most).then(|| Why::UserLimit {
            team: self.now.name(team).clone(),
            at_most,
        })
    }

    /// One more job of a team runs.
    pub fn runs(&mut self, team: Option<usize>) {
        if let Some(count) = team.and_then(|team| self.running.get_mut(team)) {
            *count = count.saturating_add(1);
        }
    }

    /// A job starts; `first`: none of its tasks runs yet.
    pub fn start(
        &mut self,
        job: &Waiting,
        team: Option<usize>,
        charges: &Charges,
        kinds: &Kinds,
        first: bool,
    ) {
        let (now, after, strict) = (&mut self.now, &mut self.after, &mut self.strict);
        each(team, charges, kinds, |team, column, units| {
            now.add_at(team, column, units);
            after.add_at(team, column, units);
            strict.add_at(team, column, units);
        });
        self.commit(job, team, charges, first);
        if first {
            self.runs(team);
        }
    }

    /// Budgets of a start, and the countables of a whole job.
    pub fn commit(&mut self, job: &Waiting, team: Option<usize>, charges: &Charges, first: bool) {
        self.each_budget(job, team, charges, |left, commits| {
            left.saturating_sub(commits.into())
        });
        for (name, count) in job.ask.licenses.iter().filter(|_| first) {
            self.licenses
                .entry(name.clone())
                .and_modify(|free| *free = free.saturating_sub(*count));
        }
    }

    fn each_budget(
        &mut self,
        job: &Waiting,
        team: Option<usize>,
        charges: &Charges,
        change: impl Fn(i128, u64) -> i128,
    ) {
        let Some(team) = team.filter(|_| !self.budgets.is_empty()) else {
            return;
        };
        for (flavor, units) in charges {
            let commits = Self::commits(*units, job.limit_ms);
            for level in self.now.path(team) {
                if let Some(left) = self.budgets.get_mut(&(level, *flavor)) {
                    *left = change(*left, commits);
                }
            }
        }
    }
}

/// What if: for one question; nothing is planned on it.
impl Book {
    /// A team may have any amount of a flavor.
    pub fn open_quota(&mut self, team: &str, flavor: &Flavor) {
        [&mut self.now, &mut self.after, &mut self.strict]
            .into_iter()
            .for_each(|ledger| ledger.open(team, flavor));
        self.short.clear();
    }

    /// A team has no budget of a flavor.
    pub fn open_budget(&mut self, team: &str, flavor: Option<u32>) {
        if let Some((team, flavor)) = self.now.team(team).zip(flavor) {
            self.budgets.remove(&(team, flavor));
        }
    }

    /// There are enough of a countable.
    pub fn open_license(&mut self, name: &str) {
        self.licenses.insert(name.to_owned(), u32::MAX);
    }

    /// A team may run any number of jobs.
    pub fn open_running(&mut self, team: &str) {
        if let Some(most) = self
            .now
            .team(team)
            .and_then(|team| self.max_running.get_mut(team))
        {
            *most = None;
        }
    }

    /// One that is being ended since before this pass has ended.
    pub fn has_ended(&mut self, team: Option<usize>, charges: &Charges, kinds: &Kinds) {
        each(team, charges, kinds, |team, column, units| {
            self.now.remove_at(team, column, units)
        });
        self.short.clear();
    }
}

/// Calls `change` for each flavor that the ledger knows.
fn each(
    team: Option<usize>,
    charges: &Charges,
    kinds: &Kinds,
    mut change: impl FnMut(usize, usize, u64),
) {
    let Some(team) = team else { return };
    for (flavor, units) in charges {
        if let Some(column) = kinds.column(*flavor) {
            change(team, column, *units);
        }
    }
}
