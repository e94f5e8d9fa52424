//! When a job's turn comes: as lines for people, where what is usual goes unsaid, and as JSON.
use mlctl_proto::api::{Hold, Job, Turn};
use mlctl_proto::spec::Moment;
use mlctl_proto::units::duration_text;
use serde_json::{Value, json};

use super::clean;

/// Nothing, if nothing but its place in the queue decides.
pub(super) fn lines(job: &Job) -> Vec<String> {
    let Some(turn) = &job.turn else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    if !matches!(turn.class.as_str(), "" | "normal") {
        lines.push(format!("class    {}", clean(&turn.class)));
    }
    // Of a job that is over nobody waits for anything.
    if job.ended_ms == 0 {
        lines.extend(waits(turn));
    }
    lines
}

/// The same for programs. Times are UTC milliseconds, `null`: none.
pub(super) fn value(turn: &Turn) -> Value {
    let time = |ms: i64| Some(ms).filter(|ms| *ms > 0);
    let hold = |hold: &Hold| json!({ "word": hold.word, "name": hold.name, "since_ms": time(hold.since_ms), "why": hold.why });
    json!({
        "class": turn.class, "hold": turn.hold.as_ref().map(hold), "after": turn.after, "begin_ms": time(turn.begin_ms),
        "start_by_ms": time(turn.start_by_ms), "end_by_ms": time(turn.end_by_ms), "total_ms": Some(turn.total_ms).filter(|ms| *ms > 0),
        "ran_ms": turn.ran_ms, "preemptible": turn.preemptible, "eligible_ms": time(turn.eligible_ms),
    })
}

fn waits(turn: &Turn) -> Vec<String> {
    let mut lines = Vec::new();
    if !turn.after.is_empty() {
        lines.push(format!("after    {}", clean(&turn.after.join(", "))));
    }
    for (label, ms) in [
        ("begin   ", turn.begin_ms),
        ("start by", turn.start_by_ms),
        ("end by  ", turn.end_by_ms),
    ] {
        if let Some(at) = Some(ms).filter(|ms| *ms > 0).and_then(Moment::from_ms) {
            lines.push(format!("{label} {at}"));
        }
    }
    if turn.total_ms > 0 {
        let text = |ms: u64| duration_text(i64::try_from(ms).unwrap_or(i64::MAX));
        let (ran, total) = (text(turn.ran_ms), text(turn.total_ms));
        lines.push(format!(
            "in all   {ran} of {total} in attempts that are over"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_goes_unsaid() {
        let usual = Job {
            turn: Some(Turn {
                class: "normal".into(),
                ..Turn::default()
            }),
            ..Job::default()
        };
        assert!(lines(&usual).is_empty() && lines(&Job::default()).is_empty());
        let job = Job {
            turn: Some(Turn {
                class: "high".into(),
                after: vec!["ok:4".into(), "any:5".into()],
                begin_ms: 1_893_456_000_000,
                total_ms: 7_200_000,
                ran_ms: 600_000,
                ..Turn::default()
            }),
            ..Job::default()
        };
        assert_eq!(
            lines(&job),
            [
                "class    high",
                "after    ok:4, any:5",
                "begin    2030-01-01T00:00:00Z",
                "in all   10 min of 2 h 0 min in attempts that are over",
            ]
        );
        let over = Job { ended_ms: 5, ..job };
        assert_eq!(lines(&over), ["class    high"]);
    }
}
