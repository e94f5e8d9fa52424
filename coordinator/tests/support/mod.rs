//! A cluster of coordinators in one process, over real TLS on loopback, with clients and agents made of generated code.
//!
//! A stopped coordinator ends its threads as its process would end. Power loss is tested elsewhere.
#![allow(dead_code, reason = "each test binary uses a part of it")]
pub mod script;

use std::path::PathBuf;
use std::time::Duration;

use mlctl_coordinator::config::{
    Config, DiskConfig, HistoryConfig, Member, Telemetry, TimersConfig,
};
use mlctl_coordinator::{RunError, run_on};
use mlctl_proto::agent::link_client::LinkClient;
use mlctl_proto::agent::{
    AgentHello, AgentMessage, AttemptStatus, LeaderMessage, agent_message, leader_message,
};
use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{GetJobRequest, HelloRequest, Job, SubmitReply, SubmitRequest};
use mlctl_proto::persist;
use mlctl_runtime::identity::{Bundle, Ca};
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::tls::{channel, install_crypto};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// No single step of a test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// With which flag a coordinator is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Bootstrap,
    Resume,
    Rejoin,
}

pub struct Cluster {
    dir: tempfile::TempDir,
    pub ca: Ca,
    members: Vec<Member>,
    running: Vec<Option<Running>>,
    /// What its members want of their disks.
    pub disk: DiskConfig,
    history: HistoryConfig,
}

type Running = (Shutdown, JoinHandle<Result<(), RunError>>);

impl Cluster {
    /// Starts `count` coordinators and waits for one of them to lead.
    pub async fn start(count: usize) -> Self {
        Self::start_keeping(count, HistoryConfig::default()).await
    }

    /// The same with members that want this of their disks.
    pub async fn start_on(count: usize, disk: DiskConfig) -> Self {
        Self::start_with(count, disk, HistoryConfig::default()).await
    }

    /// The same with other settings of history.
    pub async fn start_keeping(count: usize, history: HistoryConfig) -> Self {
        // However full the machine is.
        let content = DiskConfig {
            reserve_mib: Some(0),
            mark_mib: Some(0),
            logs_mib: None,
        };
        Self::start_with(count, content, history).await
    }

    async fn start_with(count: usize, disk: DiskConfig, history: HistoryConfig) -> Self {
        install_crypto();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ca = Ca::create(&dir.path().join("ca"), "test").expect("a CA");
        let mut members = Vec::new();
        let mut listeners = Vec::new();
        for n in 1..=count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound").to_string();
            let name = format!("c{n}");
            let bundle = ca.issue_coordinator(&name).expect("a certificate");
            bundle
                .write(&dir.path().join(&name).join("identity"))
                .expect("written");
            members.push(Member {
                name,
                id: 10 + n as u64,
                address,
            });
            listeners.push(listener);
        }
        let mut cluster = Self {
            dir,
            ca,
            members,
            history,
            running: Vec::new(),
            disk,
        };
        for (n, listener) in listeners.into_iter().enumerate() {
            let running = cluster.run(n, listener, How::Bootstrap);
            cluster.running.push(Some(running));
        }
        cluster.leader().await;
        cluster
    }

    fn run(&self, n: usize, listener: TcpListener, how: How) -> Running {
        let member = &self.members[n];
        let home = self.dir.path().join(&member.name);
        let config = Config {
            name: member.name.clone(),
            data_dir: home.join("data"),
            identity: home.join("identity"),
            listen: member.address.clone(),
            cluster_name: "test".into(),
            dev: true,
            history: self.history,
            timers: TimersConfig::default(),
            members: self.members.clone(),
            telemetry: Telemetry::default(),
            disk: self.disk,
            bootstrap: how == How::Bootstrap,
            rejoin: how == How::Rejoin,
        };
        let shutdown = Shutdown::new();
        let token = shutdown.clone();
        let task = tokio::spawn(run_on(config, listener, token));
        (shutdown, task)
    }

    pub fn data_dir(&self, n: usize) -> PathBuf {
        self.dir.path().join(&self.members[n].name).join("data")
    }

    pub fn address(&self, n: usize) -> &str {
        &self.members[n].address
    }

    pub async fn stop(&mut self, n: usize) {
        let (shutdown, task) = self.running[n].take().expect("it runs");
        shutdown.trigger();
        let ended = timeout(PATIENCE, task).await.expect("ends in time");
        ended.expect("joined").expect("ends well");
    }

    /// Waits until coordinator `n` ends by itself; why it did.
    pub async fn ends(&mut self, n: usize) -> RunError {
        let (_shutdown, task) = self.running[n].take().expect("it runs");
        let ended = timeout(PATIENCE, task).await.expect("ends in time");
        ended.expect("joined").expect_err("ends by itself")
    }

    /// Starts coordinator `n`, which must refuse; why it does.
    pub async fn refuses(&mut self, n: usize) -> RunError {
        self.restart(n).await;
        self.ends(n).await
    }

    pub async fn restart(&mut self, n: usize) {
        self.restart_as(n, How::Resume).await;
    }

    /// With `--rejoin`.
    pub async fn rejoin(&mut self, n: usize) {
        self.restart_as(n, How::Rejoin).await;
    }

    async fn restart_as(&mut self, n: usize, how: How) {
        let listener = TcpListener::bind(self.address(n))
            .await
            .expect("the port is free again");
        self.running[n] = Some(self.run(n, listener, how));
    }

    /// An agent of `node` that said hello to coordinator `n`, and its channel.
    pub async fn agent(&self, n: usize, node: &str) -> (Agent, Channel) {
        let bundle = self.ca.issue_node(node).expect("a certificate");
        let channel = self.channel(n, &bundle).await;
        let agent = Agent::open(channel.clone(), node, Agent::hello(node, "boot-1")).await;
        (agent.expect("opens"), channel)
    }

    pub fn user(&self, name: &str, admin: bool) -> Bundle {
        self.ca.issue_user(name, admin).expect("a certificate")
    }

    pub async fn channel(&self, n: usize, bundle: &Bundle) -> Channel {
        channel(bundle, self.address(n), PATIENCE)
            .await
            .expect("connects")
    }

    pub async fn jobs(&self, n: usize, bundle: &Bundle) -> JobsClient<Channel> {
        JobsClient::new(self.channel(n, bundle).await)
    }

    /// The coordinator that leads and serves, as the ones that run see it.
    pub async fn leader(&self) -> usize {
        let admin = self.user("watcher", false);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for n in (0..self.running.len()).filter(|n| self.running[*n].is_some()) {
                let Ok(channel) = channel(&admin, self.address(n), PATIENCE).await else {
                    continue;
                };
                let hello = ClusterClient::new(channel)
                    .hello(HelloRequest::default())
                    .await;
                let Ok(hello) = hello else { continue };
                let leader = hello
                    .into_inner()
                    .members
                    .iter()
                    .position(|member| member.leader && member.self_);
                if let Some(leader) = leader {
                    return leader;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody leads");
    }

    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let runs = |n: &usize| *n != leader && self.running[*n].is_some();
        (0..self.running.len())
            .find(runs)
            .expect("there is a follower")
    }
}

pub fn request(key: u8, spec: &str) -> SubmitRequest {
    SubmitRequest {
        key: vec![key; 16],
        spec: spec.as_bytes().to_vec(),
        ..SubmitRequest::default()
    }
}

pub async fn submit(
    jobs: &mut JobsClient<Channel>,
    key: u8,
    spec: &str,
) -> Result<SubmitReply, Status> {
    let answer = timeout(PATIENCE, jobs.submit(request(key, spec)))
        .await
        .expect("answers in time");
    answer.map(tonic::Response::into_inner)
}

pub async fn get(jobs: &mut JobsClient<Channel>, job: &str) -> Job {
    let request = GetJobRequest { job: job.into() };
    timeout(PATIENCE, jobs.get(request))
        .await
        .expect("answers in time")
        .expect("there")
        .into_inner()
}

/// An agent made of a hello and whatever a test says.
pub struct Agent {
    pub node: String,
    pub out: mpsc::Sender<AgentMessage>,
    pub answers: Streaming<LeaderMessage>,
    seq: u64,
}

impl Agent {
    pub fn hello(node: &str, boot: &str) -> AgentHello {
        AgentHello {
            protocol: mlctl_proto::PROTOCOL,
            facts: Some(persist::NodeFacts {
                name: node.into(),
                boot_id: boot.into(),
                addresses: Some(persist::Addresses {
                    rank: "127.0.0.9".into(),
                    data: "127.0.0.9".into(),
                    network: String::new(),
                }),
                pool: "default".into(),
                cpus: 4,
                isolation: persist::Isolation::None.into(),
                ..persist::NodeFacts::default()
            }),
            journal_id: format!("journal-{node}"),
            incarnation: 1,
            ..AgentHello::default()
        }
    }

    /// Opens a stream and says hello.
    pub async fn open(channel: Channel, node: &str, hello: AgentHello) -> Result<Self, Status> {
        let (out, messages) = mpsc::channel(64);
        let said = AgentMessage {
            what: Some(agent_message::What::Hello(hello)),
        };
        out.send(said).await.expect("room");
        let answers = LinkClient::new(channel)
            .open(ReceiverStream::new(messages))
            .await?
            .into_inner();
        Ok(Self {
            node: node.into(),
            out,
            answers,
            seq: 0,
        })
    }

    pub async fn next(&mut self) -> Result<leader_message::What, Status> {
        let message = timeout(PATIENCE, self.answers.message())
            .await
            .expect("answers in time")?;
        let message = message.ok_or_else(|| Status::aborted("the stream ended"))?;
        Ok(message.what.expect("something"))
    }

    /// The next message of the kind that `pick` takes; leases and acknowledgements in between are passed over.
    pub async fn until<T>(&mut self, pick: impl Fn(&leader_message::What) -> Option<T>) -> T {
        loop {
            let what = self.next().await.expect("the stream goes on");
            if let Some(found) = pick(&what) {
                return found;
            }
        }
    }

    pub async fn say(&self, what: agent_message::What) {
        self.out
            .send(AgentMessage { what: Some(what) })
            .await
            .expect("the stream is open");
    }

    pub async fn heartbeat(&mut self, attempts: Vec<AttemptStatus>) -> u64 {
        self.seq += 1;
        let heartbeat = mlctl_proto::agent::Heartbeat {
            probe: None,
            space: None,
            seq: self.seq,
            attempts,
        };
        self.say(agent_message::What::Heartbeat(heartbeat)).await;
        self.seq
    }
}
