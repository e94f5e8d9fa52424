//! The keeper: one process per node and attempt that owns the ranks. Child of the launcher, never of the agent, so that neither a crash nor
//! an upgrade of the agent touches a training. The ranks die with it.
//!
//! One thread, because the kernel ties a rank's death signal to the thread that started it. It keeps its ranks in sessions and, as
//! subreaper, everything that comes from them in reach; where cgroups can be made, in one that bounds them and ends them at once. It knows no
//! coordinator, and does NOT decide whether an attempt may run: whoever starts it has a committed entry for that.

mod array;
mod birth;
pub(crate) mod cage;
mod child;
pub mod client;
mod clock;
mod connection;
mod control;
pub mod deadline;
pub(crate) mod descendants;
mod exits;
pub mod fence;
pub mod limit;
mod lines;
mod mask;
mod mpi;
mod output;
pub mod protocol;
mod ranks;
mod remote;
pub(crate) mod room;
pub mod shim;
mod shims;
pub(crate) mod socket_dir;
mod spawn;
pub mod sweep;
pub mod terms;
mod torchrun;
mod turns;
pub(crate) mod version;
pub mod warm;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

pub use exits::{Written, read_exits};

use crate::launch::LaunchPlan;
use crate::launch::plan::PLAN_VERSION;
use terms::Terms;

/// The plan's file in an attempt's directory: written by the agent, synced, before the keeper is started.
pub const PLAN: &str = "plan.json";
/// The keeper's socket in an attempt's directory.
pub const SOCKET: &str = "keeper.sock";
/// Who the keeper is, in an attempt's directory.
pub const IDENTITY: &str = "keeper.json";
/// What a keeper says on its standard output when it takes connections; anything else is why it does not.
pub const READY: &str = "ready";

/// As long as the environments of all ranks that a node may have, with room.
const PLAN_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What `keeper.json` holds: enough to tell this process from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// When it started, clock ticks since boot.
    pub start_time: u64,
    /// Which boot that was.
    pub boot_id: String,
    /// The protocol that it speaks.
    pub protocol: u32,
}

/// Runs a keeper for `attempt_dir` until it is released. Must be called from the main thread of a process that has no other.
/// Returns the exit code of the process.
pub fn run(attempt_dir: &Path, terms: &Terms) -> i32 {
    match set_up(attempt_dir, terms) {
        Ok(mut parts) => {
            announce();
            let ended = turns::run(&mut parts.keeper, &parts.listener, &parts.signals);
            // An agent that looks for a keeper finds none.
            let _ = fs::remove_file(attempt_dir.join(SOCKET));
            match ended {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(%error, "the keeper cannot wait for its ranks; they end with it");
                    70
                }
            }
        }
        Err(why) => {
            // To the launcher, which passes it on.
            let _ = writeln!(io::stdout(), "{}", why.replace('\n', " "));
            70
        }
    }
}

struct Parts {
    keeper: control::Keeper,
    listener: UnixListener,
    signals: nix::sys::signalfd::SignalFd,
    _lock: File,
}

fn set_up(attempt_dir: &Path, terms: &Terms) -> Result<Parts, String> {
    let shown = attempt_dir.display();
    child::control(libc::PR_SET_CHILD_SUBREAPER, 1)
        .map_err(|e| format!("cannot become a subreaper: {e}"))?;
    umask(Mode::from_bits_truncate(0o077));
    let lock = lock(attempt_dir)?;
    let plan = read_plan(&attempt_dir.join(PLAN))?;
    let mut account = ranks::check(&plan, terms)?;
    let signals = turns::take_signals().map_err(|e| format!("cannot take signals: {e}"))?;
    let logs = PathBuf::from(&plan.logs_dir);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&logs);
    made.map_err(|e| format!("cannot make {}: {e}", logs.display()))?;
    let exits_file = exits::ExitsFile::create(attempt_dir)
        .map_err(|e| format!("cannot write in {shown}: {e}"))?;
    let mpi = mpi::Mpi::open(&plan, attempt_dir, account.uid())
        .map_err(|e| format!("cannot listen on {} in {shown}: {e}", shim::SOCKET))?;
    let cage = cage::Cage::make(terms, attempt_dir, &plan)?;
    account.enters(room::make(terms, attempt_dir, &plan)?);
    let keeper = control::Keeper::new(plan, account, exits_file, mpi, cage)
        .map_err(|e| format!("cannot make a log in {}: {e}", logs.display()))?;
    write_identity(attempt_dir).map_err(|e| format!("cannot write {IDENTITY} in {shown}: {e}"))?;
    let listener = bound(attempt_dir, SOCKET)
        .map_err(|e| format!("cannot listen on {SOCKET} in {shown}: {e}"))?;
    Ok(Parts {
        keeper,
        listener,
        signals,
        _lock: lock,
    })
}

/// One keeper per attempt: a second one would start every rank twice. The directory itself is locked, which takes no file more.
fn lock(attempt_dir: &Path) -> Result<File, String> {
    let shown = attempt_dir.display();
    let dir = File::open(attempt_dir).map_err(|e| format!("cannot open {shown}: {e}"))?;
    match dir.try_lock() {
        Ok(()) => Ok(dir),
        Err(fs::TryLockError::WouldBlock) => Err(format!("another keeper runs for {shown}")),
        Err(fs::TryLockError::Error(error)) => Err(format!("cannot lock {shown}: {error}")),
    }
}

fn read_plan(path: &Path) -> Result<LaunchPlan, String> {
    let shown = path.display();
    let mut text = Vec::new();
    let file = File::open(path).map_err(|e| format!("cannot open {shown}: {e}"))?;
    file.take(PLAN_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|e| format!("cannot read {shown}: {e}"))?;
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } =
        serde_json::from_slice(&text).map_err(|e| format!("{shown} is no launch plan: {e}"))?;
    if version != PLAN_VERSION {
        return Err(format!(
            "{shown} has version {version}; this keeper knows {PLAN_VERSION}"
        ));
    }
    serde_json::from_slice(&text).map_err(|e| format!("{shown} is no launch plan: {e}"))
}

fn bound(attempt_dir: &Path, name: &str) -> io::Result<UnixListener> {
    let short = socket_dir::ShortPath::open(attempt_dir, name)?;
    // Left by a keeper that was killed: its lock is free, or we would not be here.
    match fs::remove_file(short.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Born 0600: a socket that is narrowed afterwards was open for a moment.
    let usual = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(short.path());
    umask(usual);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn write_identity(attempt_dir: &Path) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name may hold anything; what counts stands behind the last `)`.
    let ticks = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    let identity = Identity {
        pid: std::process::id(),
        start_time: ticks.unwrap_or(0),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned(),
        protocol: version::own(),
    };
    let aside = attempt_dir.join("keeper.json.tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(&serde_json::to_vec(&identity)?)?;
    fs::rename(aside, attempt_dir.join(IDENTITY))
}

/// Tells the launcher, then lets go of its pipe.
fn announce() {
    let mut out = io::stdout();
    // A launcher that is gone does not need to know.
    let _ = writeln!(out, "{READY}");
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null")
        && let Err(error) = nix::unistd::dup2_stdout(null)
    {
        tracing::warn!(%error, "cannot let go of the launcher's pipe");
    }
}
