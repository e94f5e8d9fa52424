//! The cgroups of one attempt as its keeper uses them: made before a rank runs, entered by each at birth, killed, asked about memory, removed.
//! Where no cgroup can be made nothing here does anything: then sessions and the subreaper are all there is.

use std::path::Path;

use super::terms::Terms;
use crate::cgroup::{Base, Bounds, Entry, Group, Oom};
use crate::launch::LaunchPlan;

/// An attempt's cgroups, if there are any.
#[derive(Debug, Default)]
pub(super) struct Cage {
    group: Option<Group>,
    entry: Option<Entry>,
    /// Kills for want of memory that were told.
    told: u64,
}

/// The name of an attempt's groups: `<job>.<epoch>`, as its directory says.
fn name(attempt_dir: &Path) -> Option<String> {
    let epoch = attempt_dir.file_name()?.to_str()?;
    let job = attempt_dir.parent()?.file_name()?.to_str()?;
    Some(format!("{job}.{epoch}"))
}

/// Ends what is left in the groups of the attempt in `attempt_dir`, whose keeper is gone, and removes them. Is nothing left?
pub(crate) fn clear(base: &Base, attempt_dir: &Path) -> bool {
    let Some(name) = name(attempt_dir) else {
        return true;
    };
    let group = Group::named(base, &name);
    let empty = group.end();
    group.remove() && empty
}

impl Cage {
    /// Makes the groups of the attempt in `attempt_dir`.
    ///
    /// # Errors
    /// One sentence for people.
    pub(super) fn make(
        terms: &Terms,
        attempt_dir: &Path,
        plan: &LaunchPlan,
    ) -> Result<Self, String> {
        let Some(name) = name(attempt_dir) else {
            return Ok(Self::default());
        };
        let bounds = Bounds {
            tasks: terms.tasks_max,
            ..plan.bounds.unwrap_or_default()
        };
        let failed = |e| format!("cannot make the cgroup of this attempt: {e}");
        let Some((group, unbounded)) =
            Group::make(&terms.cgroups, &name, bounds).map_err(failed)?
        else {
            if plan.bounds.is_some() {
                tracing::warn!(
                    "this node has no cgroups to use: memory and processors are not bounded"
                );
            }
            return Ok(Self::default());
        };
        for why in unbounded {
            tracing::warn!(why, "a bound does not hold");
        }
        // Of a keeper of this attempt that died: nobody else can be in there.
        if !group.end() {
            return Err("processes of an earlier keeper of this attempt do not end".into());
        }
        let entry = group.entry().map_err(failed)?;
        Ok(Self {
            told: group.oom_kills(),
            group: Some(group),
            entry: Some(entry),
        })
    }

    /// What a rank needs to enter.
    pub(super) fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
    }

    /// Is nobody in it?
    pub(super) fn is_empty(&self) -> bool {
        self.group
            .as_ref()
            .is_none_or(|group| !group.is_populated())
    }

    /// Did the kernel kill somebody in it for want of memory, since this was answered with yes?
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.group
            .as_ref()
            .is_some_and(|group| group.oom_kills() > self.told)
    }

    /// The same, with the numbers; answered once.
    pub(super) fn take_oom(&mut self) -> Option<Oom> {
        let group = self.group.as_ref()?;
        let kills = group.oom_kills();
        (kills > std::mem::replace(&mut self.told, kills)).then(|| group.oom())
    }

    /// Removes it. Nobody is in it any more.
    pub(super) fn remove(&mut self) {
        self.entry = None;
        if let Some(group) = self.group.take()
            && !group.remove()
        {
            tracing::warn!(
                "a cgroup of this attempt cannot be removed yet; the launcher tries again"
            );
        }
    }
}
