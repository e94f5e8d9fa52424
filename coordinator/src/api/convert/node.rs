//! Nodes and devices as people and programs see them.
use mlctl_proto::api;

use super::decision;
use crate::state::State;
use crate::state::records::{Admin, Device, DirtyDevice, Health, Isolation, Liveness, Node, Power};

/// A node with what it holds.
pub fn node(state: &State, node: &Node) -> api::Node {
    let facts = &node.facts;
    let devices: Vec<api::Device> = facts
        .devices
        .iter()
        .map(|found| device(state, node, found))
        .collect();
    let mut jobs: Vec<_> = state
        .open_allocations_on(&facts.name)
        .into_iter()
        .map(|(job, _)| job)
        .collect();
    jobs.dedup();
    let mut reasons = facts.device_errors.clone();
    let in_use = |one: &DirtyDevice| format!("{} is still in use: {}", one.uuid, one.why);
    reasons.extend(node.dirty.iter().map(in_use));
    if let Health::Unhealthy(why) = &node.health {
        reasons.extend(why.iter().cloned());
    }
    reasons.extend(decision::reasons(state, node));
    let network = match facts.addresses.network.as_str() {
        "" => &facts.pool,
        network => network,
    };
    api::Node {
        name: facts.name.clone(),
        state: worst(node).to_owned(),
        liveness: liveness(node.liveness).to_owned(),
        admin: admin(node.admin).to_owned(),
        health: health(&node.health).to_owned(),
        power: power(node.power).to_owned(),
        gpus_used: u32::try_from(
            devices
                .iter()
                .filter(|device| !device.job.is_empty())
                .count(),
        )
        .unwrap_or(u32::MAX),
        devices,
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        address: facts.addresses.rank.clone(),
        network: network.to_owned(),
        pool: facts.pool.clone(),
        version: facts.version.clone(),
        isolation: isolation(facts.isolation).to_owned(),
        isolation_missing: facts.isolation_missing.clone(),
        jobs: jobs.iter().map(ToString::to_string).collect(),
        since_ms: node.since_ms,
        reasons,
        maintenance: decision::maintenance_of(state, node),
        owner: state.owner_of(&facts.name).map(decision::owner),
    }
}

fn device(state: &State, node: &Node, device: &Device) -> api::Device {
    let holder = state.device_holder(&node.facts.name, &device.uuid);
    api::Device {
        uuid: device.uuid.clone(),
        model: device.model.clone(),
        memory_bytes: device.memory_bytes,
        simulated: device.simulated,
        job: holder.map_or(String::new(), |(job, _)| job.to_string()),
        dirty: node.dirt_on(&device.uuid).unwrap_or_default().to_owned(),
        numa_node: device.numa_node,
    }
}

/// The worst of the four axes: the one that keeps work away.
fn worst(node: &Node) -> &'static str {
    if node.liveness != Liveness::Ready {
        liveness(node.liveness)
    } else if node.power != Power::On {
        power(node.power)
    } else if node.health != Health::Ok {
        health(&node.health)
    } else if node.admin != Admin::Open {
        admin(node.admin)
    } else {
        liveness(Liveness::Ready)
    }
}

fn liveness(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Joining => "Joining",
        Liveness::Ready => "Ready",
        Liveness::Unreachable => "Unreachable",
        Liveness::Lost => "Lost",
    }
}

fn admin(admin: Admin) -> &'static str {
    match admin {
        Admin::Open => "Open",
        Admin::Cordoned => "Cordoned",
        Admin::Draining => "Draining",
        Admin::Drained => "Drained",
        Admin::Retired => "Retired",
    }
}

fn health(health: &Health) -> &'static str {
    match health {
        Health::Ok => "Ok",
        Health::Unhealthy(_) => "Unhealthy",
    }
}

fn power(power: Power) -> &'static str {
    match power {
        Power::On => "On",
        Power::GoingDown => "GoingDown",
        Power::Off => "Off",
        Power::ComingUp => "ComingUp",
        Power::WakeFailed => "WakeFailed",
    }
}

fn isolation(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::None => "none",
        Isolation::Partial => "partial",
        Isolation::Full => "full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::records::NodeFacts;

    #[test]
    fn people_are_shown_the_worst_axis() {
        let ready = Node {
            facts: NodeFacts::default(),
            journal_id: String::new(),
            event_mark: 0,
            liveness: Liveness::Ready,
            admin: Admin::Open,
            health: Health::Ok,
            power: Power::On,
            since_ms: 0,
            dirty: Vec::new(),
        };
        let sick = Health::Unhealthy(vec!["XID 79".into()]);
        for (node, want) in [
            (ready.clone(), "Ready"),
            (
                Node {
                    liveness: Liveness::Lost,
                    admin: Admin::Drained,
                    ..ready.clone()
                },
                "Lost",
            ),
            (
                Node {
                    health: sick.clone(),
                    admin: Admin::Cordoned,
                    ..ready.clone()
                },
                "Unhealthy",
            ),
            (
                Node {
                    admin: Admin::Cordoned,
                    ..ready.clone()
                },
                "Cordoned",
            ),
            (
                Node {
                    power: Power::Off,
                    health: sick,
                    ..ready
                },
                "Off",
            ),
        ] {
            assert_eq!(worst(&node), want);
        }
    }
}
