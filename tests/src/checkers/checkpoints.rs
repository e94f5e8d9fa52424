//! I13: a checkpoint that is listed is whole, of one epoch, and was really made; who is said to hold a part held it, and what is said to be uploaded was;
//! the newest one never goes back while somebody has it, or the object store; a start resumes from the newest that can be had.
//! Knows nothing of how parts are copied.

use std::collections::BTreeSet;

use mlctl_coordinator::state::State;
use mlctl_coordinator::state::records::{Checkpoint, Job, Liveness, ManifestId, Part, PartKey};
use mlctl_proto::ids::JobId;

use super::{Checked, Key, ensure};

type Made = (Key, String, u32, Option<ManifestId>);

/// What really happened to checkpoints.
#[derive(Debug, Default)]
pub struct Checkpoints {
    made: BTreeSet<Made>,
    held: BTreeSet<(String, PartKey)>,
    uploaded: BTreeSet<PartKey>,
    restored: BTreeSet<(String, Key)>,
}

impl Checkpoints {
    /// A node of an attempt has this part of a checkpoint, or wrote nothing for it.
    pub fn sealed(&mut self, key: Key, name: &str, index: u32, manifest: Option<ManifestId>) {
        self.made.insert((key, name.to_owned(), index, manifest));
    }

    /// A part is durable on a node.
    pub fn held(&mut self, node: &str, key: &PartKey) {
        self.held.insert((node.to_owned(), key.clone()));
    }

    /// The object store has a part.
    pub fn uploaded(&mut self, key: &PartKey) {
        self.uploaded.insert(key.clone());
    }

    /// A node has put together all that this attempt resumes from.
    pub fn restored(&mut self, node: &str, key: Key) {
        self.restored.insert((node.to_owned(), key));
    }

    /// One command took `before` to `after` and changed `jobs`. `has`: whether this node has a part now.
    ///
    /// # Errors
    /// With the first thing that is not so.
    pub fn step(
        &self,
        before: &State,
        after: &State,
        jobs: &[JobId],
        has: impl Fn(&str, &PartKey) -> bool,
    ) -> Checked {
        for id in jobs {
            let Some(new) = after.job(*id) else {
                continue;
            };
            for one in new.checkpoints.iter().filter(|one| one.is_whole()) {
                self.is_real(new, one)?;
            }
            if let Some(old) = before.job(*id) {
                stays(old, new, &has)?;
            }
        }
        Ok(())
    }

    fn is_real(&self, job: &Job, one: &Checkpoint) -> Checked {
        let (id, name) = (job.id, &one.name);
        for part in &one.parts {
            let made = ((id, one.epoch), name.clone(), part.index, part.manifest);
            ensure(self.made.contains(&made), "I13", || {
                format!(
                    "job {id}: part {} of {name} was never made in epoch {}",
                    part.index, one.epoch
                )
            })?;
        }
        for (key, holders) in one.keys(id) {
            for holder in holders {
                let held = self.held.contains(&(holder.clone(), key.clone()));
                ensure(held, "I13", || {
                    format!("job {id}: {holder} never held part {} of {name}", key.index)
                })?;
            }
            let there = !is_uploaded(one, &key) || self.uploaded.contains(&key);
            ensure(there, "I13", || {
                format!("job {id}: part {} of {name} was never uploaded", key.index)
            })?;
        }
        Ok(())
    }

    /// Ranks of `key` begin on `node`: what they resume from is there.
    ///
    /// # Errors
    /// When it is not.
    pub fn begins(&self, head: &State, node: &str, key: Key) -> Checked {
        let attempt = head.attempt(key.0, key.1);
        let resumes = attempt.is_some_and(|attempt| !attempt.resume_from.is_empty());
        let there = !resumes || self.restored.contains(&(node.to_owned(), key));
        ensure(there, "restore", || {
            format!(
                "job {}: {node} begins epoch {} without its checkpoint",
                key.0, key.1
            )
        })
    }

    /// A start was committed: it goes on from the newest checkpoint of which every part is on a node that is Ready or in the object store, or a
    /// newer one.
    ///
    /// # Errors
    /// When it throws work away.
    pub fn starts(before: &State, after: &State, id: JobId) -> Checked {
        let (Some(old), Some(new)) = (before.job(id), after.job(id)) else {
            return Ok(());
        };
        let ready = |node: &String| {
            let ready = |state: &State| {
                let known = state.node(node);
                known.is_some_and(|node| node.liveness == Liveness::Ready)
            };
            ready(before) && ready(after)
        };
        let had = |one: &Checkpoint| {
            let mut parts = one.filled();
            let had = |part: &Part| part.uploaded || part.holders.iter().any(ready);
            one.is_whole() && parts.all(had)
        };
        let Some(newest) = old.checkpoints.iter().rposition(had) else {
            return Ok(());
        };
        let attempt = after.current_attempt(new);
        let from = attempt.map_or("", |attempt| attempt.resume_from.as_str());
        let recorded = attempt.map_or(0, |attempt| attempt.resume_sealed_ms);
        let chosen = old
            .checkpoints
            .iter()
            .rposition(|one| one.is_whole() && one.name == from && one.sealed_ms == recorded);
        ensure(chosen >= Some(newest), "salvage", || {
            let name = &old.checkpoints[newest].name;
            format!("job {id} resumes from `{from}` although {name} is there")
        })
    }
}

fn is_uploaded(one: &Checkpoint, key: &PartKey) -> bool {
    let mut parts = one.parts.iter();
    parts.any(|part| part.index == key.index && part.uploaded)
}

/// The newest whole checkpoint goes only for a newer one, or when of some part that was not uploaded no holder has anything. A copy that came a
/// moment ago, and of which its new holder has not spoken yet, keeps nothing: its word brings the checkpoint back while its epoch is the current one.
fn stays(old: &Job, new: &Job, has: &impl Fn(&str, &PartKey) -> bool) -> Checked {
    let whole = |job: &Job| job.checkpoints.iter().rfind(|one| one.is_whole()).cloned();
    let Some(was) = whole(old) else {
        return Ok(());
    };
    let there = new.checkpoints.iter().any(|one| {
        let newer = (one.epoch, one.step) >= (was.epoch, was.step);
        one.is_whole() && newer
    });
    let mut parts = was.keys(old.id);
    let lost = parts.any(|(key, holders)| {
        !is_uploaded(&was, &key) && !holders.iter().any(|holder| has(holder, &key))
    });
    ensure(there || lost, "I13", || {
        let holders: Vec<_> = was.keys(old.id).map(|(_, holders)| holders).collect();
        format!(
            "job {}: {} of epoch {} is gone, and nothing newer is there; its parts were on {holders:?}",
            old.id, was.name, was.epoch
        )
    })
}
