//! How entitled jobs are to what they hold (docs/SCHEDULING.md, Preemption), the same for a plan and when it is applied: jobs fill the nominal of each team on the path to the root in the order of what covers them below, class and
//! start. Does NOT choose victims.
//!
//! A team above has no levels that a team far below has. So that a borrower never stands above an owner who is nearer to the root, what counts is how many levels do
//! *not* cover a job: `cover` is the depth of the tree less these. Of a flavor that no team of its tree names, no level covers it.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::quota::Ledger;
use crate::state::view::jobs::Class;

/// How entitled a job is to what it holds or wants: compared left to right, a borrower never stands above an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entitlement {
    /// Levels, from its team to the root, at which the team's nominal covers it.
    pub cover: u32,
    /// How urgent.
    pub class: Class,
}

/// Somebody who holds units of one flavor.
#[derive(Debug, Clone, Copy)]
pub struct Holder {
    /// Its team's place in the ledger.
    pub team: Option<usize>,
    /// Its class.
    pub class: Class,
    /// When it was started.
    pub start: UtcMs,
    /// Its submit and id, for ties.
    pub submit: (u64, JobId),
    /// What it holds, units.
    pub units: u64,
}

/// In which order holders fill a nominal: fewest misses below, most covers below, class, start.
type Key = (u32, u32, u8, UtcMs, u64, JobId);

/// One flavor's holders, and what covers them.
#[derive(Debug, Clone, Default)]
pub struct Covers {
    depth: u32,
    column: Option<usize>,
    /// By holder.
    misses: Vec<u32>,
    /// By team: what covered holders use of its nominal up to and including that key, ascending.
    filled: Vec<Vec<(Key, u64)>>,
}

/// The levels of the deepest team.
pub fn depth(ledger: &Ledger) -> u32 {
    let depths = (0..ledger.teams()).map(|team| ledger.path(team).count());
    u32::try_from(depths.max().unwrap_or(1)).unwrap_or(u32::MAX)
}

fn urgency(class: Class) -> u8 {
    3 - class as u8
}

impl Covers {
    /// Of these holders of the flavor in that column; `None`: no team names it.
    pub fn new(ledger: &Ledger, column: Option<usize>, holders: &[Holder]) -> Self {
        let depth = depth(ledger);
        let mut covers = Self {
            depth,
            column,
            misses: vec![0; holders.len()],
            filled: vec![Vec::new(); ledger.teams()],
        };
        let mut here: Vec<Vec<usize>> = vec![Vec::new(); ledger.teams()];
        let mut covered_below = vec![0_u32; holders.len()];
        for (at, holder) in holders.iter().enumerate() {
            let governed = holder
                .team
                .filter(|team| column.is_some_and(|one| ledger.nominal_at(*team, one).is_some()));
            match governed {
                Some(team) => here[team].push(at),
                None => covers.misses[at] = depth,
            }
        }
        for team in deepest_first(ledger) {
            let mut all = std::mem::take(&mut here[team]);
            let nominal = column
                .and_then(|one| ledger.nominal_at(team, one))
                .unwrap_or(0);
            covers.fill(team, nominal, holders, &mut all, &mut covered_below);
            if let Some(parent) = ledger.parent_of(team) {
                here[parent].append(&mut all);
            }
        }
        covers
    }

    fn fill(
        &mut self,
        team: usize,
        nominal: u64,
        holders: &[Holder],
        all: &mut [usize],
        below: &mut [u32],
    ) {
        let key = |at: usize, misses: &[u32], below: &[u32]| -> Key {
            let holder = &holders[at];
            let (submit, id) = holder.submit;
            (
                misses[at],
                u32::MAX - below[at],
                urgency(holder.class),
                holder.start,
                submit,
                id,
            )
        };
        all.sort_by_cached_key(|at| key(*at, &self.misses, below));
        let mut used = 0_u64;
        for at in all.iter() {
            let with = used.saturating_add(holders[*at].units);
            if with <= nominal {
                used = with;
                self.filled[team].push((key(*at, &self.misses, below), used));
            }
            if with <= nominal {
                below[*at] += 1;
            } else {
                self.misses[*at] += 1;
            }
        }
    }

    /// How entitled a holder is.
    pub fn of(&self, at: usize, class: Class) -> Entitlement {
        let misses = self.misses.get(at).copied().unwrap_or(self.depth);
        Entitlement {
            cover: self.depth.saturating_sub(misses),
            class,
        }
    }

    /// How entitled one more would be, if it started now: it comes after all of its class.
    pub fn of_new(
        &self,
        ledger: &Ledger,
        team: Option<usize>,
        class: Class,
        units: u64,
    ) -> Entitlement {
        let governed = team
            .zip(self.column)
            .filter(|(team, column)| ledger.nominal_at(*team, *column).is_some());
        let Some((team, column)) = governed else {
            return Entitlement { cover: 0, class };
        };
        let (mut misses, mut below) = (0_u32, 0_u32);
        let last = (UtcMs::MAX, u64::MAX, JobId::new(u32::MAX, u64::MAX));
        for level in ledger.path(team) {
            let key: Key = (
                misses,
                u32::MAX - below,
                urgency(class),
                last.0,
                last.1,
                last.2,
            );
            let filled = &self.filled[level];
            let before = filled.partition_point(|(other, _)| *other <= key);
            let used = before.checked_sub(1).map_or(0, |at| filled[at].1);
            if used.saturating_add(units) <= ledger.nominal_at(level, column).unwrap_or(0) {
                below += 1;
            } else {
                misses += 1;
            }
        }
        Entitlement {
            cover: self.depth.saturating_sub(misses),
            class,
        }
    }
}

/// Units per entitlement, the highest first: what each preemption has to make larger, read in this order.
pub fn standing(covers: &Covers, holders: &[Holder]) -> Vec<(Entitlement, u64)> {
    let mut all: Vec<(Entitlement, u64)> = holders
        .iter()
        .enumerate()
        .map(|(at, one)| (covers.of(at, one.class), one.units))
        .collect();
    all.sort_unstable_by_key(|(entitlement, _)| std::cmp::Reverse(*entitlement));
    let mut sums: Vec<(Entitlement, u64)> = Vec::new();
    for (entitlement, units) in all {
        match sums.last_mut() {
            Some((last, sum)) if *last == entitlement => *sum = sum.saturating_add(units),
            _ => sums.push((entitlement, units)),
        }
    }
    sums
}

/// Whether `after` stands above `before`, read from the highest entitlement down.
pub fn grows(before: &[(Entitlement, u64)], after: &[(Entitlement, u64)]) -> bool {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        match (old.next(), new.next()) {
            (None, None) | (Some(_), None) => return false,
            (None, Some(_)) => return true,
            (Some(one), Some(other)) if one == other => {}
            // The first that differs decides: a higher entitlement, or more of the same.
            (Some(one), Some(other)) => return other > one,
        }
    }
}

fn deepest_first(ledger: &Ledger) -> Vec<usize> {
    let mut teams: Vec<usize> = (0..ledger.teams()).collect();
    teams.sort_unstable_by_key(|team| (std::cmp::Reverse(ledger.path(*team).count()), *team));
    teams
}
