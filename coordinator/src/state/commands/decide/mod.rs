//! Decide: an admin decides about scheduling: settings, countables, pauses, maintenance, owners of nodes, rules of pools. Any number of edits, all of them or
//! none, in force at once. What each may do is in the file of its name. Nothing that runs is ended by it.
mod draft;
mod maintenance;
mod nodes;
mod pause;
mod settings;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::DECISION_EDITS_MAX;
use mlctl_proto::units::UtcMs;

pub use maintenance::SetMaintenance;
pub use nodes::{SetOwner, SetPool, TEXTS as POOL_TEXTS};
pub use pause::SetPause;
pub use settings::SetSched;

use super::Context;
use crate::state::change::Change;
use crate::state::records::{Automatic, Reply, TeamUsage};
use crate::state::rules::decay;
use draft::Draft;

/// Edits, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decide {
    /// Each on what those before it have left.
    pub edits: Vec<DecisionEdit>,
}

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionEdit {
    /// A setting of the scheduler.
    Setting(SetSched),
    /// So many there are of a named countable; `None`: there are none any more.
    License(String, Option<u32>),
    /// Something stops happening by itself.
    Pause(SetPause),
    /// It happens again, in a pool; empty: everywhere.
    Resume(Automatic, String),
    /// A time of maintenance.
    Maintenance(SetMaintenance),
    /// One less.
    Cancel(u64),
    /// Whose a node is.
    Owner(SetOwner),
    /// Who may run what in a pool.
    Pool(SetPool),
}

impl DecisionEdit {
    fn edit(&self, draft: &mut Draft) -> Result<(), Refusal> {
        match self {
            Self::Setting(set) => set.edit(draft),
            Self::License(name, total) => settings::license(draft, name, *total),
            Self::Pause(set) => set.edit(draft),
            Self::Resume(what, pool) => pause::resume(draft, *what, pool),
            Self::Maintenance(set) => set.edit(draft),
            Self::Cancel(id) => maintenance::cancel(draft, *id),
            Self::Owner(set) => set.edit(draft),
            Self::Pool(set) => set.edit(draft),
        }
    }
}

impl Decide {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_admin()?;
        if self.edits.is_empty() {
            let why = "the request changes nothing";
            return Err(Refusal::new(Code::BadRequest, why));
        }
        if self.edits.len() > DECISION_EDITS_MAX {
            let why = format!(
                "{} changes at once; at most {DECISION_EDITS_MAX}: make several requests of it",
                self.edits.len()
            );
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        let state = change.state().clone();
        let mut draft = Draft::new(&state, context);
        for edit in &self.edits {
            edit.edit(&mut draft)?;
        }
        draft.check()?;
        let reply = draft.write(change);
        fade_anew(change, state.half_life_ms(), context.now_ms);
        change.replan();
        Ok(reply)
    }
}

/// What has been used fades with another half-life from now on, if that was decided.
fn fade_anew(change: &mut Change, before_ms: i64, now_ms: UtcMs) {
    let after_ms = change.state().half_life_ms();
    if after_ms == before_ms {
        return;
    }
    let rows: Vec<TeamUsage> = (change.state().usages())
        .map(|row| TeamUsage::clone(row))
        .collect();
    for row in rows {
        let usage = decay::rebased(row.usage, now_ms, before_ms, after_ms);
        change.put_usage(TeamUsage { usage, ..row });
    }
}

/// A request that makes no sense, and why.
fn refused(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, why)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
