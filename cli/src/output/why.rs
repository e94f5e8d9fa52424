//! How what the scheduler says of a job is shown: each reason, what was asked besides, when it starts, and what would help. Does NOT ask.
use mlctl_proto::api::{Eta, Helps, WhyReply};
use mlctl_proto::units::duration_text;
use serde_json::{Value, json};

use super::clean::clean;
use super::decisions::moment;

/// For people, without the first line.
pub fn lines(why: &WhyReply) -> Vec<String> {
    let mut all = Vec::new();
    for (number, reason) in why.reasons.iter().enumerate() {
        let text = clean(&reason.text);
        all.push(format!("{:>2} {:<18} {text}", number + 1, reason.code));
    }
    all.extend(why.holds.iter().map(|one| format!(" x {}", clean(one))));
    if let Some(starts) = &why.starts {
        let nodes = clean(&starts.nodes.join(", "));
        let borrowed = borrowed(starts.borrowed);
        all.push(format!(
            "   starts with the next plan, on {nodes}{borrowed}"
        ));
    }
    all.extend(why.eta.as_ref().map(|eta| format!("   {}", eta_text(eta))));
    if let Some(at) = &why.standing {
        all.push(format!(
            "   place {} of {} in its team, {} of {} in all",
            at.in_team, at.of_team, at.overall, at.of_all
        ));
    }
    if !why.helps.is_empty() {
        let verb = match why.job.as_str() {
            "" => "if it asked for".to_owned(),
            job => format!("in place, by `mlctl update {}`", clean(job)),
        };
        let helps: Vec<String> = why.helps.iter().map(help).collect();
        all.push(format!("   sooner, {verb}: {}", helps.join(" · ")));
    }
    all
}

/// When a job starts, in a word or two.
pub fn soon(why: &WhyReply) -> String {
    let eta = why.eta.as_ref();
    if let Some(starts) = &why.starts {
        let word = if starts.borrowed {
            "now, borrowed"
        } else {
            "now"
        };
        return word.to_owned();
    }
    match eta.map(|eta| (eta.start_ms, eta.after.as_str())) {
        Some((0, job)) if !job.is_empty() => format!("after job {}", clean(job)),
        Some((at, _)) if at > 0 => moment(at),
        _ => {
            let leading = why.reasons.first();
            leading.map_or_else(|| "not known".into(), |reason| reason.code.clone())
        }
    }
}

fn borrowed(it_is: bool) -> &'static str {
    match it_is {
        true => ", on borrowed GPUs: its owners may take them back",
        false => "",
    }
}

fn eta_text(eta: &Eta) -> String {
    if !eta.after.is_empty() {
        return format!(
            "starts after job {}, to which a start was promised; not estimated",
            clean(&eta.after)
        );
    }
    let error = i64::try_from(eta.error_ms).unwrap_or(i64::MAX);
    let ends = match eta.when_ends.as_str() {
        "" => String::new(),
        job => format!(", when job {} ends", clean(job)),
    };
    let (at, error) = (moment(eta.start_ms), duration_text(error));
    format!("starts at {at} (± {error}){ends}")
}

fn help(help: &Helps) -> String {
    let value = clean(&help.value);
    let value = match value.contains(' ') {
        true => format!("'{value}'"),
        false => value,
    };
    let then = match (help.starts_now, help.start_ms) {
        (true, _) => format!("starts now{}", borrowed(help.borrowed)),
        (false, at) => format!("starts at {}", moment(at)),
    };
    format!("--{} {value} {then}", help.field)
}

/// For programs.
pub fn value(why: &WhyReply) -> Value {
    let reasons: Vec<Value> = (why.reasons.iter())
        .map(|reason| json!({ "code": reason.code, "text": reason.text }))
        .collect();
    let helps: Vec<Value> = (why.helps.iter())
        .map(|help| {
            json!({
                "field": help.field, "value": help.value, "starts_now": help.starts_now, "borrowed": help.borrowed,
                "start_ms": some(help.start_ms),
            })
        })
        .collect();
    let eta = why.eta.as_ref().map(|eta| {
        json!({
            "start_ms": some(eta.start_ms), "error_ms": eta.error_ms, "when_ends": eta.when_ends, "after": eta.after,
        })
    });
    let standing = why.standing.as_ref().map(|at| {
        json!({ "in_team": at.in_team, "of_team": at.of_team, "overall": at.overall, "of_all": at.of_all })
    });
    let starts = (why.starts.as_ref())
        .map(|starts| json!({ "nodes": starts.nodes, "borrowed": starts.borrowed }));
    let paused: Vec<Value> = why
        .pauses
        .iter()
        .map(super::decisions::pause_value)
        .collect();
    json!({
        "v": 1, "job": why.job, "state": why.state, "summary": why.summary, "reasons": reasons, "holds": why.holds,
        "eta": eta, "standing": standing, "helps": helps, "starts": starts, "paused": paused, "index": why.index,
    })
}

fn some(ms: i64) -> Option<i64> {
    (ms > 0).then_some(ms)
}
