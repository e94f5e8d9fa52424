//! What real libraries wrote, state by state (`testdata/`), judged: no state but the whole ones is ever complete, whatever else is assumed.
//! Does NOT run the libraries: `testdata/record.py` did.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::listing::{Content, Entry, Kind, Listing, Mark, Want, wanted};
use super::*;

/// One recorded state of one checkpoint.
struct State {
    /// `None`: it is not there.
    listing: Option<Listing>,
    written_to: bool,
    whole: bool,
}

/// The states of the recording `text`, and the checkpoint's name.
fn recording(text: &str) -> (String, Vec<State>) {
    let record: Value = serde_json::from_str(text).expect("a recording");
    let name = record["subject"].as_str().expect("a name").to_owned();
    let whole: Vec<u64> = serde_json::from_value(record["whole"].clone()).expect("numbers");
    let mut rows: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut states = Vec::new();
    for (at, state) in (0..).zip(record["states"].as_array().expect("states")) {
        for put in state["put"].as_array().expect("entries") {
            let row = put.as_array().expect("an entry").clone();
            rows.insert(row[0].as_str().expect("a path").into(), row);
        }
        for gone in state["gone"].as_array().expect("paths") {
            rows.remove(gone.as_str().expect("a path"));
        }
        let inside = |path: &str| match path.strip_prefix(&name) {
            Some("") => Some(String::new()),
            Some(below) => below.strip_prefix('/').map(str::to_owned),
            None => None,
        };
        let own: Vec<(String, &Vec<Value>)> = rows
            .iter()
            .filter_map(|(path, row)| Some((inside(path)?, row)))
            .collect();
        let mut entries: Vec<Entry> = own
            .iter()
            .map(|(path, row)| entry(path, row, &name, &record["contents"]))
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let root = entries.iter().position(|entry| entry.path.is_empty());
        states.push(State {
            listing: root.map(|root| Listing {
                name: name.clone(),
                root: entries.remove(root),
                entries,
                cut: false,
            }),
            written_to: own.iter().any(|(_, row)| row[5] == true),
            whole: whole.contains(&at),
        });
    }
    (name, states)
}

fn entry(path: &str, row: &[Value], subject: &str, contents: &Value) -> Entry {
    let number = |at: usize| row[at].as_i64().expect("a number");
    let size = number(2).unsigned_abs();
    let parts = |key: &str| -> Vec<Vec<u8>> {
        let parts = contents[key].as_array().expect("recorded");
        parts
            .iter()
            .map(|part| bytes(part.as_str().expect("hex")))
            .collect()
    };
    let shown = if path.is_empty() { subject } else { path };
    let content = match (row[6].as_str(), wanted(shown, size)) {
        (None, _) | (_, Want::Nothing) => Content::Unread,
        (Some(key), Want::Ends) => {
            let [head, tail] = parts(key).try_into().expect("a head and a tail");
            Content::Ends { head, tail }
        }
        (Some(key), Want::Whole) => Content::Whole(parts(key).remove(0)),
        (Some(key), Want::Header) => {
            let mut head = parts(key).remove(0);
            let length = head
                .first_chunk()
                .and_then(|first| safetensors::header_bytes(*first));
            head.truncate(8 + usize::try_from(length.unwrap_or(0)).expect("small"));
            Content::Head(head)
        }
    };
    Entry {
        path: path.into(),
        kind: if row[1] == "d" { Kind::Dir } else { Kind::File },
        size,
        mark: Mark {
            mtime_ns: number(3) * 1_000,
            ctime_ns: number(3) * 1_000,
            inode: number(4).unsigned_abs(),
        },
        content,
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .map(|digit| u8::try_from(char::from(digit).to_digit(16).expect("hex")).expect("small"))
        .collect();
    digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[high, low]| high * 16 + low)
        .collect()
}

/// Everything that can be assumed of a state that speaks for it being complete, short of its being so: it has been quiet for an hour,
/// or its ranks failed at this very moment.
fn assumptions(ranks: Range<u32>, before: Option<Fingerprint>) -> [Facts; 2] {
    let quiet = Facts {
        writers: Writers::Nobody,
        quiet_ms: 3_600_000,
        life: Life::Running,
        renamed: false,
        committed: None,
        marker_elsewhere: false,
        ranks,
        nodes: 1,
        before,
    };
    let killed = Facts {
        life: Life::EndedBadly,
        ..quiet.clone()
    };
    [quiet, killed]
}

/// Judges every state. `after_a_crash`: a whole one is known to be whole even if its ranks failed.
fn replay(text: &str, ranks: u32, by: By, after_a_crash: bool) {
    let (name, states) = recording(text);
    let (mut before, mut judged, mut whole) = (None, 0, 0);
    for (at, state) in states.iter().enumerate() {
        let Some(listing) = &state.listing else {
            continue;
        };
        if at > 0 && states[at - 1].whole && !state.whole {
            // What is written now is written over it.
            before = states[at - 1].listing.as_ref().map(Listing::fingerprint);
        }
        let [quiet, killed] = assumptions(0..ranks, before.clone());
        for (facts, sealed) in [
            (&quiet, state.whole),
            (&killed, state.whole && after_a_crash),
        ] {
            let verdict = judge(listing, facts);
            let says = format!("{name}, state {at}, {:?}: {verdict:?}", facts.life);
            assert_eq!(matches!(verdict, Verdict::Sealed(_)), sealed, "{says}");
            if let Verdict::Sealed(sealed) = verdict {
                assert_eq!((sealed.by, sealed.step), (by, step_of(&name)), "{says}");
            }
        }
        judged += 1;
        whole += usize::from(state.whole);
    }
    assert!(
        judged > whole && whole > 0,
        "{name}: {judged} judged, {whole} whole"
    );
}

#[test]
fn pytorch_distributed_checkpoint() {
    replay(include_str!("testdata/dcp.json"), 2, By::Dcp, true);
    replay(include_str!("testdata/dcp_again.json"), 2, By::Dcp, true);
}

#[test]
fn hugging_face_trainer() {
    replay(include_str!("testdata/hf.json"), 1, By::HfTrainer, true);
    replay(include_str!("testdata/hf_bin.json"), 1, By::HfTrainer, true);
    replay(
        include_str!("testdata/hf_again.json"),
        1,
        By::HfTrainer,
        true,
    );
    replay(include_str!("testdata/hf_two.json"), 2, By::HfTrainer, true);
}

#[test]
fn lightning() {
    replay(
        include_str!("testdata/lightning.json"),
        1,
        By::Lightning,
        true,
    );
    replay(
        include_str!("testdata/fsspec_transaction.json"),
        1,
        By::Lightning,
        true,
    );
}

#[test]
fn one_file_of_torch_save() {
    replay(
        include_str!("testdata/torch_save_file.json"),
        1,
        By::OneFile,
        true,
    );
}

#[test]
fn orbax_where_there_is_no_rename() {
    replay(
        include_str!("testdata/orbax_commit_file.json"),
        1,
        By::Orbax,
        true,
    );
}

#[test]
fn a_model_in_several_safetensors_files() {
    replay(
        include_str!("testdata/safetensors_index.json"),
        1,
        By::Safetensors,
        false,
    );
}

/// Orbax renames: under the final name there is nothing but the whole, and the temporary name is never complete.
#[test]
fn orbax() {
    let text = include_str!("testdata/orbax.json");
    let (_, states) = recording(text);
    let final_name: Vec<&State> = states
        .iter()
        .filter(|state| state.listing.is_some())
        .collect();
    assert!(!final_name.is_empty() && final_name.iter().all(|state| state.whole));
    for state in final_name {
        for facts in assumptions(0..1, None) {
            let verdict = judge(state.listing.as_ref().expect("there"), &facts);
            assert!(
                matches!(&verdict, Verdict::Sealed(sealed) if (sealed.by, sealed.step) == (By::Orbax, 10)),
                "{verdict:?}"
            );
        }
    }
    let temporary = text.replace(
        "\"subject\": \"10\"",
        "\"subject\": \"10.orbax-checkpoint-tmp\"",
    );
    let (_, states) = recording(&temporary);
    let mut judged = 0;
    for listing in states.iter().filter_map(|state| state.listing.as_ref()) {
        for facts in assumptions(0..1, None) {
            let verdict = judge(listing, &facts);
            let named = Verdict::Unfinished {
                by: By::Rename,
                why: Why::Name,
            };
            assert_eq!(verdict, named);
            judged += 1;
        }
    }
    assert!(judged > 50, "{judged}");
}

/// A script of one's own, with `torch.save` twice: nothing says that the first file is not all. It is seen only that somebody writes, or
/// just did.
#[test]
fn files_of_a_script_of_ones_own() {
    let (_, states) = recording(include_str!("testdata/torch_save.json"));
    let mut sealed = 0;
    for (at, state) in states.iter().enumerate() {
        let Some(listing) = &state.listing else {
            continue;
        };
        let [quiet, killed] = assumptions(0..1, None);
        let writers = if state.written_to {
            Writers::Somebody
        } else {
            Writers::Nobody
        };
        let now = Facts {
            writers,
            quiet_ms: if state.whole { QUIET_MS } else { 100 },
            ..quiet
        };
        let verdict = judge(listing, &now);
        assert_eq!(
            matches!(verdict, Verdict::Sealed(_)),
            state.whole,
            "state {at}: {verdict:?}"
        );
        sealed += usize::from(state.whole);
        let verdict = judge(listing, &killed);
        assert!(
            !matches!(verdict, Verdict::Sealed(_)),
            "state {at}: {verdict:?}"
        );
    }
    assert!(sealed > 0);
}
