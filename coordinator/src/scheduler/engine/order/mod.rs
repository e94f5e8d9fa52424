//! Whose turn it is (docs/SCHEDULING.md, Order): class, then aged jobs, then fair share by descent, then submit. That jobs inside their nominal come before borrowers depends on what
//! starts, so the pass sees to it. Does NOT decide whether anything fits.
pub mod share;
pub mod usage;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::estimate;
use crate::scheduler::policy::Rules;
use crate::state::view::jobs::Waiting;
use crate::state::view::policy::SchedSettings;

/// Where a job stands: the smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Of the class, the most urgent first.
    class: u8,
    /// Aged jobs first, by when they became eligible.
    aged: (bool, UtcMs),
    /// The policy's queue.
    queue: u32,
    /// Wide jobs before narrow ones of their queue, if the policy says so.
    narrow: bool,
    /// Fair share of its team and user.
    share: u32,
    submit_ms: UtcMs,
    submit_index: u64,
    id: JobId,
}

impl Turn {
    /// Of a job whose team and user stand at `share`.
    pub fn of(
        rules: &dyn Rules,
        settings: &SchedSettings,
        job: &Waiting,
        share: u32,
        now: UtcMs,
    ) -> Self {
        let aged = is_aged(settings, job, now);
        let class = 3 - job.class as u8;
        Self {
            class,
            aged: if aged {
                (false, job.eligible_ms)
            } else {
                (true, 0)
            },
            queue: if aged {
                0
            } else {
                rules.queue(settings, job, now)
            },
            narrow: rules.wide_first() && !job.ask.is_wide(),
            share: if aged { 0 } else { share },
            submit_ms: job.submit_ms,
            submit_index: job.submit_index,
            id: job.id,
        }
    }

    /// Its team and user stand there. Says nothing for an aged job.
    pub fn set_share(&mut self, share: u32) {
        if !self.is_aged() {
            self.share = share;
        }
    }

    /// Whether it waits for longer than its class should.
    pub fn is_aged(&self) -> bool {
        !self.aged.0
    }
}

/// Whether a job waits for longer than its class should (docs/SCHEDULING.md, Order).
pub fn is_aged(settings: &SchedSettings, job: &Waiting, now: UtcMs) -> bool {
    estimate::elapsed(job.eligible_ms, now) > estimate::of_class(&settings.age_limit_ms, job.class)
}
