//! The launcher's loop: takes connections of its own user or root, answers one question each.
//! Survives garbage, and lets nobody who is slow keep others waiting. Does NOT decide what may be started (see `start`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::groups::Groups;
use super::protocol::{Answer, Ask, MESSAGE_BYTES_MAX};
use super::warm::Warm;
use super::{LauncherConfig, LauncherRunError, SOCKET, start};
use crate::keeper::socket_dir::ShortPath;
use crate::launch::wire::{Decoder, encode};

/// Each read and write of a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections served at once; more are closed unanswered.
const AT_ONCE: usize = 32;

/// What every connection's thread shares.
struct Shared {
    config: LauncherConfig,
    groups: Groups,
    warm: Warm,
    busy: AtomicUsize,
}

/// Serves until SIGTERM or SIGINT. Keepers live on.
///
/// # Errors
/// When it cannot begin, or cannot wait any more.
pub fn run(config: LauncherConfig) -> Result<(), LauncherRunError> {
    let system = |what| move |source: io::Error| LauncherRunError::System { what, source };
    // Opened once: an upgrade may replace the file while this process runs.
    let program = File::open("/proc/self/exe").map_err(system("cannot open the program itself"))?;
    // Before any thread: those that come later inherit it.
    let signals = take_signals().map_err(system("cannot take signals"))?;
    let (listener, _lock) = listen(&config.data_dir)?;
    let groups = Groups::prepare(&config.data_dir);
    let (level, missing) = groups.isolation(&config);
    tracing::info!(?level, ?missing, "isolation");
    let warm = Warm::new(program, groups.terms(&config));
    let shared = Arc::new(Shared {
        config,
        groups,
        warm,
        busy: AtomicUsize::new(0),
    });
    tracing::info!(data_dir = %shared.config.data_dir.display(), "launcher is ready");
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(system("cannot wait")(error.into())),
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => {
                    tracing::info!("launcher ends; keepers live on");
                    let _ = fs::remove_file(shared.config.data_dir.join(SOCKET));
                    return Ok(());
                }
                _ => {}
            }
        }
        accept(&listener, &shared);
    }
}

fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

fn listen(data_dir: &Path) -> Result<(UnixListener, File), LauncherRunError> {
    let socket = data_dir.join(SOCKET);
    let lock_path = data_dir.join("launcher.lock");
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |source| LauncherRunError::File { what, path, source }
    };
    umask(Mode::from_bits_truncate(0o077));
    fs::create_dir_all(data_dir.join("jobs"))
        .map_err(file("cannot make", &data_dir.join("jobs")))?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path);
    let lock = lock.map_err(file("cannot open", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(LauncherRunError::Busy {
                path: data_dir.to_owned(),
            });
        }
        Err(fs::TryLockError::Error(error)) => return Err(file("cannot lock", &lock_path)(error)),
    }
    let short = ShortPath::open(data_dir, SOCKET).map_err(file("cannot open", data_dir))?;
    match fs::remove_file(short.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file("cannot remove", &socket)(error));
        }
        _ => {}
    }
    // Born 0600: a socket that is narrowed afterwards was open for a moment.
    let usual = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(short.path());
    umask(usual);
    let listener = bound.map_err(file("cannot listen on", &socket))?;
    listener
        .set_nonblocking(true)
        .map_err(file("cannot use", &socket))?;
    Ok((listener, lock))
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            return;
        }
    };
    if shared.busy.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
        shared.busy.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!("too many connections at once; one is closed");
        return;
    }
    let own = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("ask".into())
        .spawn(move || {
            if let Err(why) = serve(&own, stream) {
                tracing::warn!(why, "a connection was refused");
            }
            own.busy.fetch_sub(1, Ordering::Relaxed);
        });
    if let Err(error) = thread {
        shared.busy.fetch_sub(1, Ordering::Relaxed);
        tracing::error!(%error, "cannot start a thread");
    }
}

fn serve(shared: &Shared, mut stream: UnixStream) -> Result<(), String> {
    let peer = getsockopt(&stream, PeerCredentials)
        .map_err(|e| format!("cannot tell who asks: {e}"))?
        .uid();
    if peer != 0 && peer != geteuid().as_raw() {
        return Err(format!("user {peer} asks"));
    }
    // What `accept` gives does not block less because the listener does; say so all the same.
    let patient = stream
        .set_nonblocking(false)
        .and(stream.set_read_timeout(Some(PATIENCE)))
        .and(stream.set_write_timeout(Some(PATIENCE)));
    patient.map_err(|e| format!("cannot use a connection: {e}"))?;
    let Some(ask) = read(&mut stream)? else {
        return Ok(());
    };
    let answer = match ask {
        Ask::Ping => Answer::Pong,
        Ask::StartKeeper { attempt_dir } => {
            match start::keeper(&shared.config, &shared.warm, &attempt_dir) {
                Ok(pid) => {
                    tracing::info!(pid, attempt_dir, "keeper started");
                    Answer::Started { pid }
                }
                // Logged by the agent, whose attempt it is.
                Err(why) => Answer::Failed { why },
            }
        }
        Ask::Sweep { attempt_dir } => {
            let dir = start::checked(&shared.config.data_dir, Path::new(&attempt_dir));
            match dir.and_then(|dir| shared.groups.sweep(&dir)) {
                Ok(killed) => Answer::Swept { killed },
                Err(why) => Answer::Failed { why },
            }
        }
        Ask::Isolation => {
            let (level, missing) = shared.groups.isolation(&shared.config);
            Answer::Isolation { level, missing }
        }
    };
    let bytes = encode(&answer, MESSAGE_BYTES_MAX).map_err(|e| e.to_string())?;
    stream
        .write_all(&bytes)
        .map_err(|e| format!("cannot answer: {e}"))
}

/// The question; `None`: the other side only looked whether we are here.
fn read(stream: &mut UnixStream) -> Result<Option<Ask>, String> {
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
    let mut buffer = [0; 4096];
    let mut any = false;
    // A question takes few reads; who sends byte by byte loses patience of ours.
    for _ in 0..64 {
        match stream.read(&mut buffer) {
            Ok(0) if any => return Err("it closed within a message".into()),
            Ok(0) => return Ok(None),
            Ok(count) => decoder.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("nothing came: {error}")),
        }
        any = true;
        if let Some(ask) = decoder.next().map_err(|e| e.to_string())? {
            return Ok(Some(ask));
        }
    }
    Err("its message comes in crumbs".into())
}
