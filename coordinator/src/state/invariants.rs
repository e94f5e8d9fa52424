//! What is true of every state, and of every step from one state to a later one. Checked by tests and simulators after each
//! apply; apply itself does not rely on these checks.
mod arrays;
mod checkpoints;
mod decisions;
mod holds;
mod teams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::EXCLUDED_NODES_MAX;
use mlctl_proto::spec::After;

use super::records::{AllocationPhase, Attempt, EndKind, Job, JobState, Liveness, Node};
use super::{Changed, State};

/// A rule that does not hold, with what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// What shows it.
    pub what: String,
}

/// Everything that is wrong with one state.
pub fn check(state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    check_devices(state.attempts(), &mut found);
    for job in state.jobs() {
        check_job(state, job, &mut found);
        check_doubt(state, job, &mut found);
        arrays::check(state, job, &mut found);
    }
    for attempt in state.attempts() {
        check_attempt(state, attempt, &mut found);
    }
    check_history(state, &mut found);
    teams::check(state, &mut found);
    decisions::check(state, &mut found);
    holds::check(state, &mut found);
    require(
        &mut found,
        state.rebuilt_indexes() == *state.indexes(),
        "the indexes say what the rows say",
        || "they differ".into(),
    );
    require(
        &mut found,
        state.recomputed_digest() == state.digest(),
        "the digest is that of the rows",
        || state.digest().to_string(),
    );
    let settings = state.settings().is_some() || state.row_count() == 0;
    require(&mut found, settings, "no row without settings", || {
        format!("{} rows", state.row_count())
    });
    found
}

/// Everything that is wrong with a step from `before` to `after`.
pub fn check_step(before: &State, after: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    check_clocks(before, after, &mut found);
    for old in before.jobs() {
        check_step_of(before, after, old.id, &mut found);
    }
    check_history_step(before, after, &mut found);
    teams::check_step(before, after, &mut found);
    decisions::check_step(before, after, &mut found);
    for old in before.nodes() {
        check_node_step(old, after, &mut found);
    }
    found
}

/// What is wrong with a step that changed no more than `changed`, as far as those rows show it: what it costs does not depend
/// on how much else there is.
pub fn check_changed<'a>(
    before: &State,
    after: &State,
    changed: impl IntoIterator<Item = &'a Changed>,
) -> Vec<Violation> {
    let mut found = Vec::new();
    check_clocks(before, after, &mut found);
    check_devices(after.active_attempts(), &mut found);
    let mut nodes = BTreeSet::new();
    for one in changed {
        match one {
            Changed::Job(id) => {
                check_step_of(before, after, *id, &mut found);
                if let Some(job) = after.job(*id) {
                    check_job(after, job, &mut found);
                    check_doubt(after, job, &mut found);
                    arrays::check(after, job, &mut found);
                }
                for attempt in after.attempts_of(*id) {
                    check_attempt(after, attempt, &mut found);
                    nodes.extend(attempt.allocations.iter().map(|one| one.node.as_str()));
                }
            }
            Changed::Node(name) => {
                if let Some(old) = before.node(name) {
                    check_node_step(old, after, &mut found);
                }
            }
        }
    }
    for node in nodes {
        check_room(after, node, &mut found);
    }
    teams::check_step(before, after, &mut found);
    holds::check(after, &mut found);
    found
}

/// What a node's indexes say of its room is what the open attempts take.
fn check_room(state: &State, node: &str, found: &mut Vec<Violation>) {
    let open: Vec<_> = state
        .active_attempts()
        .filter(|attempt| {
            attempt
                .allocations
                .iter()
                .any(|one| one.node == node && one.phase != AllocationPhase::Ended)
        })
        .collect();
    let ranks = open
        .iter()
        .map(|attempt| state.cpu_ranks_per_node(attempt))
        .fold(0, u32::saturating_add);
    let holders: Vec<_> = open.iter().map(|one| (one.job, one.epoch)).collect();
    let used = state.cpu_ranks_on(node);
    require(
        found,
        used == ranks && state.open_allocations_on(node) == holders,
        "a node's room is what its open attempts leave",
        || format!("{node}: {used} ranks counted, {ranks} held"),
    );
}

fn check_clocks(before: &State, after: &State, found: &mut Vec<Violation>) {
    require(
        found,
        after.applied_index() >= before.applied_index(),
        "the applied index never goes back",
        || format!("{} to {}", before.applied_index(), after.applied_index()),
    );
    require(
        found,
        after.now_ms() >= before.now_ms(),
        "state time never goes back",
        || after.now_ms().to_string(),
    );
}

/// A job and its attempts.
fn check_step_of(before: &State, after: &State, id: JobId, found: &mut Vec<Violation>) {
    if let Some(old) = before.job(id) {
        arrays::check_limit(before, after, id, found);
        match after.job(id) {
            Some(new) => check_job_step(old, new, found),
            None => require(
                found,
                after.is_archived(id),
                "no job disappears but into history",
                || id.to_string(),
            ),
        }
    }
    for old in before.attempts_of(id) {
        let new = after.attempt(old.job, old.epoch);
        let kept = new.map_or_else(
            || after.is_archived(old.job),
            |new| attempt_only_advances(old, new),
        );
        require(
            found,
            kept,
            "an attempt only advances, and a closed one never changes",
            || format!("job {} epoch {}", old.job, old.epoch),
        );
    }
}

fn check_node_step(old: &Node, after: &State, found: &mut Vec<Violation>) {
    let new = after.node(&old.facts.name);
    let kept =
        new.is_some_and(|new| new.journal_id != old.journal_id || new.event_mark >= old.event_mark);
    require(
        found,
        kept,
        "an event mark never goes back within a journal",
        || old.facts.name.clone(),
    );
}

fn require(
    found: &mut Vec<Violation>,
    holds: bool,
    rule: &'static str,
    what: impl FnOnce() -> String,
) {
    if !holds {
        found.push(Violation { rule, what: what() });
    }
}

fn check_devices<'a>(attempts: impl Iterator<Item = &'a Arc<Attempt>>, found: &mut Vec<Violation>) {
    let mut holders: BTreeMap<(&str, &str), (JobId, Epoch)> = BTreeMap::new();
    for attempt in attempts {
        for allocation in attempt
            .allocations
            .iter()
            .filter(|one| one.phase != AllocationPhase::Ended)
        {
            for uuid in &allocation.devices {
                let other = holders.insert((&allocation.node, uuid), (attempt.job, attempt.epoch));
                require(
                    found,
                    other.is_none(),
                    "one device, one open allocation",
                    || format!("{uuid} of {}", allocation.node),
                );
            }
        }
    }
}

/// Places in history have no hole, and who is counted there is not in the tables.
fn check_history(state: &State, found: &mut Vec<Violation>) {
    let mut next = 1;
    let mut number = 1;
    for segment in state.segments() {
        let follows = segment.first_seq == next && segment.last_seq >= next;
        let fits = segment.number == number && segment.first_job <= segment.last_job;
        require(found, follows && fits, "segments follow each other", || {
            format!("segment {} begins at {}", segment.number, segment.first_seq)
        });
        next = segment.last_seq.saturating_add(1);
        number = segment.number.saturating_add(1);
    }
    for batch in state.tail() {
        let follows = batch.first_seq == next && !batch.jobs.is_empty();
        require(found, follows, "the tail follows the segments", || {
            format!("a batch begins at {}", batch.first_seq)
        });
        next = batch.end_seq();
        for (id, _) in &batch.jobs {
            let left = state.is_archived(*id);
            require(found, left, "a job is in the tables or in history", || {
                id.to_string()
            });
        }
    }
    let Some(settings) = state.settings().filter(|one| one.incarnation == 1) else {
        return;
    };
    let given = settings.next_job.saturating_sub(1);
    let known = (state.jobs().count() as u64).saturating_add(next - 1);
    require(
        found,
        given == known,
        "every id that was given out is in the tables or in history",
        || format!("{given} given out, {known} known"),
    );
    let named: u64 = state.jobs().count() as u64;
    let uses = state.specs.iter().map(|(_, spec)| spec.uses);
    let uses = uses.fold(0, u64::saturating_add);
    require(
        found,
        named == uses,
        "a spec knows how many name it",
        || format!("{named} jobs, {uses} uses"),
    );
}

fn check_history_step(before: &State, after: &State, found: &mut Vec<Violation>) {
    let kept = before
        .segments()
        .all(|old| after.segments.get(&old.number) == Some(old));
    let grows = after.next_seq() >= before.next_seq();
    require(found, kept && grows, "history only grows", || {
        format!("{} to {}", before.next_seq(), after.next_seq())
    });
}

/// A job waits for jobs that are there and not over: nothing waits for what cannot come.
fn check_turn(state: &State, job: &Job, found: &mut Vec<Violation>) {
    if job.state.terminal() {
        return;
    }
    for after in &job.turn.after {
        let open = state.job(after.job).is_some_and(|on| !on.state.terminal());
        require(
            found,
            open && after.job < job.id,
            "a job waits for earlier jobs that are not over",
            || format!("job {} waits for {after}", job.id),
        );
    }
}

fn check_job(state: &State, job: &Job, found: &mut Vec<Violation>) {
    check_retries(job, found);
    check_turn(state, job, found);
    let attempts = || state.attempts_of(job.id);
    let open = attempts().filter(|attempt| !attempt.closed()).count();
    let current = state.current_attempt(job);
    // Every open wave of an array stands; they are stopped together.
    let (stands, stopping) = match job.array {
        Some(_) => (
            open > 0,
            attempts().any(|attempt| {
                // Others may get the devices of one wave while the rest goes on.
                let end = attempt.end.as_ref();
                let one = end.is_some_and(|end| end.kind == EndKind::Preempted);
                let counts = !one || job.state == JobState::Stopping;
                attempt.stopping && !attempt.closed() && counts
            }),
        ),
        None => (
            current.is_some_and(|attempt| !attempt.closed() && !attempt.in_doubt),
            current.is_some_and(|attempt| attempt.stopping && !attempt.closed()),
        ),
    };
    let active = matches!(
        job.state,
        JobState::Starting | JobState::Running | JobState::Stopping
    );
    let over = job.state.terminal();
    let epochs = attempts().map(|attempt| attempt.epoch.counter);
    for (holds, rule) in [
        (
            stands == active,
            "a job has a current attempt exactly while it is active",
        ),
        (
            over == job.outcome.is_some(),
            "a job has an outcome exactly when it is over",
        ),
        (
            over || job.ended_ms == 0,
            "a job has a time of its end only when it is over",
        ),
        (
            epochs.eq(1..=job.epoch_counter),
            "epochs count from 1 without gaps",
        ),
        (state.spec(&job.spec_hash).is_some(), "a job's spec is kept"),
        (
            stopping == (job.state == JobState::Stopping),
            "a job is Stopping exactly while its attempt is",
        ),
        (
            checkpoints::sound(job),
            "checkpoints are in order, of epochs that were, and held",
        ),
    ] {
        let (state, epoch) = (job.state.word(), job.epoch_counter);
        let what = || {
            format!(
                "job {}: {state}, epoch {epoch}, {open} open attempts",
                job.id
            )
        };
        require(found, holds, rule, what);
    }
}

/// What failed attempts led to.
fn check_retries(job: &Job, found: &mut Vec<Violation>) {
    let excluded = job.retries.excluded.iter();
    let excluded: BTreeSet<&str> = excluded.map(|one| one.node.as_str()).collect();
    for (holds, rule) in [
        (
            (job.state == JobState::Held)
                == (job.retries.hold.is_some() || job.turn.hold.is_some()),
            "a job is Held exactly while there is a reason",
        ),
        (
            excluded.len() == job.retries.excluded.len() && excluded.len() <= EXCLUDED_NODES_MAX,
            "nodes that failed a job are remembered once each, and not too many",
        ),
        (
            job.retries.waits <= job.retries.requeues && job.retries.used <= job.retries.requeues,
            "what waited or was counted had been restarted",
        ),
    ] {
        let what = || format!("job {}: {}", job.id, job.state.word());
        require(found, holds, rule, what);
    }
}

/// At most one attempt is in doubt, and whatever else is not current is on its way out.
fn check_doubt(state: &State, job: &Job, found: &mut Vec<Violation>) {
    let open: Vec<_> = state
        .attempts_of(job.id)
        .filter(|attempt| !attempt.closed())
        .collect();
    let in_doubt = open.iter().filter(|attempt| attempt.in_doubt).count();
    let array = job.array.is_some();
    let mut others = open
        .iter()
        .filter(|one| Some(one.epoch) != job.epoch() && !array);
    for (holds, rule) in [
        (
            others.all(|one| one.in_doubt || one.stopping),
            "an attempt that is not current is over, in doubt or being dropped",
        ),
        (
            (array && in_doubt == 0) || (!array && open.len() <= 2 && in_doubt <= 1),
            "a job holds at most two attempts, one of them in doubt",
        ),
        (
            in_doubt == 0
                || !(job.state.terminal()
                    || matches!(job.state, JobState::Running | JobState::Held)),
            "nothing is in doubt when a successor runs, or the job is held or over",
        ),
        (
            job.recalled_counter < job.epoch_counter.max(1),
            "what was recalled is older than the newest attempt",
        ),
    ] {
        let (state, count) = (job.state.word(), open.len());
        let what = || format!("job {}: {state}, {count} open attempts", job.id);
        require(found, holds, rule, what);
    }
}

fn check_attempt(state: &State, attempt: &Attempt, found: &mut Vec<Violation>) {
    let all = &attempt.allocations;
    let job = state.job(attempt.job);
    let request = job.and_then(|job| state.request(job));
    let nodes: BTreeSet<&str> = all.iter().map(|one| one.node.as_str()).collect();
    let whole = request.is_some_and(|request| {
        let slots = attempt.wave.as_ref().map_or(1, |wave| wave.slots);
        let gpus = request.gpus.saturating_mul(slots) as usize;
        let devices = all.iter().all(|one| one.devices.len() == gpus);
        devices && nodes.len() == all.len()
    });
    let facts = job.and_then(|job| state.spec_facts(job));
    let allowed = facts.is_some_and(|facts| facts.ask.nodes.allows(attempt.width()));
    let whole = whole && allowed;
    let ends = all
        .iter()
        .all(|one| one.end.is_some() == (one.phase == AllocationPhase::Ended));
    let lost = all.iter().all(|one| {
        let node = state.node(&one.node);
        node.is_some_and(|node| node.liveness == Liveness::Lost)
    });
    let lineage = state.job(attempt.job).and_then(|job| job.lineage.as_ref());
    let inherits = lineage.is_some_and(|lineage| Some(lineage.made_by) == attempt.resume_job);
    let success = attempt.closed() && attempt.end.as_ref().is_some_and(|end| end.success());
    let clean = all
        .iter()
        .all(|one| one.exits.iter().all(|exit| !exit.failed()));
    for (holds, rule) in [
        (
            whole,
            "a gang is whole: so many distinct nodes, so many devices on each",
        ),
        (ends, "an allocation has an end exactly when it has ended"),
        (
            !attempt.closed() || attempt.end.is_some(),
            "a closed attempt has an end",
        ),
        (
            !attempt.stopping || attempt.end.is_some(),
            "an attempt that stops has a reason",
        ),
        (
            !attempt.in_doubt || (lost && !attempt.stopping && !attempt.closed()),
            "what is in doubt is open on Lost nodes",
        ),
        (
            attempt.resume_job.is_none() || inherits,
            "who resumes from another job's checkpoint is another try of it",
        ),
        (
            !success || clean,
            "a success means that every rank exited 0",
        ),
    ] {
        require(found, holds, rule, || {
            format!("job {} epoch {}", attempt.job, attempt.epoch)
        });
    }
}

fn check_job_step(old: &Job, new: &Job, found: &mut Vec<Violation>) {
    let id = || {
        format!(
            "job {}: {} to {}",
            old.id,
            old.state.word(),
            new.state.word()
        )
    };
    let same_end = (new.state, &new.outcome, new.ended_ms, new.epoch_counter)
        == (old.state, &old.outcome, old.ended_ms, old.epoch_counter);
    require(
        found,
        !old.state.terminal() || same_end,
        "what is over stays as it is",
        id,
    );
    require(
        found,
        new.epoch_counter >= old.epoch_counter,
        "epochs never go back",
        id,
    );
    let fixed = (&new.owner_id, new.submit_index, new.submitted_ms)
        == (&old.owner_id, old.submit_index, old.submitted_ms);
    let spec = new.spec_hash == old.spec_hash || !old.state.terminal();
    require(
        found,
        fixed && spec,
        "what was submitted stays as it is, but for what may be changed in place",
        id,
    );
    let waits = |one: &After| old.turn.after.contains(one);
    require(
        found,
        new.turn.after.iter().all(waits),
        "no job begins to wait for another later",
        id,
    );
    require(
        found,
        new.cancel_requested || !old.cancel_requested,
        "a cancel is not forgotten",
        id,
    );
    require(
        found,
        arrays::only_advances(old, new),
        "what became of a task stays as it is",
        id,
    );
    let kept = checkpoints::only_let_go(old, new);
    require(
        found,
        kept,
        "no checkpoint of a closed epoch is accepted",
        id,
    );
}

fn attempt_only_advances(old: &Attempt, new: &Attempt) -> bool {
    if old.closed() {
        return old == new;
    }
    let phases = old
        .allocations
        .iter()
        .zip(&new.allocations)
        .all(|(old, new)| {
            old.node == new.node
                && old.devices == new.devices
                && old.phase <= new.phase
                && new.exits.starts_with(&old.exits)
        });
    let explained = new
        .end
        .as_ref()
        .is_some_and(|end| end.kind.infrastructure())
        && old
            .end
            .as_ref()
            .is_some_and(|end| !end.kind.infrastructure());
    let reason = !old.stopping || (new.stopping && (new.end == old.end || explained));
    let tasks = arrays::wave_only_advances(old, new);
    phases && reason && tasks && old.allocations.len() == new.allocations.len()
}

#[cfg(test)]
#[path = "invariants_tests.rs"]
mod tests;
