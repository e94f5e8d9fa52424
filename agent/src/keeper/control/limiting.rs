//! What a time limit does to the keeper's ranks. When it is due: `limit`.
use super::super::clock;
use super::super::deadline;
use super::super::protocol::{FromKeeper, Phase};
use super::Keeper;

impl Keeper {
    /// The ranks run: their time counts.
    pub(super) fn begin_limit(&mut self) {
        if let Some(limit) = &mut self.limit {
            limit.begin(clock::now_ms());
        }
    }

    /// When the limit has something to do.
    pub(super) fn limit_due(&self) -> Option<u64> {
        let runs = self.phase == Phase::Running && self.timed_out.is_none();
        self.limit.filter(|_| runs)?.notice_at()
    }

    /// Time is nearly over: the ranks hear of it in time to save what they have, and are killed when it is.
    pub(super) fn on_limit(&mut self, now: u64) {
        let Some(limit) = self
            .limit
            .filter(|_| self.limit_due().is_some_and(|at| at <= now))
        else {
            return;
        };
        let why = limit.why();
        self.leave_word("time_limit", &why, limit.notice_ms());
        self.stop(limit.notice_ms());
        // What had ended by itself needs no other reason.
        if self.phase != Phase::Stopping {
            return;
        }
        tracing::info!(why, "the time limit ends the ranks");
        if let Err(error) = self.exits_file.timed_out(why.clone()) {
            tracing::error!(%error, "cannot write down that the time limit ended the ranks");
        }
        self.tell(&FromKeeper::TimedOut { why: why.clone() });
        self.timed_out = Some(why);
    }

    /// Somebody ends the attempt: the ranks hear for how long they still run.
    pub(super) fn stop_as_told(&mut self, grace_ms: u32) {
        if self.phase == Phase::Running && grace_ms > 0 {
            self.leave_word("stop", "the attempt is being ended", grace_ms);
        }
        self.stop(grace_ms);
    }

    /// Says in a file for how long the ranks still run. Without it they have TERM alone.
    pub(super) fn leave_word(&self, reason: &str, why: &str, left_ms: u32) {
        let Some(dir) = self.attempt_dir() else {
            return;
        };
        if let Err(error) = deadline::write(dir.as_ref(), reason, why, u64::from(left_ms)) {
            tracing::warn!(%error, "cannot leave word of the deadline for the ranks");
        }
    }

    fn attempt_dir(&self) -> Option<String> {
        let env = &self.plan.ranks.first()?.env;
        env.get("MLCTL_ATTEMPT_DIR").cloned()
    }
}
