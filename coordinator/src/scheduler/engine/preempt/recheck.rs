//! What was planned early in a pass is checked against how the pass ends: starts that came later count, those that were taken back do not (docs/SCHEDULING.md, Preemption). What does not hold
//! any more is left to the next pass. Does NOT plan anything.
use super::Mode;
use crate::scheduler::engine::entitlement::{self, Covers, Holder};
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::stuck::Stuck;
use crate::scheduler::plan::Entitlement;

/// One transaction of this pass, by places in [`Pass::runs`].
#[derive(Debug, Clone)]
pub struct Planned {
    /// The job.
    pub at: usize,
    /// What it will hold.
    pub run: usize,
    /// Who ends.
    pub victims: Vec<usize>,
    /// On which grounds.
    pub mode: Mode,
}

impl<'a> Pass<'a> {
    /// Drops transactions whose order of entitlements or growth does not hold in the end, one after the other as they are applied.
    pub(in crate::scheduler::engine) fn recheck(&mut self) {
        let planned = std::mem::take(&mut self.planned);
        let mut dropped = Vec::new();
        let mut done: Vec<bool> = vec![false; planned.len()];
        for (place, one) in planned.iter().enumerate() {
            match self.still_holds(&planned, &done, place) {
                Some((mine, theirs)) => {
                    done[place] = true;
                    let said = &mut self.out.preemptions[place];
                    said.entitlement = mine;
                    for (victim, theirs) in said.victims.iter_mut().zip(theirs) {
                        victim.entitlement = theirs;
                    }
                }
                None => {
                    dropped.push(place);
                    self.stuck.push((one.at, Stuck::Ahead));
                }
            }
        }
        for place in dropped.into_iter().rev() {
            self.out.preemptions.remove(place);
            self.mark("preemption dropped");
            self.full = true;
        }
    }

    /// The entitlements of the beneficiary afterwards, and of its victims before.
    fn still_holds(
        &self,
        planned: &[Planned],
        done: &[bool],
        place: usize,
    ) -> Option<(Entitlement, Vec<Entitlement>)> {
        let one = planned.get(place)?;
        let run = &self.runs[one.run];
        let flavors: Vec<Option<u32>> = match run.charges.as_slice() {
            [] => vec![None],
            charges => charges.iter().map(|(flavor, _)| Some(*flavor)).collect(),
        };
        let mut mine = Entitlement {
            cover: u32::MAX,
            class: run.class,
        };
        let mut theirs: Vec<Entitlement> = one
            .victims
            .iter()
            .map(|victim| Entitlement {
                cover: u32::MAX,
                class: self.runs[*victim].class,
            })
            .collect();
        let mut grows = true;
        for flavor in flavors {
            let column = flavor.and_then(|flavor| self.kinds.column(flavor));
            let (before, runs) = self.standing_at(flavor, planned, done, None);
            let old = Covers::new(&self.book.now, column, &before);
            for (place, victim) in one.victims.iter().enumerate() {
                if let Some(at) = runs.iter().position(|run| run == victim) {
                    theirs[place] = theirs[place].min(old.of(at, self.runs[*victim].class));
                }
            }
            let (after, runs) = self.standing_at(flavor, planned, done, Some(place));
            let new = Covers::new(&self.book.now, column, &after);
            let at = runs.iter().position(|at| *at == one.run)?;
            mine = mine.min(new.of(at, run.class));
            grows &= entitlement::grows(
                &entitlement::standing(&old, &before),
                &entitlement::standing(&new, &after),
            );
        }
        let order = theirs.iter().all(|victim| *victim < mine);
        let outside = matches!(one.mode, Mode::Due | Mode::Slice);
        (outside || (order && grows)).then_some((mine, theirs))
    }

    /// Who holds a flavor once the transactions in `done`, and `with`, are applied, and no other.
    fn standing_at(
        &self,
        flavor: Option<u32>,
        planned: &[Planned],
        done: &[bool],
        with: Option<usize>,
    ) -> (Vec<Holder>, Vec<usize>) {
        let applied = |place: usize| done[place] || with == Some(place);
        let mut there: Vec<bool> = self
            .runs
            .iter()
            .map(|run| !run.gone && !run.ending)
            .collect();
        for (place, one) in planned.iter().enumerate() {
            there[one.run] = applied(place);
            one.victims
                .iter()
                .for_each(|victim| there[*victim] = !applied(place));
        }
        let mut found = (Vec::new(), Vec::new());
        for (place, run) in self
            .runs
            .iter()
            .enumerate()
            .filter(|(place, _)| there[*place])
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
}
