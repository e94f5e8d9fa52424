//! What was planned early in a pass is checked against how the pass ends: starts that came later count, those that were taken back do not (docs/SCHEDULING.md, Preemption). What does not hold
//! any more is left to the next pass. Does NOT plan anything.
use std::collections::BTreeMap;

use super::Mode;
use crate::scheduler::engine::entitlement::{self, Covers, Holder};
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::stuck::Stuck;
use crate::scheduler::plan::Entitlement;

/// By flavor: who holds it, by places among the runs, and what covers them, once all that was checked so far is applied.
type Known = BTreeMap<Option<u32>, (Vec<Holder>, Vec<usize>, Covers)>;

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
        let mut known = Known::new();
        let mut done: Vec<bool> = vec![false; planned.len()];
        for (place, one) in planned.iter().enumerate() {
            match self.still_holds(&planned, &done, place, &mut known) {
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
        known: &mut Known,
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
        let (mut grows, mut then) = (true, Vec::new());
        for flavor in flavors {
            let column = flavor.and_then(|flavor| self.kinds.column(flavor));
            let at = |with| {
                let (holders, runs) = self.standing_at(flavor, planned, done, with);
                let covers = Covers::new(&self.book.now, column, &holders);
                (holders, runs, covers)
            };
            // As the one before left it.
            let (before, runs, old) = &*known.entry(flavor).or_insert_with(|| at(None));
            for (place, victim) in one.victims.iter().enumerate() {
                if let Some(at) = runs.iter().position(|run| run == victim) {
                    theirs[place] = theirs[place].min(old.of(at, self.runs[*victim].class));
                }
            }
            let (after, runs, new) = at(Some(place));
            let at = runs.iter().position(|at| *at == one.run)?;
            mine = mine.min(new.of(at, run.class));
            grows &= entitlement::grows(
                &entitlement::standing(old, before),
                &entitlement::standing(&new, &after),
            );
            then.push((flavor, (after, runs, new)));
        }
        let order = theirs.iter().all(|victim| *victim < mine);
        let outside = matches!(one.mode, Mode::Due | Mode::Slice);
        if !(outside || (order && grows)) {
            return None;
        }
        for victim in &one.victims {
            let charges = &self.runs[*victim].charges;
            if charges.is_empty() {
                known.remove(&None);
            }
            for (flavor, _) in charges.iter() {
                known.remove(&Some(*flavor));
            }
        }
        known.extend(then);
        Some((mine, theirs))
    }

    /// Runs that may hold some of a flavor, ascending; `None`: all, also those that hold none of any.
    pub(super) fn places_of(&self, flavor: Option<u32>) -> Vec<usize> {
        match flavor.and_then(|one| self.of_flavor.get(one as usize)) {
            Some(places) => places.iter().map(|place| *place as usize).collect(),
            None => (0..self.runs.len()).collect(),
        }
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
        // Of the others it is known.
        let mut there: BTreeMap<usize, bool> = BTreeMap::new();
        for (place, one) in planned.iter().enumerate() {
            there.insert(one.run, applied(place));
            for victim in &one.victims {
                there.insert(*victim, !applied(place));
            }
        }
        let mut found = (Vec::new(), Vec::new());
        for place in self.places_of(flavor) {
            let run = &self.runs[place];
            let known = there.get(&place).copied();
            if !known.unwrap_or(!run.gone && !run.ending) {
                continue;
            }
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
