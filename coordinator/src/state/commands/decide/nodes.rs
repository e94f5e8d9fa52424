//! SetOwner: whose a node is, and what others may do there. SetPool: who may run what in a pool, and who may share a device there. Nothing that runs is ended by
//! either.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::limits::GRACE_MS_MAX;
use mlctl_proto::spec::Class;

use super::draft::Draft;
use super::refused;
use crate::state::records::{
    Decision, DecisionKey, NodeOwner, PoolRules, guests_word, length_text, sharing_word,
};
use crate::state::view::nodes::{Guests, Sharing};

/// Teams that a pool names.
const TEAMS_MAX: usize = 64;
/// The longest time that a pool lets jobs run, milliseconds.
const TIME_MS_MAX: u64 = 366 * 86_400_000;

/// An owner of a node, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetOwner {
    /// The node.
    pub node: String,
    /// The team; empty: it is nobody's.
    pub team: String,
    /// Who else may run there.
    pub guests: Guests,
    /// The longest notice that guests get, milliseconds; 0: that of their class.
    pub guest_grace_ms: u64,
}

impl SetOwner {
    pub(super) fn edit(&self, draft: &mut Draft) -> Result<(), Refusal> {
        draft.knows_node(&self.node)?;
        let key = DecisionKey::Owner(self.node.clone());
        let before = match draft.get(&key) {
            Some(Decision::Owner(owner)) => text(owner),
            _ => String::new(),
        };
        let about = format!("node {}", self.node);
        if self.team.is_empty() {
            draft.change(&about, "owner", before, String::new());
            draft.remove(key);
            return Ok(());
        }
        knows_team(draft, &self.team)?;
        if self.guest_grace_ms > GRACE_MS_MAX {
            return Err(refused(format!(
                "a notice of {} for guests: use at most {}",
                length_text(self.guest_grace_ms),
                length_text(GRACE_MS_MAX)
            )));
        }
        let owner = NodeOwner {
            node: self.node.clone(),
            team: self.team.clone(),
            guests: self.guests,
            guest_grace_ms: self.guest_grace_ms,
            by: draft.by(),
        };
        draft.change(&about, "owner", before, text(&owner));
        draft.put(Decision::Owner(owner));
        Ok(())
    }
}

fn knows_team(draft: &Draft, team: &str) -> Result<(), Refusal> {
    if draft.state.team(team).is_some() {
        return Ok(());
    }
    let why = format!(
        "there is no team `{}`: `mlctl team ls` lists all",
        clip(team)
    );
    Err(Refusal::new(Code::NotFound, why))
}

fn text(owner: &NodeOwner) -> String {
    let grace = match owner.guest_grace_ms {
        0 => String::new(),
        ms => format!(", guests get {} notice", length_text(ms)),
    };
    format!(
        "{}, guests {}{grace}",
        owner.team,
        guests_word(owner.guests)
    )
}

/// Rules of a pool: what is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetPool {
    /// The pool.
    pub pool: String,
    /// These teams and those in them; empty: all.
    pub teams: Option<Vec<String>>,
    /// Jobs of these classes; empty: all.
    pub classes: Option<Vec<Class>>,
    /// Jobs that say that they run no longer, milliseconds; 0: any.
    pub max_time_ms: Option<u64>,
    /// How devices may be shared.
    pub sharing: Option<Sharing>,
}

impl SetPool {
    pub(super) fn edit(&self, draft: &mut Draft) -> Result<(), Refusal> {
        draft.knows_pool(&self.pool)?;
        let key = DecisionKey::Pool(self.pool.clone());
        let before = match draft.get(&key) {
            Some(Decision::Pool(rules)) => rules.clone(),
            _ => PoolRules {
                pool: self.pool.clone(),
                ..PoolRules::default()
            },
        };
        let mut after = before.clone();
        if let Some(teams) = &self.teams {
            if teams.len() > TEAMS_MAX {
                return Err(refused(format!(
                    "{} teams for a pool; at most {TEAMS_MAX}: name the teams that they are in",
                    teams.len()
                )));
            }
            teams.iter().try_for_each(|team| knows_team(draft, team))?;
            after.teams = sorted(teams);
        }
        if let Some(classes) = &self.classes {
            after.classes = sorted(classes);
        }
        if let Some(most) = self.max_time_ms {
            if most > TIME_MS_MAX || (1..1_000).contains(&most) {
                return Err(refused(
                    "the time that jobs may run in a pool: use 1s to 366d",
                ));
            }
            after.max_time_ms = most;
        }
        after.sharing = self.sharing.unwrap_or(after.sharing);
        let about = format!("pool {}", self.pool);
        for (what, text) in TEXTS {
            draft.change(&about, what, text(&before), text(&after));
        }
        match after.says_nothing() {
            true => draft.remove(key),
            false => draft.put(Decision::Pool(after)),
        }
        Ok(())
    }
}

type Text = fn(&PoolRules) -> String;

/// Every rule of a pool, by the word under which an admin sets it, as people read and write it; empty: nothing is said.
pub const TEXTS: [(&str, Text); 4] = [
    ("teams", |rules| rules.teams.join(",")),
    ("classes", |rules| {
        let words = rules.classes.iter().map(|class| class.word());
        words.collect::<Vec<_>>().join(",")
    }),
    ("max_time", |rules| match rules.max_time_ms {
        0 => String::new(),
        ms => length_text(ms),
    }),
    ("share", |rules| match rules.sharing {
        Sharing::User => String::new(),
        other => sharing_word(other).to_owned(),
    }),
];

fn sorted<T: Ord + Clone>(all: &[T]) -> Vec<T> {
    let mut all = all.to_vec();
    all.sort();
    all.dedup();
    all
}
