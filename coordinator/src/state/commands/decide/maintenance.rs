//! SetMaintenance and Cancel: times at which nothing shall run on a node, or in a pool. Jobs that would not be over by then do not start there; what runs is
//! not ended by it.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::units::UtcMs;

use super::draft::{Draft, check_reason, end_of};
use super::refused;
use crate::state::records::{Decision, DecisionKey, Maintenance, Target, length_text, moment_text};

/// The longest, milliseconds: 90 days. What is away for longer is retired.
const LENGTH_MS_MAX: u64 = 90 * 86_400_000;

/// A time of maintenance, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetMaintenance {
    /// Where.
    pub target: Target,
    /// From when; 0: from now on.
    pub from_ms: UtcMs,
    /// How long, milliseconds.
    pub for_ms: u64,
    /// Why.
    pub reason: String,
}

impl SetMaintenance {
    pub(super) fn edit(&self, draft: &mut Draft) -> Result<(), Refusal> {
        match &self.target {
            Target::Node(name) => draft.knows_node(name)?,
            Target::Pool(name) => draft.knows_pool(name)?,
        }
        check_reason("it is maintained", &self.reason)?;
        if !(1_000..=LENGTH_MS_MAX).contains(&self.for_ms) {
            let most = length_text(LENGTH_MS_MAX);
            return Err(refused(format!("maintenance takes 1s to {most}")));
        }
        let from_ms = match self.from_ms {
            0 => draft.now_ms,
            from => from,
        };
        let until_ms = end_of(from_ms, self.for_ms)?;
        if until_ms <= draft.now_ms {
            return Err(refused(format!(
                "it would be over since {}: name a time that lies ahead",
                moment_text(until_ms)
            )));
        }
        let one = Maintenance {
            id: draft.fresh_id(),
            target: self.target.clone(),
            from_ms,
            until_ms,
            reason: self.reason.clone(),
            by: draft.by(),
        };
        let what = format!("maintenance {}", one.id);
        draft.change(&one.target.text(), &what, String::new(), text(&one));
        let meant = |name: &str, pool: &str| match &self.target {
            Target::Node(node) => node == name,
            Target::Pool(wanted) => wanted == pool,
        };
        let nodes = draft.state.nodes().map(|node| &node.facts);
        let nodes = nodes.filter(|facts| meant(&facts.name, &facts.pool));
        let held = nodes.map(|facts| draft.state.open_allocations_on(&facts.name).len());
        let held: usize = held.sum();
        if held > 0 {
            draft.note(format!(
                "{held} allocations run there now: what is not over by {} runs on, end it with `mlctl cancel`",
                moment_text(from_ms)
            ));
        }
        draft.put(Decision::Maintenance(one));
        Ok(())
    }
}

/// Takes a time of maintenance back, also one that has begun.
pub(super) fn cancel(draft: &mut Draft, id: u64) -> Result<(), Refusal> {
    let key = DecisionKey::Maintenance(id);
    let Some(Decision::Maintenance(one)) = draft.get(&key).cloned() else {
        let why = format!(
            "there is no maintenance {id} that is not over: `mlctl node maintenance` lists all"
        );
        return Err(Refusal::new(Code::NotFound, why));
    };
    let what = format!("maintenance {id}");
    draft.change(&one.target.text(), &what, text(&one), String::new());
    draft.remove(key);
    Ok(())
}

fn text(one: &Maintenance) -> String {
    let (from, until) = (moment_text(one.from_ms), moment_text(one.until_ms));
    format!("{from} to {until} ({}: {})", one.by.name, one.reason)
}
