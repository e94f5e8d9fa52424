//! What an agent says of devices that no job holds: something is still on them, or not any more. Places are found and checked
//! without those that are dirty; what their last job came to is not waited for.
use std::collections::BTreeMap;

use mlctl_proto::limits::DETAIL_BYTES_MAX;

use super::agent_events::short;
use super::register_node::DEVICES_MAX;
use crate::state::change::Change;
use crate::state::records::DirtyDevice;

/// News of the devices of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceNews {
    /// Something is on these.
    Dirty(Vec<DirtyDevice>),
    /// Nothing is on these any more, by UUID.
    Clean(Vec<String>),
}

impl DeviceNews {
    /// The dirty devices of a node after the news. What is not readable as a device is passed over: it can be given to nobody.
    pub(super) fn apply(&self, change: &mut Change, known: Vec<DirtyDevice>) -> Vec<DirtyDevice> {
        let mut dirty: BTreeMap<String, String> = known
            .into_iter()
            .map(|device| (device.uuid, device.why))
            .collect();
        match self {
            Self::Dirty(devices) => {
                for device in devices {
                    let readable = !device.uuid.is_empty() && device.uuid.len() <= DETAIL_BYTES_MAX;
                    let room = dirty.len() < DEVICES_MAX || dirty.contains_key(&device.uuid);
                    if readable && room {
                        dirty.insert(device.uuid.clone(), short(&device.why));
                    }
                }
            }
            Self::Clean(uuids) => {
                let before = dirty.len();
                uuids.iter().for_each(|uuid| drop(dirty.remove(uuid)));
                if dirty.len() < before {
                    change.replan();
                }
            }
        }
        let device = |(uuid, why)| DirtyDevice { uuid, why };
        dirty.into_iter().map(device).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::RegisterNode;
    use crate::state::records::{EndKind, JobState, Reply};
    use crate::state::testing::{Cluster, node, system};
    use crate::state::{Body, Effect};

    fn dirty(uuid: &str) -> DeviceNews {
        DeviceNews::Dirty(vec![DirtyDevice {
            uuid: uuid.into(),
            why: "process 7 (python)".into(),
        }])
    }

    fn uuids(cluster: &Cluster, name: &str) -> Vec<String> {
        let node = cluster.state.node(name).expect("registered");
        node.dirty.iter().map(|one| one.uuid.clone()).collect()
    }

    #[test]
    fn a_dirty_device_is_given_to_nobody_until_it_is_clean() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 2);
        cluster.news("a", dirty("a-1"));
        let job = cluster.submitted("ann", 1, 2);
        let start = cluster.start(job, &["a"]);
        let Reply::Started { jobs, refused } = cluster.propose(vec![start]).reply else {
            panic!("starts are answered so");
        };
        assert_eq!(jobs, []);
        let why = &refused[0].1;
        assert!(
            why.contains("device a-1 of a is still in use: process 7 (python)"),
            "{why}"
        );
        assert_eq!(cluster.job(job).state, JobState::Pending);
        let applied = cluster.news("a", DeviceNews::Clean(vec!["a-1".into()]));
        assert!(
            applied.effects.contains(&Effect::Replan),
            "somebody may wait"
        );
        cluster.started(job, &["a"]);
    }

    #[test]
    fn how_the_last_job_ended_does_not_wait_for_it() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let job = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(job, &["a"]);
        cluster.running(job, epoch);
        cluster.news("a", dirty("a-0"));
        cluster.ended("a", job, epoch, EndKind::Exited);
        assert_eq!(cluster.job(job).state, JobState::Completed);
        assert_eq!(uuids(&cluster, "a"), ["a-0"]);
    }

    #[test]
    fn another_journal_knows_of_no_dirt_and_the_same_one_still_does() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        cluster.news("a", dirty("a-0"));
        for (journal, want) in [("journal-a", 1), ("journal-2", 0)] {
            let register = RegisterNode {
                facts: node("a", 1, "SIM").facts,
                journal_id: journal.into(),
            };
            cluster.run(system(), Body::RegisterNode(register));
            assert_eq!(uuids(&cluster, "a").len(), want, "{journal}");
        }
    }

    #[test]
    fn senseless_news_are_passed_over_and_bounded() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        cluster.news("a", dirty(""));
        cluster.news("a", dirty(&"x".repeat(5_000)));
        cluster.news("a", DeviceNews::Clean(vec!["never".into()]));
        assert_eq!(uuids(&cluster, "a"), [""; 0]);
        let many = |number| DirtyDevice {
            uuid: format!("{number:05}"),
            why: "y".repeat(if number < 100 { 5_000 } else { 1 }),
        };
        cluster.news("a", DeviceNews::Dirty((0..3_000).map(many).collect()));
        let node = cluster.state.node("a").expect("registered");
        assert_eq!(node.dirty.len(), DEVICES_MAX);
        assert!(
            node.dirty
                .iter()
                .all(|one| one.why.len() <= DETAIL_BYTES_MAX)
        );
    }
}
