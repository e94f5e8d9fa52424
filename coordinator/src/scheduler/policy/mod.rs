//! What distinguishes the policies: which of a team's jobs comes first, and which running attempts may be sliced. Everything else is the engine's and the same
//! for both (docs/SCHEDULING.md, Order and Least attained service). Does NOT order by class, age, quota or fair share.
pub mod fair;
pub mod las;

use mlctl_proto::units::UtcMs;

use crate::state::view::jobs::{Running, Waiting};
use crate::state::view::policy::{Policy, SchedSettings};

/// What a policy answers. Pure: the same answers for the same arguments.
pub trait Rules: Sync {
    /// The queue of a waiting job among those of its class: a lower one comes before fair share is asked. `fair` has one queue.
    fn queue(&self, settings: &SchedSettings, job: &Waiting, now: UtcMs) -> u32;

    /// The queue in which a running attempt is: slices are taken from the highest first.
    fn queue_of_running(&self, settings: &SchedSettings, running: &Running, now: UtcMs) -> u32;

    /// Reservations per pool and type that it makes.
    fn reservations(&self, settings: &SchedSettings) -> u32;

    /// Whether a job that waits for devices may be promised a start; `aged`: it waits for longer than its class should.
    fn may_reserve(&self, job: &Waiting, aged: bool) -> bool;

    /// Whether a wide job comes before the narrow ones of its queue.
    fn wide_first(&self) -> bool;

    /// Whether `running` may be ended for `job` though it is as entitled: its slice is over.
    fn may_slice(
        &self,
        settings: &SchedSettings,
        job: &Waiting,
        running: &Running,
        now: UtcMs,
    ) -> bool;

    /// The earliest time after `now` at which an answer about a running attempt changes.
    fn next(&self, settings: &SchedSettings, running: &Running, now: UtcMs) -> Option<UtcMs>;

    /// The earliest time after `now` at which an answer about a waiting job changes.
    fn next_of_waiting(&self, settings: &SchedSettings, job: &Waiting, now: UtcMs)
    -> Option<UtcMs>;
}

/// The rules of a policy.
pub fn rules(policy: Policy) -> &'static dyn Rules {
    match policy {
        Policy::Fair => &fair::Fair,
        Policy::Las => &las::Las,
    }
}
