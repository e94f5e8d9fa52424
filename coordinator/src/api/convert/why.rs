//! What the scheduler says of a job, as a message. Does NOT find it: the scheduler does.
use mlctl_proto::api::{Eta, Helps, Reason, Standing, Starts, WhyReply};
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::decision::pauses_of_jobs;
use crate::scheduler::engine::explain::{self, Change, Check, Explanation};
use crate::scheduler::{self, Explained};
use crate::state::State;
use crate::state::records::Job;
use crate::state::rules::flavors::{flavor_text, gpus_text, limit_text};
use crate::state::view::ask::Kind;

const GB: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

/// Everything about why a job of `state` waits, or how it starts.
pub fn why(state: &State, record: &Job, explained: &Explained, now_ms: UtcMs) -> WhyReply {
    let found = explained.found.as_ref();
    let reasons = reasons(explained);
    WhyReply {
        job: record.id.to_string(),
        state: record.state.word().to_owned(),
        summary: summary(record, &reasons),
        reasons,
        index: state.applied_index(),
        pauses: match record.state.terminal() {
            true => Vec::new(),
            false => pauses_of_jobs(state, now_ms),
        },
        holds: found.map_or_else(Vec::new, |found| found.checks.iter().map(check).collect()),
        eta: found.and_then(eta),
        standing: found.and_then(standing),
        helps: found.map_or_else(Vec::new, |found| found.edits.iter().map(helps).collect()),
        starts: explained.start.as_ref().map(|start| Starts {
            nodes: start.nodes.clone(),
            borrowed: start.borrowed,
        }),
    }
}

/// One line for people.
fn summary(record: &Job, reasons: &[Reason]) -> String {
    let (id, name, word) = (record.id, &record.name, record.state.word());
    let end = record.outcome.as_ref();
    match (reasons.first(), record.state.terminal()) {
        (Some(first), _) => format!("{id} {name}: {}", first.text),
        (None, true) => {
            let end = end.map_or_else(String::new, |end| format!(": {}", end.kind.word()));
            format!("{id} {name} is {word}{end}")
        }
        (None, false) => format!("{id} {name} is {word}"),
    }
}

fn reasons(explained: &Explained) -> Vec<Reason> {
    let about = |reason: &scheduler::Reason| -> &[JobId] {
        let known = explained.found.iter().flat_map(|found| &found.reasons);
        let mut same = known.filter(|one| one.why.word() == reason.word());
        same.next().map_or(&[], |one| &one.jobs)
    };
    let one = |reason: &scheduler::Reason| {
        let jobs: Vec<String> = about(reason).iter().map(JobId::to_string).collect();
        let text = match jobs.as_slice() {
            [] => reason.to_string(),
            jobs => format!("{reason} (jobs {})", jobs.join(", ")),
        };
        Reason {
            code: reason.word().to_owned(),
            text,
        }
    };
    explained.reasons.iter().map(one).collect()
}

fn check(check: &Check) -> String {
    match check {
        Check::Quota {
            team,
            flavor,
            load,
            nominal,
            borrow,
        } => format!(
            "quota of {team}: {} of {} {}, and {} to borrow",
            gpus_text(*load),
            gpus_text(*nominal),
            flavor_text(flavor),
            limit_text(*borrow)
        ),
        Check::Budget => "budget".into(),
        Check::Type { nodes: 1 } => "type: 1 node has it".into(),
        Check::Type { nodes } => format!("type: {nodes} nodes have it"),
        Check::Closed { nodes: 1 } => "1 node takes no work; that is not what keeps it".into(),
        Check::Closed { nodes } => {
            format!("{nodes} nodes take no work; that is not what keeps it")
        }
    }
}

fn eta(found: &Explanation) -> Option<Eta> {
    let shown = match &found.eta {
        _ if found.starts_now => return None,
        explain::Eta::Unknown => return None,
        explain::Eta::At {
            start_ms,
            error_ms,
            when_ends,
        } => Eta {
            start_ms: *start_ms,
            error_ms: *error_ms,
            when_ends: when_ends.map_or_else(String::new, |job| job.to_string()),
            after: String::new(),
        },
        explain::Eta::After(job) => Eta {
            after: job.to_string(),
            ..Eta::default()
        },
    };
    Some(shown)
}

fn standing(found: &Explanation) -> Option<Standing> {
    let place = found.place;
    (place.overall > 0).then_some(Standing {
        in_team: place.in_team,
        of_team: place.of_team,
        overall: place.overall,
        of_all: place.of_all,
    })
}

fn helps(edit: &explain::Edit) -> Helps {
    let (field, value) = match &edit.change {
        Change::Nodes(nodes) => ("nodes", nodes.to_string()),
        Change::GpusPerNode(gpus) => ("gpus", gpus.to_string()),
        Change::Types(kinds) => {
            let kinds: Vec<String> = kinds.iter().map(kind).collect();
            ("gpu", kinds.join(","))
        }
        Change::Limit(ms) if ms % 3_600_000 == 0 => ("time", format!("{}h", ms / 3_600_000)),
        Change::Limit(ms) => ("time", format!("{}m", ms / 60_000)),
    };
    Helps {
        field: field.into(),
        value,
        starts_now: edit.starts_now,
        borrowed: edit.borrowed,
        start_ms: edit.eta_ms.unwrap_or(0),
    }
}

/// As `gpu` is written.
fn kind(kind: &Kind) -> String {
    match kind.memory {
        0 => kind.name.clone(),
        bytes if bytes % GB == 0 => format!("{}:{}GB", kind.name, bytes / GB),
        bytes => format!("{}:{}MiB", kind.name, bytes / MIB),
    }
}
