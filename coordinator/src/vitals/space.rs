//! PURE: how full a disk is, what becomes of the reserve on it, and whose disk the cluster must heed.
//!
//! It measures and frees nothing: numbers come in, a level and an action go out.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

/// How much room a data directory has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// At least the mark.
    #[default]
    Enough,
    /// Below the mark, or the reserve has been given up and is not back yet.
    Low,
    /// So little that the reserve is given up, so that what ends work can still be written.
    Short,
}

/// What a member wants of its disk, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Allocated ahead and given up when nothing else is left; 0: none.
    pub reserve: u64,
    /// Below this much free space the member is low.
    pub mark: u64,
}

impl Limits {
    /// Below this much free space the reserve is given up.
    pub fn short(&self) -> u64 {
        (self.reserve / 2).min(self.mark)
    }
}

/// What is to be done with the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing.
    Keep,
    /// Delete it: its space is needed.
    Release,
    /// Allocate it: there is space for it and for the mark.
    Hold,
}

/// The level of a disk with `free` bytes, and what becomes of the reserve. `held`: it is allocated. `before`: the level
/// so far. A level is left only with an eighth of the mark to spare, so that it does not come and go.
pub fn judge(free: u64, limits: Limits, held: bool, before: Room) -> (Room, Reserve) {
    let Limits { reserve, mark } = limits;
    let wants = reserve > 0 && !held;
    let spare = if before == Room::Enough { 0 } else { mark / 8 };
    let room_for_it = free >= mark.saturating_add(spare).saturating_add(reserve);
    if wants && room_for_it {
        return (Room::Enough, Reserve::Hold);
    }
    let level = if free < limits.short() {
        Room::Short
    } else if before == Room::Short && free < limits.short().saturating_add(reserve).min(mark) {
        // What the reserve gave back does not end the shortage.
        Room::Short
    } else if wants || free < mark.saturating_add(spare) {
        Room::Low
    } else {
        Room::Enough
    };
    let action = if held && free < limits.short() {
        Reserve::Release
    } else {
        Reserve::Keep
    };
    (level, action)
}

/// What the cluster must heed of its members' disks: this member's own level, or that of the others if fewer than a
/// majority of the `voters` would be left without those that are low. `others` has the voters that answered lately.
/// Says which of the others, by its place in `others`; `None`: this member's own.
pub fn heeded(voters: usize, own: Room, others: &[Room]) -> (Room, Option<usize>) {
    let majority = voters / 2 + 1;
    // The level at which a majority still stands: the best `majority - 1` of the others decide; silent ones do not stand.
    let mut order: Vec<usize> = (0..others.len()).collect();
    order.sort_by_key(|at| others[*at]);
    let decides = majority
        .checked_sub(2)
        .and_then(|at| order.get(at).or(order.last()));
    match decides {
        Some(at) if others[*at] > own => (others[*at], Some(*at)),
        _ => (own, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reserve::{Hold, Keep, Release};
    use Room::{Enough, Low, Short};

    const LIMITS: Limits = Limits {
        reserve: 16,
        mark: 32,
    };

    #[test]
    fn levels() {
        for (free, held, before, want) in [
            // Filling up.
            (100, true, Enough, (Enough, Keep)),
            (32, true, Enough, (Enough, Keep)),
            (31, true, Enough, (Low, Keep)),
            (8, true, Low, (Low, Keep)),
            (7, true, Low, (Short, Release)),
            (0, true, Enough, (Short, Release)),
            // The reserve is gone: what it gave back is no room.
            (15, false, Short, (Short, Keep)),
            (3, false, Short, (Short, Keep)),
            (23, false, Short, (Short, Keep)),
            (24, false, Short, (Low, Keep)),
            (40, false, Low, (Low, Keep)),
            (51, false, Low, (Low, Keep)),
            (52, false, Low, (Enough, Hold)),
            // Emptying without having been short.
            (33, true, Low, (Low, Keep)),
            (36, true, Low, (Enough, Keep)),
            // The first start.
            (100, false, Enough, (Enough, Hold)),
            (48, false, Enough, (Enough, Hold)),
            (47, false, Enough, (Low, Keep)),
            (u64::MAX, false, Enough, (Enough, Hold)),
        ] {
            assert_eq!(
                judge(free, LIMITS, held, before),
                want,
                "{free} {held} {before:?}"
            );
        }
        let none = Limits {
            reserve: 0,
            mark: 32,
        };
        assert_eq!(judge(32, none, false, Enough), (Enough, Keep));
        assert_eq!(
            judge(0, none, false, Enough),
            (Low, Keep),
            "without a reserve nothing is given up"
        );
    }

    #[test]
    fn whoever_is_needed_for_a_majority_is_heeded() {
        for (voters, own, others, want) in [
            (1, Enough, vec![], (Enough, None)),
            (1, Low, vec![], (Low, None)),
            (3, Enough, vec![Enough, Enough], (Enough, None)),
            (3, Low, vec![Enough, Enough], (Low, None)),
            // One low follower can be done without; two, or one beside a silent one, cannot.
            (3, Enough, vec![Low, Enough], (Enough, None)),
            (3, Enough, vec![Low, Short], (Low, Some(0))),
            (3, Enough, vec![Short], (Short, Some(0))),
            (3, Low, vec![Short], (Short, Some(0))),
            (3, Short, vec![Low], (Short, None)),
            // Nobody answers: then nothing commits either.
            (3, Enough, vec![], (Enough, None)),
            (5, Enough, vec![Low, Short, Enough, Enough], (Enough, None)),
            (5, Enough, vec![Low, Short, Low, Enough], (Low, Some(0))),
            (5, Enough, vec![Low, Enough], (Low, Some(0))),
        ] {
            assert_eq!(
                heeded(voters, own, &others),
                want,
                "{voters} {own:?} {others:?}"
            );
        }
    }
}
