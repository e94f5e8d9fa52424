//! `las`: least attained service, for clusters whose users give no limits (docs/SCHEDULING.md, Least attained service). Queues by GPU time that a job, or an array as a whole, has had; a running
//! attempt may be sliced after its quantum, for a job of a higher queue, or for a gang of the same. Does NOT order by class, quota or fair share: those come first.
use mlctl_proto::units::UtcMs;

use super::Rules;
use crate::state::rules::taking::slice_is_over;
use crate::state::view::amounts::GPU;
use crate::state::view::ask::Ask;
use crate::state::view::jobs::{Running, Waiting};
use crate::state::view::policy::SchedSettings;

/// A gang, for `las`, is what needs more than one node, or so many GPUs of one: for it nodes are cleared.
const GANG_GPUS: u64 = 8;

/// For so many quanta of its waiting nobody of its own queue is sliced for a gang that never ran.
const NEW_GANG_WAITS: u64 = 4;

/// Reservations per pool and type at most.
const RESERVATIONS_MAX: u32 = 1;

/// Least attained service.
#[derive(Debug, Clone, Copy)]
pub struct Las;

impl Rules for Las {
    fn queue(&self, settings: &SchedSettings, job: &Waiting, now: UtcMs) -> u32 {
        let queue = by_service(settings, job.attained);
        let waited = now.saturating_sub(job.eligible_ms).max(0).unsigned_abs();
        promoted(settings, queue, waited, job.ran_ms)
    }

    fn queue_of_running(&self, settings: &SchedSettings, running: &Running, now: UtcMs) -> u32 {
        queue_of_running(settings, running, now)
    }

    fn reservations(&self, settings: &SchedSettings) -> u32 {
        // Slices serve those whose turn it is; what is promised keeps one that they do not serve from starving. More promises would keep short jobs out.
        settings.reservations.min(RESERVATIONS_MAX)
    }

    fn may_reserve(&self, job: &Waiting, aged: bool) -> bool {
        aged && is_gang(&job.ask)
    }

    fn wide_first(&self) -> bool {
        true
    }

    fn may_slice(
        &self,
        settings: &SchedSettings,
        job: &Waiting,
        running: &Running,
        now: UtcMs,
    ) -> bool {
        let attempt = (running.started_ms, running.saved_ms);
        if running.interactive || !slice_is_over(settings, attempt, running.preemptible, now) {
            return false;
        }
        let (mine, other) = (
            self.queue(settings, job, now),
            queue_of_running(settings, running, now),
        );
        let clears = is_gang(&job.ask)
            && units(&running.ask) < units(&job.ask)
            && now >= clears_from(settings, job);
        other > mine || (other == mine && clears)
    }

    fn next(&self, settings: &SchedSettings, running: &Running, now: UtcMs) -> Option<UtcMs> {
        let quantum = after(running.started_ms, settings.las_quantum_ms);
        [Some(quantum), leaves_queue(settings, running, now)]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    fn next_of_waiting(
        &self,
        settings: &SchedSettings,
        job: &Waiting,
        now: UtcMs,
    ) -> Option<UtcMs> {
        let clears = is_gang(&job.ask).then(|| clears_from(settings, job));
        let moves = (by_service(settings, job.attained) > 0 && settings.las_promote > 0)
            .then(|| after(job.eligible_ms, promotion_ms(settings, job.ran_ms)));
        [clears, moves]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }
}

/// How many thresholds a service is beyond; unit-seconds.
fn by_service(settings: &SchedSettings, attained: u64) -> u32 {
    let beyond = |threshold: &&u64| attained >= unit_seconds(**threshold);
    u32::try_from(settings.las_thresholds.iter().filter(beyond).count()).unwrap_or(u32::MAX)
}

/// GPU-milliseconds as unit-seconds.
fn unit_seconds(gpu_ms: u64) -> u64 {
    gpu_ms.saturating_mul(GPU) / 1_000
}

/// Who waited so many times as long as it ran moves up a queue.
fn promoted(settings: &SchedSettings, queue: u32, waited_ms: u64, ran_ms: u64) -> u32 {
    let moves =
        queue > 0 && settings.las_promote > 0 && waited_ms >= promotion_ms(settings, ran_ms);
    if moves {
        queue.saturating_sub(1)
    } else {
        queue
    }
}

/// After so long a wait a job that ran so long moves up, milliseconds.
fn promotion_ms(settings: &SchedSettings, ran_ms: u64) -> u64 {
    ran_ms
        .saturating_mul(u64::from(settings.las_promote))
        .max(1)
}

/// From when on others of its own queue are sliced for a gang. One that never ran waits a few quanta first: many are so short that to clear nodes for them costs others more than it
/// gains, and many find room by then.
fn clears_from(settings: &SchedSettings, job: &Waiting) -> UtcMs {
    if job.attained > 0 {
        job.eligible_ms
    } else {
        let wait = settings.las_quantum_ms.saturating_mul(NEW_GANG_WAITS);
        after(job.eligible_ms, wait)
    }
}

fn elapsed(from: UtcMs, to: UtcMs) -> u64 {
    to.saturating_sub(from).max(0).unsigned_abs()
}

fn after(from: UtcMs, ms: u64) -> UtcMs {
    from.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn units(ask: &Ask) -> u64 {
    ask.units(ask.nodes.least())
}

/// Whether nodes are cleared for it.
fn is_gang(ask: &Ask) -> bool {
    ask.is_wide() || units(ask) >= GANG_GPUS.saturating_mul(GPU)
}

fn service(running: &Running, now: UtcMs) -> u64 {
    let ran = elapsed(running.started_ms, now);
    running
        .attained
        .saturating_add(units(&running.ask).saturating_mul(ran) / 1_000)
}

/// The queue in which a running attempt is now.
fn queue_of_running(settings: &SchedSettings, running: &Running, now: UtcMs) -> u32 {
    let queue = by_service(settings, service(running, now));
    let ran = running
        .ran_ms
        .saturating_add(elapsed(running.started_ms, now));
    promoted(settings, queue, running.waited_ms, ran)
}

fn leaves_queue(settings: &SchedSettings, running: &Running, now: UtcMs) -> Option<UtcMs> {
    let had = service(running, now);
    let next = settings
        .las_thresholds
        .iter()
        .map(|one| unit_seconds(*one))
        .filter(|one| *one > had)
        .min()?;
    let rate = units(&running.ask).max(1);
    let ms = next
        .saturating_sub(had)
        .saturating_mul(1_000)
        .div_ceil(rate);
    Some(after(now, ms.max(1)))
}

#[cfg(test)]
#[path = "las_tests.rs"]
mod tests;
