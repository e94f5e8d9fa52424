//! What stands between a job and its start, as data: each blocker can be thought away for that one job, alone or together with others, and the pass's own predicates
//! are asked again. Does NOT decide which of them hold.
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::state::view::teams::Flavor;

/// One thing that may keep a job from starting. They are ordered by how gladly a reader hears of something else instead: where one of two would have to go, the later
/// one is said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocker {
    /// No nodes of the cluster, were they empty, could run it. Away: nodes that can are there.
    Inventory,
    /// Running attempts hold the devices. Away: nobody holds anything, except who starts before it.
    Devices,
    /// Nodes take no work. Away: they do.
    Closed,
    /// Nodes are to be empty in a while. Away: they are not.
    Windows,
    /// Nodes are their owners'. Away: they are everybody's.
    Owners,
    /// Nodes lack its labels. Away: it asks for none.
    Labels,
    /// Too few processors, memory or disk. Away: it needs none.
    Amounts,
    /// Nodes failed it. Away: it goes there again.
    Excluded,
    /// Nodes are off, or being made. Away: they are on.
    Waking,
    /// Attempts that were told to end still hold devices and quota. Away: they have ended.
    Ending,
    /// Jobs ahead of it start now, or devices are kept for them. Away: they are not there.
    Ahead,
    /// Starts were promised to others. Away: they were not.
    Promises,
    /// A team's quota of a flavor. Away: that level allows any amount.
    Quota(Arc<str>, Flavor),
    /// A team's budget of a flavor. Away: the team has none.
    Budget(Arc<str>, Flavor),
    /// A named countable. Away: there are enough.
    License(String),
    /// Its team runs as many jobs as it may. Away: it may run any number.
    Running(Arc<str>),
    /// As many of its tasks run as may at once. Away: any number may.
    AtOnce,
    /// Others are being ended for it. Away: they have ended.
    Victims,
    /// A person, a time, another job or its last attempt keep it back. Away: they do not.
    Blocked,
    /// An admin paused starts. Away: nobody did.
    Paused,
}

impl Blocker {
    /// Without it nothing else is looked at, so it holds whatever the rest.
    pub fn is_gate(&self) -> bool {
        matches!(self, Self::Victims | Self::Blocked | Self::Paused)
    }
}

/// Blockers that are thought away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifts {
    all: BTreeSet<Blocker>,
}

impl Lifts {
    /// These.
    pub fn new(all: impl IntoIterator<Item = Blocker>) -> Self {
        Self {
            all: all.into_iter().collect(),
        }
    }

    /// Whether that one is.
    pub fn has(&self, one: &Blocker) -> bool {
        self.all.contains(one)
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = &Blocker> {
        self.all.iter()
    }

    /// The same but for some.
    #[must_use]
    pub fn without(&self, some: &[Blocker]) -> Self {
        Self {
            all: self
                .all
                .iter()
                .filter(|one| !some.contains(one))
                .cloned()
                .collect(),
        }
    }
}

/// The fewest of `all` that suffice: without any one of them the rest does not. `suffices` holds for all of them.
pub fn fewest(all: Lifts, suffices: &mut dyn FnMut(&Lifts) -> bool) -> Lifts {
    let mut kept = all;
    let order: Vec<Blocker> = kept.iter().cloned().collect();
    drop_some(&mut kept, &order, suffices);
    // Thinking one away may be in another's way: until no single one is too many.
    loop {
        let spare = kept
            .iter()
            .find(|one| suffices(&kept.without(std::slice::from_ref(one))))
            .cloned();
        let Some(spare) = spare else { return kept };
        kept = kept.without(&[spare]);
    }
}

/// Drops as many of `some` as are not needed: all at once, else each half by itself.
fn drop_some(kept: &mut Lifts, some: &[Blocker], suffices: &mut dyn FnMut(&Lifts) -> bool) {
    if some.is_empty() {
        return;
    }
    let less = kept.without(some);
    if suffices(&less) {
        *kept = less;
    } else if some.len() > 1 {
        let (first, rest) = some.split_at(some.len() / 2);
        drop_some(kept, first, suffices);
        drop_some(kept, rest, suffices);
    }
}
