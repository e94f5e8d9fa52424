//! Uploads, downloads, removals and collections that are cut between any two requests: what is listed is always whole, and the same call goes
//! on. Does NOT kill processes: what they leave behind here is what requests left behind.
#![cfg(target_os = "linux")]
mod common;

use std::fs;
use std::sync::atomic::Ordering;

use common::far::*;
use common::*;
use mlctl_blobs::checkpoint::Restore;
use mlctl_blobs::upload::Options;

const CUTS: [Cut; 2] = [Cut::Before, Cut::After];

fn write_small(root: &std::path::Path, seed: u64) {
    write(root, "model.bin", &noise(seed, 9 * MIB));
    write(root, "log.txt", &b"loss 0.25\n".repeat(20_000));
    write(root, "nothing", b"");
}

#[tokio::test]
async fn an_upload_that_is_cut_anywhere_goes_on() {
    let dir = scratch();
    let source = dir.path().join("source");
    write_small(&source, 1);
    let before = look(&source);
    let store = open(&dir.path().join("store"));
    let id = store.seal(&source).expect("sealed").id;
    for cut in CUTS {
        let mut cuts = 0;
        // Each time a fresh store, cut one request later, until an upload comes through.
        loop {
            let far = dir.path().join(format!("far-{cut:?}-{cuts}"));
            let (faulty, _) = Faulty::over(&far, cuts, cut, Options::default());
            let sound = directory(&far, Options::default());
            let up = faulty.upload(&store, id, &entry("a"), &unpaced()).await;
            let listed = sound.list_parts(None).await.expect("listed");
            assert_eq!(listed.unreadable, [""; 0]);
            if !listed.parts.is_empty() {
                let to = open(&dir.path().join(format!("seen-{cut:?}-{cuts}")));
                sound
                    .download(&to, id)
                    .await
                    .expect("what is listed is whole");
            }
            if let Ok(up) = up {
                assert!(up.sent_chunks == 4 && cuts > 12, "{cuts} requests");
                break;
            }
            let sent = objects(&far, "chunks").len();
            let up = sound
                .upload(&store, id, &entry("a"), &unpaced())
                .await
                .expect("goes on");
            assert_eq!(
                (up.sent_chunks as usize, up.skipped_chunks as usize),
                (4 - sent, sent)
            );
            let to = open(&dir.path().join("to"));
            sound.download(&to, id).await.expect("downloaded");
            let dest = dir.path().join("dest");
            let how = Restore {
                share: false,
                hash: true,
            };
            to.restore(&id, &dest, how).expect("restored");
            assert_eq!(look(&dest), before);
            drop(to);
            for done in ["to", "dest"] {
                fs::remove_dir_all(dir.path().join(done)).expect("removed");
            }
            cuts += 1;
        }
    }
}

#[tokio::test]
async fn a_download_that_is_cut_anywhere_goes_on() {
    let dir = scratch();
    let source = dir.path().join("source");
    write_small(&source, 2);
    let store = open(&dir.path().join("store"));
    let id = store.seal(&source).expect("sealed").id;
    let far = dir.path().join("far");
    let sound = directory(&far, Options::default());
    sound
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect("uploaded");
    for cut in CUTS {
        let mut cuts = 0;
        loop {
            let to = open(&dir.path().join(format!("to-{cut:?}-{cuts}")));
            let (faulty, _) = Faulty::over(&far, cuts, cut, Options::default());
            let down = faulty.download(&to, id).await;
            assert_eq!(to.is_held(&id), down.is_ok());
            if down.is_ok() {
                assert!(cuts > 4, "{cuts} requests");
                break;
            }
            let rest = sound.download(&to, id).await.expect("goes on");
            assert!(rest.chunks <= 4);
            if cuts > 4 {
                assert!(rest.chunks < 4, "what came does not come again");
            }
            to.verify(&id).expect("whole");
            cuts += 1;
        }
    }
    // The same without a fresh start: one request more each time is enough.
    let (faulty, left) = Faulty::over(
        &far,
        0,
        Cut::Before,
        Options {
            requests: 1,
            ..Options::default()
        },
    );
    let to = open(&dir.path().join("bit by bit"));
    let mut calls = 0;
    loop {
        left.store(3, Ordering::SeqCst);
        calls += 1;
        match faulty.download(&to, id).await {
            Ok(_) => break,
            Err(_) => assert!(calls < 10, "it does not go on"),
        }
    }
    assert!(calls > 1);
}

#[tokio::test]
async fn removing_and_collecting_that_is_cut_anywhere_loses_nothing() {
    let dir = scratch();
    let (store, mut ids) = (open(&dir.path().join("store")), Vec::new());
    for seed in [3, 4] {
        let source = dir.path().join(format!("source-{seed}"));
        write_small(&source, seed);
        ids.push(store.seal(&source).expect("sealed").id);
    }
    for cut in CUTS {
        let mut cuts = 0;
        loop {
            let far = dir.path().join(format!("far-{cut:?}-{cuts}"));
            let sound = directory(&far, at_once());
            for (id, name) in ids.iter().zip(["goes", "stays"]) {
                sound
                    .upload(&store, *id, &entry(name), &unpaced())
                    .await
                    .expect("uploaded");
            }
            let (faulty, _) = Faulty::over(&far, cuts, cut, at_once());
            let removed = faulty.remove(&entry("goes"), Some(ids[0])).await;
            let collected = faulty.collect_remote().await;
            // Whatever happened, what is listed can be fetched.
            let parts = sound.list_parts(None).await.expect("listed").parts;
            assert!(parts.iter().any(|part| part.entry == entry("stays")));
            let to = open(&dir.path().join(format!("to-{cut:?}-{cuts}")));
            for part in &parts {
                let id = part.manifest.expect("it has one");
                sound.download(&to, id).await.expect("whole");
            }
            let done = removed.is_ok() && collected.is_ok();
            sound
                .remove(&entry("goes"), Some(ids[0]))
                .await
                .expect("goes on");
            // Its own mark may have been left; the next collection does not mind.
            sound.collect_remote().await.expect("goes on");
            assert_eq!(objects(&far, "manifests").len(), 1);
            sound.download(&to, ids[1]).await.expect("whole");
            let mine = objects(&far, "chunks").len();
            let fresh = dir.path().join("fresh");
            let only = directory(&fresh, at_once());
            only.upload(&store, ids[1], &entry("stays"), &unpaced())
                .await
                .expect("uploaded");
            assert_eq!(
                mine,
                objects(&fresh, "chunks").len(),
                "no more than is needed"
            );
            if done {
                assert!(cuts > 10, "{cuts} requests");
                break;
            }
            cuts += 1;
        }
    }
}
