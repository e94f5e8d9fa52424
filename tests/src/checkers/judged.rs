//! A new leader judges nobody at once: no node becomes Unreachable or Lost by a leader that was elected a moment ago.
//! Does NOT ask whether the node was silent.

use std::collections::BTreeMap;

use mlctl_coordinator::state::State;
use mlctl_coordinator::state::records::Liveness;

use super::{Checked, ensure};

/// When each term was won.
#[derive(Debug, Default)]
pub struct Judged {
    won_at: BTreeMap<u64, u64>,
}

impl Judged {
    /// Somebody leads `term`.
    pub fn leads(&mut self, term: u64, now: u64) {
        self.won_at.entry(term).or_insert(now);
    }

    /// One entry of `term` took `before` to `after`.
    ///
    /// # Errors
    /// When it gives up a node although half of the period of silence has not passed since the term was won. Half, because
    /// clocks of machines run at different rates.
    pub fn step(&self, before: &State, after: &State, term: u64, now: u64) -> Checked {
        let Some(settings) = after.settings() else {
            return Ok(());
        };
        let won = self.won_at.get(&term).copied().unwrap_or(0);
        if now - won >= u64::from(settings.timers.node_timeout_ms) / 2 {
            return Ok(());
        }
        for node in after.nodes() {
            let name = &node.facts.name;
            let was = before.node(name).map(|node| node.liveness);
            let given_up = was == Some(Liveness::Ready)
                && matches!(node.liveness, Liveness::Unreachable | Liveness::Lost);
            ensure(!given_up, "silence", || {
                let passed = now - won;
                format!("{name} was given up {passed} ms after term {term} was won")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_coordinator::state::commands::{
        Bootstrap, Command, DeclareNodeLost, LossProof, RegisterNode, SetNodeLiveness,
    };
    use mlctl_coordinator::state::records::{Actor, NodeFacts, Retention, Timers};
    use mlctl_coordinator::state::{Body, State};

    fn after(state: &State, body: Body) -> State {
        let mut state = state.clone();
        let actor = Actor {
            user_id: "leader".into(),
            name: "leader".into(),
            admin: false,
            system: true,
        };
        let command = Command {
            actor,
            source: "test".into(),
            time_ms: 1,
            key: None,
            body,
        };
        let applied = state.apply(state.applied_index() + 1, &command);
        assert_eq!(applied.refusal(), None);
        state
    }

    fn ready() -> State {
        let bootstrap = Bootstrap {
            cluster_id: "test".into(),
            cluster_name: "test".into(),
            incarnation: 1,
            dev: true,
            allow_root: true,
            timers: Timers::DEV,
            retention: Retention::default(),
        };
        let facts = NodeFacts {
            name: "n1".into(),
            boot_id: "boot".into(),
            pool: "default".into(),
            cpus: 1,
            ..NodeFacts::default()
        };
        let journal_id = "journal".to_owned();
        let state = after(&State::new(), Body::Bootstrap(bootstrap));
        after(
            &state,
            Body::RegisterNode(RegisterNode { facts, journal_id }),
        )
    }

    #[test]
    fn whoever_was_just_elected_gives_nobody_up() {
        let (node, boot_id) = ("n1".to_owned(), "boot".to_owned());
        let silent = Body::SetNodeLiveness(SetNodeLiveness {
            node: node.clone(),
            boot_id: boot_id.clone(),
            liveness: Liveness::Unreachable,
        });
        let lost = Body::DeclareNodeLost(DeclareNodeLost {
            node,
            boot_id,
            proof: LossProof::LostAfter,
        });
        let half = u64::from(Timers::DEV.node_timeout_ms) / 2;
        let before = ready();
        for body in [silent, lost] {
            let given_up = after(&before, body);
            let check = |now| {
                let mut judged = Judged::default();
                judged.leads(3, 10_000);
                judged.leads(3, 90_000);
                judged.step(&before, &given_up, 3, now).is_ok()
            };
            assert!(!check(10_000) && !check(10_000 + half - 1) && check(10_000 + half));
        }
        let early = Judged::default().step(&before, &before, 3, 0);
        assert!(early.is_ok(), "nothing changed");
    }
}
