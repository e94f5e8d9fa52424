//! What attempts commit at budgets when they start, what they have used when they end, and how a commitment is renewed: the one place where accounts and
//! usage are written. The arithmetic is `rules::budget`'s and `rules::decay`'s.
use std::collections::BTreeMap;

use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::current::Current;
use crate::state::State;
use crate::state::change::Change;
use crate::state::records::{
    Allocation, AllocationPhase, Attempt, BudgetAccount, Charge, End, EndKind, Job, TeamUsage,
};
use crate::state::rules::Request;
use crate::state::rules::budget::{self, Asks, Book, Exhausted};
use crate::state::rules::decay;
use crate::state::rules::quota_text;
use crate::state::view::amounts::GPU;
use crate::state::view::teams::Flavor;

/// Commits what a start takes, by flavor, at every level with a budget of it: all of it, or nothing.
///
/// # Errors
/// The budget that does not cover it, with its numbers.
pub(super) fn begin(
    change: &mut Change,
    job: &Job,
    units: &BTreeMap<Flavor, u64>,
    now_ms: UtcMs,
) -> Result<Vec<Charge>, String> {
    let (charges, written) = begun(change.state(), job, units, now_ms)?;
    for (flavor, books) in written {
        store(change, books, &flavor);
    }
    Ok(charges)
}

/// Whether budgets would cover a start now. Commits nothing.
///
/// # Errors
/// The budget that does not cover it, with its numbers.
pub(super) fn would_cover(
    state: &State,
    job: &Job,
    units: &BTreeMap<Flavor, u64>,
    now_ms: UtcMs,
) -> Result<(), String> {
    begun(state, job, units, now_ms).map(drop)
}

/// What a start commits, with the books as they are after it.
type Begun = (Vec<Charge>, Vec<(Flavor, Vec<Book>)>);

fn begun(
    state: &State,
    job: &Job,
    units: &BTreeMap<Flavor, u64>,
    now_ms: UtcMs,
) -> Result<Begun, String> {
    let mut charges = Vec::new();
    let mut written = Vec::new();
    for (flavor, units) in units.iter().filter(|(_, units)| **units > 0) {
        let mut books = state.books(&job.team, flavor);
        if books.is_empty() {
            continue;
        }
        let begun = job.epoch_counter > 0;
        let asks = if begun { Asks::ToGoOn } else { Asks::ToBegin };
        let limit_ms = time_limit(state, job);
        let begun = budget::begin(&mut books, *units, now_ms, (limit_ms, asks));
        let (until_ms, at) = begun.map_err(|short| quota_text::exhausted(&short, flavor))?;
        charges.push(Charge {
            flavor: flavor.clone(),
            units: *units,
            from_ms: now_ms,
            until_ms,
            at,
        });
        written.push((flavor.clone(), books));
    }
    Ok((charges, written))
}

/// How long an attempt of a job may run, milliseconds.
fn time_limit(state: &State, job: &Job) -> Option<u64> {
    let spec = state.spec(&job.spec_hash)?;
    let spec = Request::spec(&spec.json).ok()?;
    spec.time.map(|time| time.ms())
}

fn store(change: &mut Change, books: Vec<Book>, flavor: &Flavor) {
    for book in books {
        change.put_account(BudgetAccount {
            team: book.team.to_string(),
            flavor: flavor.clone(),
            account: book.account,
        });
    }
}

/// An attempt is about to be written as `new`: what it has given back since `old` is charged, to budgets and as usage.
pub(in crate::state) fn ended(change: &mut Change, old: &Attempt, new: &mut Attempt) {
    let over = |allocation: &Allocation| allocation.phase == AllocationPhase::Ended;
    let held = old.allocations.iter().zip(&new.allocations);
    let gone = held.filter(|(was, is)| !over(was) && over(is));
    let gone: Vec<Allocation> = gone.map(|(_, is)| is.clone()).collect();
    if old.in_doubt != new.in_doubt && !new.closed() && !new.charges.is_empty() {
        doubted(change, new);
    }
    if gone.iter().all(|one| one.devices.is_empty()) {
        return;
    }
    let Some(job) = change.state().job(new.job).cloned() else {
        return;
    };
    let now_ms = change.state().now_ms();
    let unsaved_ms = change.state().unsaved_since(new);
    let closed = new.closed();
    let mut charges = std::mem::take(&mut new.charges);
    for allocation in &gone {
        // The infrastructure wasted it, not the job (docs/QUOTAS.md, Budgets).
        let lost = |end: &End| matches!(end.kind, EndKind::NodeLost | EndKind::DeviceError);
        let wasted_ms = allocation
            .end
            .as_ref()
            .filter(|end| lost(end))
            .map(|_| unsaved_ms);
        let until_ms = wasted_ms.map_or(now_ms, |wasted| wasted.min(now_ms));
        let devices = u64::try_from(allocation.devices.len()).unwrap_or(u64::MAX);
        let units = devices.saturating_mul(GPU);
        use_up(change, &job, units, (new.started_ms, until_ms));
        let by_flavor = change.state().units_of(allocation);
        for charge in &mut charges {
            let units = by_flavor.get(&charge.flavor).copied().unwrap_or(0);
            if units == 0 {
                continue;
            }
            let mut books = change.state().books(&job.team, &charge.flavor);
            budget::shrink(&mut books, charge, units, (now_ms, wasted_ms));
            store(change, books, &charge.flavor);
        }
    }
    if closed {
        // What its devices were called meanwhile does not matter: nothing stays committed.
        for charge in charges.iter_mut().filter(|charge| charge.units > 0) {
            let mut books = change.state().books(&job.team, &charge.flavor);
            budget::settle(&mut books, charge, now_ms, None);
            charge.units = 0;
            store(change, books, &charge.flavor);
        }
    }
    charges.retain(|charge| charge.units > 0);
    new.charges = charges;
}

/// Its node is Lost, or back: what it used is settled, and nothing is committed. Once it is back that is due at once.
fn doubted(change: &mut Change, attempt: &mut Attempt) {
    let Some(job) = change.state().job(attempt.job).cloned() else {
        return;
    };
    let now_ms = change.state().now_ms();
    for charge in &mut attempt.charges {
        let mut books = change.state().books(&job.team, &charge.flavor);
        budget::settle(&mut books, charge, now_ms, None);
        store(change, books, &charge.flavor);
    }
}

/// Adds to the usage of a job's team and of its owner there.
fn use_up(change: &mut Change, job: &Job, units: u64, span: (UtcMs, UtcMs)) {
    let half_life_ms = change.state().half_life_ms();
    for user in ["", job.owner_id.as_str()] {
        let usage = change.state().usage_of(&job.team, user);
        change.put_usage(TeamUsage {
            team: job.team.clone(),
            user: user.to_owned(),
            usage: decay::add_span(usage, units, span, half_life_ms),
        });
    }
}

/// Before the budgets of `flavor` change for a team and those in it: what open attempts have used is settled as it was committed, and what they hold is
/// to be committed anew at once.
pub(super) fn settle_below(change: &mut Change, team: &str, flavor: &Flavor, now_ms: UtcMs) {
    let open: Vec<Attempt> = (change.state().open_attempts_below(team))
        .map(|attempt| Attempt::clone(attempt))
        .collect();
    for mut attempt in open {
        let Some(job) = change.state().job(attempt.job).cloned() else {
            continue;
        };
        let held = crate::state::teams::open(&attempt);
        let units = held.filter_map(|one| change.state().units_of(one).get(flavor).copied());
        let units = units.fold(0, u64::saturating_add);
        let place = attempt
            .charges
            .iter()
            .position(|charge| charge.flavor == *flavor);
        if let Some(charge) = place.and_then(|place| attempt.charges.get_mut(place)) {
            let mut books = change.state().books(&job.team, flavor);
            budget::settle(&mut books, charge, now_ms, None);
            store(change, books, flavor);
        } else if units > 0 {
            attempt.charges.push(Charge {
                flavor: flavor.clone(),
                units,
                from_ms: now_ms,
                until_ms: now_ms,
                at: Vec::new(),
            });
        }
        change.put_attempt(attempt);
    }
}

/// Renews what an attempt has committed. Where a budget does not cover it any more it is ended, and its job waits; the tasks of an array end by
/// themselves, and no more of them start.
pub(super) fn renew(
    change: &mut Change,
    (job, epoch): (JobId, Epoch),
    now_ms: UtcMs,
) -> Result<(), Refusal> {
    let (Some(record), Some(mut attempt)) =
        (change.state().job(job).cloned(), change.attempt(job, epoch))
    else {
        return Ok(());
    };
    let mut short: Option<(Exhausted, Flavor)> = None;
    let mut charges = Vec::new();
    for mut charge in std::mem::take(&mut attempt.charges) {
        let mut books = change.state().books(&record.team, &charge.flavor);
        if books.is_empty() {
            // There is no such budget any more.
            continue;
        }
        if let Err(exhausted) = budget::renew(&mut books, &mut charge, now_ms) {
            charge.until_ms = 0;
            short.get_or_insert((exhausted, charge.flavor.clone()));
        }
        store(change, books, &charge.flavor);
        charges.push(charge);
    }
    attempt.charges = charges;
    let array = attempt.wave.is_some();
    change.put_attempt(attempt);
    let Some((short, flavor)) = short.filter(|_| !array) else {
        return Ok(());
    };
    let Some(mut current) = Current::load(change, job, epoch, now_ms) else {
        return Ok(());
    };
    if current.attempt.in_doubt || current.attempt.stopping {
        return Ok(());
    }
    let end = End {
        detail: quota_text::exhausted(&short, &flavor),
        ..End::of(EndKind::Preempted)
    };
    current.stop(change, end, None)?;
    current.store(change);
    Ok(())
}
