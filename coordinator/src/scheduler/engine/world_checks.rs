//! What the policy promises, checked at every step of a test's cluster by recounting all from scratch. Does NOT change the cluster.
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use super::{World, charges};
use crate::scheduler::engine::Why;
use crate::scheduler::engine::ahead::is_below;
use crate::scheduler::engine::entitlement::{Covers, Holder, grows, standing};
use crate::scheduler::plan::{Proposal, Taken};
use crate::state::rules::quota::Ledger;
use crate::state::view::ask::{Gpus, Width};
use crate::state::view::jobs::{Seat, Waiting};
use crate::state::view::nodes::Open;
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, Limit, TeamView};

impl World {
    pub(super) fn check_gang(&self, job: &Waiting, seats: &[Seat], tasks: Option<u32>) {
        if let Some(tasks) = tasks {
            assert_eq!(seats.len(), tasks as usize);
        } else {
            let wide = u32::try_from(seats.len()).expect("small");
            let allowed = match &job.ask.nodes {
                Width::Exactly(nodes) => wide == *nodes,
                Width::Elastic(all) => all.contains(&wide),
            };
            assert!(allowed, "{} on {wide} nodes", job.id);
            let mut names: Vec<_> = seats.iter().map(|seat| &seat.node).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), seats.len(), "distinct nodes");
        }
        let mut sorts = Vec::new();
        for seat in seats {
            let node = &self.scene.nodes[&seat.node];
            assert_eq!(node.open, Open::Now);
            let count = match job.ask.gpus {
                Gpus::Whole(count) | Gpus::Mig { count, .. } => count as usize,
                Gpus::Share(_) => 1,
                Gpus::None => 0,
            };
            assert_eq!(seat.devices.len(), count, "all of each node's part");
            sorts.extend(
                seat.devices
                    .iter()
                    .map(|at| (&node.pool, &node.devices[usize::from(*at)].model)),
            );
        }
        sorts.sort();
        sorts.dedup();
        assert!(job.ask.mix || sorts.len() <= 1, "one type and one pool");
    }

    /// The slow oracle of the inequality, at every level above a job that just started.
    pub(super) fn check_quota(&self, id: JobId, charges: &[(Flavor, u64)]) {
        let team = &self.truths[&id].job.team;
        for (flavor, _) in charges {
            for level in self
                .scene
                .teams
                .values()
                .filter(|level| is_below(team, &level.name))
            {
                if let Some((load, most)) = self.load(&level.name, flavor) {
                    assert!(
                        load <= most,
                        "{} holds {load} of {most} {flavor:?} after {id}",
                        level.name
                    );
                }
            }
        }
    }

    /// What a team holds and claims, and what it may: recursively, by the definition; `None`: no limit.
    fn load(&self, name: &str, flavor: &Flavor) -> Option<(u64, u64)> {
        let root = name.split('/').next().expect("a name");
        let governed = self
            .scene
            .teams
            .values()
            .any(|team| is_below(&team.name, root) && team.quotas.contains_key(flavor));
        if !governed {
            return None;
        }
        let mut held: Vec<(Arc<str>, u64)> = Vec::new();
        for run in self.scene.running.values() {
            let of = charges(&self.scene, &run.ask.gpus, &run.seats);
            held.extend(
                of.into_iter()
                    .filter(|(one, _)| one == flavor)
                    .map(|(_, units)| (run.team.clone(), units)),
            );
        }
        let (load, most) = total(&self.scene, name, flavor, &held);
        most.map(|most| (load, most))
    }

    pub(super) fn check_before(&self, plan: &Proposal<Why>) {
        let mut seen = std::collections::BTreeSet::new();
        for start in &plan.starts {
            assert!(
                start.tasks.is_some() || seen.insert(start.job),
                "{} starts twice",
                start.job
            );
        }
        for job in plan.preemptions.iter().map(|one| one.job) {
            assert!(seen.insert(job), "{job} starts and preempts");
        }
        assert!(plan.next.is_none_or(|next| next >= self.now));
    }

    /// Everybody who waits has a reason, or devices are promised to it.
    pub(super) fn check_reasons(&self, plan: &Proposal<Why>) {
        for job in self.scene.waiting.values() {
            let started = plan.starts.iter().any(|start| start.job == job.id);
            assert!(
                started || plan.reasons.contains_key(&job.id),
                "{} waits without a reason",
                job.id
            );
        }
    }

    pub fn holders(&self, flavor: &Flavor) -> (Vec<Holder>, Vec<(JobId, Option<Epoch>)>) {
        let ledger = Ledger::new(self.scene.teams.values().map(|team| &**team));
        let mut found = (Vec::new(), Vec::new());
        for run in self
            .scene
            .running
            .values()
            .filter(|run| run.ends_by_ms.is_none())
        {
            let units: u64 = charges(&self.scene, &run.ask.gpus, &run.seats)
                .into_iter()
                .filter(|(one, _)| one == flavor)
                .map(|(_, units)| units)
                .sum();
            if units > 0 {
                let submit = (run.submit_index, run.id);
                found.0.push(Holder {
                    team: ledger.team(&run.team),
                    class: run.class,
                    start: run.started_ms,
                    submit,
                    units,
                });
                found.1.push((run.id, Some(run.epoch)));
            }
        }
        for hold in self.scene.holds.values() {
            let job = &self.truths[&hold.job].job;
            let units: u64 = charges(&self.scene, &job.ask.gpus, &hold.seats)
                .into_iter()
                .filter(|(one, _)| one == flavor)
                .map(|(_, units)| units)
                .sum();
            if units > 0 {
                let submit = (job.submit_index, job.id);
                let (team, start) = (ledger.team(&job.team), self.now);
                found.0.push(Holder {
                    team,
                    class: job.class,
                    start,
                    submit,
                    units,
                });
                found.1.push((hold.job, None));
            }
        }
        found
    }

    /// The order of entitlements, and growth (docs/SCHEDULING.md, Preemption).
    pub(super) fn check_preemption(&self, one: &crate::scheduler::plan::Preemption) {
        assert!(!one.victims.is_empty(), "nobody ends, and still it waits");
        let outside = one
            .victims
            .iter()
            .all(|victim| matches!(victim.why, Taken::Overtime | Taken::Guest | Taken::Slice));
        if outside {
            return;
        }
        let job = &self.truths[&one.job].job;
        let ledger = Ledger::new(self.scene.teams.values().map(|team| &**team));
        for (flavor, units) in &one.charges {
            let column = ledger.column_of(flavor);
            let (before, names) = self.holders(flavor);
            let old = Covers::new(&ledger, column, &before);
            let goes = |id: &(JobId, Option<Epoch>)| {
                one.victims
                    .iter()
                    .any(|victim| (victim.job, Some(victim.epoch)) == *id)
            };
            let mut after: Vec<Holder> = before
                .iter()
                .zip(&names)
                .filter(|(_, id)| !goes(id))
                .map(|(holder, _)| *holder)
                .collect();
            after.push(Holder {
                team: ledger.team(&job.team),
                class: job.class,
                start: self.now,
                submit: (job.submit_index, job.id),
                units: *units,
            });
            let new = Covers::new(&ledger, column, &after);
            let mine = new.of(after.len() - 1, job.class);
            for (at, id) in names.iter().enumerate().filter(|(_, id)| goes(id)) {
                let theirs = old.of(at, before[at].class);
                assert!(
                    theirs < mine,
                    "{id:?} {theirs:?} goes for {} {mine:?}",
                    one.job
                );
            }
            let (old, new) = (standing(&old, &before), standing(&new, &after));
            assert!(grows(&old, &new), "no growth: {old:?} {new:?}");
        }
    }
}

fn children(scene: &Scene, name: &str) -> Vec<Arc<TeamView>> {
    let below = |team: &&Arc<TeamView>| {
        team.name
            .rsplit_once('/')
            .is_some_and(|(above, _)| above == name)
    };
    scene.teams.values().filter(below).cloned().collect()
}

fn nominal(scene: &Scene, name: &str, flavor: &Flavor) -> (u64, Limit) {
    match scene.teams[name].quotas.get(flavor) {
        Some(quota) => (quota.nominal, quota.borrow),
        None => {
            let below: Vec<_> = children(scene, name)
                .iter()
                .map(|child| named(scene, &child.name, flavor))
                .collect();
            if below.iter().any(Option::is_some) {
                (below.into_iter().flatten().sum(), Limit::Unlimited)
            } else {
                (0, Limit::Units(0))
            }
        }
    }
}

fn named(scene: &Scene, name: &str, flavor: &Flavor) -> Option<u64> {
    let here = scene
        .teams
        .values()
        .any(|team| is_below(&team.name, name) && team.quotas.contains_key(flavor));
    here.then(|| nominal(scene, name, flavor).0)
}

/// What a team of a governed tree and those below hold and claim, if these hold so much, and the most that it may: by the definition.
pub fn total(
    scene: &Scene,
    name: &str,
    flavor: &Flavor,
    held: &[(Arc<str>, u64)],
) -> (u64, Option<u64>) {
    let own: u64 = held
        .iter()
        .filter(|(team, _)| **team == *name)
        .map(|(_, units)| units)
        .sum();
    let claims = children(scene, name).into_iter().map(|child| {
        let (load, _) = total(scene, &child.name, flavor, held);
        let kept = child
            .quotas
            .get(flavor)
            .map_or(0, |quota| match quota.lend {
                Limit::Unlimited => 0,
                Limit::Units(lend) => quota.nominal.saturating_sub(lend),
            });
        load.max(kept)
    });
    let load = own + claims.sum::<u64>();
    let (nominal, borrow) = nominal(scene, name, flavor);
    let most = match borrow {
        Limit::Unlimited if name.contains('/') => None,
        Limit::Units(more) if name.contains('/') => Some(nominal + more),
        _ => Some(nominal),
    };
    (load, most)
}
