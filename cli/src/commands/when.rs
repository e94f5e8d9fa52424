//! Points in time as flags say them: as in a spec, or so long from now. The one place where the client's clock decides anything about a job.
use std::time::{SystemTime, UNIX_EPOCH};

use mlctl_proto::spec::{Moment, Time};

use crate::failure::Failure;

/// `+2h` as a point in time; everything else as it is written, for the spec's reader to judge.
pub fn when(flag: &str, text: &str) -> Result<String, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0));
    at(flag, text, now_ms)
}

fn at(flag: &str, text: &str, now_ms: i64) -> Result<String, Failure> {
    let Some(length) = text.strip_prefix('+') else {
        return Ok(text.to_owned());
    };
    let time: Time = length
        .parse()
        .map_err(|why| Failure::usage(format!("--{flag} {why}")))?;
    let ms = i64::try_from(time.ms()).unwrap_or(i64::MAX);
    let moment = Moment::from_ms(now_ms.saturating_add(ms));
    let moment = moment.ok_or_else(|| {
        Failure::usage(format!(
            "--{flag} {text}: that is no time that can be written"
        ))
    })?;
    Ok(moment.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_now_on_or_as_written() {
        let now_ms = 1_893_456_000_000;
        let read = |text: &str| at("begin", text, now_ms).ok();
        assert_eq!(read("+2h").as_deref(), Some("2030-01-01T02:00:00Z"));
        assert_eq!(
            read("2030-01-01T00:00Z").as_deref(),
            Some("2030-01-01T00:00Z")
        );
        for text in ["+", "+x", "+-1h", "+0s"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
