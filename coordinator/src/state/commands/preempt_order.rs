//! The order of entitlements, when a preemption is applied (docs/SCHEDULING.md, Preemption): the one for whom others end is strictly more entitled
//! afterwards than each of them before, and what is held by entitlement, read from the highest down, grows. So between arrivals, ends and changes of
//! settings there are finitely many. Does NOT look at places, quotas or time.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::start_attempts::Placement;
use super::start_quota::{Units, held_by, units_of};
use crate::state::State;
use crate::state::records::{AllocationPhase, Attempt, Job};
use crate::state::rules::entitlement::{Covers, Entitlement, Holder, grows, standing};
use crate::state::rules::quota::Ledger;
use crate::state::rules::taking::{EVICTIONS_MAX, evictions};
use crate::state::view::amounts::GPU;
use crate::state::view::jobs::Class;
use crate::state::view::teams::Flavor;

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// An attempt that goes on.
    Attempt(JobId, Epoch),
    /// A job for which devices are kept, or are to be.
    Waits(JobId),
}

/// One that counts, with what it holds.
struct Claimant {
    who: Who,
    team: Option<usize>,
    class: Class,
    start: UtcMs,
    submit: (u64, JobId),
    units: Units,
    /// Of some device no team has a word, or it has none: nothing covers that.
    uncovered: bool,
}

/// Whether the order holds for a job on these places, once these attempts are gone.
///
/// # Errors
/// Which does not hold.
pub(super) fn check(
    state: &State,
    (job, seats): (&Job, &[Placement]),
    leaving: &[Arc<Attempt>],
    now_ms: UtcMs,
) -> Result<(), String> {
    let ledger = state.ledger();
    let before = claimants(state, &ledger, now_ms);
    let goes = |one: &Claimant| {
        let mut leaving = leaving.iter();
        leaving.any(|gone| one.who == Who::Attempt(gone.job, gone.epoch))
    };
    let (gone, mut after): (Vec<&Claimant>, Vec<&Claimant>) =
        before.iter().partition(|one| goes(one));
    let units = units_of(state, seats);
    let devices = seats.iter().map(|seat| seat.devices.len());
    let mine = claimant(
        &ledger,
        Who::Waits(job.id),
        job,
        now_ms,
        (units, devices.sum()),
    );
    after.push(&mine);
    let all: Vec<&Claimant> = before.iter().collect();
    let flavors: BTreeSet<&Flavor> = (gone.iter().chain([&&mine]))
        .flat_map(|one| one.units.keys())
        .collect();
    let tables = |all: &[&Claimant]| -> Tables {
        let flavors = flavors.iter();
        flavors
            .map(|flavor| ((*flavor).clone(), Table::new(&ledger, all, flavor)))
            .collect()
    };
    let (old, new) = (tables(&all), tables(&after));
    let wins = entitlement(&new, &mine);
    for victim in gone {
        check_victim(state, (entitlement(&old, victim), victim), wins, now_ms)?;
    }
    let gains = |flavor: &Flavor| {
        let (Some(old), Some(new)) = (old.get(flavor), new.get(flavor)) else {
            return false;
        };
        grows(
            &standing(&old.covers, &old.holders),
            &standing(&new.covers, &new.holders),
        )
    };
    if mine.units.keys().all(gains) {
        return Ok(());
    }
    Err("nothing would be gained by it".into())
}

fn check_victim(
    state: &State,
    (loses, victim): (Entitlement, &Claimant),
    wins: Entitlement,
    now_ms: UtcMs,
) -> Result<(), String> {
    let id = victim.submit.1;
    if loses >= wins {
        return Err(format!("job {id} is as entitled to what it holds, or more"));
    }
    let marks = state.job(id).map(|job| &job.marks);
    let often = marks.map_or(0, |marks| evictions(&marks.evicted_ms, now_ms));
    if often >= EVICTIONS_MAX && loses.cover >= wins.cover {
        return Err(format!(
            "job {id} was ended for others {often} times within a day"
        ));
    }
    Ok(())
}

/// Attempts that go on, and jobs for which devices are kept.
fn claimants(state: &State, ledger: &Ledger, now_ms: UtcMs) -> Vec<Claimant> {
    let mut found = Vec::new();
    for attempt in state.lasting_attempts() {
        let Some(job) = state.job(attempt.job) else {
            continue;
        };
        let open = attempt.allocations.iter();
        let open = open.filter(|one| one.phase != AllocationPhase::Ended);
        let held = (
            held_by(state, attempt),
            open.map(|one| one.devices.len()).sum(),
        );
        let who = Who::Attempt(attempt.job, attempt.epoch);
        found.push(claimant(ledger, who, job, attempt.started_ms, held));
    }
    for hold in state.holds() {
        let Some(job) = state.job(hold.job) else {
            continue;
        };
        let kept = (state.units_held(hold), hold.devices().count());
        found.push(claimant(ledger, Who::Waits(job.id), job, now_ms, kept));
    }
    found
}

fn claimant(
    ledger: &Ledger,
    who: Who,
    job: &Job,
    start: UtcMs,
    (units, devices): (Units, usize),
) -> Claimant {
    let covered = units.values().copied().fold(0, u64::saturating_add);
    let devices = u64::try_from(devices).unwrap_or(u64::MAX);
    Claimant {
        who,
        team: ledger.team(&job.team),
        class: job.turn.class.into(),
        start,
        submit: (job.submit_index, job.id),
        uncovered: devices == 0 || covered < devices.saturating_mul(GPU),
        units,
    }
}

/// As entitled as it is to that flavor to which it is least.
fn entitlement(tables: &Tables, one: &Claimant) -> Entitlement {
    let class = one.class;
    let mut least = Entitlement {
        cover: if one.uncovered { 0 } else { u32::MAX },
        class,
    };
    for table in one.units.keys().filter_map(|flavor| tables.get(flavor)) {
        if let Some(at) = table.who.iter().position(|who| *who == one.who) {
            least = least.min(table.covers.of(at, class));
        }
    }
    least
}

type Tables = BTreeMap<Flavor, Table>;

/// Who holds a flavor, and what covers them.
struct Table {
    who: Vec<Who>,
    holders: Vec<Holder>,
    covers: Covers,
}

impl Table {
    fn new(ledger: &Ledger, all: &[&Claimant], flavor: &Flavor) -> Self {
        let (mut who, mut holders) = (Vec::new(), Vec::new());
        for one in all {
            let Some(units) = one.units.get(flavor).copied() else {
                continue;
            };
            who.push(one.who);
            holders.push(Holder {
                team: one.team,
                class: one.class,
                start: one.start,
                submit: one.submit,
                units,
            });
        }
        let covers = Covers::new(ledger, ledger.column_of(flavor), &holders);
        Self {
            who,
            holders,
            covers,
        }
    }
}
