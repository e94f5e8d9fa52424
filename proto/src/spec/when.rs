//! When a job may run and for how long, and when others may have its devices. Knows no clock: only what contradicts itself is refused here.
use serde_json::{Map, Value};

use super::{JobSpec, SpecError, Time};
use crate::ids::check_name;
use crate::limits::{GRACE_MS_MAX, TEAM_BYTES_MAX, TEAM_DEPTH_MAX};

/// Keys that hold a point in time.
const MOMENTS: [&str; 3] = ["begin", "start_by", "end_by"];
/// Keys that hold a length of time.
const TIMES: [&str; 4] = ["time", "total_time", "min_runtime", "grace"];

/// Reads points in time, lengths and switches, so that a slip names its key.
pub(super) fn rewrite(table: &mut Map<String, Value>) -> Result<(), SpecError> {
    for key in MOMENTS {
        if let Some(value) = table.get_mut(key) {
            super::moment::rewrite(key, value)?;
        }
    }
    for key in TIMES {
        if let Some(value) = table.get(key) {
            super::time::check_time(key, value)?;
        }
    }
    for key in ["preemptible", "hold", "mix"] {
        if let Some(value) = table.get(key).filter(|value| !value.is_boolean()) {
            let shown = crate::ids::clip(&value.to_string());
            return Err(wrong(key, format!("is {shown}; use true or false")));
        }
    }
    if table.get("team").is_some_and(|team| !team.is_string()) {
        let why = "needs the path of a team, such as \"acme/vision\"";
        return Err(wrong("team", why.into()));
    }
    Ok(())
}

fn wrong(key: &str, why: String) -> SpecError {
    SpecError::Value {
        key: key.into(),
        why,
    }
}

/// What contradicts itself.
pub(super) fn check(spec: &JobSpec) -> Result<(), SpecError> {
    check_lengths(spec)?;
    for (early, late) in [
        (("begin", spec.begin), ("start_by", spec.start_by)),
        (("begin", spec.begin), ("end_by", spec.end_by)),
        (("start_by", spec.start_by), ("end_by", spec.end_by)),
    ] {
        let (Some(first), Some(last)) = (early.1, late.1) else {
            continue;
        };
        if first >= last {
            let why = format!(
                "is {last}, and `{}` is not before that ({first}): it could never run",
                early.0
            );
            return Err(wrong(late.0, why));
        }
    }
    match &spec.team {
        Some(team) => check_team(team).map_err(|why| wrong("team", why)),
        None => Ok(()),
    }
}

fn check_lengths(spec: &JobSpec) -> Result<(), SpecError> {
    let longer =
        |one: Option<Time>, other: Option<Time>| one.zip(other).filter(|(one, other)| one > other);
    if let Some((time, total)) = longer(spec.time, spec.total_time) {
        let why = format!(
            "is {total} over all attempts, less than `time` ({time}), which bounds one of them: lower `time`"
        );
        return Err(wrong("total_time", why));
    }
    if let Some((least, time)) = longer(spec.min_runtime, spec.time.or(spec.total_time)) {
        let why =
            format!("is {least}, but the job is ended after {time}: lower it, or leave it out");
        return Err(wrong("min_runtime", why));
    }
    if spec.preemptible && spec.min_runtime.is_some() {
        let why =
            "protects the job from others, and `preemptible` gives it to them: use one of them";
        return Err(wrong("min_runtime", why.into()));
    }
    if let Some(grace) = spec.grace.filter(|grace| grace.ms() > GRACE_MS_MAX) {
        let why = format!("is {grace}; at most {}m", GRACE_MS_MAX / 60_000);
        return Err(wrong("grace", why));
    }
    if spec.array.is_some() && spec.total_time.is_some() {
        let why = "is not supported in an array: its tasks have no attempts of their own";
        return Err(wrong("total_time", why.into()));
    }
    Ok(())
}

/// The path of a team: `acme/vision`.
///
/// # Errors
/// Why it is none, as the rest of a sentence that begins with the key.
fn check_team(team: &str) -> Result<(), String> {
    let parts = team.split('/');
    let good = team.len() <= TEAM_BYTES_MAX
        && parts.clone().count() <= TEAM_DEPTH_MAX
        && parts.clone().all(|part| check_name(part).is_ok());
    if good {
        return Ok(());
    }
    let shown = crate::ids::clip(team);
    Err(format!(
        "is \"{shown}\"; a team is a path such as \"acme/vision\": at most {TEAM_DEPTH_MAX} names of a-z, 0-9 and `-`"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{Class, parse_json, parse_toml};
    use super::*;

    fn spec(lines: &str) -> Result<JobSpec, SpecError> {
        parse_toml(&format!("command = ['a']\n{lines}"))
    }

    #[test]
    fn when_and_for_how_long() {
        let lines = "class = 'high'\nteam = 'acme/vision'\ntime = '4h'\ntotal_time = '2d'\nmin_runtime = '30m'\ngrace = '5m'\nhold = true\n\
                     begin = 2026-12-01T08:00:00Z\nstart_by = '2026-12-02T08:00+01:00'\nend_by = '2026-12-03T08:00:00Z'";
        let one = spec(lines).expect("good");
        assert_eq!(
            (one.class, one.team.as_deref(), one.hold),
            (Class::High, Some("acme/vision"), true)
        );
        assert_eq!(one.begin.map(|at| at.ms()), Some(1_796_112_000_000));
        assert_eq!(
            one.start_by.map(|at| at.to_string()).as_deref(),
            Some("2026-12-02T07:00:00Z")
        );
        assert_eq!(one.total_time.map(Time::ms), Some(172_800_000));
        let again = parse_json(&one.canonical_json()).expect("canonical JSON parses");
        assert_eq!((again.hash(), &again), (one.hash(), &one));
        let guest = spec("preemptible = true\nclass = 'low'").expect("good");
        assert!(guest.preemptible && guest.class < one.class);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let deep = format!("team = '{}a'", "a/".repeat(8));
        for (lines, says) in [
            ("class = 'urgent'", "use one of low, normal, high, critical"),
            ("class = 3", "use one of low, normal, high, critical"),
            ("time = '3h'\ntotal_time = '2h'", "lower `time`"),
            ("total_time = 7", "needs a text such as"),
            ("total_time = '-1h'", "such as \"12h\""),
            ("total_time = '0s'", "such as \"12h\""),
            ("total_time = '367d'", "at most 366 days"),
            ("array = 3\ntotal_time = '2h'", "not supported in an array"),
            (
                "min_runtime = '2h'\ntime = '1h'",
                "the job is ended after 1h",
            ),
            ("min_runtime = '2h'\npreemptible = true", "use one of them"),
            ("grace = '11m'", "at most 10m"),
            ("preemptible = 'yes'", "use true or false"),
            ("hold = 1", "use true or false"),
            ("begin = 5", "needs a text such as"),
            ("begin = 'soon'", "`begin` is \"soon\""),
            ("begin = 2026-12-01", "write date, time and zone"),
            ("begin = 2026-12-01T08:00:00", "write date, time and zone"),
            ("begin = 08:00:00", "write date, time and zone"),
            (
                "begin = '2026-12-02T00:00Z'\nstart_by = '2026-12-01T00:00Z'",
                "`start_by` is 2026-12-01T00:00:00Z, and `begin` is not before that",
            ),
            (
                "begin = '2026-12-02T00:00Z'\nend_by = '2026-12-02T00:00Z'",
                "could never run",
            ),
            (
                "start_by = '2026-12-02T00:00Z'\nend_by = '2026-12-01T00:00Z'",
                "could never run",
            ),
            ("team = ''", "a path such as"),
            ("team = 'A'", "a path such as"),
            ("team = 'a//b'", "a path such as"),
            ("team = '/a'", "a path such as"),
            (deep.as_str(), "at most 8 names"),
            ("team = 7", "needs the path of a team"),
        ] {
            let error = spec(lines).expect_err(lines).to_string();
            assert!(error.contains(says), "{lines}\n-> {error}");
            assert!(error.len() < 400, "{error}");
        }
    }
}
