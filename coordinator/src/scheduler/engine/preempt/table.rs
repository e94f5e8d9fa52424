//! Per flavor, once for many jobs: who holds it, how entitled they are, and what would be free if all below an entitlement were gone. Does NOT say who goes.
use std::collections::{BTreeMap, BTreeSet};

use super::Mode;
use crate::scheduler::engine::entitlement::{Covers, Holder};
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::plan::Entitlement;
use crate::state::rules::quota::Ledger;
use crate::state::view::ask::Gpus;
use crate::state::view::jobs::Class;

/// Who asked in vain: target, conditions, team, class, grounds.
type Asked = (usize, u32, Option<usize>, Class, Mode);

/// All flavors' tables, made when they are needed.
#[derive(Debug, Default)]
pub struct Tables {
    /// `None`: jobs without GPUs.
    by_flavor: BTreeMap<Option<u32>, Table>,
    /// Searches that found nothing; what starts later makes no more room.
    pub failed: BTreeSet<Asked>,
}

/// One flavor.
#[derive(Debug, Default, Clone)]
pub struct Table {
    /// Who holds it.
    pub holders: Vec<Holder>,
    /// By holder: its place in [`Pass::runs`].
    pub runs: Vec<usize>,
    /// What covers them.
    pub covers: Covers,
    /// Something of it started since.
    pub stale: bool,
    /// By the entitlement below which all would go: per kind of devices, how many nodes would have so many whole free ones.
    room: BTreeMap<Entitlement, BTreeMap<u16, Vec<u32>>>,
    /// Likewise: the quotas.
    quotas: BTreeMap<Entitlement, Ledger>,
}

impl Tables {
    /// Something of a flavor started.
    pub fn mark_stale(&mut self, flavor: u32) {
        if let Some(table) = self.by_flavor.get_mut(&Some(flavor)) {
            table.stale = true;
        }
    }

    /// Somebody was ended: its flavors' tables are made anew. What was sought in vain before is not sought again by this pass: the next one does.
    pub fn forget(&mut self, charges: &[(u32, u64)]) {
        if charges.is_empty() {
            self.by_flavor.remove(&None);
        }
        for (flavor, _) in charges {
            self.by_flavor.remove(&Some(*flavor));
        }
    }
}

impl<'a> Pass<'a> {
    /// Holders of a flavor, and their places among the runs.
    pub(in crate::scheduler::engine) fn holders(
        &self,
        flavor: Option<u32>,
    ) -> (Vec<Holder>, Vec<usize>) {
        let mut found = (Vec::new(), Vec::new());
        for (place, run) in self
            .places_of(flavor)
            .into_iter()
            .map(|place| (place, &self.runs[place]))
            .filter(|(_, run)| !run.gone && !run.ending)
        {
            let units = match flavor {
                Some(flavor) => run
                    .charges
                    .iter()
                    .find(|(one, _)| *one == flavor)
                    .map(|(_, units)| *units),
                None => run.charges.is_empty().then_some(run.parts.len() as u64),
            };
            let Some(units) = units else { continue };
            found.0.push(Holder {
                team: run.team,
                class: run.class,
                start: run.start,
                submit: run.submit,
                units,
            });
            found.1.push(place);
        }
        found
    }

    /// The table of a flavor; `fresh`: with all that started in this pass.
    pub(in crate::scheduler::engine) fn table(
        &mut self,
        flavor: Option<u32>,
        fresh: bool,
    ) -> &mut Table {
        let known = self.tables.by_flavor.get(&flavor);
        if known.is_none_or(|table| fresh && table.stale) {
            let (holders, runs) = self.holders(flavor);
            let column = flavor.and_then(|flavor| self.kinds.column(flavor));
            let covers = Covers::new(&self.book.now, column, &holders);
            let table = Table {
                holders,
                runs,
                covers,
                ..Table::default()
            };
            self.tables.by_flavor.insert(flavor, table);
        }
        self.tables.by_flavor.entry(flavor).or_default()
    }

    /// How entitled a job would be to a target's least width.
    pub(in crate::scheduler::engine) fn entitlement(
        &mut self,
        at: usize,
        target: usize,
        fresh: bool,
    ) -> Entitlement {
        let job = self.jobs[at];
        let flavor = self.asks.targets[target].flavor;
        let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
        self.table(flavor, fresh);
        let ledger = &self.book.now;
        self.tables.by_flavor.get(&flavor).map_or(
            Entitlement {
                cover: 0,
                class: job.waiting.class,
            },
            |table| {
                table
                    .covers
                    .of_new(ledger, job.team, job.waiting.class, units)
            },
        )
    }

    /// Whether there could be enough for a job if all went that may go: by numbers of devices and by quota. Cheap; a search costs a thousand times that.
    pub(super) fn could_help(&mut self, at: usize, target: usize, mode: Mode) -> bool {
        let job = self.jobs[at];
        match mode {
            Mode::Slice => {
                return self.scene.settings.policy != crate::state::view::policy::Policy::Fair;
            }
            Mode::Due => return true,
            Mode::Reclaim | Mode::Entitled => {}
        }
        let flavor = self.asks.targets[target].flavor;
        let mine = self.entitlement(at, target, false);
        let below = match mode {
            Mode::Reclaim => Entitlement {
                cover: mine.cover,
                class: Class::Low,
            },
            _ => mine,
        };
        let table = self.table(flavor, false);
        let lower = (0..table.holders.len())
            .any(|one| table.covers.of(one, table.holders[one].class) < below);
        if !lower {
            return false;
        }
        self.room_below(flavor, below);
        let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
        let Some(table) = self.tables.by_flavor.get(&flavor) else {
            return false;
        };
        let column = flavor.and_then(|flavor| self.kinds.column(flavor));
        let quota = match (job.team, column, table.quotas.get(&below)) {
            (Some(team), Some(column), Some(quotas)) => {
                quotas.legal_at(team, column, units).is_ok()
            }
            _ => true,
        };
        let room = match job.waiting.ask.gpus {
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                let wide = job.waiting.ask.nodes.least();
                let room = table.room.get(&below);
                self.asks.targets[target].kinds.iter().any(|kind| {
                    let nodes = room.and_then(|room| room.get(kind));
                    nodes
                        .and_then(|nodes| nodes.get(count as usize))
                        .copied()
                        .unwrap_or(0)
                        >= wide
                })
            }
            Gpus::Share(_) | Gpus::None => true,
        };
        quota && room
    }

    /// What would be free if all holders below an entitlement were gone, and all that are being ended.
    fn room_below(&mut self, flavor: Option<u32>, below: Entitlement) {
        let Some(table) = self.tables.by_flavor.get(&flavor) else {
            return;
        };
        if table.room.contains_key(&below) {
            return;
        }
        let mut grid = self.grid.clone();
        let mut quotas = self.book.after.clone();
        for run in self.runs.iter().filter(|run| run.ending && !run.gone) {
            for part in run.parts.iter() {
                grid.give(part.node as usize, &part.devices, part.whole, &run.ask);
            }
        }
        for (one, place) in table.runs.iter().enumerate() {
            let run = &self.runs[*place];
            if table.covers.of(one, run.class) >= below {
                continue;
            }
            for part in run.parts.iter() {
                grid.give(part.node as usize, &part.devices, part.whole, &run.ask);
            }
            for (flavor, units) in run.charges.iter() {
                if let (Some(team), Some(column)) = (run.team, self.kinds.column(*flavor)) {
                    quotas.remove_at(team, column, *units);
                }
            }
        }
        let mut room: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for node in 0..grid.nodes() {
            let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
            for device in grid.devices(node).filter(|device| grid.is_free(*device)) {
                *counts.entry(grid.kind(device)).or_default() += 1;
            }
            for (kind, count) in counts {
                let nodes = room.entry(kind).or_default();
                if nodes.len() <= count {
                    nodes.resize(count + 1, 0);
                }
                nodes[..=count].iter_mut().for_each(|nodes| *nodes += 1);
            }
        }
        if let Some(table) = self.tables.by_flavor.get_mut(&flavor) {
            table.room.insert(below, room);
            table.quotas.insert(below, quotas);
        }
    }
}
