//! The control stream to the leading coordinator: dialled in turn, with the hello first, then heartbeats, commands and events.
//! Knows tonic and the wire; does NOT decide anything: what arrives becomes an event of the core.

mod addresses;
pub(crate) mod convert;
pub(crate) mod copies;

use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::agent::link_client::LinkClient;
use mlctl_proto::agent::{
    AgentHello, AgentMessage, CopySpace, LeaderHello, ProbeResult, agent_message,
};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use mlctl_runtime::backoff::Backoff;
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::tls::Dialer;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::core::{Event, LeaderMessage, ToLeader};
use crate::driver::Input;
use crate::failpoint;
use crate::witness::ProbePort;
use addresses::Addresses;
use convert::FromCoordinator;

/// A coordinator that has not finished the handshake by then is passed over.
const DIAL: Duration = Duration::from_secs(1);
/// A coordinator that has said nothing at all by then is passed over.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// The first retry comes within 100 ms; a fleet comes back spread out.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(80), BACKOFF_MAX);
/// Nobody waits longer than this between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Messages to the leader that may wait on one connection.
const OUTGOING: usize = 1_024;
/// Hints of followers that are followed at once, before the usual waiting begins.
const HINTS_MAX: u32 = 3;

/// The leader that answers now: bulk transfers go to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    /// Its connection.
    pub(crate) channel: Channel,
    /// What it said of the cluster.
    pub(crate) hello: Arc<LeaderHello>,
}

/// A word between the keepers of an MPI job's nodes. The link does not read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relay {
    /// The job.
    pub(crate) job: JobId,
    /// The attempt.
    pub(crate) epoch: Epoch,
    /// The other node: for whom it is, or from whom.
    pub(crate) node: String,
    /// What is said.
    pub(crate) body: Vec<u8>,
}

/// What goes to the leader.
#[derive(Debug)]
// One at a time, and moved once: their size does not matter.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Outgoing {
    /// The core's words.
    Core(ToLeader),
    /// Words for another node.
    Relay(Relay),
    /// Whether a silent node is there.
    Probed(ProbeResult),
    /// About copies of checkpoints.
    Copies(agent_message::What),
}

/// What the link needs to know.
pub(crate) struct LinkConfig {
    /// Our identity.
    pub(crate) dialer: Dialer,
    /// What a hello adds to the core's words.
    pub(crate) hello: AgentHello,
    /// Coordinators of the configuration.
    pub(crate) coordinators: Vec<String>,
    /// Where this agent answers witnesses, if it does.
    pub(crate) probe: Option<ProbePort>,
    /// Room for copies of checkpoints, told with every heartbeat.
    pub(crate) space: Option<watch::Receiver<CopySpace>>,
    /// Where learned ones are kept.
    pub(crate) file: std::path::PathBuf,
}

/// Why a session ended.
enum Ended {
    /// The coordinator does not lead.
    NotLeader(Vec<String>),
    /// It was in use and is over.
    Broken(String),
    /// The core wants another one, or the agent ends.
    Left,
}

struct Link {
    config: LinkConfig,
    addresses: Addresses,
    inputs: mpsc::Sender<Input>,
    leader: watch::Sender<Option<Leader>>,
}

/// Keeps one session open until `shutdown`.
pub(crate) async fn run(
    config: LinkConfig,
    inputs: mpsc::Sender<Input>,
    leader: watch::Sender<Option<Leader>>,
    shutdown: Shutdown,
) {
    let addresses = Addresses::load(config.coordinators.clone(), config.file.clone());
    let mut link = Link {
        config,
        addresses,
        inputs,
        leader,
    };
    tokio::select! {
        () = link.dial_for_ever() => {}
        () = shutdown.wait() => {}
    }
}

/// The longest pause between two tries: two heartbeats, so that a pause alone never makes a node look lost.
fn longest_pause(heartbeat_ms: u32) -> Duration {
    let two = Duration::from_millis(u64::from(heartbeat_ms) * 2);
    two.clamp(Duration::from_millis(500), BACKOFF_MAX)
}

impl Link {
    async fn dial_for_ever(&mut self) {
        let (mut tries, mut hints) = (0, 0);
        let mut backoff = BACKOFF;
        let mut last_told = String::new();
        while let Some(address) = self.addresses.next(rand::random()) {
            let ended = self.session(&address).await;
            let leader = self.leader.send_replace(None);
            let led = leader.is_some();
            if let Some(leader) = leader {
                (tries, hints) = (0, 0);
                backoff.cap = longest_pause(leader.hello.heartbeat_ms);
            }
            match ended {
                Ended::NotLeader(mut addresses) => {
                    addresses.retain(|other| *other != address);
                    let hint = !addresses.is_empty();
                    self.addresses.prefer(addresses);
                    hints += 1;
                    if hint && hints <= HINTS_MAX {
                        continue;
                    }
                }
                Ended::Broken(why) if led => {
                    warn!(%address, why, "the connection to the leader is gone")
                }
                // While nobody answers, the same sentence every few seconds helps no one.
                Ended::Broken(why) if why != last_told => {
                    info!(%address, why, "no connection to this coordinator");
                    last_told = why;
                }
                Ended::Left => self.addresses.leave(address),
                Ended::Broken(_) => {}
            }
            tokio::time::sleep(backoff.delay(tries, rand::random())).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn session(&mut self, address: &str) -> Ended {
        let channel = match self.config.dialer.channel(address, DIAL).await {
            Ok(channel) => channel,
            Err(error) => return Ended::Broken(error.to_string()),
        };
        let (outgoing, from_core) = mpsc::channel(OUTGOING);
        if self.inputs.send(Input::LinkUp { outgoing }).await.is_err() {
            return Ended::Left;
        }
        let ended = self.talk(address, channel, from_core).await;
        // The driver is gone only when the agent ends.
        let _ = self.inputs.send(Input::Core(Event::LinkDown)).await;
        ended
    }

    async fn talk(
        &mut self,
        address: &str,
        channel: Channel,
        mut from_core: mpsc::Receiver<Outgoing>,
    ) -> Ended {
        let (to_wire, messages) = mpsc::channel::<AgentMessage>(8);
        let mut client = LinkClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        // The hello is the first thing that the core says on a new connection; the stream opens with it.
        let opening = async {
            let hello = from_core.recv().await?;
            to_wire
                .send(convert::to_wire(hello, &self.config))
                .await
                .ok()?;
            Some(client.open(ReceiverStream::new(messages)).await)
        };
        let mut stream = match timeout(FIRST_ANSWER, opening).await {
            Ok(Some(Ok(response))) => response.into_inner(),
            Ok(Some(Err(status))) => return Ended::Broken(status_text(&status)),
            Ok(None) => return Ended::Left,
            Err(_) => return Ended::Broken("it does not answer".into()),
        };
        match timeout(FIRST_ANSWER, stream.message()).await {
            Ok(first) => {
                if let Some(ended) = self.arrived(address, &channel, first).await {
                    return ended;
                }
            }
            Err(_) => return Ended::Broken("it does not answer the hello".into()),
        }
        self.pump(address, &channel, &mut stream, &mut from_core, &to_wire)
            .await
    }

    async fn pump(
        &mut self,
        address: &str,
        channel: &Channel,
        stream: &mut Streaming<mlctl_proto::agent::LeaderMessage>,
        from_core: &mut mpsc::Receiver<Outgoing>,
        to_wire: &mpsc::Sender<AgentMessage>,
    ) -> Ended {
        loop {
            tokio::select! {
                message = stream.message() => {
                    if let Some(ended) = self.arrived(address, channel, message).await {
                        return ended;
                    }
                }
                message = from_core.recv() => {
                    let Some(message) = message else { return Ended::Left };
                    let told = Told::of(&message);
                    told.leaves();
                    let sent = to_wire.send(convert::to_wire(message, &self.config));
                    // A peer that takes nothing any more must not hold us: the core would notice only later.
                    if !matches!(timeout(FIRST_ANSWER, sent).await, Ok(Ok(()))) {
                        return Ended::Broken("it takes no more messages".into());
                    }
                    told.left();
                }
            }
        }
    }

    /// Passes on what arrived; an end if the session is over.
    async fn arrived(
        &mut self,
        address: &str,
        channel: &Channel,
        message: Result<Option<mlctl_proto::agent::LeaderMessage>, Status>,
    ) -> Option<Ended> {
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Some(Ended::Broken("it closed the stream".into())),
            Err(status) => return Some(Ended::Broken(status_text(&status))),
        };
        let term = message.term;
        let message = match convert::from_wire(message) {
            Ok(FromCoordinator::Leader(message)) => {
                if matches!(message, LeaderMessage::EventsApplied { .. }) {
                    failpoint::hit("events.applied");
                }
                message
            }
            Ok(FromCoordinator::Relay(relay)) => {
                let told = self.inputs.send(Input::Relayed(relay)).await;
                return told.is_err().then_some(Ended::Left);
            }
            Ok(FromCoordinator::Probe(question)) => {
                let told = self.inputs.send(Input::Probe(question)).await;
                return told.is_err().then_some(Ended::Left);
            }
            Ok(FromCoordinator::Copies(order)) => {
                let told = self.inputs.send(Input::CopyOrder(order)).await;
                return told.is_err().then_some(Ended::Left);
            }
            Ok(FromCoordinator::SealPart(order)) => {
                let told = self.inputs.send(Input::SealPart(order)).await;
                return told.is_err().then_some(Ended::Left);
            }
            Ok(FromCoordinator::Hello(hello)) => self.greeted(address, channel, *hello, term),
            Ok(FromCoordinator::NotLeader(addresses)) => return Some(Ended::NotLeader(addresses)),
            Ok(FromCoordinator::Unknown) => return None,
            Err(error) => {
                warn!(%address, %error, "a message of the leader cannot be read; it is ignored");
                return None;
            }
        };
        let input = Input::Core(Event::Leader { term, message });
        self.inputs
            .send(input)
            .await
            .is_err()
            .then_some(Ended::Left)
    }

    fn greeted(
        &mut self,
        address: &str,
        channel: &Channel,
        hello: LeaderHello,
        term: u64,
    ) -> LeaderMessage {
        info!(%address, term, version = hello.version, "this coordinator leads");
        if let Err(error) = self.addresses.learn(hello.coordinators.clone()) {
            warn!(
                error,
                "the coordinators' addresses cannot be kept for the next start"
            );
        }
        failpoint::hit("link.greeted");
        let facts = convert::hello_from_wire(&hello);
        self.leader.send_replace(Some(Leader {
            channel: channel.clone(),
            hello: Arc::new(hello),
        }));
        LeaderMessage::Hello(facts)
    }
}

/// What a message tells, as far as an agent may be made to die around it.
enum Told {
    Ready,
    Events,
    Else,
}

impl Told {
    fn of(message: &Outgoing) -> Self {
        match message {
            Outgoing::Core(ToLeader::Ready { .. }) => Self::Ready,
            Outgoing::Core(ToLeader::Events(_)) => Self::Events,
            _ => Self::Else,
        }
    }

    fn leaves(&self) {
        match self {
            Self::Ready => failpoint::hit("ready.sending"),
            Self::Events => failpoint::hit("events.sending"),
            Self::Else => {}
        }
    }

    fn left(&self) {
        match self {
            Self::Ready => failpoint::hit("ready.sent"),
            Self::Events => failpoint::hit("events.sent"),
            Self::Else => {}
        }
    }
}

fn status_text(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    }
}
