//! Witnesses: a simulated agent asks a silent node for its leader, over links that may be cut too.
//! Does NOT decide anything; a machine that is on answers for its agent if that is awake, and for its keepers.

use mlctl_coordinator::leader::orders::{ProbeOrder, Testimony};
use mlctl_coordinator::leader::step;
use mlctl_coordinator::leader::witness::{Target, Targets};

use super::marks::Mark;
use super::stream::Up;
use super::world::{COORDINATORS, Event, Process, World};

/// Tries of one question, and the pause after each, as agents do it.
const TRIES: u32 = 3;
const PAUSE_MS: u64 = 300;

/// A question on its way.
pub(super) struct Asking {
    pub(super) at: Process,
    stream: u64,
    id: u64,
    node: String,
    tries: u32,
}

impl World {
    /// A leader asks an agent.
    pub(super) fn on_probe_order(&mut self, at: Process, stream: u64, order: ProbeOrder) {
        let asking = Asking {
            at,
            stream,
            id: order.id,
            node: order.node,
            tries: 0,
        };
        self.on_ask(asking);
    }

    /// One try is over: somebody has answered, or the next one begins.
    pub(super) fn on_ask(&mut self, mut asking: Asking) {
        let (at, stream) = (asking.at, asking.stream);
        if self
            .agent(at)
            .is_none_or(|agent| agent.stream != Some(stream))
        {
            return;
        }
        let target = self.nodes.iter().position(|node| node.name == asking.node);
        let seen = target.is_some_and(|target| self.reaches(at.who, target));
        if !seen && asking.tries < TRIES {
            asking.tries += 1;
            return self.after(PAUSE_MS, Event::Ask(asking));
        }
        self.marks.hit(if seen {
            Mark::WitnessSaw
        } else {
            Mark::WitnessSawNobody
        });
        self.checkers
            .witnessed
            .testifies(&asking.node, seen, self.now);
        let answer = Testimony {
            id: asking.id,
            node: asking.node,
            seen,
        };
        self.push_up(stream, Up::Probed(answer));
    }

    fn reaches(&mut self, who: usize, target: usize) -> bool {
        let (own, other) = (COORDINATORS + who, COORDINATORS + target);
        let cut = self.is_cut(own, other) || self.is_cut(other, own);
        let node = &self.nodes[target];
        let awake = node.agent.is_some() && self.now >= node.paused_until;
        let there = self.now >= node.frozen_until && (awake || !node.keepers.is_empty());
        let lost = self.datagram().is_none() || self.datagram().is_none();
        there && !cut && !lost
    }

    /// What a heartbeat says besides: who answers there.
    pub(super) fn led_targets(&mut self, who: usize, node: &str, link: u64) {
        let target = Target {
            port: 9,
            key: [9; 32],
        };
        let targets = Targets {
            targets: vec![target],
            whole: true,
        };
        let node = node.to_owned();
        self.led(
            who,
            step::Event::Targets {
                node,
                link,
                targets,
            },
        );
    }
}
