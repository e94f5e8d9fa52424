//! A leader for tests: speaks the agent's wire over real mutual TLS, keeps what agents say, and says what a test wants.
//! Does NOT decide anything and keeps no state of a cluster.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlctl_proto::agent::bulk_server::{Bulk, BulkServer};
use mlctl_proto::agent::leader_message::What;
use mlctl_proto::agent::link_server::{Link, LinkServer};
use mlctl_proto::agent::{
    AgentHello, AgentMessage, BlobChunk, EventsApplied, GetBlobRequest, HeartbeatAnswer,
    LeaderHello, LeaderMessage, LogPiece, LogStored, agent_message,
};
use mlctl_proto::logs::decode;
use mlctl_proto::persist::AgentEvent;
use mlctl_runtime::identity::{Ca, Role};
use mlctl_runtime::tls::{incoming, peer_of, server_builder, server_config};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// (job, epoch, rank) to its framed log and whether its end has come.
type Stored = BTreeMap<(u64, u64, u32), (Vec<u8>, bool)>;

#[derive(Default)]
struct Shared {
    /// To the newest stream.
    say: Option<mpsc::Sender<Result<LeaderMessage, Status>>>,
    logs: Stored,
    blobs: HashMap<String, Vec<u8>>,
    mark: u64,
    not_leader: Option<Vec<String>>,
}

/// What agents say, and the means to answer.
#[derive(Clone)]
pub struct Desk {
    shared: Arc<Mutex<Shared>>,
    heard: mpsc::Sender<agent_message::What>,
}

/// A leader that listens.
pub struct Leader {
    pub address: SocketAddr,
    pub desk: Desk,
    pub heard: mpsc::Receiver<agent_message::What>,
    pub events: Vec<AgentEvent>,
    pub hellos: Vec<AgentHello>,
    pub term: u64,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Leader {
    /// Listens on a free port with a coordinator's certificate of `ca`.
    pub async fn start(ca: &Ca, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let config = server_config(&ca.issue_coordinator(name).expect("issued")).expect("fits");
        let (heard_tx, heard) = mpsc::channel(10_000);
        let desk = Desk {
            shared: Arc::default(),
            heard: heard_tx,
        };
        let server = server_builder()
            .add_service(LinkServer::new(desk.clone()))
            .add_service(BulkServer::new(desk.clone()))
            .serve_with_incoming(incoming(listener, config));
        let serving = tokio::spawn(async move { server.await.expect("served") });
        Self {
            address,
            desk,
            heard,
            events: Vec::new(),
            hellos: Vec::new(),
            term: 1,
            serving,
        }
    }

    /// From now on this coordinator does not lead; `addresses` may.
    pub fn resign(&self, addresses: Vec<String>) {
        self.desk.shared.lock().expect("sound").not_leader = Some(addresses);
    }

    /// Ends the stream of the connected agent.
    pub fn hang_up(&self) {
        self.desk.shared.lock().expect("sound").say = None;
    }

    /// The highest event applied, for the next hello.
    pub fn set_mark(&self, mark: u64) {
        self.desk.shared.lock().expect("sound").mark = mark;
    }

    /// Knows what an earlier leader had applied.
    pub fn follow(&mut self, events: &[AgentEvent]) {
        self.events = events.to_vec();
    }

    pub fn put_blob(&self, bytes: &[u8]) -> String {
        let id = mlctl_blobs::BlobId::of(bytes).to_string();
        self.desk
            .shared
            .lock()
            .expect("sound")
            .blobs
            .insert(id.clone(), bytes.to_vec());
        id
    }

    /// Says something on the newest stream.
    pub async fn say(&self, what: What) {
        let say = self
            .desk
            .shared
            .lock()
            .expect("sound")
            .say
            .clone()
            .expect("an agent is connected");
        // An agent that was just killed does not listen; the test will see that.
        let _ = say
            .send(Ok(LeaderMessage {
                term: self.term,
                what: Some(what),
            }))
            .await;
    }

    /// Takes in what the agent says until `done` finds what it looks for. Hellos and heartbeats are answered, events acknowledged.
    pub async fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&agent_message::What, &[AgentEvent]) -> Option<T>,
    ) -> T {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let message = tokio::time::timeout_at(end, self.heard.recv()).await;
            let message = message
                .unwrap_or_else(|_| panic!("no {what} in time"))
                .expect("the desk lives");
            self.answer(&message).await;
            if let Some(found) = done(&message, &self.events) {
                return found;
            }
        }
    }

    async fn answer(&mut self, message: &agent_message::What) {
        match message {
            agent_message::What::Hello(hello) => {
                self.hellos.push(hello.clone());
                let event_mark = self.desk.shared.lock().expect("sound").mark;
                let hello = LeaderHello {
                    heartbeat_ms: 200,
                    node_timeout_ms: 3_000,
                    lost_after_ms: 3_000,
                    incarnation: 1,
                    event_mark,
                    coordinators: vec![self.address.to_string()],
                    ..LeaderHello::default()
                };
                self.say(What::Hello(hello)).await;
            }
            agent_message::What::Heartbeat(heartbeat) => {
                self.say(What::Heartbeat(HeartbeatAnswer { seq: heartbeat.seq }))
                    .await;
            }
            agent_message::What::Events(events) => {
                for event in &events.events {
                    let last = self.events.last().map_or(0, |last| last.seq);
                    assert!(event.seq <= last + 1, "a gap in {:?}", events.events);
                    if event.seq == last + 1 {
                        self.events.push(event.clone());
                    }
                }
                let up_to = self.events.last().map_or(0, |last| last.seq);
                self.desk.shared.lock().expect("sound").mark = up_to;
                self.say(What::EventsApplied(EventsApplied { up_to })).await;
            }
            agent_message::What::Ready(_)
            | agent_message::What::Relay(_)
            | agent_message::What::Probed(_)
            | agent_message::What::Inventory(_)
            | agent_message::What::Ask(_)
            | agent_message::What::Pushed(_)
            | agent_message::What::Uploaded(_)
            | agent_message::What::PartGone(_) => {}
        }
    }

    /// The lines of a rank's log, once its end is stored.
    pub async fn whole_log(&self, job: u64, epoch: u64, rank: u32) -> Vec<String> {
        let wait = async {
            loop {
                let log = self
                    .desk
                    .shared
                    .lock()
                    .expect("sound")
                    .logs
                    .get(&(job, epoch, rank))
                    .cloned();
                if let Some((bytes, true)) = log {
                    return lines(&bytes);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .expect("the whole log in time")
    }

    /// How many lines of a rank's log are stored now.
    pub fn lines_so_far(&self, job: u64, epoch: u64, rank: u32) -> usize {
        let shared = self.desk.shared.lock().expect("sound");
        shared
            .logs
            .get(&(job, epoch, rank))
            .map_or(0, |(bytes, _)| lines(bytes).len())
    }
}

fn lines(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some((frame, used)) = decode(bytes).expect("undamaged") {
        lines.push(String::from_utf8_lossy(frame.text).into_owned());
        bytes = &bytes[used..];
    }
    assert!(bytes.is_empty(), "only whole frames are sent");
    lines
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Link for Desk {
    type OpenStream = ReceiverStream<Result<LeaderMessage, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let peer = peer_of(&request)?;
        assert_eq!(peer.role, Role::Node);
        let (say, answers) = mpsc::channel(1_000);
        if let Some(addresses) = self.shared.lock().expect("sound").not_leader.clone() {
            let not = mlctl_proto::agent::NotLeader { addresses };
            say.try_send(Ok(LeaderMessage {
                term: 0,
                what: Some(What::NotLeader(not)),
            }))
            .expect("room");
            return Ok(Response::new(ReceiverStream::new(answers)));
        }
        self.shared.lock().expect("sound").say = Some(say);
        let mut messages = request.into_inner();
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if heard
                    .send(message.what.expect("every message says something"))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

#[tonic::async_trait]
impl Bulk for Desk {
    type PushLogsStream = Answers<LogStored>;
    type GetBlobStream = Answers<BlobChunk>;

    async fn push_logs(
        &self,
        request: Request<Streaming<LogPiece>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        let shared = self.shared.clone();
        let answers = request.into_inner().map(move |piece| {
            piece.map(|piece| store(&mut shared.lock().expect("sound").logs, piece))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_blob(
        &self,
        request: Request<GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let blob = self
            .shared
            .lock()
            .expect("sound")
            .blobs
            .get(&request.into_inner().id)
            .cloned();
        let blob = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        let chunks: Vec<_> = blob
            .chunks(3)
            .map(|part| {
                Ok(BlobChunk {
                    data: part.to_vec().into(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

fn store(logs: &mut Stored, piece: LogPiece) -> LogStored {
    let (job, epoch) = (piece.job.expect("an id"), piece.epoch.expect("an id"));
    let (bytes, end) = logs
        .entry((job.counter, epoch.counter, piece.rank))
        .or_default();
    if !piece.probe {
        assert_eq!(
            piece.offset,
            bytes.len() as u64,
            "pieces follow one another"
        );
        bytes.extend_from_slice(&piece.frames);
        *end |= piece.end;
    }
    LogStored {
        job: piece.job,
        epoch: piece.epoch,
        rank: piece.rank,
        offset: bytes.len() as u64,
        end: *end,
        kept: *end,
    }
}

/// A cluster's CA in `dir`.
pub fn ca(dir: &Path) -> Ca {
    Ca::create(&dir.join("ca"), "test").expect("made")
}
