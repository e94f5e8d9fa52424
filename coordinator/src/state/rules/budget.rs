//! Budgets (docs/QUOTAS.md, Budgets): what an attempt commits at every level that has one, what of it is used and what is given back. Use never exceeds a budget:
//! what runs has been committed before. Does NOT say what becomes of a job that no budget covers.
//!
//! Amounts are unit-milliseconds, 7,000,000 for one GPU and one second, so that nothing is ever rounded. A stretch of time is split where a window's
//! pieces meet.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::window::{HOUR_MS, ROLLING_DAYS_MAX, counts_from, piece};
use crate::state::records::{Account, Budget, Charge, WhenExhausted, Window};

/// What is committed at once, milliseconds (docs/QUOTAS.md, Budgets: slice 1 h).
pub const SLICE_MS: i64 = 3_600_000;
/// A commitment is renewed when less than this is left of it, milliseconds: nobody may be there to do it for a while. A shorter one: when less than a
/// quarter of it is left.
const RENEWED_BEFORE_MS: i64 = 900_000;
/// Where no whole slice is left of a budget, what runs goes on by as little as this, milliseconds.
const SLICE_MS_MIN: i64 = 300_000;
/// Of a budget with `hold`, one part in so many is kept for jobs that had been started (docs/QUOTAS.md, Budgets: 5 %).
const RESERVE_PART: u64 = 20;
/// What was charged longer ago is not given back, milliseconds: the longest window.
const BACK_MS_MAX: i64 = ROLLING_DAYS_MAX as i64 * 24 * HOUR_MS;
/// Months of which it is remembered what was used, beside the present one.
const MONTHS_KEPT: usize = 3;

/// One level's budget of one flavor with what it has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// Whose.
    pub team: Arc<str>,
    /// What it allows.
    pub budget: Budget,
    /// What it has come to.
    pub account: Account,
}

/// Why a budget covers no more, with the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// The team of the level.
    pub team: Arc<str>,
    /// What would be committed in the window that is short, unit-milliseconds.
    pub needs: u64,
    /// What that window still allows, unit-milliseconds.
    pub left: u64,
    /// All that it allows, unit-milliseconds; less the reserve, if that is not for this one.
    pub limit: u64,
    /// What is to happen.
    pub when_exhausted: WhenExhausted,
}

/// Whether the last part of a budget with `hold` may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// It was never started: it may not.
    ToBegin,
    /// It was started before, or runs.
    ToGoOn,
}

/// Unit-milliseconds of a stretch of time.
pub fn amount(units: u64, from_ms: UtcMs, until_ms: UtcMs) -> u64 {
    let ms = u128::from(until_ms.saturating_sub(from_ms).max(0).unsigned_abs());
    u64::try_from(u128::from(units).saturating_mul(ms)).unwrap_or(u64::MAX)
}

/// The stretch by the pieces of a window, with what falls into each.
fn split(window: &Window, units: u64, from_ms: UtcMs, until_ms: UtcMs) -> Vec<(UtcMs, u64)> {
    let mut parts = Vec::new();
    let mut at = from_ms;
    while at < until_ms {
        let (begin, end) = piece(window, at);
        // Each step goes on: pieces end behind what they hold.
        let until = end.min(until_ms).max(at.saturating_add(1));
        if units > 0 {
            parts.push((begin, amount(units, at, until)));
        }
        at = until;
    }
    parts
}

impl Account {
    fn commit(&mut self, window: &Window, units: u64, from_ms: UtcMs, until_ms: UtcMs) {
        for (begin, amount) in split(window, units, from_ms, until_ms) {
            let sum = self.committed.entry(begin).or_default();
            *sum = sum.saturating_add(amount);
        }
    }

    fn take_back(&mut self, window: &Window, units: u64, from_ms: UtcMs, until_ms: UtcMs) {
        for (begin, amount) in split(window, units, from_ms, until_ms) {
            if let Some(sum) = self.committed.get_mut(&begin) {
                *sum = sum.saturating_sub(amount);
                if *sum == 0 {
                    self.committed.remove(&begin);
                }
            }
        }
    }

    /// What was used and committed in the window whose last piece begins at `begin`.
    fn counted(&self, window: &Window, begin: UtcMs) -> u64 {
        let range = counts_from(window, begin)..=begin;
        let both = self
            .used
            .range(range.clone())
            .chain(self.committed.range(range));
        both.map(|(_, amount)| *amount).fold(0, u64::saturating_add)
    }

    /// Forgets what counts no more.
    fn prune(&mut self, window: &Window, now_ms: UtcMs) {
        let (now, _) = piece(window, now_ms);
        match window {
            Window::Rolling(_) => {
                let first = counts_from(window, now);
                self.used = self.used.split_off(&first);
            }
            Window::Month(_) => {
                while self.used.len() > MONTHS_KEPT + 1
                    && self.used.keys().next().is_some_and(|first| *first < now)
                {
                    self.used.pop_first();
                }
            }
        }
    }
}

impl Book {
    /// What may be committed in all in one window.
    fn allowed(&self, asks: Asks) -> u64 {
        let limit = self.budget.limit;
        match (self.budget.when_exhausted, asks) {
            (WhenExhausted::Hold, Asks::ToBegin) => limit - limit / RESERVE_PART,
            _ => limit,
        }
    }

    /// What was used and committed in the window that `now_ms` is in, unit-milliseconds.
    pub fn counted(&self, now_ms: UtcMs) -> u64 {
        let (begin, _) = piece(&self.budget.window, now_ms);
        self.account.counted(&self.budget.window, begin)
    }

    /// What was used of it, unit-milliseconds.
    pub fn used(&self, now_ms: UtcMs) -> u64 {
        let (begin, _) = piece(&self.budget.window, now_ms);
        let range = counts_from(&self.budget.window, begin)..=begin;
        let used = self.account.used.range(range).map(|(_, amount)| *amount);
        used.fold(0, u64::saturating_add)
    }

    /// What a new job may still commit now, unit-milliseconds.
    pub fn left(&self, now_ms: UtcMs) -> u64 {
        let over = self.budget.until_ms != 0 && self.budget.until_ms <= now_ms;
        let allowed = if over { 0 } else { self.allowed(Asks::ToBegin) };
        allowed.saturating_sub(self.counted(now_ms))
    }

    /// Whether it covers `units` from one time until another, beside all that is committed.
    ///
    /// # Errors
    /// The first window that is short.
    pub fn covers(
        &self,
        units: u64,
        from_ms: UtcMs,
        until_ms: UtcMs,
        asks: Asks,
    ) -> Result<(), Exhausted> {
        let window = &self.budget.window;
        let refused = |needs, left, limit| Exhausted {
            team: self.team.clone(),
            needs,
            left,
            limit,
            when_exhausted: self.budget.when_exhausted,
        };
        let needs = amount(units, from_ms, until_ms);
        if self.budget.until_ms != 0 && until_ms > self.budget.until_ms {
            let left = amount(units, from_ms, self.budget.until_ms);
            return Err(refused(
                needs,
                left.min(needs.saturating_sub(1)),
                self.budget.limit,
            ));
        }
        let mut with = self.account.clone();
        with.commit(window, units, from_ms, until_ms);
        let (first, _) = piece(window, from_ms);
        let allowed = self.allowed(asks);
        // What begins later counts some of what this adds, too.
        let later = with
            .committed
            .range(first..)
            .chain(with.used.range(first..));
        for (begin, _) in later {
            let sum = with.counted(window, *begin);
            if sum > allowed {
                let before = self.account.counted(window, *begin);
                return Err(refused(
                    sum.saturating_sub(before),
                    allowed.saturating_sub(before),
                    allowed,
                ));
            }
        }
        Ok(())
    }
}

/// Commits `units` at all levels that have a budget, or at none, for as long as one slice, or as long as the job may run. What no budget with
/// `low_priority` covers is not committed there. Gives the charge of the attempt.
///
/// # Errors
/// The first level, from the bottom, that does not cover it.
pub fn begin(
    books: &mut [Book],
    units: u64,
    now_ms: UtcMs,
    (limit_ms, asks): (Option<u64>, Asks),
) -> Result<(UtcMs, Vec<String>), Exhausted> {
    let limit = limit_ms.map_or(SLICE_MS, |limit| i64::try_from(limit).unwrap_or(SLICE_MS));
    let until_ms = now_ms.saturating_add(limit.clamp(1, SLICE_MS));
    let at = covering(books, units, (now_ms, until_ms), asks)?;
    Ok((until_ms, commit_at(books, &at, units, (now_ms, until_ms))))
}

/// Places of the levels at which it is committed; those with `low_priority` that do not cover it are left out.
fn covering(
    books: &[Book],
    units: u64,
    (from_ms, until_ms): (UtcMs, UtcMs),
    asks: Asks,
) -> Result<Vec<usize>, Exhausted> {
    let mut at = Vec::new();
    for (place, book) in books.iter().enumerate() {
        match book.covers(units, from_ms, until_ms, asks) {
            Ok(()) => at.push(place),
            Err(_) if book.budget.when_exhausted == WhenExhausted::LowPriority => {}
            Err(exhausted) => return Err(exhausted),
        }
    }
    Ok(at)
}

fn commit_at(
    books: &mut [Book],
    at: &[usize],
    units: u64,
    (from_ms, until_ms): (UtcMs, UtcMs),
) -> Vec<String> {
    let mut names = Vec::new();
    for place in at {
        if let Some(book) = books.get_mut(*place) {
            book.account
                .commit(&book.budget.window, units, from_ms, until_ms);
            names.push(book.team.to_string());
        }
    }
    names
}

/// Moves what was used of a charge up to `now_ms` from what is committed to what is used; the rest of what is committed is given back.
/// Afterwards nothing is committed for it. `books`: the levels that have a budget now. What it used after `wasted_from_ms` is not charged, and
/// what was charged of that is given back (docs/QUOTAS.md, Budgets: what the infrastructure wasted).
pub fn settle(
    books: &mut [Book],
    charge: &mut Charge,
    now_ms: UtcMs,
    wasted_from_ms: Option<UtcMs>,
) {
    let now = now_ms.max(charge.from_ms);
    let end = wasted_from_ms.map_or(now, |wasted| wasted.min(now));
    for book in books {
        let window = book.budget.window.clone();
        let here = charge.at.iter().any(|team| **team == *book.team);
        let covered = match here {
            true => {
                book.account
                    .take_back(&window, charge.units, charge.from_ms, charge.until_ms);
                end.min(charge.until_ms)
            }
            false => charge.from_ms,
        };
        for (begin, amount) in split(&window, charge.units, charge.from_ms, covered) {
            let sum = book.account.used.entry(begin).or_default();
            *sum = sum.saturating_add(amount);
        }
        // What is settled already, and had been committed here as far as is known.
        let charged = here || charge.until_ms <= charge.from_ms;
        let back = if charged { end } else { charge.from_ms };
        // Older ones count in no window any more.
        let back = back.max(charge.from_ms.saturating_sub(BACK_MS_MAX));
        for (begin, amount) in split(&window, charge.units, back, charge.from_ms) {
            if let Some(sum) = book.account.used.get_mut(&begin) {
                *sum = sum.saturating_sub(amount);
            }
        }
        let beyond = amount(charge.units, covered.max(charge.from_ms), end);
        book.account.beyond = book.account.beyond.saturating_add(beyond);
        book.account.prune(&window, now_ms);
    }
    charge.from_ms = now;
    charge.until_ms = now;
    charge.at.clear();
}

/// Some of its devices are given back before the others: what they used is settled, and the others are covered up to when they were.
pub fn shrink(
    books: &mut [Book],
    charge: &mut Charge,
    units: u64,
    (now_ms, wasted_from_ms): (UtcMs, Option<UtcMs>),
) {
    let mut gone = Charge {
        units: units.min(charge.units),
        ..charge.clone()
    };
    let mut stays = Charge {
        units: charge.units.saturating_sub(units),
        ..charge.clone()
    };
    settle(books, &mut gone, now_ms, wasted_from_ms);
    if stays.units == 0 {
        settle(books, &mut stays, now_ms, None);
    }
    *charge = stays;
}

/// When a charge is to be renewed.
pub fn renew_at(charge: &Charge) -> UtcMs {
    let long = charge.until_ms.saturating_sub(charge.from_ms).max(0);
    charge
        .until_ms
        .saturating_sub(RENEWED_BEFORE_MS.min(long / 4))
}

/// Settles a charge and commits the next slice for it, or a shorter one where no more is left.
///
/// # Errors
/// The level that does not cover even that. The charge is settled all the same: nothing is committed for it any more.
pub fn renew(books: &mut [Book], charge: &mut Charge, now_ms: UtcMs) -> Result<(), Exhausted> {
    settle(books, charge, now_ms, None);
    let mut slice = SLICE_MS;
    loop {
        let until_ms = now_ms.saturating_add(slice);
        match covering(books, charge.units, (now_ms, until_ms), Asks::ToGoOn) {
            Ok(at) => {
                charge.at = commit_at(books, &at, charge.units, (now_ms, until_ms));
                charge.until_ms = until_ms;
                return Ok(());
            }
            Err(exhausted) if slice / 2 < SLICE_MS_MIN => return Err(exhausted),
            Err(_) => slice /= 2,
        }
    }
}

/// An account under another budget: what was used before counts for as long as it could, and what is committed is what these charges, each with its
/// units and its stretch of time, say.
pub fn carried_over(
    old: &Account,
    (was, is): (&Window, &Window),
    now_ms: UtcMs,
    open: impl Iterator<Item = (u64, UtcMs, UtcMs)>,
) -> Account {
    let mut account = Account {
        beyond: old.beyond,
        ..Account::default()
    };
    for (begin, amount) in &old.used {
        let (_, end) = piece(was, *begin);
        let last = end.saturating_sub(1).min(now_ms).max(*begin);
        let place = if was == is { *begin } else { piece(is, last).0 };
        let sum = account.used.entry(place).or_default();
        *sum = sum.saturating_add(*amount);
    }
    for (units, from_ms, until_ms) in open {
        account.commit(is, units, from_ms, until_ms);
    }
    account.prune(is, now_ms);
    account
}

/// What open charges have committed, by the pieces of a window: what an account has to say (I10).
pub fn committed(
    window: &Window,
    open: impl Iterator<Item = (u64, UtcMs, UtcMs)>,
) -> BTreeMap<UtcMs, u64> {
    let mut account = Account::default();
    for (units, from_ms, until_ms) in open {
        account.commit(window, units, from_ms, until_ms);
    }
    account.committed
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
