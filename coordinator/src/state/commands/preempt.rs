//! Preempt: some attempts are ended, and what they hold is kept for the one gang that then fits whole. All of it, or nothing: every precondition is checked
//! again, the order of entitlements from this state's own ledger. What a plan said of them only has to agree in the order.
//!
//! Victims are told by the same entry, so they end whatever becomes of the one for whom; the notice is recalled by `withdraw` only in that nothing is
//! kept any more.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::current::Current;
use super::preempt_order;
use super::start_attempts::{Placement, check_excluded, check_gang};
use super::{Context, accounts, start_quota, waves};
use crate::state::State;
use crate::state::change::Change;
use crate::state::records::{
    Attempt, Automatic, DeviceHold, End, EndKind, HeldSeat, HoldVictim, Job, JobState, Reply,
};
use crate::state::rules::blocked;
use crate::state::rules::entitlement::Entitlement;
use crate::state::rules::room::Seeker;
use crate::state::rules::taking::{self, EVICTION_MS, Grounds, Taken};
use crate::state::view::jobs::{Blocked, Footing};
use crate::state::view::policy::Policy;

/// Who ends for whom, and what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preempt {
    /// For whom.
    pub job: JobId,
    /// How entitled it is afterwards, as the plan found.
    pub entitlement: Entitlement,
    /// Who ends.
    pub victims: Vec<PreemptVictim>,
    /// What is kept, in node-rank order: free devices, those of victims, and those of who ends anyway.
    pub seats: Vec<Placement>,
}

/// One that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreemptVictim {
    /// Its job.
    pub job: JobId,
    /// Which attempt.
    pub epoch: Epoch,
    /// How entitled it was, as the plan found.
    pub entitlement: Entitlement,
    /// Why.
    pub why: Taken,
}

/// What holds of one that may be carried out.
struct Checked {
    /// As they were named.
    leaving: Vec<Arc<Attempt>>,
}

impl Preempt {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        if let Some(pause) = change
            .state()
            .paused(Automatic::Preemption, "", context.now_ms)
        {
            return Err(Refusal::new(Code::Conflict, pause.text()));
        }
        let refused = |why: String| {
            let why = format!("nobody is ended for job {}: {why}", self.job);
            Refusal::new(Code::Conflict, why)
        };
        let checked = self.check(change.state(), context.now_ms);
        let checked = checked.map_err(refused)?;
        self.commit(change, &checked, context.now_ms)?;
        Ok(Reply::Done)
    }

    fn check(&self, state: &State, now_ms: UtcMs) -> Result<Checked, String> {
        let job = state.job(self.job).ok_or("there is no such job")?;
        let grounds = self.grounds()?;
        check_waits(state, job, now_ms)?;
        if grounds != Grounds::Due && taking::no_preempt_until(job) > now_ms {
            return Err(
                "others ended for it before, and that came to nothing: it has to wait".into(),
            );
        }
        let leaving = self.leaving(state)?;
        for (victim, attempt) in self.victims.iter().zip(&leaving) {
            check_taken(state, job, (victim.why, attempt), now_ms)?;
        }
        self.check_places(state, job)?;
        let units = start_quota::units_of(state, &self.seats);
        start_quota::check_promise(state, job, &units, &leaving)?;
        accounts::would_cover(state, job, &units, now_ms)?;
        if grounds == Grounds::Order {
            preempt_order::check(state, (job, &self.seats), &leaving, now_ms)?;
        }
        Ok(Checked { leaving })
    }

    /// One transaction has one ground, and what the plan said has to be in order.
    fn grounds(&self) -> Result<Grounds, String> {
        let first = self.victims.first().ok_or("there is nobody to end")?;
        let grounds = first.why.grounds();
        if self.victims.iter().any(|one| one.why.grounds() != grounds) {
            return Err("its victims are taken on different grounds".into());
        }
        let lower = |one: &PreemptVictim| one.entitlement < self.entitlement;
        if grounds == Grounds::Order && !self.victims.iter().all(lower) {
            return Err("a victim is as entitled as it would be, or more".into());
        }
        Ok(grounds)
    }

    /// The victims' attempts: each is there once, goes on, and is not its own.
    fn leaving(&self, state: &State) -> Result<Vec<Arc<Attempt>>, String> {
        let mut seen = BTreeSet::new();
        let mut leaving = Vec::with_capacity(self.victims.len());
        for victim in &self.victims {
            let (id, epoch) = (victim.job, victim.epoch);
            if id == self.job || !seen.insert((id, epoch)) {
                return Err(format!("job {id} is named as a victim and cannot be"));
            }
            let job = state
                .job(id)
                .ok_or_else(|| format!("there is no job {id}"))?;
            let runs = matches!(job.state, JobState::Starting | JobState::Running);
            let current = job.array.is_some() || job.epoch() == Some(epoch);
            let attempt = state.attempt(id, epoch);
            let attempt = attempt.filter(|one| !one.stopping && !one.in_doubt && !one.closed());
            match attempt.filter(|_| runs && current) {
                Some(attempt) => leaving.push(Arc::clone(attempt)),
                None => return Err(format!("attempt {epoch} of job {id} ends already")),
            }
        }
        Ok(leaving)
    }

    /// The whole gang fits on what is free and what the victims leave.
    fn check_places(&self, state: &State, job: &Job) -> Result<(), String> {
        let request = state.request(job).ok_or("its spec is gone")?;
        let leaving: Vec<(JobId, Epoch)> = self
            .victims
            .iter()
            .map(|one| (one.job, one.epoch))
            .collect();
        let seeker = Seeker {
            job: job.id,
            leaving: &leaving,
            later: true,
        };
        let facts = state.spec_facts(job).ok_or("its spec is gone")?;
        if u32::try_from(self.seats.len()) != Ok(request.nodes) {
            return Err(format!(
                "it needs {} nodes, the plan has {}",
                request.nodes,
                self.seats.len()
            ));
        }
        check_gang(state, (request, &facts.ask), &self.seats, &seeker)?;
        check_excluded(state, job, request, &self.seats)?;
        let open = state.attempts_of(job.id).filter(|one| !one.closed());
        let mut nodes = open.flat_map(|one| one.allocations.iter().map(|part| &part.node));
        // A task beside others of its array: each node runs one wave of it.
        match nodes.find(|node| self.seats.iter().any(|seat| seat.node == **node)) {
            Some(node) => Err(format!("tasks of it run on node {node}")),
            None => Ok(()),
        }
    }

    /// Those who end for it, and who else holds what is kept: being ended anyway, or it would not be kept.
    fn waits_for(&self, state: &State) -> BTreeSet<(JobId, Epoch)> {
        let victims = self.victims.iter().map(|one| (one.job, one.epoch));
        let kept = self.seats.iter().flat_map(|seat| {
            let devices = seat.devices.iter();
            devices.filter_map(|uuid| state.device_holder(&seat.node, uuid))
        });
        victims.chain(kept).collect()
    }

    fn commit(&self, change: &mut Change, checked: &Checked, now_ms: UtcMs) -> Result<(), Refusal> {
        let settings = change.state().scheduling();
        let mut longest_ms = 0;
        let waits_for = self.waits_for(change.state());
        for (id, _) in &waits_for {
            let job = change.job(*id)?;
            let facts = change.state().spec_facts(&job);
            let class = job.turn.class.into();
            let grace_ms = taking::grace_ms(&settings, facts.map(AsRef::as_ref), class);
            longest_ms = longest_ms.max(grace_ms);
        }
        for (victim, attempt) in self.victims.iter().zip(&checked.leaving) {
            let job = change.job(victim.job)?;
            end_victim(change, job, (victim.why, attempt), now_ms)?;
        }
        let kept_ms = longest_ms
            .saturating_add(settings.kill_ms)
            .saturating_add(settings.hold_ms);
        let seat = |seat: &Placement| HeldSeat {
            node: seat.node.clone(),
            devices: seat.devices.clone(),
        };
        let victim = |(job, epoch): (JobId, Epoch)| HoldVictim {
            job,
            epoch,
            signalled: true,
        };
        change.put_hold(DeviceHold {
            job: self.job,
            seats: self.seats.iter().map(seat).collect(),
            since_ms: now_ms,
            until_ms: taking::after(now_ms, kept_ms),
            victims: waits_for.into_iter().map(victim).collect(),
        });
        change.count_preemption(false);
        // Until when something is kept decides when the plan has to be made again.
        change.replan();
        Ok(())
    }
}

/// It waits for devices and for nothing else, and nothing is kept for it yet.
fn check_waits(state: &State, job: &Job, now_ms: UtcMs) -> Result<(), String> {
    if job.state != JobState::Pending && !job.fills() {
        return Err(format!("it is {}, not Pending", job.state.word()));
    }
    if state.hold_of(job.id).is_some() {
        return Err("devices are kept for it already".into());
    }
    if let Some(blocked) = blocked(state, job, now_ms) {
        return Err(match blocked {
            Blocked::Held => "it is held".into(),
            Blocked::StartTime(_) => "its start time is ahead".into(),
            Blocked::Dependency(on) => format!("it waits for job {on}"),
            Blocked::Backoff(_) => "it failed before and backs off".into(),
            Blocked::LastAttempt => "its last attempt still holds something".into(),
        });
    }
    let array = job.array.as_ref().filter(|array| array.limit > 0);
    let open = state.attempts_of(job.id).filter(|one| !one.closed());
    let slots = open.filter_map(|one| one.wave.as_ref().map(|wave| wave.slots));
    let running = slots.fold(0, u32::saturating_add);
    match array.filter(|array| running >= array.limit) {
        Some(array) => Err(format!(
            "{running} tasks at once; its limit is {}",
            array.limit
        )),
        None => Ok(()),
    }
}

/// Whether an attempt may be taken for that reason, beside the order of entitlements.
fn check_taken(
    state: &State,
    job: &Job,
    (why, attempt): (Taken, &Attempt),
    now_ms: UtcMs,
) -> Result<(), String> {
    let id = attempt.job;
    let victim = state
        .job(id)
        .ok_or_else(|| format!("there is no job {id}"))?;
    let facts = state.spec_facts(victim).ok_or("a spec is gone")?;
    let settings = state.scheduling();
    let class = victim.turn.class.into();
    let grounds = why.grounds();
    if grounds != Grounds::Due {
        let ran_ms = taking::elapsed(attempt.started_ms, now_ms);
        if ran_ms < facts.min_runtime_ms {
            return Err(format!("job {id} keeps its devices for its `min_runtime`"));
        }
    }
    if grounds != Grounds::Order && victim.turn.class > job.turn.class {
        return Err(format!("job {id} is more urgent"));
    }
    let how = (attempt.footing, facts.limit_ms);
    let from_ms = taking::takeable_from(&settings, class, how, attempt.started_ms);
    let guest = attempt.footing != Footing::Regular;
    let holds = match why {
        Taken::Entitlement | Taken::Surplus => true,
        Taken::Overtime => !guest && from_ms.is_some_and(|from| from <= now_ms),
        Taken::Guest => guest && from_ms.is_some_and(|from| from <= now_ms),
        Taken::Slice => {
            let attempts = (attempt.started_ms, state.saved_ms(attempt));
            settings.policy == Policy::Las
                && taking::slice_is_over(&settings, attempts, victim.turn.preemptible, now_ms)
        }
    };
    if holds {
        return Ok(());
    }
    Err(format!("the time of job {id} is not over"))
}

/// Tells one that it ends, and remembers why.
fn end_victim(
    change: &mut Change,
    mut job: Job,
    (why, attempt): (Taken, &Attempt),
    now_ms: UtcMs,
) -> Result<(), Refusal> {
    let end = End {
        detail: why.why().into(),
        ..End::of(EndKind::Preempted)
    };
    let forgotten_ms = now_ms.saturating_sub(i64::try_from(EVICTION_MS).unwrap_or(i64::MAX));
    job.marks.evicted(now_ms, forgotten_ms);
    job.marks.guest_taken |= why == Taken::Guest;
    let key = (job.id, attempt.epoch);
    let array = job.array.is_some();
    change.put_job(job);
    if array {
        waves::preempt(change, Attempt::clone(attempt), end);
        return Ok(());
    }
    let current = Current::load(change, key.0, key.1, now_ms);
    let missing = || Refusal::new(Code::Internal, format!("job {} has no attempt", key.0));
    let mut current = current.ok_or_else(missing)?;
    current.stop(change, end, None)?;
    current.store(change);
    Ok(())
}

#[cfg(test)]
#[path = "preempt_tests.rs"]
mod tests;
