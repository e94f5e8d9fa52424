//! The `Link` service: an agent's control stream. A node speaks only about itself, and only the leader listens.
//!
//! This is the door: messages are checked and turned into what the leader's loop and the state know. It decides nothing.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use mlctl_proto::PROTOCOL;
use mlctl_proto::agent::{
    AgentHello, AgentMessage, LeaderMessage, NotLeader, agent_message, leader_message, link_server,
};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_runtime::telemetry::trace_context;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use super::auth::node;
use super::convert;
use crate::leader::copies::Word;
use crate::leader::witness::Targets;
use crate::leader::{Connected, Input, Order, Port, step};
use crate::shared::{CallError, Shared};
use crate::state::Body;
use crate::state::codec::decode_facts;
use crate::state::commands::{AgentEvent, AgentEvents, RegisterNode};
use crate::state::records::{Actor, Liveness, NodeFacts, Reply};

const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// A member that does not lead waits this long for a leader that it can name.
const LEADER_WAIT: Duration = Duration::from_millis(1_500);
/// Orders that may wait for one agent.
const ORDERS: usize = 1_024;
/// Reports of events that may wait to be replicated.
const REPORTS: usize = 64;
const JOURNAL_ID_BYTES_MAX: usize = 128;
/// While consensus is overloaded.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(100);

/// The service.
pub struct Link {
    shared: Arc<Shared>,
    next: Arc<AtomicU64>,
}

impl Link {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            next: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl link_server::Link for Link {
    type OpenStream = Answers<LeaderMessage>;

    async fn open(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let node = node(&request)?;
        let (out, answers) = mpsc::channel(ORDERS);
        let session = Session {
            shared: Arc::clone(&self.shared),
            node,
            id: self.next.fetch_add(1, Ordering::Relaxed),
            out,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Why a stream ends.
enum Over {
    /// The agent ended it, or the process ends.
    Quiet,
    /// Another member leads.
    Moved,
    /// It said what cannot be.
    Refused(Status),
}

impl From<Refusal> for Over {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

struct Session {
    shared: Arc<Shared>,
    node: String,
    id: u64,
    out: mpsc::Sender<Result<LeaderMessage, Status>>,
}

/// What a hello was checked to be.
struct Hello {
    facts: NodeFacts,
    journal_id: String,
    reports: Vec<crate::leader::Report>,
    data_port: u16,
}

impl Session {
    async fn run(self, mut messages: Streaming<AgentMessage>) {
        let outcome = self.serve(&mut messages).await;
        // The agent may be gone already; a full queue means that it does not read.
        match outcome {
            Over::Quiet => {}
            Over::Moved => {
                let what = leader_message::What::NotLeader(NotLeader {
                    addresses: self.shared.addresses(),
                });
                let term = self.shared.raft.status().borrow().term;
                let _ = self.out.try_send(Ok(message(term, what)));
            }
            Over::Refused(status) => {
                tracing::warn!(node = %self.node, reason = status.message(), "the node's stream was refused");
                let _ = self.out.try_send(Err(status));
            }
        }
    }

    async fn serve(&self, messages: &mut Streaming<AgentMessage>) -> Over {
        let hello = match tokio::time::timeout(HELLO_DEADLINE, messages.next()).await {
            Ok(Some(Ok(AgentMessage {
                what: Some(agent_message::What::Hello(hello)),
            }))) => hello,
            Ok(Some(Ok(_))) => return bad("the first message of a stream is a hello"),
            Ok(Some(Err(_)) | None) => return Over::Quiet,
            Err(_) => return bad("no hello came"),
        };
        let Some(port) = self.port().await else {
            return Over::Moved;
        };
        if hello.term > port.term {
            return Over::Moved;
        }
        let outcome = async {
            let hello = self.check(hello)?;
            let mark = self.register(&hello).await?;
            self.connect(&port, hello, mark).await
        };
        match outcome.await {
            Ok(orders) => self.converse(&port, messages, orders).await,
            Err(over) => over,
        }
    }

    /// The leader's loop, if this member leads or begins to; `None` once it can name who leads. While the leader that
    /// is known seems to be gone, an answer would only send the agent to it: a moment later there is a better one.
    async fn port(&self) -> Option<Port> {
        let mut leader = self.shared.leader.clone();
        let mut status = self.shared.raft.status();
        let own = status.borrow().id;
        let found = async {
            loop {
                if let Some(port) = leader.borrow_and_update().clone() {
                    return Some(port);
                }
                status.borrow_and_update();
                if self
                    .shared
                    .likely_leader()
                    .is_some_and(|leader| leader != own)
                {
                    return None;
                }
                let goes_on = tokio::select! {
                    changed = leader.changed() => changed.is_ok(),
                    changed = status.changed() => changed.is_ok(),
                    () = self.shared.peers.hears() => true,
                    () = self.shared.shutdown.wait() => false,
                };
                if !goes_on {
                    return None;
                }
            }
        };
        tokio::time::timeout(LEADER_WAIT, found)
            .await
            .ok()
            .flatten()
    }

    fn check(&self, hello: AgentHello) -> Result<Hello, Over> {
        let refused = |code, why: String| Err(Over::from(Refusal::new(code, why)));
        if hello.protocol != PROTOCOL {
            let why = format!(
                "the agent speaks protocol {}, this coordinator {PROTOCOL}; install the same release",
                hello.protocol
            );
            return refused(Code::BadRequest, why);
        }
        let facts = hello
            .facts
            .ok_or_else(|| Refusal::new(Code::BadRequest, "a hello without the node's facts"))?;
        let facts = decode_facts(facts)
            .map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
        if facts.name != self.node {
            let why = format!(
                "the certificate of {} speaks about node {}; a node speaks only about itself",
                self.node,
                clip(&facts.name)
            );
            return refused(Code::Denied, why);
        }
        if facts.boot_id.is_empty() || !(1..=JOURNAL_ID_BYTES_MAX).contains(&hello.journal_id.len())
        {
            return refused(
                Code::BadRequest,
                "a hello without boot id or journal id".into(),
            );
        }
        let incarnation = self
            .shared
            .state()
            .settings()
            .map_or(0, |settings| settings.incarnation);
        if hello.incarnation > incarnation {
            let why = format!(
                "the agent has seen incarnation {}, this cluster is at {incarnation}: it was restored from something older",
                hello.incarnation
            );
            return refused(Code::Conflict, why);
        }
        let reports = convert::agent::reports(&hello.attempts)?;
        Ok(Hello {
            facts,
            journal_id: hello.journal_id,
            reports,
            data_port: convert::agent::port(hello.data_port)?,
        })
    }

    /// Records the node if anything about it is new. Answers with its event mark.
    async fn register(&self, hello: &Hello) -> Result<u64, Over> {
        let state = self.shared.state();
        let known = state.node(&self.node);
        let same = known.is_some_and(|known| {
            known.facts == hello.facts
                && known.journal_id == hello.journal_id
                && known.liveness == Liveness::Ready
        });
        if !same {
            let body = Body::RegisterNode(RegisterNode {
                facts: hello.facts.clone(),
                journal_id: hello.journal_id.clone(),
            });
            self.propose(body).await?;
        }
        let state = self.shared.state();
        let known = state
            .node(&self.node)
            .filter(|known| known.journal_id == hello.journal_id);
        Ok(known.map_or(0, |known| known.event_mark))
    }

    /// Hands the stream to the leader's loop, after the answer to the hello.
    async fn connect(&self, port: &Port, hello: Hello, mark: u64) -> Result<Orders, Over> {
        let state = self.shared.state();
        let Some(settings) = state.settings() else {
            return Err(Over::Moved);
        };
        let answer = convert::agent::hello(settings, self.shared.addresses(), mark);
        self.tell(port.term, answer)?;
        let (out, orders) = mpsc::channel(ORDERS);
        let (hold, held) = oneshot::channel();
        let journal_id = hello.journal_id.clone();
        let link = step::Link {
            id: self.id,
            facts: hello.facts,
            journal_id: hello.journal_id,
            data_port: hello.data_port,
        };
        let connected = Connected {
            link,
            reports: hello.reports,
            out,
            hold,
        };
        port.inputs
            .send(Input::Connected(Box::new(connected)))
            .await
            .map_err(|_| Over::Moved)?;
        Ok(Orders {
            orders,
            held,
            journal_id,
        })
    }

    /// Passes messages both ways until one side ends.
    async fn converse(
        &self,
        port: &Port,
        messages: &mut Streaming<AgentMessage>,
        with: Orders,
    ) -> Over {
        let Orders {
            mut orders,
            mut held,
            journal_id,
        } = with;
        let (reports, waiting) = mpsc::channel(REPORTS);
        let replicate = self.replicate(journal_id, waiting);
        tokio::pin!(replicate);
        let mut targets = Targets::default();
        let over = loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => if let Err(over) = self.order(port.term, order) { break over },
                    None => break if self.leads(port.term) { Over::Quiet } else { Over::Moved },
                },
                next = messages.next() => match next {
                    Some(Ok(said)) => if let Err(over) = self.said(port, said, &reports, &mut targets).await { break over },
                    Some(Err(_)) | None => break Over::Quiet,
                },
                over = &mut replicate => break over,
                // The loop is gone with its term, or a later stream of this node replaced this one.
                _ = &mut held => break if self.leads(port.term) { Over::Quiet } else { Over::Moved },
                () = self.deposed(port.term) => break Over::Moved,
                () = self.shared.shutdown.wait() => break Over::Quiet,
            }
        };
        let gone = Input::Gone {
            node: self.node.clone(),
            link: self.id,
        };
        // The loop that this stream belonged to may have ended.
        let _ = port.inputs.send(gone).await;
        over
    }

    fn leads(&self, term: u64) -> bool {
        *self.shared.published.leading().borrow() == Some(term)
    }

    /// Returns when this member does not lead `term` any more.
    async fn deposed(&self, term: u64) {
        let mut leading = self.shared.published.leading();
        // The sender lives as long as `shared`.
        let _ = leading.wait_for(|now| *now != Some(term)).await;
    }

    async fn said(
        &self,
        port: &Port,
        said: AgentMessage,
        reports: &mpsc::Sender<Vec<AgentEvent>>,
        targets: &mut Targets,
    ) -> Result<(), Over> {
        let (node, link) = (self.node.clone(), self.id);
        if let Some(agent_message::What::Heartbeat(heartbeat)) = &said.what {
            self.targets(port, convert::agent::targets(heartbeat), targets)
                .await?;
            if let Some(space) = &heartbeat.space {
                self.copies(port, convert::copies::room(space)).await?;
            }
        }
        let input = match said.what {
            Some(agent_message::What::Heartbeat(heartbeat)) => Input::Heartbeat {
                node,
                link,
                seq: heartbeat.seq,
                reports: convert::agent::reports(&heartbeat.attempts)?,
            },
            Some(agent_message::What::Probed(result)) => Input::Probed {
                node,
                link,
                answer: convert::agent::testimony(result),
            },
            Some(agent_message::What::Relay(relay)) => Input::Relay {
                node,
                link,
                relay: convert::agent::relay(relay)?,
            },
            Some(
                what @ (agent_message::What::Inventory(_)
                | agent_message::What::Ask(_)
                | agent_message::What::Pushed(_)
                | agent_message::What::Uploaded(_)
                | agent_message::What::PartGone(_)),
            ) => return self.copies(port, convert::copies::word(what)?).await,
            Some(agent_message::What::Ready(ready)) => Input::Ready {
                node,
                link,
                report: convert::agent::ready(&ready)?,
            },
            Some(agent_message::What::Events(events)) => {
                let events = convert::agent::events(events)?;
                let full = |_| {
                    Refusal::new(
                        Code::Overloaded,
                        "too many events wait to be replicated; send them again after the next hello",
                    )
                };
                return if events.is_empty() {
                    Ok(())
                } else {
                    Ok(reports.try_send(events).map_err(full)?)
                };
            }
            Some(agent_message::What::Hello(_)) => return Err(bad("a second hello on one stream")),
            // A message of a later release.
            None => return Ok(()),
        };
        port.inputs.send(input).await.map_err(|_| Over::Moved)
    }

    async fn copies(&self, port: &Port, word: Word) -> Result<(), Over> {
        let (node, link) = (self.node.clone(), self.id);
        let input = Input::Copies { node, link, word };
        port.inputs.send(input).await.map_err(|_| Over::Moved)
    }

    /// Tells the leader's loop who answers witnesses on this node, when that has changed.
    async fn targets(&self, port: &Port, now: Targets, before: &mut Targets) -> Result<(), Over> {
        if *before == now {
            return Ok(());
        }
        before.clone_from(&now);
        let input = Input::Targets {
            node: self.node.clone(),
            link: self.id,
            targets: now,
        };
        port.inputs.send(input).await.map_err(|_| Over::Moved)
    }

    /// Replicates reports of events one after the other. Returns when that is not possible any more.
    async fn replicate(
        &self,
        journal_id: String,
        mut reports: mpsc::Receiver<Vec<AgentEvent>>,
    ) -> Over {
        while let Some(events) = reports.recv().await {
            let body = Body::AgentEvents(AgentEvents {
                node: self.node.clone(),
                journal_id: journal_id.clone(),
                events,
            });
            if let Err(over) = self.propose(body).await {
                return over;
            }
        }
        Over::Quiet
    }

    async fn propose(&self, body: Body) -> Result<Reply, Over> {
        loop {
            let actor = Actor {
                user_id: self.node.clone(),
                name: self.node.clone(),
                admin: false,
                system: true,
            };
            match self
                .shared
                .propose(actor, "agent", None, body.clone())
                .await
            {
                Ok(committed) => return Ok(committed.reply),
                Err(CallError::Elsewhere) => return Err(Over::Moved),
                Err(CallError::Refused(refusal)) if refusal.code == Code::Overloaded => {
                    tokio::time::sleep(OVERLOAD_PAUSE).await;
                }
                // The agent connects anew, learns what was applied and sends the rest.
                Err(CallError::Refused(refusal)) => return Err(refusal.into()),
            }
        }
    }

    fn order(&self, term: u64, order: Order) -> Result<(), Over> {
        let mut traceparent = None;
        if let Order::Start(start) = &order {
            let span = tracing::info_span!("start", node = %self.node, job = %start.job.id, epoch = %start.epoch);
            trace_context::set_parent(&span, &start.job.traceparent);
            traceparent = span.in_scope(trace_context::current_traceparent);
        }
        self.tell(term, convert::agent::order(order, traceparent))
    }

    fn tell(&self, term: u64, what: leader_message::What) -> Result<(), Over> {
        let slow = |_| {
            let why = "the agent does not read what it is told";
            Over::from(Refusal::new(Code::Overloaded, why))
        };
        self.out.try_send(Ok(message(term, what))).map_err(slow)
    }
}

/// What the leader's loop tells this stream.
struct Orders {
    orders: mpsc::Receiver<Order>,
    held: oneshot::Receiver<()>,
    journal_id: String,
}

fn message(term: u64, what: leader_message::What) -> LeaderMessage {
    LeaderMessage {
        term,
        what: Some(what),
    }
}

fn bad(why: &str) -> Over {
    Refusal::new(Code::BadRequest, why).into()
}
