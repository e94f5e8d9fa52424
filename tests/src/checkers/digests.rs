//! I5: the same digest at the same index on all members, also after a restart and after a snapshot.
//! Does NOT say which row differs.

use std::collections::BTreeMap;

use mlctl_coordinator::state::Digest;

use super::{Checked, ensure};

/// The digest that was first seen at each index.
#[derive(Debug, Default)]
pub struct Digests {
    at: BTreeMap<u64, Digest>,
}

impl Digests {
    /// `member` holds a state with this digest at `index`.
    ///
    /// # Errors
    /// When another one was seen there.
    pub fn saw(&mut self, member: u64, index: u64, digest: Digest) -> Checked {
        let first = *self.at.entry(index).or_insert(digest);
        ensure(first == digest, "I5", || {
            format!("at index {index} member {member} has digest {digest}, another had {first}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_digest_an_index() {
        let mut digests = Digests::default();
        let (one, two) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        assert!(digests.saw(1, 7, one).is_ok() && digests.saw(2, 7, one).is_ok());
        assert!(digests.saw(3, 7, two).is_err() && digests.saw(3, 8, two).is_ok());
    }
}
