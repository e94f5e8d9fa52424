//! PURE: which node uploads which part to the object store that its job's spec names, and what is under way because of that. Soft: a new leader
//! derives it again. A part counts as uploaded when a node has said so in an event, never because it was ordered.
use std::collections::BTreeMap;

use mlctl_proto::ids::JobId;
use mlctl_proto::spec::CheckpointSpec;

use super::known::{is_known, sealed};
use super::{Copies, CopyOrder, SAID_MS, Told};
use crate::leader::liveness::Mono;
use crate::state::State;
use crate::state::records::{Checkpoint, Job, Part, PartKey};

/// Uploads that one node has before it, as many as it does at the same time,
const AT_ONCE: usize = 4;
/// and of those so many of one job: one that may only go slowly, or whose store does not answer, must not hold up others.
const AT_ONCE_OF_JOB: usize = 2;
/// A part that could not be uploaded rests for so long, milliseconds: what a store refuses once it mostly refuses again.
const RESTS_MS: u64 = 60_000;
/// An upload of which nothing was heard for so long is ordered anew, milliseconds. Nodes say when one fails.
const FORGOTTEN_MS: u64 = 6 * 3_600 * 1_000;

/// An upload that was ordered.
#[derive(Debug)]
struct Upload {
    from: String,
    url: String,
    /// Ordered anew then, if nobody has said that the store has the part.
    until: Mono,
    /// All of it is there: it costs nobody anything any more.
    sent: bool,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    going: BTreeMap<PartKey, Upload>,
    /// Until when a part is left alone.
    rests: BTreeMap<PartKey, Mono>,
}

impl Uploads {
    /// A node is not connected any more. If it goes on all the same, what comes of it counts.
    pub(super) fn gone(&mut self, node: &str) {
        self.going.retain(|_, one| one.from != node);
    }

    /// What became of an upload, by the node that has done it.
    pub(super) fn said(
        &mut self,
        now: Mono,
        node: &str,
        (key, url): (PartKey, &str),
        failed: bool,
    ) {
        // Only who was told to do it knows. A person may have had it upload the same part elsewhere; older agents do not say where to.
        let meant = |one: &Upload| one.from == node && (url.is_empty() || url == one.url);
        if self.going.get(&key).is_none_or(|one| !meant(one)) {
            return;
        }
        if failed {
            self.going.remove(&key);
            self.rests.insert(key, now.saturating_add(RESTS_MS));
        } else if let Some(one) = self.going.get_mut(&key) {
            // Its event says so in a moment, and then it counts.
            one.until = now.saturating_add(SAID_MS);
            one.sent = true;
        }
    }

    /// Lets go of what is over.
    pub(super) fn tidy(&mut self, now: Mono, state: &State) {
        let counts = |key: &PartKey, until: Mono| until > now && is_known(state, key);
        self.going.retain(|key, one| counts(key, one.until));
        self.rests.retain(|key, until| counts(key, *until));
    }

    /// How much `node` has before it, and how much of that is of `job`.
    fn load(&self, node: &str, job: JobId) -> (usize, usize) {
        let going = self.going.iter();
        let its = going.filter(|(_, one)| one.from == node && !one.sent);
        its.fold((0, 0), |(all, of_job), (key, _)| {
            (
                all.saturating_add(1),
                of_job.saturating_add(usize::from(key.job == job)),
            )
        })
    }
}

impl Copies {
    /// Orders uploads of parts that the object store lacks; whether it lacks some. What is not whole yet may never count.
    pub(super) fn upload(
        &mut self,
        now: Mono,
        state: &State,
        (job, checkpoint): (&Job, &Checkpoint),
        rules: &CheckpointSpec,
        told: &mut Vec<Told>,
    ) -> bool {
        let Some(url) = rules.upload.as_ref().filter(|_| checkpoint.is_whole()) else {
            return false;
        };
        let mut lacks = false;
        for part in checkpoint.filled() {
            let Some(key) = checkpoint.key(job.id, part) else {
                continue;
            };
            if part.uploaded {
                self.uploads.going.remove(&key);
                continue;
            }
            lacks = true;
            if self.uploads.going.contains_key(&key) || self.uploads.rests.contains_key(&key) {
                continue;
            }
            let from = self.uploader(job.id, maker(state, checkpoint, job, part), part);
            let order = order(state, &key, (url, false), rules);
            let (Some(from), Some(order)) = (from, order) else {
                continue;
            };
            told.push((from.clone(), order));
            let going = Upload {
                from,
                url: url.clone(),
                until: now.saturating_add(FORGOTTEN_MS),
                sent: false,
            };
            self.uploads.going.insert(key, going);
        }
        lacks
    }

    /// The connected holder that has least before it, among equals who made the part: what it sealed need not be anywhere else for that.
    fn uploader(&self, job: JobId, maker: Option<&str>, part: &Part) -> Option<String> {
        let connected = part.holders.iter().filter(|node| self.is_connected(node));
        let loads = connected.map(|node| {
            let made = maker == Some(node.as_str());
            (self.uploads.load(node, job), !made, node)
        });
        // The last place is for a job that has none.
        let has_room = |(all, of_job): (usize, usize)| match of_job {
            0 => all < AT_ONCE,
            _ => of_job < AT_ONCE_OF_JOB && all.saturating_add(1) < AT_ONCE,
        };
        let least = loads.filter(|(load, ..)| has_room(*load)).min();
        least.map(|(.., node)| node.clone())
    }
}

/// What a node is told that is to upload a part; `None`: the part does not count any more.
pub(super) fn order(
    state: &State,
    key: &PartKey,
    (url, elsewhere): (&str, bool),
    rules: &CheckpointSpec,
) -> Option<CopyOrder> {
    Some(CopyOrder::Upload {
        key: key.clone(),
        sealed: sealed(state, key)?,
        url: url.to_owned(),
        elsewhere,
        rate: rules.bandwidth.rate(),
    })
}

/// The node that made a part, as long as its attempt is known.
pub(super) fn maker<'a>(
    state: &'a State,
    checkpoint: &Checkpoint,
    job: &Job,
    part: &Part,
) -> Option<&'a str> {
    let attempt = state.attempt(job.id, checkpoint.epoch)?;
    let place = usize::try_from(part.index).ok()?;
    let made = attempt.allocations.get(place)?;
    Some(made.node.as_str())
}
