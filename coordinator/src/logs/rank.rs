//! The log of one rank on this member's disk: sealed pieces, and behind them an open file of the frames that came last.
//!
//! Appending is idempotent by offset and keeps whole frames only. Knows no other member. Blocks on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::logs::{self, whole};
use tokio::sync::watch;

use super::held::{Open, Source, State, open_name, remove};
use super::meta::{Limits, Meta, beyond, merged_from};
use super::piece::{self, HEAD_BYTES_MAX, PIECE_BYTES, Part};
use super::{LogError, Piece, Stored, failed};

/// What all ranks of an attempt have in common.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) job: JobId,
    pub(super) epoch: Epoch,
    pub(super) limits: Limits,
    pub(super) grown: Arc<watch::Sender<u64>>,
}

/// One rank.
#[derive(Debug)]
pub(super) struct Rank {
    place: Arc<Place>,
    rank: u32,
    state: Mutex<State>,
}

/// Frames that were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunk {
    /// Where they begin; what lies before, from where was asked, is not there.
    pub at: u64,
    /// Whole frames. None: all was read, or the next place to ask for is `at`.
    pub frames: Vec<u8>,
    /// What is not there was there and is damaged.
    pub damaged: bool,
}

impl Rank {
    /// A rank with these pieces and what was left open.
    pub(super) fn new(
        place: &Arc<Place>,
        rank: u32,
        pieces: Vec<Meta>,
        found: Option<u64>,
    ) -> Self {
        let mut state = State {
            found,
            ..State::default()
        };
        for piece in pieces {
            state.insert(piece);
        }
        state.fresh = state.pieces.clone();
        Self {
            place: Arc::clone(place),
            rank,
            state: Mutex::new(state),
        }
    }

    /// The state, with what was left open taken in.
    fn state(&self) -> Result<MutexGuard<'_, State>, LogError> {
        // A failed write leaves the state as it was.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(from) = state.found {
            state.take_in(&self.open_path(from), from)?;
            state.found = None;
        }
        Ok(state)
    }

    fn open_path(&self, from: u64) -> PathBuf {
        self.place.dir.join(open_name(self.rank, from))
    }

    pub(super) fn stored(&self) -> Result<Stored, LogError> {
        Ok(self.state()?.stored())
    }

    /// See [`super::RankLog::append`].
    pub(super) fn append(&self, piece: Piece<'_>) -> Result<Stored, LogError> {
        let damaged = || LogError::Damaged {
            job: self.place.job,
            rank: self.rank,
        };
        if whole(piece.frames).map_err(|_| damaged())? != piece.frames.len() {
            return Err(damaged());
        }
        let mut state = self.state()?;
        if piece.skip && piece.offset > state.next && state.ended.is_none() {
            // The node itself has not got what lies between any more.
            self.seal(&mut state, &[], None)?;
            state.next = piece.offset;
        }
        let known = state.next.saturating_sub(piece.offset);
        if piece.offset > state.next || state.ended.is_some() || known > piece.frames.len() as u64 {
            return Ok(state.stored());
        }
        // Both ends keep whole frames, so the seam lies between two of them; if not, the sender's log is another one.
        let (old, new) = piece.frames.split_at(known as usize);
        if whole(old).map_err(|_| damaged())? != old.len() {
            return Err(damaged());
        }
        if piece.end {
            self.seal(&mut state, new, Some(piece.dropped))?;
        } else {
            self.write(&mut state, new)?;
        }
        let stored = state.stored();
        drop(state);
        if piece.end || !new.is_empty() {
            self.place.grown.send_modify(|version| *version += 1);
        }
        Ok(stored)
    }

    /// Adds to the open file; seals it first if it is full.
    fn write(&self, state: &mut State, new: &[u8]) -> Result<(), LogError> {
        if new.is_empty() {
            return Ok(());
        }
        let full = |open: &Open| open.bytes + new.len() as u64 > PIECE_BYTES as u64;
        if state.open.as_ref().is_some_and(full) {
            self.seal(state, &[], None)?;
        }
        let path = self.open_path(state.open.as_ref().map_or(state.next, |open| open.from));
        let open = match &mut state.open {
            Some(open) => open,
            None => state.open.insert(Open {
                from: state.next,
                bytes: 0,
                file: create(&path)?,
            }),
        };
        if let Err(error) = open.file.write_all(new) {
            // What was written of it must not stay before the next try.
            let _ = open.file.set_len(open.bytes);
            return Err(failed("write", &path)(error));
        }
        open.bytes += new.len() as u64;
        state.next += new.len() as u64;
        Ok(())
    }

    /// Seals what is open and `more`, which follows it; the open file goes when the piece is there.
    fn seal(&self, state: &mut State, more: &[u8], ended: Option<u64>) -> Result<(), LogError> {
        let (mut from, mut frames) = (state.next, Vec::new());
        if let Some(open) = &state.open {
            from = open.from;
            frames = vec![0; open.bytes as usize];
            open.file
                .read_exact_at(&mut frames, 0)
                .map_err(failed("read", &self.open_path(from)))?;
        }
        if frames.len() + more.len() > PIECE_BYTES {
            self.add(state, from, std::mem::take(&mut frames), None)?;
            from = state.next;
        }
        frames.extend_from_slice(more);
        if !frames.is_empty() || ended.is_some() {
            self.add(state, from, frames, ended)?;
        }
        if let Some(open) = state.open.take() {
            remove(&self.open_path(open.from));
        }
        if ended.is_some() {
            state.ended = ended;
        }
        Ok(())
    }

    /// Writes a piece that ends the log so far, together with small ones before it.
    fn add(
        &self,
        state: &mut State,
        from: u64,
        frames: Vec<u8>,
        ended: Option<u64>,
    ) -> Result<(), LogError> {
        let first = merged_from(&state.pieces, from, frames.len() as u64);
        let before = &state.pieces[first..];
        let old: Result<Vec<_>, _> = before.iter().map(|piece| self.frames_of(piece)).collect();
        // A damaged piece is not carried on: it is a gap that somebody may still mend.
        let mut all = old.map_or_else(|_| Vec::new(), |old| old.concat());
        let begin = from - all.len() as u64;
        all.extend(frames);
        let part = Part {
            job: self.place.job,
            epoch: self.place.epoch,
            rank: self.rank,
            from: begin,
            to: begin + all.len() as u64,
            ended,
        };
        let bytes = piece::seal(&part, &all).map_err(|_| LogError::Damaged {
            job: self.place.job,
            rank: self.rank,
        })?;
        let meta = Meta::of(&part, piece::id(&bytes));
        self.store(state, meta, &bytes)?;
        state.fresh.push(meta);
        state.next = state.next.max(meta.to);
        Ok(())
    }

    /// Writes a piece aside and gives it its name; drops what it replaces and what is beyond the limits.
    fn store(&self, state: &mut State, meta: Meta, bytes: &[u8]) -> Result<(), LogError> {
        let path = self.place.dir.join(meta.name());
        let aside = path.with_extension("new");
        let written = make_parent(&path).and_then(|()| {
            fs::write(&aside, bytes).map_err(failed("write", &aside))?;
            fs::rename(&aside, &path).map_err(failed("name", &path))
        });
        if let Err(error) = written {
            remove(&aside);
            return Err(error);
        }
        let mut gone = state.insert(meta);
        gone.extend(beyond(&state.pieces, self.place.limits));
        for old in gone {
            state.forget(&old);
            remove(&self.place.dir.join(old.name()));
        }
        Ok(())
    }

    /// Takes a copy that another member sent. `bytes` are checked.
    ///
    /// # Errors
    /// When they are not the piece that `meta` names, or the disk fails.
    pub(super) fn put(&self, meta: Meta, bytes: &[u8]) -> Result<(), LogError> {
        let damaged = || LogError::Damaged {
            job: self.place.job,
            rank: self.rank,
        };
        let (part, _) = piece::open(bytes).map_err(|_| damaged())?;
        let ours = part.job == self.place.job && part.epoch == self.place.epoch;
        if !ours || meta.rank != self.rank || Meta::of(&part, piece::id(bytes)) != meta {
            return Err(damaged());
        }
        let mut state = self.state()?;
        let sound = |known: &&Meta| !state.damaged.contains(known);
        if state
            .pieces
            .iter()
            .filter(sound)
            .any(|known| known.covers(&meta))
        {
            return Ok(());
        }
        state.damaged.retain(|known| *known != meta);
        self.store(&mut state, meta, bytes)?;
        // While somebody appends here, only what goes on where that is counts.
        if state.open.is_none() || meta.from <= state.next && state.next < meta.to {
            if let Some(open) = state.open.take() {
                remove(&self.open_path(open.from));
            }
            state.next = state.next.max(meta.to);
        }
        if meta.ended.is_some() && state.next == meta.to {
            state.ended = meta.ended;
        }
        drop(state);
        self.place.grown.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Seals what is open, and lists the sound pieces.
    pub(super) fn settle(&self) -> Result<Vec<Meta>, LogError> {
        let mut state = self.state()?;
        if state.open.is_some() {
            self.seal(&mut state, &[], None)?;
        }
        let sound = |piece: &&Meta| !state.damaged.contains(piece);
        Ok(state.pieces.iter().filter(sound).copied().collect())
    }

    /// Seals what is open; the pieces that no other member may have are the caller's to copy from now on.
    pub(super) fn take_fresh(&self) -> Result<Vec<Meta>, LogError> {
        let mut state = self.state()?;
        if state.open.is_some() {
            self.seal(&mut state, &[], None)?;
        }
        Ok(std::mem::take(&mut state.fresh))
    }

    /// It was not copied.
    pub(super) fn give_back(&self, piece: Meta) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pieces.contains(&piece) {
            state.fresh.push(piece);
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.rank
    }

    /// The bytes of a piece, which are those that it is named after.
    pub(super) fn bytes_of(&self, meta: &Meta) -> Result<Vec<u8>, LogError> {
        let path = self.place.dir.join(meta.name());
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        if piece::id(&bytes) == meta.id {
            return Ok(bytes);
        }
        Err(LogError::Damaged {
            job: self.place.job,
            rank: self.rank,
        })
    }

    fn frames_of(&self, meta: &Meta) -> Result<Vec<u8>, LogError> {
        let damaged = |_| LogError::Damaged {
            job: self.place.job,
            rank: self.rank,
        };
        let (_, frames) = piece::open(&self.bytes_of(meta)?).map_err(damaged)?;
        Ok(frames)
    }

    fn condemn(&self, meta: Meta) -> Result<(), LogError> {
        let mut state = self.state()?;
        if !state.damaged.contains(&meta) {
            tracing::error!(job = %self.place.job, piece = meta.name(), "a piece of a log is damaged; what cannot be read of it is asked for elsewhere");
            state.damaged.push(meta);
        }
        Ok(())
    }

    /// See [`super::RankLog::read`].
    pub(super) fn read(&self, from: u64, limit: usize) -> Result<Chunk, LogError> {
        let limit = limit.max(logs::HEADER_BYTES + logs::TEXT_BYTES_MAX);
        loop {
            let state = self.state()?;
            let piece = match state.source(from) {
                Source::Nothing => {
                    return Ok(Chunk {
                        at: from,
                        ..Chunk::default()
                    });
                }
                Source::Gap(at) => {
                    return Ok(Chunk {
                        at,
                        ..Chunk::default()
                    });
                }
                Source::Open(open) => return self.read_open(open, from, limit),
                Source::Piece(piece) => piece,
            };
            drop(state);
            match self.read_piece(&piece, from, limit) {
                Ok(chunk) => {
                    if chunk.damaged {
                        self.condemn(piece)?;
                    }
                    return Ok(chunk);
                }
                // It was replaced or rotated away meanwhile.
                Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    self.state()?.forget(&piece);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn read_open(&self, open: &Open, from: u64, limit: usize) -> Result<Chunk, LogError> {
        let skip = from - open.from;
        let left = usize::try_from(open.bytes - skip).unwrap_or(usize::MAX);
        let mut frames = vec![0; left.min(limit)];
        open.file
            .read_exact_at(&mut frames, skip)
            .map_err(failed("read", &self.open_path(open.from)))?;
        // The file was checked when it was taken in and when it grew.
        frames.truncate(whole(&frames).unwrap_or(0));
        Ok(Chunk {
            at: from,
            frames,
            damaged: false,
        })
    }

    /// What `piece` holds from `from` on, up to the end of a block. What is damaged of it is passed over.
    fn read_piece(&self, piece: &Meta, from: u64, limit: usize) -> Result<Chunk, LogError> {
        let path = self.place.dir.join(piece.name());
        let file = File::open(&path).map_err(failed("open", &path))?;
        let mut bytes = vec![0; HEAD_BYTES_MAX];
        let read = read_at(&file, &mut bytes).map_err(failed("read", &path))?;
        let bad = |at| Chunk {
            at,
            frames: Vec::new(),
            damaged: true,
        };
        let head = piece::head(&bytes[..read]).ok();
        let head = head.filter(|head| Meta::of(&head.part, piece.id) == *piece);
        let block = head.and_then(|head| {
            head.blocks()
                .find(|block| block.from <= from && from < block.to)
        });
        let Some(block) = block else {
            return Ok(bad(piece.to));
        };
        let mut packed = vec![0; block.packed.min(2 * PIECE_BYTES)];
        let read = file.read_exact_at(&mut packed, block.at);
        let Some(frames) = read.ok().and_then(|()| block.frames(&packed).ok()) else {
            return Ok(bad(block.to));
        };
        let mut rest = &frames[(from - block.from) as usize..];
        rest = &rest[..rest.len().min(limit)];
        match whole(rest) {
            Ok(keep) if keep > 0 => Ok(Chunk {
                at: from,
                frames: rest[..keep].to_vec(),
                damaged: false,
            }),
            // `from` is not where a frame begins.
            _ => Ok(bad(block.to)),
        }
    }
}

/// Reads from the beginning until `buffer` is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn create(path: &Path) -> Result<File, LogError> {
    make_parent(path)?;
    let mut options = OpenOptions::new();
    options
        .create(true)
        .read(true)
        .append(true)
        .open(path)
        .and_then(|file| file.set_len(0).map(|()| file))
        .map_err(failed("open", path))
}

fn make_parent(path: &Path) -> Result<(), LogError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed("make", dir))
}
