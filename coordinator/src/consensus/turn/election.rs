//! Election timeouts as a function of (seed, member, term), so that a run replays.
//!
//! It does not draw randomness: the mixing below only has to spread members apart, not to be unpredictable.

use crate::consensus::MemberId;

/// A member that abstains waits this many times longer: it leads only if nobody else can.
const STRETCH: usize = 4;

/// All timeouts, of members that abstain too, lie below this.
pub(super) fn bound(election_tick: usize) -> usize {
    2 * STRETCH * election_tick
}

/// Ticks that this member waits for a leader in this term: in `[election_tick, 2 * election_tick)`, or four times
/// as many when it abstains.
pub(super) fn timeout(
    seed: u64,
    id: MemberId,
    term: u64,
    election_tick: usize,
    abstains: bool,
) -> usize {
    let spread = (election_tick as u64).max(1);
    let mixed = mix(mix(mix(seed) ^ id) ^ term);
    let ticks = election_tick + (mixed % spread) as usize;
    if abstains { STRETCH * ticks } else { ticks }
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{bound, timeout};
    use std::collections::BTreeSet;

    #[test]
    fn stays_in_range_and_spreads() {
        let mut seen = BTreeSet::new();
        for id in 1..=3 {
            for term in 0..100 {
                let ticks = timeout(7, id, term, 30, false);
                assert!((30..60).contains(&ticks), "{ticks}");
                assert_eq!(ticks, timeout(7, id, term, 30, false));
                assert!((120..bound(30)).contains(&timeout(7, id, term, 30, true)));
                seen.insert(ticks);
            }
        }
        assert!(seen.len() > 25, "only {} different timeouts", seen.len());
    }
}
