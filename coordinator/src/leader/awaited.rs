//! Uploads that one node was told to do and that somebody waits for. Lies beside the node's stream and goes with it; who still waits then learns that
//! nothing more will come. Does NOT order anything.
use tokio::sync::oneshot;

use super::copies::CopyOrder;
use crate::state::records::PartKey;

/// Said of a node whose agent cannot have understood where to.
const OLDER: &str = "its agent is of an older release, which uploads to the store that the job's spec names and to no other: upgrade it";

/// What is awaited of one node.
#[derive(Debug, Default)]
pub(super) struct Awaited(Vec<Upload>);

#[derive(Debug)]
struct Upload {
    key: PartKey,
    url: String,
    elsewhere: bool,
    /// Told why not, or nothing: it is there.
    done: oneshot::Sender<String>,
}

impl Awaited {
    /// The node is about to be told `order`. If that is no upload nothing is awaited.
    pub(super) fn add(&mut self, order: &CopyOrder, done: oneshot::Sender<String>) {
        self.0.retain(|one| !one.done.is_closed());
        if let CopyOrder::Upload {
            key,
            url,
            elsewhere,
            ..
        } = order
        {
            self.0.push(Upload {
                key: key.clone(),
                url: url.clone(),
                elsewhere: *elsewhere,
                done,
            });
        }
    }

    /// What became of an upload. Agents of an older release do not say where to.
    pub(super) fn said(&mut self, key: &PartKey, url: &str, error: &str) {
        let all = std::mem::take(&mut self.0);
        let meant = |one: &Upload| one.key == *key && (url.is_empty() || one.url == url);
        let (told, still) = all.into_iter().partition(meant);
        self.0 = still;
        for one in told {
            let old = url.is_empty() && one.elsewhere;
            let text = if old { OLDER } else { error };
            // Who asked may be gone.
            let _ = one.done.send(text.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::SealedPart;
    use mlctl_proto::ids::{Epoch, JobId};

    const URL: &str = "s3://runs/a";

    fn key(index: u32) -> PartKey {
        PartKey {
            job: JobId::new(1, 1),
            epoch: Epoch::new(1, 1),
            name: "step-5".into(),
            index,
            manifest: [7; 32],
        }
    }

    fn waits(awaited: &mut Awaited, index: u32, elsewhere: bool) -> oneshot::Receiver<String> {
        let (done, told) = oneshot::channel();
        let order = CopyOrder::Upload {
            key: key(index),
            sealed: SealedPart {
                name: "step-5".into(),
                step: 5,
                part: None,
                parts: 1,
                metric: None,
                save_ms: 0,
            },
            url: URL.into(),
            elsewhere,
            rate: None,
        };
        awaited.add(&order, done);
        told
    }

    #[test]
    fn a_word_is_for_all_that_wait_for_this_part_in_this_store() {
        let mut awaited = Awaited::default();
        let mut first = waits(&mut awaited, 0, true);
        let mut other = waits(&mut awaited, 1, true);
        let mut second = waits(&mut awaited, 0, true);
        awaited.said(&key(0), "s3://runs/b", "");
        assert!(first.try_recv().is_err(), "that is another store");
        awaited.said(&key(0), URL, "access denied");
        for told in [&mut first, &mut second] {
            assert_eq!(told.try_recv(), Ok("access denied".to_owned()));
        }
        assert!(other.try_recv().is_err(), "that is another part");
        awaited.said(&key(1), URL, "");
        assert_eq!(other.try_recv(), Ok(String::new()));
    }

    #[test]
    fn an_older_agent_does_not_say_where_to() {
        let mut awaited = Awaited::default();
        let mut told = waits(&mut awaited, 0, false);
        awaited.said(&key(0), "", "");
        assert_eq!(told.try_recv(), Ok(String::new()), "it is there");
        let mut told = waits(&mut awaited, 0, true);
        awaited.said(&key(0), "", "");
        let error = told.try_recv().expect("told");
        assert!(error.contains("older release"), "{error}");
    }

    #[test]
    fn who_does_not_wait_any_more_is_forgotten() {
        let mut awaited = Awaited::default();
        drop(waits(&mut awaited, 0, false));
        let mut told = waits(&mut awaited, 1, false);
        assert_eq!(awaited.0.len(), 1);
        drop(awaited);
        let gone = told.try_recv();
        assert_eq!(gone, Err(oneshot::error::TryRecvError::Closed));
    }
}
