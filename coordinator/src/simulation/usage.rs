//! What teams and users had of the cluster, fading with its age: fair share is about that. Fixed point, so that every machine gets the same. Does NOT order jobs.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use crate::state::view::scene::Scene;

/// Bits behind the point of [`crate::state::view::teams::TeamView::usage`].
const POINT: u32 = 16;
/// How often usage is brought up to date, milliseconds.
const STEP_MS: i64 = 60_000;

/// Who holds how much, and since when it is not yet counted.
#[derive(Debug, Default)]
pub struct Usage {
    counted_ms: UtcMs,
    /// By team and owner.
    open: BTreeMap<(Arc<str>, Arc<str>), Open>,
}

/// Units x milliseconds since the last step, units held now, and since when.
type Open = (u128, u64, UtcMs);

impl Usage {
    /// An owner's jobs hold `units` more.
    pub fn start(&mut self, team: &Arc<str>, owner: &Arc<str>, now: UtcMs, units: u64) {
        let held = self.touch(team, owner, now);
        *held = held.saturating_add(units);
    }

    /// They hold `units` less.
    pub fn end(&mut self, team: &Arc<str>, owner: &Arc<str>, now: UtcMs, units: u64) {
        let held = self.touch(team, owner, now);
        *held = held.saturating_sub(units);
    }

    fn touch(&mut self, team: &Arc<str>, owner: &Arc<str>, now: UtcMs) -> &mut u64 {
        let key = (team.clone(), owner.clone());
        let (had, held, since) = self.open.entry(key).or_insert((0, 0, now));
        let passed = u128::from(now.saturating_sub(*since).unsigned_abs());
        *had = had.saturating_add(passed.saturating_mul(u128::from(*held)));
        *since = now;
        held
    }

    /// Writes usage into the scene if a step has passed. `people`: owners are users; virtual clusters have no fair share below their team's.
    pub fn step(&mut self, scene: &mut Scene, now: UtcMs, people: bool) {
        let passed = now.saturating_sub(self.counted_ms);
        if passed < STEP_MS {
            return;
        }
        self.counted_ms = now;
        let keeps = faded(passed.unsigned_abs(), scene.settings.half_life_ms);
        let names: Vec<Arc<str>> = scene.teams.keys().cloned().collect();
        for name in names {
            if let Some(team) = scene.teams.get_mut(&name) {
                let team = Arc::make_mut(team);
                team.usage = fade(team.usage, keeps);
                for usage in team.users.values_mut() {
                    *usage = fade(*usage, keeps);
                }
            }
        }
        let keys: Vec<(Arc<str>, Arc<str>)> = self.open.keys().cloned().collect();
        for (team, owner) in keys {
            self.touch(&team, &owner, now);
            let Some((had, held, _)) = self.open.get_mut(&(team.clone(), owner.clone())) else {
                continue;
            };
            let adds = (std::mem::take(had) << POINT) / 1_000;
            let idle = *held == 0;
            if let Some(view) = scene.teams.get_mut(&team) {
                let view = Arc::make_mut(view);
                view.usage = view.usage.saturating_add(adds);
                if people {
                    let user = view.users.entry(owner.clone()).or_insert(0);
                    *user = user.saturating_add(adds);
                }
            }
            if idle {
                self.open.remove(&(team, owner));
            }
        }
        scene.decayed_ms = now;
    }
}

fn fade(usage: u128, keeps: u64) -> u128 {
    // Usage has fewer than 96 bits: a million GPUs for a century.
    usage.saturating_mul(u128::from(keeps)) >> 32
}

/// What is left of one, in 2^-32, after `passed_ms`: 2^-(passed / half-life).
fn faded(passed_ms: u64, half_life_ms: u64) -> u64 {
    let half_life = u128::from(half_life_ms.max(1));
    let halvings = (u128::from(passed_ms) << 32) / half_life;
    let whole = u32::try_from(halvings >> 32).unwrap_or(u32::MAX).min(63);
    let mut keeps: u64 = 1 << 32;
    // 2^-(1/2), 2^-(1/4), ...: each the root of the one before.
    let mut root: u64 = 1 << 31;
    for bit in (0..32).rev() {
        root = (u128::from(root) << 32)
            .isqrt()
            .try_into()
            .unwrap_or(u64::MAX);
        if halvings >> bit & 1 == 1 {
            keeps = ((u128::from(keeps) * u128::from(root)) >> 32)
                .try_into()
                .unwrap_or(u64::MAX);
        }
    }
    keeps >> whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_halves_in_a_half_life_and_again_in_the_next() {
        let week = 7 * 24 * 3_600_000;
        assert_eq!(faded(week, week), 1 << 31);
        assert_eq!(faded(2 * week, week), 1 << 30);
        let half = faded(week / 2, week);
        assert!(
            half.abs_diff(3_037_000_500) < 20,
            "2^-(1/2) in 2^-32: {half}"
        );
    }
}
