//! Points in time as people write them: `2026-12-01T08:00:00Z`, or with how far the clock there is ahead: `2026-12-01T08:00+01:00`.
//! Knows no clock: what lies ahead is for the cluster to say.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::SpecError;
use crate::ids::clip;
use crate::units::UtcMs;

const DAY_S: i64 = 86_400;
/// Years that may be written.
const YEARS: std::ops::RangeInclusive<i64> = 2_000..=2_999;
/// How the TOML reader shows a date that was written without quotes.
const TOML_DATE: &str = "$__toml_private_datetime";

/// A point in time: whole seconds, from the year 2000 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// UTC milliseconds.
    pub fn ms(self) -> UtcMs {
        self.0.saturating_mul(1_000)
    }

    /// The whole second of these UTC milliseconds, rounded up; `None` outside of the years that may be written.
    pub fn from_ms(ms: UtcMs) -> Option<Self> {
        let second = ms.div_euclid(1_000) + i64::from(ms.rem_euclid(1_000) > 0);
        let (year, ..) = civil(second.div_euclid(DAY_S));
        YEARS.contains(&year).then_some(Self(second))
    }
}

/// Days since 1970-01-01 of a day of the Gregorian calendar. Years begin in March here, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A fixed number of digits at the beginning of `text`, and what follows.
fn digits(text: &str, count: usize) -> Option<(i64, &str)> {
    let (digits, rest) = text.split_at_checked(count)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| plain)?, rest))
}

/// Two digits behind a separator, at most `most`.
fn behind<'a>(text: &'a str, separator: &str, most: i64) -> Option<(i64, &'a str)> {
    let (number, rest) = digits(text.strip_prefix(separator)?, 2)?;
    (number <= most).then_some((number, rest))
}

/// Seconds since 1970 of a text.
fn seconds(text: &str) -> Option<i64> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = behind(rest, "-", 12)?;
    let (day, rest) = behind(rest, "-", 31)?;
    let date = days(year, month, day);
    // What there is not, such as the 30th of February, is another day.
    if !YEARS.contains(&year) || civil(date) != (year, month, day) {
        return None;
    }
    let separator = if rest.starts_with(' ') { " " } else { "T" };
    let (hour, rest) = behind(rest, separator, 23)?;
    let (minute, rest) = behind(rest, ":", 59)?;
    let (second, zone) = behind(rest, ":", 59).unwrap_or((0, rest));
    let ahead = match zone {
        "Z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let separator = if sign < 0 { "-" } else { "+" };
            let (hours, rest) = behind(zone, separator, 14)?;
            let (minutes, rest) = behind(rest, ":", 59)?;
            if !rest.is_empty() {
                return None;
            }
            sign * (hours * 3_600 + minutes * 60)
        }
    };
    Some(date * DAY_S + hour * 3_600 + minute * 60 + second - ahead)
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = seconds(text).and_then(|second| Self::from_ms(second.saturating_mul(1_000)));
        found.ok_or_else(|| {
            let shown = clip(text);
            format!(
                "is \"{shown}\"; write date, time and zone, such as \"2026-12-01T08:00:00Z\" or \"2026-12-01T08:00+01:00\""
            )
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(DAY_S));
        let second = self.0.rem_euclid(DAY_S);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a value as a point in time, also a date that was written without quotes, and writes it as text.
pub(super) fn rewrite(key: &str, value: &mut Value) -> Result<(), SpecError> {
    let bare = value.get(TOML_DATE).and_then(Value::as_str);
    let read = match bare.or_else(|| value.as_str()) {
        Some(text) => text.parse::<Moment>(),
        None => Err("needs a text such as \"2026-12-01T08:00:00Z\"".into()),
    };
    let moment = read.map_err(|why| SpecError::Value {
        key: key.into(),
        why,
    })?;
    *value = moment.to_string().into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_written_in_one_zone() {
        for (text, second, canonical) in [
            ("2000-01-01T00:00:00Z", 946_684_800, "2000-01-01T00:00:00Z"),
            (
                "2024-02-29T12:30:45Z",
                1_709_209_845,
                "2024-02-29T12:30:45Z",
            ),
            ("2026-12-01T08:00Z", 1_796_112_000, "2026-12-01T08:00:00Z"),
            (
                "2026-12-01 08:00+01:00",
                1_796_108_400,
                "2026-12-01T07:00:00Z",
            ),
            (
                "2026-12-31T23:30:00-05:30",
                1_798_779_600,
                "2027-01-01T05:00:00Z",
            ),
            (
                "2999-12-31T23:59:59Z",
                32_503_679_999,
                "2999-12-31T23:59:59Z",
            ),
        ] {
            let moment: Moment = text.parse().expect(text);
            assert_eq!(
                (moment.ms(), moment.to_string().as_str()),
                (second * 1_000, canonical),
                "{text}"
            );
            assert_eq!(canonical.parse(), Ok(moment));
        }
    }

    #[test]
    fn what_is_no_day_or_has_no_zone_is_refused() {
        for text in [
            "",
            "tomorrow",
            "2026-12-01",
            "2026-12-01T08:00",
            "2026-12-01T08:00:00",
            "2026-02-29T00:00Z",
            "2026-13-01T00:00Z",
            "2026-00-01T00:00Z",
            "2026-01-00T00:00Z",
            "2026-01-01T24:00Z",
            "2026-01-01T00:60Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00z",
            "2026-01-01T00:00+1:00",
            "2026-01-01T00:00+15:00",
            "2026-01-01T00:00:00.5Z",
            "1999-12-31T23:59:59Z",
            "3000-01-01T00:00:00Z",
            "99999-01-01T00:00Z",
            "-2026-01-01T00:00Z",
            "2999-12-31T23:59:59-01:00",
            "٢026-01-01T00:00Z",
            "2026-01-01T00:00ZZ",
        ] {
            let error = text.parse::<Moment>().expect_err(text);
            assert!(
                error.contains("2026-12-01T08:00:00Z") && error.len() < 250,
                "{error}"
            );
        }
    }

    #[test]
    fn every_day_comes_back() {
        for day in -200_000..400_000 {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
            assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
        }
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(
            Moment::from_ms(946_684_800_001).map(Moment::ms),
            Some(946_684_801_000)
        );
        assert_eq!(Moment::from_ms(i64::MAX), None);
        assert_eq!(Moment::from_ms(i64::MIN), None);
    }
}
