//! Who may be ended so that others get its devices, beside the order of entitlements (docs/SCHEDULING.md, Preemption): after its protected time, as a
//! guest, after its slice; what protects an attempt; how long it is given to end. A plan and apply ask the same. Does NOT choose anybody.
use mlctl_proto::units::UtcMs;

use crate::state::records::Job;
use crate::state::view::SpecFacts;
use crate::state::view::jobs::{Class, Footing};
use crate::state::view::policy::SchedSettings;

/// Why somebody has to give up devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Taken {
    /// Its team borrowed what another takes back, or is entitled to less.
    Entitlement,
    /// Its protected time is over, and a reservation is due.
    Overtime,
    /// It was let in as a guest, and a reservation is due.
    Guest,
    /// `las`: its quantum is over.
    Slice,
    /// It runs on more nodes than it needs: these go first.
    Surplus,
}

/// After so long an eviction is forgotten, milliseconds.
pub const EVICTION_MS: u64 = 24 * 3_600_000;
/// After so many of them only somebody whom more levels cover may evict.
pub const EVICTIONS_MAX: usize = 3;
/// For whom others ended, and who is over within so long, milliseconds, was not worth it.
pub const VAIN_MS: u64 = 10 * 60_000;
/// So long nobody is ended for it then, milliseconds.
pub const COOLDOWN_MS: u64 = 3_600_000;
/// A running attempt may lose so much work at most when it is sliced, milliseconds.
pub const SLICE_LOSS_MS_MAX: u64 = 600_000;

/// On which grounds devices are taken in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grounds {
    /// The order of entitlements.
    Order,
    /// Time that is over: overtime, guests.
    Due,
    /// `las`.
    Slice,
}

impl Taken {
    /// Which they are.
    pub fn grounds(self) -> Grounds {
        match self {
            Self::Entitlement | Self::Surplus => Grounds::Order,
            Self::Overtime | Self::Guest => Grounds::Due,
            Self::Slice => Grounds::Slice,
        }
    }

    /// One sentence for people.
    pub fn why(self) -> &'static str {
        match self {
            Self::Entitlement => "a job that is entitled to more gets its devices",
            Self::Overtime => "its protected time is over, and a job that waits gets its devices",
            Self::Guest => "it was let in before others for a while, which is over",
            Self::Slice => "its slice is over, and others have their turn",
            Self::Surplus => "it ran on more nodes than it needs, and others need them",
        }
    }
}

/// `later` milliseconds after `at`.
pub fn after(at: UtcMs, later: u64) -> UtcMs {
    at.saturating_add(i64::try_from(later).unwrap_or(i64::MAX))
}

/// Milliseconds from `since` to `now`, 0 if that is ahead.
pub fn elapsed(since: UtcMs, now: UtcMs) -> u64 {
    u64::try_from(now.saturating_sub(since)).unwrap_or(0)
}

/// The settings of a class.
pub fn of_class<T: Copy>(values: &[T; 4], class: Class) -> T {
    let [low, normal, high, critical] = *values;
    match class {
        Class::Low => low,
        Class::Normal => normal,
        Class::High => high,
        Class::Critical => critical,
    }
}

/// From when on a due reservation may take the devices of an attempt: a guest's time, or the protected time of its class if it has no limit. `None`: its
/// limit ends it.
pub fn takeable_from(
    settings: &SchedSettings,
    class: Class,
    (footing, limit_ms): (Footing, Option<u64>),
    started_ms: UtcMs,
) -> Option<UtcMs> {
    match (limit_ms, footing) {
        (_, Footing::Guest(until)) => Some(until),
        (Some(_), Footing::Regular) => None,
        (None, Footing::Regular) => Some(after(
            started_ms,
            of_class(&settings.default_time_ms, class),
        )),
    }
}

/// How often others took its devices lately.
pub fn evictions(evicted_ms: &[UtcMs], now_ms: UtcMs) -> usize {
    let lately = |time: &&UtcMs| elapsed(**time, now_ms) < EVICTION_MS;
    evicted_ms.iter().filter(lately).count()
}

/// Whether a slice is over, and costs little: a durable checkpoint of this attempt that is recent, or its owner said that it may be ended.
pub fn slice_is_over(
    settings: &SchedSettings,
    (started_ms, saved_ms): (UtcMs, Option<UtcMs>),
    preemptible: bool,
    now_ms: UtcMs,
) -> bool {
    let fresh = |at: UtcMs| at >= started_ms && elapsed(at, now_ms) <= SLICE_LOSS_MS_MAX;
    let costs_little = settings.always_saved || preemptible || saved_ms.is_some_and(fresh);
    elapsed(started_ms, now_ms) >= settings.las_quantum_ms && costs_little
}

/// Between the notice that others get its devices and its end, milliseconds: what its job asks for, up to what its class has, which is also what
/// who asks for nothing has.
pub fn grace_ms(settings: &SchedSettings, facts: Option<&SpecFacts>, class: Class) -> u64 {
    let most = of_class(&settings.grace_ms, class);
    let asked = facts.and_then(|facts| facts.grace_ms);
    asked.map_or(most, |asked| asked.min(most))
}

/// Until when nobody may be ended for a job by the order of entitlements, 0: anybody may. One that starts again by itself after a failure never has
/// that right.
pub fn no_preempt_until(job: &Job) -> UtcMs {
    if job.retries.requeues > 0 {
        return UtcMs::MAX;
    }
    job.marks.no_preempt_until_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_limit_is_never_in_overtime_and_a_guest_stays_as_long_as_it_was_let_in() {
        let settings = SchedSettings::default();
        let from = |footing, limit| takeable_from(&settings, Class::Normal, (footing, limit), 5);
        assert_eq!(from(Footing::Regular, Some(9)), None);
        assert_eq!(from(Footing::Regular, None), Some(5 + 24 * 3_600_000));
        assert_eq!(from(Footing::Guest(77), Some(9)), Some(77));
    }

    #[test]
    fn a_slice_needs_its_quantum_and_a_checkpoint_that_is_fresh() {
        let settings = SchedSettings::default();
        let quantum = i64::try_from(settings.las_quantum_ms).expect("short");
        let over = |saved, preemptible, now| slice_is_over(&settings, (0, saved), preemptible, now);
        assert!(!over(Some(quantum), true, quantum - 1));
        assert!(over(Some(quantum - 1), false, quantum));
        assert!(over(None, true, quantum));
        assert!(!over(None, false, quantum));
        assert!(
            !over(Some(1), false, 10 * quantum),
            "too much would be lost"
        );
    }

    #[test]
    fn evictions_are_forgotten_after_a_day() {
        let day = 24 * 3_600_000;
        assert_eq!(evictions(&[0, 5, day], day), 2);
        assert_eq!(evictions(&[0, 5, day], day + 5), 1);
    }
}
