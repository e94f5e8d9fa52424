//! Jobs leave the tables in order, nothing of them is lost, and every member closes the same segments.
use mlctl_proto::ids::JobId;
use mlctl_proto::limits::IDEMPOTENCY_MS;

use super::*;
use crate::state::codec::{decode_segment, decode_snapshot, encode_snapshot};
use crate::state::commands::{CancelJobs, ChangeSettings, RetryJobs};
use crate::state::records::EndKind;
use crate::state::testing::{Cluster, person, sealed, system};
use crate::state::{Applied, Body, State};

fn archive(cluster: &mut Cluster, most: u32) -> Applied {
    cluster.run(system(), Body::ArchiveJobs(ArchiveJobs { most }))
}

/// A job that ran on `a` and is over.
fn ended(cluster: &mut Cluster) -> JobId {
    let job = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    cluster.ended("a", job, epoch, EndKind::Exited);
    job
}

fn cluster(jobs: usize) -> (Cluster, Vec<JobId>) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let jobs = (0..jobs).map(|_| ended(&mut cluster)).collect();
    (cluster, jobs)
}

#[test]
fn the_oldest_leave_and_those_that_are_kept_stay() {
    let (mut cluster, jobs) = cluster(6);
    let waiting = cluster.submitted("bob", 1, 1);
    let before = cluster.state.clone();
    let applied = archive(&mut cluster, 3);
    assert_eq!(applied.reply, Reply::Done);
    assert!(applied.changed.is_empty() && applied.effects.is_empty() && applied.closed.is_empty());
    let gone: Vec<bool> = jobs
        .iter()
        .map(|id| cluster.state.is_archived(*id))
        .collect();
    assert_eq!(
        gone,
        [true, true, true, false, false, false],
        "as many as the command says"
    );
    archive(&mut cluster, 100);
    assert_eq!(
        cluster.state.finished_count(),
        2,
        "as many as the settings say"
    );
    assert!(
        archive(&mut cluster, 100)
            .rows
            .iter()
            .all(|row| row.table == 1),
        "only the clock moved"
    );
    assert!(cluster.state.job(waiting).is_some());
    for id in &jobs[..4] {
        let (archived, spec) = cluster
            .state
            .archived_in_tail(*id)
            .expect("reads")
            .expect("is there");
        let old = before.job(*id).expect("was there");
        assert_eq!(&archived.job, old.as_ref());
        assert!(
            archived
                .attempts
                .iter()
                .eq(before.attempts_of(*id).map(AsRef::as_ref))
        );
        let shown = cluster
            .state
            .with_archived(vec![(archived, spec.clone())])
            .expect("shows");
        assert_eq!(shown.job(*id), before.job(*id));
        assert_eq!(shown.request(old), before.request(old));
        assert_eq!(spec, before.spec(&old.spec_hash).expect("was there").json);
    }
    assert_eq!(cluster.state.archived_in_tail(waiting), Ok(None));
    assert!(!cluster.state.is_archived(JobId::new(1, 99)));
    assert!(!cluster.state.is_archived(JobId::new(9, 1)));
}

/// Another try of it went on from copies that had been dropped since: it could not be launched, again and again.
#[test]
fn another_try_of_a_job_that_leaves_knows_what_it_left_last() {
    let (mut cluster, _) = cluster(0);
    let over = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(over, &["a"]);
    cluster.running(over, epoch);
    cluster.event("a", over, epoch, sealed("step-5", 5));
    cluster.event(
        "a",
        over,
        epoch,
        crate::state::testing::ended(EndKind::Exited, 1),
    );
    let again = RetryJobs { jobs: vec![over] };
    cluster.run(person("ann", false), Body::RetryJobs(again));
    let heir = JobId::new(1, 2);
    let known = |cluster: &Cluster| cluster.job(heir).lineage.expect("it comes from one");
    let first = known(&cluster).checkpoints;
    assert_eq!(first.len(), 1);
    cluster.event("a", over, epoch, sealed("step-9", 9));
    let last = cluster.job(over).checkpoints;
    for _ in 0..6 {
        ended(&mut cluster);
    }
    archive(&mut cluster, 100);
    assert!(cluster.state.is_archived(over));
    assert_ne!(first, last);
    assert_eq!(known(&cluster).checkpoints, last);
}

#[test]
fn a_job_leaves_when_it_is_too_old() {
    let (mut cluster, jobs) = cluster(2);
    archive(&mut cluster, 100);
    assert_eq!(cluster.state.finished_count(), 2);
    cluster.now_ms += 30 * 24 * 3_600_000 - 4;
    archive(&mut cluster, 100);
    assert_eq!(
        jobs.iter()
            .map(|id| cluster.state.is_archived(*id))
            .collect::<Vec<_>>(),
        [true, false],
        "the second ended some milliseconds later"
    );
}

#[test]
fn a_spec_goes_with_the_last_job_that_names_it() {
    let (mut cluster, jobs) = cluster(4);
    let hash = cluster.job(jobs[0]).spec_hash;
    assert_eq!(cluster.state.spec(&hash).map(|spec| spec.uses), Some(4));
    archive(&mut cluster, 100);
    assert_eq!(cluster.state.spec(&hash).map(|spec| spec.uses), Some(2));
    let other = cluster.submitted("ann", 1, 0);
    cluster.run(
        person("ann", false),
        Body::CancelJobs(CancelJobs::of(vec![other])),
    );
    for _ in 0..2 {
        let job = cluster.submitted("ann", 1, 0);
        cluster.run(
            person("ann", false),
            Body::CancelJobs(CancelJobs::of(vec![job])),
        );
    }
    archive(&mut cluster, 100);
    assert!(cluster.state.spec(&hash).is_none(), "nobody names it");
    assert_eq!(cluster.state.finished_count(), 2);
}

#[test]
fn what_is_asked_of_an_archived_job_is_refused_clearly() {
    let (mut cluster, jobs) = cluster(4);
    archive(&mut cluster, 100);
    let cancel = |jobs: &[JobId]| Body::CancelJobs(CancelJobs::of(jobs.to_vec()));
    let applied = cluster.run(person("ann", false), cancel(&jobs[..2]));
    let refusal = applied.refusal().expect("refused");
    assert_eq!(refusal.code, Code::Conflict);
    assert!(
        refusal.message.starts_with("job 1 ended long ago"),
        "{refusal}"
    );
    let live = cluster.submitted("ann", 1, 0);
    let applied = cluster.run(person("ann", false), cancel(&[jobs[0], jobs[3], live]));
    assert_eq!(
        applied.reply,
        Reply::Cancelled {
            jobs: vec![live],
            already_ended: vec![jobs[0], jobs[3]]
        },
        "among others it is over as any other is"
    );
    // An agent that speaks of it changes nothing, and is heard.
    let epoch = mlctl_proto::ids::Epoch::new(1, 1);
    let applied = cluster.ended("a", jobs[0], epoch, EndKind::Exited);
    assert_eq!(applied.reply, Reply::Done);
}

#[test]
fn people_do_not_archive_and_a_retried_submit_finds_its_job() {
    let mut cluster = Cluster::new();
    let first = cluster.submit_keyed("ann", &["true"], [1; 16], [1; 32]);
    let reply = cluster.apply(&first).reply;
    let Reply::Submitted { job } = reply else {
        panic!("{reply:?}")
    };
    cluster.run(
        person("ann", false),
        Body::CancelJobs(CancelJobs::of(vec![job])),
    );
    for _ in 0..2 {
        let job = cluster.submitted("ann", 1, 0);
        cluster.run(
            person("ann", false),
            Body::CancelJobs(CancelJobs::of(vec![job])),
        );
    }
    let body = Body::ArchiveJobs(ArchiveJobs { most: 9 });
    let refused = cluster.run(person("root", true), body);
    assert_eq!(
        refused.refusal().map(|refusal| refusal.code),
        Some(Code::Denied)
    );
    archive(&mut cluster, 9);
    assert!(cluster.state.is_archived(job));
    assert_eq!(cluster.apply(&first).reply, reply);
    cluster.now_ms += IDEMPOTENCY_MS;
    archive(&mut cluster, 9);
    assert_eq!(cluster.state.keys.len(), 0, "the key is over");
}

/// Archives `jobs` jobs and gives the state with every segment's file.
fn long_history(jobs: usize) -> (Cluster, Vec<Vec<u8>>) {
    let (mut cluster, _) = cluster(0);
    let mut files = Vec::new();
    for _ in 0..jobs {
        ended(&mut cluster);
        files.extend(
            archive(&mut cluster, 4)
                .closed
                .into_iter()
                .map(|closed| closed.bytes),
        );
    }
    (cluster, files)
}

#[test]
fn a_command_closes_a_segment_or_moves_jobs_but_not_both() {
    let (mut cluster, _) = cluster(0);
    let mut closed = 0;
    for _ in 0..60 {
        ended(&mut cluster);
        let before = cluster.state.finished_count();
        let applied = archive(&mut cluster, 4);
        let moved = before - cluster.state.finished_count();
        match applied.closed.len() {
            0 => assert_eq!(moved, before.saturating_sub(2)),
            1 => {
                assert_eq!((moved, cluster.state.tail().count()), (0, 0));
                closed += 1;
            }
            more => panic!("{more} segments at once"),
        }
        assert!(cluster.state.finished_count() <= 3, "one waits at most");
    }
    assert!(closed >= 3, "{closed} segments");
}

#[test]
fn segments_hold_everything_and_are_the_same_everywhere() {
    let (cluster, files) = long_history(60);
    assert!(files.len() >= 3, "{} segments", files.len());
    let listed: Vec<_> = cluster.state.segments().cloned().collect();
    assert_eq!(listed.len(), files.len());
    let mut next = 1;
    for (segment, file) in listed.iter().zip(&files) {
        assert_eq!(segment.hash, *blake3::hash(file).as_bytes());
        assert_eq!(segment.bytes, file.len() as u64);
        assert!(segment.bytes <= 4 << 10, "{} bytes", segment.bytes);
        for placed in decode_segment(file).expect("it was just written") {
            assert_eq!(placed.archived.seq, next);
            let id = placed.archived.job.id;
            assert!(segment.may_hold(id) && cluster.state.is_archived(id));
            assert_eq!(
                crate::state::codec::decode_archived(&file[placed.job]),
                Ok(placed.archived.clone())
            );
            assert_eq!(
                *blake3::hash(&file[placed.spec]).as_bytes(),
                placed.archived.job.spec_hash
            );
            next += 1;
        }
    }
    assert_eq!(
        next + cluster
            .state
            .tail()
            .map(|batch| batch.jobs.len() as u64)
            .sum::<u64>(),
        59
    );
    let mut replayed = State::new();
    let mut again = Vec::new();
    for (index, command) in (1..).zip(cluster.log()) {
        again.extend(
            replayed
                .apply(index, command)
                .closed
                .into_iter()
                .map(|closed| closed.bytes),
        );
    }
    assert_eq!(again, files);
    let loaded = decode_snapshot(&encode_snapshot(&replayed)).expect("it was just written");
    assert_eq!(loaded.digest(), cluster.state.digest());
    assert_eq!(loaded.next_seq(), cluster.state.next_seq());
}

#[test]
fn no_bytes_make_the_decoder_of_segments_panic_or_lie() {
    let (_, files) = long_history(30);
    let good = files.first().expect("one was closed");
    for at in 0..good.len() {
        assert!(decode_segment(&good[..at]).is_err(), "cut at {at}");
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        assert!(decode_segment(&bad).is_err(), "flipped at {at}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(decode_segment(&longer).is_err());
    // A header that promises four thousand million records, checksum and all.
    let mut boast = good[..28].to_vec();
    boast[20..28].fill(0xff);
    boast.extend_from_slice(&crc32fast::hash(&boast).to_le_bytes());
    assert!(decode_segment(&boast).is_err());
}

#[test]
fn zero_is_no_retention() {
    let mut cluster = Cluster::new();
    let change = ChangeSettings {
        keep_finished: Some(0),
        ..ChangeSettings::default()
    };
    let applied = cluster.run(person("root", true), Body::ChangeSettings(change));
    assert_eq!(
        applied.refusal().map(|refusal| refusal.code),
        Some(Code::BadRequest)
    );
}

/// Each rule of history is broken once: a check that cannot fail would show.
#[test]
fn each_rule_of_history_can_fail() {
    use crate::state::invariants::{check, check_step};
    type Spoil = fn(&mut State);
    let (whole, _) = long_history(40);
    let spoils: [(&str, Spoil); 6] = [
        ("segments follow", |state| {
            let segment = Segment::clone(state.last_segment().expect("closed"));
            state.put_segment(Segment {
                last_seq: segment.last_seq + 1,
                number: 9,
                ..segment
            });
        }),
        ("the tail follows", |state| {
            state.put_batch(HistoryBatch {
                first_seq: 999,
                specs: BTreeMap::new(),
                jobs: vec![(JobId::new(1, 1), Vec::new())],
            });
        }),
        ("a job is in the tables or in history", |state| {
            let live = state.jobs().next().expect("some are kept").id;
            state.put_batch(HistoryBatch {
                first_seq: state.next_seq(),
                specs: BTreeMap::new(),
                jobs: vec![(live, Vec::new())],
            });
        }),
        ("every id that was given out", |state| state.remove_tail()),
        ("a spec knows", |state| {
            let spec = state.specs.iter().next().expect("named").1;
            let spec = crate::state::records::Spec {
                uses: 77,
                json: spec.json.clone(),
            };
            state.put_spec(spec).expect("it was read before");
        }),
        ("history only grows", |state| {
            let number = state.last_segment().expect("closed").number;
            state.segments.remove(&number);
        }),
    ];
    for (rule, spoil) in spoils {
        let mut state = whole.state.clone();
        spoil(&mut state);
        let mut found = check(&state);
        found.extend(check_step(&whole.state, &state));
        let told = found
            .iter()
            .any(|violation| violation.rule.starts_with(rule));
        assert!(told, "{rule}: {found:?}");
    }
}
