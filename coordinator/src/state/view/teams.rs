//! The quota tree as the scheduler sees it. Does NOT hold the inequality: `rules::quota` does.
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a quota is about: a type of GPU, in one pool or in any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flavor {
    /// A part of the model's name, lower case, as in specs.
    pub kind: Arc<str>,
    /// One pool alone: `H100@aws-spot`. A device belongs to the flavor with its pool if there is one, else to that without.
    pub pool: Option<Arc<str>>,
}

/// Units of [`super::amounts::GPU`], or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// At most so much.
    Units(u64),
    /// `unlimited`.
    Unlimited,
}

/// What one team may hold of one flavor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Its own.
    pub nominal: u64,
    /// Beyond that, from others.
    pub borrow: Limit,
    /// What others may have of its own while it does not use it.
    pub lend: Limit,
}

/// One team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamView {
    /// Its path: `acme/vision`. Its parent is the path above, if there is one.
    pub name: Arc<str>,
    /// Its part among its siblings, more than 0.
    pub weight: u32,
    /// By flavor. Of a flavor that no team of its tree names, each may hold any amount; of one that others name and it does not, nothing of its own.
    pub quotas: BTreeMap<Flavor, Quota>,
    /// Units that its own jobs hold (not those of teams below), by flavor. Held and cleaning devices count.
    pub own: BTreeMap<Flavor, u64>,
    /// Decayed usage of its own jobs as of [`super::ClusterView::decayed_ms`], unit-seconds / 2^16.
    pub usage: u128,
    /// The same of each of its users.
    pub users: BTreeMap<Arc<str>, u128>,
    /// What its budgets still allow to commit, device-seconds in units, by flavor; absent: no budget.
    pub budgets: BTreeMap<Flavor, u64>,
    /// Jobs of it that may run at once; `None`: any number.
    pub max_running: Option<u32>,
}
