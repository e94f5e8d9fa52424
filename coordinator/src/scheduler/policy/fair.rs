//! `fair`: one queue, nobody is sliced (docs/SCHEDULING.md, Order). Does NOT look at how long a job ran.
use mlctl_proto::units::UtcMs;

use super::Rules;
use crate::state::view::jobs::{Running, Waiting};
use crate::state::view::policy::SchedSettings;

/// The default policy.
#[derive(Debug, Clone, Copy)]
pub struct Fair;

impl Rules for Fair {
    fn queue(&self, _settings: &SchedSettings, _job: &Waiting, _now: UtcMs) -> u32 {
        0
    }

    fn queue_of_running(&self, _settings: &SchedSettings, _running: &Running, _now: UtcMs) -> u32 {
        0
    }

    fn reservations(&self, settings: &SchedSettings) -> u32 {
        settings.reservations
    }

    fn may_reserve(&self, _job: &Waiting, _aged: bool) -> bool {
        true
    }

    fn wide_first(&self) -> bool {
        false
    }

    fn may_slice(
        &self,
        _settings: &SchedSettings,
        _job: &Waiting,
        _running: &Running,
        _now: UtcMs,
    ) -> bool {
        false
    }

    fn next(&self, _settings: &SchedSettings, _running: &Running, _now: UtcMs) -> Option<UtcMs> {
        None
    }

    fn next_of_waiting(
        &self,
        _settings: &SchedSettings,
        _job: &Waiting,
        _now: UtcMs,
    ) -> Option<UtcMs> {
        None
    }
}
