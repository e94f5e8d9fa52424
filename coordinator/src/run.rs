//! Starts a coordinator, serves until told to end, and ends in order.
//!
//! Order of the end: no new calls, streams end, consensus stops, the index is written and synced.
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mlctl_blobs::transfer::{Tls, TransferError};
use mlctl_blobs::{Store, StoreError};
use mlctl_runtime::identity::{Bundle, IdentityError};
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::tls::{Dialer, NodeTls, incoming, install_crypto, server_config};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api;
use crate::clock::Clock;
use crate::config::{BadConfig, Config};
use crate::consensus::{self, Begin, Handle, Membership, StartError, abort_process};
use crate::disk::{Disk, Gauge};
use crate::downloads::Downloads;
use crate::fetching::fetch;
use crate::leader::supervise;
use crate::logs::Logs;
use crate::machine::{Machine, OnFatal};
use crate::members::follow::follow;
use crate::members::rejoin::{self, RejoinError};
use crate::members::roster;
use crate::peers::Peers;
use crate::published::Published;
use crate::shared::Shared;
use crate::state::State;
use crate::state::records::Reply;
use crate::store::history::History;
use crate::store::segments::{Keeper, SegmentError, Segments};
use crate::store::{self, Feed, HasRoom, Shelf, Writer};
use crate::vitals::space::Room;
use crate::vitals::{self, Note, NoteError, Vitals};

/// Streams and calls under way get this long after the end began.
const DRAIN: Duration = Duration::from_secs(2);
const INDEX_DEADLINE: Duration = Duration::from_secs(5);
/// A leader that is told to end waits this long for its successor.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Why a coordinator does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// Its certificate, key or CA.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// The certificate is another coordinator's.
    #[error(
        "the certificate in {dir} is that of {found}, not of coordinator {wanted}; `mlctl admin cert coordinator {wanted}` makes one"
    )]
    OtherIdentity {
        /// Where the identity lies.
        dir: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// The data directory is another coordinator's.
    #[error(
        "{dir} belongs to coordinator {found}, not to {wanted}: a data directory stays with its coordinator"
    )]
    OtherDirectory {
        /// The data directory.
        dir: String,
        /// Whose it is.
        found: String,
        /// Who started.
        wanted: String,
    },
    /// It was to join again, and could not.
    #[error("joining again: {0}")]
    Rejoin(#[from] RejoinError),
    /// Blobs cannot be kept.
    #[error(transparent)]
    Blobs(#[from] StoreError),
    /// Its identity does not do for fetching from nodes.
    #[error(transparent)]
    Fetching(#[from] TransferError),
    /// History cannot be kept.
    #[error(transparent)]
    History(#[from] SegmentError),
    /// Raft cannot run on what is on this disk.
    #[error(transparent)]
    Consensus(#[from] StartError),
    /// Its state is not the majority's.
    #[error(transparent)]
    Diverged(#[from] NoteError),
    /// The system refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// In present tense.
        doing: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("the server stopped: {0}")]
    Serve(String),
}

/// Runs a coordinator until `shutdown`. Must be called inside a multi-threaded tokio runtime.
///
/// # Errors
/// When it cannot start; see [`RunError`]. What fails later is retried, or ends the process when going on could lose
/// what was acknowledged.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let listen = config.listen.clone();
    let listener = TcpListener::bind(&listen)
        .await
        .map_err(io(format!("listen on {listen}")))?;
    run_on(config, listener, shutdown).await
}

/// As [`run`], on a listener that the caller made.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: Config,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    config.check()?;
    install_crypto();
    let identity = Bundle::read(&config.identity)?;
    let tls = server_config(&identity)?;
    check_identity(&config, &identity)?;
    let dir = config.data_dir.clone();
    let (disk, segments, keeper) = prepare(&config)?;
    let raft_dir = config.raft_dir();
    // Everything in here ends by this one; a leader first looks for a successor.
    let (asked, shutdown) = (shutdown, Shutdown::new());
    let ground = Ground {
        config: &config,
        gauge: &disk.gauge(),
        dialer: &Dialer::new(&identity)?,
        segments: &segments,
    };
    let Consensus {
        raft,
        published,
        writer,
        feed,
        history,
        peers,
    } = enter(&ground, &asked).await?;
    peers.start(raft.clone(), &shutdown);
    let (ports, leader) = watch::channel(None);
    let shared = Arc::new(Shared {
        cluster: identity.cluster.clone(),
        raft: raft.clone(),
        published,
        peers,
        blobs: Store::open(dir.join("blobs"))?,
        logs: Logs::new(dir.join("logs")),
        downloads: downloads(&identity, &dir)?,
        history,
        leader,
        clock: Clock::default(),
        vitals: Vitals::new(&config.name, disk.gauge()),
        shutdown: shutdown.clone(),
        config,
    });
    let tasks = Tasks {
        until_shutdown: vec![
            tokio::spawn(supervise(Arc::clone(&shared), ports)),
            tokio::spawn(vitals::watch(Arc::clone(&shared))),
            tokio::spawn(fetch(Arc::clone(&shared), feed)),
            tokio::spawn(follow(Arc::clone(&shared))),
            tokio::spawn(api::tend_logs(Arc::clone(&shared))),
        ],
        ending: tokio::spawn(end_when(asked, Arc::clone(&shared))),
    };
    tracing::info!(name = %shared.config.name, listen = %shared.config.listen, members = shared.config.members.len(), "coordinator ready");
    let served = serve(&shared, listener, tls, &shutdown).await;
    shutdown.trigger();
    tasks.end().await;
    let diverged = shared.vitals.diverged().cloned();
    drop(shared);
    raft.shutdown().await;
    close(keeper, writer).await;
    tracing::info!("coordinator stopped");
    match diverged {
        Some(note) => Err(note.refusal(&raft_dir).into()),
        None => served,
    }
}

/// How parts of checkpoints come from nodes.
fn downloads(identity: &Bundle, dir: &Path) -> Result<Downloads, RunError> {
    let tls = NodeTls::reader(identity)?;
    let known = tls.clone();
    let identify = Arc::new(move |certificate: &[u8]| known.node_of(certificate));
    let tls = Tls::new(&tls.client, &tls.server, &tls.server_name, identify)?;
    Ok(Downloads::new(dir.join("downloads"), tls))
}

/// The data directory, its disk, and the history in it.
fn prepare(config: &Config) -> Result<(Disk, Arc<Segments>, Keeper), RunError> {
    let dir = &config.data_dir;
    // Specs and logs are nobody else's to read.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(io(format!("make {}", dir.display())))?;
    // Before anything is opened there: on a full disk that needs the reserve's space.
    let disk = Disk::open(dir, &config.disk, config.dev)
        .map_err(io(format!("measure the disk of {}", dir.display())))?;
    let segments = Arc::new(Segments::open(&dir.join("segments"))?);
    let keeper = segments.start(Arc::from(abort_process()));
    let keeper = keeper.map_err(io("start the thread of history".into()))?;
    Ok((disk, segments, keeper))
}

/// What runs beside the server.
struct Tasks {
    /// They end by themselves at the shutdown.
    until_shutdown: Vec<JoinHandle<()>>,
    ending: JoinHandle<()>,
}

impl Tasks {
    /// Waits for all of them, the shutdown being triggered.
    async fn end(self) {
        for task in self.until_shutdown {
            // A panic in one was reported where it happened.
            let _ = task.await;
        }
        self.ending.abort();
        let _ = self.ending.await;
    }
}

/// Writes what waits, of history and of the index, and ends their threads.
async fn close(keeper: Keeper, writer: Writer) {
    let stop = move || {
        keeper.stop();
        writer.stop(INDEX_DEADLINE)
    };
    let stopped = tokio::task::spawn_blocking(stop).await;
    if !stopped.unwrap_or(false) {
        tracing::warn!("the index was not written in time; it is built anew at the next start");
    }
}

/// Ends the process when it is `asked` to, once somebody else leads.
async fn end_when(asked: Shutdown, shared: Arc<Shared>) {
    asked.wait().await;
    vitals::hand_over(&shared, HAND_OVER).await;
    shared.shutdown.trigger();
}

/// The certificate says that it is this coordinator.
fn check_identity(config: &Config, identity: &Bundle) -> Result<(), RunError> {
    let peer = identity.peer()?;
    if peer.id == config.name {
        return Ok(());
    }
    Err(RunError::OtherIdentity {
        dir: config.identity.display().to_string(),
        found: peer.to_string(),
        wanted: config.name.clone(),
    })
}

struct Consensus {
    raft: Handle<Reply>,
    published: Arc<Published>,
    writer: Writer,
    feed: Feed,
    history: Arc<History>,
    peers: Arc<Peers>,
}

/// What every way of beginning stands on.
struct Ground<'a> {
    config: &'a Config,
    gauge: &'a Gauge,
    dialer: &'a Dialer,
    segments: &'a Arc<Segments>,
}

/// Starts consensus in this data directory; if that cannot vote any more and the command line says so, in a new one.
async fn enter(ground: &Ground<'_>, shutdown: &Shutdown) -> Result<Consensus, RunError> {
    let config = ground.config;
    let raft = config.raft_dir();
    let lost = match Note::refuse(&raft) {
        Err(error @ NoteError::Io { .. }) => return Err(error.into()),
        Ok(()) => match resume(ground, &raft, shutdown).await {
            Err(RunError::Consensus(error)) if config.rejoin && error.is_loss() => {
                error.to_string()
            }
            outcome => return outcome,
        },
        Err(diverged) if config.rejoin => diverged.to_string(),
        Err(diverged) => return Err(diverged.into()),
    };
    tracing::warn!(%lost, "this data directory cannot vote");
    let id = rejoin::begin_anew(config, &raft, &config.data_dir.join("index"))?;
    let begin = rejoin::ask(config, id, ground.dialer, shutdown).await?;
    begin_as(ground, id, begin)
}

/// Goes on with what the data directory holds, or founds a cluster in an empty one.
async fn resume(
    ground: &Ground<'_>,
    raft: &Path,
    shutdown: &Shutdown,
) -> Result<Consensus, RunError> {
    let config = ground.config;
    let identity = consensus::identity(raft).map_err(StartError::from)?;
    let found = identity
        .as_ref()
        .and_then(|identity| roster::name_in(&identity.info));
    if let Some(found) = found.filter(|found| *found != config.name) {
        return Err(RunError::OtherDirectory {
            dir: raft.display().to_string(),
            found,
            wanted: config.name.clone(),
        });
    }
    match identity {
        // It was stopped while it asked to be let in; the id was drawn for good.
        Some(identity) if identity.joining => {
            let begin = rejoin::ask(config, identity.id, ground.dialer, shutdown).await?;
            begin_as(ground, identity.id, begin)
        }
        Some(identity) => begin_as(ground, identity.id, Begin::Resume),
        None => {
            let own = config.own().map_or(0, |own| own.id);
            let begin = if config.bootstrap {
                let members = roster::founders(config);
                Begin::Found { id: own, members }
            } else {
                Begin::Resume
            };
            begin_as(ground, own, begin)
        }
    }
}

/// Starts consensus on the state that the index holds; if that does not fit the log, or refers to segments that are not here,
/// on the snapshot and the log alone: what the log still holds is closed again.
fn begin_as(ground: &Ground<'_>, own: u64, begin: Begin) -> Result<Consensus, RunError> {
    let (config, segments) = (ground.config, ground.segments);
    let raft = config.raft_dir();
    let known = match &begin {
        Begin::Resume => consensus::identity(&raft)
            .map_err(StartError::from)?
            .map_or_else(Membership::default, |identity| identity.members),
        Begin::Found { members, .. } | Begin::Join { members, .. } => members.clone(),
    };
    let named = roster::known(config, &known);
    let peers = Arc::new(Peers::new(own, &named, ground.dialer.clone()));
    peers.know(&known, &named);
    let gauge = ground.gauge.clone();
    let has_room: HasRoom = Arc::new(move || gauge.room() != Room::Short);
    let index = config.data_dir.join("index");
    let loaded = store::load(&index);
    let whole = |state: &State| {
        let lacking = segments.lacking(state).len();
        if lacking > 0 {
            tracing::warn!(
                lacking,
                "segments of history are not here; starting without the index"
            );
        }
        lacking == 0
    };
    if let Some(state) = loaded.filter(whole) {
        let applied = state.applied_index();
        match begin_with(
            config,
            begin.clone(),
            &peers,
            (segments, &has_room),
            state,
            true,
        ) {
            Err(RunError::Consensus(StartError::Log(error))) => {
                tracing::warn!(%error, applied, "the index does not fit the log; starting without it");
            }
            outcome => {
                tracing::info!(applied, "state loaded from the index");
                return outcome;
            }
        }
    }
    begin_with(
        config,
        begin,
        &peers,
        (segments, &has_room),
        State::new(),
        false,
    )
}

fn begin_with(
    config: &Config,
    begin: Begin,
    peers: &Arc<Peers>,
    (segments, has_room): (&Arc<Segments>, &HasRoom),
    state: State,
    current: bool,
) -> Result<Consensus, RunError> {
    let published = Arc::new(Published::new(state.clone()));
    let shelf = Arc::new(Shelf::default());
    let history = History::new(Arc::clone(segments), Arc::clone(&shelf));
    let started = Writer::start(
        &config.data_dir.join("index"),
        Arc::clone(&published),
        Arc::clone(segments),
        shelf,
        current,
        Arc::clone(has_room),
    );
    let (feed, writer) = started.map_err(io("start the index's thread".into()))?;
    let on_fatal: OnFatal = Arc::from(abort_process());
    let machine = Machine::new(
        state,
        Arc::clone(&published),
        feed.clone(),
        Arc::clone(segments),
        on_fatal,
    );
    let settings = consensus::Config::new(config.raft_dir(), begin);
    let transport = Arc::clone(peers);
    match consensus::start(settings, machine, transport, abort_process()) {
        Ok(raft) => Ok(Consensus {
            raft,
            published,
            writer,
            feed,
            history: Arc::new(history),
            peers: Arc::clone(peers),
        }),
        Err(error) => {
            writer.stop(INDEX_DEADLINE);
            Err(error.into())
        }
    }
}

async fn serve(
    shared: &Arc<Shared>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: &Shutdown,
) -> Result<(), RunError> {
    let signal = shutdown.clone();
    let connections = incoming(listener, tls);
    let server = api::router(shared)
        .serve_with_incoming_shutdown(connections, async move { signal.wait().await });
    let drained = async {
        shutdown.wait().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        outcome = server => outcome.map_err(|error| RunError::Serve(error.to_string())),
        () = drained => {
            tracing::debug!("connections were still open at the end");
            Ok(())
        }
    }
}

fn io(doing: String) -> impl FnOnce(std::io::Error) -> RunError {
    move |source| RunError::Io { doing, source }
}
