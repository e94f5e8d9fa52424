//! A sealed piece of a rank's log: whole frames, compressed in blocks that are checked and read one by one. Pure bytes, no files.
//!
//! `MLCTLOG1`, job, epoch, rank, range, end, the blocks' lengths and checks, a check of all that; then the blocks. All numbers are LE.
//! What does not hold is [`BadPiece`]: never a wrong line.

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::logs::{decode, whole};

/// Bytes of frames in one piece: what is compressed badly still fits into one message.
pub const PIECE_BYTES: usize = 2 << 20;
/// Bytes of frames in one block, the last frame aside.
const BLOCK_BYTES: usize = 128 << 10;
/// A block with its last frame.
const BLOCK_BYTES_MAX: usize = 2 * BLOCK_BYTES;
const MAGIC: &[u8; 8] = b"MLCTLOG1";
/// Magic, two ids, rank, range, end, dropped bytes, blocks.
const FIXED_BYTES: usize = 8 + 2 * 12 + 4 + 2 * 8 + 1 + 8 + 4;
const CHECK_BYTES: usize = 16;
/// Two lengths and a check.
const ENTRY_BYTES: usize = 4 + 4 + CHECK_BYTES;
const BLOCKS_MAX: usize = PIECE_BYTES / BLOCK_BYTES + 2;
/// So many bytes hold the head of every piece.
pub const HEAD_BYTES_MAX: usize = FIXED_BYTES + BLOCKS_MAX * ENTRY_BYTES + CHECK_BYTES;
/// The cheapest level: logs shrink well, and the leader has other work.
const LEVEL: i32 = 1;

/// A piece that is none, or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged piece of a log: {0}")]
pub struct BadPiece(&'static str);

/// Which part of which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub epoch: Epoch,
    /// The rank.
    pub rank: u32,
    /// Of the first byte within the framed log.
    pub from: u64,
    /// Behind the last one.
    pub to: u64,
    /// Nothing follows; so many bytes the node could not keep.
    pub ended: Option<u64>,
}

/// The head of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What the piece says it is.
    pub part: Part,
    blocks: Vec<Entry>,
    /// Where the blocks begin.
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    raw: u32,
    packed: u32,
    check: [u8; CHECK_BYTES],
}

/// One block of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Of its first byte within the framed log.
    pub from: u64,
    /// Behind its last one.
    pub to: u64,
    /// Where it lies in the piece.
    pub at: u64,
    /// Its bytes there.
    pub packed: usize,
    check: [u8; CHECK_BYTES],
}

/// The name of these bytes.
pub fn id(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    check(bytes)
}

/// Seals whole frames. `part.to` must be as far behind `part.from` as `frames` is long.
///
/// # Errors
/// When they are no whole frames, or too many.
pub fn seal(part: &Part, frames: &[u8]) -> Result<Vec<u8>, BadPiece> {
    if part.to.checked_sub(part.from) != Some(frames.len() as u64) || frames.len() > PIECE_BYTES {
        return Err(BadPiece("its range is not that of its frames"));
    }
    let mut entries = Vec::new();
    let mut packed = Vec::new();
    for block in blocks(frames)? {
        let bytes =
            zstd::bulk::compress(block, LEVEL).map_err(|_| BadPiece("it cannot be compressed"))?;
        entries.push(Entry {
            raw: block.len() as u32,
            packed: bytes.len() as u32,
            check: check(&bytes),
        });
        packed.extend_from_slice(&bytes);
    }
    let mut out = Vec::with_capacity(HEAD_BYTES_MAX + packed.len());
    out.extend_from_slice(MAGIC);
    for (incarnation, counter) in [
        (part.job.incarnation, part.job.counter),
        (part.epoch.incarnation, part.epoch.counter),
    ] {
        out.extend_from_slice(&incarnation.to_le_bytes());
        out.extend_from_slice(&counter.to_le_bytes());
    }
    out.extend_from_slice(&part.rank.to_le_bytes());
    out.extend_from_slice(&part.from.to_le_bytes());
    out.extend_from_slice(&part.to.to_le_bytes());
    out.push(u8::from(part.ended.is_some()));
    out.extend_from_slice(&part.ended.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in &entries {
        out.extend_from_slice(&entry.raw.to_le_bytes());
        out.extend_from_slice(&entry.packed.to_le_bytes());
        out.extend_from_slice(&entry.check);
    }
    let of_head = check(&out);
    out.extend_from_slice(&of_head);
    out.extend_from_slice(&packed);
    Ok(out)
}

/// `frames` in blocks of whole frames.
fn blocks(frames: &[u8]) -> Result<Vec<&[u8]>, BadPiece> {
    let mut blocks = Vec::new();
    let (mut begun, mut at) = (0, 0);
    while at < frames.len() {
        let Ok(Some((_, used))) = decode(&frames[at..]) else {
            return Err(BadPiece("it is not made of whole frames"));
        };
        at += used;
        if at - begun >= BLOCK_BYTES || at == frames.len() {
            blocks.push(&frames[begun..at]);
            begun = at;
        }
    }
    Ok(blocks)
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut out = [0; CHECK_BYTES];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK_BYTES]);
    out
}

/// Reads the head of a piece from its first [`HEAD_BYTES_MAX`] bytes, or all if there are fewer.
///
/// # Errors
/// When it is damaged.
pub fn head(bytes: &[u8]) -> Result<Head, BadPiece> {
    let mut rest = Rest(bytes);
    if rest.take::<8>()? != *MAGIC {
        return Err(BadPiece("it does not begin as a piece does"));
    }
    let job = JobId::new(rest.u32()?, rest.u64()?);
    let epoch = Epoch::new(rest.u32()?, rest.u64()?);
    let (rank, from, to) = (rest.u32()?, rest.u64()?, rest.u64()?);
    let [ended] = rest.take::<1>()?;
    let (dropped, count) = (rest.u64()?, rest.u32()? as usize);
    if count > BLOCKS_MAX {
        return Err(BadPiece("it has too many blocks"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(Entry {
            raw: rest.u32()?,
            packed: rest.u32()?,
            check: rest.take()?,
        });
    }
    let length = bytes.len() - rest.0.len();
    if rest.take()? != check(&bytes[..length]) {
        return Err(BadPiece("its head is not what was written"));
    }
    let total: u64 = entries.iter().map(|entry| u64::from(entry.raw)).sum();
    let sound = entries
        .iter()
        .all(|entry| entry.raw as usize <= BLOCK_BYTES_MAX && entry.raw > 0);
    if !sound || from.checked_add(total) != Some(to) || ended > 1 {
        return Err(BadPiece("its head makes no sense"));
    }
    let part = Part {
        job,
        epoch,
        rank,
        from,
        to,
        ended: (ended == 1).then_some(dropped),
    };
    Ok(Head {
        part,
        blocks: entries,
        bytes: length + CHECK_BYTES,
    })
}

impl Head {
    /// Its blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        let (mut from, mut at) = (self.part.from, self.bytes as u64);
        self.blocks.iter().map(move |entry| {
            let block = Block {
                from,
                to: from + u64::from(entry.raw),
                at,
                packed: entry.packed as usize,
                check: entry.check,
            };
            (from, at) = (block.to, at + u64::from(entry.packed));
            block
        })
    }
}

impl Block {
    /// The frames of this block, from its bytes.
    ///
    /// # Errors
    /// When they are not those that were written.
    pub fn frames(&self, packed: &[u8]) -> Result<Vec<u8>, BadPiece> {
        if packed.len() != self.packed || check(packed) != self.check {
            return Err(BadPiece("a block is not what was written"));
        }
        let length = (self.to - self.from) as usize;
        let frames = zstd::bulk::decompress(packed, length)
            .map_err(|_| BadPiece("a block cannot be decompressed"))?;
        if frames.len() != length || whole(&frames) != Ok(length) {
            return Err(BadPiece("a block does not hold whole frames"));
        }
        Ok(frames)
    }
}

/// Every frame of a whole piece, checked.
///
/// # Errors
/// When any of it is damaged, or something follows it.
pub fn open(bytes: &[u8]) -> Result<(Part, Vec<u8>), BadPiece> {
    let head = head(bytes)?;
    let mut frames = Vec::new();
    let mut end = head.bytes;
    for block in head.blocks() {
        let at = end;
        end = at
            .checked_add(block.packed)
            .ok_or(BadPiece("it is cut short"))?;
        let packed = bytes.get(at..end).ok_or(BadPiece("it is cut short"))?;
        frames.extend_from_slice(&block.frames(packed)?);
    }
    if end != bytes.len() {
        return Err(BadPiece("something follows its last block"));
    }
    Ok((head.part, frames))
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadPiece> {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(BadPiece("it is cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, BadPiece> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, BadPiece> {
        Ok(u64::from_le_bytes(self.take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::logs::{Frame, encode};

    fn frames(lines: usize, bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for line in 0..lines {
            let text = vec![b'a' + (line % 26) as u8; bytes];
            let frame = Frame {
                flags: 0,
                time_ms: line as u64,
                text: &text,
            };
            encode(frame, &mut out);
        }
        out
    }

    fn part(from: u64, frames: &[u8], ended: Option<u64>) -> Part {
        Part {
            job: JobId::new(1, 7),
            epoch: Epoch::new(2, 3),
            rank: 9,
            from,
            to: from + frames.len() as u64,
            ended,
        }
    }

    #[test]
    fn pieces_round_trip_and_are_read_block_by_block() {
        for (lines, bytes, ended) in [(0, 0, Some(5)), (1, 0, None), (90, 16_000, Some(0))] {
            let frames = frames(lines, bytes);
            let part = part(1 << 40, &frames, ended);
            let sealed = seal(&part, &frames).expect("sealed");
            assert_eq!(open(&sealed), Ok((part, frames.clone())));
            let first = &sealed[..sealed.len().min(HEAD_BYTES_MAX)];
            let mut got = Vec::new();
            for block in head(first).expect("a head").blocks() {
                let at = block.at as usize;
                assert_eq!(block.from - part.from, got.len() as u64);
                let packed = &sealed[at..at + block.packed];
                got.extend(block.frames(packed).expect("a block"));
            }
            assert_eq!(got, frames);
        }
        let many = frames(BLOCKS_MAX * 4, 16_384 * 2);
        assert!(seal(&part(0, &many, None), &many).is_err(), "too long");
        let torn = &frames(2, 8)[..20];
        assert!(seal(&part(0, torn, None), torn).is_err());
    }

    #[test]
    fn the_longest_piece_has_room_for_its_blocks() {
        let line = frames(1, 16_384);
        let all = line.repeat(PIECE_BYTES / line.len());
        let sealed = seal(&part(0, &all, None), &all).expect("sealed");
        assert!(head(&sealed[..HEAD_BYTES_MAX.min(sealed.len())]).is_ok());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let frames = frames(5, 40);
        let sealed = seal(&part(3, &frames, Some(1)), &frames).expect("sealed");
        for at in 0..sealed.len() {
            assert!(open(&sealed[..at]).is_err(), "cut at {at}");
            let mut changed = sealed.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(open(&changed).is_err(), "flipped at {at}");
        }
        assert!(open(&[sealed, vec![0]].concat()).is_err());
    }
}
