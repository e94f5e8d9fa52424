//! SetNodeLiveness: a node fell silent for `node_timeout`, or is heard again. Ends nothing: only a loss does.
use mlctl_proto::errors::{Code, Refusal};

use super::Context;
use crate::state::change::Change;
use crate::state::records::{Liveness, Reply};

/// What a leader observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetNodeLiveness {
    /// The node.
    pub node: String,
    /// Applies only while this is still the node's boot.
    pub boot_id: String,
    /// Ready or Unreachable.
    pub liveness: Liveness,
}

impl SetNodeLiveness {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        let mut node = change.node(&self.node)?;
        let conflict = |why: String| Err(Refusal::new(Code::Conflict, why));
        if node.facts.boot_id != self.boot_id {
            return conflict(format!("node {} has booted again since", self.node));
        }
        match (node.liveness, self.liveness) {
            (from, to) if from == to => return Ok(Reply::Done),
            (Liveness::Ready, Liveness::Unreachable) | (Liveness::Unreachable, Liveness::Ready) => {
            }
            (Liveness::Lost, _) => {
                return conflict(format!(
                    "node {} is Lost: it has to register again",
                    self.node
                ));
            }
            (from, to) => {
                return conflict(format!(
                    "node {} cannot go from {from:?} to {to:?}",
                    self.node
                ));
            }
        }
        node.liveness = self.liveness;
        node.since_ms = context.now_ms;
        change.put_node(node);
        if self.liveness == Liveness::Ready {
            change.replan();
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{Cluster, system};
    use crate::state::{Body, Effect};

    #[test]
    fn silent_and_back() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let mut check =
            |node: &str, boot: &str, liveness, expected: Result<(Liveness, bool), Code>| {
                let set = SetNodeLiveness {
                    node: node.into(),
                    boot_id: boot.into(),
                    liveness,
                };
                let applied = cluster.run(system(), Body::SetNodeLiveness(set));
                let now = cluster
                    .state
                    .node("a")
                    .map(|node| node.liveness)
                    .unwrap_or(Liveness::Joining);
                let got = applied
                    .refusal()
                    .map_or(Ok((now, applied.effects == [Effect::Replan])), |refusal| {
                        Err(refusal.code)
                    });
                assert_eq!(got, expected, "{node} {boot} {liveness:?}");
            };
        check("b", "boot-b", Liveness::Ready, Err(Code::NotFound));
        check("a", "old", Liveness::Unreachable, Err(Code::Conflict));
        check("a", "boot-a", Liveness::Ready, Ok((Liveness::Ready, false)));
        check(
            "a",
            "boot-a",
            Liveness::Unreachable,
            Ok((Liveness::Unreachable, false)),
        );
        check("a", "boot-a", Liveness::Ready, Ok((Liveness::Ready, true)));
        check("a", "boot-a", Liveness::Lost, Err(Code::Conflict));
        check("a", "boot-a", Liveness::Joining, Err(Code::Conflict));
    }
}
