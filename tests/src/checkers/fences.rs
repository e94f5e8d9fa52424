//! I2: two epochs of a job that wants to be fenced never run at once. The machine that runs the older one may be cut off, its agent
//! frozen or dead: its keeper has ended it in time.
//! Does NOT ask who ended it, and does NOT count what a machine holds that itself stands still: nothing runs there.

use std::collections::BTreeSet;

use mlctl_coordinator::state::State;
use mlctl_proto::ids::Epoch;
use mlctl_proto::spec::OnDisconnect;

use super::{Checked, Key, ensure};

/// Where ranks of which attempts run.
#[derive(Debug, Default)]
pub struct Fences {
    alive: BTreeSet<(Key, String)>,
}

impl Fences {
    /// Ranks of an attempt begin to run on `node`. `stands_still`: whether nothing of a node runs, or it has only just woken.
    ///
    /// # Errors
    /// When ranks of another epoch still run somewhere, and the job does not want that.
    pub fn started(
        &mut self,
        state: &State,
        node: &str,
        key: Key,
        stands_still: impl Fn(&str) -> bool,
    ) -> Checked {
        self.alive.insert((key, node.to_owned()));
        let (job, epoch) = key;
        let fenced = state
            .job(job)
            .is_some_and(|job| job.on_disconnect == OnDisconnect::Fence);
        if !fenced {
            return Ok(());
        }
        let from = ((job, Epoch::new(0, 0)), String::new());
        let of_job = self
            .alive
            .range(from..)
            .take_while(|((other, _), _)| *other == job);
        let mut others = of_job.filter(|((_, other), place)| {
            *other != epoch && !stands_still(place) && alike(state, key, *other)
        });
        match others.next() {
            None => Ok(()),
            Some(((_, other), place)) => ensure(false, "I2", || {
                format!(
                    "job {job} epoch {epoch} begins on {node} while epoch {other} runs on {place}"
                )
            }),
        }
    }

    /// Nothing of an attempt runs on `node` any more.
    pub fn ended(&mut self, node: &str, key: Key) {
        self.alive.remove(&(key, node.to_owned()));
    }
}

/// Whether two epochs of a job have work in common: of an array they do only if a task was given to both.
fn alike(state: &State, (job, epoch): Key, other: Epoch) -> bool {
    let tasks = |epoch| {
        let attempt = state.attempt(job, epoch)?;
        attempt.wave.as_ref().map(|wave| wave.tasks.clone())
    };
    match (tasks(epoch), tasks(other)) {
        (Some(own), Some(others)) => !own.and(&others).is_empty(),
        _ => true,
    }
}
