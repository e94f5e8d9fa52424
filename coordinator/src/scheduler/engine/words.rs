//! Each reason of the engine as a stable word and as one sentence with its numbers. Does NOT know names of nodes: who shows it adds those.
use std::fmt;

use mlctl_proto::spec::Moment;
use mlctl_proto::units::UtcMs;

use super::why::Why;
use crate::state::rules::flavors::{flavor_text, gpu_hours_text, gpus_text};
use crate::state::rules::quota_text;

impl Why {
    /// The word of the closed set.
    pub fn word(&self) -> &'static str {
        match self {
            Self::HeldByUser => "HeldByUser",
            Self::StartTime(_) => "StartTime",
            Self::Dependency(_) => "Dependency",
            Self::RetryBackoff(_) => "RetryBackoff",
            Self::AttemptEnds => "AttemptEnds",
            Self::SchedulingPaused => "SchedulingPaused",
            Self::QuotaExceeded(_) => "QuotaExceeded",
            Self::BudgetExhausted { .. } => "BudgetExhausted",
            Self::UserLimit { .. } => "UserLimit",
            Self::ArrayLimit(_) => "ArrayLimit",
            Self::Licenses { .. } => "Licenses",
            Self::GpuTypeMissing => "GpuTypeMissing",
            Self::InsufficientGpus { .. } => "InsufficientGpus",
            Self::Fragmented { .. } => "Fragmented",
            Self::CpuOrMemory { .. } => "CpuOrMemory",
            Self::NodeDrained { .. } => "NodeDrained",
            Self::WakingNodes { .. } => "WakingNodes",
            Self::ExcludedNodes { .. } => "ExcludedNodes",
            Self::Maintenance { .. } => "Maintenance",
            Self::Reservation { .. } => "Reservation",
            Self::JobsAhead { .. } => "JobsAhead",
            Self::PreemptingOthers { .. } => "PreemptingOthers",
            Self::PreemptCooldown { .. } => "PreemptCooldown",
        }
    }
}

fn at(time: UtcMs) -> String {
    Moment::from_ms(time).map_or_else(|| "a time far ahead".into(), |at| at.to_string())
}

/// `1 node`, `2 nodes`.
fn many(count: impl Into<u64>, noun: &str) -> String {
    let count = count.into();
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeldByUser => f.write_str("it is held"),
            Self::StartTime(time) => write!(f, "it starts at {} at the earliest", at(*time)),
            Self::Dependency(job) => write!(f, "it waits for job {job}"),
            Self::RetryBackoff(time) => {
                write!(f, "it failed before and starts again at {}", at(*time))
            }
            Self::AttemptEnds => f.write_str("its last attempt is still being ended"),
            Self::SchedulingPaused => f.write_str("an admin has paused starts"),
            Self::ArrayLimit(limit) => {
                write!(f, "as many of its tasks run as may at once: {limit}")
            }
            Self::Licenses { name, needs, free } => {
                write!(f, "{needs} of {name} needed, {free} free")
            }
            Self::QuotaExceeded(_) | Self::BudgetExhausted { .. } | Self::UserLimit { .. } => {
                team(self, f)
            }
            Self::Reservation { .. }
            | Self::PreemptingOthers { .. }
            | Self::PreemptCooldown { .. } => others(self, f),
            _ => room(self, f),
        }
    }
}

/// What its team may have.
fn team(why: &Why, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match why {
        Why::QuotaExceeded(short) => f.write_str(&quota_text::shortfall(short)),
        Why::BudgetExhausted {
            team,
            flavor,
            left,
            needs,
        } => write!(
            f,
            "budget of team {team}: {} of {} left, and {} are needed",
            gpu_hours_text(left.saturating_mul(1_000)),
            flavor_text(flavor),
            gpu_hours_text(needs.saturating_mul(1_000)),
        ),
        Why::UserLimit { team, at_most } => {
            write!(f, "team {team} runs as many jobs as it may: {at_most}")
        }
        other => f.write_str(other.word()),
    }
}

/// What others were promised, or give up.
fn others(why: &Why, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match why {
        Why::Reservation { job, start_ms } => write!(
            f,
            "it could delay job {job}, which is to start at {}; with a `time` that ends before, it may start now",
            at(*start_ms)
        ),
        Why::PreemptingOthers { until } => write!(
            f,
            "others are being ended for it; what they leave is kept for it until {}",
            at(*until)
        ),
        Why::PreemptCooldown { until } => write!(
            f,
            "others were ended for it in vain a short while ago; it may have that again at {}",
            at(*until)
        ),
        other => f.write_str(other.word()),
    }
}

/// What there is.
fn room(why: &Why, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match why {
        Why::GpuTypeMissing => {
            f.write_str("no node has a GPU of a type that it takes, in a pool that it takes")
        }
        Why::InsufficientGpus { needs, free } => {
            write!(
                f,
                "{} GPUs needed, {} free",
                gpus_text(*needs),
                gpus_text(*free)
            )
        }
        Why::Fragmented {
            free,
            nodes,
            fitting,
        } => write!(
            f,
            "{} GPUs free, but {} needed with enough each, {fitting} free",
            gpus_text(*free),
            many(*nodes, "node")
        ),
        Why::CpuOrMemory { fitting } => write!(
            f,
            "{} with enough GPUs, but too few processors or too little memory or disk beside them, or without a label that it wants",
            many(*fitting, "node")
        ),
        Why::NodeDrained { nodes } => {
            write!(f, "{} with room, closed to new work", many(*nodes, "node"))
        }
        Why::WakingNodes { nodes, from } => {
            write!(
                f,
                "{} with room from {} on",
                many(*nodes, "node"),
                at(*from)
            )
        }
        Why::ExcludedNodes { nodes } => write!(
            f,
            "there is room only on nodes that failed it ({}); `mlctl retry` forgets that",
            many(*nodes, "node")
        ),
        Why::Maintenance { until } => {
            write!(
                f,
                "it would run into maintenance, which ends at {}",
                at(*until)
            )
        }
        Why::JobsAhead { ahead: 1 } => f.write_str("1 job before it takes what it needs"),
        Why::JobsAhead { ahead } => write!(f, "{ahead} jobs before it take what it needs"),
        other => f.write_str(other.word()),
    }
}
