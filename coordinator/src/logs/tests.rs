//! Tests of the store: what is appended, sealed, copied, rotated, damaged and read.
use std::fs;
use std::path::{Path, PathBuf};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::logs::{Frame, encode};

use super::piece::PIECE_BYTES;
use super::store::Key;
use super::{Entry, Limits, Logs, Meta, Missing, Piece, Reader, Stored, lacking};

const JOB: JobId = JobId::new(1, 1);
const EPOCH: Epoch = Epoch::new(1, 1);
const KEY: Key = (JOB, EPOCH, 0);

fn frames(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let frame = Frame {
            flags: 0,
            time_ms: 1,
            text: line.as_bytes(),
        };
        encode(frame, &mut out);
    }
    out
}

fn piece(offset: u64, frames: &[u8], end: bool) -> Piece<'_> {
    Piece {
        offset,
        frames,
        end,
        dropped: 0,
        skip: false,
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The entries of an attempt as `RANK TEXT`, gaps as `RANK gap FROM+BYTES`.
fn shown(logs: &Logs) -> Vec<String> {
    let mut reader = Reader::new(logs, JOB, EPOCH, None);
    reader.pass_gaps();
    let mut all = Vec::new();
    loop {
        let entries = reader.read().expect("read");
        if entries.is_empty() {
            return all;
        }
        all.extend(entries.into_iter().map(|entry| match entry {
            Entry::Line(line) => format!("{} {}", line.rank, String::from_utf8_lossy(&line.text)),
            Entry::Missing(Missing { rank, from, bytes }) => format!("{rank} gap {from}+{bytes}"),
        }));
    }
}

fn pieces_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("1/1")).expect("listed").flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[test]
fn pieces_are_stored_once_and_in_order() {
    let dir = folder();
    let logs = Logs::new(dir.path());
    let log = logs.open(KEY).expect("opens");
    let (one, two) = (frames(&["one"]), frames(&["two", "three"]));
    let both = [one.clone(), two.clone()].concat();
    let all = both.len() as u64;
    for (offset, bytes, end, want) in [
        (all, &two, false, 0),
        (0, &one, false, one.len() as u64),
        (0, &one, false, one.len() as u64),
        (0, &both, false, all),
        (all, &Vec::new(), true, all),
        (all, &one, false, all),
    ] {
        let stored = log.append(piece(offset, bytes, end)).expect("stored");
        assert_eq!(stored.offset, want);
    }
    assert!(log.stored().expect("known").end);
    assert_eq!(log.read(0, 1 << 20).expect("read").frames, both);
    assert_eq!(log.read(one.len() as u64, 1).expect("read").frames, two);
    assert_eq!(shown(&logs), ["0 one", "0 two", "0 three"]);
}

#[test]
fn damaged_input_changes_nothing() {
    let dir = folder();
    let log = Logs::new(dir.path()).open(KEY).expect("opens");
    let good = frames(&["line"]);
    let longer = [good.clone(), frames(&["more"])].concat();
    for bytes in [&good[..good.len() - 1], &[0; 40], &good[1..]] {
        assert!(log.append(piece(0, bytes, false)).is_err());
    }
    assert_eq!(log.stored().expect("known"), Stored::default());
    log.append(piece(0, &good, false)).expect("stored");
    let other = frames(&["x", "a log with other seams"]);
    assert!(other.len() > good.len() && longer.len() > good.len());
    assert!(log.append(piece(0, &other, false)).is_err());
}

#[test]
fn a_restart_keeps_whole_frames_and_the_end() {
    let dir = folder();
    let bytes = frames(&["one", "two"]);
    let log = Logs::new(dir.path()).open(KEY).expect("opens");
    log.append(piece(0, &bytes, false)).expect("stored");
    let path = dir.path().join("1/1/0_0.open");
    let torn = [&bytes[..], &bytes[..5]].concat();
    fs::write(&path, torn).expect("written");
    let again = Logs::new(dir.path()).open(KEY).expect("opens");
    let all = bytes.len() as u64;
    assert_eq!(again.stored().expect("known").offset, all);
    again.append(piece(0, &bytes, true)).expect("stored");
    assert!(!path.exists(), "it is sealed");
    let stored = Logs::new(dir.path()).open(KEY).expect("opens").stored();
    let want = Stored {
        offset: all,
        end: true,
        dropped: 0,
    };
    assert_eq!(stored.expect("known"), want);
    // Sealed, but a crash kept the open file.
    fs::write(&path, &bytes).expect("written");
    let logs = Logs::new(dir.path());
    assert_eq!(
        logs.open(KEY).expect("opens").stored().expect("known"),
        want
    );
    assert_eq!(shown(&logs), ["0 one", "0 two"]);
}

#[test]
fn a_long_log_is_sealed_on_the_way_and_its_middle_goes() {
    let dir = folder();
    let limits = Limits {
        head: 3 << 20,
        tail: 6 << 20,
    };
    let logs = Logs::limited(dir.path(), limits);
    let log = logs.open(KEY).expect("opens");
    let mut offset = 0;
    for n in 0..200_u32 {
        let line = format!("{}{n:05}", "0".repeat(100_000));
        let bytes = frames(&[&line]);
        // A line is several frames.
        offset = log
            .append(piece(offset, &bytes, n == 199))
            .expect("stored")
            .offset;
    }
    let kept: u64 = pieces_in(dir.path())
        .iter()
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let meta = Meta::parse(name.expect("a name")).expect("a piece");
            assert!(meta.bytes() <= PIECE_BYTES as u64);
            meta.bytes()
        })
        .sum();
    assert!(kept <= limits.head + limits.tail + 2 * PIECE_BYTES as u64);
    let shown = shown(&logs);
    let gaps: Vec<&String> = shown.iter().filter(|text| text.contains(" gap ")).collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(shown[0].ends_with("00000") && shown.last().expect("a line").ends_with("199"));
    let on_disk: u64 = pieces_in(dir.path())
        .iter()
        .map(|path| fs::metadata(path).expect("there").len())
        .sum();
    assert!(on_disk < kept / 4, "zeros are compressed: {on_disk}");
}

#[test]
fn what_the_node_has_not_got_is_a_gap() {
    let dir = folder();
    let logs = Logs::new(dir.path());
    let log = logs.open(KEY).expect("opens");
    let (one, two) = (frames(&["one"]), frames(&["two"]));
    let at = one.len() as u64;
    log.append(piece(0, &one, false)).expect("stored");
    let far = piece(at + 1_000, &two, true);
    assert_eq!(log.append(far).expect("refused").offset, at);
    let skip = Piece { skip: true, ..far };
    let stored = log.append(skip).expect("stored");
    assert_eq!(
        (stored.offset, stored.end),
        (at + 1_000 + two.len() as u64, true)
    );
    let gap = format!("0 gap {at}+1000");
    assert_eq!(shown(&logs), ["0 one", &gap, "0 two"]);
    assert_eq!(shown(&Logs::new(dir.path())), ["0 one", &gap, "0 two"]);
    let mut reader = Reader::new(&logs, JOB, EPOCH, None);
    assert_eq!(reader.read().expect("read").len(), 1);
    assert!(reader.read().expect("read").is_empty() && reader.stopped());
    reader.pass_gaps();
    let gap = reader.read().expect("read");
    assert!(
        matches!(gap[..], [Entry::Missing(Missing { bytes: 1_000, .. })]),
        "{gap:?}"
    );
    assert_eq!(reader.read().expect("read").len(), 1);
    assert!(!reader.stopped());
}

#[test]
fn copies_take_the_place_of_what_is_missing_or_damaged() {
    let (here, there) = (folder(), folder());
    let (ours, theirs) = (Logs::new(here.path()), Logs::new(there.path()));
    // What is known to be damaged is known as long as somebody looks.
    let _held = [&ours, &theirs].map(|logs| logs.attempt(JOB, EPOCH).expect("none yet"));
    for (rank, lines) in [(0, ["a1", "a2"]), (1, ["b1", "b2"])] {
        let log = ours.open((JOB, EPOCH, rank)).expect("opens");
        log.append(piece(0, &frames(&lines), true)).expect("stored");
    }
    let copy = |from: &Logs, to: &Logs| {
        let (from, to) = (from.attempt(JOB, EPOCH), to.attempt(JOB, EPOCH));
        let (from, to) = (from.expect("there"), to.expect("there"));
        let wanted = lacking(
            &from.settle().expect("listed"),
            &to.settle().expect("listed"),
        );
        for meta in &wanted {
            let bytes = from.bytes_of(meta).expect("read");
            to.put(*meta, &bytes).expect("stored");
            to.put(*meta, &bytes).expect("again");
        }
        to.sync(&wanted).expect("synced");
        wanted.len()
    };
    assert_eq!((copy(&ours, &theirs), copy(&ours, &theirs)), (2, 0));
    let want = ["0 a1", "0 a2", "1 b1", "1 b2"];
    assert_eq!(shown(&theirs), want);
    assert!(theirs.attempt(JOB, EPOCH).expect("there").all_ended());

    // One bit of ours flips, one piece of theirs is cut.
    let damage = |dir: &Path, rank: usize, cut: bool| {
        let path = &pieces_in(dir)[rank];
        let mut bytes = fs::read(path).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes.truncate(if cut { last / 2 } else { last + 1 });
        fs::write(path, bytes).expect("written");
    };
    damage(here.path(), 0, false);
    damage(there.path(), 1, true);
    let all = frames(&["a1", "a2"]).len();
    assert_eq!(
        shown(&ours),
        [format!("0 gap 0+{all}"), "1 b1".into(), "1 b2".into()]
    );
    assert_eq!(
        shown(&theirs),
        [format!("1 gap 0+{all}"), "0 a1".into(), "0 a2".into()]
    );
    let other = theirs.attempt(JOB, EPOCH).expect("there");
    let bad = ours.attempt(JOB, EPOCH).expect("there");
    for path in pieces_in(there.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let meta = Meta::parse(name.expect("a name")).expect("a piece");
        assert_eq!(
            other.bytes_of(&meta).is_ok(),
            meta.rank == 0,
            "bad bytes are not given out"
        );
        assert!(bad.put(meta, b"MLCTLOG1 and nothing").is_err());
    }
    assert_eq!((copy(&theirs, &ours), copy(&ours, &theirs)), (1, 1));
    assert_eq!(
        (shown(&ours), shown(&theirs)),
        (want.map(String::from).into(), want.map(String::from).into())
    );
}

#[test]
fn fresh_pieces_are_taken_once_and_given_back() {
    let dir = folder();
    let logs = Logs::new(dir.path());
    let log = logs.open(KEY).expect("opens");
    assert!(logs.unkept().is_empty());
    let (one, two) = (frames(&["one"]), frames(&["two"]));
    log.append(piece(0, &one, false)).expect("stored");
    let attempt = logs.unkept().pop().expect("something is to be copied");
    logs.keeping(&attempt);
    let fresh = attempt.take_fresh().expect("sealed");
    assert_eq!(
        (fresh.len(), attempt.take_fresh().expect("none").len()),
        (1, 0)
    );
    attempt.give_back(&fresh);
    assert!(logs.unkept().is_empty() && attempt.ended().is_empty());
    log.append(piece(one.len() as u64, &two, true))
        .expect("stored");
    assert_eq!((logs.unkept().len(), attempt.ended()), (1, vec![KEY]));
    // The second piece holds the first one, which is gone.
    let again = attempt.take_fresh().expect("sealed");
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].from, again[0].to),
        (0, (one.len() + two.len()) as u64)
    );
    attempt.give_back(&fresh);
    assert!(attempt.take_fresh().expect("none").is_empty());
    assert_eq!(pieces_in(dir.path()).len(), 1);
}

#[test]
fn ranks_are_merged_by_time_and_followed() {
    let dir = folder();
    let logs = Logs::new(dir.path());
    let append = |rank: u32, offset: u64, lines: &[(u64, &str)], end: bool| {
        let mut bytes = Vec::new();
        for (time_ms, text) in lines {
            let frame = Frame {
                flags: 0,
                time_ms: *time_ms,
                text: text.as_bytes(),
            };
            encode(frame, &mut bytes);
        }
        let log = logs.open((JOB, EPOCH, rank)).expect("opens");
        log.append(piece(offset, &bytes, end))
            .expect("stored")
            .offset
    };
    let texts = |entries: Vec<Entry>| -> Vec<String> {
        let text = |entry: Entry| match entry {
            Entry::Line(line) => format!("{} {}", line.rank, String::from_utf8_lossy(&line.text)),
            Entry::Missing(_) => "gap".into(),
        };
        entries.into_iter().map(text).collect()
    };
    let mut reader = Reader::new(&logs, JOB, EPOCH, None);
    assert!(reader.read().expect("nothing yet").is_empty());
    let at = append(1, 0, &[(10, "b1"), (30, "b2"), (20, "b3")], false);
    append(0, 0, &[(5, "a1"), (25, "a2")], true);
    let got = texts(reader.read().expect("read"));
    assert_eq!(got, ["0 a1", "1 b1", "0 a2", "1 b2", "1 b3"]);
    assert!(reader.read().expect("read").is_empty());
    append(1, at, &[(40, "b4")], true);
    assert_eq!(texts(reader.read().expect("read")), ["1 b4"]);
    assert!(reader.stored().values().all(|stored| stored.end));
    let mut one = Reader::new(&logs, JOB, EPOCH, Some(0));
    assert_eq!(texts(one.read().expect("read")), ["0 a1", "0 a2"]);
    let offsets = frames(&["a1"]).len() as u64;
    let mut again = Reader::new(&logs, JOB, EPOCH, Some(0));
    match &again.read().expect("read")[0] {
        Entry::Line(line) => assert_eq!(line.offset, offsets),
        Entry::Missing(missing) => panic!("{missing:?}"),
    }
}

/// Its text and its end came together, between a look at the one and a question for the other.
#[test]
fn an_end_that_came_after_the_last_read_does_not_count_yet() {
    let dir = folder();
    let logs = Logs::new(dir.path());
    let ended = |reader: &Reader, rank| reader.stored().get(&rank).is_some_and(|one| one.end);
    let words = frames(&["last words"]);

    // Its node has asked how far it is: the log is known, and empty.
    let log = logs.open(KEY).expect("opens");
    let mut reader = Reader::new(&logs, JOB, EPOCH, Some(0));
    assert!(reader.read().expect("nothing yet").is_empty());
    log.append(piece(0, &words, true)).expect("stored");
    assert!(!ended(&reader, 0), "nothing of it was read");
    assert_eq!(reader.read().expect("read").len(), 1);
    assert!(ended(&reader, 0));

    // An end behind which there is nothing counts at once.
    let log = logs.open((JOB, EPOCH, 1)).expect("opens");
    log.append(piece(0, &words, false)).expect("stored");
    let mut reader = Reader::new(&logs, JOB, EPOCH, Some(1));
    assert_eq!(reader.read().expect("read").len(), 1);
    assert!(!ended(&reader, 1));
    log.append(piece(words.len() as u64, &[], true))
        .expect("stored");
    assert!(ended(&reader, 1));
}
