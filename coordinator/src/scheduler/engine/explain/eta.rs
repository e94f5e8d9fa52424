//! When a job starts, as far as anybody can say: only who was promised a start is told one. Does NOT look ahead by itself.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::found::Eta;
use crate::scheduler::engine::ahead::Reserved;
use crate::scheduler::engine::estimate;
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::runs::Run;

impl<'a> Pass<'a> {
    /// After its turn.
    pub(super) fn eta(&self, at: usize) -> Eta {
        let job = self.jobs[at];
        if let Some(promise) = self
            .promises
            .all
            .iter()
            .find(|one| one.job == job.waiting.id)
        {
            let last = self.last_to_end(promise);
            let error_ms = last.map_or(0, |run| self.error_ms(run, promise.start));
            return Eta::At {
                start_ms: promise.start,
                error_ms,
                when_ends: last.map(|run| run.job),
            };
        }
        // Those of its queues to whom a start was promised; it comes after the last of them.
        let targets = &self.asks.targets[self.asks.classes[job.ask as usize].targets.clone()];
        let shares = |one: &&Reserved| {
            one.kind
                .is_none_or(|kind| targets.iter().any(|target| target.kinds.contains(&kind)))
        };
        let ahead = self
            .promises
            .all
            .iter()
            .filter(|one| one.turn < job.turn)
            .filter(shares);
        let last: Option<JobId> = ahead
            .max_by_key(|one| (one.start, one.job))
            .map(|one| one.job);
        last.map_or(Eta::Unknown, Eta::After)
    }

    /// Whose end a promise waits for.
    fn last_to_end(&self, promise: &Reserved) -> Option<&Run<'a>> {
        let on = |node: &u32| self.on_node.get(*node as usize).into_iter().flatten();
        let runs = promise
            .nodes
            .iter()
            .flat_map(on)
            .filter_map(|run| self.runs.get(*run as usize));
        let ends = |run: &&Run<'a>| {
            !run.gone
                && run.job != promise.job
                && run.ends_for(promise.class, self.now) <= promise.start
        };
        runs.filter(ends)
            .max_by_key(|run| (run.ends_for(promise.class, self.now), run.submit))
    }

    /// How far off an end may be: what runs with a limit ends by it and frees its devices a notice later; of others nobody knows more than their estimate, half of
    /// what is left of it.
    fn error_ms(&self, run: &Run<'a>, start: UtcMs) -> u64 {
        let ending = estimate::ending(&self.scene.settings, run.class);
        let limited = run.attempt().is_some_and(|one| one.limit_ms.is_some());
        if limited {
            ending
        } else {
            ending.max(estimate::elapsed(self.now, start) / 2)
        }
    }
}
