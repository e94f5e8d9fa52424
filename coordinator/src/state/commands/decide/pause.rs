//! SetPause and Resume: something does not happen by itself for a while, everywhere or in one pool. A pause of the same thing there replaces the one before it.
use mlctl_proto::errors::{Code, Refusal};

use super::draft::{Draft, check_reason, end_of};
use crate::state::records::{Automatic, Decision, DecisionKey, Pause};

/// A pause, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPause {
    /// Of what.
    pub what: Automatic,
    /// In which pool; empty: everywhere.
    pub pool: String,
    /// How long, milliseconds; 0: until somebody resumes it.
    pub for_ms: u64,
    /// Why.
    pub reason: String,
}

impl SetPause {
    pub(super) fn edit(&self, draft: &mut Draft) -> Result<(), Refusal> {
        let word = self.what.word();
        check_reason(&format!("{word} shall pause"), &self.reason)?;
        if !self.pool.is_empty() {
            draft.knows_pool(&self.pool)?;
        }
        let until_ms = match self.for_ms {
            0 => 0,
            length => end_of(draft.now_ms, length)?,
        };
        let pause = Pause {
            what: self.what,
            pool: self.pool.clone(),
            until_ms,
            reason: self.reason.clone(),
            by: draft.by(),
        };
        let before = text_of(draft, self.what, &self.pool);
        draft.change(&about(&self.pool), word, before, pause.how());
        draft.put(Decision::Pause(pause));
        Ok(())
    }
}

/// Something happens again.
pub(super) fn resume(draft: &mut Draft, what: Automatic, pool: &str) -> Result<(), Refusal> {
    let before = text_of(draft, what, pool);
    if before.is_empty() {
        let place = match pool {
            "" => String::new(),
            pool => format!(" in pool {}", mlctl_proto::ids::clip(pool)),
        };
        let why = format!(
            "{} is not paused{place}: `mlctl admin show` lists what is",
            what.word()
        );
        return Err(Refusal::new(Code::Conflict, why));
    }
    draft.change(&about(pool), what.word(), before, String::new());
    draft.remove(DecisionKey::Pause(what, pool.to_owned()));
    let everywhere = !pool.is_empty() && !text_of(draft, what, "").is_empty();
    if everywhere {
        draft.note(format!(
            "{} stays paused there: it is paused everywhere",
            what.word()
        ));
    }
    Ok(())
}

fn about(pool: &str) -> String {
    match pool {
        "" => "everywhere".into(),
        pool => format!("pool {pool}"),
    }
}

/// The pause that there is; empty: none.
fn text_of(draft: &Draft, what: Automatic, pool: &str) -> String {
    match draft.get(&DecisionKey::Pause(what, pool.to_owned())) {
        Some(Decision::Pause(pause)) => pause.how(),
        _ => String::new(),
    }
}
