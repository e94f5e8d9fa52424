//! A state under change: the only way in which a command may write. Keeps the indexes, collects effects and what changed.
//! Decides nothing.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::commands::accounts;
use super::records::{
    Attempt, BudgetAccount, ClosedSegment, Decision, DecisionKey, DeviceHold, HistoryBatch,
    Idempotency, Job, Node, Reply, RequestKey, Segment, Settings, Spec, Team, TeamUsage,
};
use super::view::teams::Flavor;
use super::{Applied, Changed, Effect, State};

/// A working copy of the state. Dropped when the command is refused.
#[derive(Debug)]
pub struct Change {
    state: State,
    effects: Vec<Effect>,
    changed: Vec<Changed>,
    seen: BTreeSet<Changed>,
    replan: bool,
    queued: bool,
    closed: Vec<ClosedSegment>,
}

impl Change {
    pub(super) fn new(state: State) -> Self {
        Self {
            state,
            effects: Vec::new(),
            changed: Vec::new(),
            seen: BTreeSet::new(),
            replan: false,
            queued: false,
            closed: Vec::new(),
        }
    }

    /// Settles the digest and gives the new state with what became of the command.
    pub(super) fn finish(mut self, reply: Reply) -> (State, Applied) {
        let mut rows = Vec::new();
        self.state.settle(&mut rows);
        if self.replan {
            self.effects.push(Effect::Replan);
        } else if self.queued {
            self.effects.push(Effect::Queued);
        }
        (
            self.state,
            Applied {
                reply,
                effects: self.effects,
                changed: self.changed,
                rows,
                closed: self.closed,
            },
        )
    }

    /// The state as changed so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The settings.
    pub fn settings(&self) -> Result<Settings, Refusal> {
        let missing = || {
            Refusal::new(
                Code::Unavailable,
                "the cluster is not set up yet: wait until its coordinators have elected a leader",
            )
        };
        self.state.settings().cloned().ok_or_else(missing)
    }

    /// A job to change.
    pub fn job(&self, id: JobId) -> Result<Job, Refusal> {
        let missing = || match self.state.is_archived(id) {
            true => ended_long_ago(id),
            false => Refusal::new(
                Code::NotFound,
                format!("there is no job {id}: `mlctl jobs -a` lists all"),
            ),
        };
        self.state
            .job(id)
            .map(|job| Job::clone(job))
            .ok_or_else(missing)
    }

    /// An attempt to change, if it is there.
    pub fn attempt(&self, job: JobId, epoch: Epoch) -> Option<Attempt> {
        self.state
            .attempt(job, epoch)
            .map(|attempt| Attempt::clone(attempt))
    }

    /// A node to change.
    pub fn node(&self, name: &str) -> Result<Node, Refusal> {
        let missing = || {
            Refusal::new(
                Code::NotFound,
                format!(
                    "there is no node {}: `mlctl nodes` lists all",
                    mlctl_proto::ids::clip(name)
                ),
            )
        };
        self.state
            .node(name)
            .map(|node| Node::clone(node))
            .ok_or_else(missing)
    }

    /// Tells the leader what to do.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Tells the leader that the scheduler's answer may differ now; once per command is enough.
    pub fn replan(&mut self) {
        self.replan = true;
    }

    /// One more job waits.
    pub fn queued(&mut self) {
        self.queued = true;
    }

    fn changed(&mut self, what: Changed) {
        if self.seen.insert(what.clone()) {
            self.changed.push(what);
        }
    }

    /// Writes the settings.
    pub fn put_settings(&mut self, settings: Settings) {
        self.state.put_settings(settings);
    }

    /// Others are ended for a job: counted, as is what of it comes to nothing.
    pub fn count_preemption(&mut self, in_vain: bool) {
        let Some(mut settings) = self.state.settings().cloned() else {
            return;
        };
        let count = match in_vain {
            true => &mut settings.preemptions_in_vain,
            false => &mut settings.preemptions,
        };
        *count = count.saturating_add(1);
        self.put_settings(settings);
    }

    /// Moves state time, which never goes back.
    pub fn advance_clock(&mut self, time_ms: UtcMs) -> Result<UtcMs, Refusal> {
        let mut settings = self.settings()?;
        if time_ms > settings.now_ms {
            settings.now_ms = time_ms;
            self.put_settings(settings);
        }
        Ok(self.state.now_ms())
    }

    /// Writes a team.
    pub fn put_team(&mut self, team: Team) {
        self.state.put_team(team);
    }

    /// Takes a team out, with what is known of its budgets and its usage.
    pub fn remove_team(&mut self, name: &str) {
        self.state.remove_team(name);
    }

    /// Writes what a budget has come to.
    pub fn put_account(&mut self, account: BudgetAccount) {
        self.state.put_account(account);
    }

    /// Forgets what a budget had come to.
    pub fn remove_account(&mut self, key: &(String, Flavor)) {
        self.state.remove_account(key);
    }

    /// Writes what an admin has decided.
    pub fn put_decision(&mut self, decision: Decision) {
        self.state.put_decision(decision);
    }

    /// Takes back what an admin had decided.
    pub fn remove_decision(&mut self, key: &DecisionKey) {
        self.state.remove_decision(key);
    }

    /// Keeps devices for a job.
    pub fn put_hold(&mut self, hold: DeviceHold) {
        self.changed(Changed::Job(hold.job));
        self.state.put_hold(hold);
    }

    /// Nothing is kept for a job any more.
    pub fn remove_hold(&mut self, job: JobId) {
        self.changed(Changed::Job(job));
        self.state.remove_hold(job);
    }

    /// Writes what a team, or a user in it, has used.
    pub fn put_usage(&mut self, usage: TeamUsage) {
        self.state.put_usage(usage);
    }

    /// Writes a node. Only facts and axes are a change to show; the event mark alone is not.
    pub fn put_node(&mut self, node: Node) {
        let name = node.facts.name.clone();
        let shown = |old: &Arc<Node>| {
            Node {
                event_mark: node.event_mark,
                ..Node::clone(old)
            } == node
        };
        if !self.state.node(&name).is_some_and(shown) {
            self.changed(Changed::Node(name));
        }
        self.state.put_node(node);
    }

    /// Writes a spec.
    pub fn put_spec(&mut self, spec: Spec) -> Result<(), Refusal> {
        let broken = |error| {
            Refusal::new(
                Code::Internal,
                format!("a spec that was checked cannot be read: {error}"),
            )
        };
        self.state.put_spec(spec).map_err(broken)
    }

    /// Writes a job. Whether its waiting counts follows from what it now is.
    pub fn put_job(&mut self, mut job: Job) {
        job.keep_clock(self.state.now_ms());
        self.changed(Changed::Job(job.id));
        self.state.put_job(job);
    }

    /// One job less names this spec.
    pub fn release_spec(&mut self, spec_hash: &[u8; 32]) -> Result<(), Refusal> {
        let broken = |error| Refusal::new(Code::Internal, format!("a spec: {error}"));
        self.state.release_spec(spec_hash).map_err(broken)
    }

    /// Jobs that were changed so far, each once.
    pub fn changed_jobs(&self) -> Vec<JobId> {
        let jobs = self.changed.iter().filter_map(|what| match what {
            Changed::Job(id) => Some(*id),
            Changed::Node(_) => None,
        });
        jobs.collect()
    }

    /// Nodes that were changed so far, each once.
    pub fn changed_nodes(&self) -> Vec<String> {
        let nodes = self.changed.iter().filter_map(|what| match what {
            Changed::Node(name) => Some(name.clone()),
            Changed::Job(_) => None,
        });
        nodes.collect()
    }

    /// Writes an attempt. What it gives back by that is charged.
    pub fn put_attempt(&mut self, mut attempt: Attempt) {
        let old = self.state.attempt(attempt.job, attempt.epoch).cloned();
        if let Some(old) = old {
            accounts::ended(self, &old, &mut attempt);
        }
        self.changed(Changed::Job(attempt.job));
        self.state.put_attempt(attempt);
    }

    /// Takes a job that is over out of the tables. Nothing that a watcher sees changes.
    pub fn archive(&mut self, job: &Job) -> Result<(), Refusal> {
        let broken = |error| Refusal::new(Code::Internal, format!("job {}: {error}", job.id));
        self.state.remove_job(job).map_err(broken)
    }

    /// Appends to the tail of history.
    pub fn put_batch(&mut self, batch: HistoryBatch) {
        self.state.put_batch(batch);
    }

    /// The tail of history is this segment now.
    pub fn close_segment(&mut self, segment: Segment, closed: ClosedSegment) {
        self.state.remove_tail();
        self.state.put_segment(segment);
        self.closed.push(closed);
    }

    /// Remembers a reply.
    pub fn put_key(&mut self, key: Idempotency) {
        self.state.put_key(key);
    }

    /// Forgets a reply.
    pub fn remove_key(&mut self, key: &RequestKey) {
        self.state.remove_key(key);
    }
}

/// The job is in history, where nothing changes any more.
pub fn ended_long_ago(id: JobId) -> Refusal {
    Refusal::new(
        Code::Conflict,
        format!("job {id} ended long ago: `mlctl show {id}` shows how"),
    )
}
