//! Judges at start whether log and snapshots together are all that this disk once acknowledged.
//!
//! It does not read files: it gets the mark, every entry and the verified snapshots, and either says what raft may
//! start from or what is missing. Pure.

use super::LogError;
use super::engine::Mark;
use crate::consensus::turn::{Recovered, SnapshotMeta, check_change, decode_commands};
use raft::eraftpb::{Entry, EntryType};
use std::path::Path;

/// What raft may start from.
///
/// `verified` are the snapshots whose checksum holds, newest first.
///
/// # Errors
/// [`LogError::Damaged`] with what does not fit together.
pub fn judge(
    dir: &Path,
    mark: &Mark,
    entries: Vec<Entry>,
    verified: &[SnapshotMeta],
) -> Result<Recovered, LogError> {
    let damaged = |found: String| LogError::damaged(dir, found);
    check_sequence(mark, &entries).map_err(damaged)?;
    let last = mark.floor.0 + entries.len() as u64;
    if last < mark.commit {
        let commit = mark.commit;
        return Err(damaged(format!(
            "it ends at {last}, but index {commit} was known here to be committed"
        )));
    }
    // The newest file counts even when its content is not the one to start from: it was taken from this log.
    let newest = verified.first().map_or(0, |meta| meta.index);
    if last < newest {
        return Err(damaged(format!(
            "it ends at {last}, but a snapshot of index {newest} was taken from it"
        )));
    }
    let mut usable = verified
        .iter()
        .filter(|meta| meta.index >= mark.floor.0)
        .cloned();
    let snapshot = usable.next();
    let older = usable.next();
    if snapshot.is_none() && mark.floor.0 > 0 {
        let floor = mark.floor.0;
        return Err(damaged(format!(
            "it begins after index {floor}, and no sound snapshot reaches that far"
        )));
    }
    for meta in snapshot.iter().chain(&older) {
        let logged = term_at(mark, &entries, meta.index);
        if logged != Some(meta.term) {
            let (index, term) = (meta.index, meta.term);
            return Err(damaged(format!(
                "the snapshot of index {index} is of term {term}, but the log has {logged:?} there"
            )));
        }
    }
    let mut hard_state = mark.hard_state();
    let proven = snapshot.as_ref().map_or(0, |meta| meta.index);
    hard_state.commit = mark.commit.max(proven).max(mark.floor.0);
    Ok(Recovered {
        hard_state,
        floor: mark.floor,
        entries,
        snapshot,
        older,
    })
}

fn check_sequence(mark: &Mark, entries: &[Entry]) -> Result<(), String> {
    let (mut index, mut term) = mark.floor;
    for entry in entries {
        index += 1;
        if entry.index != index {
            let found = entry.index;
            return Err(format!("entry {index} is missing ({found} stands there)"));
        }
        if entry.term < term || entry.term > mark.term {
            let (found, highest) = (entry.term, mark.term);
            return Err(format!(
                "entry {index} is of term {found}, between an entry of {term} and the stored term {highest}"
            ));
        }
        term = entry.term;
        let read = match entry.get_entry_type() {
            EntryType::EntryNormal => decode_commands(&entry.data)
                .map(drop)
                .map_err(|error| error.to_string()),
            _ => check_change(entry),
        };
        read.map_err(|why| format!("entry {index} cannot be read: {why}"))?;
    }
    Ok(())
}

fn term_at(mark: &Mark, entries: &[Entry], index: u64) -> Option<u64> {
    if index == mark.floor.0 {
        return Some(mark.floor.1);
    }
    let position = index.checked_sub(mark.floor.0 + 1)?;
    entries.get(position as usize).map(|entry| entry.term)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::turn::Membership;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, term);
                entry
            })
            .collect()
    }

    fn meta(index: u64, term: u64) -> SnapshotMeta {
        SnapshotMeta {
            index,
            term,
            members: Membership::of(&[1]),
            digest: [0; 32],
        }
    }

    fn mark(commit: u64, floor: u64) -> Mark {
        Mark {
            term: 3,
            commit,
            floor: (floor, u64::from(floor > 0)),
            ..Mark::fresh()
        }
    }

    /// `expected` is the snapshot's index and the commit index, or a word of the complaint.
    fn check(
        mark: &Mark,
        entries: Vec<Entry>,
        snapshots: &[SnapshotMeta],
        expected: Result<(u64, u64), &str>,
    ) {
        let judged = judge(Path::new("/x"), mark, entries, snapshots);
        match (judged, expected) {
            (Ok(recovered), Ok((snapshot, commit))) => {
                assert_eq!(recovered.snapshot.map_or(0, |meta| meta.index), snapshot);
                assert_eq!(recovered.hard_state.commit, commit);
            }
            (Err(error), Err(word)) => {
                let text = error.to_string();
                assert!(text.contains(word), "{text} has no {word:?}");
                assert!(text.contains("will not vote"), "{text}");
            }
            (judged, expected) => panic!("{judged:?} is not {expected:?}"),
        }
    }

    #[test]
    fn what_fits_together_starts() {
        check(&Mark::fresh(), vec![], &[], Ok((0, 0)));
        check(&mark(5, 0), entries(1..=9, 1), &[], Ok((0, 5)));
        check(&mark(5, 0), entries(1..=9, 1), &[meta(7, 1)], Ok((7, 7)));
        let two = [meta(7, 1), meta(4, 1)];
        check(&mark(5, 4), entries(5..=9, 1), &two, Ok((7, 7)));
        // The newest is corrupt: the older one and a log that reaches back.
        check(&mark(5, 4), entries(5..=9, 1), &two[1..], Ok((4, 5)));
        // Right after a leader's snapshot there is no entry at all.
        check(&mark(7, 7), vec![], &[meta(7, 1)], Ok((7, 7)));
    }

    #[test]
    fn what_proves_a_loss_is_damage() {
        let nine = || entries(1..=9, 1);
        check(&mark(10, 0), nine(), &[], Err("ends at 9"));
        check(&mark(5, 0), nine(), &[meta(10, 1)], Err("ends at 9"));
        check(&mark(5, 4), entries(5..=9, 1), &[], Err("begins after"));
        check(
            &mark(5, 4),
            entries(6..=9, 1),
            &[meta(4, 1)],
            Err("entry 5"),
        );
        check(&mark(5, 0), nine(), &[meta(7, 2)], Err("term 2"));
        check(&mark(5, 0), entries(1..=9, 4), &[], Err("term 4"));
        let mut hole = nine();
        hole.remove(3);
        check(&mark(5, 0), hole, &[], Err("entry 4 is missing"));
        let mut foreign = nine();
        foreign[2].data = bytes::Bytes::from_static(&[77]);
        check(&mark(5, 0), foreign, &[], Err("version 77"));
    }
}
