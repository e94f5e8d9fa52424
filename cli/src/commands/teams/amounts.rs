//! Amounts as people write them, to the units of requests: GPUs, GPU-hours, limits and days. Strict: what is not understood is refused, never guessed.
use mlctl_proto::api::{Budget, GpuLimit, TeamLimit};
use mlctl_proto::spec::{Bytes, Time};

use crate::failure::Failure;

/// Units of one GPU.
pub const GPU: u64 = 7_000;
/// Milliseconds of an hour.
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: i64 = 86_400_000;

fn wrong(what: &str, text: &str, instead: &str) -> Failure {
    Failure::usage(format!("{what} {text}: {instead}"))
}

/// `64`, `0.5`: thousandths of a GPU, in units.
pub fn gpus(what: &str, text: &str) -> Result<u64, Failure> {
    let fail = || wrong(what, text, "use a number of GPUs such as 64 or 0.5");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return Err(fail());
    }
    let whole: u64 = whole.parse().map_err(|_| fail())?;
    let part: u64 = format!("{part:0<3}").parse().map_err(|_| fail())?;
    let milli = whole
        .checked_mul(1_000)
        .and_then(|milli| milli.checked_add(part));
    milli
        .and_then(|milli| milli.checked_mul(GPU / 1_000))
        .ok_or_else(fail)
}

/// GPUs, or `unlimited`.
pub fn limit(what: &str, text: &str) -> Result<GpuLimit, Failure> {
    let units = match text {
        "unlimited" => None,
        number => Some(gpus(what, number)?),
    };
    Ok(GpuLimit { units })
}

/// `H100=64` as type and what is said of it.
pub fn pair<'a>(what: &str, text: &'a str) -> Result<(&'a str, &'a str), Failure> {
    match text.split_once('=') {
        Some((flavor, value)) if !flavor.is_empty() && !value.is_empty() => Ok((flavor, value)),
        _ => Err(wrong(
            what,
            text,
            "write a type of GPU and a value, such as H100=64",
        )),
    }
}

/// `20000/month`, `500/30d`; `none`: there is no budget any more.
pub fn budget(
    what: &str,
    text: &str,
    (zone, exhausted, until_ms): (&str, &str, i64),
) -> Result<Option<Budget>, Failure> {
    if text == "none" {
        return Ok(None);
    }
    let fail = || {
        wrong(
            what,
            text,
            "write GPU-hours and for how long, such as 20000/month or 500/30d, or none",
        )
    };
    let (hours, window) = text.split_once('/').ok_or_else(fail)?;
    let limit = gpus(what, hours)?.checked_mul(HOUR_MS).ok_or_else(fail)?;
    let (month_zone, rolling_days) = match window {
        "month" => (zone.to_owned(), 0),
        days => {
            let days = days.strip_suffix('d').ok_or_else(fail)?;
            (String::new(), days.parse().map_err(|_| fail())?)
        }
    };
    if window != "month" && rolling_days == 0 {
        return Err(fail());
    }
    Ok(Some(Budget {
        limit,
        month_zone,
        rolling_days,
        when_exhausted: exhausted.to_owned(),
        until_ms,
    }))
}

/// A limit beside GPUs, by its word; `none` takes it away.
pub fn team_limit(which: &str, text: &str) -> Result<TeamLimit, Failure> {
    let fail = |why: String| Failure::usage(format!("{which} {text}: {why}"));
    let most = match (which, text) {
        (_, "none") => None,
        ("max_time", text) => Some(
            text.parse::<Time>()
                .map_err(|why| fail(format!("it {why}")))?
                .ms(),
        ),
        ("checkpoint_bytes", text) => Some(
            text.parse::<Bytes>()
                .map_err(|why| fail(format!("it {why}")))?
                .0,
        ),
        (_, text) => {
            let number = text.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = text.parse().ok().filter(|_| number);
            Some(parsed.ok_or_else(|| fail("use a whole number, or none".into()))?)
        }
    };
    Ok(TeamLimit {
        which: which.to_owned(),
        most,
    })
}

/// The end of a day such as `2027-03-31`, in UTC.
pub fn day_end(what: &str, text: &str) -> Result<i64, Failure> {
    let fail = || wrong(what, text, "write a day such as 2027-03-31");
    let mut parts = text.split('-');
    let mut next = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let number = part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<i64>().ok().filter(|_| number)
    };
    let date = (next(4), next(2), next(2));
    let (Some(year), Some(month), Some(day)) = date else {
        return Err(fail());
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [
        31,
        if leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let place = usize::try_from(month - 1).map_err(|_| fail())?;
    let sound = year >= 1970
        && lengths
            .get(place)
            .is_some_and(|length| (1..=*length).contains(&day));
    if !sound || parts.next().is_some() {
        return Err(fail());
    }
    let years = year - 1;
    let before = years * 365 + years / 4 - years / 100 + years / 400 - 719_162;
    let months: i64 = lengths[..place].iter().sum();
    Ok((before + months + day) * DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_whole_or_thousandths_and_nothing_else() {
        for (text, units) in [
            ("64", 448_000),
            ("0.5", 3_500),
            ("0.142", 994),
            ("0", 0),
            ("1.25", 8_750),
        ] {
            assert_eq!(gpus("--gpus", text).expect(text), units, "{text}");
        }
        let huge = "9".repeat(30);
        for text in [
            "",
            "-1",
            "+1",
            "NaN",
            "nan",
            "inf",
            "1e3",
            "0.1234",
            ".5",
            "5.",
            "1.2.3",
            "0x10",
            "٣",
            "1 ",
            "18446744073709551615",
            &huge,
        ] {
            let why = gpus("--gpus", text).expect_err(text).to_string();
            assert!(why.contains("use a number of GPUs"), "{why}");
        }
        assert_eq!(limit("--borrow", "unlimited").expect("a word").units, None);
        assert!(limit("--borrow", "infinite").is_err());
    }

    #[test]
    fn budgets_are_hours_of_months_or_days() {
        let read = |text: &str| budget("--gpu-hours", text, ("Europe/Berlin", "stop", 7));
        let month = read("20000/month")
            .expect("it is sound")
            .expect("there is one");
        assert_eq!(
            (month.limit, month.month_zone.as_str()),
            (20_000 * GPU * HOUR_MS, "Europe/Berlin")
        );
        assert_eq!((month.when_exhausted.as_str(), month.until_ms), ("stop", 7));
        let days = read("0.5/30d").expect("it is sound").expect("there is one");
        assert_eq!(
            (days.limit, days.rolling_days, days.month_zone.as_str()),
            (GPU * HOUR_MS / 2, 30, "")
        );
        assert_eq!(read("none").expect("it is a word"), None);
        for text in [
            "5",
            "5/",
            "/month",
            "5/year",
            "5/0d",
            "5/-3d",
            "-5/month",
            "NaN/month",
            "99999999999999/month",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_read_by_what_they_limit() {
        let most = |which: &str, text: &str| team_limit(which, text).map(|limit| limit.most);
        assert_eq!(most("max_running", "20").expect("a number"), Some(20));
        assert_eq!(most("max_time", "3d").expect("a time"), Some(259_200_000));
        assert_eq!(
            most("checkpoint_bytes", "20TiB").expect("a size"),
            Some(20 << 40)
        );
        assert_eq!(most("max_running", "none").expect("a word"), None);
        for (which, text) in [
            ("max_running", "-1"),
            ("max_running", "+1"),
            ("max_pending", "3d"),
            ("max_time", "3"),
            ("checkpoint_bytes", "20TB"),
        ] {
            assert!(most(which, text).is_err(), "{which} {text}");
        }
    }

    #[test]
    fn days_end_at_midnight() {
        for (text, end) in [
            ("1970-01-01", 86_400_000),
            ("2026-02-28", 1_772_323_200_000),
            ("2024-02-29", 1_709_251_200_000),
        ] {
            assert_eq!(day_end("--until", text).expect(text), end, "{text}");
        }
        for text in [
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "26-01-01",
            "2026-1-1",
            "2026-01-01-01",
            "-026-01-01",
            "tomorrow",
            "1969-12-31",
        ] {
            assert!(day_end("--until", text).is_err(), "{text}");
        }
    }
}
