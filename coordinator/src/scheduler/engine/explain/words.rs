//! The word and the numbers of a blocker that holds, and what else was asked and holds. Does NOT decide which hold.
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::blocker::{Blocker, Lifts};
use super::found::{Check, Reason};
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::runs::Source;
use crate::scheduler::engine::why::Why;
use crate::state::rules::quota::Shortfall;
use crate::state::view::ask::Gpus;
use crate::state::view::nodes::Open;

/// So many jobs are named at most.
const JOBS_MAX: usize = 8;

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl<'a> Pass<'a> {
    /// A blocker that holds, in its word.
    pub(super) fn reason(&self, at: usize, blocker: &Blocker) -> Reason {
        let job = self.jobs[at].waiting;
        let mut jobs: Vec<JobId> = Vec::new();
        let why = match blocker {
            Blocker::Inventory | Blocker::Devices => self.too_few(at),
            Blocker::Closed | Blocker::Waking | Blocker::Windows => self.time_word(blocker),
            Blocker::Owners | Blocker::Labels | Blocker::Amounts => Why::CpuOrMemory {
                fitting: self.fitting(at),
            },
            Blocker::Excluded => Why::ExcludedNodes {
                nodes: count(job.avoid.len()),
            },
            Blocker::Ending | Blocker::Victims | Blocker::Blocked => Why::AttemptEnds,
            Blocker::Paused => Why::SchedulingPaused,
            Blocker::Ahead => {
                let ahead = self
                    .runs
                    .iter()
                    .filter(|run| !matches!(run.source, Source::Attempt(_)));
                jobs.extend(ahead.map(|run| run.job));
                Why::JobsAhead { ahead: count(at) }
            }
            Blocker::Promises => {
                let others = self.promised_to_others(job.id);
                jobs.extend(others.iter().map(|(_, job)| *job));
                let first = others.first().copied().unwrap_or((self.now, job.id));
                Why::Reservation {
                    job: first.1,
                    start_ms: first.0,
                }
            }
            Blocker::Quota(team, flavor) => self.quota_word(at, team, flavor),
            Blocker::Budget(..) | Blocker::License(_) | Blocker::Running(_) | Blocker::AtOnce => {
                self.limit_word(at, blocker)
            }
        };
        jobs.dedup();
        jobs.truncate(JOBS_MAX);
        Reason {
            blocker: blocker.clone(),
            why,
            jobs,
        }
    }

    /// The word of nodes that take nothing, or not yet, or not for so long.
    fn time_word(&self, blocker: &Blocker) -> Why {
        let nodes = |open: fn(&Open) -> bool| {
            count(self.nodes.iter().filter(|node| open(&node.open)).count())
        };
        match blocker {
            Blocker::Closed => Why::NodeDrained {
                nodes: nodes(|open| matches!(open, Open::No)),
            },
            Blocker::Waking => {
                let from = self.nodes.iter().filter_map(|node| match node.open {
                    Open::From(at) => Some(at),
                    _ => None,
                });
                Why::WakingNodes {
                    nodes: nodes(|open| matches!(open, Open::From(_))),
                    from: from.min().unwrap_or(self.now),
                }
            }
            _ => {
                let ends = self
                    .nodes
                    .iter()
                    .flat_map(|node| node.windows.iter().map(|(_, end)| *end));
                Why::Maintenance {
                    until: ends.filter(|end| *end > self.now).min().unwrap_or(self.now),
                }
            }
        }
    }

    /// Starts that were promised to others, the soonest first.
    fn promised_to_others(&self, job: JobId) -> Vec<(UtcMs, JobId)> {
        let others = self.promises.all.iter().filter(|one| one.job != job);
        let mut others: Vec<_> = others.map(|one| (one.start, one.job)).collect();
        others.sort_unstable();
        others
    }

    fn quota_word(
        &self,
        at: usize,
        team: &Arc<str>,
        flavor: &crate::state::view::teams::Flavor,
    ) -> Why {
        let all = self.quota_shortfalls(at);
        let found = all
            .into_iter()
            .find(|short| short.team == *team && short.flavor == *flavor);
        found.map_or(Why::GpuTypeMissing, |short| {
            Why::QuotaExceeded(Arc::new(short))
        })
    }

    /// Every inequality that fails for any of its targets.
    pub(super) fn quota_shortfalls(&self, at: usize) -> Vec<Shortfall> {
        let Some(team) = self.jobs[at].team else {
            return Vec::new();
        };
        let mut found: Vec<Shortfall> = Vec::new();
        for (flavor, units) in self.charges_of(at) {
            let Some(column) = self.kinds.column(flavor) else {
                continue;
            };
            for ledger in [&self.book.now, self.book.strict()] {
                for short in ledger.shortfalls_at(team, column, units) {
                    if !found
                        .iter()
                        .any(|known| known.team == short.team && known.flavor == short.flavor)
                    {
                        found.push(short);
                    }
                }
            }
        }
        found
    }

    fn limit_word(&self, at: usize, blocker: &Blocker) -> Why {
        let job = self.jobs[at];
        match blocker {
            Blocker::Budget(team, flavor) => {
                let (number, level) = (self.kinds.flavor_number(flavor), self.book.now.team(team));
                let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
                let short = number.zip(level).and_then(|(number, level)| {
                    self.book
                        .budget_short(level, number, units, job.waiting.limit_ms)
                });
                let (left, needs) = short.unwrap_or((0, 0));
                Why::BudgetExhausted {
                    team: team.clone(),
                    flavor: flavor.clone(),
                    left,
                    needs,
                }
            }
            Blocker::License(name) => {
                let needs = job
                    .waiting
                    .ask
                    .licenses
                    .iter()
                    .find(|(one, _)| one == name)
                    .map_or(0, |(_, needs)| *needs);
                Why::Licenses {
                    name: name.clone(),
                    needs,
                    free: self.book.licenses_free(name),
                }
            }
            Blocker::Running(team) => {
                let most = self
                    .scene
                    .teams
                    .get(team)
                    .and_then(|team| team.max_running)
                    .unwrap_or(0);
                Why::UserLimit {
                    team: team.clone(),
                    at_most: most,
                }
            }
            _ => Why::ArrayLimit(
                job.waiting
                    .tasks
                    .and_then(|tasks| tasks.at_once)
                    .unwrap_or(0),
            ),
        }
    }

    /// How few devices are free, of the kind of which there are most.
    fn too_few(&self, at: usize) -> Why {
        let ask = &self.jobs[at].waiting.ask;
        let targets = &self.asks.targets[self.asks.classes[self.jobs[at].ask as usize]
            .targets
            .clone()];
        if ask.gpus == Gpus::None {
            return Why::CpuOrMemory { fitting: 0 };
        }
        let kinds = || {
            targets
                .iter()
                .flat_map(|target| target.kinds.iter().copied())
        };
        if kinds().next().is_none() {
            return Why::GpuTypeMissing;
        }
        let (wide, needs) = (ask.nodes.least(), ask.units(ask.nodes.least()));
        let free = kinds().map(|kind| self.free_units(kind)).max().unwrap_or(0);
        if free < needs {
            return Why::InsufficientGpus { needs, free };
        }
        Why::Fragmented {
            free,
            nodes: wide,
            fitting: self.fitting(at),
        }
    }

    /// Units of a kind free on nodes that take work.
    fn free_units(&self, kind: u16) -> u64 {
        let nodes = self
            .with_kind
            .get(usize::from(kind))
            .into_iter()
            .flatten()
            .map(|node| *node as usize);
        let open = nodes.filter(|node| self.nodes[*node].open == Open::Now);
        let devices = open
            .flat_map(|node| self.grid.devices(node))
            .filter(|device| self.grid.kind(*device) == kind);
        devices.fold(0, |sum: u64, device| {
            sum.saturating_add(u64::from(self.grid.free[device]))
        })
    }

    /// Nodes that take work and have free what one node has to give of devices, of the kind of which there are most.
    fn fitting(&self, at: usize) -> u32 {
        let job = self.jobs[at];
        let targets = &self.asks.targets[self.asks.classes[job.ask as usize].targets.clone()];
        let enough = |node: usize, kind: u16| {
            let of_kind = || {
                self.grid
                    .devices(node)
                    .filter(|device| self.grid.kind(*device) == kind)
            };
            match job.waiting.ask.gpus {
                Gpus::None => true,
                Gpus::Whole(wants) | Gpus::Mig { count: wants, .. } => {
                    of_kind()
                        .filter(|device| self.grid.is_free(*device))
                        .count()
                        >= wants as usize
                }
                Gpus::Share(units) => of_kind().any(|device| self.grid.free[device] >= units),
            }
        };
        let kinds = targets
            .iter()
            .flat_map(|target| target.kinds.iter().copied());
        let most = kinds.map(|kind| {
            let nodes = self
                .with_kind
                .get(usize::from(kind))
                .into_iter()
                .flatten()
                .map(|node| *node as usize);
            nodes
                .filter(|node| self.nodes[*node].open == Open::Now && enough(*node, kind))
                .count()
        });
        count(most.max().unwrap_or(0))
    }

    /// What was asked and holds.
    pub(super) fn checks(&self, at: usize, blockers: &Lifts) -> Vec<Check> {
        let job = self.jobs[at];
        let mut found = Vec::new();
        for (flavor, units) in self.charges_of(at) {
            let (Some(team), Some(column)) = (job.team, self.kinds.column(flavor)) else {
                continue;
            };
            let Some(named) = self.kinds.flavors.get(flavor as usize) else {
                continue;
            };
            let ledger = &self.book.now;
            let quota = ledger.quota(ledger.name(team), named);
            if let (Ok(()), Some(quota)) = (ledger.legal_at(team, column, units), quota) {
                let load = ledger.load_at(team, column).saturating_add(units);
                let (nominal, borrow) = (quota.nominal, quota.borrow);
                found.push(Check::Quota {
                    team: ledger.name(team).clone(),
                    flavor: named.clone(),
                    load,
                    nominal,
                    borrow,
                });
            }
        }
        let budgets = |one: &Blocker| matches!(one, Blocker::Budget(..));
        if self.book.has_budgets() && !blockers.iter().any(budgets) {
            found.push(Check::Budget);
        }
        let targets = &self.asks.targets[self.asks.classes[job.ask as usize].targets.clone()];
        let mut nodes: Vec<u32> = targets
            .iter()
            .flat_map(|target| &target.kinds)
            .flat_map(|kind| &self.with_kind[usize::from(*kind)])
            .copied()
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        if !nodes.is_empty() {
            found.push(Check::Type {
                nodes: count(nodes.len()),
            });
        }
        let closed = nodes
            .iter()
            .filter(|node| self.nodes[**node as usize].open == Open::No)
            .count();
        if closed > 0 && !blockers.has(&Blocker::Closed) {
            found.push(Check::Closed {
                nodes: count(closed),
            });
        }
        found
    }
}
