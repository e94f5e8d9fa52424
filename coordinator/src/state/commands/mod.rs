//! What the log holds: one file per command with its struct, its apply and its tests. Each checks again, on apply, everything
//! that was checked before it was proposed: the state may have moved on.
pub(super) mod accounts;
mod agent_events;
mod archive_jobs;
mod bootstrap;
mod cancel_jobs;
mod change_checkpoints;
mod change_settings;
mod change_teams;
mod checkpoints;
mod current;
mod decide;
mod declare_node_lost;
mod dependencies;
mod dirty_devices;
mod drop_late;
mod failures;
mod hold_jobs;
mod holds;
mod in_doubt;
mod kept;
mod membership;
mod preempt;
mod preempt_order;
mod register_node;
mod release_jobs;
pub(super) mod remembered;
mod renew_charges;
mod retry_jobs;
mod selection;
mod set_node_liveness;
mod start_attempts;
mod start_quota;
mod submit_job;
mod supersede_attempt;
mod update_jobs;
mod waves;
mod withdraw;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::units::UtcMs;

pub use agent_events::{AgentEvent, AgentEvents, Happening, News, TasksEnded};
pub use archive_jobs::{ARCHIVE_JOBS_MAX, ArchiveJobs};
pub use bootstrap::{Bootstrap, DEFAULT_TEAM};
pub use cancel_jobs::CancelJobs;
pub use change_checkpoints::{ChangeCheckpoints, CheckpointAction, NAMES_MAX, NamedCheckpoint};
pub use change_settings::ChangeSettings;
pub use change_teams::{
    ChangeTeams, NewMember, RemoveTeam, SetBudget, SetMembers, SetQuota, SetTeam, TeamEdit,
    budget_text, exhausted_word, limit_texts, quota_text,
};
pub use checkpoints::{CopyNews, PartOf, SealedPart};
pub use decide::{
    Decide, DecisionEdit, POOL_TEXTS, SetMaintenance, SetOwner, SetPause, SetPool, SetSched,
};
pub use declare_node_lost::{DeclareNodeLost, LossProof};
pub use dirty_devices::DeviceNews;
pub use drop_late::{DROP_LATE_MAX, DropLate};
pub use hold_jobs::HoldJobs;
pub use preempt::{Preempt, PreemptVictim};
pub use register_node::RegisterNode;
pub use release_jobs::ReleaseJobs;
pub use renew_charges::{RENEW_CHARGES_MAX, RenewCharges};
pub use retry_jobs::RetryJobs;
pub use selection::{Filter, Selection};
pub use set_node_liveness::SetNodeLiveness;
pub use start_attempts::{Placement, StartAttempt, StartAttempts};
pub use submit_job::SubmitJob;
pub use supersede_attempt::SupersedeAttempt;
pub use update_jobs::UpdateJobs;
pub use withdraw::Withdraw;

use super::change::Change;
use super::records::{Actor, Reply};

/// One command of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// On whose behalf: made by the server, never the client's word.
    pub actor: Actor,
    /// Which program and address it came from, for people.
    pub source: String,
    /// The proposer's clock.
    pub time_ms: UtcMs,
    /// With it a repeated request of a person is answered as the first was.
    pub key: Option<IdempotencyKey>,
    /// What to do.
    pub body: Body,
}

/// Chosen by a client for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 16 random bytes.
    pub uuid: [u8; 16],
    /// BLAKE3 of the request without its key.
    pub request_hash: [u8; 32],
}

/// What a command does. Short-lived, one at a time: its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Sets the cluster up, once.
    Bootstrap(Bootstrap),
    /// Changes settings.
    ChangeSettings(ChangeSettings),
    /// A node is there, with these facts.
    RegisterNode(RegisterNode),
    /// A node fell silent or is heard again.
    SetNodeLiveness(SetNodeLiveness),
    /// A node is gone: what it held has ended.
    DeclareNodeLost(DeclareNodeLost),
    /// A user submits a job.
    SubmitJob(SubmitJob),
    /// A person ends jobs.
    CancelJobs(CancelJobs),
    /// A person tries jobs again.
    RetryJobs(RetryJobs),
    /// A person keeps checkpoints of a job, or removes them.
    ChangeCheckpoints(ChangeCheckpoints),
    /// The scheduler's plan.
    StartAttempts(StartAttempts),
    /// What happened on a node.
    AgentEvents(AgentEvents),
    /// Jobs that are over leave the tables.
    ArchiveJobs(ArchiveJobs),
    /// A successor takes over from an attempt in doubt.
    SupersedeAttempt(SupersedeAttempt),
    /// A person says that jobs shall not start.
    HoldJobs(HoldJobs),
    /// A person lets them start.
    ReleaseJobs(ReleaseJobs),
    /// A person changes jobs in place.
    UpdateJobs(UpdateJobs),
    /// Jobs whose deadline is over end.
    DropLate(DropLate),
    /// An admin changes teams, their quotas, budgets and members.
    ChangeTeams(ChangeTeams),
    /// An admin decides about scheduling.
    Decide(Decide),
    /// What attempts have committed at budgets is renewed.
    RenewCharges(RenewCharges),
    /// Some end, and what they hold is kept for one that is more entitled.
    Preempt(Preempt),
    /// Nothing is kept for some jobs any more.
    Withdraw(Withdraw),
}

impl Body {
    /// A person's request, whose accepted reply is remembered.
    pub fn of_person(&self) -> bool {
        match self {
            Self::SubmitJob(_)
            | Self::CancelJobs(_)
            | Self::RetryJobs(_)
            | Self::HoldJobs(_)
            | Self::ReleaseJobs(_)
            | Self::UpdateJobs(_)
            | Self::ChangeCheckpoints(_)
            | Self::ChangeTeams(_)
            | Self::Decide(_)
            | Self::ChangeSettings(_) => true,
            Self::DeclareNodeLost(lost) => lost.proof == LossProof::DeclaredByAdmin,
            _ => false,
        }
    }
}

/// What every command may look at beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Of the log entry.
    pub index: u64,
    /// State time.
    pub now_ms: UtcMs,
    /// On whose behalf.
    pub actor: &'a Actor,
}

impl Context<'_> {
    fn require_system(&self) -> Result<(), Refusal> {
        let why = "only coordinators and agents may do this, not a person";
        if self.actor.system {
            Ok(())
        } else {
            Err(Refusal::new(Code::Denied, why))
        }
    }

    fn require_person(&self) -> Result<(), Refusal> {
        let why =
            "only a person may do this: use a user's certificate (`mlctl admin user add NAME`)";
        if self.actor.system || self.actor.user_id.is_empty() {
            Err(Refusal::new(Code::Denied, why))
        } else {
            Ok(())
        }
    }

    fn require_admin(&self) -> Result<(), Refusal> {
        self.require_person()?;
        let why = || {
            format!(
                "{} is not an admin: ask one, or use an admin's context",
                mlctl_proto::ids::clip(&self.actor.name)
            )
        };
        if self.actor.admin {
            Ok(())
        } else {
            Err(Refusal::new(Code::Denied, why()))
        }
    }
}

/// Applies `command` to a state under change.
pub(super) fn run(change: &mut Change, index: u64, command: &Command) -> Result<Reply, Refusal> {
    let now_ms = match &command.body {
        Body::Bootstrap(_) => command.time_ms.max(change.state().now_ms()),
        _ => change.advance_clock(command.time_ms)?,
    };
    let context = Context {
        index,
        now_ms,
        actor: &command.actor,
    };
    remembered::purge(change, now_ms, remembered::PURGED_PER_COMMAND_MAX);
    let reply = match &command.body {
        Body::Bootstrap(body) => body.apply(change, &context),
        Body::ChangeSettings(body) => body.apply(change, &context),
        Body::RegisterNode(body) => body.apply(change, &context),
        Body::SetNodeLiveness(body) => body.apply(change, &context),
        Body::DeclareNodeLost(body) => body.apply(change, &context),
        Body::SubmitJob(body) => body.apply(change, &context),
        Body::CancelJobs(body) => body.apply(change, &context),
        Body::RetryJobs(body) => body.apply(change, &context),
        Body::ChangeCheckpoints(body) => body.apply(change, &context),
        Body::StartAttempts(body) => body.apply(change, &context),
        Body::AgentEvents(body) => body.apply(change, &context),
        Body::ArchiveJobs(body) => body.apply(change, &context),
        Body::SupersedeAttempt(body) => body.apply(change, &context),
        Body::HoldJobs(body) => body.apply(change, &context),
        Body::ReleaseJobs(body) => body.apply(change, &context),
        Body::UpdateJobs(body) => body.apply(change, &context),
        Body::DropLate(body) => body.apply(change, &context),
        Body::ChangeTeams(body) => body.apply(change, &context),
        Body::Decide(body) => body.apply(change, &context),
        Body::RenewCharges(body) => body.apply(change, &context),
        Body::Preempt(body) => body.apply(change, &context),
        Body::Withdraw(body) => body.apply(change, &context),
    }?;
    dependencies::settle(change, now_ms)?;
    holds::settle(change, now_ms);
    remembered::remember(change, command, now_ms, &reply);
    Ok(reply)
}

/// Refuses a text that is empty or longer than `most` bytes.
fn bounded(what: &str, text: &str, most: usize) -> Result<(), Refusal> {
    if (1..=most).contains(&text.len()) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::BadRequest,
        format!("{what} has {} bytes: use 1 to {most}", text.len()),
    ))
}
