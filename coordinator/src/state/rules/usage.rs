//! What the checkpoints of each team take, by what the records say. A disk may hold less: chunks that checkpoints share are kept once there, and what
//! the trainer still has costs nothing more. Does NOT limit anything.
use std::collections::{BTreeMap, BTreeSet};

use crate::state::State;
use crate::state::records::{Job, ManifestId};

/// What checkpoints take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Jobs that have some.
    pub jobs: u64,
    /// Checkpoints, also those of which not every part is known yet.
    pub checkpoints: u64,
    /// Bytes, each part once.
    pub bytes: u64,
    /// Bytes, each part as often as nodes hold it.
    pub held_bytes: u64,
}

impl Usage {
    /// Adds what others take.
    pub fn add(&mut self, other: &Self) {
        self.jobs = self.jobs.saturating_add(other.jobs);
        self.checkpoints = self.checkpoints.saturating_add(other.checkpoints);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.held_bytes = self.held_bytes.saturating_add(other.held_bytes);
    }
}

/// What the checkpoints of jobs in memory take, by team; of teams that have some.
pub fn usage(state: &State) -> BTreeMap<String, Usage> {
    let mut teams: BTreeMap<String, Usage> = BTreeMap::new();
    for job in state.jobs().filter(|job| !job.checkpoints.is_empty()) {
        teams.entry(job.team.clone()).or_default().add(&of(job));
    }
    teams
}

/// What those of one team and of teams in it take together.
pub fn usage_below(state: &State, team: &str) -> Usage {
    let below = |job: &Job| {
        let rest = job.team.strip_prefix(team);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut sum = Usage::default();
    for job in state.jobs() {
        if !job.checkpoints.is_empty() && below(job) {
            sum.add(&of(job));
        }
    }
    sum
}

/// Equal parts of one job count once: a node keeps their bytes once.
fn of(job: &Job) -> Usage {
    let mut sizes: BTreeMap<ManifestId, u64> = BTreeMap::new();
    let mut copies: BTreeSet<(ManifestId, &str)> = BTreeSet::new();
    for part in job.checkpoints.iter().flat_map(|one| &one.parts) {
        // Of what is only a directory nobody knows the size.
        let Some(manifest) = part.manifest else {
            continue;
        };
        sizes.insert(manifest, part.bytes);
        let holders = part.holders.iter();
        copies.extend(holders.map(|holder| (manifest, holder.as_str())));
    }
    let held = copies
        .iter()
        .filter_map(|(manifest, _)| sizes.get(manifest).copied());
    Usage {
        jobs: 1,
        checkpoints: u64::try_from(job.checkpoints.len()).unwrap_or(u64::MAX),
        bytes: sizes.values().copied().fold(0, u64::saturating_add),
        held_bytes: held.fold(0, u64::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::{CopyNews, Happening, PartOf, SealedPart};
    use crate::state::records::Checkpoint;
    use crate::state::testing::Cluster;
    use mlctl_proto::ids::{Epoch, JobId};

    fn sealed(step: u8, manifest: u8, bytes: u64) -> SealedPart {
        SealedPart {
            name: format!("step-{step}"),
            step: step.into(),
            part: Some(PartOf {
                index: 0,
                manifest: Some([manifest; 32]),
                bytes,
            }),
            parts: 1,
            metric: None,
            save_ms: 0,
        }
    }

    /// A job on `node` that has saved these.
    fn saved(cluster: &mut Cluster, node: &str, parts: &[SealedPart]) -> (JobId, Epoch) {
        let job = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(job, &[node]);
        for part in parts {
            let what = Happening::CheckpointSealed(part.clone());
            cluster.event(node, job, epoch, what);
        }
        (job, epoch)
    }

    #[test]
    fn what_is_held_counts_for_each_holder_and_equal_parts_once() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 2);
        cluster.gpu_node("b", 2);
        assert!(usage(&cluster.state).is_empty());
        let parts = [sealed(1, 1, 100), sealed(2, 2, 30), sealed(3, 2, 30)];
        let first = saved(&mut cluster, "a", &parts);
        let copy = CopyNews::Held(sealed(1, 1, 100));
        cluster.copy("b", first, copy);
        // Of another job the same bytes count again: who may go on without the other?
        saved(&mut cluster, "b", &[sealed(1, 1, 100)]);
        let teams = usage(&cluster.state);
        let wanted = Usage {
            jobs: 2,
            checkpoints: 4,
            bytes: 230,
            held_bytes: 330,
        };
        let all: Vec<Usage> = teams.into_values().collect();
        assert_eq!(all, [wanted], "all are of one team");
    }

    #[test]
    fn what_is_on_no_node_or_only_a_directory_is_held_by_nobody() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 2);
        let (id, _) = saved(&mut cluster, "a", &[sealed(1, 1, u64::MAX)]);
        let mut job = cluster.job(id);
        let [one] = &job.checkpoints[..] else {
            panic!("{:?}", job.checkpoints)
        };
        let mut gone: Checkpoint = one.clone();
        gone.parts[0].holders.clear();
        let mut local = one.clone();
        local.parts[0].manifest = None;
        job.checkpoints.push(local.clone());
        let twice = of(&job);
        assert_eq!((twice.bytes, twice.held_bytes), (u64::MAX, u64::MAX));
        job.checkpoints = vec![gone, local];
        let none = of(&job);
        assert_eq!((none.checkpoints, none.bytes), (2, u64::MAX));
        assert_eq!(none.held_bytes, 0);
        let mut sum = none;
        sum.add(&none);
        assert_eq!((sum.jobs, sum.bytes), (2, u64::MAX), "it stops there");
    }
}
