//! A lease is true: when the heartbeat that it answers arrived, no later term had committed anything yet.
//! Does NOT ask how the leader made sure of that.

use std::collections::BTreeMap;

use super::{Checked, ensure};

/// When heartbeats arrived, and when each term was first seen to commit.
#[derive(Debug, Default)]
pub struct Leases {
    committed_at: BTreeMap<u64, u64>,
    /// (stream, number) to when the leader's process took it in.
    arrived_at: BTreeMap<(u64, u64), u64>,
}

impl Leases {
    /// An entry of `term` is committed.
    pub fn committed(&mut self, term: u64, now: u64) {
        self.committed_at.entry(term).or_insert(now);
    }

    /// A coordinator takes the heartbeat `seq` of a stream in.
    pub fn arrived(&mut self, stream: u64, seq: u64, now: u64) {
        self.arrived_at.insert((stream, seq), now);
    }

    /// An agent counts on a lease that the leader of `term` gave for that heartbeat.
    ///
    /// # Errors
    /// When a later term had committed before the heartbeat arrived: its leader led no more.
    pub fn counted(&mut self, stream: u64, seq: u64, term: u64) -> Checked {
        let Some(arrived) = self.arrived_at.remove(&(stream, seq)) else {
            return ensure(false, "lease", || {
                format!("heartbeat {seq} was answered and never arrived")
            });
        };
        let mut later = self.committed_at.range(term + 1..);
        let over = later.find(|(_, at)| **at < arrived);
        ensure(over.is_none(), "lease", || {
            format!(
                "the leader of term {term} answered a heartbeat of {arrived} ms, but {over:?} (term, ms) had committed before"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_term_ends_the_leases_of_the_earlier() {
        let check = |arrived, term| {
            let mut leases = Leases::default();
            leases.committed(2, 100);
            leases.committed(4, 500);
            leases.committed(4, 900);
            leases.arrived(7, 1, arrived);
            leases.counted(7, 1, term).is_ok()
        };
        assert!(check(90, 1) && check(100, 1) && check(499, 2) && check(900, 4));
        assert!(!check(101, 1) && !check(501, 2) && !check(501, 3));
        assert!(Leases::default().counted(7, 1, 1).is_err());
    }
}
