//! A scene that is kept from plan to plan: of the next one only what changed is looked at. Says the same as [`scene`], which looks at everything; a property
//! test compares them. Does NOT decide anything.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::ClusterView;
use super::pools::Pools;
use super::scene::Scene;
use super::stage::{Names, holds, node_view, promised, running, scene, teams, waiting};
use crate::state::State;
use crate::state::records::{Attempt, Job, JobState, Settings};

/// The scene of the last plan, with what it was made from.
#[derive(Debug, Default)]
pub struct Stage {
    kept: Option<Kept>,
    names: Names,
}

#[derive(Debug)]
struct Kept {
    state: State,
    heard: BTreeSet<String>,
    /// When the scene was made: pauses and maintenance begin and end by time alone.
    made_ms: UtcMs,
    scene: Scene,
    /// Jobs of which more than their record decides.
    unsteady: BTreeSet<JobId>,
    /// Attempts that are being ended: when they are gone is guessed anew each time.
    ending: BTreeSet<(JobId, Epoch)>,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Stale {
    nodes: BTreeSet<String>,
    jobs: BTreeSet<JobId>,
    attempts: BTreeSet<(JobId, Epoch)>,
}

impl Stage {
    /// Everything that a plan at `now_ms` is made from.
    pub fn scene(&mut self, view: &ClusterView, now_ms: UtcMs) -> Scene {
        let kept = match self
            .kept
            .take()
            .filter(|kept| kept.still_holds(view, now_ms))
        {
            Some(kept) => kept.renewed(view, now_ms, &mut self.names),
            None => {
                self.names = Names::default();
                Kept::new(view, now_ms)
            }
        };
        let scene = kept.scene.clone();
        self.kept = Some(kept);
        scene
    }
}

impl Kept {
    fn new(view: &ClusterView, now_ms: UtcMs) -> Self {
        let scene = scene(view, now_ms);
        let state = view.state.clone();
        let unsteady = state.queue().filter(|job| is_unsteady(view, job));
        let ending = state.active_attempts().filter(|one| one.stopping);
        Self {
            unsteady: unsteady.map(|job| job.id).collect(),
            ending: ending.map(|one| (one.job, one.epoch)).collect(),
            heard: view.heard.clone(),
            made_ms: now_ms.max(state.now_ms()),
            scene,
            state,
        }
    }

    /// Nothing has changed that every row depends on.
    fn still_holds(&self, view: &ClusterView, now_ms: UtcMs) -> bool {
        let (old, new) = (&self.state, &view.state);
        let now_ms = now_ms.max(new.now_ms());
        let border = old.next_decision_ms(self.made_ms);
        let decided = new.decisions.changed_since(&old.decisions);
        decided.count() == 0
            && self.made_ms <= now_ms
            && border.is_none_or(|border| border > now_ms)
            && Pools::of(old).same(&Pools::of(new))
            && old.smallest_for_ranks() == new.smallest_for_ranks()
            && old.applied_index() <= new.applied_index()
            && settings(old) == settings(new)
    }

    fn renewed(mut self, view: &ClusterView, now_ms: UtcMs, names: &mut Names) -> Self {
        let now_ms = now_ms.max(view.state.now_ms());
        let stale = self.stale(view);
        self.scene.decayed_ms = view.state.now_ms();
        self.scene.reservations = promised(view);
        self.scene.teams = teams(&view.state);
        self.scene.licenses = view.state.licenses();
        self.made_ms = now_ms;
        let pools = Pools::of(&view.state);
        self.scene.holds = holds(&view.state, names);
        self.scene.histories = view.state.indexes().lengths.sorted().clone();
        for name in &stale.nodes {
            self.renew_node(view, name, now_ms, names);
        }
        for id in &stale.jobs {
            self.renew_job(view, *id, (now_ms, &pools), names);
        }
        for key in &stale.attempts {
            self.renew_attempt(view, *key, names);
        }
        self.heard.clone_from(&view.heard);
        self.state = view.state.clone();
        self
    }

    fn stale(&self, view: &ClusterView) -> Stale {
        let (old, new) = (&self.state, &view.state);
        let mut stale = Stale {
            jobs: self.unsteady.clone(),
            attempts: self.ending.clone(),
            ..Stale::default()
        };
        stale.jobs.extend(&view.salvaging);
        for (before, now) in new.attempts.changed_since(&old.attempts) {
            for one in before.into_iter().chain(now) {
                stale.attempts.insert((one.job, one.epoch));
                stale
                    .nodes
                    .extend(one.allocations.iter().map(|one| one.node.clone()));
            }
        }
        for (before, now) in new.jobs.changed_since(&old.jobs) {
            let Some(any) = now.or(before) else {
                continue;
            };
            stale.jobs.insert(any.id);
            let open = new.attempts_of(any.id).filter(|one| !one.closed());
            stale.attempts.extend(open.map(|one| (one.job, one.epoch)));
        }
        let heard = self.heard.symmetric_difference(&view.heard);
        stale.nodes.extend(heard.cloned());
        for (before, now) in new.nodes.changed_since(&old.nodes) {
            let Some(any) = now.or(before) else {
                continue;
            };
            stale.nodes.insert(any.facts.name.clone());
            stale
                .attempts
                .extend(new.open_allocations_on(&any.facts.name));
        }
        stale
    }

    fn renew_node(&mut self, view: &ClusterView, name: &str, now_ms: UtcMs, names: &mut Names) {
        match view.state.node(name) {
            None => {
                self.scene.nodes.remove(name);
            }
            Some(node) => {
                let seen = node_view(view, node, (view.state.held_on(node), now_ms), names);
                self.scene.nodes.insert(seen.name.clone(), Arc::new(seen));
            }
        }
    }

    fn renew_job(
        &mut self,
        view: &ClusterView,
        id: JobId,
        (now_ms, pools): (UtcMs, &Pools),
        names: &mut Names,
    ) {
        self.unsteady.remove(&id);
        if let Some(old) = self.state.job(id) {
            self.scene.waiting.remove(&(old.submit_index, id));
        }
        let queued = |job: &&Arc<Job>| job.state == JobState::Pending || job.fills();
        let Some(job) = view.state.job(id).filter(queued) else {
            return;
        };
        if is_unsteady(view, job) {
            self.unsteady.insert(id);
        }
        if let Some(mut waiting) = waiting(view, job, now_ms, names) {
            pools.narrow(job, &mut waiting);
            let key = (job.submit_index, id);
            self.scene.waiting.insert(key, Arc::new(waiting));
        }
    }

    fn renew_attempt(&mut self, view: &ClusterView, key: (JobId, Epoch), names: &mut Names) {
        self.ending.remove(&key);
        self.scene.running.remove(&key);
        let Some(attempt) = view.state.attempt(key.0, key.1) else {
            return;
        };
        if attempt.stopping && !Attempt::closed(attempt) {
            self.ending.insert(key);
        }
        if let Some(running) = running(&view.state, attempt, names) {
            self.scene.running.insert(key, Arc::new(running));
        }
    }
}

/// What was decided, without the clock and the counters that every command moves.
fn settings(state: &State) -> Option<Settings> {
    let settings = state.settings().cloned();
    settings.map(|settings| Settings {
        now_ms: 0,
        next_job: 0,
        preemptions: 0,
        preemptions_in_vain: 0,
        ..settings
    })
}

/// Whether time, nodes or other jobs decide how it waits.
fn is_unsteady(view: &ClusterView, job: &Job) -> bool {
    job.array.is_some()
        || !job.checkpoints.is_empty()
        || !job.retries.excluded.is_empty()
        || job.retries.not_before_ms > 0
        || job.turn.begin_ms > 0
        || job.turn.blocked_ms > 0
        || !job.turn.after.is_empty()
        || job.epoch_counter > 0
        || job.lineage.is_some()
        || view.salvaging.contains(&job.id)
}

#[cfg(test)]
#[path = "stage_kept_tests.rs"]
mod tests;
