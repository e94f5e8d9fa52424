//! Nodes as bytes.
use std::sync::Arc;

use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::persist;
use prost::Message;

use super::words::Word;
use super::{
    CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, known_version, message, missing, unknown,
};
use crate::state::records::{
    Addresses, Admin, Device, DirtyDevice, Health, Isolation, Liveness, Node, NodeFacts, Power,
};

impl Record for Node {
    const TABLE: u8 = 3;
    type Key = Arc<str>;

    fn key(&self) -> Arc<str> {
        Arc::from(self.facts.name.as_str())
    }

    fn key_bytes(key: &Arc<str>) -> Vec<u8> {
        key.as_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        let (health, reasons) = match &self.health {
            Health::Ok => (persist::Health::Ok, Vec::new()),
            Health::Unhealthy(reasons) => (persist::Health::Unhealthy, reasons.clone()),
        };
        let event_mark = if planted(Mutant::SnapshotFieldDropped) {
            0
        } else {
            self.event_mark
        };
        persist::NodeRecord {
            version: RECORD_VERSION,
            facts: Some(encode_facts(&self.facts)),
            journal_id: self.journal_id.clone(),
            event_mark,
            liveness: self.liveness.number(),
            admin: self.admin.number(),
            health: health as i32,
            power: self.power.number(),
            health_reasons: reasons,
            since_ms: self.since_ms,
            dirty: self.dirty.iter().map(encode_dirty).collect(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "a node";
        let record: persist::NodeRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        let health = match persist::Health::try_from(record.health) {
            Ok(persist::Health::Ok) => Health::Ok,
            Ok(persist::Health::Unhealthy) => Health::Unhealthy(record.health_reasons),
            _ => return Err(unknown("health", record.health)),
        };
        Ok(Self {
            facts: decode_facts(record.facts.ok_or_else(|| missing(what, "facts"))?)?,
            journal_id: record.journal_id,
            event_mark: record.event_mark,
            liveness: Liveness::from_number(record.liveness)?,
            admin: Admin::from_number(record.admin)?,
            health,
            power: Power::from_number(record.power)?,
            since_ms: record.since_ms,
            dirty: record.dirty.into_iter().map(decode_dirty).collect(),
        })
    }
}

/// A dirty device.
pub fn encode_dirty(device: &DirtyDevice) -> persist::DirtyDevice {
    persist::DirtyDevice {
        uuid: device.uuid.clone(),
        why: device.why.clone(),
    }
}

/// The reverse of [`encode_dirty`].
pub fn decode_dirty(device: persist::DirtyDevice) -> DirtyDevice {
    DirtyDevice {
        uuid: device.uuid,
        why: device.why,
    }
}

/// A node's facts for the wire and for disk.
pub fn encode_facts(facts: &NodeFacts) -> persist::NodeFacts {
    let device = |device: &Device| persist::Device {
        uuid: device.uuid.clone(),
        index: device.index,
        model: device.model.clone(),
        memory_bytes: device.memory_bytes,
        pci_bus_id: device.pci_bus_id.clone(),
        simulated: device.simulated,
        numa_node: device.numa_node,
    };
    persist::NodeFacts {
        name: facts.name.clone(),
        boot_id: facts.boot_id.clone(),
        machine_id: facts.machine_id.clone(),
        addresses: Some(persist::Addresses {
            rank: facts.addresses.rank.clone(),
            data: facts.addresses.data.clone(),
            network: facts.addresses.network.clone(),
        }),
        pool: facts.pool.clone(),
        devices: facts.devices.iter().map(device).collect(),
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        labels: facts.labels.clone(),
        version: facts.version.clone(),
        capabilities: facts.capabilities.clone(),
        isolation: facts.isolation.number(),
        device_errors: facts.device_errors.clone(),
        isolation_missing: facts.isolation_missing.clone(),
    }
}

/// The reverse of [`encode_facts`]. What an agent says in its hello is read here too.
pub fn decode_facts(facts: persist::NodeFacts) -> Result<NodeFacts, CodecError> {
    let addresses = facts
        .addresses
        .ok_or_else(|| missing("a node's facts", "addresses"))?;
    let device = |device: persist::Device| Device {
        uuid: device.uuid,
        index: device.index,
        model: device.model,
        memory_bytes: device.memory_bytes,
        pci_bus_id: device.pci_bus_id,
        simulated: device.simulated,
        numa_node: device.numa_node,
    };
    Ok(NodeFacts {
        name: facts.name,
        boot_id: facts.boot_id,
        machine_id: facts.machine_id,
        addresses: Addresses {
            rank: addresses.rank,
            data: addresses.data,
            network: addresses.network,
        },
        pool: facts.pool,
        devices: facts.devices.into_iter().map(device).collect(),
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        labels: facts.labels,
        version: facts.version,
        capabilities: facts.capabilities,
        isolation: Isolation::from_number(facts.isolation)?,
        device_errors: facts.device_errors,
        isolation_missing: facts.isolation_missing,
    })
}
