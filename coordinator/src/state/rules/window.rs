//! Where the windows of budgets begin (docs/QUOTAS.md, Budgets): months of a zone, and hours. Proleptic Gregorian calendar, integers only. Does NOT know any zone:
//! what its clock shows came with the command that made the budget.
use mlctl_proto::units::UtcMs;

use crate::state::records::{Window, Zone};

/// An hour, milliseconds.
pub const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// The longest rolling window, days.
pub const ROLLING_DAYS_MAX: u32 = 366;
/// All time beyond this, in either direction, is one piece: the year 9999, about. Only a clock that is wrong shows it.
const FAR_MS: i64 = 253_000_000_000_000;

impl Zone {
    /// The zone whose clock shows UTC.
    pub fn utc() -> Self {
        Self {
            name: "UTC".into(),
            offsets: vec![(0, 0)],
        }
    }

    /// Milliseconds that its clock is ahead of UTC at an instant.
    pub fn offset_ms(&self, at_ms: UtcMs) -> i64 {
        let passed = self.offsets.partition_point(|(from, _)| *from <= at_ms);
        let entry = self.offsets.get(passed.saturating_sub(1));
        entry.map_or(0, |(_, seconds)| i64::from(*seconds) * 1_000)
    }

    /// The instant at which its clock shows `local`. Where the clock jumps over it, the instant of the jump or soon after; where it is shown twice, the
    /// first time.
    fn instant(&self, local: i64) -> UtcMs {
        let mut best = None;
        for (_, seconds) in &self.offsets {
            let at = local.saturating_sub(i64::from(*seconds) * 1_000);
            if at.saturating_add(self.offset_ms(at)) >= local {
                best = Some(best.map_or(at, |one: i64| one.min(at)));
            }
        }
        best.unwrap_or_else(|| local.saturating_sub(self.offset_ms(local)))
    }
}

/// Days from 1970-01-01 to the first of a month; months count from 0.
pub fn days_to(year: i64, month0: i64) -> i64 {
    // Years begin in March, so that the day that leap years have more is their last.
    let shifted = month0 < 2;
    let year = if shifted { year - 1 } else { year };
    let month = if shifted { month0 + 10 } else { month0 - 2 };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5;
    let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + days - 719_468
}

/// Year and month, from 0, of a day since 1970-01-01.
pub fn month_of(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let years = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let month = (5 * of_year + 2) / 153;
    let year = years + era * 400;
    match month < 10 {
        true => (year, month + 2),
        false => (year + 1, month - 10),
    }
}

/// The first instant of the month `months` after that of `at_ms`, as the zone's clock has it.
fn month_begin(zone: &Zone, at_ms: UtcMs, months: i64) -> UtcMs {
    let at = at_ms.clamp(-FAR_MS, FAR_MS);
    let local = at + zone.offset_ms(at);
    let (year, month) = month_of(local.div_euclid(DAY_MS));
    let count = year * 12 + month + months;
    let (year, month) = (count.div_euclid(12), count.rem_euclid(12));
    zone.instant(days_to(year, month) * DAY_MS)
}

/// When the piece of time that `at_ms` is in begins, and when the next one does: a month, or an hour. What is used in it counts, and stops counting,
/// together.
pub fn piece(window: &Window, at_ms: UtcMs) -> (UtcMs, UtcMs) {
    if at_ms >= FAR_MS {
        return (FAR_MS, i64::MAX);
    }
    if at_ms < -FAR_MS {
        return (i64::MIN, -FAR_MS);
    }
    match window {
        Window::Rolling(_) => {
            let begin = at_ms.div_euclid(HOUR_MS) * HOUR_MS;
            (begin, begin + HOUR_MS)
        }
        Window::Month(zone) => {
            let begin = month_begin(zone, at_ms, 0);
            let end = month_begin(zone, at_ms, 1);
            if at_ms >= end {
                // The clock showed the first of the month, and was then set back before it.
                return (end, month_begin(zone, end.saturating_add(DAY_MS), 1));
            }
            // The same from the other side.
            match begin > at_ms {
                true => (month_begin(zone, at_ms, -1), begin),
                false => (begin, end),
            }
        }
    }
}

/// Beginnings of the pieces that count together with the one that begins at `begin`, from the first of them on.
pub fn counts_from(window: &Window, begin: UtcMs) -> UtcMs {
    match window {
        Window::Month(_) => begin,
        Window::Rolling(days) => {
            let hours = i64::from((*days).clamp(1, ROLLING_DAYS_MAX)) * 24;
            begin.saturating_sub((hours - 1) * HOUR_MS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> Zone {
        // 2026: from 29 March, 1:00 UTC, to 25 October, 1:00 UTC, two hours.
        Zone {
            name: "Europe/Berlin".into(),
            offsets: vec![
                (0, 3_600),
                (1_774_746_000_000, 7_200),
                (1_792_890_000_000, 3_600),
            ],
        }
    }

    #[test]
    fn months_begin_when_the_zones_clock_says_so() {
        for (zone, at, begin, end) in [
            // 2026-02-10 in UTC, 1 February to 1 March.
            (
                Zone::utc(),
                1_770_681_600_000_i64,
                1_769_904_000_000,
                1_772_323_200_000,
            ),
            // The first and the last millisecond of a month.
            (
                Zone::utc(),
                1_769_904_000_000,
                1_769_904_000_000,
                1_772_323_200_000,
            ),
            (
                Zone::utc(),
                1_772_323_199_999,
                1_769_904_000_000,
                1_772_323_200_000,
            ),
            // Before 1970, and 29 February 2024.
            (Zone::utc(), -1, -2_678_400_000, 0),
            (
                Zone::utc(),
                1_709_208_000_000,
                1_706_745_600_000,
                1_709_251_200_000,
            ),
            // April in Berlin begins at 22:00 UTC, March did at 23:00.
            (
                berlin(),
                1_774_989_000_000,
                1_772_319_600_000,
                1_774_994_400_000,
            ),
            (
                berlin(),
                1_774_994_400_000,
                1_774_994_400_000,
                1_777_586_400_000,
            ),
        ] {
            let found = piece(&Window::Month(zone), at);
            assert_eq!(found, (begin, end), "{at}");
        }
    }

    #[test]
    fn months_follow_each_other_without_a_gap_wherever_clocks_jump() {
        // Over midnight of the first of a month, forwards and back.
        let jump = |seconds| Zone {
            name: "x".into(),
            offsets: vec![(0, 0), (1_769_904_000_000, seconds)],
        };
        for zone in [
            Zone::utc(),
            berlin(),
            jump(3_600),
            jump(-3_600),
            jump(-86_400),
            jump(86_400),
        ] {
            let window = Window::Month(zone);
            let mut at = 1_735_689_600_000;
            for _ in 0..40 {
                let (begin, end) = piece(&window, at);
                assert!(begin <= at && at < end, "{begin} {at} {end}: {window:?}");
                assert!((end - begin) / DAY_MS <= 32, "{window:?}");
                assert!(piece(&window, end).0 >= end - DAY_MS, "{window:?}");
                at = end;
            }
        }
    }

    #[test]
    fn every_day_of_400_years_is_in_its_month() {
        let mut day = 0;
        for year in 1970..2370 {
            for (month, length) in [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
                .into_iter()
                .enumerate()
            {
                let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
                let length = length + i64::from(leap && month == 1);
                let month = i64::try_from(month).expect("at most 11");
                assert_eq!(days_to(year, month), day, "{year} {month}");
                assert_eq!(month_of(day), (year, month));
                assert_eq!(month_of(day + length - 1), (year, month));
                day += length;
            }
        }
    }

    #[test]
    fn hours_count_for_as_many_days_as_were_said() {
        let window = Window::Rolling(2);
        assert_eq!(piece(&window, 3_600_000), (3_600_000, 7_200_000));
        assert_eq!(piece(&window, 3_599_999), (0, 3_600_000));
        assert_eq!(piece(&window, -1), (-3_600_000, 0));
        assert_eq!(counts_from(&window, 100 * HOUR_MS), 53 * HOUR_MS);
        for window in [window, Window::Month(berlin())] {
            for at in [
                i64::MIN,
                -FAR_MS - 1,
                -FAR_MS,
                FAR_MS - 1,
                FAR_MS,
                i64::MAX - 1,
            ] {
                let (begin, end) = piece(&window, at);
                assert!(begin <= at && at < end, "{at}: {begin} {end}");
            }
        }
    }
}
