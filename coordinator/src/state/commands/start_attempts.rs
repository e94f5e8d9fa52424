//! StartAttempts: the scheduler's plan. Every precondition is checked again for every start: what the plan saw may be gone.
//! Each start is all or nothing and stands alone; refused ones are named in the reply, with the reason.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::{Epoch, JobId, clip};
use mlctl_proto::units::UtcMs;

use super::start_quota::Quota;
use super::{Context, accounts, checkpoints, holds, waves};
use crate::state::change::Change;
use crate::state::records::{
    Allocation, AllocationPhase, Attempt, Charge, Checkpoint, Job, JobState, Node, Reply, Wave,
};
use crate::state::rules::access::{self, KeptOut};
use crate::state::rules::room::Seeker;
use crate::state::rules::{
    NotYet, Request, Resume, excluded, fits_kind, is_shared, not_yet, resume, resumes_another,
};
use crate::state::transition::advance;
use crate::state::view::ask::Ask;
use crate::state::view::jobs::Footing;
use crate::state::{Effect, State};

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartAttempts {
    /// In the order in which they are to be tried.
    pub starts: Vec<StartAttempt>,
}

/// One job's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartAttempt {
    /// The job.
    pub job: JobId,
    /// The epoch that this start makes.
    pub epoch: Epoch,
    /// In node-rank order.
    pub placements: Vec<Placement>,
    /// Checkpoint to resume from, empty: none. The first placement's node holds it, if it is only a directory that not every node sees.
    pub resume_from: String,
    /// Of an array job: what runs there.
    pub wave: Option<Wave>,
    /// How it comes to run.
    pub footing: Footing,
}

/// One node's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// Its boot.
    pub boot_id: String,
    /// UUIDs.
    pub devices: Vec<String>,
}

impl StartAttempts {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        let mut jobs = Vec::new();
        let mut refused = Vec::new();
        let mut quota = Quota::default();
        for start in &self.starts {
            match start.admitted(change, &mut quota, context) {
                Ok((job, charges)) => {
                    start.commit(change, job, charges, context)?;
                    jobs.push(start.job);
                }
                Err(no) => {
                    // What a quota, a budget or an admin refuses is refused again until something ends or an admin changes it, and that asks for a new plan;
                    // and when a decision ends by itself the leader plans anew.
                    if let Refused::Stale(_) = no {
                        change.replan();
                    }
                    refused.push((start.job, no.why()));
                }
            }
        }
        Ok(Reply::Started { jobs, refused })
    }
}

/// Why one start is refused.
enum Refused {
    /// The plan was made of an older state.
    Stale(String),
    /// Its team may not have it.
    Quota(String),
    /// An admin has decided otherwise.
    KeptOut(KeptOut),
}

impl Refused {
    fn why(self) -> String {
        match self {
            Self::Stale(why) | Self::Quota(why) => why,
            Self::KeptOut(no) => format!("{}: {no}", no.word()),
        }
    }
}

impl StartAttempt {
    /// Every precondition, and what quotas and budgets say; what it takes of them is theirs no more.
    fn admitted(
        &self,
        change: &mut Change,
        quota: &mut Quota,
        context: &Context,
    ) -> Result<(Job, Vec<Charge>), Refused> {
        let job = check(change.state(), self).map_err(Refused::Stale)?;
        kept_out(change.state(), &job, self, context.now_ms).map_err(Refused::KeptOut)?;
        let units = quota.check(change.state(), &job, self);
        let units = units.map_err(Refused::Quota)?;
        let charges = accounts::begin(change, &job, &units, context.now_ms);
        let charges = charges.map_err(Refused::Quota)?;
        quota.started(change.state(), &job, &units, self);
        Ok((job, charges))
    }

    fn commit(
        &self,
        change: &mut Change,
        mut job: Job,
        charges: Vec<Charge>,
        context: &Context,
    ) -> Result<(), Refusal> {
        // Of what was checked a moment ago.
        let resume_sealed_ms = check_resume(change.state(), &job, self).unwrap_or(0);
        if !job.fills() {
            advance(&mut job, JobState::Starting)?;
        }
        let took = holds::take(change, &mut job, &self.placements);
        let wave = waves::assign(&mut job, self);
        job.epoch_counter = self.epoch.counter;
        job.recalled_counter = 0;
        job.retries.not_before_ms = 0;
        checkpoints::abandon(change, &mut job);
        let allocation = |placement: &Placement| Allocation {
            node: placement.node.clone(),
            boot_id: placement.boot_id.clone(),
            devices: placement.devices.clone(),
            phase: AllocationPhase::Assigned,
            end: None,
            exits: Vec::new(),
        };
        let attempt = Attempt {
            job: self.job,
            epoch: self.epoch,
            allocations: self.placements.iter().map(allocation).collect(),
            resume_from: self.resume_from.clone(),
            started_ms: context.now_ms,
            running_ms: 0,
            ended_ms: 0,
            stopping: false,
            end: None,
            in_doubt: false,
            wave,
            resume_job: resumes_another(change.state(), &job)
                .filter(|_| !self.resume_from.is_empty()),
            resume_sealed_ms,
            charges,
            footing: self.footing,
            took,
        };
        for placement in &self.placements {
            change.effect(Effect::Start {
                node: placement.node.clone(),
                job: self.job,
                epoch: self.epoch,
            });
        }
        change.put_job(job);
        change.put_attempt(attempt);
        Ok(())
    }
}

/// Every precondition of one start; gives the job that it starts.
fn check(state: &State, start: &StartAttempt) -> Result<Job, String> {
    let job = state.job(start.job).ok_or("there is no such job")?;
    if job.state != JobState::Pending && !job.fills() {
        return Err(format!("it is {}, not Pending", job.state.word()));
    }
    let next = Epoch::new(job.id.incarnation, job.epoch_counter.saturating_add(1));
    if start.epoch != next {
        return Err(format!("its next epoch is {next}, not {}", start.epoch));
    }
    // An array of which tasks run has had its turn.
    if job.state == JobState::Pending {
        check_turn(job, state.now_ms())?;
    }
    if start.footing != Footing::Regular && job.marks.guest_taken {
        return Err("it was a guest before, and was taken for that".into());
    }
    if job.array.is_some() {
        waves::check(state, job, start)?;
        return Ok(Job::clone(job));
    }
    if start.wave.is_some() {
        return Err("it is no array".into());
    }
    if state.ends_attempt(job.id) {
        return Err("its last attempt still holds something".into());
    }
    if job.retries.backs_off(state.now_ms()) {
        return Err("it failed before and backs off".into());
    }
    let request = state.request(job).ok_or("its spec is gone")?;
    let facts = state.spec_facts(job).ok_or("its spec is gone")?;
    let seeker = Seeker::of(job.id);
    check_gang(state, (request, &facts.ask), &start.placements, &seeker)?;
    check_excluded(state, job, request, &start.placements)?;
    check_resume(state, job, start).map(drop)?;
    Ok(Job::clone(job))
}

/// What an admin's decisions say of one start.
fn kept_out(state: &State, job: &Job, start: &StartAttempt, now_ms: UtcMs) -> Result<(), KeptOut> {
    let nodes = start
        .placements
        .iter()
        .filter_map(|one| state.node(&one.node));
    let mut kept = nodes.filter_map(|node| access::kept_out(state, job, node, now_ms));
    let no = kept
        .next()
        .or_else(|| access::short_of_licenses(state, job));
    no.map_or(Ok(()), Err)
}

fn check_turn(job: &Job, now_ms: UtcMs) -> Result<(), String> {
    match not_yet(job, now_ms) {
        None => Ok(()),
        Some(NotYet::Begin(_)) => Err("its start time is ahead".into()),
        Some(NotYet::After(after)) => Err(format!("it waits for job {}", after.job)),
    }
}

/// Whether a gang takes these places.
pub(super) fn check_gang(
    state: &State,
    (request, ask): (&Request, &Arc<Ask>),
    placements: &[Placement],
    seeker: &Seeker,
) -> Result<(), String> {
    let width = u32::try_from(placements.len());
    if !width.is_ok_and(|width| ask.nodes.allows(width)) {
        return Err(format!(
            "it needs {} nodes, the plan has {}",
            request.nodes,
            placements.len()
        ));
    }
    let mut names = BTreeSet::new();
    let mut domains = BTreeSet::new();
    for placement in placements {
        if !names.insert(&placement.node) {
            return Err(format!(
                "node {} is in the gang twice",
                clip(&placement.node)
            ));
        }
        let node = state
            .node(&placement.node)
            .ok_or_else(|| format!("there is no node {}", clip(&placement.node)))?;
        let model = check_placement(state, request, placement, (node, seeker))?;
        state.check_room(ask, node, seeker)?;
        domains.insert((&node.facts.pool, model));
    }
    if domains.len() > 1 {
        return Err("a gang has nodes of one pool and devices of one model".into());
    }
    Ok(())
}

/// Whether one node takes its part; gives the model of its devices, if there are any.
pub(super) fn check_placement<'a>(
    state: &State,
    request: &Request,
    placement: &Placement,
    (node, seeker): (&'a Node, &Seeker),
) -> Result<Option<&'a str>, String> {
    let name = &node.facts.name;
    if !node.schedulable() {
        return Err(format!("node {name} takes no new work"));
    }
    if node.facts.boot_id != placement.boot_id {
        return Err(format!("node {name} has booted again"));
    }
    if u32::try_from(placement.devices.len()) != Ok(request.gpus) {
        return Err(format!(
            "it needs {} GPUs on each node, the plan has {} on {name}",
            request.gpus,
            placement.devices.len()
        ));
    }
    if request.gpus == 0 {
        return Ok(None);
    }
    let mut taken = BTreeSet::new();
    let mut models = BTreeSet::new();
    for uuid in &placement.devices {
        let device = node
            .facts
            .devices
            .iter()
            .find(|device| device.uuid == *uuid);
        let device = device.ok_or_else(|| format!("node {name} has no device {}", clip(uuid)))?;
        if !taken.insert(uuid) {
            return Err(format!("device {} is in the plan twice", clip(uuid)));
        }
        let holder = state.device_holder(name, uuid);
        if let Some((job, _)) = holder.filter(|holder| !seeker.leaves(state, *holder)) {
            return Err(format!(
                "device {} of {name} is held by job {job}",
                clip(uuid)
            ));
        }
        if let Some(job) = state.held_for(name, uuid).filter(|job| *job != seeker.job) {
            return Err(format!(
                "device {} of {name} is kept for job {job}, for which others ended",
                clip(uuid)
            ));
        }
        if let Some(why) = node.dirt_on(uuid) {
            let uuid = clip(uuid);
            return Err(format!("device {uuid} of {name} is still in use: {why}"));
        }
        if !fits_kind(request, &device.model) {
            return Err(format!(
                "device {} of {name} is not of a type that the job takes",
                clip(uuid)
            ));
        }
        models.insert(device.model.as_str());
    }
    if models.len() > 1 {
        return Err(format!("devices of {name} are of different models"));
    }
    Ok(models.pop_first())
}

pub(super) fn check_excluded(
    state: &State,
    job: &Job,
    request: &Request,
    placements: &[Placement],
) -> Result<(), String> {
    let out = excluded(state, job, request);
    let mut placed = placements.iter();
    match placed.find(|placement| out.contains(&placement.node.as_str())) {
        None => Ok(()),
        Some(placement) => Err(format!("node {} failed it before", clip(&placement.node))),
    }
}

/// When the checkpoint that it resumes from was first recorded; 0: it begins anew.
fn check_resume(state: &State, job: &Job, start: &StartAttempt) -> Result<UtcMs, String> {
    let rank_0 = start
        .placements
        .first()
        .map_or("", |placement| placement.node.as_str());
    match resume(state, job) {
        Resume::Nothing if start.resume_from.is_empty() => Ok(0),
        Resume::Nothing => Err(format!(
            "no node holds checkpoint {} any more",
            clip(&start.resume_from)
        )),
        Resume::From(_) if start.resume_from.is_empty() => {
            Err("it has a checkpoint to resume from".into())
        }
        Resume::From(checkpoints) => {
            check_newest((state, job), &checkpoints, &start.resume_from, rank_0)
        }
    }
}

/// The start goes on from one of these, newest first, and not from an older one than it could: what the plan saw may be old by now. Says which one
/// that is, by when it was first recorded: of several with that name the newest that can be had.
fn check_newest(
    (state, job): (&State, &Job),
    newest_first: &[&Checkpoint],
    resume_from: &str,
    rank_0: &str,
) -> Result<UtcMs, String> {
    let mut named = None;
    for checkpoint in newest_first {
        let portable = checkpoint.is_portable();
        let shared = is_shared(state, job, checkpoint);
        let anywhere = shared || portable && can_be_brought(state, checkpoint);
        let held = shared || portable || checkpoint.full_holders().contains(&rank_0);
        if checkpoint.name == resume_from && held {
            if !portable || anywhere {
                return Ok(checkpoint.sealed_ms);
            }
            named.get_or_insert(checkpoint.sealed_ms);
        } else if named.is_none() && anywhere {
            let name = clip(&checkpoint.name);
            return Err(format!("a newer checkpoint, {name}, is there by now"));
        }
    }
    named.ok_or_else(|| {
        format!(
            "rank 0 is not on a node that holds checkpoint {}",
            clip(resume_from)
        )
    })
}

/// Every part of it is in the object store, or on a node that takes work: whoever leads has heard of it, or waits for that.
fn can_be_brought(state: &State, checkpoint: &Checkpoint) -> bool {
    let takes = |name: &String| state.node(name).is_some_and(|node| node.schedulable());
    let mut parts = checkpoint.filled();
    parts.all(|part| part.uploaded || part.holders.iter().any(takes))
}

#[cfg(test)]
#[path = "start_attempts_tests.rs"]
mod tests;
