//! A node on its four axes. Suspect and telemetry are soft and not here.
use std::collections::BTreeMap;

use mlctl_proto::units::UtcMs;

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// By ranks of other nodes.
    pub rank: String,
    /// By checkpoint and probe traffic.
    pub data: String,
    /// Nodes of one network reach each other.
    pub network: String,
}

/// One GPU or MIG instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Identifies it.
    pub uuid: String,
    /// NVML's index at the last start of the agent.
    pub index: u32,
    /// As NVML names it.
    pub model: String,
    /// Total memory, bytes.
    pub memory_bytes: u64,
    /// PCI address.
    pub pci_bus_id: String,
    /// Configured, not found.
    pub simulated: bool,
    /// Whose processors and memory are near it, if known.
    pub numa_node: Option<u32>,
}

/// How well a node separates jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Isolation {
    /// Process groups only.
    #[default]
    None,
    /// Some of cgroups, users, limits.
    Partial,
    /// All of them.
    Full,
}

/// What a node is; changes only when a fact changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Its name and key.
    pub name: String,
    /// Changes with every boot: proof of death of what ran before.
    pub boot_id: String,
    /// The machine's.
    pub machine_id: String,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its pool.
    pub pool: String,
    /// Its devices by index.
    pub devices: Vec<Device>,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// From its configuration.
    pub labels: BTreeMap<String, String>,
    /// Of its agent.
    pub version: String,
    /// Of its agent.
    pub capabilities: Vec<String>,
    /// Detected.
    pub isolation: Isolation,
    /// Why it is not full, one sentence each.
    pub isolation_missing: Vec<String>,
    /// One sentence per device that could not be read.
    pub device_errors: Vec<String>,
}

/// Whether it is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// Registered, not heard of by this leader yet.
    Joining,
    /// Heartbeats arrive.
    Ready,
    /// Silent for `node_timeout`: no new work.
    Unreachable,
    /// Declared lost: what it held has ended.
    Lost,
}

/// What people want of it; only people change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admin {
    /// Takes work.
    Open,
    /// Takes no new work.
    Cordoned,
    /// Ends its work.
    Draining,
    /// Empty.
    Drained,
    /// Gone for good.
    Retired,
}

/// Whether it may be trusted with work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Yes.
    Ok,
    /// No, and why.
    Unhealthy(Vec<String>),
}

/// Whether the machine is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    /// On.
    On,
    /// Asked to go off.
    GoingDown,
    /// Off.
    Off,
    /// Asked to come up.
    ComingUp,
    /// Did not come up.
    WakeFailed,
}

/// A device that no job holds, with something on it all the same. It is given to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyDevice {
    /// Which.
    pub uuid: String,
    /// What is on it, for people.
    pub why: String,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub facts: NodeFacts,
    /// Of the agent's journal: events are numbered within it.
    pub journal_id: String,
    /// Highest event of that journal that was applied.
    pub event_mark: u64,
    /// Axis 1.
    pub liveness: Liveness,
    /// Axis 2.
    pub admin: Admin,
    /// Axis 3.
    pub health: Health,
    /// Axis 4.
    pub power: Power,
    /// When `liveness` last changed.
    pub since_ms: UtcMs,
    /// By UUID, as the agent of `journal_id` said.
    pub dirty: Vec<DirtyDevice>,
}

impl Node {
    /// Whether new work may be placed here: Ready ∧ Open ∧ Ok ∧ On.
    pub fn schedulable(&self) -> bool {
        self.liveness == Liveness::Ready
            && self.admin == Admin::Open
            && self.health == Health::Ok
            && self.power == Power::On
    }

    /// What is on a device although no job holds it.
    pub fn dirt_on(&self, uuid: &str) -> Option<&str> {
        let device = self.dirty.iter().find(|device| device.uuid == uuid);
        device.map(|device| device.why.as_str())
    }
}
