//! Where a gang goes: what is free, kept in order while a pass fills it, and the best place there (docs/SCHEDULING.md, Placement). Does NOT decide whose turn it is, nor whether
//! it may have so much.
//!
//! The calls that the rest of the scheduler makes are these; how the best place is found stands in the files below.
mod capacity;
mod find;
mod fit;
mod gang;
mod index;
mod lifted;
mod loss;
mod mix;
mod near;
mod stock;
mod tables;
mod wanted;

#[cfg(test)]
mod brute_tests;
#[cfg(test)]
mod place_tests;
#[cfg(test)]
mod random_cases;

use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use crate::state::view::jobs::Seat;
use crate::state::view::teams::Flavor;

pub use capacity::Capacity;
pub use mix::{CLASSES_MAX, Mix};

/// Who asks, and under which conditions: what of a job matters for where it goes beside its ask.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Its team's path: nodes have owners.
    pub team: &'a str,
    /// Its owner: devices are shared by one user unless the pool says otherwise.
    pub user: &'a str,
    /// It may be ended for others: nodes may take only such guests.
    pub preemptible: bool,
    /// Rank 0 has to be on one of these; empty: anywhere.
    pub rank_0: &'a [Arc<str>],
    /// Not on these.
    pub avoid: &'a [Arc<str>],
    /// From when to when it would run at most, for maintenance windows.
    pub span: (UtcMs, UtcMs),
}

/// A place that was found: seats, and what they are charged for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// In node-rank order.
    pub seats: Vec<Seat>,
    /// One flavor, or several of a gang that mixes types.
    pub charges: Vec<(Flavor, u64)>,
    /// Dense numbers of the nodes, in the same order.
    pub nodes: Vec<u32>,
    /// Of parts of devices: the user and the team that others who come to these devices have to be of.
    pub sharer: Option<(Arc<str>, Arc<str>)>,
}
