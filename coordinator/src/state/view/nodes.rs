//! Nodes as the scheduler sees them: what is there and what of it is free. Does NOT say why a node takes no work; its record does.
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::amounts::Amounts;

/// One device, or one MIG instance that an admin made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// Identifies it.
    pub uuid: Arc<str>,
    /// As NVML names it, lower case.
    pub model: Arc<str>,
    /// Bytes.
    pub memory: u64,
    /// Units that nobody holds, of [`super::amounts::GPU`], or of its slices if it is a MIG instance. 0 while it is dirty.
    pub free: u32,
    /// Compute slices, if it is a MIG instance.
    pub slices: Option<u32>,
    /// Devices of one island reach each other by NVLink.
    pub island: u16,
    /// Whose processors are near it.
    pub numa: u16,
    /// Who shares it now: the user, or the team, of those that hold parts of it; empty: nobody.
    pub shared_by: Arc<str>,
}

/// Whether work may be placed on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Open {
    /// Now.
    Now,
    /// It is off, or being made, and takes work from then on: counts for reservations and wake-ups, not for starts.
    From(UtcMs),
    /// Not until somebody does something.
    No,
}

/// Whose node it is, and what others may do there (docs/SCHEDULING.md, Placement).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The team.
    pub team: Arc<str>,
    /// Guests may run here.
    pub guests: Guests,
}

/// Who but the owner's jobs may run on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guests {
    /// Nobody.
    None,
    /// Who said that it may be preempted.
    Preemptible,
    /// Anybody.
    Any,
}

/// How who shares one device is related.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Sharing {
    /// One user.
    #[default]
    User,
    /// One team.
    Team,
    /// Nobody asks.
    Any,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its key.
    pub name: Arc<str>,
    /// Its boot, for the command that starts something on it.
    pub boot_id: Arc<str>,
    /// Its pool.
    pub pool: Arc<str>,
    /// Nodes of one network reach each other.
    pub network: Arc<str>,
    /// Where it stands, the outermost first: block, rack.
    pub racks: Vec<Arc<str>>,
    /// Whether it takes work.
    pub open: Open,
    /// By index.
    pub devices: Vec<DeviceView>,
    /// What it has for jobs beside GPUs: without what the system keeps.
    pub has: Amounts,
    /// What nobody holds of that.
    pub free: Amounts,
    /// Whose it is, if anybody's.
    pub owner: Option<Owner>,
    /// How its devices may be shared.
    pub sharing: Sharing,
    /// Its labels, sorted.
    pub labels: Arc<[(String, String)]>,
    /// From when to when it is kept free of what would not have ended, earliest first.
    pub windows: Vec<(UtcMs, UtcMs)>,
}
