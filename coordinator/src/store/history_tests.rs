//! History under a real machine: segments are on disk before a snapshot counts, and every archived job is found, with the index,
//! without it, after a restart, and never in a damaged file.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlctl_proto::ids::JobId;

use super::history::{HistoryError, Page};
use super::load;
use super::segments::{SegmentError, Segments};
use super::tests::{Run, run};
use crate::consensus::Apply;
use crate::state::commands::ArchiveJobs;
use crate::state::records::{ClosedSegment, EndKind};
use crate::state::testing::{Cluster, system};
use crate::state::{Body, State, codec};

/// Commands that end and archive so many jobs, of ann and bob in turn, and the cluster that they make.
fn ended(jobs: usize) -> (Vec<Bytes>, Cluster) {
    let mut cluster = Cluster::new();
    cluster.checked = false;
    cluster.gpu_node("n1", 1);
    for n in 0..jobs {
        let job = cluster.submitted(["ann", "bob"][n % 2], 1, 1);
        let epoch = cluster.started(job, &["n1"]);
        cluster.running(job, epoch);
        cluster.ended("n1", job, epoch, EndKind::Exited);
        cluster.run(system(), Body::ArchiveJobs(ArchiveJobs { most: 3 }));
    }
    let encode = |command| Bytes::from(codec::encode_command(command).expect("fits"));
    (cluster.log().iter().map(encode).collect(), cluster)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir.with_extension("segments")).expect("there");
    let mut files: Vec<PathBuf> = listed.map(|item| item.expect("listed").path()).collect();
    files.sort();
    files
}

fn page(run: &Run, state: &State, after: Option<u64>, owner: &str, limit: usize) -> Vec<u64> {
    let page = Page {
        after: after.map(|counter| JobId::new(1, counter)),
        owner,
        limit,
    };
    let found = run.history.page(state, page).expect("all is here");
    for (archived, spec) in &found {
        assert_eq!(*blake3::hash(spec).as_bytes(), archived.job.spec_hash);
    }
    found.iter().map(|one| one.0.job.id.counter).collect()
}

/// Every archived job, by id and by page, and no other.
fn all_is_found(run: &Run, jobs: u64) {
    let state = run.published.state();
    assert!(
        state.segments().count() >= 2,
        "{} segments",
        state.segments().count()
    );
    for counter in 1..=jobs {
        let id = JobId::new(1, counter);
        let found = run.history.find(&state, id).expect("all is here");
        assert_eq!(found.is_some(), state.is_archived(id), "job {counter}");
        if let Some((archived, spec)) = found {
            assert_eq!((archived.job.id, archived.attempts.len()), (id, 1));
            assert_eq!(*blake3::hash(&spec).as_bytes(), archived.job.spec_hash);
        }
    }
    let archived: Vec<u64> = (1..=jobs)
        .filter(|counter| state.is_archived(JobId::new(1, *counter)))
        .collect();
    assert_eq!(page(run, &state, None, "", 1_000), archived);
    assert_eq!(page(run, &state, None, "", 5), archived[..5]);
    assert_eq!(page(run, &state, Some(7), "", 5), archived[7..12]);
    assert_eq!(page(run, &state, Some(jobs), "", 5), Vec::<u64>::new());
    let bobs: Vec<u64> = archived.iter().copied().filter(|n| n % 2 == 0).collect();
    assert_eq!(page(run, &state, None, "bob", 1_000), bobs);
    assert_eq!(page(run, &state, Some(4), "id-bob", 3), bobs[2..5]);
    assert_eq!(page(run, &state, None, "eve", 9), Vec::<u64>::new());
    assert_eq!(
        run.history
            .find(&state, JobId::new(1, 9_999))
            .expect("reads"),
        None
    );
}

/// Waits until the index has taken in every segment: then readers do without the whole files.
fn indexed(run: &Run) {
    let until = Instant::now() + Duration::from_secs(20);
    while !run.history.indexed(&run.published.state()) {
        assert!(Instant::now() < until, "the index lags");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_archived_job_is_found_with_the_index_and_without_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    let (commands, _) = ended(60);
    let mut first = run(&index, State::new(), false);
    first.apply(&commands);
    all_is_found(&first, 60);
    indexed(&first);
    all_is_found(&first, 60);
    let digest = first.stop();

    let state = load(&index).expect("the index is whole");
    assert_eq!(state.digest(), digest.1);
    let again = run(&index, state.clone(), true);
    indexed(&again);
    all_is_found(&again, 60);
    again.stop();

    fs::remove_dir_all(&index).expect("it was there");
    let without = run(&index, state, false);
    all_is_found(&without, 60);
    indexed(&without);
    all_is_found(&without, 60);
    without.stop();
}

#[test]
fn a_deleted_index_under_load_loses_no_history() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    let (commands, _) = ended(60);
    let mut run = run(&index, State::new(), false);
    for (n, part) in commands.chunks(commands.len() / 12).enumerate() {
        if n % 3 == 1 {
            // It may not be there yet, or be in the middle of being filled.
            let _ = fs::remove_dir_all(&index);
        }
        run.apply(part);
    }
    all_is_found(&run, 60);
    run.stop();
}

#[test]
fn a_snapshot_counts_only_with_its_segments_on_disk_and_a_replay_makes_the_same() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let (commands, _) = ended(40);
    let mut first = run(&one, State::new(), false);
    first.apply(&commands);
    let snapshot = first.machine.snapshot()().expect("encodes");
    let listed = first.published.state().segments().count();
    let mut on_disk = files(&one);
    assert_eq!(on_disk.len(), listed);
    first.stop();

    // A member that gets the snapshot has the list, and not the files.
    let mut second = run(&other, State::new(), false);
    let index = codec::decode_snapshot(&snapshot)
        .expect("whole")
        .applied_index();
    second.machine.restore(index, &snapshot).expect("restores");
    let state = second.published.state();
    let lacking = second.history.segments.lacking(&state);
    assert_eq!(lacking.len(), listed);
    let id = JobId::new(1, 1);
    let error = second.history.find(&state, id).expect_err("it is not here");
    assert!(
        error.to_string().contains("not on this coordinator"),
        "{error}"
    );
    let all = Page {
        after: None,
        owner: "",
        limit: 9,
    };
    assert!(
        second.history.page(&state, all).is_err(),
        "a page that lacks jobs is no page"
    );
    for segment in &lacking {
        let at = on_disk.iter().position(|path| {
            path.to_string_lossy()
                .contains(&blake3::Hash::from_bytes(segment.hash).to_hex()[..])
        });
        let bytes = fs::read(on_disk.remove(at.expect("the other has it"))).expect("reads");
        assert!(matches!(
            second.history.segments.receive(segment, &bytes[1..]),
            Err(SegmentError::Corrupt { .. })
        ));
        second
            .history
            .segments
            .receive(segment, &bytes)
            .expect("is the one");
    }
    all_is_found(&second, 40);
    second.stop();
    assert_eq!(names(&files(&one)), names(&files(&other)));
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    paths.iter().filter_map(name).collect()
}

#[test]
fn a_damaged_segment_is_set_aside_and_never_believed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    let (commands, _) = ended(40);
    let mut first = run(&index, State::new(), false);
    first.apply(&commands);
    indexed(&first);
    let before = first.published.state();
    let find = |run: &Run, counter| run.history.find(&before, JobId::new(1, counter));
    let truth: Vec<_> = (1..=40).map(|n| find(&first, n).expect("reads")).collect();
    first.stop();
    let victim = files(&index).remove(0);
    let good = fs::read(&victim).expect("reads");
    let within = (1..12).map(|part| good.len() * part / 12);
    for at in within.chain([0, 13, good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&victim, &bad).expect("written");
        let state = load(&index).expect("whole");
        let again = run(&index, state.clone(), true);
        let mut lacking = 0;
        for counter in 1..=40 {
            match again.history.find(&state, JobId::new(1, counter)) {
                Ok(found) => assert_eq!(found, truth[counter as usize - 1], "at {at}"),
                Err(HistoryError::Segment(SegmentError::Lacking { .. })) => lacking += 1,
                Err(error) => panic!("at {at}: {error}"),
            }
        }
        let until = Instant::now() + Duration::from_secs(20);
        while again.history.segments.lacking(&state).len() != 1 {
            assert!(Instant::now() < until, "the flip at {at} was not noticed");
            std::thread::sleep(Duration::from_millis(5));
        }
        let segment = again.history.segments.lacking(&state).remove(0);
        assert!(victim.with_extension("damaged").exists() && !victim.exists());
        again
            .history
            .segments
            .receive(&segment, &good)
            .expect("fetched again");
        all_is_found(&again, 40);
        again.stop();
        assert!(lacking <= 40);
    }
}

#[test]
fn what_a_crash_left_is_removed_and_strangers_are_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let bytes = b"any bytes".to_vec();
    let hash = *blake3::hash(&bytes).as_bytes();
    let name = format!("{}.seg", blake3::Hash::from_bytes(hash).to_hex());
    fs::write(path("half.tmp"), b"half").expect("written");
    fs::write(path("notes.txt"), b"mine").expect("written");
    fs::write(path("zz.seg"), b"no hash").expect("written");
    // Torn: the name is there, the bytes are not whole.
    fs::write(path(&name), &bytes[..4]).expect("written");
    let segments = Segments::open(dir.path()).expect("opens");
    assert!(!path("half.tmp").exists() && path("notes.txt").exists() && path("zz.seg").exists());
    assert!(
        segments.for_peer(&hash).expect("reads").is_none(),
        "a torn file is none"
    );
    let closed = ClosedSegment {
        hash,
        bytes: bytes.clone(),
    };
    segments.keep(closed).expect("kept");
    assert_eq!(
        segments.for_peer(&hash).expect("reads"),
        Some(bytes.clone()),
        "before it is written"
    );
    segments.write_waiting().expect("written");
    assert_eq!(fs::read(path(&name)).expect("there"), bytes);
    assert_eq!(segments.for_peer(&hash).expect("reads"), Some(bytes));
    // Deleted under the process: it is noticed, not invented.
    fs::remove_file(path(&name)).expect("there");
    assert!(segments.for_peer(&hash).expect("reads").is_none());
}

#[test]
fn a_torn_file_is_written_again_by_a_replay() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let bytes = b"any bytes".to_vec();
    let hash = *blake3::hash(&bytes).as_bytes();
    let name = format!("{}.seg", blake3::Hash::from_bytes(hash).to_hex());
    let path = dir.path().join(name);
    fs::write(&path, &bytes[..4]).expect("written");
    let segments = Segments::open(dir.path()).expect("opens");
    let closed = ClosedSegment {
        hash,
        bytes: bytes.clone(),
    };
    segments.keep(closed).expect("kept");
    segments.write_waiting().expect("written");
    assert_eq!(fs::read(&path).expect("there"), bytes);
}
