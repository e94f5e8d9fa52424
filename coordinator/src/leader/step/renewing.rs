//! PURE: when commitments at budgets are renewed. One command at a time; which attempts it is about is decided when it is applied.
use mlctl_proto::units::UtcMs;

use crate::leader::liveness::Mono;
use crate::state::State;
use crate::state::commands::{RENEW_CHARGES_MAX, RenewCharges};

/// After a command that renewed nothing new, the next one waits so long, milliseconds: what is still due then is at the end of its budget.
const CALM_MS: u64 = 1_000;

/// When to renew next.
#[derive(Debug, Default)]
pub(super) struct Renewing {
    running: bool,
    not_before: Mono,
    /// State time as it was last seen to move, and when that was.
    seen: Option<(UtcMs, Mono)>,
    /// State time stands still while nothing happens: only a command of this term brings it up to date.
    fresh: bool,
}

impl Renewing {
    /// The command that is due, if one is; then it is under way.
    pub(super) fn begin(&mut self, now: Mono, state: &State) -> Option<RenewCharges> {
        let state_now = state.now_ms();
        if self.seen.is_none_or(|(seen, _)| seen != state_now) {
            self.seen = Some((state_now, now));
        }
        if self.running || now < self.not_before {
            return None;
        }
        let due = state.next_charge_due()?;
        let (seen, at) = self.seen?;
        let since = i64::try_from(now.saturating_sub(at)).unwrap_or(i64::MAX);
        let by_now = seen.saturating_add(since);
        if self.fresh && due > by_now {
            return None;
        }
        self.running = true;
        let most = u32::try_from(RENEW_CHARGES_MAX).unwrap_or(u32::MAX);
        Some(RenewCharges { most })
    }

    /// The command's end; one that was not carried is tried again after `again_ms`.
    pub(super) fn ended(&mut self, now: Mono, carried: bool, again_ms: u64) {
        self.running = false;
        self.fresh |= carried;
        let wait = if carried { CALM_MS } else { again_ms };
        self.not_before = now.saturating_add(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Body;
    use crate::state::commands::{ChangeTeams, SetBudget, TeamEdit};
    use crate::state::records::{Budget, WhenExhausted, Window};
    use crate::state::testing::{Cluster, person, system};
    use crate::state::view::teams::Flavor;

    /// A job runs at the cost of a budget.
    fn charged() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let budget = Budget {
            limit: 1 << 50,
            window: Window::Rolling(30),
            when_exhausted: WhenExhausted::Hold,
            until_ms: 0,
        };
        let edit = TeamEdit::Budget(SetBudget {
            team: "default".into(),
            flavor: Flavor {
                kind: "sim".into(),
                pool: None,
            },
            budget: Some(budget),
        });
        let edits = vec![edit];
        let change = Body::ChangeTeams(ChangeTeams { edits });
        cluster.run(person("root", true), change);
        let job = cluster.submitted("ann", 1, 1);
        cluster.started(job, &["a"]);
        cluster
    }

    #[test]
    fn a_new_leader_asks_at_once_and_then_in_time() {
        let mut cluster = charged();
        let mut renewing = Renewing::default();
        let first = renewing
            .begin(0, &cluster.state)
            .expect("nobody knows how late it is");
        assert_eq!(renewing.begin(1, &cluster.state), None, "it is under way");
        cluster.run(system(), Body::RenewCharges(first));
        renewing.ended(2, true, 300);
        let due = cluster.state.next_charge_due().expect("it runs");
        let wait = u64::try_from(due - cluster.state.now_ms()).expect("later");
        assert_eq!(renewing.begin(10, &cluster.state), None);
        assert_eq!(renewing.begin(9 + wait, &cluster.state), None);
        assert!(renewing.begin(10 + wait, &cluster.state).is_some());
        renewing.ended(11 + wait, false, 300);
        assert_eq!(renewing.begin(310 + wait, &cluster.state), None);
        assert!(renewing.begin(311 + wait, &cluster.state).is_some());
    }

    #[test]
    fn without_budgets_there_is_nothing_to_do() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let job = cluster.submitted("ann", 1, 1);
        cluster.started(job, &["a"]);
        assert_eq!(Renewing::default().begin(1 << 40, &cluster.state), None);
    }
}
