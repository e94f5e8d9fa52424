//! From a configuration to a running agent: lock, identity, inventory, journal, then the tasks.
//! Does NOT read the command line and does NOT set up telemetry.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use mlctl_blobs::transfer::Tls;
use mlctl_blobs::{Store, StoreError};
use mlctl_proto::PROTOCOL;
use mlctl_proto::agent::AgentHello;
use mlctl_proto::persist::NodeFacts;
use mlctl_runtime::identity::{Bundle, IdentityError, Role};
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::tls::{Dialer, NodeTls};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::bulk::{self, Bulk};
use crate::config::{Config, ConfigError};
use crate::copies::{self, Setup, Vault, VaultError};
use crate::core::Event;
use crate::devices::dirt::Devices;
use crate::dirs::Dirs;
use crate::driver::{Context, Driver, INPUTS, Input, recover};
use crate::inventory::{Inventory, NoBootId, inventory};
use crate::journal::JournalError;
use crate::link::{self, LinkConfig};
use crate::witness::answer::Answering;

/// Why an agent cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory.
    #[error("cannot use the data directory {}: {source}", path.display())]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Where this program is.
    #[error("cannot tell where this program is: {0}")]
    Program(#[source] io::Error),
    /// Another agent holds the data directory.
    #[error("another agent uses {}: stop it, or set another `data_dir`", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// Certificate, key or CA.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is not this node's.
    #[error("the certificate in {} is of {found}, not of node {name}: make one with `mlctl admin cert node {name}`", path.display())]
    NotOurs {
        /// The identity directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        name: String,
    },
    /// The inventory.
    #[error(transparent)]
    Inventory(#[from] NoBootId),
    /// The blobs.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copies of checkpoints.
    #[error(transparent)]
    Copies(#[from] VaultError),
    /// The journal. After such an error nothing that this agent says could be relied on.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Runs the agent until `shutdown`. Keepers and their ranks outlive it.
///
/// # Errors
/// When it cannot start, or its journal fails.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    config.check()?;
    let dirs = Dirs::new(config.data_dir.clone());
    let _lock = lock(&dirs)?;
    let (dialer, tls) = identity(&config)?;
    let Inventory { facts, topology } = inventory(&config).await?;
    greet(&facts);
    let store = Store::open(dirs.blobs())?;
    let (journal_id, recovered) = recover(&dirs)?;
    let open: Vec<_> = recovered
        .open()
        .map(|start| (start.job, start.epoch))
        .collect();
    let cleaning = tokio::spawn(bulk::clean(dirs.clone(), config.keep));
    let (bulk, news) = Bulk::new();
    let (inputs, receiver) = mpsc::channel(INPUTS);
    let (leader_tx, leader) = watch::channel(None);
    let answering = answering();
    let devices = Devices::new(&config.nvml_path, &facts.devices);
    let dirty = devices.all_dirt().await;
    let vault = Vault::open(setup(&config, &dirs, tls).await, inputs.clone()).await?;
    let link = LinkConfig {
        dialer,
        hello: AgentHello {
            data_port: u32::from(vault.port()),
            ..hello(facts)
        },
        space: Some(vault.space()),
        coordinators: config.coordinators.clone(),
        file: dirs.coordinators(),
        probe: answering.as_ref().map(Answering::port),
    };
    let context = Context {
        program: std::env::current_exe().map_err(RunError::Program)?,
        config,
        topology,
        dirs: dirs.clone(),
        store,
        leader: leader.clone(),
        inputs: inputs.clone(),
        bulk,
        devices: Arc::new(devices),
        vault,
    };
    let driver = Driver::start(&journal_id, recovered, context).await?;
    // Before anything is heard of the cluster: nothing begins on a device that somebody else uses.
    let seen = Event::DevicesSeen {
        dirty,
        clean: Vec::new(),
    };
    // The driver holds the other end.
    let _ = inputs.send(Input::Core(seen)).await;
    let pushing = tokio::spawn(bulk::run(dirs, open, news, leader));
    let witnessed = answering.map(|one| tokio::spawn(one.serve_for_ever()));
    let linking = tokio::spawn(link::run(link, inputs, leader_tx, shutdown.clone()));
    let ended = driver.run(receiver, shutdown).await;
    cleaning.abort();
    pushing.abort();
    linking.abort();
    if let Some(witnessed) = witnessed {
        witnessed.abort();
    }
    Ok(ended?)
}

/// Where this agent answers witnesses. Without a port the node is believed lost only after long silence.
fn answering() -> Option<Answering> {
    match Answering::bind() {
        Ok(answering) => Some(answering),
        Err(error) => {
            tracing::warn!(%error, "no port to answer witnesses on");
            None
        }
    }
}

/// One agent per data directory. The lock goes with the process.
fn lock(dirs: &Dirs) -> Result<Flock<File>, RunError> {
    let path = dirs.root().to_owned();
    let failed = |source| RunError::DataDir {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(dirs.jobs()).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dirs.root().join("lock"))
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| RunError::Locked { path: path.clone() })
}

/// Who this node is to coordinators, and to other nodes.
fn identity(config: &Config) -> Result<(Dialer, Tls), RunError> {
    let bundle = Bundle::read(&config.identity)?;
    let peer = bundle.peer()?;
    if peer.role != Role::Node || peer.id != config.name {
        return Err(RunError::NotOurs {
            path: config.identity.clone(),
            found: format!("{} {}", peer.role.word(), peer.id),
            name: config.name.clone(),
        });
    }
    let nodes = NodeTls::new(&bundle)?;
    let tls = copies::tls(&nodes).map_err(|error| IdentityError::Unfit(error.to_string()))?;
    Ok((Dialer::new(&bundle)?, tls))
}

/// What the copies of this node need. It listens on its data address, or else on every one.
async fn setup(config: &Config, dirs: &Dirs, tls: Tls) -> Setup {
    let port = config.data_port;
    let named = tokio::net::lookup_host((config.data_address(), port)).await;
    let mut addresses: Vec<SocketAddr> = named.into_iter().flatten().take(1).collect();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    if addresses.iter().all(|one| *one != any) {
        addresses.push(any);
    }
    Setup {
        own: config.name.clone(),
        copies: dirs.copies(),
        ledger: dirs.copies_ledger(),
        staging: dirs.copies_staging(),
        limit_bytes: config
            .copies_gib
            .map_or(u64::MAX, |gib| gib.saturating_mul(1 << 30)),
        upload_dirs: config.upload_dirs(),
        addresses,
        tls,
    }
}

fn greet(facts: &NodeFacts) {
    let simulated = facts
        .devices
        .iter()
        .filter(|device| device.simulated)
        .count();
    info!(
        node = facts.name,
        devices = facts.devices.len(),
        simulated,
        cpus = facts.cpus,
        boot = facts.boot_id,
        "agent starts"
    );
    for error in &facts.device_errors {
        tracing::warn!(error, "a device cannot be used");
    }
}

/// What a hello says beside the core's words.
fn hello(facts: NodeFacts) -> AgentHello {
    AgentHello {
        protocol: PROTOCOL,
        version: facts.version.clone(),
        capabilities: facts.capabilities.clone(),
        facts: Some(facts),
        ..AgentHello::default()
    }
}
