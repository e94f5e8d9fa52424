//! I12: the ranks of an attempt start only when every node of its gang has prepared its part.
//! Does NOT ask who told them to go.

use std::collections::BTreeSet;

use mlctl_coordinator::state::State;

use super::{Checked, Key, ensure};

/// Which nodes got ready for which attempts.
#[derive(Debug, Default)]
pub struct Gangs {
    prepared: BTreeSet<(Key, String)>,
}

impl Gangs {
    /// A keeper of the attempt is there on `node`.
    pub fn prepared(&mut self, node: &str, key: Key) {
        self.prepared.insert((key, node.to_owned()));
    }

    /// Ranks of the attempt begin to run somewhere. `state` is the furthest that is committed.
    ///
    /// # Errors
    /// When a node of the gang has never been ready for it.
    pub fn started(&self, state: &State, key: Key) -> Checked {
        let (job, epoch) = key;
        let attempt = state.attempt(job, epoch);
        let members = attempt.map_or(&[][..], |attempt| &attempt.allocations);
        for member in members.iter().map(|one| &one.node) {
            let ready = self.prepared.contains(&(key, member.clone()));
            ensure(ready, "I12", || {
                format!("ranks of job {job} epoch {epoch} start before {member} is ready")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::ids::{Epoch, JobId};

    #[test]
    fn a_node_that_was_ready_is_remembered_for_its_attempt_only() {
        let key = (JobId::new(1, 1), Epoch::new(1, 1));
        let mut gangs = Gangs::default();
        gangs.prepared("n1", key);
        assert!(gangs.prepared.contains(&(key, "n1".into())));
        assert!(
            !gangs
                .prepared
                .contains(&((key.0, Epoch::new(1, 2)), "n1".into()))
        );
        assert!(
            gangs.started(&State::new(), key).is_ok(),
            "nothing is committed: I2' says so"
        );
    }
}
