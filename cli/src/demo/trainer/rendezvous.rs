//! How ranks find each other: everybody dials rank 0, learns all addresses and the state to start from, and then
//! the ring is connected.
//!
//! Rank 0 listens on MASTER_ADDR:MASTER_PORT. Every other rank says who it is and where it listens itself
//! (on the address that reached rank 0, which the others can reach too), and gets the table of addresses with the
//! parameters. Strangers that connect are dropped; ranks that were started differently are an error on
//! both sides. Every wait has a deadline. Does no training and reads no files.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Progress, Recipe};
use super::ring::Ring;

/// The first words of every connection; another protocol needs another number.
const PROTOCOL: &str = "mlctl-demo-trainer/1";
/// Largest message other than the parameters: the table of 1024 addresses fits.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// How long the ranks wait for each other.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For all ranks to have met.
    pub(super) meet: Duration,
    /// For the first words of a connection; a stranger holds up the others for this long.
    pub(super) hello: Duration,
    /// For a neighbour in the ring.
    pub(super) silence: Duration,
}

/// The rank that wants to meet the others.
pub(super) struct Party<'a> {
    pub(super) rank: usize,
    pub(super) world: usize,
    /// `host:port` of rank 0.
    pub(super) master: &'a str,
    pub(super) terms: Terms,
    pub(super) patience: Patience,
}

/// What all ranks must have been started with alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) recipe: Recipe,
    pub(super) steps: u64,
}

#[derive(Serialize, Deserialize)]
struct Hello {
    protocol: String,
    rank: usize,
    world: usize,
    terms: Terms,
    /// Where this rank listens for its predecessor in the ring.
    listening: SocketAddr,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    /// The parameters follow as one more message.
    Welcome {
        addresses: Vec<SocketAddr>,
        step: u64,
    },
    Refused {
        reason: String,
    },
}

impl Party<'_> {
    /// As rank 0: waits for all others and gives them `start`.
    ///
    /// # Errors
    /// The address is not ours, a rank is missing at the deadline, or one was started differently.
    pub(super) fn lead(&self, start: &Progress) -> Result<Ring> {
        let deadline = Instant::now() + self.patience.meet;
        let listener = TcpListener::bind(self.master).with_context(|| {
            format!(
                "rank 0 cannot listen on {} (MASTER_ADDR:MASTER_PORT)",
                self.master
            )
        })?;
        let here = listener.local_addr()?;
        let mut others = self.gather(&listener, deadline)?;
        others.sort_by_key(|(hello, _)| hello.rank);
        let theirs = others.iter().map(|(hello, _)| hello.listening);
        let addresses: Vec<SocketAddr> = std::iter::once(here).chain(theirs).collect();
        let welcome = serde_json::to_vec(&Answer::Welcome {
            addresses: addresses.clone(),
            step: start.step,
        })?;
        let state = start.to_bytes();
        for (hello, stream) in &mut others {
            stream.set_write_timeout(Some(self.patience.silence))?;
            send(stream, &welcome)
                .and_then(|()| send(stream, &state))
                .with_context(|| format!("cannot send the parameters to rank {}", hello.rank))?;
        }
        self.connect_ring(&listener, &addresses, deadline)
    }

    /// As any other rank: finds rank 0 and gets the state to start from; `parameters` is the size of the network.
    ///
    /// # Errors
    /// Rank 0 does not answer by the deadline or refuses.
    pub(super) fn follow(&self, parameters: usize) -> Result<(Progress, Ring)> {
        let deadline = Instant::now() + self.patience.meet;
        let mut master = self.dial(deadline)?;
        let listener = TcpListener::bind((master.local_addr()?.ip(), 0))
            .context("cannot listen for the other ranks")?;
        send(
            &mut master,
            &serde_json::to_vec(&self.hello(listener.local_addr()?))?,
        )
        .with_context(|| format!("cannot speak to rank 0 at {}", self.master))?;
        let heard = |error: io::Error| {
            anyhow!(error).context(format!("rank 0 at {} gave no answer", self.master))
        };
        let answer = receive(&mut master, MESSAGE_LIMIT, deadline).map_err(heard)?;
        let (addresses, step) = match serde_json::from_slice(&answer) {
            Ok(Answer::Welcome { addresses, step }) if addresses.len() == self.world => {
                (addresses, step)
            }
            Ok(Answer::Refused { reason }) => bail!("rank 0 refused this rank: {reason}"),
            _ => bail!(
                "what answers at {} (MASTER_ADDR:MASTER_PORT) is not rank 0 of this job",
                self.master
            ),
        };
        let state =
            receive(&mut master, 2 * parameters * size_of::<f32>(), deadline).map_err(heard)?;
        let start = Progress::from_bytes(step, &state, parameters)
            .context("rank 0 sent parameters of another network")?;
        Ok((start, self.connect_ring(&listener, &addresses, deadline)?))
    }

    fn hello(&self, listening: SocketAddr) -> Hello {
        Hello {
            protocol: PROTOCOL.to_owned(),
            rank: self.rank,
            world: self.world,
            terms: self.terms.clone(),
            listening,
        }
    }

    fn dial(&self, deadline: Instant) -> Result<TcpStream> {
        // Rank 0 may not listen yet, and nobody can tell us when it does: ask again, ever more slowly.
        let mut pause = Duration::from_millis(5);
        loop {
            let error = match connect(self.master, deadline) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if Instant::now() + pause >= deadline {
                return Err(anyhow!(error).context(format!(
                    "rank 0 did not answer at {} (MASTER_ADDR:MASTER_PORT) within {} s",
                    self.master,
                    self.patience.meet.as_secs()
                )));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Waits until every other rank has said who it is.
    fn gather(&self, listener: &TcpListener, deadline: Instant) -> Result<Vec<(Hello, TcpStream)>> {
        let mut met: Vec<(Hello, TcpStream)> = Vec::new();
        while met.len() + 1 < self.world {
            let Some(mut stream) = accept(listener, deadline)? else {
                let missing: Vec<String> = (1..self.world)
                    .filter(|rank| met.iter().all(|(hello, _)| hello.rank != *rank))
                    .map(|rank| rank.to_string())
                    .collect();
                bail!(
                    "rank {} did not report to rank 0 at {} within {} s",
                    missing.join(", "),
                    self.master,
                    self.patience.meet.as_secs()
                );
            };
            let Some(hello) = self.listen(&mut stream) else {
                continue;
            };
            if let Some(reason) = self.objection(&hello, &met) {
                let refusal = Answer::Refused {
                    reason: reason.clone(),
                };
                stream.set_write_timeout(Some(self.patience.hello))?;
                // It may be gone already; that it does not belong here is told below in any case.
                let _ = send(&mut stream, &serde_json::to_vec(&refusal)?);
                bail!("rank {} does not fit into this job: {reason}", hello.rank);
            }
            met.push((hello, stream));
        }
        Ok(met)
    }

    /// What a connection says first: `None` if it is not one of our ranks.
    fn listen(&self, stream: &mut TcpStream) -> Option<Hello> {
        let words = receive(stream, MESSAGE_LIMIT, Instant::now() + self.patience.hello).ok()?;
        let hello: Hello = serde_json::from_slice(&words).ok()?;
        (hello.protocol == PROTOCOL).then_some(hello)
    }

    fn objection(&self, hello: &Hello, met: &[(Hello, TcpStream)]) -> Option<String> {
        if hello.world != self.world {
            return Some(format!(
                "its WORLD_SIZE is {}, rank 0 has {}",
                hello.world, self.world
            ));
        }
        if let Some(difference) = self.terms.recipe.difference(&hello.terms.recipe) {
            return Some(format!("it was started with {difference}"));
        }
        if hello.terms.steps != self.terms.steps {
            return Some(format!(
                "it was started with --steps {} instead of {}",
                hello.terms.steps, self.terms.steps
            ));
        }
        let taken = hello.rank == 0
            || hello.rank >= self.world
            || met.iter().any(|(other, _)| other.rank == hello.rank);
        taken.then(|| format!("RANK {} is out of range or taken", hello.rank))
    }

    /// Dials the successor, then waits for the predecessor. The successor listens already (it did before it
    /// spoke to rank 0), so this cannot wait in a circle.
    fn connect_ring(
        &self,
        listener: &TcpListener,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<Ring> {
        let after = (self.rank + 1) % self.world;
        let before = (self.rank + self.world - 1) % self.world;
        let to = TcpStream::connect_timeout(&addresses[after], left(deadline))
            .and_then(|mut stream| {
                let words = serde_json::to_vec(&self.hello(listener.local_addr()?))?;
                send(&mut stream, &words)?;
                Ok(stream)
            })
            .with_context(|| format!("cannot reach rank {after} at {}", addresses[after]))?;
        loop {
            let Some(mut from) = accept(listener, deadline)? else {
                bail!(
                    "rank {before} did not connect within {} s",
                    self.patience.meet.as_secs()
                );
            };
            let Some(hello) = self.listen(&mut from) else {
                continue;
            };
            ensure!(
                hello.rank == before && hello.world == self.world,
                "rank {} connected where rank {before} was expected",
                hello.rank
            );
            return Ring::new(self.rank, self.world, from, to, self.patience.silence)
                .context("cannot set up the ring");
        }
    }
}

/// The next connection: `None` at the deadline.
fn accept(listener: &TcpListener, deadline: Instant) -> Result<Option<TcpStream>> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // Some systems hand the listener's mode on to the connection.
                stream.set_nonblocking(false)?;
                return Ok(Some(stream));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The peer gave up between its call and our answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot accept the other ranks"),
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        let timeout = PollTimeout::try_from(left(deadline)).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the other ranks"),
        }
    }
}

fn connect(master: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in master.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"))?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(message)
}

fn receive(stream: &mut TcpStream, limit: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    read_by(stream, &mut length, deadline)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        let what = format!("a message of {length} bytes where at most {limit} are expected");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut message = vec![0; length];
    read_by(stream, &mut message, deadline)?;
    Ok(message)
}

/// Fills `buffer`, or fails at the deadline however slowly the bytes trickle in.
fn read_by(stream: &mut TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left(deadline)))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is left until the deadline; never zero, which sockets would take for "no timeout".
fn left(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}
