//! A node that another one has just heard is not taken for lost before `lost_after`.
//! Does NOT ask whether it was silent to its leader: see `judged`.

use std::collections::BTreeMap;

use super::{Checked, ensure};

/// A leader that was told that a node is there asks nobody for it again so soon, milliseconds; with what clocks differ by.
const HEARD_WITHIN_MS: u64 = 2_000;

/// What witnesses said.
#[derive(Debug, Default)]
pub struct Witnessed {
    /// When a node was last heard by a witness.
    seen_at: BTreeMap<String, u64>,
}

impl Witnessed {
    /// A witness says whether it hears `node`.
    pub fn testifies(&mut self, node: &str, seen: bool, now: u64) {
        if seen {
            self.seen_at.insert(node.to_owned(), now);
        }
    }

    /// `node` is given up because witnesses do not hear it.
    ///
    /// # Errors
    /// When one of them has just heard it.
    pub fn lost(&self, node: &str, now: u64) -> Checked {
        let seen = self.seen_at.get(node).copied();
        let heard = seen.is_some_and(|seen| now < seen + HEARD_WITHIN_MS);
        ensure(!heard, "witness", || {
            let ago = now - seen.unwrap_or(0);
            format!("{node} was given up {ago} ms after a witness had heard it")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_heard_a_moment_ago_is_there() {
        let mut witnessed = Witnessed::default();
        witnessed.testifies("a", true, 1_000);
        witnessed.testifies("b", false, 1_000);
        assert!(witnessed.lost("a", 2_999).is_err());
        assert!(witnessed.lost("a", 3_000).is_ok());
        assert!(witnessed.lost("b", 1_001).is_ok());
    }
}
