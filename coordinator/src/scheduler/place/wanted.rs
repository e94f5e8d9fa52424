//! Which devices an ask may have, in which order it prefers them: names of types and pools become numbers here, once per search. Does NOT know what is free.
use super::tables::{Family, Tables};
use crate::state::view::ask::{Ask, Gpus, Kind};

/// How much an ask likes something: place in its list of types, then in its list of pools. 0 is best.
pub(super) type Rank = (u32, u32);

/// One family that an ask may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    /// How much it is liked.
    pub rank: Rank,
    /// Which.
    pub family: u32,
    /// The least memory of a device, bytes.
    pub memory: u64,
}

/// Whether a family's devices are of the sort that is asked for: MIG instances of that size, or devices that are none.
pub(super) fn right_sort(family: &Family, gpus: Gpus) -> bool {
    match (gpus, family.slices) {
        (Gpus::Mig { slices, .. }, Some(of)) => slices == of,
        (Gpus::Whole(_) | Gpus::Share(_), None) => true,
        _ => false,
    }
}

/// The place of a pool in a list; in an empty one all are alike.
pub(super) fn pool_rank(tables: &Tables, pools: &[String], pool: u32) -> Option<u32> {
    if pools.is_empty() {
        return Some(0);
    }
    let name = tables.pools.get(pool as usize)?;
    let found = pools.iter().position(|one| **one == **name)?;
    Some(super::tables::number(found))
}

/// Adds each way in which a family serves an ask: one, or several where a later type is content with less memory.
pub(super) fn ways(tables: &Tables, place: u32, ask: &Ask, into: &mut Vec<Wanted>) {
    let Some(family) = tables.families.get(place as usize) else {
        return;
    };
    let Some(pool) = pool_rank(tables, &ask.pools, family.pool) else {
        return;
    };
    if ask.kinds.is_empty() {
        into.push(Wanted {
            rank: (0, pool),
            family: place,
            memory: 0,
        });
        return;
    }
    let mut least = u64::MAX;
    for (at, kind) in ask.kinds.iter().enumerate() {
        if kind.memory < least && serves(family, kind) {
            least = kind.memory;
            into.push(Wanted {
                rank: (super::tables::number(at), pool),
                family: place,
                memory: least,
            });
        }
    }
}

/// Whether a type names this family, and some device of it has the memory.
pub(super) fn serves(family: &Family, kind: &Kind) -> bool {
    family.memory >= kind.memory && family.model.contains(kind.name.as_str())
}
