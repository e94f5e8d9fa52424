//! Rules on layouts that are made up here: what no recording shows.
use super::listing::{Content, Entry, Mark, Want, wanted};
use super::*;

fn entry(path: &str, kind: Kind, time: i64, content: Content) -> Entry {
    Entry {
        path: path.into(),
        kind,
        size: if kind == Kind::File { 100 } else { 0 },
        mark: Mark {
            mtime_ns: time,
            ctime_ns: time,
            inode: 1,
        },
        content,
    }
}

/// A directory `name` with these files, each with its time.
fn directory(name: &str, files: &[(&str, i64)]) -> Listing {
    let mut entries: Vec<Entry> = files
        .iter()
        .map(|(path, time)| entry(path, Kind::File, *time, Content::Unread))
        .collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Listing {
        name: name.into(),
        root: entry("", Kind::Dir, 0, Content::Unread),
        entries,
        cut: false,
    }
}

fn write(listing: &mut Listing, path: &str, content: Content) {
    let found = listing.entries.iter_mut().find(|entry| entry.path == path);
    found.expect("a file").content = content;
}

fn facts() -> Facts {
    Facts {
        writers: Writers::Nobody,
        quiet_ms: QUIET_MS,
        life: Life::Running,
        renamed: false,
        committed: None,
        marker_elsewhere: false,
        ranks: 0..1,
        nodes: 1,
        before: None,
    }
}

#[track_caller]
fn sealed(listing: &Listing, facts: &Facts, by: By) {
    let verdict = judge(listing, facts);
    let found = matches!(&verdict, Verdict::Sealed(sealed) if sealed.by == by);
    assert!(found, "{verdict:?}");
}

#[track_caller]
fn unfinished(listing: &Listing, facts: &Facts, expected: &Why) {
    match judge(listing, facts) {
        Verdict::Unfinished { why, .. } => assert_eq!(&why, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_come_first() {
    let plain = |name: &str| judge(&directory(name, &[("a", 1)]), &facts());
    for name in [
        "step-1.tmp",
        "tmp-checkpoint-1",
        "1.orbax-checkpoint-tmp-7",
        "x.dirty",
    ] {
        let by = By::Rename;
        assert_eq!(
            plain(name),
            Verdict::Unfinished { by, why: Why::Name },
            "{name}"
        );
    }
    assert_eq!(plain(".cache"), Verdict::NotACheckpoint);
    for kind in [Kind::Link, Kind::Other, Kind::File] {
        let mut listing = directory("last", &[]);
        listing.root.kind = kind;
        assert_eq!(
            judge(&listing, &facts()),
            Verdict::NotACheckpoint,
            "{kind:?}"
        );
    }
}

#[test]
fn quiet_means_that_nobody_writes_and_nothing_changed() {
    let listing = directory("step-5", &[("a", 1)]);
    sealed(&listing, &facts(), By::Quiet);
    let fresh = Facts {
        quiet_ms: QUIET_MS - 1,
        ..facts()
    };
    unfinished(&listing, &fresh, &Why::Fresh);
    let written = Facts {
        writers: Writers::Somebody,
        ..facts()
    };
    unfinished(&listing, &written, &Why::Written);
    let unknown = Facts {
        writers: Writers::Unknown,
        ..facts()
    };
    unfinished(&listing, &unknown, &Why::Unknown);
    let ended = |life| Facts {
        life,
        quiet_ms: 0,
        writers: Writers::Unknown,
        ..facts()
    };
    sealed(&listing, &ended(Life::EndedWell), By::Quiet);
    unfinished(&listing, &ended(Life::EndedBadly), &Why::Unseen);
    let empty = Why::Missing("a file that is not empty".into());
    unfinished(&directory("step-5", &[]), &facts(), &empty);
    let temporary = Why::Temporary("b.tmp".into());
    unfinished(
        &directory("step-5", &[("a", 1), ("b.tmp", 2)]),
        &facts(),
        &temporary,
    );
    assert!(
        empty.is_half() && temporary.is_half() && !Why::Fresh.is_half() && !Why::Unseen.is_half()
    );
}

#[test]
fn a_rename_is_seen_or_shows_in_the_directory() {
    let killed = Facts {
        life: Life::EndedBadly,
        ..facts()
    };
    let mut listing = directory("step-5", &[("a", 5)]);
    sealed(
        &listing,
        &Facts {
            renamed: true,
            ..killed.clone()
        },
        By::Rename,
    );
    listing.root.mark = Mark {
        mtime_ns: 4,
        ctime_ns: 4,
        inode: 1,
    };
    unfinished(&listing, &killed, &Why::Unseen);
    listing.root.mark.ctime_ns = 6;
    sealed(&listing, &killed, By::Rename);
    // Written to after it.
    listing.entries[0].mark.ctime_ns = 7;
    unfinished(&listing, &killed, &Why::Unseen);
    // Empty ones are renamed too.
    let mut empty = directory("step-6", &[]);
    sealed(
        &empty,
        &Facts {
            renamed: true,
            ..killed.clone()
        },
        By::Rename,
    );
    empty.root.mark = Mark {
        mtime_ns: 4,
        ctime_ns: 6,
        inode: 1,
    };
    // Its rights may have been changed after it was made: of nothing in it that says nothing.
    let nothing = Why::Missing("a file that is not empty".into());
    unfinished(&empty, &killed, &nothing);
    let large = Listing {
        cut: true,
        ..directory("step-7", &[("a", 1)])
    };
    unfinished(&large, &facts(), &Why::Large);
    sealed(
        &large,
        &Facts {
            renamed: true,
            ..facts()
        },
        By::Rename,
    );
}

#[test]
fn the_writers_word_beats_a_layout_until_somebody_writes_again() {
    // Of a library, and half.
    let mut listing = directory(
        "checkpoint-7",
        &[("rng_state.pth", 5), (".mlctl-complete", 6)],
    );
    let killed = Facts {
        life: Life::EndedBadly,
        ..facts()
    };
    let word = |text: &[u8]| Content::Whole(text.to_vec());
    write(
        &mut listing,
        ".mlctl-complete",
        word(b"{\"step\": 9, \"metrics\": {\"loss\": 1.5}}"),
    );
    match judge(&listing, &killed) {
        Verdict::Sealed(sealed) => {
            assert_eq!((sealed.by, sealed.step), (By::Word, 9));
            assert_eq!(
                (
                    sealed.metrics[0].name.as_str(),
                    sealed.metrics[0].value.as_str()
                ),
                ("loss", "1.5")
            );
        }
        other => panic!("{other:?}"),
    }
    write(&mut listing, ".mlctl-complete", word(b""));
    assert!(matches!(judge(&listing, &killed), Verdict::Sealed(sealed) if sealed.step == 7));
    write(&mut listing, ".mlctl-complete", word(b"{\"step\": 9"));
    assert!(matches!(
        judge(&listing, &killed),
        Verdict::Unfinished {
            why: Why::Word(_),
            ..
        }
    ));
    write(&mut listing, ".mlctl-complete", word(b""));
    listing.entries[1].mark.mtime_ns = 8;
    unfinished(&listing, &killed, &Why::Stale("rng_state.pth".into()));
    let said = Facts {
        committed: Some(Commit {
            step: Some(3),
            metrics: Vec::new(),
        }),
        ..killed
    };
    assert!(matches!(judge(&listing, &said), Verdict::Sealed(sealed) if sealed.step == 3));
}

#[test]
fn a_nodes_part_of_a_distributed_checkpoint() {
    let part = directory("step-5", &[("__4_0.distcp", 3)]);
    let two = Facts {
        nodes: 2,
        ranks: 4..6,
        ..facts()
    };
    unfinished(&part, &two, &Why::Elsewhere(".metadata"));
    unfinished(&part, &facts(), &Why::Missing(".metadata".into()));
    let elsewhere = Facts {
        marker_elsewhere: true,
        ..two.clone()
    };
    sealed(&part, &elsewhere, By::Dcp);
    unfinished(
        &part,
        &Facts {
            quiet_ms: 0,
            ..elsewhere.clone()
        },
        &Why::Fresh,
    );
    unfinished(
        &part,
        &Facts {
            writers: Writers::Somebody,
            ..elsewhere
        },
        &Why::Written,
    );
    // A marker for each rank.
    let mut files = vec![
        ("__4_0.distcp", 3),
        ("__5_0.distcp", 3),
        ("__4.metadata", 4),
    ];
    unfinished(
        &directory("step-5", &files),
        &two,
        &Why::Missing("__5.metadata".into()),
    );
    files.push(("__5.metadata", 4));
    sealed(&directory("step-5", &files), &two, By::Dcp);
}

#[test]
fn distributed_checkpoints_below_and_beside() {
    let killed = Facts {
        life: Life::EndedBadly,
        ..facts()
    };
    let below = [("model/__0_0.distcp", 3), ("model/.metadata", 4)];
    // An optimizer may be about to follow.
    sealed(&directory("step-5", &below), &facts(), By::Dcp);
    unfinished(&directory("step-5", &below), &killed, &Why::Unseen);
    let mut both = below.to_vec();
    both.push(("optim/__0_0.distcp", 5));
    unfinished(
        &directory("step-5", &both),
        &facts(),
        &Why::Missing(".metadata".into()),
    );
    // Lightning writes one more file.
    let mut sharded = vec![("__0_0.distcp", 3), (".metadata", 4)];
    unfinished(
        &directory("step=5.ckpt", &sharded),
        &facts(),
        &Why::Missing("meta.pt".into()),
    );
    sharded.push(("meta.pt", 5));
    sealed(&directory("step=5.ckpt", &sharded), &killed, By::Dcp);
    // The names of parts in `.metadata`.
    let mut listing = directory("step-5", &[("__0_0.distcp", 3), (".metadata", 4)]);
    write(
        &mut listing,
        ".metadata",
        Content::Whole(b"x__0_0.distcp\x94.distcp__1_0.distcp".to_vec()),
    );
    unfinished(&listing, &killed, &Why::Missing("__1_0.distcp".into()));
}

/// What the trainer wrote, with a `trainer_state.json` that can be read.
fn trainer(name: &str, files: &[(&str, i64)]) -> Listing {
    let mut listing = directory(name, files);
    let state = Content::Whole(b"{\"global_step\": 5}".to_vec());
    write(&mut listing, "trainer_state.json", state);
    listing
}

#[test]
fn hugging_face_trainer_beyond_the_recordings() {
    let killed = Facts {
        life: Life::EndedBadly,
        ..facts()
    };
    // `save_only_model`, under a name without a number.
    let only = trainer(
        "best",
        &[("model.safetensors", 1), ("trainer_state.json", 2)],
    );
    assert!(
        matches!(judge(&only, &killed), Verdict::Sealed(sealed) if (sealed.by, sealed.step) == (By::HfTrainer, 5))
    );
    // The model is being written over: what is left of the save before says nothing of it.
    let over = [
        ("model.safetensors", 9),
        ("rng_state.pth", 1),
        ("trainer_state.json", 2),
    ];
    let over = trainer("checkpoint-5", &over);
    unfinished(&over, &facts(), &Why::Stale("model.safetensors".into()));
    let renamed = Facts {
        renamed: true,
        ..facts()
    };
    sealed(&over, &renamed, By::HfTrainer);
    // DeepSpeed's optimizer lies below.
    let deep = [("global_step5/a", 1), ("trainer_state.json", 2)];
    unfinished(
        &trainer("checkpoint-5", &deep),
        &killed,
        &Why::Missing("rng_state.pth".into()),
    );
    // Two random states where we started one process: there may be more.
    let more = [
        ("rng_state_0.pth", 1),
        ("rng_state_1.pth", 1),
        ("trainer_state.json", 2),
    ];
    unfinished(&trainer("checkpoint-5", &more), &killed, &Why::Unseen);
    sealed(&trainer("checkpoint-5", &more), &facts(), By::HfTrainer);
    let fresh = Facts {
        quiet_ms: 0,
        ..facts()
    };
    unfinished(&trainer("checkpoint-5", &more), &fresh, &Why::Fresh);
}

#[test]
fn a_name_or_a_random_state_alone_is_no_whole_of_hugging_face_trainer() {
    // Another node has the state; this one's ranks saved theirs.
    let second = directory("checkpoint-5", &[("rng_state_1.pth", 1)]);
    let two = Facts {
        nodes: 2,
        ranks: 1..2,
        ..facts()
    };
    unfinished(&second, &two, &Why::Elsewhere("trainer_state.json"));
    sealed(
        &second,
        &Facts {
            marker_elsewhere: true,
            ..two
        },
        By::HfTrainer,
    );
    // A directory with such a name is never complete because it is quiet, but it is if it was renamed.
    let own = directory("checkpoint-000005", &[("weights", 1)]);
    unfinished(&own, &facts(), &Why::Missing("trainer_state.json".into()));
    sealed(
        &own,
        &Facts {
            renamed: true,
            ..facts()
        },
        By::Rename,
    );
}

#[test]
fn what_was_renamed_is_never_left_half() {
    let killed = Facts {
        life: Life::EndedBadly,
        ..facts()
    };
    let mut listing = directory("step-5", &[("__0_0.distcp", 3)]);
    let missing = Some(Why::Missing(".metadata".into()));
    assert_eq!(left_half(&listing, &killed), missing);
    listing.root.mark.ctime_ns = 6;
    assert_eq!(left_half(&listing, &killed), None);
    let own = directory("checkpoint-5", &[("weights", 1)]);
    assert_eq!(left_half(&own, &killed), None);
    let quiet = directory("step-5", &[]);
    assert_eq!(left_half(&quiet, &killed), None);
}

#[test]
fn orbax_without_a_file_of_success() {
    let mut listing = directory(
        "10",
        &[("_CHECKPOINT_METADATA", 1), ("default/manifest.ocdbt", 1)],
    );
    let missing = Why::Missing("commit_success.txt".into());
    unfinished(&listing, &facts(), &missing);
    sealed(
        &listing,
        &Facts {
            renamed: true,
            ..facts()
        },
        By::Orbax,
    );
    write(
        &mut listing,
        "_CHECKPOINT_METADATA",
        Content::Whole(b"{\"commit_timestamp_nsecs\": null}".to_vec()),
    );
    unfinished(&listing, &facts(), &missing);
    write(
        &mut listing,
        "_CHECKPOINT_METADATA",
        Content::Whole(b"{\"commit_timestamp_nsecs\": 17}".to_vec()),
    );
    sealed(&listing, &facts(), By::Orbax);
}

#[test]
fn parts_of_a_model_are_counted() {
    let parts = [
        ("model-00001-of-00002.safetensors", 1),
        ("model.safetensors.index.json", 2),
    ];
    let missing = Why::Missing("model-00002-of-00002.safetensors".into());
    unfinished(&directory("step-5", &parts), &facts(), &missing);
    // A number that somebody made up takes no time.
    let absurd = [
        ("a-1-of-4294967295.safetensors", 1),
        ("a.safetensors.index.json", 2),
    ];
    assert!(matches!(
        judge(&directory("step-5", &absurd), &facts()),
        Verdict::Unfinished { .. }
    ));
    let bare = directory("step-5", &[("config.json", 1)]);
    unfinished(&bare, &facts(), &Why::Missing("the model's weights".into()));
    // One byte less than the header says.
    let mut listing = directory("step-5", &[("model.safetensors", 1)]);
    let mut head = 48_u64.to_le_bytes().to_vec();
    head.extend(format!("{:<48}", r#"{"w": {"data_offsets": [0, 44]}}"#).bytes());
    write(&mut listing, "model.safetensors", Content::Head(head));
    sealed(&listing, &facts(), By::Safetensors);
    listing.entries[0].size = 99;
    unfinished(&listing, &facts(), &Why::Torn("model.safetensors".into()));
}

#[test]
fn a_file_rewritten_in_place_is_noticed() {
    let listing = directory("step-5", &[("a", 1), ("b", 1), ("c", 1)]);
    let then = listing.fingerprint();
    assert_eq!(then.changed(&listing.fingerprint()), None);
    let change = |by: fn(&mut Listing)| {
        let mut now = listing.clone();
        by(&mut now);
        then.changed(&now.fingerprint()).map(str::to_owned)
    };
    for (what, changed) in [
        ("size", change(|now| now.entries[1].size += 1)),
        ("mtime", change(|now| now.entries[1].mark.mtime_ns += 1)),
        // The same size and the old time put back, as `rsync` and `touch -r` do.
        ("ctime", change(|now| now.entries[1].mark.ctime_ns += 1)),
        ("inode", change(|now| now.entries[1].mark.inode += 1)),
        ("gone", change(|now| drop(now.entries.remove(1)))),
    ] {
        assert_eq!(changed.as_deref(), Some("b"), "{what}");
    }
    let new = change(|now| now.entries.push(entry("d", Kind::File, 1, Content::Unread)));
    assert_eq!(new.as_deref(), Some("d"));
}

#[test]
fn only_what_rules_look_at_is_read() {
    for (path, size, want) in [
        ("trainer_state.json", 100, Want::Whole),
        ("a/model.safetensors.index.json", 100, Want::Whole),
        (".metadata", 8 << 20, Want::Whole),
        (".metadata", (8 << 20) + 1, Want::Nothing),
        ("model.safetensors", 1 << 40, Want::Header),
        ("epoch=1.ckpt", 1 << 40, Want::Ends),
        ("__0_0.distcp", 100, Want::Nothing),
        ("train.log", 100, Want::Nothing),
    ] {
        assert_eq!(wanted(path, size), want, "{path}");
    }
}
