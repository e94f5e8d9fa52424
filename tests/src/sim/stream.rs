//! The control stream between an agent and a coordinator: in order, never lossy while it lasts, held up while its link is cut.
//! The coordinator's end does what the product's session does. Does NOT decide anything.

use std::collections::VecDeque;

use mlctl_agent::core as agent;
use mlctl_coordinator::leader::copies::{CopyOrder, Word};
use mlctl_coordinator::leader::gang::Report;
use mlctl_coordinator::leader::orders::{ProbeOrder, Testimony};
use mlctl_coordinator::leader::step;
use mlctl_coordinator::state::commands::{AgentEvent, AgentEvents, RegisterNode};
use mlctl_coordinator::state::records::{Liveness, NodeFacts};
use mlctl_coordinator::state::{Body, codec};
use mlctl_proto::ids::Epoch;
use mlctl_proto::persist;

use super::coordinator::{Waiter, system};
use super::plants::Plant;
use super::words;
use super::world::{COORDINATORS, Event, Process, World};

/// A held up stream tries again after this.
const RETRANSMIT_MS: u64 = 100;

/// What an agent says.
pub(super) enum Up {
    Say(agent::ToLeader),
    /// The answer to a leader's question.
    Probed(Testimony),
    /// About parts of checkpoints.
    Copies(Word),
    End,
}

/// What a coordinator says.
pub(super) enum Down {
    /// Its term, and what.
    Say(u64, agent::LeaderMessage),
    /// Ask a silent node.
    Probe(ProbeOrder),
    /// About parts of checkpoints; what the core need not hear of.
    Copies(CopyOrder),
    NotLeader,
    End,
}

/// One connection.
pub(super) struct Stream {
    pub(super) node: usize,
    agent_life: u64,
    pub(super) coordinator: usize,
    coordinator_life: u64,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    pumping: [bool; 2],
}

/// The coordinator's end of a stream whose hello was taken.
pub(super) struct Session {
    node: usize,
    facts: NodeFacts,
    journal_id: String,
    reports: Vec<Report>,
    connected: bool,
    /// Reports of events, the first of which is being replicated.
    events: VecDeque<Vec<AgentEvent>>,
}

impl Session {
    /// Whose it is.
    pub(super) fn node(&self) -> usize {
        self.node
    }
}

impl World {
    /// Connects an agent to a coordinator's machine.
    pub(super) fn connect(&mut self, node: usize, coordinator: usize) -> u64 {
        self.connections += 1;
        let id = self.connections;
        let stream = Stream {
            node,
            agent_life: self.nodes[node].life,
            coordinator,
            coordinator_life: self.coordinators[coordinator].life,
            up: VecDeque::new(),
            down: VecDeque::new(),
            pumping: [false; 2],
        };
        self.streams.insert(id, stream);
        id
    }

    pub(super) fn push_up(&mut self, id: u64, what: Up) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.up.push_back(what);
            if !std::mem::replace(&mut stream.pumping[0], true) {
                let delay = self.dice.between(1, 4);
                self.after(
                    delay,
                    Event::Pump {
                        stream: id,
                        up: true,
                    },
                );
            }
        }
    }

    pub(super) fn push_down(&mut self, id: u64, what: Down) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.down.push_back(what);
            if !std::mem::replace(&mut stream.pumping[1], true) {
                let delay = self.dice.between(1, 4);
                self.after(
                    delay,
                    Event::Pump {
                        stream: id,
                        up: false,
                    },
                );
            }
        }
    }

    /// Delivers the next message of one direction, in order.
    pub(super) fn pump(&mut self, id: u64, up: bool) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let (coordinator, node) = (stream.coordinator, stream.node);
        let (from, to) = if up {
            (COORDINATORS + node, coordinator)
        } else {
            (coordinator, COORDINATORS + node)
        };
        if self.is_cut(from, to) {
            return self.after(RETRANSMIT_MS, Event::Pump { stream: id, up });
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let (said, told, more) = if up {
            let said = stream.up.pop_front();
            (said, None, !stream.up.is_empty())
        } else {
            let told = stream.down.pop_front();
            (None, told, !stream.down.is_empty())
        };
        stream.pumping[usize::from(!up)] = more;
        let (agent_life, coordinator_life) = (stream.agent_life, stream.coordinator_life);
        if more {
            let delay = self.dice.roll(2);
            self.after(delay, Event::Pump { stream: id, up });
        }
        if let Some(said) = said {
            let at = Process {
                who: coordinator,
                life: coordinator_life,
            };
            if matches!(said, Up::End) {
                self.streams.remove(&id);
            }
            self.coordinator_hears(at, id, said);
        }
        if let Some(told) = told {
            if matches!(told, Down::NotLeader | Down::End) {
                self.streams.remove(&id);
            }
            let at = Process {
                who: node,
                life: agent_life,
            };
            self.agent_is_told(at, id, told);
        }
    }

    fn coordinator_hears(&mut self, at: Process, stream: u64, said: Up) {
        let end = matches!(said, Up::End);
        if self.member(at).is_none() {
            // The machine answers for a process that is gone.
            if !end && self.coordinators[at.who].live.is_some() {
                self.push_down(stream, Down::End);
            }
            return;
        }
        match said {
            Up::Say(message) => self.said(at.who, stream, message),
            Up::Probed(answer) => self.probed(at.who, stream, answer),
            Up::Copies(word) => self.said_of_copies(at.who, stream, word),
            Up::End => self.session_ends(at.who, stream),
        }
        self.turn(at.who);
    }

    fn probed(&mut self, who: usize, stream: u64, answer: Testimony) {
        let member = self.coordinators[who].live.as_ref();
        let session = member.and_then(|member| member.sessions.get(&stream));
        if let Some(session) = session {
            let (node, link) = (self.nodes[session.node].name.clone(), stream);
            self.led(who, step::Event::Probed { node, link, answer });
        }
    }

    fn session_ends(&mut self, who: usize, stream: u64) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let Some(session) = member.sessions.remove(&stream) else {
            return;
        };
        let node = self.nodes[session.node].name.clone();
        self.led(who, step::Event::Gone { node, link: stream });
    }

    fn said(&mut self, who: usize, stream: u64, message: agent::ToLeader) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        if let agent::ToLeader::Hello {
            journal_id,
            term,
            attempts,
            ..
        } = message
        {
            return self.hello(who, stream, journal_id, term, &attempts);
        }
        let Some(session) = member.sessions.get_mut(&stream) else {
            return;
        };
        let (node, link) = (self.nodes[session.node].name.clone(), stream);
        match message {
            agent::ToLeader::Heartbeat { seq, attempts } => {
                self.checkers.leases.arrived(stream, seq, self.now);
                let reports = attempts.iter().map(words::report).collect();
                self.led_targets(who, &node, link);
                let heartbeat = step::Event::Heartbeat {
                    node,
                    link,
                    seq,
                    reports,
                };
                self.led(who, heartbeat);
            }
            agent::ToLeader::Ready {
                job,
                epoch,
                master_port,
            } => {
                let phase = agent::Phase::Ready;
                let status = agent::Status {
                    job,
                    epoch,
                    phase,
                    master_port,
                    moving_up_to: 0,
                    probe: None,
                };
                let report = words::report(&status);
                self.led(who, step::Event::Ready { node, link, report });
            }
            agent::ToLeader::Events(events) => self.events_came(who, stream, events),
            agent::ToLeader::Hello { .. } => {}
        }
    }

    fn hello(
        &mut self,
        who: usize,
        stream: u64,
        journal_id: String,
        term: u64,
        attempts: &[agent::Status],
    ) {
        let Some(node) = self.streams.get(&stream).map(|stream| stream.node) else {
            return;
        };
        let facts = self.nodes[node].facts();
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        if member.lead.as_ref().is_none_or(|lead| term > lead.term) {
            return self.push_down(stream, Down::NotLeader);
        }
        let same = member.state.node(&facts.name).is_some_and(|known| {
            known.facts == facts
                && known.journal_id == journal_id
                && known.liveness == Liveness::Ready
        });
        let session = Session {
            node,
            facts: facts.clone(),
            journal_id: journal_id.clone(),
            reports: attempts.iter().map(words::report).collect(),
            connected: false,
            events: VecDeque::new(),
        };
        member.sessions.insert(stream, session);
        if same {
            return self.registered(who, stream, true);
        }
        let actor = system(&facts.name);
        let body = Body::RegisterNode(RegisterNode { facts, journal_id });
        self.propose(who, actor, None, body, Waiter::Hello { stream });
    }

    /// The node of a hello is in the state, or could not be put there.
    pub(super) fn registered(&mut self, who: usize, stream: u64, carried: bool) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let Some(session) = member.sessions.get_mut(&stream) else {
            return;
        };
        let (Some(lead), Some(settings), true) =
            (&mut member.lead, member.state.settings(), carried)
        else {
            member.sessions.remove(&stream);
            return self.push_down(stream, Down::NotLeader);
        };
        session.connected = true;
        let name = session.facts.name.clone();
        let known = member.state.node(&name);
        let mark = known.filter(|known| known.journal_id == session.journal_id);
        let hello = agent::LeaderHello {
            incarnation: settings.incarnation,
            heartbeat_ms: settings.timers.heartbeat_ms.into(),
            node_timeout_ms: settings.timers.node_timeout_ms.into(),
            event_mark: mark.map_or(0, |known| known.event_mark),
        };
        let link = Box::new(step::Link {
            id: stream,
            facts: session.facts.clone(),
            journal_id: session.journal_id.clone(),
            data_port: 1,
        });
        let reports = std::mem::take(&mut session.reports);
        let term = lead.term;
        let hello = agent::LeaderMessage::Hello(hello);
        self.push_down(stream, Down::Say(term, hello));
        self.led(who, step::Event::Connected { link, reports });
    }

    fn events_came(&mut self, who: usize, stream: u64, mut events: Vec<persist::AgentEvent>) {
        if self.plant == Some(Plant::ForgedEpoch) {
            events.iter_mut().for_each(|event| self.forge_epoch(event));
        }
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let Some(session) = member.sessions.get_mut(&stream).filter(|one| one.connected) else {
            return;
        };
        let decoded: Result<Vec<AgentEvent>, _> =
            events.into_iter().map(codec::decode_event).collect();
        let Ok(decoded) = decoded else {
            return self.push_down(stream, Down::End);
        };
        session.events.push_back(decoded);
        let first = session.events.len() == 1;
        if first {
            self.replicate(who, stream);
        }
    }

    /// What an old epoch has to say gets the job's newest epoch.
    fn forge_epoch(&self, event: &mut persist::AgentEvent) {
        let newest = event
            .job
            .and_then(|id| self.head.job(Some(id).try_into().ok()?))
            // The waves of an array run beside each other: none is what came of an older one.
            .filter(|job| job.array.is_none())
            .and_then(|job| job.epoch());
        let own = Epoch::try_from(event.epoch).ok();
        if let Some(newest) = newest.filter(|newest| Some(*newest) > own) {
            event.epoch = Some(newest.into());
        }
    }

    fn replicate(&mut self, who: usize, stream: u64) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let Some(session) = member.sessions.get(&stream) else {
            return;
        };
        let Some(events) = session.events.front().cloned() else {
            return;
        };
        let (node, journal_id) = (session.facts.name.clone(), session.journal_id.clone());
        let actor = system(&node);
        let body = Body::AgentEvents(AgentEvents {
            node,
            journal_id,
            events,
        });
        self.propose(who, actor, None, body, Waiter::Events { stream });
    }

    /// The first report of a stream is applied, or will not be: then the agent connects anew.
    pub(super) fn replicated(&mut self, who: usize, stream: u64, carried: bool) {
        if !carried {
            self.session_ends(who, stream);
            return self.push_down(stream, Down::End);
        }
        let member = self.coordinators[who].live.as_mut();
        if let Some(session) = member.and_then(|member| member.sessions.get_mut(&stream)) {
            session.events.pop_front();
            self.replicate(who, stream);
        }
    }
}
