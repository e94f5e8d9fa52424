//! Parts go to a directory outside the cluster, and come from it where no node gives them.
use super::*;
use crate::link::copies::Upload;

fn order(key: &PartKey, url: &str) -> Upload {
    let part = CheckpointSealed {
        name: key.name.clone(),
        step: 5,
        parts: 1,
        ..CheckpointSealed::default()
    };
    Upload {
        key: key.clone(),
        sealed: part,
        url: url.into(),
        elsewhere: false,
        rate: None,
    }
}

impl Bench {
    /// Uploads a part; what the leader is told, when it is.
    async fn uploads(&self, key: &PartKey, url: &str) -> String {
        lock(&self.said).uploads.clear();
        self.vault.upload(order(key, url));
        self.until("outcome", |said| Some(said.uploads.last()?.error.clone()))
            .await
    }
}

fn url(place: &Place) -> String {
    fs::create_dir_all(place.far()).expect("made");
    format!("file://{}", place.far().display())
}

/// A part that these have, and the store.
fn stored(key: &PartKey, holders: Vec<Holder>, url: &str) -> RestorePart {
    RestorePart {
        holders,
        url: Some(url.into()),
        ..part(key, &[])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_uploaded_comes_back_where_no_node_has_it() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    let url = url(&place);
    a.write("step-5", "w", &noise(1, 5 << 20));
    a.write("step-5", "small", b"good");
    let key = a.seal(&place, "step-5", 0).await;
    assert_eq!(a.uploads(&key, &url).await, "");
    assert_eq!(lock(&a.said).uploaded, std::slice::from_ref(&key));
    let listed = place.far().join("jobs/7/2-step-5/part-0.json");
    assert!(listed.exists(), "it is listed there");
    assert_eq!(a.uploads(&key, &url).await, "", "once more");
    drop(a);
    let restored = b.restore("step-5", 0, vec![stored(&key, vec![], &url)]);
    let restored = restored.await.expect("restored");
    assert_eq!(
        (restored.from, restored.ways),
        (vec![url], vec!["store".into()])
    );
    assert!(restored.came >= 5 << 20);
    assert_eq!(b.read("step-5/w"), noise(1, 5 << 20));
    assert_eq!(b.read("step-5/small"), b"good");
    b.held(&key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_elsewhere_is_said_to_the_leader_and_not_to_the_core() {
    let place = Place::new();
    let a = place.node("a").await;
    let url = url(&place);
    let mine = format!("{url}/mine");
    fs::create_dir(place.far().join("mine")).expect("made");
    a.write("step-5", "w", &noise(1, 5 << 20));
    let key = a.seal(&place, "step-5", 0).await;
    // Both at once, to different places: neither is taken for the other. A third is the same as the second.
    let elsewhere = Upload {
        elsewhere: true,
        ..order(&key, &mine)
    };
    a.vault.upload(order(&key, &url));
    a.vault.upload(elsewhere.clone());
    a.vault.upload(elsewhere);
    let mut said = a
        .until("outcome of both", |said| {
            let uploads = said.uploads.iter();
            let done = uploads.map(|one| (one.url.clone(), one.error.clone()));
            (said.uploads.len() == 2).then(|| done.collect::<Vec<_>>())
        })
        .await;
    said.sort();
    let good = |url: &String| (url.clone(), String::new());
    assert_eq!(said, [good(&url), good(&mine)]);
    for dir in [place.far(), place.far().join("mine")] {
        assert!(dir.join("jobs/7/2-step-5/part-0.json").exists(), "{dir:?}");
    }
    assert_eq!(lock(&a.said).uploaded, [key], "once, for the spec's store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_asked_first_and_the_store_when_they_are_gone() {
    let place = Place::new();
    let url = url(&place);
    let (a, b, c) = (
        place.node("a").await,
        place.node("b").await,
        place.node("c").await,
    );
    a.write("step-5", "w", &noise(1, 1 << 20));
    let key = a.seal(&place, "step-5", 0).await;
    assert_eq!(a.uploads(&key, &url).await, "");
    let holder = a.holder();
    let parts = || vec![stored(&key, vec![holder.clone()], &url)];
    let restored = b.restore("step-5", 0, parts()).await.expect("restored");
    assert_eq!(restored.from, ["a"]);
    drop(a);
    let restored = c.restore("step-5", 0, parts()).await.expect("restored");
    assert_eq!(restored.from, std::slice::from_ref(&url));
    assert_eq!(c.read("step-5/w"), noise(1, 1 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_uploaded_or_is_not_there_is_said() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    let url = url(&place);
    a.write("step-5", "w", b"good");
    let key = a.seal(&place, "step-5", 0).await;
    let missing = PartKey {
        manifest: [9; 32],
        ..key.clone()
    };
    let outside = a.uploads(&key, "file:///etc").await;
    assert!(outside.contains("`upload_dirs`"), "{outside}");
    let secret = a.uploads(&key, "s3://me:hunter2@runs/a").await;
    assert!(
        secret.contains("has a user in it") && !secret.contains("hunter2"),
        "{secret}"
    );
    let not_held = a.uploads(&missing, &url).await;
    assert!(not_held.contains("not held here"), "{not_held}");
    a.lost(&missing).await;
    assert_eq!(lock(&a.said).uploaded, []);
    let restored = b.restore("step-5", 0, vec![stored(&key, vec![], &url)]);
    let error = restored.await.expect_err("nothing is there").to_string();
    assert!(
        error.contains("part 0 of checkpoint step-5") && error.contains("is missing in file://"),
        "{error}"
    );
}
