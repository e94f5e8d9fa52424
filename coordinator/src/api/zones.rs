//! What the clock of a time zone shows, and when: read from this machine's zone tables, once, when an admin sets a budget. It travels with the command, so
//! that every member counts the same months whatever its own tables say.
use std::path::Path;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::units::UtcMs;

use crate::state::records::Zone;
use crate::state::rules::window::{days_to, month_of};

/// Where the tables are.
const TABLES: &str = "/usr/share/zoneinfo";
/// A table, bytes; real ones have some thousand.
const TABLE_BYTES_MAX: u64 = 1 << 20;
/// Rules that go on for ever are written down for so many years.
const YEARS: i64 = 25;
const DAY_S: i64 = 86_400;

/// The zone of an IANA name as of `now_ms`. `UTC` needs no tables.
///
/// # Errors
/// There is none of that name here.
pub fn zone(name: &str, now_ms: UtcMs) -> Result<Zone, Refusal> {
    if matches!(name, "UTC" | "") {
        return Ok(Zone::utc());
    }
    let unknown = |why: &str| {
        let shown = clip(name);
        let why = format!(
            "the time zone `{shown}` {why}: use an IANA name such as Europe/Berlin, or UTC"
        );
        Refusal::new(Code::BadRequest, why)
    };
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+');
    let legal = |word: &str| !word.is_empty() && word.chars().all(part);
    if name.len() > 64 || !name.split('/').all(legal) {
        return Err(unknown("has no name that is one"));
    }
    let path = Path::new(TABLES).join(name);
    let length = std::fs::metadata(&path).map(|file| file.len());
    let bytes = match length {
        Ok(length) if length <= TABLE_BYTES_MAX => std::fs::read(&path).ok(),
        _ => None,
    };
    let bytes = bytes.ok_or_else(|| unknown(&format!("is not in {TABLES} of this coordinator")))?;
    let offsets =
        offsets(&bytes, now_ms).ok_or_else(|| unknown("has a table that cannot be read"))?;
    Ok(Zone {
        name: name.to_owned(),
        offsets,
    })
}

/// Changes of the clock from a year before `now_ms` on, and first what it showed then. Reads TZif, version 2 or later (RFC 8536).
fn offsets(bytes: &[u8], now_ms: UtcMs) -> Option<Vec<(UtcMs, i32)>> {
    let first = Header::read(bytes)?;
    let second = bytes.get(44 + first.length(4)?..)?;
    let header = Header::read(second)?;
    let body = second.get(44..)?;
    let times = body.get(..header.times.checked_mul(8)?)?;
    let rest = body.get(times.len()..)?;
    let kinds = rest.get(..header.times)?;
    let types = rest
        .get(header.times..)?
        .get(..header.types.checked_mul(6)?)?;
    let seconds = |kind: usize| {
        let entry = types.get(kind.checked_mul(6)?..)?.first_chunk::<4>()?;
        Some(i32::from_be_bytes(*entry))
    };
    let mut all = vec![(i64::MIN, seconds(0)?)];
    for (time, kind) in times.chunks_exact(8).zip(kinds) {
        let time = i64::from_be_bytes(time.try_into().ok()?);
        all.push((time.saturating_mul(1_000), seconds(usize::from(*kind))?));
    }
    let footer = second.get(44 + header.length(8)?..)?;
    let footer = std::str::from_utf8(footer).ok()?.trim_matches('\n');
    let last = all.last().map_or(i64::MIN, |(from, _)| *from);
    let (year, _) = month_of(now_ms.div_euclid(DAY_S * 1_000));
    let ahead = Rule::parse(footer).map(|rule| rule.changes(year - 1, YEARS));
    all.extend(
        ahead
            .unwrap_or_default()
            .into_iter()
            .filter(|(from, _)| *from > last),
    );
    let before = now_ms.saturating_sub(366 * DAY_S * 1_000);
    let passed = all.partition_point(|(from, _)| *from <= before).max(1);
    let mut wanted = all.split_off(passed - 1);
    if let Some(first) = wanted.first_mut() {
        first.0 = first.0.max(0);
    }
    wanted.dedup_by_key(|(from, _)| *from);
    Some(wanted)
}

/// The counts of a TZif block.
struct Header {
    times: usize,
    types: usize,
    chars: usize,
    leaps: usize,
    standard: usize,
    universal: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<44>()?;
        let known = head.starts_with(b"TZif") && matches!(head[4], b'2'..=b'4');
        let count = |at: usize| {
            let number = head.get(at..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_be_bytes(*number)).ok()
        };
        let header = Self {
            universal: count(20)?,
            standard: count(24)?,
            leaps: count(28)?,
            times: count(32)?,
            types: count(36)?,
            chars: count(40)?,
        };
        known.then_some(header)
    }

    /// Bytes of the block behind it, with times of so many bytes.
    fn length(&self, time: usize) -> Option<usize> {
        let parts = [
            self.times.checked_mul(time + 1)?,
            self.types.checked_mul(6)?,
            self.chars,
            self.leaps.checked_mul(time + 4)?,
            self.standard,
            self.universal,
        ];
        parts.into_iter().try_fold(0_usize, usize::checked_add)
    }
}

/// How summer time goes on for ever: `CET-1CEST,M3.5.0,M10.5.0/3`.
struct Rule {
    standard: i32,
    summer: i32,
    begin: Day,
    end: Day,
}

/// The so-manieth weekday of a month, and the second of that day as the clock shows it before.
struct Day {
    month0: i64,
    week: i64,
    weekday: i64,
    second: i64,
}

impl Rule {
    /// `None`: there is no summer time, or it is not said by weekdays of months.
    fn parse(text: &str) -> Option<Self> {
        let (zones, days) = text.split_once(',')?;
        let rest = after_name(zones)?;
        let (standard, rest) = offset(rest)?;
        let rest = after_name(rest)?;
        let summer = match rest {
            "" => standard.checked_sub(3_600)?,
            rest => offset(rest)?.0,
        };
        let (begin, end) = days.split_once(',')?;
        Some(Self {
            // The text counts west of Greenwich.
            standard: standard.checked_neg()?,
            summer: summer.checked_neg()?,
            begin: Day::parse(begin)?,
            end: Day::parse(end)?,
        })
    }

    fn changes(&self, first_year: i64, years: i64) -> Vec<(UtcMs, i32)> {
        let mut all = Vec::new();
        for year in first_year..first_year.saturating_add(years) {
            let at = |day: &Day, shown: i32| (day.of(year) - i64::from(shown)) * 1_000;
            all.push((at(&self.begin, self.standard), self.summer));
            all.push((at(&self.end, self.summer), self.standard));
        }
        all.sort_unstable();
        all
    }
}

impl Day {
    fn parse(text: &str) -> Option<Self> {
        let (day, time) = text.split_once('/').unwrap_or((text, "2"));
        let mut parts = day.strip_prefix('M')?.split('.').map(str::parse::<i64>);
        let (month, week, weekday) = (
            parts.next()?.ok()?,
            parts.next()?.ok()?,
            parts.next()?.ok()?,
        );
        let sound =
            (1..=12).contains(&month) && (1..=5).contains(&week) && (0..=6).contains(&weekday);
        let (second, rest) = offset(time)?;
        (sound && rest.is_empty() && parts.next().is_none()).then_some(Self {
            month0: month - 1,
            week,
            weekday,
            second: i64::from(second),
        })
    }

    /// Seconds from 1970 on, as the clock shows them.
    fn of(&self, year: i64) -> i64 {
        let first = days_to(year, self.month0);
        let next = match self.month0 {
            11 => days_to(year + 1, 0),
            month => days_to(year, month + 1),
        };
        // 1970 began on a Thursday.
        let weekday = (first + 4).rem_euclid(7);
        let mut day = first + (self.weekday - weekday).rem_euclid(7) + 7 * (self.week - 1);
        while day >= next {
            day -= 7;
        }
        day * DAY_S + self.second
    }
}

/// What follows the name of a zone: `CET`, `<+03>`.
fn after_name(text: &str) -> Option<&str> {
    if let Some(quoted) = text.strip_prefix('<') {
        return quoted.split_once('>').map(|(_, rest)| rest);
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    (end >= 3).then(|| &text[end..])
}

/// `[+-]hh[:mm[:ss]]` at the beginning of a text, in seconds, and what follows it.
fn offset(text: &str) -> Option<(i32, &str)> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let end = digits
        .find(|c: char| !c.is_ascii_digit() && c != ':')
        .unwrap_or(digits.len());
    let (number, rest) = digits.split_at(end);
    let mut seconds = 0_i32;
    for (part, worth) in number.split(':').zip([3_600, 60, 1]) {
        let part = part.parse::<i32>().ok().filter(|part| *part <= 167)?;
        seconds = seconds.checked_add(part * worth)?;
    }
    Some((sign * seconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UtcMs = 1_770_681_600_000; // 2026-02-10

    /// A table with one change, and a rule for what follows.
    fn table(change: (i64, i32), footer: &str) -> Vec<u8> {
        let counts = |times: u32, types: u32| {
            let mut head = b"TZif2".to_vec();
            head.extend_from_slice(&[0; 15]);
            for count in [0, 0, 0, times, types, 4] {
                head.extend_from_slice(&u32::to_be_bytes(count));
            }
            head
        };
        let mut bytes = counts(0, 1);
        bytes.extend_from_slice(&[0; 6 + 4]);
        bytes.extend(counts(1, 2));
        bytes.extend_from_slice(&change.0.to_be_bytes());
        bytes.push(1);
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&change.1.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(b"LMT\0");
        bytes.extend_from_slice(format!("\n{footer}\n").as_bytes());
        bytes
    }

    #[test]
    fn a_rule_goes_on_where_the_table_ends() {
        let bytes = table((0, 3_600), "CET-1CEST,M3.5.0,M10.5.0/3");
        let offsets = offsets(&bytes, NOW).expect("it is sound");
        // Autumn 2025 or before, then from 29 March 2026, 1:00 UTC, to 25 October, 1:00 UTC.
        let summer = offsets
            .iter()
            .position(|one| *one == (1_774_746_000_000, 7_200));
        let summer = summer.expect("it begins");
        assert_eq!(offsets[summer + 1], (1_792_890_000_000, 3_600));
        assert!(
            offsets.is_sorted_by(|one, next| one.0 < next.0) && offsets.len() > 40,
            "{offsets:?}"
        );
        assert!(offsets[0].0 <= NOW && offsets.len() < 60);
    }

    #[test]
    fn a_zone_without_summer_time_has_one_offset() {
        let bytes = table((-1_000, 10_800), "<+03>-3");
        assert_eq!(offsets(&bytes, NOW), Some(vec![(0, 10_800)]));
        let south = Rule::parse("AEST-10AEDT,M10.1.0,M4.1.0/3").expect("it is sound");
        assert_eq!((south.standard, south.summer), (36_000, 39_600));
        let far = Rule::parse("<-02>2<-01>,M3.5.0/-1,M10.5.0/0").expect("it is sound");
        assert_eq!(
            (far.standard, far.summer, far.begin.second),
            (-7_200, -3_600, -3_600)
        );
    }

    #[test]
    fn what_is_no_table_is_refused_without_a_panic() {
        let sound = table((0, 3_600), "CET-1CEST,M3.5.0,M10.5.0/3");
        for length in 0..sound.len() - 29 {
            assert_eq!(offsets(&sound[..length], NOW), None, "{length}");
        }
        for at in 0..sound.len() {
            let mut spoiled = sound.clone();
            spoiled[at] = 0xff;
            let _ = offsets(&spoiled, NOW);
        }
        for text in [
            "",
            ",",
            "CET-1CEST,M13.5.0,M1.1.0",
            "CET-1CEST,J60,J300",
            "C-1,M3.5.0,M1.1.0",
            "CET-1CEST,M3.5.0",
        ] {
            assert!(Rule::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        assert_eq!(zone("UTC", NOW), Ok(Zone::utc()));
        for name in [
            "../../etc/passwd",
            "/etc/passwd",
            "Europe/",
            "no/such-zone",
            "a b",
            "Europe/Berlin\0",
        ] {
            let why = zone(name, NOW).expect_err(name);
            assert!(why.message.contains("use an IANA name"), "{why}");
        }
    }
}
