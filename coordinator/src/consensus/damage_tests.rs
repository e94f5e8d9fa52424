//! One stopped member's files, damaged at random: it reads what the cluster holds, or it refuses and joins anew.
//!
//! It does not damage two members at once: a majority is what the others' data rests on.

use super::log::engine::LogStore;
use super::log::recover;
use super::snapshots::SnapshotStore;
use super::tests::{Cluster, History, PATIENCE, VOTERS, lock, wait};
use super::*;
use raft::eraftpb::EntryType;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const SNAPSHOT_EVERY: u64 = 25;

/// A small generator, so that a run's choices depend on its seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 32)) % sides as u64) as usize
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir).expect("lists") {
        let path = item.expect("an item").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Damages one file; says how.
fn damage(dir: &Path, dice: &mut Dice) -> String {
    let all = files(dir);
    let path = &all[dice.roll(all.len())];
    let mut bytes = fs::read(path).expect("reads");
    let kind = dice.roll(20);
    let how = match kind {
        0 => {
            fs::remove_file(path).expect("removes");
            return format!("{} removed", path.display());
        }
        1 => {
            bytes.clear();
            "emptied".to_owned()
        }
        2 => {
            let garbage = 1 + dice.roll(300);
            bytes.extend((0..garbage).map(|_| dice.roll(256) as u8));
            format!("{garbage} bytes appended")
        }
        _ if bytes.is_empty() => "empty already".to_owned(),
        3..=8 => {
            let length = dice.roll(bytes.len());
            bytes.truncate(length);
            format!("cut to {length}")
        }
        _ => {
            let flips = 1 + dice.roll(3);
            for _ in 0..flips {
                let (at, bit) = (dice.roll(bytes.len()), dice.roll(8));
                bytes[at] ^= 1 << bit;
            }
            format!("{flips} bits flipped")
        }
    };
    fs::write(path, bytes).expect("writes");
    format!("{} {how}", path.display())
}

/// Reads everything that a directory holds and compares it with what was committed. What it refuses to read is not
/// compared: the member will not start on it.
fn verify(dir: &Path, history: &History) {
    let Ok(log) = LogStore::open(&dir.join("log")) else {
        return;
    };
    let store = SnapshotStore::open(&dir.join("snapshots"), log.mark().floor.0).expect("opens");
    let Ok(entries) = log.entries() else {
        return;
    };
    let Ok(judged) = recover::judge(log.dir(), log.mark(), entries, &store.verified()) else {
        return;
    };
    for entry in &judged.entries {
        let committed = entry.index <= judged.hard_state.commit;
        if committed && entry.get_entry_type() == EntryType::EntryNormal {
            let commands = turn::decode_commands(&entry.data).expect("judged");
            assert_eq!(history.get(&entry.index), Some(&commands));
        }
    }
    for meta in store.verified() {
        let payload = store.payload(&meta).expect("verified");
        let held = turn::decode_commands(&payload.into()).expect("decodes");
        let wanted: Vec<Bytes> = history
            .range(..=meta.index)
            .flat_map(|(_, commands)| commands.clone())
            .collect();
        assert_eq!(held, wanted, "the snapshot of index {}", meta.index);
    }
}

/// Asks whoever leads until the change is made.
async fn change(cluster: &Cluster, change: Change) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, leader) = cluster.leader().await;
        match leader.change_members(change.clone()).await {
            Ok(()) => return,
            Err(refusal) => assert!(Instant::now() < deadline, "{change:?}: {refusal}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// `old` is given up; `new` takes its place.
async fn rejoin(cluster: &mut Cluster, old: MemberId, new: MemberId) {
    let aside = set_aside(&cluster.path(old)).expect("moves");
    assert!(aside.is_some_and(|aside| aside.exists()));
    let info = format!("member {new}");
    begin_join(&cluster.path(new), new, &info).expect("begins");
    change(cluster, Change::AddLearner { id: new, info }).await;
    let (_, leader) = cluster.leader().await;
    let begin = Begin::Join {
        founders: leader.founders().clone(),
        members: Membership::clone(&leader.status().borrow().members),
        incarnation: leader.incarnation(),
    };
    cluster.try_start(new, begin).expect("a learner starts");
    let promote = Change::Promote {
        learner: new,
        replacing: Some(old),
    };
    change(cluster, promote).await;
    let status = cluster.handle(new).status();
    wait("the promotion", || {
        let members = Arc::clone(&status.borrow().members);
        (members.voters.contains(&new) && !members.contains(old) && !members.is_joint())
            .then_some(())
    })
    .await;
}

/// Starts a damaged member; false if it refuses, now or as soon as the leader proves that something is missing.
async fn starts(cluster: &mut Cluster, id: MemberId, how: &str) -> bool {
    match cluster.try_start(id, Begin::Resume) {
        Err(error) => {
            let text = error.to_string();
            assert!(
                error.is_loss() && text.contains("--rejoin"),
                "{how}: {text}"
            );
            return false;
        }
        Ok(()) => cluster.propose("while it catches up").await,
    };
    let handle = cluster.handle(id);
    let caught_up = wait("catching up", || {
        let status = handle.status().borrow().clone();
        let newest = lock(&cluster.history).keys().next_back().copied();
        match lock(&cluster.fatal).pop() {
            Some(reason) => Some(Err(reason)),
            None => (Some(status.applied) >= newest).then_some(Ok(())),
        }
    });
    let Err(reason) = caught_up.await else {
        return true;
    };
    assert!(reason.contains("--rejoin"), "{how}: {reason}");
    cluster.stop(id).await;
    let again = cluster.try_start(id, Begin::Resume);
    assert!(again.is_err_and(|error| error.is_loss()), "{how}");
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_member_reads_what_the_cluster_holds_or_joins_anew() {
    let full = std::env::var_os("MLCTL_TEST_FULL").is_some_and(|value| value == "1");
    let damages = if full { 500 } else { 12 };
    let mut dice =
        Dice(std::env::var("MLCTL_DAMAGE_SEED").map_or(1, |seed| seed.parse().expect("a number")));
    let mut cluster = Cluster::new(SNAPSHOT_EVERY);
    let (mut ids, mut next, mut refused) = (VOTERS, 1_000, 0);
    let mut acknowledged = Vec::new();
    for round in 0..damages {
        for number in 0..6 {
            let command = format!("round {round} number {number}");
            cluster.propose(&command).await;
            acknowledged.push(command);
        }
        let slot = dice.roll(ids.len());
        let old = ids[slot];
        cluster.stop(old).await;
        let how = format!("round {round}: {}", damage(&cluster.path(old), &mut dice));
        let history = lock(&cluster.history).clone();
        verify(&cluster.path(old), &history);
        if !starts(&mut cluster, old, &how).await {
            refused += 1;
            next += 1;
            rejoin(&mut cluster, old, next).await;
            ids[slot] = next;
        }
        cluster.agree(&acknowledged).await;
        cluster.assert_sound();
        let status = cluster.handle(ids[slot]).status();
        let mut expected = ids.to_vec();
        expected.sort_unstable();
        assert_eq!(status.borrow().members.voters, expected, "{how}");
    }
    println!("{damages} damages: {refused} refused and joined anew, the others read everything");
    assert!(refused > 0 && refused < damages, "{refused} of {damages}");
}
