//! The leader's loop: one task that feeds `step` with effects, agents' words and deadlines, and carries its outputs out.
//!
//! It decides nothing and never waits for an agent or for consensus: orders go into bounded queues, proposals and plans run
//! as tasks of their own whose ends come back as events. With the loop all of them are dropped.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::awaited::Awaited;
use super::copies::Word;
use super::liveness::Mono;
use super::step::{Event, Note, Output, Term, Why};
use super::{AskedUpload, Connected, Input, Order, planning};
use crate::shared::{CallError, Shared};
use crate::state::Body;

/// Inputs handled before effects and deadlines are looked after.
const BATCH: usize = 256;

/// The way to a node.
struct Way {
    out: mpsc::Sender<Order>,
    /// Keeps the stream; dropped to end it.
    _hold: oneshot::Sender<()>,
    awaited: Awaited,
}

/// A term's loop.
pub(super) struct Lead {
    shared: Arc<Shared>,
    began: Instant,
    term: Term,
    /// By stream.
    ways: BTreeMap<u64, Way>,
    /// What ends comes back as an event.
    tasks: JoinSet<Event>,
}

impl Lead {
    /// A loop for `number`; `None` while the cluster has no settings.
    pub(super) fn new(shared: Arc<Shared>, number: u64) -> Option<Self> {
        let term = Term::new(0, &shared.state())?;
        tracing::debug!(term = number, "the leader's loop begins");
        Some(Self {
            shared,
            began: Instant::now(),
            term,
            ways: BTreeMap::new(),
            tasks: JoinSet::new(),
        })
    }

    /// Runs until nobody can report any more.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let shared = Arc::clone(&self.shared);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.step(Event::Time);
            let wake = self.began + Duration::from_millis(self.term.next_wake());
            tokio::select! {
                count = inputs.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for input in batch.drain(..) {
                        let event = self.event(input);
                        self.step(event);
                    }
                }
                () = shared.published.effects_ready() => {
                    let (effects, overflowed) = shared.published.take_effects();
                    self.step(Event::Effects { effects, overflowed });
                }
                Some(done) = self.tasks.join_next() => match done {
                    Ok(event) => self.step(event),
                    Err(error) => tracing::error!(%error, "a task of the leader ended badly"),
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn now(&self) -> Mono {
        Mono::try_from(self.began.elapsed().as_millis()).unwrap_or(Mono::MAX)
    }

    fn event(&mut self, input: Input) -> Event {
        match input {
            Input::Connected(connected) => {
                let Connected {
                    link,
                    reports,
                    out,
                    hold,
                } = *connected;
                let awaited = Awaited::default();
                let way = Way {
                    out,
                    _hold: hold,
                    awaited,
                };
                self.ways.insert(link.id, way);
                let link = Box::new(link);
                Event::Connected { link, reports }
            }
            Input::Gone { node, link } => {
                self.ways.remove(&link);
                Event::Gone { node, link }
            }
            Input::Heartbeat {
                node,
                link,
                seq,
                reports,
            } => Event::Heartbeat {
                node,
                link,
                seq,
                reports,
            },
            Input::Targets {
                node,
                link,
                targets,
            } => Event::Targets {
                node,
                link,
                targets,
            },
            Input::Probed { node, link, answer } => Event::Probed { node, link, answer },
            Input::Relay { node, link, relay } => Event::Relay { node, link, relay },
            Input::Copies { node, link, word } => {
                self.tell_who_waits(link, &word);
                Event::Copies { node, link, word }
            }
            Input::Upload(asked) => self.upload(*asked).unwrap_or(Event::Time),
            Input::Peers { nodes, answer } => {
                // Who asked may be gone.
                let _ = answer.send(self.term.data_peers(&nodes));
                Event::Time
            }
            Input::Ready { node, link, report } => Event::Ready { node, link, report },
        }
    }

    /// Tells a node to upload a part. If it is not connected, whoever waits learns it as `done` is dropped.
    fn upload(&mut self, asked: AskedUpload) -> Option<Event> {
        let AskedUpload { node, order, done } = asked;
        let link = self.term.link(&node)?;
        self.ways.get_mut(&link)?.awaited.add(&order, done);
        self.tell(node, link, Order::Copies(Box::new(order)))
    }

    fn tell_who_waits(&mut self, link: u64, word: &Word) {
        if let (Some(way), Word::Uploaded { key, url, error }) = (self.ways.get_mut(&link), word) {
            way.awaited.said(key, url, error);
        }
    }

    /// Feeds an event, and those that carrying its outputs out leads to.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let (now, state) = (self.now(), self.shared.state());
            for output in self.term.step(now, &state, event) {
                events.extend(self.carry_out(output));
            }
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Event> {
        let shared = Arc::clone(&self.shared);
        match output {
            Output::Tell { node, link, order } => return self.tell(node, link, order),
            Output::Close { link } => {
                self.ways.remove(&link);
            }
            Output::Propose { body, why } => {
                self.tasks.spawn(propose(shared, *body, why));
            }
            Output::Read => {
                self.tasks.spawn(async move {
                    let confirmed = shared.read().await.is_ok();
                    Event::RoundEnded { confirmed }
                });
            }
            Output::Plan { heard, salvaging } => {
                self.tasks.spawn(async move {
                    let (again_in, late) = planning::plan(shared, heard, salvaging).await;
                    Event::PlanEnded { again_in, late }
                });
            }
            Output::Note(note) => log(&note),
        }
        None
    }

    fn tell(&mut self, node: String, link: u64, order: Order) -> Option<Event> {
        let told = self.ways.get(&link)?.out.try_send(order).is_ok();
        (!told).then(|| {
            tracing::warn!(%node, "the node does not read what it is told; its stream is ended");
            self.ways.remove(&link);
            Event::Gone { node, link }
        })
    }
}

async fn propose(shared: Arc<Shared>, body: Body, why: Why) -> Event {
    let outcome = shared.propose(shared.system(), "leader", None, body).await;
    if let Err(CallError::Refused(refusal)) = &outcome {
        tracing::warn!(?why, %refusal, "what the leader proposed was not recorded");
    }
    let carried = outcome.is_ok();
    Event::Proposed { why, carried }
}

fn log(note: &Note) {
    match note {
        Note::Connected { node, attempts } => tracing::info!(%node, attempts, "node connected"),
        Note::Disconnected { node } => tracing::info!(%node, "node disconnected"),
        Note::Orphan {
            node,
            key: (job, epoch),
        } => {
            tracing::warn!(%node, %job, %epoch, "orphan: the node runs an attempt that this cluster never knew; it is left alone");
        }
        Note::Silent { node, lost } => {
            let verdict = if *lost { "Lost" } else { "Unreachable" };
            tracing::warn!(%node, verdict, "the node is silent");
        }
        Note::Asked { node, witnesses } => {
            tracing::info!(%node, %witnesses, "other nodes are asked for a silent one");
        }
        Note::Seen { node, witness } => {
            tracing::info!(%node, %witness, "a node that is silent here is heard there; it is not lost");
        }
        Note::NotReady {
            key: (job, epoch),
            missing,
        } => {
            tracing::warn!(%job, %epoch, %missing, "the gang was not ready in time and is ended");
        }
        Note::Salvaging {
            key: (job, epoch),
            nodes,
        } => {
            tracing::info!(%job, %epoch, %nodes, "word of a checkpoint is on its way and is waited for");
        }
        Note::Salvaged {
            key: (job, epoch),
            in_time: true,
        } => tracing::info!(%job, %epoch, "no checkpoint is waited for any more"),
        Note::Salvaged {
            key: (job, epoch),
            in_time: false,
        } => {
            tracing::warn!(%job, %epoch, "word of a checkpoint did not come in time; the job goes on without it");
        }
        Note::Overflowed => {
            tracing::warn!("more effects than the leader can hold; all agents connect anew");
        }
    }
}
