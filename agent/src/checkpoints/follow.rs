//! Follows the checkpoints of one attempt: what the watch sees and a look now and then go into the tracker, its news come out.
//! Does NOT report to anybody, and does NOT decide what is complete.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;

use super::look::{listing, names, writers};
use super::rules::is_final;
use super::seal::Life;
use super::seal::listing::Kind;
use super::seal::notify::Commit;
use super::track::{News, Terms, Tracker};
use super::watch::{Seen, Watch};

/// Between two looks while something may become complete.
const SOON: Duration = Duration::from_millis(500);
/// Between two looks for what was written to after it was complete.
const SELDOM: Duration = Duration::from_secs(10);

/// Why an attempt's checkpoints are not followed any more.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The watch.
    #[error(transparent)]
    Watch(#[from] io::Error),
    /// A look at the disk.
    #[error("a task of the agent died: {0}")]
    Task(#[from] JoinError),
}

/// The checkpoints of one attempt.
#[derive(Debug)]
pub struct Follow {
    watch: Watch,
    /// `None` only while it looks.
    looker: Option<Looker>,
    /// What the ranks do.
    life: Life,
}

impl Follow {
    /// Begins to follow those in `dir`, which must be there. With `rescan` what is there already brings news; else only what happens from
    /// now on, until [`Follow::end`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses, for instance because too many watches are open.
    pub async fn begin(
        dir: &Path,
        terms: Terms,
        rescan: bool,
    ) -> Result<(Self, Vec<News>), FollowError> {
        let watch = Watch::new(dir)?;
        let mut looker = Looker::new(dir, terms);
        let looking = spawn_blocking(move || {
            looker.find();
            let mut news = Vec::new();
            if rescan {
                news = looker.look(Vec::new(), Life::Running, true);
            }
            (looker, news)
        });
        let (looker, news) = looking.await?;
        let looker = Some(looker);
        let life = Life::Running;
        Ok((
            Self {
                watch,
                looker,
                life,
            },
            news,
        ))
    }

    /// Waits until there is something to look at. It may be dropped before, and nothing is lost.
    ///
    /// # Errors
    /// When the directory is gone.
    pub async fn wait(&mut self) -> Result<Vec<Seen>, FollowError> {
        let expects = self.looker.as_ref().is_some_and(Looker::expects);
        let pause = if expects { SOON } else { SELDOM };
        tokio::select! {
            seen = self.watch.next() => Ok(seen?),
            () = sleep(pause) => Ok(Vec::new()),
        }
    }

    /// Looks at what was seen, and at what may have become complete. Not to be dropped before it is done.
    ///
    /// # Errors
    /// When the task that looks dies.
    pub async fn look(&mut self, seen: Vec<Seen>) -> Result<Vec<News>, FollowError> {
        self.look_at(seen, false).await
    }

    /// Another node of the attempt has completed this one: it is judged with that, at the next looks. Whether this node has anything of it.
    /// Not to be dropped before it is done.
    ///
    /// # Errors
    /// When the task that looks dies.
    pub async fn completed_elsewhere(&mut self, name: &str) -> Result<bool, FollowError> {
        let Some(mut looker) = self.looker.take() else {
            return Ok(false);
        };
        let name = name.to_owned();
        let looking = spawn_blocking(move || {
            let has = looker.completed_elsewhere(&name);
            (looker, has)
        });
        let (looker, has) = looking.await?;
        self.looker = Some(looker);
        Ok(has)
    }

    /// This one lay there, of this attempt, and was removed.
    pub fn was_removed(&self, name: &str) -> bool {
        let looker = self.looker.as_ref();
        looker.is_some_and(|looker| looker.tracker.was_removed(name))
    }

    /// All that were, as far as they are remembered.
    pub fn removed(&self) -> BTreeSet<String> {
        let looker = self.looker.as_ref();
        looker.map_or_else(BTreeSet::new, |looker| looker.tracker.removed().clone())
    }

    /// The writer of this one says that it is complete, as it is now: it is judged with that, at the next look. Whether there is such a directory.
    /// Not to be dropped before it is done.
    ///
    /// # Errors
    /// When the task that looks dies.
    pub async fn committed(&mut self, name: &str, word: Commit) -> Result<bool, FollowError> {
        let Some(mut looker) = self.looker.take() else {
            return Ok(false);
        };
        let name = name.to_owned();
        let looking = spawn_blocking(move || {
            let there = looker.committed(&name, word);
            (looker, there)
        });
        let (looker, there) = looking.await?;
        self.looker = Some(looker);
        Ok(there)
    }

    /// A last look after all ranks have ended like that. Not to be dropped before it is done.
    ///
    /// # Errors
    /// When the task that looks dies.
    pub async fn end(&mut self, life: Life) -> Result<Vec<News>, FollowError> {
        // What was renamed last may still wait in the kernel. If the watch is broken the look has to do.
        let seen = self.watch.waiting().unwrap_or_default();
        self.life = life;
        self.look_at(seen, true).await
    }

    async fn look_at(&mut self, seen: Vec<Seen>, all: bool) -> Result<Vec<News>, FollowError> {
        let life = self.life;
        let Some(mut looker) = self.looker.take() else {
            return Ok(Vec::new());
        };
        let looking = spawn_blocking(move || {
            let news = looker.look(seen, life, all);
            (looker, news)
        });
        let (looker, news) = looking.await?;
        self.looker = Some(looker);
        Ok(news)
    }
}

/// A look at checkpoints of which nobody watched the attempt end.
pub fn look_once(dir: &Path, terms: Terms, life: Life) -> Vec<News> {
    let mut looker = Looker::new(dir, terms);
    looker.find();
    looker.look(Vec::new(), life, true)
}

/// The same, of one that another node of the attempt has completed. `None`: this node has nothing of it.
pub fn look_once_at(dir: &Path, name: &str, terms: Terms, life: Life) -> Option<Vec<News>> {
    let mut looker = Looker::new(dir, terms);
    if !looker.completed_elsewhere(name) {
        return None;
    }
    let news = looker.look(Vec::new(), life, true).into_iter();
    let about = |news: &News| match news {
        News::Sealed { name: of, .. }
        | News::Rewritten { name: of, .. }
        | News::Unfinished { name: of, .. } => of == name,
    };
    Some(news.filter(about).collect())
}

/// When the attempt began whose `file` was written then; 0: nobody knows.
pub fn began_ns(file: &Path) -> i64 {
    let found = std::fs::metadata(file).ok();
    found.map_or(0, |found| {
        let seconds = found.mtime().saturating_mul(1_000_000_000);
        seconds.saturating_add(found.mtime_nsec())
    })
}

#[derive(Debug)]
struct Looker {
    dir: PathBuf,
    tracker: Tracker,
    since: Instant,
}

impl Looker {
    fn new(dir: &Path, terms: Terms) -> Self {
        Self {
            dir: dir.to_owned(),
            tracker: Tracker::new(terms),
            since: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn expects(&self) -> bool {
        self.tracker.expects(self.now_ms())
    }

    /// Takes in what is there.
    fn find(&mut self) {
        let now_ms = self.now_ms();
        for name in names(&self.dir) {
            if let Ok(found) = listing(&self.dir, &name, false) {
                self.tracker.found(now_ms, &found);
            }
        }
    }

    fn completed_elsewhere(&mut self, name: &str) -> bool {
        let now_ms = self.now_ms();
        is_final(name)
            && listing(&self.dir, name, false)
                .is_ok_and(|found| self.tracker.completed_elsewhere(now_ms, &found))
    }

    fn committed(&mut self, name: &str, word: Commit) -> bool {
        let now_ms = self.now_ms();
        let found = listing(&self.dir, name, false).ok();
        let found = found.filter(|found| is_final(name) && found.root.kind == Kind::Dir);
        if let Some(found) = &found {
            self.tracker.committed(now_ms, found, word);
        }
        found.is_some()
    }

    /// Looks at what was seen and at everything that may bring news; with `all` at everything.
    fn look(&mut self, seen: Vec<Seen>, life: Life, all: bool) -> Vec<News> {
        let now_ms = self.now_ms();
        let names = names(&self.dir);
        self.tracker.keep(&names);
        for seen in seen {
            // What has gone since is not looked at; the others are, whatever was seen of them.
            if let Seen::Renamed(name) = seen
                && let Ok(found) = listing(&self.dir, &name, false)
                && names.contains(&name)
            {
                self.tracker.renamed(now_ms, &found);
            }
        }
        let mut news = Vec::new();
        for name in names {
            let Ok(found) = listing(&self.dir, &name, false) else {
                continue;
            };
            if !all && !self.tracker.is_news(&name, &found.fingerprint()) {
                continue;
            }
            if let Ok(found) = listing(&self.dir, &name, true) {
                let writers = || writers(&self.dir, &found);
                news.extend(self.tracker.look(now_ms, &found, life, writers));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoints::seal::By;
    use std::fs;

    const TERMS: Terms = Terms {
        ranks: 0..1,
        nodes: 1,
        began_ns: 0,
        shared: 0,
    };

    fn sealed(news: Vec<News>) -> Vec<(String, By, bool)> {
        let sealed = news.into_iter().filter_map(|news| match news {
            News::Sealed {
                name,
                by,
                by_rescan,
                ..
            } => Some((name, by, by_rescan)),
            News::Rewritten { .. } | News::Unfinished { .. } => None,
        });
        sealed.collect()
    }

    async fn next(follow: &mut Follow) -> Vec<News> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let seen = follow.wait().await.expect("watched");
            let news = follow.look(seen).await.expect("looked");
            if !news.is_empty() {
                return news;
            }
        }
        panic!("no news");
    }

    #[tokio::test]
    async fn a_rename_is_news_at_once_and_quiet_takes_its_time() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("step-1")).expect("made");
        let (mut follow, news) = Follow::begin(dir.path(), TERMS, false)
            .await
            .expect("begun");
        assert_eq!(news, []);
        let begun = Instant::now();
        fs::create_dir(path("a.tmp")).expect("made");
        fs::rename(path("a.tmp"), path("step-2")).expect("renamed");
        let one = |name: &str, by| vec![(name.to_owned(), by, false)];
        assert_eq!(sealed(next(&mut follow).await), one("step-2", By::Rename));
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        fs::create_dir(path("step-3")).expect("made");
        fs::write(path("step-3/a"), b"x").expect("written");
        let written = Instant::now();
        assert_eq!(sealed(next(&mut follow).await), one("step-3", By::Quiet));
        assert!(
            written.elapsed() >= Duration::from_secs(2),
            "{:?}",
            written.elapsed()
        );
        // Just before the end: renamed, and made in place.
        fs::create_dir(path("b.tmp")).expect("made");
        fs::rename(path("b.tmp"), path("step-4")).expect("renamed");
        fs::create_dir(path("step-5")).expect("made");
        fs::write(path("step-5/a"), b"x").expect("written");
        assert_eq!(
            sealed(follow.end(Life::EndedBadly).await.expect("looked")),
            one("step-4", By::Rename)
        );
        assert_eq!(
            sealed(follow.end(Life::EndedWell).await.expect("looked")),
            one("step-5", By::Quiet)
        );
    }

    #[tokio::test]
    async fn a_rewrite_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        let (mut follow, _) = Follow::begin(dir.path(), TERMS, false)
            .await
            .expect("begun");
        fs::create_dir(path("a.tmp")).expect("made");
        fs::write(path("a.tmp/w"), b"one").expect("written");
        fs::rename(path("a.tmp"), path("step-2")).expect("renamed");
        assert_eq!(sealed(next(&mut follow).await).len(), 1);
        fs::write(path("step-2/w"), b"two").expect("written");
        let rewritten = News::Rewritten {
            name: "step-2".into(),
            file: "w".into(),
        };
        let news = next(&mut follow).await;
        assert!(news.contains(&rewritten), "{news:?}");
    }

    #[tokio::test]
    async fn what_another_node_completed_is_looked_for() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        let terms = || Terms {
            ranks: 1..2,
            nodes: 2,
            began_ns: 0,
            shared: 0,
        };
        let (mut follow, _) = Follow::begin(dir.path(), terms(), false)
            .await
            .expect("begun");
        let at = |name: &'static str| look_once_at(dir.path(), name, terms(), Life::EndedWell);
        for nothing in ["step-5", "../step-5", ""] {
            let has = follow.completed_elsewhere(nothing).await.expect("looked");
            assert!(!has && at(nothing).is_none(), "{nothing:?}");
        }
        for name in ["step-5", "step-6"] {
            fs::create_dir(path(name)).expect("made");
            fs::write(path(name).join("__1_0.distcp"), b"x").expect("written");
        }
        let news = at("step-5").expect("it is there");
        assert_eq!(sealed(news), [("step-5".to_owned(), By::Dcp, false)]);
        assert!(follow.completed_elsewhere("step-6").await.expect("looked"));
        let news = follow.end(Life::EndedWell).await.expect("looked");
        let expected = [("step-6".to_owned(), By::Dcp, false)];
        assert_eq!(sealed(news), expected, "of the other nobody has heard");
    }

    /// A trainer may remove what another node still copies: that this node has nothing of it now does not mean that it never had.
    #[tokio::test]
    async fn what_was_removed_is_not_what_never_was() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("step-5");
        let terms = Terms {
            ranks: 1..2,
            nodes: 2,
            began_ns: 0,
            shared: 0,
        };
        let (mut follow, _) = Follow::begin(dir.path(), terms, false)
            .await
            .expect("begun");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("__1_0.distcp"), b"x").expect("written");
        follow.look(Vec::new()).await.expect("looked");
        fs::remove_dir_all(&path).expect("removed");
        for looked in [false, true] {
            let has = follow.completed_elsewhere("step-5").await.expect("looked");
            assert!(!has && follow.was_removed("step-5"), "{looked}");
            assert!(!follow.was_removed("step-6"));
            follow.look(Vec::new()).await.expect("looked");
        }
        assert_eq!(follow.removed(), BTreeSet::from(["step-5".to_owned()]));
    }

    #[tokio::test]
    async fn what_is_there_is_news_only_if_asked_for() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("a.tmp")).expect("made");
        fs::write(path("a.tmp/w"), b"one").expect("written");
        // The clock of a file system is coarse.
        std::thread::sleep(Duration::from_millis(30));
        fs::rename(path("a.tmp"), path("step-2")).expect("renamed");
        fs::create_dir(path("step-3")).expect("made");
        fs::write(path("step-3/w"), b"one").expect("written");
        let (_, news) = Follow::begin(dir.path(), TERMS, true).await.expect("begun");
        let expected = [("step-2".to_owned(), By::Rename, true)];
        assert_eq!(sealed(news), expected);
        assert_eq!(
            sealed(look_once(dir.path(), TERMS, Life::EndedBadly)),
            expected
        );
        let gone = Follow::begin(&path("gone"), TERMS, true).await;
        assert!(gone.is_err());
    }
}
