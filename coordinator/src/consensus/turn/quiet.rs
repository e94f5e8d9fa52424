//! How long a member may sleep: the ticks for which, without any other input, nothing would happen.
//!
//! It does not take ticks: whoever slept hands them all in when it wakes, before what woke it.

use super::core::Core;
use raft::StateRole;

impl Core {
    /// How many ticks from now the first one lies at which something could happen; at least 1. A leader sends heartbeats and looks
    /// whether it has a majority, all others wait for a leader.
    pub fn quiet_ticks(&self) -> u32 {
        if self.counts_every_tick() {
            return 1;
        }
        let raft = &self.node.raft;
        let left = if raft.state == StateRole::Leader {
            let heartbeat = raft
                .heartbeat_timeout()
                .saturating_sub(raft.heartbeat_elapsed());
            let quorum = self
                .config
                .election_tick
                .saturating_sub(raft.election_elapsed);
            heartbeat.min(quorum)
        } else {
            let timeout = raft.randomized_election_timeout();
            timeout.saturating_sub(raft.election_elapsed)
        };
        u32::try_from(left).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CoreConfig, Envelope, Input, Outputs, Recovered, Role, Step};
    use super::*;
    use crate::consensus::MemberId;
    use std::collections::VecDeque;

    fn three() -> Vec<Core> {
        let core = |id| {
            let config = CoreConfig::new(id, vec![1, 2, 3], 7);
            Core::new(config, Recovered::default()).expect("a sound configuration")
        };
        [1, 2, 3].map(core).into()
    }

    fn turn(core: &mut Core, input: Input) -> Outputs {
        core.turn(vec![input]).expect("goes on")
    }

    /// Whether nothing happened.
    fn is_nothing(out: &Outputs) -> bool {
        let steps = out.clone().steps();
        steps.iter().all(|step| matches!(step, Step::Leads(_)))
    }

    /// Carries everything that `out` of `from` leads to.
    fn carry(cores: &mut [Core], from: MemberId, out: Outputs) {
        let mut todo: VecDeque<(MemberId, Outputs)> = [(from, out)].into();
        while let Some((from, out)) = todo.pop_front() {
            let more = out.more;
            let mut sent: Vec<Envelope> = Vec::new();
            for step in out.steps() {
                match step {
                    Step::Send(envelopes) => sent.extend(envelopes),
                    Step::Persist(persist) => {
                        let number = persist.number;
                        let input = Input::Persisted { number };
                        todo.push_back((from, turn(&mut cores[from as usize - 1], input)));
                    }
                    _ => {}
                }
            }
            for Envelope { to, message } in sent {
                let input = Input::Step { from, message };
                todo.push_back((to, turn(&mut cores[to as usize - 1], input)));
            }
            if more {
                let out = cores[from as usize - 1].turn(Vec::new()).expect("goes on");
                todo.push_back((from, out));
            }
        }
    }

    #[test]
    fn whoever_sleeps_as_long_as_it_is_told_misses_nothing() {
        let mut cores = three();
        let (mut slept, mut heartbeats, mut led) = (0, 0, 0);
        for _ in 0..200 {
            // The one that is due first acts; ticks pass for all.
            let quiet = cores.iter().map(Core::quiet_ticks).min().expect("three");
            for _ in 1..quiet {
                slept += 1;
                for core in &mut cores {
                    let out = turn(core, Input::Tick);
                    assert!(
                        is_nothing(&out),
                        "{:?} after {:?}",
                        out.clone().steps(),
                        out.status
                    );
                }
            }
            for id in [1, 2, 3] {
                let out = turn(&mut cores[id as usize - 1], Input::Tick);
                led += u32::from(out.status.role == Role::Leader);
                heartbeats +=
                    u32::from(out.status.role == Role::Leader && !out.messages.is_empty());
                carry(&mut cores, id, out);
            }
        }
        assert!(slept > 400, "{slept} ticks were slept");
        assert!(
            heartbeats > 100 && led >= heartbeats,
            "{heartbeats} heartbeats, {led} times led"
        );
    }
}
