//! Which pieces there are, which one may go, and which another member lacks. Pure: a piece's name says all that is needed.
//!
//! The directory of an attempt is the list of its pieces: there is no other. `RANK_FROM_TO_END_ID.piece`.

use std::collections::BTreeMap;

use super::piece::{PIECE_BYTES, Part};

/// How much of a rank's log is kept: its beginning and its newest part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from the beginning.
    pub head: u64,
    /// Bytes before the end.
    pub tail: u64,
}

/// What the name of a piece says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meta {
    /// The rank.
    pub rank: u32,
    /// Of the first byte within the framed log.
    pub from: u64,
    /// Behind the last one.
    pub to: u64,
    /// Nothing follows; so many bytes the node could not keep.
    pub ended: Option<u64>,
    /// Of its bytes.
    pub id: [u8; 16],
}

impl Meta {
    /// Of a piece with these bytes' `id`.
    pub fn of(part: &Part, id: [u8; 16]) -> Self {
        Self {
            rank: part.rank,
            from: part.from,
            to: part.to,
            ended: part.ended,
            id,
        }
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        let end = match self.ended {
            Some(dropped) => format!("e{dropped}"),
            None => "m".into(),
        };
        let id: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let Self { rank, from, to, .. } = self;
        format!("{rank}_{from}_{to}_{end}_{id}.piece")
    }

    /// The piece called `name`; `None` for every other name.
    pub fn parse(name: &str) -> Option<Self> {
        let mut words = name.strip_suffix(".piece")?.split('_');
        let mut next = || words.next();
        let (rank, from, to) = (
            next()?.parse().ok()?,
            next()?.parse().ok()?,
            next()?.parse().ok()?,
        );
        let (end, hex) = (next()?, next()?);
        let ended = match end.strip_prefix('e') {
            Some(dropped) => Some(dropped.parse().ok()?),
            None if end == "m" => None,
            None => return None,
        };
        let mut id = [0; 16];
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        let meta = Self {
            rank,
            from,
            to,
            ended,
            id,
        };
        // One name for one piece: `+7` and `007` are none.
        (from <= to && meta.name() == name).then_some(meta)
    }

    /// Bytes of frames.
    pub fn bytes(&self) -> u64 {
        self.to - self.from
    }

    /// Whether `self` holds all that `other` does.
    pub fn covers(&self, other: &Self) -> bool {
        self.rank == other.rank
            && self.from <= other.from
            && other.to <= self.to
            && (other.ended.is_none() || self.ended.is_some())
    }
}

/// The pieces of `mine` that hold what none of `theirs` does.
pub fn lacking(mine: &[Meta], theirs: &[Meta]) -> Vec<Meta> {
    let mut by_rank: BTreeMap<u32, Vec<&Meta>> = BTreeMap::new();
    for piece in theirs {
        by_rank.entry(piece.rank).or_default().push(piece);
    }
    let covered = |piece: &Meta| {
        let of_rank = by_rank.get(&piece.rank).into_iter().flatten();
        of_rank.into_iter().any(|other| other.covers(piece))
    };
    mine.iter()
        .filter(|piece| !covered(piece))
        .copied()
        .collect()
}

/// The pieces of one rank that are neither of its beginning nor of its newest part. `pieces` are in order.
pub fn beyond(pieces: &[Meta], limits: Limits) -> Vec<Meta> {
    let end = pieces.iter().map(|piece| piece.to).max().unwrap_or(0);
    let newest = end.saturating_sub(limits.tail);
    let middle =
        |piece: &&Meta| piece.from >= limits.head && piece.to <= newest && piece.bytes() > 0;
    pieces.iter().filter(middle).copied().collect()
}

/// From which of `pieces`, the last of which ends at `from`, a new one of `bytes` takes over what they hold. Each byte of a slow
/// log is written a few times in all, and a piece a minute does not become a file a minute.
pub fn merged_from(pieces: &[Meta], from: u64, bytes: u64) -> usize {
    let (mut first, mut begin, mut sum) = (pieces.len(), from, bytes);
    while let Some(before) = first.checked_sub(1).map(|at| pieces[at]) {
        let fits = sum + before.bytes() <= PIECE_BYTES as u64;
        if before.to != begin || before.bytes() > sum || !fits || before.ended.is_some() {
            break;
        }
        (first, begin, sum) = (first - 1, before.from, sum + before.bytes());
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(rank: u32, from: u64, to: u64) -> Meta {
        Meta {
            rank,
            from,
            to,
            ended: None,
            id: [7; 16],
        }
    }

    #[test]
    fn names_round_trip_and_strangers_are_none() {
        let end = Meta {
            ended: Some(12),
            ..meta(3, 5, 5)
        };
        for meta in [meta(0, 0, 9), end] {
            assert_eq!(Meta::parse(&meta.name()), Some(meta));
        }
        let id = "07".repeat(16);
        for stranger in [
            "",
            "0.log",
            ".piece",
            &format!("0_5_4_m_{id}.piece"),
            &format!("00_0_9_m_{id}.piece"),
            &format!("0_0_9_m_{id}ff.piece"),
            &format!("0_0_9_x_{id}.piece"),
            &format!("0_0_9_m_{}.piece", "é".repeat(16)),
            &format!("0_0_9_m_{id}_.piece"),
            "../0_0_9_m_.piece",
        ] {
            assert_eq!(Meta::parse(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn what_is_covered_is_not_lacking() {
        let end = Meta {
            ended: Some(0),
            ..meta(0, 10, 10)
        };
        let mine = [meta(0, 0, 5), meta(0, 5, 10), end, meta(1, 0, 5)];
        assert_eq!(lacking(&mine, &[]), mine);
        assert_eq!(lacking(&mine, &mine), []);
        assert_eq!(lacking(&mine, &[meta(0, 0, 10)]), [end, mine[3]]);
        let whole = Meta {
            ended: Some(0),
            ..meta(0, 0, 10)
        };
        assert_eq!(lacking(&mine, &[whole]), [mine[3]]);
        assert_eq!(
            lacking(&[whole], &mine),
            [whole],
            "no piece covers it alone"
        );
    }

    #[test]
    fn the_beginning_and_the_newest_part_stay() {
        let limits = Limits { head: 10, tail: 25 };
        let pieces: Vec<Meta> = (0..10).map(|n| meta(0, n * 10, n * 10 + 10)).collect();
        assert_eq!(beyond(&pieces[..5], limits), [pieces[1]]);
        assert_eq!(beyond(&pieces[..4], limits), []);
        assert_eq!(beyond(&pieces, limits), pieces[1..7]);
        assert_eq!(beyond(&[], limits), []);
    }

    #[test]
    fn a_slow_log_stays_in_few_pieces_and_is_rewritten_rarely() {
        let (mut pieces, mut written, mut most) = (Vec::<Meta>::new(), 0, 0);
        let line = 3_000;
        for minute in 0..2_000 {
            let (from, to) = (minute * line, (minute + 1) * line);
            let first = merged_from(&pieces, from, line);
            let begin = pieces.get(first).map_or(from, |piece| piece.from);
            pieces.truncate(first);
            pieces.push(meta(0, begin, to));
            written += to - begin;
            most = most.max(pieces.len());
        }
        assert!(
            pieces
                .iter()
                .all(|piece| piece.bytes() <= PIECE_BYTES as u64)
        );
        assert!(written < 12 * 2_000 * line, "{written}");
        assert!(most < 20, "{most}");
    }

    #[test]
    fn nothing_is_merged_over_a_gap_or_an_end() {
        let ended = Meta {
            ended: Some(0),
            ..meta(0, 0, 5)
        };
        assert_eq!(merged_from(&[meta(0, 0, 5)], 6, 100), 1);
        assert_eq!(merged_from(&[ended], 5, 100), 1);
        assert_eq!(merged_from(&[meta(0, 0, 5)], 5, 100), 0);
        assert_eq!(merged_from(&[], 0, 100), 0);
    }
}
