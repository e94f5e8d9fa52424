//! etcd: three members on loopback, their data in one folder, each write synced on a majority as etcd does it by default.
//! Elections as tight as ours: heartbeats of 50 ms, timeouts of 250 ms and more. Clients speak its own gRPC, one connection each.
//! Does NOT use transactions, leases or anything but puts and the question who leads.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

const MEMBERS: usize = 3;
const UP: Duration = Duration::from_secs(30);
const HEARTBEAT_MS: &str = "50";
const ELECTION_MS: &str = "250";

/// The part of etcd's messages that is used here.
mod messages {
    /// A key and its value.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PutRequest {
        /// The key.
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        /// The value.
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    /// Who answers.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Header {
        /// The member.
        #[prost(uint64, tag = "2")]
        pub member_id: u64,
    }

    /// A put is done.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PutResponse {}

    /// How a member is.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusRequest {}

    /// How a member is.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusResponse {
        /// Who answers.
        #[prost(message, optional, tag = "1")]
        pub header: Option<Header>,
        /// Who leads, 0 for nobody.
        #[prost(uint64, tag = "4")]
        pub leader: u64,
    }
}

/// Three members.
pub struct Etcd {
    program: PathBuf,
    dir: PathBuf,
    /// Client port and peer port of each.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// Starts three members with their data below `dir`, and waits for a leader.
    ///
    /// # Errors
    /// When etcd is not installed or does not come up.
    pub fn start(dir: &Path) -> Result<Self> {
        let program = ["/usr/bin/etcd", "/usr/local/bin/etcd"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists())
            .context(
                "etcd is not installed (apt-get install etcd-server): nothing to measure against",
            )?;
        let dir = dir.join("etcd");
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let mut etcd = Self {
            program,
            dir,
            ports: free_ports()?,
            members: Vec::new(),
        };
        for number in 0..MEMBERS {
            let member = etcd.spawn(number, "new")?;
            etcd.members.push(Some(member));
        }
        Ok(etcd)
    }

    /// `host:port` for clients of each member.
    pub fn addresses(&self) -> Vec<String> {
        let address = |(client, _): &(u16, u16)| format!("127.0.0.1:{client}");
        self.ports.iter().map(address).collect()
    }

    /// The number of the member that leads, once all three say the same.
    ///
    /// # Errors
    /// When they do not within half a minute.
    pub async fn leader(&self) -> Result<usize> {
        let began = Instant::now();
        while began.elapsed() < UP {
            if let Some(leader) = self.agreed().await {
                return Ok(leader);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("etcd has no leader; its logs lie in {}", self.dir.display())
    }

    async fn agreed(&self) -> Option<usize> {
        let (mut ids, mut leaders) = (Vec::new(), Vec::new());
        for address in self.addresses() {
            let mut client = EtcdClient::connect(&address).await.ok()?;
            let status = client.status().await.ok()?;
            ids.push(status.header?.member_id);
            leaders.push(status.leader);
        }
        let same = leaders.iter().all(|leader| *leader == leaders[0]);
        ids.iter()
            .position(|id| same && *id == leaders[0] && *id != 0)
    }

    /// The process id of a member that runs.
    pub fn pid(&self, number: usize) -> Option<u32> {
        self.members.get(number)?.as_ref().map(Child::id)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let member = self.members.get_mut(number).and_then(Option::take);
        let mut member = member.context("that member does not run")?;
        member.kill()?;
        member.wait()?;
        Ok(())
    }

    /// Starts a member again that was killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.members[number] = Some(self.spawn(number, "existing")?);
        Ok(())
    }

    fn spawn(&self, number: usize, state: &str) -> Result<Child> {
        let (client, peer) = self.ports[number];
        let name = format!("e{number}");
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all = self.ports.iter().enumerate();
        let cluster: Vec<String> = all
            .map(|(number, (_, peer))| format!("e{number}={}", url(*peer)))
            .collect();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{name}.log")))?;
        let mut command = Command::new(&self.program);
        command
            .args(["--name", &name])
            .arg("--data-dir")
            .arg(self.dir.join(&name))
            .args(["--listen-client-urls", &url(client)])
            .args(["--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer)])
            .args(["--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-state", state])
            .args(["--heartbeat-interval", HEARTBEAT_MS])
            .args(["--election-timeout", ELECTION_MS])
            .args(["--logger", "zap", "--log-level", "warn"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| self.program.display().to_string())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in self.members.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Ports that nobody listens on now.
fn free_ports() -> Result<Vec<(u16, u16)>> {
    let listen = |_| TcpListener::bind(("127.0.0.1", 0));
    let held = (0..2 * MEMBERS)
        .map(listen)
        .collect::<Result<Vec<_>, _>>()?;
    let ports = held
        .iter()
        .map(|one| one.local_addr().map(|at| at.port()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ports.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A connection to one member.
#[derive(Clone)]
pub struct EtcdClient(Grpc<Channel>);

impl EtcdClient {
    /// Connects to a member at `address`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(1));
        Ok(Self(Grpc::new(endpoint.connect().await?)))
    }

    /// Writes `value` under `key`; returns when it is committed.
    ///
    /// # Errors
    /// Whatever the member or the connection says.
    pub async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Status> {
        let request = messages::PutRequest { key, value };
        let _: messages::PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }

    async fn status(&mut self) -> Result<messages::StatusResponse, Status> {
        self.call(
            "/etcdserverpb.Maintenance/Status",
            messages::StatusRequest {},
        )
        .await
    }

    async fn call<T, R>(&mut self, path: &'static str, message: T) -> Result<R, Status>
    where
        T: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<T, R> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        let answer = self.0.unary(Request::new(message), path, codec).await?;
        Ok(answer.into_inner())
    }
}
