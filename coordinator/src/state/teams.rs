//! What the state says of teams: who is in which, what each holds, has used and may still use. Reads only; what follows from it is the commands' and the
//! scheduler's business.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::Class;
use mlctl_proto::units::UtcMs;

use super::State;
use super::records::{
    Account, Allocation, AllocationPhase, Attempt, Budget, BudgetAccount, Decayed, DeviceHold,
    Node, Team, TeamLimit, TeamUsage,
};
use super::rules::budget::Book;
use super::rules::decay;
use super::rules::flavors::Flavors;
use super::rules::quota::Ledger;
use super::view::amounts::GPU;
use super::view::holdings::{Held, Holdings, Kind};
use super::view::teams::{Flavor, TeamView};

impl State {
    /// A team.
    pub fn team(&self, name: &str) -> Option<&Arc<Team>> {
        self.teams.get(name)
    }

    /// A team and those that it is in, from the team upwards.
    pub fn levels<'a>(&'a self, team: &'a str) -> impl Iterator<Item = &'a Arc<Team>> {
        let above = |name: &&'a str| name.rsplit_once('/').map(|(above, _)| above);
        std::iter::successors(Some(team), above).filter_map(|name| self.teams.get(name))
    }

    /// The most urgent class that jobs of a team may have, unless an admin submits them: the lowest that is said at any level, else `high`.
    pub fn max_class(&self, team: &str) -> Class {
        let said = self.levels(team).filter_map(|level| level.max_class);
        said.min().unwrap_or(Class::High)
    }

    /// The team of a user's jobs, if that was said.
    pub fn default_team_of(&self, user: &str) -> Option<&str> {
        self.indexes.teams.default_of(user).map(AsRef::as_ref)
    }

    /// Every flavor that some team names.
    pub fn flavors(&self) -> &Flavors {
        self.indexes.teams.flavors()
    }

    /// What users hold and wait for.
    pub fn holdings(&self) -> &Holdings {
        &self.indexes.holdings
    }

    /// Units of each flavor that somebody holds. What no team names is left out.
    pub fn units_by_flavor(&self, held: &Held) -> BTreeMap<Flavor, u64> {
        let mut sums: BTreeMap<Flavor, u64> = BTreeMap::new();
        for ((pool, model), units) in &held.units {
            if let Some(flavor) = self.flavors().of(pool, model) {
                let sum = sums.entry(flavor.clone()).or_default();
                *sum = sum.saturating_add(*units);
            }
        }
        sums
    }

    /// Units of each flavor that one allocation holds, or held. What no team names is left out.
    pub fn units_of(&self, allocation: &Allocation) -> BTreeMap<Flavor, u64> {
        self.units_on(&allocation.node, &allocation.devices)
    }

    /// Units of each flavor that devices of a node count as. What no team names is left out.
    pub fn units_on(&self, node: &str, devices: &[String]) -> BTreeMap<Flavor, u64> {
        let node = self.nodes.get(node);
        let mut held = Held::default();
        for (kind, units) in kinds_on(node.map(AsRef::as_ref), devices) {
            *held.units.entry(kind).or_default() = units;
        }
        self.units_by_flavor(&held)
    }

    /// Units of each flavor that are kept for a job.
    pub fn units_held(&self, hold: &DeviceHold) -> BTreeMap<Flavor, u64> {
        let mut sums = BTreeMap::new();
        for seat in &hold.seats {
            for (flavor, units) in self.units_on(&seat.node, &seat.devices) {
                let sum: &mut u64 = sums.entry(flavor).or_default();
                *sum = sum.saturating_add(units);
            }
        }
        sums
    }

    /// A team as the scheduler sees it, at state time.
    pub fn team_view(&self, team: &Team) -> TeamView {
        let (now_ms, half_life_ms) = (self.now_ms(), self.half_life_ms());
        let name = team.name.as_str();
        let usage = |user: &str, held: &Held| {
            let so_far = u128::from(held.used_so_far(now_ms)) << decay::FRACTION_BITS;
            let left = decay::left(self.usage_of(name, user), now_ms, half_life_ms);
            left.saturating_add(so_far)
        };
        let mut users: BTreeMap<Arc<str>, u128> = BTreeMap::new();
        let first = (name.to_owned(), String::new());
        for ((of, user), _) in self.usages.range(first..) {
            if of != name {
                break;
            }
            if !user.is_empty() {
                let held = self.holdings().of(name, user);
                users.insert(Arc::from(user.as_str()), usage(user, &held));
            }
        }
        for (user, held) in self.holdings().users(name) {
            let fresh = || usage(user, held);
            users.entry(user.clone()).or_insert_with(fresh);
        }
        let held = self.holdings().team(name);
        let budgets = team.budgets.iter();
        let budgets = budgets.map(|(flavor, budget)| {
            let left = self.book(name, flavor, budget).left(now_ms) / 1_000;
            (flavor.clone(), left)
        });
        let max_running = team.limit(TeamLimit::MaxRunning);
        TeamView {
            name: Arc::from(name),
            weight: team.weight,
            quotas: team.quotas.clone(),
            own: self.units_by_flavor(&held),
            usage: usage("", &held),
            users,
            budgets: budgets.collect(),
            max_running: max_running.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        }
    }

    /// All teams with what their jobs hold, for the inequality. Usage and budgets are left out: it does not ask for them.
    pub fn ledger(&self) -> Ledger {
        let view = |team: &Arc<Team>| TeamView {
            name: Arc::from(team.name.as_str()),
            weight: team.weight,
            quotas: team.quotas.clone(),
            own: self.units_by_flavor(&self.holdings().team(&team.name)),
            usage: 0,
            users: BTreeMap::new(),
            budgets: BTreeMap::new(),
            max_running: None,
        };
        let views: Vec<TeamView> = self.teams().map(view).collect();
        Ledger::new(views.iter())
    }

    /// What is left of what a team's own jobs, or one user's in it, have used; an empty `user`: all.
    pub fn usage_of(&self, team: &str, user: &str) -> Decayed {
        let key = (team.to_owned(), user.to_owned());
        self.usages
            .get(&key)
            .map(|row| row.usage)
            .unwrap_or_default()
    }

    /// What is left of all usage, by team and user.
    pub fn usages(&self) -> impl Iterator<Item = &Arc<TeamUsage>> {
        self.usages.iter().map(|(_, usage)| usage)
    }

    /// What a budget has come to.
    pub fn account(&self, team: &str, flavor: &Flavor) -> Account {
        let key = (team.to_owned(), flavor.clone());
        let row = self.accounts.get(&key);
        row.map(|row| row.account.clone()).unwrap_or_default()
    }

    /// Everything that budgets have come to, by team and flavor.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<BudgetAccount>> {
        self.accounts.iter().map(|(_, account)| account)
    }

    /// A budget with what it has come to.
    pub fn book(&self, team: &str, flavor: &Flavor, budget: &Budget) -> Book {
        Book {
            team: Arc::from(team),
            budget: budget.clone(),
            account: self.account(team, flavor),
        }
    }

    /// The budgets of a flavor that count for jobs of a team, from the team upwards.
    pub fn books(&self, team: &str, flavor: &Flavor) -> Vec<Book> {
        let budgeted = |level: &Arc<Team>| {
            let budget = level.budgets.get(flavor)?;
            Some(self.book(&level.name, flavor, budget))
        };
        self.levels(team).filter_map(budgeted).collect()
    }

    /// Attempts whose commitments are to be renewed at `time_ms` or before, those first that are due first.
    pub fn charges_due(&self, time_ms: UtcMs) -> impl Iterator<Item = (JobId, Epoch)> {
        self.indexes.teams.due(time_ms)
    }

    /// When the first of all commitments is to be renewed.
    pub fn next_charge_due(&self) -> Option<UtcMs> {
        self.indexes.teams.next_due()
    }

    /// Since when the work of an attempt would be lost with its node: its newest whole checkpoint, else its beginning.
    pub fn unsaved_since(&self, attempt: &Attempt) -> UtcMs {
        let newest = self.saved_ms(attempt);
        newest.unwrap_or(attempt.started_ms).max(attempt.started_ms)
    }

    /// When the newest whole checkpoint that an attempt made itself was first recorded.
    pub fn saved_ms(&self, attempt: &Attempt) -> Option<UtcMs> {
        let job = self.jobs.get(&attempt.job);
        let saved = job.iter().flat_map(|job| &job.checkpoints);
        let own = saved.filter(|one| one.epoch == attempt.epoch && one.is_whole());
        own.map(|one| one.sealed_ms).max()
    }

    /// Attempts of jobs of a team, and of teams in it, that hold something.
    pub fn open_attempts_below<'a>(
        &'a self,
        team: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Attempt>> {
        self.active_attempts().filter(move |attempt| {
            let job = self.jobs.get(&attempt.job);
            let rest = job.and_then(|job| job.team.strip_prefix(team));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// What the devices of an allocation are, with their units, as the node's facts say. What a node does not have any more is nothing.
pub(super) fn kinds_of(node: Option<&Node>, allocation: &Allocation) -> Vec<(Kind, u64)> {
    kinds_on(node, &allocation.devices)
}

fn kinds_on(node: Option<&Node>, devices: &[String]) -> Vec<(Kind, u64)> {
    let Some(node) = node.filter(|_| !devices.is_empty()) else {
        return Vec::new();
    };
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for uuid in devices {
        let mut devices = node.facts.devices.iter();
        if let Some(device) = devices.find(|device| device.uuid == *uuid) {
            let sum = sums.entry(device.model.as_str()).or_default();
            *sum = sum.saturating_add(GPU);
        }
    }
    let pool: Arc<str> = Arc::from(node.facts.pool.as_str());
    let kind = |(model, units): (&str, u64)| ((pool.clone(), Arc::from(model)), units);
    sums.into_iter().map(kind).collect()
}

/// The allocations of an attempt that hold something.
pub(super) fn open(attempt: &Attempt) -> impl Iterator<Item = &Allocation> {
    let all = attempt.allocations.iter();
    all.filter(|one| one.phase != AllocationPhase::Ended)
}
