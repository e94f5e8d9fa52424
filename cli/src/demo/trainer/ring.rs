//! Ring all-reduce over TCP: every rank ends with the same sum of all ranks' vectors.
//!
//! The vector is cut into as many chunks as there are ranks. Chunk `c` starts at rank `c`, travels once
//! around the ring and collects each rank's part (reduce-scatter), then the finished chunks travel around once
//! more (all-gather). The order of additions depends on the world size alone, so the sum has the same
//! bits in every run and on every rank. Does not connect anything: see `rendezvous`.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::data::share;

/// One rank's two connections of the ring.
pub(super) struct Ring {
    rank: usize,
    world: usize,
    from: TcpStream,
    to: Outbox,
    inbox: Vec<u8>,
}

impl Ring {
    /// A ring of `world >= 2` ranks as rank `rank` sees it: it reads from its predecessor and writes to its
    /// successor, and takes a neighbour for dead that is silent for `silence`.
    pub(super) fn new(
        rank: usize,
        world: usize,
        from: TcpStream,
        to: TcpStream,
        silence: Duration,
    ) -> io::Result<Ring> {
        for stream in [&from, &to] {
            // Chunks are small and each one is waited for: never hold one back.
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(silence))?;
            stream.set_write_timeout(Some(silence))?;
        }
        Ok(Ring {
            rank,
            world,
            from,
            to: Outbox::start(to)?,
            inbox: Vec::new(),
        })
    }

    /// Replaces `data` by the sum over all ranks. Every rank must call this with a vector of the same length.
    ///
    /// # Errors
    /// A neighbour is gone or silent. The ring is of no use after that.
    pub(super) fn all_reduce(&mut self, data: &mut [f32]) -> Result<()> {
        let world = self.world;
        for hop in 0..world - 1 {
            let outgoing = share(data.len(), (self.rank + world - hop) % world, world);
            let incoming = share(data.len(), (self.rank + 2 * world - hop - 1) % world, world);
            self.exchange(&data[outgoing], incoming.len())?;
            for (own, theirs) in data[incoming].iter_mut().zip(floats(&self.inbox)) {
                *own += theirs;
            }
        }
        for hop in 0..world - 1 {
            let outgoing = share(data.len(), (self.rank + world + 1 - hop) % world, world);
            let incoming = share(data.len(), (self.rank + world - hop) % world, world);
            self.exchange(&data[outgoing], incoming.len())?;
            for (own, finished) in data[incoming].iter_mut().zip(floats(&self.inbox)) {
                *own = finished;
            }
        }
        Ok(())
    }

    /// Sends `outgoing` to the successor while `incoming` numbers arrive from the predecessor.
    fn exchange(&mut self, outgoing: &[f32], incoming: usize) -> Result<()> {
        self.to.post(outgoing);
        self.inbox.resize(incoming * size_of::<f32>(), 0);
        let before = (self.rank + self.world - 1) % self.world;
        let after = (self.rank + 1) % self.world;
        self.from
            .read_exact(&mut self.inbox)
            .map_err(|error| lost(before, error))?;
        self.to.sent().map_err(|error| lost(after, error))
    }
}

/// Writes on a thread of its own, so that a rank can read while its own chunk is on the way: if all
/// ranks wrote first and chunks were larger than the socket buffers, the ring would stand still.
/// At most one buffer is in flight. The thread ends when this is dropped or the connection breaks.
struct Outbox {
    queue: SyncSender<Vec<u8>>,
    returned: Receiver<io::Result<Vec<u8>>>,
    spare: Vec<u8>,
}

impl Outbox {
    fn start(mut stream: TcpStream) -> io::Result<Outbox> {
        let (queue, work) = sync_channel::<Vec<u8>>(1);
        let (give_back, returned) = sync_channel(1);
        thread::Builder::new()
            .name("ring-send".to_owned())
            .spawn(move || {
                while let Ok(buffer) = work.recv() {
                    let result = stream.write_all(&buffer).map(|()| buffer);
                    let broken = result.is_err();
                    if give_back.send(result).is_err() || broken {
                        return;
                    }
                }
            })?;
        Ok(Outbox {
            queue,
            returned,
            spare: Vec::new(),
        })
    }

    fn post(&mut self, numbers: &[f32]) {
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        buffer.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        // A thread that is gone left its error behind, which `sent` reports.
        let _ = self.queue.send(buffer);
    }

    /// Waits until the posted buffer is with the kernel (bounded by the write timeout of the socket).
    fn sent(&mut self) -> io::Result<()> {
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the sending thread has ended");
        self.spare = self.returned.recv().map_err(|_| ended())??;
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
}

fn lost(rank: usize, error: io::Error) -> anyhow::Error {
    let what = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "stopped answering".to_owned(),
        io::ErrorKind::UnexpectedEof => "is gone (it closed the connection)".to_owned(),
        _ => format!("is gone ({error})"),
    };
    anyhow!("rank {rank} {what}; the other ranks cannot go on without it")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The connections of a ring: `(from the predecessor, to the successor)` of every rank.
    fn connections(world: usize) -> Vec<(TcpStream, TcpStream)> {
        let links: Vec<(TcpStream, TcpStream)> = (0..world)
            .map(|_| {
                let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
                let to = TcpStream::connect(listener.local_addr().expect("it is bound"))
                    .expect("it listens");
                let (from, _) = listener.accept().expect("it was dialled");
                (to, from)
            })
            .collect();
        // Link `r` leads from rank r to rank r + 1.
        let (to, mut from): (Vec<_>, Vec<_>) = links.into_iter().unzip();
        from.rotate_right(1);
        from.into_iter().zip(to).collect()
    }

    fn reduce(inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let world = inputs.len();
        let ranks: Vec<_> = connections(world)
            .into_iter()
            .enumerate()
            .map(|(rank, (from, to))| {
                let mut data = inputs[rank].clone();
                thread::spawn(move || {
                    let mut ring = Ring::new(rank, world, from, to, Duration::from_secs(20))
                        .expect("the sockets are good");
                    ring.all_reduce(&mut data).expect("all ranks take part");
                    data
                })
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().expect("no rank panics"))
            .collect()
    }

    /// The same additions in the same order, without a ring: chunk `c` begins at rank `c`.
    fn serial(inputs: &[Vec<f32>]) -> Vec<f32> {
        let world = inputs.len();
        let mut sum = Vec::new();
        for chunk in 0..world {
            for at in share(inputs[0].len(), chunk, world) {
                let in_order = (0..world).map(|hop| inputs[(chunk + hop) % world][at]);
                sum.extend(in_order.reduce(|sum, part| part + sum));
            }
        }
        sum
    }

    #[test]
    fn every_rank_gets_the_serial_sum_bit_for_bit() {
        let bits = |numbers: &[f32]| {
            numbers
                .iter()
                .map(|number| number.to_bits())
                .collect::<Vec<_>>()
        };
        // The last is far more than the buffers of a socket hold.
        for (world, len) in [
            (1, 10),
            (2, 1),
            (2, 1001),
            (3, 2),
            (3, 1000),
            (4, 4099),
            (2, 6_000_001),
        ] {
            let inputs: Vec<Vec<f32>> = (0..world)
                .map(|rank| {
                    let mut random = super::super::data::SplitMix64::new(rank as u64, len as u64);
                    // Very different sizes: another order of additions would show.
                    (0..len)
                        .map(|at| random.signed_unit() * 10_f32.powi(at % 9 - 4))
                        .collect()
                })
                .collect();
            let expected = bits(&serial(&inputs));
            for run in 0..2 {
                for (rank, sum) in reduce(&inputs).iter().enumerate() {
                    assert!(
                        bits(sum) == expected,
                        "world {world}, {len} numbers, run {run}, rank {rank}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_rank_that_goes_away_is_named() {
        let mut ranks = connections(3).into_iter();
        let (from, to) = ranks.next().expect("three ranks");
        let mut ring =
            Ring::new(0, 3, from, to, Duration::from_secs(20)).expect("the sockets are good");
        drop(ranks);
        let error = ring
            .all_reduce(&mut [1.0; 9])
            .expect_err("nobody else is there");
        assert!(error.to_string().contains("rank 2 is gone"), "{error:#}");
    }
}
