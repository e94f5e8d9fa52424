//! Devices that are kept for one job while others end, and what that leaves on jobs. Whether somebody may be ended is `rules::taking`'s and
//! `rules::entitlement`'s business.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use crate::state::rules::Request;

/// Times of evictions that a job remembers at most: no rule asks for more than three.
const EVICTIONS_KEPT_MAX: usize = 16;

/// One node's part of what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSeat {
    /// The node.
    pub node: String,
    /// UUIDs; none for a job without GPUs.
    pub devices: Vec<String>,
}

/// Somebody whose end it waits for: most end for it, some ended anyway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldVictim {
    /// Its job.
    pub job: JobId,
    /// Which attempt.
    pub epoch: Epoch,
    /// It was told: from then on it ends, whatever becomes of the one for whom.
    pub signalled: bool,
}

/// Devices that are kept for a job: nobody else starts on them. It ends when the job starts, is over or held, when a device of it is lost, or when
/// its time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceHold {
    /// For whom.
    pub job: JobId,
    /// In node-rank order.
    pub seats: Vec<HeldSeat>,
    /// When that was decided.
    pub since_ms: UtcMs,
    /// Until when they are kept.
    pub until_ms: UtcMs,
    /// Whose ends it waits for.
    pub victims: Vec<HoldVictim>,
}

impl DeviceHold {
    /// Every device that is kept: node and UUID.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &str)> {
        self.seats.iter().flat_map(|seat| {
            let devices = seat.devices.iter();
            devices.map(|uuid| (seat.node.as_str(), uuid.as_str()))
        })
    }

    /// Whether it is a whole gang of that shape.
    pub fn is_for(&self, request: &Request) -> bool {
        let whole = |seat: &HeldSeat| u32::try_from(seat.devices.len()) == Ok(request.gpus);
        u32::try_from(self.seats.len()) == Ok(request.nodes) && self.seats.iter().all(whole)
    }

    /// Whether it keeps something on a node.
    pub fn is_on(&self, node: &str) -> bool {
        self.seats.iter().any(|seat| seat.node == node)
    }

    /// Whether it waits for the end of this attempt.
    pub fn waits_for(&self, job: JobId, epoch: Epoch) -> bool {
        let mut victims = self.victims.iter();
        victims.any(|victim| (victim.job, victim.epoch) == (job, epoch))
    }
}

/// What running, and devices taken for it or from it, have left on a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// When others took its devices, newest last; older ones are forgotten when the next comes.
    pub evicted_ms: Vec<UtcMs>,
    /// Nobody is ended for it until then, 0: it may be at any time.
    pub no_preempt_until_ms: UtcMs,
    /// It was a guest, and was taken for that: it is no guest again.
    pub guest_taken: bool,
    /// Unit-seconds of its attempts that are over.
    pub attained: u64,
    /// What was kept for it was lost, or came to nothing, since it last ran.
    pub planned_again: bool,
}

impl Marks {
    /// Others take its devices at `now_ms`; `forgotten_ms`: those of then and before do not count any more.
    pub fn evicted(&mut self, now_ms: UtcMs, forgotten_ms: UtcMs) {
        self.evicted_ms.retain(|time| *time > forgotten_ms);
        self.evicted_ms.push(now_ms);
        let surplus = self.evicted_ms.len().saturating_sub(EVICTIONS_KEPT_MAX);
        self.evicted_ms.drain(..surplus);
    }
}
