//! Budgets of a test's cluster: a start commits its first slice at every level, a slice is renewed before it ends, what was not used is given back. One whose renewal
//! fails is ended and waits. Does NOT plan.
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use super::{World, charges};
use crate::scheduler::engine::ahead::is_below;
use crate::state::view::jobs::{Running, Waiting};
use crate::state::view::teams::{Flavor, TeamView};

const SLICE_MS: i64 = 3_600_000;

impl World {
    /// Whether every level of a team has so much left for a job.
    pub fn is_funded(&self, job: &Waiting, charges: &[(Flavor, u64)]) -> bool {
        let slice = job
            .limit_ms
            .unwrap_or(u64::MAX)
            .min(SLICE_MS.unsigned_abs());
        let levels = self
            .scene
            .teams
            .values()
            .filter(|team| is_below(&job.team, &team.name));
        let mut all = levels.flat_map(|team| charges.iter().map(move |charge| (team, charge)));
        all.all(|(team, (flavor, units))| {
            team.budgets
                .get(flavor)
                .is_none_or(|left| *left >= units * slice.div_ceil(1_000))
        })
    }

    /// Changes what is left at every level by so many milliseconds of a run; false, and nothing changed: some level has too little.
    fn pay(&mut self, run: &Running, ms: i64) -> bool {
        let seconds = ms.unsigned_abs().div_ceil(1_000);
        let mut changed: Vec<TeamView> = Vec::new();
        for team in self
            .scene
            .teams
            .values()
            .filter(|team| is_below(&run.team, &team.name))
        {
            let mut team = TeamView::clone(team);
            for (flavor, units) in charges(&self.scene, &run.ask.gpus, &run.seats) {
                let Some(left) = team.budgets.get_mut(&flavor) else {
                    continue;
                };
                let all = units * seconds;
                match if ms > 0 {
                    left.checked_sub(all)
                } else {
                    Some(*left + all)
                } {
                    Some(now) => *left = now,
                    None => return false,
                }
            }
            changed.push(team);
        }
        for team in changed {
            self.scene.teams.insert(team.name.clone(), Arc::new(team));
        }
        true
    }

    /// The next slice of a run: what its limit leaves of one.
    fn slice(&self, run: &Running, from: i64) -> i64 {
        let limit = run.limit_ms.map_or(i64::MAX, |limit| {
            run.started_ms
                .saturating_add(i64::try_from(limit).unwrap_or(i64::MAX))
        });
        limit.saturating_sub(from).clamp(1_000, SLICE_MS)
    }

    /// A start commits its first slice.
    pub fn commit_slice(&mut self, run: &Running) {
        let slice = self.slice(run, self.now);
        let left: Vec<_> = self
            .scene
            .teams
            .values()
            .filter(|team| is_below(&run.team, &team.name))
            .map(|team| (&team.name, &team.budgets))
            .collect();
        let said = format!(
            "{} of {} starts beyond a budget: {slice} ms of {:?}, left {left:?}, {:?}",
            run.id,
            run.team,
            charges(&self.scene, &run.ask.gpus, &run.seats),
            self.scene.holds.get(&run.id)
        );
        assert!(self.pay(run, slice), "{said}");
        self.slices.insert((run.id, run.epoch), self.now + slice);
    }

    /// What was not used comes back.
    pub fn return_slice(&mut self, run: &Running) {
        if let Some(until) = self.slices.remove(&(run.id, run.epoch)) {
            // Down to the second: a part of one that was used is used.
            let left = (until - self.now).max(0) / 1_000 * 1_000;
            self.pay(run, -left);
        }
    }

    /// When the next slice ends.
    pub fn next_renewal(&self) -> Option<i64> {
        self.slices.values().copied().min()
    }

    /// Slices that end are renewed, or their runs end.
    pub fn renew_slices(&mut self) {
        let due: Vec<(JobId, Epoch)> = self
            .slices
            .iter()
            .filter(|(_, until)| **until <= self.now)
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            let Some(run) = self.scene.running.get(&key).cloned() else {
                continue;
            };
            let slice = self.slice(&run, self.now);
            if self.pay(&run, slice) {
                self.slices.insert(key, self.now + slice);
            } else {
                *self.marks.entry("budget renewal failed").or_default() += 1;
                self.end(&run, false);
            }
        }
    }
}
