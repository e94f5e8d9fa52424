//! RegisterNode: an agent said hello with new facts, another boot, another journal, or after it had been given up.
//! Another boot proves that what the old one held is dead. People's axis, health and power stay as they are.
use std::collections::BTreeSet;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::check_name;
use mlctl_proto::limits::DETAIL_BYTES_MAX;

use super::current::lose_allocations;
use super::in_doubt::{died, recall};
use super::{Context, LossProof, bounded, checkpoints};
use crate::state::change::Change;
use crate::state::records::{Admin, Health, Liveness, Node, NodeFacts, Power, Reply};

/// Devices of one node, MIG instances included.
pub(super) const DEVICES_MAX: usize = 1_024;
/// Labels, capabilities and device errors of one node, each.
const LIST_MAX: usize = 1_024;

/// A node is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterNode {
    /// What it is.
    pub facts: NodeFacts,
    /// Of its agent's journal.
    pub journal_id: String,
}

impl RegisterNode {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        check_facts(&self.facts)?;
        bounded("the journal id", &self.journal_id, 128)?;
        let known = change.node(&self.facts.name).ok();
        if let Some(node) = &known {
            self.settle(change, node, context)?;
            if node.journal_id != self.journal_id {
                // The journal lies beside the copies: who has lost one has lost the others.
                checkpoints::wiped(change, &self.facts.name);
            }
        }
        change.put_node(self.node(known, context));
        change.replan();
        Ok(Reply::Done)
    }

    /// What the node held under another boot is dead. What was in doubt goes on, if the agent still knows of it.
    fn settle(&self, change: &mut Change, known: &Node, context: &Context) -> Result<(), Refusal> {
        let (name, boot_id) = (&self.facts.name, &known.facts.boot_id);
        if *boot_id != self.facts.boot_id {
            let detail = format!("node {name} has booted again");
            let why = (LossProof::NewBootId, detail.as_str());
            return lose_allocations(change, name, boot_id, why, context.now_ms);
        }
        if known.journal_id == self.journal_id {
            return recall(change, name);
        }
        for (job, epoch) in change.state().open_allocations_on(name) {
            if change.attempt(job, epoch).is_some_and(|one| one.in_doubt) {
                let detail = format!("the agent of node {name} has lost its journal");
                died(change, job, context.now_ms, &detail)?;
            }
        }
        Ok(())
    }

    fn node(&self, known: Option<Node>, context: &Context) -> Node {
        let Some(node) = known else {
            return Node {
                facts: self.facts.clone(),
                journal_id: self.journal_id.clone(),
                event_mark: 0,
                liveness: Liveness::Ready,
                admin: Admin::Open,
                health: Health::Ok,
                power: Power::On,
                since_ms: context.now_ms,
                dirty: Vec::new(),
            };
        };
        Node {
            facts: self.facts.clone(),
            journal_id: self.journal_id.clone(),
            // Events are numbered within a journal: another one begins at 1.
            event_mark: if node.journal_id == self.journal_id {
                node.event_mark
            } else {
                0
            },
            // So is what is on its devices; an agent with another one looks for itself.
            dirty: if node.journal_id == self.journal_id {
                node.dirty
            } else {
                Vec::new()
            },
            since_ms: if node.liveness == Liveness::Ready {
                node.since_ms
            } else {
                context.now_ms
            },
            liveness: Liveness::Ready,
            ..node
        }
    }
}

fn check_facts(facts: &NodeFacts) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::new(Code::BadRequest, why));
    for (what, name) in [("node", &facts.name), ("pool", &facts.pool)] {
        if let Err(error) = check_name(name) {
            return bad(format!("the {what}'s name {error}"));
        }
    }
    bounded("the boot id", &facts.boot_id, 128)?;
    let lists = [
        facts.labels.len(),
        facts.capabilities.len(),
        facts.device_errors.len(),
        facts.isolation_missing.len(),
    ];
    if facts.devices.len() > DEVICES_MAX || lists.iter().any(|length| *length > LIST_MAX) {
        return bad(format!(
            "node {} reports more than {DEVICES_MAX} devices, labels, capabilities or errors",
            facts.name
        ));
    }
    let texts = [
        &facts.machine_id,
        &facts.version,
        &facts.addresses.rank,
        &facts.addresses.data,
        &facts.addresses.network,
    ];
    let labels = facts.labels.iter().flat_map(|(key, value)| [key, value]);
    let devices = facts
        .devices
        .iter()
        .flat_map(|device| [&device.uuid, &device.model, &device.pci_bus_id]);
    let mut all = texts
        .into_iter()
        .chain(labels)
        .chain(devices)
        .chain(&facts.capabilities)
        .chain(&facts.device_errors)
        .chain(&facts.isolation_missing);
    if all.any(|text| text.len() > DETAIL_BYTES_MAX) {
        return bad(format!(
            "node {} reports a text of more than {DETAIL_BYTES_MAX} bytes",
            facts.name
        ));
    }
    let mut uuids = BTreeSet::new();
    if !facts
        .devices
        .iter()
        .all(|device| !device.uuid.is_empty() && uuids.insert(&device.uuid))
    {
        return bad(format!(
            "node {} reports a device twice, or one without a UUID",
            facts.name
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::records::{EndKind, JobState};
    use crate::state::testing::{Cluster, node, person, system};
    use crate::state::{Body, Effect};

    fn register(facts: NodeFacts, journal: &str) -> Body {
        Body::RegisterNode(RegisterNode {
            facts,
            journal_id: journal.into(),
        })
    }

    #[test]
    fn another_boot_ends_what_the_old_one_held_and_keeps_what_people_want() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 2);
        let job = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(job, &["a"]);
        let mut facts = node("a", 2, "SIM").facts;
        facts.boot_id = "boot-2".into();
        let applied = cluster.run(system(), register(facts.clone(), "journal-a"));
        assert_eq!(
            applied.effects,
            [Effect::Replan],
            "there is nobody left to stop"
        );
        assert_eq!(cluster.job(job).state, JobState::Pending);
        let attempt = cluster
            .state
            .attempt(job, epoch)
            .cloned()
            .expect("it was started");
        assert_eq!(
            attempt.end.as_ref().map(|end| end.kind),
            Some(EndKind::NodeLost)
        );
        assert!(cluster.state.open_allocations_on("a").is_empty());
        cluster.event("a", job, epoch, super::super::Happening::RanksStarted);
        assert_eq!(
            cluster.job(job).state,
            JobState::Pending,
            "what the old boot has to say is too late"
        );
    }

    #[test]
    fn another_journal_begins_at_zero() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let job = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(job, &["a"]);
        cluster.running(job, epoch);
        let mark = |cluster: &Cluster| cluster.state.node("a").map(|node| node.event_mark);
        assert_eq!(mark(&cluster), Some(1));
        let facts = node("a", 1, "SIM").facts;
        cluster.run(system(), register(facts.clone(), "journal-a"));
        assert_eq!(mark(&cluster), Some(1));
        cluster.run(system(), register(facts, "journal-2"));
        assert_eq!(mark(&cluster), Some(0));
        assert_eq!(
            cluster.job(job).state,
            JobState::Running,
            "the same boot: nothing has ended"
        );
    }

    #[test]
    fn a_device_that_is_gone_stays_held_until_its_allocation_ends() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 2);
        let job = cluster.submitted("ann", 1, 2);
        let epoch = cluster.started(job, &["a"]);
        cluster.run(system(), register(node("a", 1, "SIM").facts, "journal-a"));
        assert_eq!(cluster.state.device_holder("a", "a-1"), Some((job, epoch)));
        cluster.ended("a", job, epoch, EndKind::DeviceError);
        assert_eq!(cluster.state.device_holder("a", "a-1"), None);
    }

    #[test]
    fn senseless_facts_are_refused() {
        let mut cluster = Cluster::new();
        let mut check = |what: &str, spoil: fn(&mut NodeFacts)| {
            let mut facts = node("a", 2, "SIM").facts;
            spoil(&mut facts);
            let applied = cluster.run(system(), register(facts, "journal"));
            assert_eq!(
                applied.refusal().map(|refusal| refusal.code),
                Some(Code::BadRequest),
                "{what}"
            );
        };
        check("a bad name", |facts| facts.name = "../a".into());
        check("a bad pool", |facts| facts.pool.clear());
        check("no boot", |facts| facts.boot_id.clear());
        check("a device twice", |facts| {
            facts.devices[1].uuid = facts.devices[0].uuid.clone()
        });
        check("a device without UUID", |facts| {
            facts.devices[1].uuid.clear()
        });
        check("a long label", |facts| {
            drop(facts.labels.insert("x".into(), "y".repeat(2_000)))
        });
        check("many errors", |facts| {
            facts.device_errors = vec![String::new(); 2_000]
        });
        let denied = cluster.run(
            person("ann", true),
            register(node("a", 1, "SIM").facts, "journal"),
        );
        assert_eq!(
            denied.refusal().map(|refusal| refusal.code),
            Some(Code::Denied)
        );
        assert_eq!(cluster.state.nodes().count(), 0);
    }
}
