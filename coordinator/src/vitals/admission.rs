//! PURE: which commands a cluster still takes when a disk is filling up, or when nobody knows whose state is right.
//!
//! One table over all kinds of commands: a new kind does not compile before it has its place here. It measures
//! nothing; what a disk holds is judged in `space`, whose state is right in `judge`.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::fmt;

use mlctl_proto::errors::{Code, Refusal};

use crate::state::Body;

/// Which disk is filling up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tight {
    /// The coordinator.
    pub coordinator: String,
    /// Its data directory.
    pub dir: String,
    /// Bytes free there.
    pub free: u64,
    /// Bytes that should be free there.
    pub mark: u64,
}

/// How much a cluster takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stance {
    /// Everything.
    #[default]
    Open,
    /// A disk that counts is below its mark: nothing that brings new work.
    Low(Tight),
    /// It is nearly full: nothing that starts work either, only what ends it.
    Short(Tight),
    /// The members' states differ and no majority agrees: nothing at all.
    ReadOnly {
        /// Where they differ.
        index: u64,
    },
}

/// What a command does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// It brings new work.
    Brings,
    /// It starts work that is there, or moves it: rows, files and logs follow.
    Starts,
    /// It ends work, or says what has happened: without it nothing ever shrinks.
    Settles,
}

fn growth(body: &Body) -> Growth {
    match body {
        // What is over comes back as another job.
        Body::SubmitJob(_) | Body::RetryJobs(_) => Growth::Brings,
        // It copies what is over into files, which can wait.
        Body::StartAttempts(_) | Body::ArchiveJobs(_) => Growth::Starts,
        // It stores another spec.
        Body::UpdateJobs(_) => Growth::Starts,
        Body::Bootstrap(_)
        | Body::ChangeSettings(_)
        | Body::RegisterNode(_)
        | Body::SetNodeLiveness(_)
        | Body::DeclareNodeLost(_)
        | Body::CancelJobs(_)
        | Body::HoldJobs(_)
        | Body::ReleaseJobs(_)
        | Body::DropLate(_)
        | Body::SupersedeAttempt(_)
        | Body::ChangeTeams(_)
        | Body::Decide(_)
        // Without it nothing that runs would be covered any more.
        | Body::RenewCharges(_)
        | Body::Preempt(_)
        | Body::Withdraw(_)
        // Removing is what makes room.
        | Body::ChangeCheckpoints(_)
        | Body::AgentEvents(_) => Growth::Settles,
    }
}

/// Whether a command may be proposed.
///
/// # Errors
/// [`Code::DiskFull`] with the disk in question, [`Code::ReadOnly`] with the index.
pub fn admitted(body: &Body, stance: &Stance) -> Result<(), Refusal> {
    match (stance, growth(body)) {
        (Stance::Open, _)
        | (Stance::Low(_) | Stance::Short(_), Growth::Settles)
        | (Stance::Low(_), Growth::Starts) => Ok(()),
        (Stance::Low(tight) | Stance::Short(tight), Growth::Brings) => {
            Err(full(tight, "no new jobs are taken"))
        }
        (Stance::Short(tight), Growth::Starts) => Err(full(tight, "nothing new is started")),
        (Stance::ReadOnly { index }, _) => Err(read_only(*index)),
    }
}

/// Whether bytes that people upload are taken.
///
/// # Errors
/// As [`admitted`] for a submit.
pub fn upload_admitted(stance: &Stance) -> Result<(), Refusal> {
    match stance {
        Stance::Open => Ok(()),
        Stance::Low(tight) | Stance::Short(tight) => Err(full(tight, "no uploads are taken")),
        Stance::ReadOnly { index } => Err(read_only(*index)),
    }
}

/// The refusal of `what` because of a disk.
pub fn full(tight: &Tight, what: &str) -> Refusal {
    let text = format!(
        "{what}: {tight}; make room there, jobs that run go on and can be cancelled meanwhile"
    );
    Refusal::new(Code::DiskFull, text)
}

fn read_only(index: u64) -> Refusal {
    let text = format!(
        "the coordinators' states differ at index {index} and no majority agrees on one, so nothing is changed; start the coordinators that are down, or restore from a backup"
    );
    Refusal::new(Code::ReadOnly, text)
}

impl fmt::Display for Tight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            coordinator,
            dir,
            free,
            mark,
        } = self;
        write!(
            f,
            "coordinator {coordinator} has {} MiB ({free} bytes) free in {dir}, below its mark of {} MiB",
            free >> 20,
            mark >> 20
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::{
        AgentEvents, CancelJobs, ChangeCheckpoints, ChangeSettings, CheckpointAction, RetryJobs,
        StartAttempts, SubmitJob,
    };
    use mlctl_proto::ids::JobId;

    fn tight() -> Tight {
        Tight {
            coordinator: "c2".into(),
            dir: "/var/lib/mlctl".into(),
            free: 12 << 20,
            mark: 32 << 20,
        }
    }

    fn bodies() -> [(&'static str, Body); 7] {
        let submit = SubmitJob {
            spec: Vec::new(),
            code_manifest: String::new(),
            code_bytes: 0,
            traceparent: String::new(),
            submitter_uid: 0,
        };
        let events = AgentEvents {
            node: "n".into(),
            journal_id: "j".into(),
            events: Vec::new(),
        };
        let retry = RetryJobs {
            jobs: vec![JobId::new(1, 1)],
        };
        let remove = ChangeCheckpoints {
            job: JobId::new(1, 1),
            which: Vec::new(),
            action: CheckpointAction::Remove,
        };
        [
            ("submit", Body::SubmitJob(submit)),
            ("retry", Body::RetryJobs(retry)),
            (
                "start",
                Body::StartAttempts(StartAttempts { starts: Vec::new() }),
            ),
            (
                "cancel",
                Body::CancelJobs(CancelJobs::of(vec![JobId::new(1, 1)])),
            ),
            ("settings", Body::ChangeSettings(ChangeSettings::default())),
            ("events", Body::AgentEvents(events)),
            ("checkpoints", Body::ChangeCheckpoints(remove)),
        ]
    }

    #[test]
    fn what_passes_when() {
        let all = [
            "submit",
            "retry",
            "start",
            "cancel",
            "settings",
            "events",
            "checkpoints",
        ];
        for (stance, passes, upload) in [
            (Stance::Open, &all[..], true),
            (Stance::Low(tight()), &all[2..], false),
            (Stance::Short(tight()), &all[3..], false),
            (Stance::ReadOnly { index: 64 }, &[][..], false),
        ] {
            let passed: Vec<&str> = bodies()
                .iter()
                .filter(|(_, body)| admitted(body, &stance).is_ok())
                .map(|(name, _)| *name)
                .collect();
            assert_eq!(passed, passes, "{stance:?}");
            assert_eq!(upload_admitted(&stance).is_ok(), upload, "{stance:?}");
        }
    }

    #[test]
    fn a_refusal_names_everything() {
        let [(_, submit), ..] = bodies();
        let refusal = admitted(&submit, &Stance::Low(tight())).expect_err("refused");
        assert_eq!(refusal.code, Code::DiskFull);
        for word in ["c2", "/var/lib/mlctl", "12582912 bytes", "32 MiB"] {
            assert!(refusal.message.contains(word), "{word}: {refusal}");
        }
        let refusal = admitted(&submit, &Stance::ReadOnly { index: 64 }).expect_err("refused");
        assert_eq!(refusal.code, Code::ReadOnly);
        assert!(refusal.message.contains("index 64"), "{refusal}");
    }
}
