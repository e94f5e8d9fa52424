//! A working copy of what is decided, on which edits are tried: what each of them does is noted for people. Checks what holds of all together; what holds of
//! one edit is checked where it is.
use std::collections::BTreeMap;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::limits::{DECISIONS_MAX, REASON_BYTES_MAX};
use mlctl_proto::units::UtcMs;

use super::refused;
use crate::state::State;
use crate::state::change::Change;
use crate::state::codec::Record;
use crate::state::commands::Context;
use crate::state::records::{Decider, Decision, DecisionKey, Reply, SchedKey, TeamChange};
use crate::state::rules::sched;
use crate::state::view::policy::SchedSettings;

/// Decisions under change.
pub struct Draft<'a> {
    /// As it was.
    pub state: &'a State,
    /// State time.
    pub now_ms: UtcMs,
    index: u64,
    by: Decider,
    touched: BTreeMap<DecisionKey, Option<Decision>>,
    changes: Vec<TeamChange>,
    notes: Vec<String>,
}

impl<'a> Draft<'a> {
    /// Of the decisions of `state`. What is over by itself is taken out first.
    pub fn new(state: &'a State, context: &Context) -> Self {
        let now_ms = context.now_ms;
        let over = |one: &Decision| match one {
            Decision::Pause(pause) => !pause.holds(now_ms),
            Decision::Maintenance(one) => one.until_ms <= now_ms,
            _ => false,
        };
        let gone = state.decisions().filter(|one| over(one));
        Self {
            state,
            now_ms,
            index: context.index,
            by: Decider {
                user_id: context.actor.user_id.clone(),
                name: context.actor.name.clone(),
                at_ms: now_ms,
            },
            touched: gone.map(|one| (one.key(), None)).collect(),
            changes: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Who decides.
    pub fn by(&self) -> Decider {
        self.by.clone()
    }

    /// What is decided of one thing, with the edits so far.
    pub fn get(&self, key: &DecisionKey) -> Option<&Decision> {
        match self.touched.get(key) {
            Some(touched) => touched.as_ref(),
            None => self.state.decision(key).map(AsRef::as_ref),
        }
    }

    /// Everything that is decided, with the edits so far.
    pub fn all(&self) -> impl Iterator<Item = &Decision> {
        let kept = self.state.decisions().map(AsRef::as_ref);
        let kept = kept.filter(|one| !self.touched.contains_key(&one.key()));
        kept.chain(self.touched.values().flatten())
    }

    /// Writes a decision.
    pub fn put(&mut self, decision: Decision) {
        self.touched.insert(decision.key(), Some(decision));
    }

    /// Takes one back.
    pub fn remove(&mut self, key: DecisionKey) {
        self.touched.insert(key, None);
    }

    /// Notes what was done, unless nothing was.
    pub fn change(&mut self, about: &str, what: &str, before: String, after: String) {
        if before != after {
            self.changes.push(TeamChange {
                team: about.to_owned(),
                what: what.to_owned(),
                before,
                after,
            });
        }
    }

    /// Something to say about it.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// The scheduler's settings, with the edits so far.
    pub fn scheduling(&self) -> SchedSettings {
        let mut settings = SchedSettings::default();
        for key in SchedKey::ALL {
            if let Some(Decision::Setting(key, values)) = self.get(&DecisionKey::Setting(key)) {
                sched::put(&mut settings, *key, values);
            }
        }
        settings
    }

    /// A number for a new time of maintenance: it was never another's, and is the log's, as far as that has one for each.
    pub fn fresh_id(&self) -> u64 {
        let ids = self.all().filter_map(|one| match one {
            Decision::Maintenance(one) => Some(one.id),
            _ => None,
        });
        let newest = ids.chain(self.cancelled()).max();
        newest.map_or(self.index, |newest| {
            newest.saturating_add(1).max(self.index)
        })
    }

    /// Times of maintenance that this command takes back, or that are over.
    fn cancelled(&self) -> impl Iterator<Item = u64> {
        self.touched.keys().filter_map(|key| match key {
            DecisionKey::Maintenance(id) => Some(*id),
            _ => None,
        })
    }

    /// Whether a node is there.
    pub fn knows_node(&self, name: &str) -> Result<(), Refusal> {
        if self.state.node(name).is_some() {
            return Ok(());
        }
        let why = format!("there is no node {}: `mlctl nodes` lists all", clip(name));
        Err(Refusal::new(Code::NotFound, why))
    }

    /// Whether a pool has a name that one may have; says so if no node is in it.
    pub fn knows_pool(&mut self, name: &str) -> Result<(), Refusal> {
        if let Err(error) = mlctl_proto::ids::check_name(name) {
            return Err(refused(format!("the pool {error}")));
        }
        if !self.state.nodes().any(|node| node.facts.pool == name) {
            self.note(format!("no node is in pool {name} yet"));
        }
        Ok(())
    }

    /// Checks what holds of all together.
    ///
    /// # Errors
    /// Settings that contradict each other, or more decisions than there may be.
    pub fn check(&self) -> Result<(), Refusal> {
        sched::agree(&self.scheduling()).map_err(refused)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for one in self.all() {
            let kind = match one {
                Decision::License(..) => "countables",
                Decision::Pause(_) => "pauses",
                Decision::Maintenance(_) => "times of maintenance",
                Decision::Pool(_) => "pools with rules",
                // At most one for each setting and node.
                Decision::Setting(..) | Decision::Owner(_) => continue,
            };
            *counts.entry(kind).or_default() += 1;
        }
        match counts.into_iter().find(|(_, count)| *count > DECISIONS_MAX) {
            None => Ok(()),
            Some((kind, count)) => {
                let why = format!("there would be {count} {kind}; at most {DECISIONS_MAX}");
                Err(Refusal::new(Code::LimitExceeded, why))
            }
        }
    }

    /// Does it, and says what it did.
    pub fn write(self, change: &mut Change) -> Reply {
        for (key, decision) in self.touched {
            match decision {
                Some(decision) => change.put_decision(decision),
                None => change.remove_decision(&key),
            }
        }
        let mut notes = self.notes;
        if self.changes.is_empty() {
            notes.push("everything was so already".into());
        }
        Reply::Decided {
            changes: self.changes,
            notes,
        }
    }
}

/// Refuses a reason that says nothing, too much, or what cannot be shown.
pub fn check_reason(what: &str, reason: &str) -> Result<(), Refusal> {
    if reason.trim().is_empty() {
        let why = format!("say why {what}: `--reason` is shown to everybody whom it concerns");
        return Err(refused(why));
    }
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        let why = format!("a reason has at most {REASON_BYTES_MAX} bytes, in one line");
        return Err(refused(why));
    }
    Ok(())
}

/// The end of a time that begins at `from_ms`.
pub fn end_of(from_ms: UtcMs, for_ms: u64) -> Result<UtcMs, Refusal> {
    let length = i64::try_from(for_ms).ok();
    let end = length.and_then(|length| from_ms.checked_add(length));
    end.ok_or_else(|| refused("it would end after all time: use a shorter one"))
}
