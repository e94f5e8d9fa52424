//! What each user holds and waits for in each team: counted from open attempts and jobs by the hooks of their tables, and from nothing on load. Units
//! are counted by pool and model, so that a change of quotas counts at once what runs. Does NOT know any quota.
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use mlctl_proto::units::UtcMs;

/// Pool and model of a device.
pub type Kind = (Arc<str>, Arc<str>);

/// Of one user in one team, or of several together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Units of devices in open allocations, by what they are.
    pub units: BTreeMap<Kind, u64>,
    /// Those units times the beginning of their attempts, milliseconds: what running attempts have used by now is
    /// `units * now - begun`.
    pub begun: u128,
    /// Jobs that start, run or stop.
    pub running: u64,
    /// Tasks that wait, or are held: a job is one, an array as many as wait of it.
    pub waiting: u64,
    /// Jobs that are not over.
    pub jobs: u64,
}

/// What one job counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// See [`Held::running`].
    pub running: u64,
    /// See [`Held::waiting`].
    pub waiting: u64,
    /// See [`Held::jobs`].
    pub jobs: u64,
}

/// Of everybody. A clone is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// By team and user. Who holds nothing and waits for nothing is not in here.
    of: OrdMap<(Arc<str>, Arc<str>), Arc<Held>>,
}

impl Held {
    /// All units.
    pub fn all_units(&self) -> u64 {
        self.units.values().copied().fold(0, u64::saturating_add)
    }

    /// Unit-seconds that running attempts have used so far.
    pub fn used_so_far(&self, now_ms: UtcMs) -> u64 {
        let now = u128::from(now_ms.max(0).unsigned_abs());
        let ms = u128::from(self.all_units())
            .saturating_mul(now)
            .saturating_sub(self.begun);
        u64::try_from(ms / 1_000).unwrap_or(u64::MAX)
    }

    fn is_nothing(&self) -> bool {
        self.units.is_empty() && (self.running, self.waiting, self.jobs) == (0, 0, 0)
    }

    fn add(&mut self, other: &Self) {
        for (kind, units) in &other.units {
            let sum = self.units.entry(kind.clone()).or_default();
            *sum = sum.saturating_add(*units);
        }
        self.begun = self.begun.saturating_add(other.begun);
        self.running = self.running.saturating_add(other.running);
        self.waiting = self.waiting.saturating_add(other.waiting);
        self.jobs = self.jobs.saturating_add(other.jobs);
    }
}

impl Holdings {
    /// Of one user in one team itself.
    pub fn of(&self, team: &str, user: &str) -> Held {
        let key = (Arc::from(team), Arc::from(user));
        self.of
            .get(&key)
            .map(|held| Held::clone(held))
            .unwrap_or_default()
    }

    /// Users who hold or wait for something in a team itself, by id.
    pub fn users<'a>(&'a self, team: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Held)> {
        let first = (Arc::from(team), Arc::from(""));
        let entries = self
            .of
            .range(first..)
            .take_while(move |((name, _), _)| &**name == team);
        entries.map(|((_, user), held)| (user, held.as_ref()))
    }

    /// Of a team itself, all users together.
    pub fn team(&self, team: &str) -> Held {
        let mut sum = Held::default();
        self.users(team).for_each(|(_, held)| sum.add(held));
        sum
    }

    /// Of a team and all teams in it: of all users, or of one.
    pub fn below(&self, team: &str, user: Option<&str>) -> Held {
        let first = (Arc::from(team), Arc::from(""));
        let mut sum = Held::default();
        for ((name, of), held) in self.of.range(first..) {
            let rest = name.strip_prefix(team);
            match rest {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => {}
                // `acme-x` sorts between `acme` and `acme/y`.
                Some(_) => continue,
                None => break,
            }
            if user.is_none_or(|user| user == &**of) {
                sum.add(held);
            }
        }
        sum
    }

    /// Devices were taken, or given back, by an attempt that began at `begun_ms`.
    pub fn units(
        &mut self,
        (team, user): (&str, &str),
        kinds: &[(Kind, u64)],
        begun_ms: UtcMs,
        taken: bool,
    ) {
        if kinds.is_empty() {
            return;
        }
        self.change(team, user, |held| {
            for (kind, units) in kinds {
                let begun =
                    u128::from(*units).saturating_mul(u128::from(begun_ms.max(0).unsigned_abs()));
                let sum = held.units.entry(kind.clone()).or_default();
                if taken {
                    *sum = sum.saturating_add(*units);
                    held.begun = held.begun.saturating_add(begun);
                } else {
                    *sum = sum.saturating_sub(*units);
                    held.begun = held.begun.saturating_sub(begun);
                }
                if *sum == 0 {
                    held.units.remove(kind);
                }
            }
        });
    }

    /// A job counts for something else now.
    pub fn job(&mut self, (team, user): (&str, &str), old: Tally, new: Tally) {
        if old == new {
            return;
        }
        let moved = |sum: u64, old: u64, new: u64| sum.saturating_sub(old).saturating_add(new);
        self.change(team, user, |held| {
            held.running = moved(held.running, old.running, new.running);
            held.waiting = moved(held.waiting, old.waiting, new.waiting);
            held.jobs = moved(held.jobs, old.jobs, new.jobs);
        });
    }

    fn change(&mut self, team: &str, user: &str, change: impl FnOnce(&mut Held)) {
        let key: (Arc<str>, Arc<str>) = (Arc::from(team), Arc::from(user));
        let held = self.of.entry(key.clone()).or_default();
        change(Arc::make_mut(held));
        if held.is_nothing() {
            self.of.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(model: &str) -> Kind {
        ("own".into(), model.into())
    }

    #[test]
    fn what_comes_goes_and_leaves_nothing_behind() {
        let mut holdings = Holdings::default();
        let two = [(kind("h100"), 14_000), (kind("a100"), 3_500)];
        let (ann, bo) = (("acme/vision", "ann"), ("acme", "bo"));
        holdings.units(ann, &two, 5_000, true);
        holdings.units(ann, &two[..1], 9_000, true);
        holdings.units(bo, &two[1..], 0, true);
        let waits = Tally {
            waiting: 30,
            running: 0,
            jobs: 1,
        };
        let runs = Tally {
            waiting: 20,
            running: 1,
            jobs: 1,
        };
        holdings.job(ann, Tally::default(), waits);
        holdings.job(ann, waits, runs);
        let held = holdings.of("acme/vision", "ann");
        assert_eq!(
            held.units,
            BTreeMap::from([(kind("a100"), 3_500), (kind("h100"), 28_000)])
        );
        assert_eq!((held.running, held.waiting, held.jobs), (1, 20, 1));
        // 17,500 units for 15 s and 14,000 for 11 s.
        assert_eq!(held.used_so_far(20_000), 17_500 * 15 + 14_000 * 11);
        assert_eq!(holdings.team("acme").all_units(), 3_500);
        holdings.units(ann, &two, 5_000, false);
        holdings.units(ann, &two[..1], 9_000, false);
        holdings.units(bo, &two[1..], 0, false);
        holdings.job(ann, runs, Tally::default());
        assert_eq!(holdings, Holdings::default());
    }

    #[test]
    fn below_is_a_team_and_all_in_it_and_no_other() {
        let mut holdings = Holdings::default();
        for (team, user) in [
            ("acme", "a"),
            ("acme-x", "a"),
            ("acme/v", "a"),
            ("acme/v", "b"),
            ("acme/v/w", "a"),
            ("acmex", "a"),
            ("b", "a"),
        ] {
            holdings.units((team, user), &[(kind("h100"), 1)], 0, true);
        }
        assert_eq!(holdings.below("acme", None).all_units(), 4);
        assert_eq!(holdings.below("acme", Some("a")).all_units(), 3);
        assert_eq!(holdings.below("acme/v", None).all_units(), 3);
        assert_eq!(holdings.below("none", None), Held::default());
        assert_eq!(holdings.users("acme/v").count(), 2);
        assert_eq!(holdings.team("acme/v").all_units(), 2);
    }
}
