//! I6: in one process the applied index never goes back and every entry is applied exactly once.
//! Does NOT look at what an entry does.

use std::collections::BTreeMap;

use super::{Checked, ensure};

/// The newest index that each running member has applied.
#[derive(Debug, Default)]
pub struct Applied {
    last: BTreeMap<u64, u64>,
}

impl Applied {
    /// `member` starts with a state of `index`.
    pub fn started(&mut self, member: u64, index: u64) {
        self.last.insert(member, index);
    }

    /// A snapshot of `index` replaced the state of `member`.
    ///
    /// # Errors
    /// When that takes it back.
    pub fn restored(&mut self, member: u64, index: u64) -> Checked {
        let last = self.last.insert(member, index).unwrap_or(0);
        ensure(index >= last, "I6", || {
            format!("member {member} went back from {last} to a snapshot of {index}")
        })
    }

    /// `member` applied the entry `index`, and its state now says `state_index`.
    ///
    /// # Errors
    /// When it is not the next one, or the state says another index.
    pub fn applied(&mut self, member: u64, index: u64, state_index: u64) -> Checked {
        let last = self.last.insert(member, index).unwrap_or(0);
        ensure(index == last + 1, "I6", || {
            format!("member {member} applied {index} after {last}")
        })?;
        ensure(state_index == index, "I6", || {
            format!("member {member} applied {index}, but its state says {state_index}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_entry_passes() {
        let check = |index, state_index| {
            let mut applied = Applied::default();
            applied.started(1, 4);
            applied.applied(1, index, state_index).is_ok()
        };
        assert!(check(5, 5));
        assert!(!check(4, 4) && !check(6, 6) && !check(5, 4));
        let mut applied = Applied::default();
        applied.started(1, 4);
        assert!(applied.restored(1, 9).is_ok() && applied.restored(1, 8).is_err());
    }
}
