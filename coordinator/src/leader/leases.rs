//! PURE: a heartbeat is answered only after a read round that began after it arrived. One round serves all that wait.
//!
//! The answer is a lease: it proves that this leader still led when the heartbeat was here. Counting the lease is the
//! agent's business; running the round is the driver's.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use super::liveness::Mono;

/// A heartbeat that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The node.
    pub node: String,
    /// Its stream: an answer never goes to a later one.
    pub link: u64,
    /// The heartbeat's number.
    pub seq: u64,
}

/// Heartbeats and the round that answers them.
#[derive(Debug)]
pub struct Leases {
    gap_ms: u64,
    began: Option<Mono>,
    in_flight: bool,
    /// They arrived before the round in flight began.
    covered: Vec<Waiting>,
    /// They arrived after it began.
    next: Vec<Waiting>,
}

impl Leases {
    /// Rounds begin at least `gap_ms` apart.
    pub fn new(gap_ms: u64) -> Self {
        Self {
            gap_ms,
            began: None,
            in_flight: false,
            covered: Vec::new(),
            next: Vec::new(),
        }
    }

    /// A heartbeat arrived. An older one of the same stream needs no answer of its own.
    pub fn arrived(&mut self, heartbeat: Waiting) {
        let same = |old: &&mut Waiting| old.node == heartbeat.node;
        match self.next.iter_mut().find(same) {
            Some(old) => *old = heartbeat,
            None => self.next.push(heartbeat),
        }
    }

    /// Whether a round has to begin `now`; then it has begun.
    pub fn begin(&mut self, now: Mono) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        self.covered = std::mem::take(&mut self.next);
        self.in_flight = true;
        self.began = Some(now);
        true
    }

    /// When the next round may begin, if one is wanted and none runs.
    pub fn due(&self) -> Option<Mono> {
        let wanted = !self.in_flight && !self.next.is_empty();
        wanted.then(|| self.began.map_or(0, |began| began + self.gap_ms))
    }

    /// The round ended. The heartbeats to answer; none when it failed: those nodes ask again.
    pub fn ended(&mut self, confirmed: bool) -> Vec<Waiting> {
        self.in_flight = false;
        let covered = std::mem::take(&mut self.covered);
        if confirmed { covered } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(node: &str, seq: u64) -> Waiting {
        Waiting {
            node: node.into(),
            link: 1,
            seq,
        }
    }

    #[test]
    fn a_round_answers_only_what_arrived_before_it() {
        let mut leases = Leases::new(500);
        assert!(!leases.begin(10), "nobody waits");
        leases.arrived(beat("a", 1));
        assert!(leases.begin(10));
        leases.arrived(beat("b", 1));
        assert!(!leases.begin(2_000), "one at a time");
        assert_eq!(leases.ended(true), [beat("a", 1)]);
        assert_eq!(leases.due(), Some(510));
        assert!(!leases.begin(509), "too soon");
        assert!(leases.begin(510));
        assert_eq!(leases.ended(true), [beat("b", 1)]);
        assert_eq!(leases.due(), None);
    }

    #[test]
    fn a_failed_round_answers_nobody() {
        let mut leases = Leases::new(100);
        leases.arrived(beat("a", 1));
        assert!(leases.begin(0));
        assert_eq!(leases.ended(false), []);
        assert!(!leases.begin(1_000));
    }

    #[test]
    fn only_the_newest_heartbeat_of_a_node_waits() {
        let mut leases = Leases::new(100);
        leases.arrived(beat("a", 1));
        leases.arrived(beat("a", 2));
        assert!(leases.begin(0));
        assert_eq!(leases.ended(true), [beat("a", 2)]);
    }
}
