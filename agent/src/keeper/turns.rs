//! The keeper's loop: one thread that waits for signals, pipes, agents and deadlines, and hands each to `control`.
//! Does NOT decide anything.

use std::io;
use std::os::unix::net::UnixListener;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

use super::clock;
use super::connection::{Connection, accept};
use super::control::Keeper;
use super::protocol::ToKeeper;

/// Connections that have not said hello; the oldest goes when another comes.
const STRANGERS_MAX: usize = 8;

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Witness,
    Agent,
    Stranger(usize),
    Output(usize, usize),
    ShimListener,
    Shim(u64),
}

/// Signals that the keeper takes one by one instead of being interrupted.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// Runs until nothing is left to keep.
///
/// # Errors
/// When waiting itself fails; the ranks then die with the keeper.
pub(super) fn run(
    keeper: &mut Keeper,
    listener: &UnixListener,
    signals: &SignalFd,
) -> io::Result<()> {
    let mut strangers: Vec<Connection> = Vec::new();
    while !keeper.is_done() {
        for source in wait(keeper, listener, signals, &strangers)? {
            match source {
                Source::Signals => on_signals(keeper, signals)?,
                Source::Listener => {
                    if let Some(stranger) = accept(listener) {
                        if strangers.len() == STRANGERS_MAX {
                            strangers.remove(0);
                        }
                        strangers.push(stranger);
                    }
                }
                Source::Witness => {
                    if let Some(probe) = &keeper.probe {
                        probe.serve();
                    }
                }
                Source::Agent => on_agent(keeper),
                Source::Stranger(at) => {
                    if let Some(stranger) = strangers.get_mut(at) {
                        let messages = stranger.receive();
                        if let Some(ToKeeper::Hello { protocol }) = messages.first() {
                            // Later ones move down by one: who is ready is seen again in the next turn.
                            let taken = keeper.greet(strangers.remove(at), *protocol);
                            // What a refused one sent behind its hello does not count either.
                            let behind = messages.into_iter().skip(1).filter(|_| taken);
                            behind.for_each(|message| keeper.on_message(message));
                            break;
                        }
                        stranger.broken |= !messages.is_empty();
                    }
                }
                Source::Output(rank, stream) => keeper.on_output(rank, stream),
                Source::ShimListener => keeper.accept_shim(),
                Source::Shim(number) => keeper.on_shim(number),
            }
        }
        strangers.retain(|stranger| !stranger.broken);
        keeper.on_time();
        keeper.tell_logs();
        if keeper.agent.as_ref().is_some_and(|agent| agent.broken) {
            keeper.agent = None;
        }
        keeper.sync();
    }
    Ok(())
}

/// Waits for something to happen or a deadline to pass.
fn wait(
    keeper: &Keeper,
    listener: &UnixListener,
    signals: &SignalFd,
    strangers: &[Connection],
) -> io::Result<Vec<Source>> {
    let mut sources = vec![Source::Signals, Source::Listener];
    let mut fds = vec![
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
    ];
    if let Some(probe) = &keeper.probe {
        sources.push(Source::Witness);
        fds.push(PollFd::new(probe.as_fd(), PollFlags::POLLIN));
    }
    if let Some(agent) = &keeper.agent {
        let flags = if agent.is_full() {
            PollFlags::POLLIN | PollFlags::POLLOUT
        } else {
            PollFlags::POLLIN
        };
        sources.push(Source::Agent);
        fds.push(PollFd::new(agent.fd(), flags));
    }
    for (at, stranger) in strangers.iter().enumerate() {
        sources.push(Source::Stranger(at));
        fds.push(PollFd::new(stranger.fd(), PollFlags::POLLIN));
    }
    for (at, rank) in keeper.ranks.iter().enumerate() {
        for (which, stream) in rank.streams.iter().enumerate() {
            if let Some(stream) = stream {
                sources.push(Source::Output(at, which));
                fds.push(PollFd::new(stream.fd(), PollFlags::POLLIN));
            }
        }
    }
    if let Some(mpi) = &keeper.mpi {
        let (listener, shims) = mpi.shims.fds();
        sources.push(Source::ShimListener);
        fds.push(PollFd::new(listener, PollFlags::POLLIN));
        for (number, fd) in shims {
            sources.push(Source::Shim(number));
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
    }
    let timeout = match keeper.deadline() {
        None => PollTimeout::NONE,
        Some(at) => {
            PollTimeout::try_from(at.saturating_sub(clock::now_ms())).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let ready = fds
        .iter()
        .map(|fd| fd.revents().is_none_or(|events| !events.is_empty()));
    Ok(sources
        .into_iter()
        .zip(ready)
        .filter_map(|(source, ready)| ready.then_some(source))
        .collect())
}

fn on_signals(keeper: &mut Keeper, signals: &SignalFd) -> io::Result<()> {
    while let Some(signal) = signals.read_signal()? {
        match Signal::try_from(signal.ssi_signo.cast_signed()) {
            Ok(Signal::SIGCHLD) => keeper.on_children(),
            Ok(Signal::SIGTERM | Signal::SIGINT) => keeper.on_terminate(),
            // A terminal that went away is no reason to end a training.
            _ => {}
        }
    }
    Ok(())
}

fn on_agent(keeper: &mut Keeper) {
    let Some(agent) = &mut keeper.agent else {
        return;
    };
    agent.flush();
    for message in agent.receive() {
        keeper.on_message(message);
    }
}
