//! Why a job has to wait whatever is free: a person holds it, its start time is ahead, or another job comes first. Says it; `state::rules` decides it.
use std::fmt;

use mlctl_proto::spec::{After, AfterKind, Moment};
use mlctl_proto::units::{UtcMs, duration_text};

use crate::state::rules::{NotYet, not_yet, ready_tasks};
use crate::state::view::{ClusterView, Job};

/// Jobs that one reason lists.
const NAMES_MAX: usize = 8;

/// It is not the job's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoTurn {
    /// Something has to become of other jobs first.
    Dependency {
        /// Some of them.
        after: Vec<After>,
        /// How many there are.
        count: usize,
    },
    /// It starts later, because it says so.
    StartTime {
        /// UTC milliseconds.
        at_ms: UtcMs,
        /// How long that is, milliseconds.
        left_ms: i64,
    },
    /// A person holds it.
    Held {
        /// An admin, and not its owner.
        admin: bool,
        /// Who.
        name: String,
        /// Why, as that person said; may be empty.
        why: String,
    },
}

impl NoTurn {
    /// The stable word of the closed set.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Dependency { .. } => "Dependency",
            Self::StartTime { .. } => "StartTime",
            Self::Held { admin: true, .. } => "HeldByAdmin",
            Self::Held { .. } => "HeldByUser",
        }
    }

    /// When time alone ends it.
    pub fn until(&self) -> Option<UtcMs> {
        match self {
            Self::StartTime { at_ms, .. } => Some(*at_ms),
            Self::Dependency { .. } | Self::Held { .. } => None,
        }
    }

    /// Of a pending job, at `now_ms`.
    pub fn of(job: &Job, now_ms: UtcMs) -> Option<Self> {
        Some(match not_yet(job, now_ms)? {
            NotYet::Begin(at_ms) => Self::StartTime {
                at_ms,
                left_ms: at_ms.saturating_sub(now_ms),
            },
            NotYet::After(_) => Self::others(job, |kind| kind != AfterKind::Corr),
        })
    }

    /// Of a pending array of which no task is ready.
    pub fn of_tasks(view: &ClusterView, job: &Job) -> Option<Self> {
        let pending = &job.array.as_deref()?.pending;
        let ready = ready_tasks(&view.state, job)?;
        let none = pending.and(&ready).is_empty();
        none.then(|| Self::others(job, |kind| kind == AfterKind::Corr))
    }

    /// Of a held job that a person holds.
    pub fn of_hold(job: &Job) -> Option<Self> {
        let hold = job.turn.hold.as_ref()?;
        Some(Self::Held {
            admin: hold.admin,
            name: hold.name.clone(),
            why: hold.why.clone(),
        })
    }

    fn others(job: &Job, wanted: impl Fn(AfterKind) -> bool) -> Self {
        let all = || job.turn.after.iter().filter(|one| wanted(one.kind));
        Self::Dependency {
            after: all().take(NAMES_MAX).copied().collect(),
            count: all().count(),
        }
    }
}

/// `job 412 to complete`.
fn wish(after: &After) -> String {
    let job = after.job;
    match after.kind {
        AfterKind::Started => format!("job {job} to begin"),
        AfterKind::Ok => format!("job {job} to complete"),
        AfterKind::Any => format!("job {job} to end"),
        AfterKind::NotOk => format!("job {job} to fail"),
        AfterKind::Corr => format!("tasks of job {job} to exit 0"),
    }
}

impl fmt::Display for NoTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dependency { after, count } => {
                let wishes: Vec<String> = after.iter().map(wish).collect();
                write!(f, "it waits for {}", wishes.join(", for "))?;
                match count.saturating_sub(after.len()) {
                    0 => Ok(()),
                    more => write!(f, ", and for {more} more"),
                }
            }
            Self::StartTime { at_ms, left_ms } => {
                let at = Moment::from_ms(*at_ms).map_or_else(String::new, |at| at.to_string());
                let left = duration_text(*left_ms);
                write!(
                    f,
                    "it starts at {at} at the earliest, in {left}; `mlctl update --begin none` starts it now"
                )
            }
            Self::Held { admin, name, why } => {
                let who = if *admin { ", an admin" } else { "" };
                let why = if why.is_empty() {
                    String::new()
                } else {
                    format!(": {why}")
                };
                write!(f, "held by {name}{who}{why}; `mlctl release` lets it start")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::ids::JobId;

    #[test]
    fn each_says_what_it_waits_for() {
        let after = |kind, counter| After {
            kind,
            job: JobId::new(1, counter),
        };
        let on = NoTurn::Dependency {
            after: vec![after(AfterKind::Ok, 4), after(AfterKind::Any, 5)],
            count: 12,
        };
        let at = NoTurn::StartTime {
            at_ms: 1_893_456_000_000,
            left_ms: 600_000,
        };
        let held = |admin, why: &str| NoTurn::Held {
            admin,
            name: "ann".into(),
            why: why.into(),
        };
        for (reason, word, says) in [
            (
                on,
                "Dependency",
                "it waits for job 4 to complete, for job 5 to end, and for 10 more",
            ),
            (
                at,
                "StartTime",
                "it starts at 2030-01-01T00:00:00Z at the earliest, in 10 min",
            ),
            (
                held(false, ""),
                "HeldByUser",
                "held by ann; `mlctl release`",
            ),
            (
                held(true, "disk"),
                "HeldByAdmin",
                "held by ann, an admin: disk; `mlctl release`",
            ),
        ] {
            assert_eq!(reason.word(), word);
            assert!(reason.to_string().starts_with(says), "{reason}");
        }
    }
}
