//! What an admin has decided about scheduling, as the rest reads it: settings as the scheduler takes them, what is paused, countables, maintenance, owners.
//! Reads only; what follows from it for one job is `rules::access`.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::State;
use super::records::{
    Attempt, Automatic, Decision, DecisionKey, Maintenance, Node, NodeOwner, Pause, PoolRules,
    SchedKey, Target,
};
use super::rules::sched;
use super::view::policy::SchedSettings;

impl State {
    /// Everything that was decided, by what it is about.
    pub fn decisions(&self) -> impl Iterator<Item = &Arc<Decision>> {
        self.decisions.iter().map(|(_, decision)| decision)
    }

    /// What was decided about one thing.
    pub fn decision(&self, key: &DecisionKey) -> Option<&Arc<Decision>> {
        self.decisions.get(key)
    }

    /// The scheduler's settings: the shipped ones, with what an admin has changed of them.
    pub fn scheduling(&self) -> SchedSettings {
        let mut settings = SchedSettings::default();
        for key in SchedKey::ALL {
            if let Some(Decision::Setting(key, values)) =
                self.decision(&DecisionKey::Setting(key)).map(AsRef::as_ref)
            {
                sched::put(&mut settings, *key, values);
            }
        }
        settings
    }

    /// The half-life of usage, milliseconds.
    pub fn half_life_ms(&self) -> i64 {
        let key = DecisionKey::Setting(SchedKey::HalfLife);
        let decided = match self.decision(&key).map(AsRef::as_ref) {
            Some(Decision::Setting(_, values)) => values.first().copied(),
            _ => None,
        };
        let length = decided.unwrap_or_else(|| SchedSettings::default().half_life_ms);
        i64::try_from(length).unwrap_or(i64::MAX)
    }

    /// What is paused at `now_ms`.
    pub fn pauses(&self, now_ms: UtcMs) -> impl Iterator<Item = &Pause> {
        let all = self.decisions().filter_map(|one| match one.as_ref() {
            Decision::Pause(pause) => Some(pause),
            _ => None,
        });
        all.filter(move |pause| pause.holds(now_ms))
    }

    /// What keeps something from happening by itself in a pool: of two pauses, the one everywhere.
    pub fn paused(&self, what: Automatic, pool: &str, now_ms: UtcMs) -> Option<&Pause> {
        let of = |pool: &str| {
            let key = DecisionKey::Pause(what, pool.to_owned());
            match self.decision(&key).map(AsRef::as_ref) {
                Some(Decision::Pause(pause)) if pause.holds(now_ms) => Some(pause),
                _ => None,
            }
        };
        of("").or_else(|| of(pool))
    }

    /// How many there are of a named countable.
    pub fn license_total(&self, name: &str) -> u32 {
        let key = DecisionKey::License(name.to_owned());
        match self.decision(&key).map(AsRef::as_ref) {
            Some(Decision::License(_, total)) => *total,
            _ => 0,
        }
    }

    /// Every named countable: how many there are, and how many are held. A job holds them as long as any attempt of it holds something, an array once for
    /// all its tasks. What is in doubt is on a Lost node, and counts for nobody.
    pub fn licenses(&self) -> BTreeMap<String, (u32, u32)> {
        let mut all: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        for one in self.decisions() {
            if let Decision::License(name, total) = one.as_ref() {
                all.insert(name.clone(), (*total, 0));
            }
        }
        if all.is_empty() {
            return all;
        }
        let mut seen: BTreeSet<JobId> = BTreeSet::new();
        let holds = |attempt: &&Arc<Attempt>| !attempt.in_doubt;
        for attempt in self.active_attempts().filter(holds) {
            if !seen.insert(attempt.job) {
                continue;
            }
            let facts = self.job(attempt.job).and_then(|job| self.spec_facts(job));
            for (name, count) in facts.iter().flat_map(|facts| &facts.ask.licenses) {
                let (_, held) = all.entry(name.clone()).or_default();
                *held = held.saturating_add(*count);
            }
        }
        all
    }

    /// Times of maintenance, the oldest decision first; also those that are over.
    pub fn maintenance(&self) -> impl Iterator<Item = &Maintenance> {
        let range = DecisionKey::Maintenance(0)..=DecisionKey::Maintenance(u64::MAX);
        let all = self.decisions.range(range);
        all.filter_map(|(_, one)| match one.as_ref() {
            Decision::Maintenance(one) => Some(one),
            _ => None,
        })
    }

    /// Times of maintenance of a node that are not over at `now_ms`, the earliest first.
    pub fn maintenance_of(&self, node: &Node, now_ms: UtcMs) -> Vec<&Maintenance> {
        let meant = |one: &&Maintenance| match &one.target {
            Target::Node(name) => *name == node.facts.name,
            Target::Pool(name) => *name == node.facts.pool,
        };
        let ahead = self.maintenance().filter(|one| one.until_ms > now_ms);
        let mut found: Vec<&Maintenance> = ahead.filter(meant).collect();
        found.sort_by_key(|one| (one.from_ms, one.until_ms, one.id));
        found
    }

    /// Whose node it is.
    pub fn owner_of(&self, node: &str) -> Option<&NodeOwner> {
        let key = DecisionKey::Owner(node.to_owned());
        match self.decision(&key).map(AsRef::as_ref) {
            Some(Decision::Owner(owner)) => Some(owner),
            _ => None,
        }
    }

    /// Rules of a pool.
    pub fn pool_rules(&self, pool: &str) -> Option<&PoolRules> {
        let key = DecisionKey::Pool(pool.to_owned());
        match self.decision(&key).map(AsRef::as_ref) {
            Some(Decision::Pool(rules)) => Some(rules),
            _ => None,
        }
    }

    /// When what was decided next changes by time alone: a pause ends, or maintenance begins or ends.
    pub fn next_decision_ms(&self, now_ms: UtcMs) -> Option<UtcMs> {
        let times = self.decisions().flat_map(|one| match one.as_ref() {
            Decision::Pause(pause) => [Some(pause.until_ms), None],
            Decision::Maintenance(one) => [Some(one.from_ms), Some(one.until_ms)],
            _ => [None, None],
        });
        times.flatten().filter(|time| *time > now_ms).min()
    }
}
