//! What of one rank's log is here: its pieces, the file that is open, and how far it goes. Looks at the disk only for what an earlier
//! process left open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use mlctl_proto::logs;

use super::meta::Meta;
use super::piece::PIECE_BYTES;
use super::{LogError, Stored, failed};

#[derive(Debug, Default)]
pub(super) struct State {
    /// In order of their beginnings.
    pub(super) pieces: Vec<Meta>,
    pub(super) open: Option<Open>,
    /// What an earlier process left open begins here; looked at when the rank is first used.
    pub(super) found: Option<u64>,
    /// What is appended next begins here.
    pub(super) next: u64,
    pub(super) ended: Option<u64>,
    /// Pieces that were sealed here and that no other member may have.
    pub(super) fresh: Vec<Meta>,
    /// Pieces whose bytes are not their own any more; a good copy may take their place.
    pub(super) damaged: Vec<Meta>,
}

/// Frames that are not sealed yet.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) from: u64,
    pub(super) bytes: u64,
    pub(super) file: File,
}

/// Where a byte is.
pub(super) enum Source<'a> {
    Nothing,
    /// Not here; the next one that is.
    Gap(u64),
    Open(&'a Open),
    Piece(Meta),
}

impl State {
    pub(super) fn stored(&self) -> Stored {
        Stored {
            offset: self.next,
            end: self.ended.is_some(),
            dropped: self.ended.unwrap_or(0),
        }
    }

    /// Takes in the piece; those that it covers are returned.
    pub(super) fn insert(&mut self, piece: Meta) -> Vec<Meta> {
        let covered = |old: &&Meta| **old != piece && piece.covers(old);
        let gone: Vec<Meta> = self.pieces.iter().filter(covered).copied().collect();
        self.pieces.retain(|old| !piece.covers(old));
        let at = self.pieces.partition_point(|old| old < &piece);
        self.pieces.insert(at, piece);
        if self.open.is_none() {
            self.next = self.next.max(piece.to);
        }
        if piece.ended.is_some() && piece.to == self.next {
            self.ended = piece.ended;
        }
        gone
    }

    pub(super) fn forget(&mut self, piece: &Meta) {
        self.pieces.retain(|known| known != piece);
        self.fresh.retain(|known| known != piece);
        self.damaged.retain(|known| known != piece);
    }

    pub(super) fn source(&self, from: u64) -> Source<'_> {
        if let Some(open) = self.open.as_ref().filter(|open| open.from <= from) {
            return if from < open.from + open.bytes {
                Source::Open(open)
            } else {
                Source::Nothing
            };
        }
        let holds = |piece: &&Meta| piece.from <= from && from < piece.to;
        if let Some(piece) = self
            .pieces
            .iter()
            .filter(holds)
            .max_by_key(|piece| piece.to)
        {
            return Source::Piece(*piece);
        }
        let begins = self.pieces.iter().map(|piece| piece.from);
        let later = begins.chain(self.open.as_ref().map(|open| open.from));
        let end = (self.next > from).then_some(self.next);
        match later.filter(|begin| *begin > from).min().or(end) {
            Some(at) => Source::Gap(at),
            None => Source::Nothing,
        }
    }

    /// What an earlier process left open: whole frames are kept, a torn end is cut.
    pub(super) fn take_in(&mut self, path: &Path, from: u64) -> Result<(), LogError> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .append(true)
            .open(path)
            .map_err(failed("open", path))?;
        let mut bytes = Vec::new();
        let most = 2 * PIECE_BYTES as u64;
        (&mut file)
            .take(most)
            .read_to_end(&mut bytes)
            .map_err(failed("read", path))?;
        let keep = keep(&bytes) as u64;
        // It was sealed, and only its removal is missing.
        if from + keep <= self.next && !self.pieces.is_empty() || keep == 0 {
            remove(path);
            return Ok(());
        }
        file.set_len(keep).map_err(failed("cut", path))?;
        self.next = from + keep;
        self.open = Some(Open {
            from,
            bytes: keep,
            file,
        });
        Ok(())
    }
}

/// How many bytes are whole frames up to the first that is none.
fn keep(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(Some((_, used))) = logs::decode(&bytes[at..]) {
        at += used;
    }
    at
}

/// The name of a rank's open file.
pub(super) fn open_name(rank: u32, from: u64) -> String {
    format!("{rank}_{from}.open")
}

/// The rank and the beginning of an open file called `name`.
pub(super) fn parse_open(name: &str) -> Option<(u32, u64)> {
    let (rank, from) = name.strip_suffix(".open")?.split_once('_')?;
    let found = (rank.parse().ok()?, from.parse().ok()?);
    (open_name(found.0, found.1) == name).then_some(found)
}

/// Removes what is not needed; what stays is found at the next start.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file of a log that is not needed any more stays");
    }
}
