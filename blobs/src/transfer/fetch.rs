//! The end of a lane that lacks chunks: asks for a few at a time, and writes each on a thread of its own, verified. A holder that sends
//! something else is not asked again. Memory: three chunks a lane. Does NOT dial, and does not decide when a checkpoint is whole.
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;

use super::error::LinkError;
use super::link::{Link, say, unexpected};
use super::protocol::{BadFrame, Frame};
use super::totals::Counters;
use super::work::{Next, Work};
use crate::checkpoint::{CheckpointError, Receive};

/// Chunks that a lane has asked for: enough that the other end never waits for a question.
const ASKED: usize = 3;
/// How often a lane with nothing to do looks whether something is late elsewhere.
const LOOK: Duration = Duration::from_millis(250);

/// What came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Came {
    /// Bytes of chunks that arrived, wrong and needless ones included.
    pub bytes: u64,
    /// Chunks that arrived and were written.
    pub chunks: u32,
    /// Chunks that arrived a second time.
    pub twice: u32,
    /// Chunks that were something else than what was asked for.
    pub wrong: u32,
}

/// A checkpoint that several lanes fetch together.
pub(super) struct Fetching {
    receive: Receive,
    counters: Arc<Counters>,
    state: Mutex<State>,
    /// Chunks went back, for those who have nothing to do.
    more: Notify,
    /// All is written, or it has failed.
    over: watch::Sender<bool>,
    begun: Instant,
}

struct State {
    work: Work,
    came: Came,
    failed: Option<CheckpointError>,
    /// Bytes that each holder brought and that were written.
    from: BTreeMap<usize, u64>,
}

impl Fetching {
    pub(super) fn new(receive: Receive, counters: Arc<Counters>) -> Self {
        let work = Work::new(&receive.want());
        let over = work.left() == 0;
        Self {
            receive,
            counters,
            state: Mutex::new(State {
                work,
                came: Came::default(),
                failed: None,
                from: BTreeMap::new(),
            }),
            more: Notify::new(),
            over: watch::channel(over).0,
            begun: Instant::now(),
        }
    }

    pub(super) fn left(&self) -> u32 {
        self.state().work.left()
    }

    pub(super) fn came(&self) -> Came {
        self.state().came
    }

    /// Bytes that each holder brought and that were written.
    pub(super) fn from(&self) -> BTreeMap<usize, u64> {
        self.state().from.clone()
    }

    /// Returns when nothing is left to come, or nothing more can be taken.
    pub(super) async fn over(&self) {
        // It ends only with this.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Gives up: the lanes end.
    pub(super) fn stop(&self) {
        self.over.send_replace(true);
    }

    /// Holds the checkpoint, when all lanes have ended. Blocks.
    pub(super) fn finish(self) -> Result<(), CheckpointError> {
        let state = self.state.into_inner();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        match state.failed {
            Some(error) => Err(error),
            None => self.receive.finish().map(drop),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn next(&self, lane: usize) -> Next {
        self.state().work.next(lane, self.now_ms())
    }

    fn ban(&self, holder: usize) {
        self.state().work.ban(holder);
    }

    /// Bytes that chunk `index` must have.
    fn length(&self, index: u32) -> Option<usize> {
        let manifest = self.receive.manifest();
        let (content, inside) = manifest.chunk(index)?;
        Some(manifest.contents()[content].span(inside).1)
    }

    /// Verifies and writes a chunk. False when its lane must end.
    fn write(&self, holder: usize, lane: usize, index: u32, bytes: &[u8]) -> bool {
        let written = self.receive.write(index, bytes);
        self.counters.received(bytes.len());
        let mut state = self.state();
        state.came.bytes += bytes.len() as u64;
        match written {
            Ok(()) => {
                if state.work.written(lane, index) {
                    state.came.chunks += 1;
                    *state.from.entry(holder).or_default() += bytes.len() as u64;
                } else {
                    state.came.twice += 1;
                    self.counters.twice();
                }
                if state.work.left() == 0 {
                    self.over.send_replace(true);
                }
                true
            }
            Err(CheckpointError::WrongChunk { .. }) => {
                state.came.wrong += 1;
                self.counters.wrong();
                state.work.ban(holder);
                false
            }
            Err(error) => {
                state.failed.get_or_insert(error);
                self.over.send_replace(true);
                false
            }
        }
    }
}

/// Fetches over one lane until nothing is left, or the lane fails. Then what it had not brought goes to others.
pub(super) async fn fetch(
    fetching: Arc<Fetching>,
    holder: usize,
    mut link: Link,
) -> Result<(), LinkError> {
    let lane = fetching.state().work.join(holder);
    let (chunk, chunks) = mpsc::channel(1);
    let (spare, spares) = mpsc::channel(ASKED);
    let writer = {
        let fetching = fetching.clone();
        spawn_blocking(move || write(&fetching, holder, lane, chunks, &spare))
    };
    let ended = tokio::select! {
        ended = run(&fetching, holder, lane, &mut link, chunk, spares) => ended,
        () = fetching.over() => Ok(()),
    };
    // Nothing may be written any more when the caller goes on.
    let written = writer.await;
    fetching.state().work.leave(lane);
    fetching.more.notify_waiters();
    match written.map_err(std::io::Error::other)? {
        true => {
            if ended.is_ok() {
                // Nobody waits for one that does not listen.
                tokio::spawn(link.end(&Frame::Done));
            }
            ended
        }
        false => Err(BadFrame("a chunk is something else than what was asked for").into()),
    }
}

type Chunk = (u32, Vec<u8>);

/// On a thread that may block. False if the lane sent something wrong.
fn write(
    fetching: &Fetching,
    holder: usize,
    lane: usize,
    mut chunks: mpsc::Receiver<Chunk>,
    spare: &mpsc::Sender<Vec<u8>>,
) -> bool {
    while let Some((index, bytes)) = chunks.blocking_recv() {
        if !fetching.write(holder, lane, index, &bytes) {
            let failed = fetching.state().failed.is_some();
            return failed;
        }
        // Kept for the next one; too many spares are freed.
        let _ = spare.try_send(bytes);
    }
    true
}

async fn run(
    fetching: &Fetching,
    holder: usize,
    lane: usize,
    link: &mut Link,
    chunk: mpsc::Sender<Chunk>,
    mut spares: mpsc::Receiver<Vec<u8>>,
) -> Result<(), LinkError> {
    let mut asked = VecDeque::new();
    loop {
        let mut next = Next::Wait;
        while asked.len() < ASKED {
            next = fetching.next(lane);
            let Next::Fetch(index) = next else {
                break;
            };
            say(link.to.as_mut(), &Frame::Fetch { index }).await?;
            asked.push_back(index);
        }
        let Some(index) = asked.pop_front() else {
            if next == Next::Done {
                return Ok(());
            }
            wait(fetching).await;
            continue;
        };
        let length = match link.from.frame().await? {
            Frame::Chunk { index: i, bytes } if i == index => bytes as usize,
            Frame::Lack { index: i } if i == index => {
                fetching.ban(holder);
                return Err(BadFrame("it lacks a chunk that it said it has").into());
            }
            _ => return unexpected(),
        };
        if fetching.length(index) != Some(length) {
            fetching.ban(holder);
            return Err(BadFrame("a chunk has not the length that it must have").into());
        }
        // One chunk is written while the next comes; what follows waits in the connection.
        let Ok(place) = chunk.reserve().await else {
            // The writer has ended and says why.
            return Ok(());
        };
        let mut bytes = spares.try_recv().unwrap_or_default();
        bytes.resize(length, 0);
        link.from.fill(&mut bytes).await?;
        place.send((index, bytes));
    }
}

async fn wait(fetching: &Fetching) {
    tokio::select! {
        () = fetching.more.notified() => {}
        () = tokio::time::sleep(LOOK) => {}
    }
}
