//! Indexes over the tables: who waits, who holds what. Kept by one hook per table and rebuilt through the same hooks on load.
//! They are not part of the digest: they hold nothing that the rows do not say.
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::spec::{JobSpec, RetrySpec};
use mlctl_proto::units::UtcMs;

use super::SpecFacts;
use super::amounts::GPU;
use super::hold_indexes::HoldIndexes;
use super::holdings::{Holdings, Kind, Tally};
use super::lengths::Lengths;
use super::team_indexes::TeamIndexes;
use crate::state::records::{
    Allocation, AllocationPhase, Attempt, HistoryBatch, Idempotency, Job, JobState, Node,
    RequestKey,
};
use crate::state::rules::{Inventory, Request};

type Holder = (JobId, Epoch);
/// Allocations that hold something, by node.
type Open<'a> = BTreeMap<&'a str, &'a Allocation>;

/// What the rows beside an attempt say of it.
pub struct Holding<'a> {
    /// What each of its allocations takes of its node's CPU room.
    pub cpu_ranks: u32,
    /// Its job's team.
    pub team: &'a str,
    /// Its job's owner.
    pub user: &'a str,
    /// What the devices of an allocation are, with their units.
    pub kinds: &'a dyn Fn(&Allocation) -> Vec<(Kind, u64)>,
}

/// All of them. A clone is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes {
    pending: OrdSet<(u64, JobId)>,
    /// Arrays that run and of which more tasks wait.
    filling: OrdSet<(u64, JobId)>,
    pending_by_user: OrdMap<Arc<str>, usize>,
    requests: OrdMap<[u8; 32], Arc<Request>>,
    /// What the scheduler has to know of each spec.
    facts: OrdMap<[u8; 32], Arc<SpecFacts>>,
    /// Of specs that have one.
    retries: OrdMap<[u8; 32], Arc<RetrySpec>>,
    devices: OrdMap<Arc<str>, OrdMap<Arc<str>, Holder>>,
    open_attempts: OrdSet<Holder>,
    open_on_node: OrdMap<Arc<str>, OrdSet<Holder>>,
    cpu_ranks: OrdMap<Arc<str>, u32>,
    inventory: Inventory,
    finished: OrdSet<(UtcMs, JobId)>,
    /// Per batch of the tail, by its first place: its jobs by id, with their positions.
    tail_jobs: OrdMap<u64, Arc<[(JobId, usize)]>>,
    tail_bytes: usize,
    keys_by_time: OrdSet<(UtcMs, RequestKey)>,
    /// Who waits for a job: that job, then who waits.
    dependents: OrdSet<(JobId, JobId)>,
    /// When it is too late for a job.
    deadlines: OrdSet<(UtcMs, JobId)>,
    /// What users hold and wait for, by team.
    pub holdings: Holdings,
    /// What teams name, and whose they are.
    pub teams: TeamIndexes,
    /// Devices that are kept for jobs.
    pub holds: HoldIndexes,
    /// How long jobs that are over ran.
    pub lengths: Lengths,
}

impl Indexes {
    /// Pending jobs in submit order.
    pub fn pending(&self) -> impl Iterator<Item = JobId> {
        self.pending.iter().map(|(_, id)| *id)
    }

    /// Pending jobs, and arrays that run and of which more tasks wait, in submit order.
    pub fn queue(&self) -> impl Iterator<Item = JobId> {
        let (mut pending, mut filling) = (
            self.pending.iter().peekable(),
            self.filling.iter().peekable(),
        );
        std::iter::from_fn(move || {
            let next = match (pending.peek(), filling.peek()) {
                (Some(one), Some(other)) if one > other => filling.next(),
                (None, _) => filling.next(),
                _ => pending.next(),
            };
            next.map(|(_, id)| *id)
        })
    }

    /// Jobs that wait for something to become of this one.
    pub fn dependents(&self, id: JobId) -> impl Iterator<Item = JobId> {
        let (first, last) = (JobId::new(0, 0), JobId::new(u32::MAX, u64::MAX));
        let waiting = self
            .dependents
            .range::<_, (JobId, JobId)>((id, first)..=(id, last));
        waiting.map(|(_, waits)| *waits)
    }

    /// When it is too late for which job, the earliest first.
    pub fn deadlines(&self) -> impl Iterator<Item = (UtcMs, JobId)> {
        self.deadlines.iter().copied()
    }

    /// How many jobs of a user are pending or held.
    pub fn pending_count_of(&self, user_id: &str) -> usize {
        self.pending_by_user.get(user_id).copied().unwrap_or(0)
    }

    /// What jobs of a spec ask for.
    pub fn request(&self, spec_hash: &[u8; 32]) -> Option<&Arc<Request>> {
        self.requests.get(spec_hash)
    }

    /// What the scheduler has to know of a spec.
    pub fn facts(&self, spec_hash: &[u8; 32]) -> Option<&Arc<SpecFacts>> {
        self.facts.get(spec_hash)
    }

    /// How often jobs of a spec start again by themselves, if it says so.
    pub fn retry(&self, spec_hash: &[u8; 32]) -> Option<&Arc<RetrySpec>> {
        self.retries.get(spec_hash)
    }

    /// Jobs that are over, the oldest first.
    pub fn finished(&self) -> impl Iterator<Item = JobId> {
        self.finished.iter().map(|(_, id)| *id)
    }

    /// How many jobs are over.
    pub fn finished_count(&self) -> usize {
        self.finished.len()
    }

    /// The batch of history that holds a job, and its place there. Looks into every batch: a tail has some dozens of them, and
    /// to let go of all at once when a segment closes has to be cheap.
    pub fn in_tail(&self, id: JobId) -> Option<(u64, usize)> {
        self.tail_jobs.iter().find_map(|(batch, jobs)| {
            let found = jobs.binary_search_by_key(&id, |(job, _)| *job).ok()?;
            Some((*batch, jobs.get(found)?.1))
        })
    }

    /// Bytes of history that no segment holds.
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Who holds a device.
    pub fn device_holder(&self, node: &str, uuid: &str) -> Option<Holder> {
        self.devices.get(node)?.get(uuid).copied()
    }

    /// Attempts that still hold something.
    pub fn open_attempts(&self) -> impl Iterator<Item = &Holder> {
        self.open_attempts.iter()
    }

    /// Attempts with an open allocation on a node.
    pub fn open_allocations_on(&self, node: &str) -> Vec<Holder> {
        self.open_on_node
            .get(node)
            .map(|open| open.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Ranks of jobs without GPUs on a node.
    pub fn cpu_ranks_on(&self, node: &str) -> u32 {
        self.cpu_ranks.get(node).copied().unwrap_or(0)
    }

    /// Remembered replies of `time_ms` or before, oldest first.
    pub fn keys_up_to(&self, time_ms: UtcMs) -> impl Iterator<Item = &RequestKey> {
        self.keys_by_time
            .iter()
            .take_while(move |(time, _)| *time <= time_ms)
            .map(|(_, key)| key)
    }

    /// What there is, whoever holds it.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Hook of the nodes.
    pub fn node(&mut self, old: Option<&Node>, new: &Node) {
        if old.is_some_and(|old| Inventory::same(old, new)) {
            return;
        }
        if let Some(old) = old {
            self.inventory.remove(old);
        }
        self.inventory.add(new);
    }

    /// Hook of the specs.
    pub fn add_spec(&mut self, spec_hash: [u8; 32], spec: JobSpec) {
        let request = Request::of(&spec);
        self.requests.insert(spec_hash, Arc::new(request));
        self.facts.insert(spec_hash, Arc::new(SpecFacts::of(&spec)));
        if let Some(retry) = spec.retry {
            self.retries.insert(spec_hash, Arc::new(retry));
        }
    }

    /// Hook of the specs: no job names it any more.
    pub fn remove_spec(&mut self, spec_hash: &[u8; 32]) {
        self.requests.remove(spec_hash);
        self.facts.remove(spec_hash);
        self.retries.remove(spec_hash);
    }

    /// Hook of history's tail: a batch came or went.
    pub fn tail(&mut self, batch: &HistoryBatch, there: bool) {
        if there {
            let jobs = batch.jobs.iter().enumerate();
            let mut jobs: Vec<_> = jobs.map(|(position, (id, _))| (*id, position)).collect();
            jobs.sort_unstable();
            self.tail_jobs.insert(batch.first_seq, jobs.into());
        } else {
            self.tail_jobs.remove(&batch.first_seq);
        }
        self.tail_bytes = if there {
            self.tail_bytes.saturating_add(batch.bytes())
        } else {
            self.tail_bytes.saturating_sub(batch.bytes())
        };
    }

    /// Hook of the jobs. One that leaves the tables is over.
    pub fn job(&mut self, old: Option<&Job>, new: Option<&Job>) {
        let over = |job: &&Job| job.state.terminal();
        if let Some(old) = old.filter(over) {
            self.finished.remove(&(old.ended_ms, old.id));
        }
        if let Some(new) = new.filter(over) {
            self.finished.insert((new.ended_ms, new.id));
        }
        if let Some(any) = new.or(old) {
            let who = (any.team.as_str(), any.owner_id.as_str());
            self.holdings.job(who, tally(old), tally(new));
            let units = self.requests.get(&any.spec_hash).map_or(0, |request| {
                let gpus = u64::from(request.gpus).saturating_mul(u64::from(request.nodes));
                gpus.saturating_mul(GPU)
            });
            self.lengths.job(old, new, units);
        }
        let Some(new) = new else {
            return;
        };
        let key = (new.submit_index, new.id);
        if new.fills() {
            self.filling.insert(key);
        } else if old.is_some_and(Job::fills) {
            self.filling.remove(&key);
        }
        self.turn(old, new);
        let pending = |job: &Job| job.state == JobState::Pending;
        if pending(new) {
            self.pending.insert(key);
        } else if old.is_some_and(pending) {
            self.pending.remove(&key);
        }
        // What is held waits too: nobody gets around the limit by holding.
        let waits = |job: &Job| matches!(job.state, JobState::Pending | JobState::Held);
        let (waited, waits) = (old.is_some_and(waits), waits(new));
        if waited == waits {
            return;
        }
        let user: Arc<str> = Arc::from(new.owner_id.as_str());
        let count = self.pending_count_of(&user);
        if waits {
            self.pending_by_user.insert(user, count + 1);
        } else if count > 1 {
            self.pending_by_user.insert(user, count - 1);
        } else {
            self.pending_by_user.remove(&user);
        }
    }

    /// For whom a job waits, and when it is too late for it.
    fn turn(&mut self, old: Option<&Job>, new: &Job) {
        let waits = |job: &Job| -> Vec<(JobId, JobId)> {
            let after = job.turn.after.iter().filter(|_| !job.state.terminal());
            after.map(|one| (one.job, job.id)).collect()
        };
        let (before, now) = (old.map(waits).unwrap_or_default(), waits(new));
        if before != now {
            for one in &before {
                self.dependents.remove(one);
            }
            for one in now {
                self.dependents.insert(one);
            }
        }
        let (before, now) = (old.and_then(Job::due_ms), new.due_ms());
        if let Some(at) = before.filter(|_| before != now) {
            self.deadlines.remove(&(at, new.id));
        }
        if let Some(at) = now.filter(|_| before != now) {
            self.deadlines.insert((at, new.id));
        }
    }

    /// Hook of the attempts.
    pub fn attempt(&mut self, old: Option<&Attempt>, new: &Attempt, holding: &Holding) {
        let holder = (new.job, new.epoch);
        self.teams.attempt(old, new);
        let old_open = open_allocations(old);
        let new_open = open_allocations(Some(new));
        let was_in_doubt = old.is_some_and(|old| old.in_doubt);
        self.count((&old_open, &new_open), (was_in_doubt, new), holding);
        for (node, allocation) in &old_open {
            if !new_open.contains_key(node) {
                self.release(holder, node, allocation, holding.cpu_ranks);
            }
        }
        for (node, allocation) in &new_open {
            if !old_open.contains_key(node) {
                self.hold(holder, node, allocation, holding.cpu_ranks);
            }
        }
        if new_open.is_empty() {
            self.open_attempts.remove(&holder);
        } else {
            self.open_attempts.insert(holder);
        }
    }

    /// What its team holds by it. What is in doubt is on a Lost node: nobody could have it, and its successor shall not wait for it.
    fn count(
        &mut self,
        (old_open, new_open): (&Open, &Open),
        (was_in_doubt, new): (bool, &Attempt),
        holding: &Holding,
    ) {
        let (who, begun_ms) = ((holding.team, holding.user), new.started_ms);
        for (node, allocation) in old_open {
            if !was_in_doubt && (new.in_doubt || !new_open.contains_key(node)) {
                let given: &Allocation = allocation;
                let kinds = (holding.kinds)(given);
                self.holdings.units(who, &kinds, begun_ms, false);
            }
        }
        for (node, allocation) in new_open {
            if !new.in_doubt && (was_in_doubt || !old_open.contains_key(node)) {
                let taken: &Allocation = allocation;
                let kinds = (holding.kinds)(taken);
                self.holdings.units(who, &kinds, begun_ms, true);
            }
        }
    }

    fn hold(&mut self, holder: Holder, node: &str, allocation: &Allocation, cpu_ranks: u32) {
        let node: Arc<str> = Arc::from(node);
        self.open_on_node
            .entry(node.clone())
            .or_default()
            .insert(holder);
        if !allocation.devices.is_empty() {
            let devices = self.devices.entry(node.clone()).or_default();
            for uuid in &allocation.devices {
                devices.insert(Arc::from(uuid.as_str()), holder);
            }
        }
        if cpu_ranks > 0 {
            let used = self.cpu_ranks.entry(node).or_default();
            *used = used.saturating_add(cpu_ranks);
        }
    }

    fn release(&mut self, holder: Holder, node: &str, allocation: &Allocation, cpu_ranks: u32) {
        if let Some(open) = self.open_on_node.get_mut(node) {
            open.remove(&holder);
            if open.is_empty() {
                self.open_on_node.remove(node);
            }
        }
        if let Some(devices) = self.devices.get_mut(node) {
            for uuid in &allocation.devices {
                devices.remove(uuid.as_str());
            }
            if devices.is_empty() {
                self.devices.remove(node);
            }
        }
        if let Some(used) = self.cpu_ranks.get_mut(node) {
            *used = used.saturating_sub(cpu_ranks);
            if planted(Mutant::FreedTwice) {
                *used = used.saturating_sub(cpu_ranks);
            }
            if *used == 0 {
                self.cpu_ranks.remove(node);
            }
        }
    }

    /// Hook of the remembered replies.
    pub fn key(&mut self, old: Option<&Idempotency>, new: Option<&Idempotency>) {
        let entry = |key: &Idempotency| (key.time_ms, (key.user_id.clone(), key.uuid));
        if let Some(old) = old {
            self.keys_by_time.remove(&entry(old));
        }
        if let Some(new) = new {
            self.keys_by_time.insert(entry(new));
        }
    }
}

/// What a job counts for in its team.
fn tally(job: Option<&Job>) -> Tally {
    let Some(job) = job.filter(|job| !job.state.terminal()) else {
        return Tally::default();
    };
    let one = u64::from(matches!(job.state, JobState::Pending | JobState::Held));
    let tasks = job.array.as_ref().map(|array| array.pending.count());
    Tally {
        running: u64::from(matches!(
            job.state,
            JobState::Starting | JobState::Running | JobState::Stopping
        )),
        waiting: tasks.unwrap_or(one),
        jobs: 1,
    }
}

/// The allocations of an attempt that hold something, by node: one per node.
fn open_allocations(attempt: Option<&Attempt>) -> Open<'_> {
    let all = attempt
        .map(|attempt| attempt.allocations.as_slice())
        .unwrap_or_default();
    all.iter()
        .filter(|one| one.phase != AllocationPhase::Ended)
        .map(|one| (one.node.as_str(), one))
        .collect()
}
