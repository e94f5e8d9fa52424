//! A job with its current attempt, and the one way in which an attempt comes to its end, whoever began it: an agent's event, a
//! person, a lost node, a new boot.
use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::units::UtcMs;

use super::failures::Failures;
use super::{LossProof, holds, in_doubt, kept, waves};
use crate::state::Effect;
use crate::state::change::Change;
use crate::state::records::{AllocationPhase, Attempt, End, EndKind, Job, JobState};
use crate::state::rules::{Ended, Verdict};
use crate::state::transition::advance;

/// Working copies; `store` writes them back.
#[derive(Debug)]
pub(super) struct Current {
    pub job: Job,
    pub attempt: Attempt,
    pub now_ms: UtcMs,
    failures: Failures,
}

impl Current {
    /// The attempt `epoch` of `job`, if it is the job's current one.
    pub fn load(change: &Change, job: JobId, epoch: Epoch, now_ms: UtcMs) -> Option<Self> {
        let job = change
            .job(job)
            .ok()
            .filter(|job| job.epoch() == Some(epoch) || planted(Mutant::EpochCheckRemoved))?;
        let attempt = change.attempt(job.id, epoch)?;
        let failures = Failures::of(change.state(), &job);
        Some(Self {
            job,
            attempt,
            now_ms,
            failures,
        })
    }

    /// Writes both back.
    pub fn store(self, change: &mut Change) {
        change.put_job(self.job);
        change.put_attempt(self.attempt);
    }

    /// The place of a node's allocation in the gang.
    pub fn position(&self, node: &str) -> Option<usize> {
        self.attempt
            .allocations
            .iter()
            .position(|allocation| allocation.node == node)
    }

    /// The ranks of one allocation run. Once no allocation waits for that, the job runs.
    pub fn started(&mut self, change: &mut Change, position: usize) -> Result<(), Refusal> {
        let Some(allocation) = self.attempt.allocations.get_mut(position) else {
            return Ok(());
        };
        if allocation.phase != AllocationPhase::Assigned {
            return Ok(());
        }
        allocation.phase = AllocationPhase::Running;
        // No leader tells it to go before that is so; but where ranks run, nothing else may be thought to run.
        in_doubt::close(change, &mut self.job, self.now_ms, "its successor runs");
        let waiting = self
            .attempt
            .allocations
            .iter()
            .any(|one| one.phase == AllocationPhase::Assigned);
        if waiting || self.attempt.stopping {
            return Ok(());
        }
        self.attempt.running_ms = self.now_ms;
        if self.job.started_ms == 0 {
            self.job.started_ms = self.now_ms;
        }
        advance(&mut self.job, JobState::Running)
    }

    /// Begins to end the attempt: every allocation that still holds something is told, except the one that knows already.
    /// The first reason in commit order is the attempt's; of later ones only a loss that explains it replaces it.
    pub fn stop(
        &mut self,
        change: &mut Change,
        end: End,
        knows: Option<usize>,
    ) -> Result<(), Refusal> {
        if self.attempt.stopping {
            return Ok(());
        }
        let reason = end.kind;
        self.attempt.stopping = true;
        self.attempt.end = Some(end);
        advance(&mut self.job, JobState::Stopping)?;
        for (position, allocation) in self.attempt.allocations.iter().enumerate() {
            if allocation.phase != AllocationPhase::Ended && Some(position) != knows {
                let node = allocation.node.clone();
                change.effect(Effect::Stop {
                    node,
                    job: self.job.id,
                    epoch: self.attempt.epoch,
                    reason,
                });
            }
        }
        if planted(Mutant::FreedWhenStopped) {
            for allocation in &mut self.attempt.allocations {
                allocation.phase = AllocationPhase::Ended;
                allocation.end = self.attempt.end.clone();
            }
        }
        Ok(())
    }

    /// It is being ended so that others get its devices, and has time for that: nobody needs it any more.
    pub fn hurry(&self, change: &mut Change, reason: EndKind) {
        let end = self.attempt.end.as_ref();
        if !self.attempt.stopping || end.is_none_or(|end| end.kind != EndKind::Preempted) {
            return;
        }
        let open = self.attempt.allocations.iter();
        for allocation in open.filter(|one| one.phase != AllocationPhase::Ended) {
            change.effect(Effect::Stop {
                node: allocation.node.clone(),
                job: self.job.id,
                epoch: self.attempt.epoch,
                reason,
            });
        }
    }

    /// One allocation holds nothing any more. The last one closes the attempt.
    pub fn end_allocation(
        &mut self,
        change: &mut Change,
        position: usize,
        end: End,
    ) -> Result<(), Refusal> {
        if end.success() {
            self.started(change, position)?;
        }
        let Some(allocation) = self.attempt.allocations.get_mut(position) else {
            return Ok(());
        };
        // An agent that calls it a success although a rank did not exit 0 is corrected: Completed means that all did.
        let failed = allocation.exits.iter().find(|exit| exit.failed());
        let end = match failed {
            Some(exit) if end.success() => exit.as_end(&allocation.node),
            _ => end,
        };
        allocation.phase = AllocationPhase::Ended;
        allocation.end = Some(end.clone());
        if self.explains(&end) {
            self.attempt.end = Some(end);
        } else if !end.success() && !planted(Mutant::FailureForgotten) {
            self.stop(change, end, Some(position))?;
        }
        change.replan();
        if !self.attempt.closed() {
            return Ok(());
        }
        self.close()?;
        holds::ended(change, &mut self.job, &self.attempt, self.now_ms);
        if self.job.state.terminal() || self.job.state == JobState::Held {
            // Nobody will take over from it, and it shall not come back.
            let why = if self.job.state.terminal() {
                "the job is over"
            } else {
                "the job is held"
            };
            in_doubt::close(change, &mut self.job, self.now_ms, why);
        }
        Ok(())
    }

    /// Whether a loss explains the failure by which the attempt is being ended: ranks whose peer's machine, keeper or device died
    /// fail too, and often are heard of first. A rank that failed where the loss was had failed by itself.
    fn explains(&self, loss: &End) -> bool {
        let failed_elsewhere = self.attempt.end.as_ref().is_some_and(|end| {
            matches!(end.kind, EndKind::Exited | EndKind::Signalled) && end.node != loss.node
        });
        self.attempt.stopping && loss.kind.infrastructure() && failed_elsewhere
    }

    /// Whether the job would be over, not start again, if the attempt were closed by the loss of a node that `loss` tells of.
    pub fn ends_for_good(&self, loss: &End) -> bool {
        let end = self.attempt.end.as_ref();
        let first = end.filter(|_| self.attempt.stopping && !self.explains(loss));
        self.job.cancel_requested || first.is_some_and(|end| self.after(end).terminal())
    }

    /// All allocations have ended: the epoch is closed and the job goes on or ends.
    fn close(&mut self) -> Result<(), Refusal> {
        self.attempt.ended_ms = self.now_ms;
        let end = self
            .attempt
            .end
            .get_or_insert_with(|| End::of(EndKind::Exited))
            .clone();
        let to = self.after(&end);
        advance(&mut self.job, to)?;
        let ran_ms = Ended::of(&self.attempt, &end, self.now_ms).time_ms();
        self.job.turn.ran_ms = self.job.turn.ran_ms.saturating_add(ran_ms);
        if to.terminal() {
            // A job that a person ended while it was about to start again ends by that person.
            let cancelled_between = to == JobState::Cancelled && end.kind != EndKind::Cancelled;
            let used_up = to == JobState::TimedOut && end.kind != EndKind::TimedOut;
            self.job.outcome = Some(if cancelled_between {
                End::of(EndKind::Cancelled)
            } else if used_up {
                End {
                    detail: "it would start again, but its `total_time` is used up".into(),
                    ..End::of(EndKind::TimedOut)
                }
            } else {
                end
            });
            self.job.ended_ms = self.now_ms;
        } else {
            let ended = Ended::of(&self.attempt, &end, self.now_ms);
            self.failures.count(&mut self.job, &ended, self.now_ms);
        }
        Ok(())
    }

    /// Where a job goes after an attempt that ended so.
    pub fn after(&self, end: &End) -> JobState {
        let ended = Ended::of(&self.attempt, end, self.now_ms);
        match self.failures.verdict(&self.job, &ended) {
            Verdict::Over if end.success() => JobState::Completed,
            Verdict::Over if end.kind == EndKind::Cancelled => JobState::Cancelled,
            Verdict::Over if end.kind == EndKind::TimedOut => JobState::TimedOut,
            Verdict::Over => JobState::Failed,
            _ if self.job.cancel_requested => JobState::Cancelled,
            Verdict::Held => JobState::Held,
            _ if self.job.turn.used_up(ended.time_ms()) => JobState::TimedOut,
            Verdict::Again | Verdict::Restarted | Verdict::Retried => JobState::Pending,
        }
    }

    /// The job waits again although its attempt, lost as `end` says, is not over: it may come back.
    pub fn wait_in_doubt(&mut self, end: &End) -> Result<(), Refusal> {
        self.failures.wait(&mut self.job, end, self.now_ms);
        advance(&mut self.job, JobState::Pending)
    }
}

/// What a node held under `boot_id` has ended: the machine is gone, or runs another boot. Other nodes of those gangs are told.
/// Silence alone proves nothing: an attempt that may go on should the node come back is only put in doubt, or kept.
pub(super) fn lose_allocations(
    change: &mut Change,
    node: &str,
    boot_id: &str,
    (proof, detail): (LossProof, &str),
    now_ms: UtcMs,
) -> Result<(), Refusal> {
    for (job, epoch) in change.state().open_allocations_on(node) {
        let Some(attempt) = change.attempt(job, epoch) else {
            continue;
        };
        let mut allocations = attempt.allocations.iter();
        let held = allocations.position(|one| {
            one.node == node && one.boot_id == boot_id && one.phase != AllocationPhase::Ended
        });
        let Some(position) = held else {
            continue;
        };
        let end = End {
            detail: detail.into(),
            node: node.into(),
            ..End::of(EndKind::NodeLost)
        };
        if attempt.wave.is_some() {
            waves::lose(change, (job, epoch), end, proof, now_ms)?;
            continue;
        }
        let dead = !proof.is_silence();
        if attempt.in_doubt {
            if dead {
                in_doubt::died(change, job, now_ms, detail)?;
            }
            continue;
        }
        let Some(mut current) = Current::load(change, job, epoch, now_ms) else {
            in_doubt::end_dropped(change, attempt, position, end, now_ms);
            continue;
        };
        if kept::stays(&current, &end, proof) {
            continue;
        }
        if !dead && in_doubt::may_come_back(change.state(), &current, &end) {
            in_doubt::enter(change, &mut current, &end)?;
        } else {
            current.end_allocation(change, position, end)?;
        }
        current.store(change);
    }
    Ok(())
}
