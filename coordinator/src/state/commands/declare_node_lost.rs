//! DeclareNodeLost: a node is given up. What it held ends with NodeLost, and its gangs are told to stop elsewhere; what may still
//! run there, because nothing but silence speaks against it, is in doubt, or is kept if its job says so.
//! Whether the proof is good enough is the leader's judgement, made from durations that it measured, or an admin's.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;

use super::current::lose_allocations;
use super::{Context, bounded};
use crate::state::change::Change;
use crate::state::records::{Liveness, Node, Reply};

/// Why a node is taken for gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossProof {
    /// The machine runs another boot: what ran before is dead.
    NewBootId,
    /// Silent for `lost_after`.
    LostAfter,
    /// Silent for `node_timeout`, and other nodes that were asked do not hear it either.
    Witness,
    /// An admin says so: the machine is off, burnt or sold.
    DeclaredByAdmin,
}

impl LossProof {
    /// Nobody knows: the machine may be there, with everything that it runs.
    pub fn is_silence(self) -> bool {
        matches!(self, Self::LostAfter | Self::Witness)
    }
}

/// A node is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclareNodeLost {
    /// The node.
    pub node: String,
    /// The boot that is gone.
    pub boot_id: String,
    /// Why.
    pub proof: LossProof,
}

impl DeclareNodeLost {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        if self.proof == LossProof::DeclaredByAdmin {
            context.require_admin()?;
        } else {
            context.require_system()?;
        }
        bounded("the boot id", &self.boot_id, 128)?;
        let mut node = change.node(&self.node)?;
        let current_boot = node.facts.boot_id == self.boot_id;
        let detail = match self.proof {
            LossProof::NewBootId if current_boot => {
                let why = format!(
                    "node {} still runs the boot that is said to be gone",
                    self.node
                );
                return Err(Refusal::new(Code::Conflict, why));
            }
            LossProof::NewBootId => format!("node {} has booted again", self.node),
            _ if !current_boot => {
                return Err(Refusal::new(
                    Code::Conflict,
                    format!("node {} has booted again since", self.node),
                ));
            }
            LossProof::LostAfter => format!("node {} was silent for too long", self.node),
            LossProof::Witness => {
                format!("node {} is silent, to other nodes too", self.node)
            }
            LossProof::DeclaredByAdmin => {
                refuse_if_heard(&node)?;
                let admin = clip(&context.actor.name);
                format!("node {} was declared lost by {admin}", self.node)
            }
        };
        let why = (self.proof, detail.as_str());
        lose_allocations(change, &self.node, &self.boot_id, why, context.now_ms)?;
        if current_boot && node.liveness != Liveness::Lost {
            node.liveness = Liveness::Lost;
            node.since_ms = context.now_ms;
            change.put_node(node);
            // A job that waited for a checkpoint of this node waits no longer.
            change.replan();
        }
        Ok(Reply::Done)
    }
}

/// An admin's word frees what may be running; it counts only for a node that nobody hears.
fn refuse_if_heard(node: &Node) -> Result<(), Refusal> {
    if !matches!(node.liveness, Liveness::Ready | Liveness::Joining) {
        return Ok(());
    }
    let why = format!(
        "node {} answers: only a silent node can be declared lost; stop its agent, or power it off first",
        node.facts.name
    );
    Err(Refusal::new(Code::Conflict, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::agent_events::Happening;
    use crate::state::records::{EndKind, JobState, RankExit};
    use crate::state::testing::{Cluster, system};
    use crate::state::{Body, Effect};

    fn lose(node: &str, boot: &str, proof: LossProof) -> Body {
        Body::DeclareNodeLost(DeclareNodeLost {
            node: node.into(),
            boot_id: boot.into(),
            proof,
        })
    }

    #[test]
    fn what_it_held_ends_and_the_gang_is_told() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        cluster.gpu_node("b", 1);
        let job = cluster.submitted("ann", 2, 1);
        let epoch = cluster.started(job, &["a", "b"]);
        let applied = cluster.run(system(), lose("a", "boot-a", LossProof::LostAfter));
        let stop = Effect::Stop {
            node: "b".into(),
            job,
            epoch,
            reason: EndKind::NodeLost,
        };
        assert_eq!(applied.effects, [stop, Effect::Replan]);
        assert_eq!(
            cluster.job(job).state,
            JobState::Stopping,
            "b still holds its device"
        );
        assert_eq!(cluster.state.device_holder("b", "b-0"), Some((job, epoch)));
        assert_eq!(cluster.state.device_holder("a", "a-0"), None);
        assert_eq!(
            cluster.state.node("a").map(|node| node.liveness),
            Some(Liveness::Lost)
        );

        cluster.ended("b", job, epoch, EndKind::NodeLost);
        assert_eq!(
            (
                cluster.job(job).state,
                cluster.job(job).infrastructure_restarts
            ),
            (JobState::Pending, 1)
        );
        let again = cluster.run(system(), lose("a", "boot-a", LossProof::LostAfter));
        assert!(
            again.refusal().is_none() && again.changed.is_empty(),
            "twice is once"
        );
    }

    /// A rank whose peer's machine died often fails, and is heard of, long before the machine is known to be lost.
    #[test]
    fn a_loss_explains_the_failure_of_a_peer() {
        let exit = |rank| {
            Happening::RankExited(RankExit {
                rank,
                code: 1,
                signal: 0,
                killed_by_us: false,
                oom: None,
            })
        };
        for (failed_on, rank, after) in [("b", 1, JobState::Pending), ("a", 0, JobState::Failed)] {
            let mut cluster = Cluster::new();
            cluster.gpu_node("a", 1);
            cluster.gpu_node("b", 1);
            let job = cluster.submitted("ann", 2, 1);
            let epoch = cluster.started(job, &["a", "b"]);
            cluster.event(failed_on, job, epoch, exit(rank));
            assert_eq!(cluster.job(job).state, JobState::Stopping);
            cluster.ended("b", job, epoch, EndKind::Exited);
            cluster.run(system(), lose("a", "boot-a", LossProof::LostAfter));
            assert_eq!(
                cluster.job(job).state,
                after,
                "the rank of {failed_on} failed"
            );
        }
    }

    #[test]
    fn a_proof_has_to_be_one() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        for (node, boot, proof, code) in [
            ("a", "boot-a", LossProof::NewBootId, Code::Conflict),
            ("a", "older", LossProof::LostAfter, Code::Conflict),
            ("z", "boot-z", LossProof::LostAfter, Code::NotFound),
            ("a", "", LossProof::LostAfter, Code::BadRequest),
        ] {
            let applied = cluster.run(system(), lose(node, boot, proof));
            assert_eq!(
                applied.refusal().map(|refusal| refusal.code),
                Some(code),
                "{node} {boot} {proof:?}"
            );
        }
        assert!(
            cluster
                .run(system(), lose("a", "older", LossProof::NewBootId))
                .refusal()
                .is_none()
        );
        assert_eq!(
            cluster.state.node("a").map(|node| node.liveness),
            Some(Liveness::Ready),
            "the new boot lives"
        );
    }
}
