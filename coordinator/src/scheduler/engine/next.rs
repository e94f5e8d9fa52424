//! When a pass could answer differently although nothing happened (docs/SCHEDULING.md, Reservations). An earlier time than that costs a pass for nothing; a later one would be found by the
//! safety pass. Does NOT change anything.
use std::collections::BTreeSet;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::estimate;
use super::pass::Pass;
use crate::state::view::nodes::Open;

use crate::state::rules::taking::EVICTION_MS;

impl Pass<'_> {
    /// The earliest such time after now.
    pub(super) fn next_change(&self) -> Option<UtcMs> {
        if self.full {
            return Some(self.now);
        }
        let times = self
            .of_waiting()
            .into_iter()
            .chain(self.of_nodes())
            .chain(self.of_runs())
            .chain(self.of_promises());
        times.filter(|time| *time > self.now).min()
    }

    fn of_waiting(&self) -> Option<UtcMs> {
        let starts: BTreeSet<JobId> = self.out.starts.iter().map(|start| start.job).collect();
        let waits = self
            .jobs
            .iter()
            .filter(|job| starts.is_empty() || !starts.contains(&job.id));
        let free = waits.filter_map(|job| *self.next_of.get(job.place as usize)?);
        self.blocked_until.into_iter().chain(free).min()
    }

    fn of_nodes(&self) -> Option<UtcMs> {
        if self.jobs.is_empty() {
            return None;
        }
        let ahead = |time: UtcMs| (time > self.now).then_some(time);
        let times = self.nodes.iter().flat_map(|node| {
            let opens = match node.open {
                Open::From(at) => ahead(at),
                _ => None,
            };
            opens
                .into_iter()
                .chain(node.windows.iter().filter_map(move |(_, end)| ahead(*end)))
        });
        times.min()
    }

    /// Estimates that are exceeded, protections that end.
    fn of_runs(&self) -> Option<UtcMs> {
        if self.stuck_devices == 0 {
            return None;
        }
        let ahead = |time: UtcMs| (time > self.now).then_some(time);
        let times = self
            .runs
            .iter()
            .filter(|run| !run.gone && !run.ending)
            .flat_map(|run| {
                let attempt = run.attempt();
                let least = attempt
                    .and_then(|one| ahead(estimate::after(one.started_ms, one.min_runtime_ms)));
                let forgiven = attempt.and_then(|one| {
                    let third = one.evicted_ms.iter().rev().nth(2)?;
                    ahead(estimate::after(*third, EVICTION_MS))
                });
                let slice =
                    attempt.and_then(|one| self.rules.next(&self.scene.settings, one, self.now));
                [
                    ahead(run.end),
                    run.takeable.and_then(ahead),
                    least,
                    forgiven,
                    slice,
                ]
                .into_iter()
                .flatten()
            });
        times.min()
    }

    fn of_promises(&self) -> Option<UtcMs> {
        let ahead = |time: UtcMs| (time > self.now).then_some(time);
        let starts = self.promises.all.iter().filter_map(|one| ahead(one.start));
        let holds = self
            .scene
            .holds
            .values()
            .filter_map(|hold| ahead(hold.until_ms));
        starts.chain(holds).min()
    }
}
