//! The launcher's part in cgroups: where they are made, which are left of keepers that died, and how well attempts are kept apart.
//! Does NOT touch those of an attempt whose keeper lives: that one does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::LauncherConfig;
use super::protocol::Level;
use crate::cgroup::{Base, count};
use crate::keeper::sweep::kill_leftovers;
use crate::keeper::terms::Terms;
use crate::keeper::{cage, room};

/// What the launcher knows of cgroups and of who uses them.
#[derive(Debug)]
pub(super) struct Groups {
    base: Base,
    jobs: PathBuf,
}

impl Groups {
    /// Looks at the machine, and ends what keepers left that died while no launcher was there.
    pub(super) fn prepare(data_dir: &Path) -> Self {
        let groups = Self {
            base: Base::prepare(data_dir),
            jobs: data_dir.join("jobs"),
        };
        for name in groups.base.names() {
            let Some((job, epoch)) = name.split_once('.') else {
                continue;
            };
            let dir = groups.jobs.join(job).join(epoch);
            if !has_keeper(&dir) {
                cage::clear(&groups.base, &dir);
                room::remove(&dir);
            }
        }
        count::remove_empty(&groups.base);
        groups
    }

    /// What keepers are told.
    pub(super) fn terms(&self, config: &LauncherConfig) -> Terms {
        Terms {
            job_user: config.job_user.clone(),
            users: config.users.clone(),
            private_tmp: config.private_tmp,
            cgroups: self.base.clone(),
            tasks_max: Some(config.pids_max),
            ..Terms::default()
        }
    }

    /// Ends what is left of the attempt in `attempt_dir`, whose keeper is gone.
    ///
    /// # Errors
    /// One sentence for people.
    pub(super) fn sweep(&self, attempt_dir: &Path) -> Result<u32, String> {
        let shown = attempt_dir.display();
        if has_keeper(attempt_dir) {
            return Err(format!(
                "a keeper runs for {shown}: stop the attempt instead"
            ));
        }
        let whole = cage::clear(&self.base, attempt_dir);
        room::remove(attempt_dir);
        let killed = kill_leftovers(attempt_dir);
        if whole {
            Ok(killed)
        } else {
            Err(format!(
                "processes of {shown} cannot be killed: they wait for a device or a file system"
            ))
        }
    }

    /// How well attempts are kept apart, and what is missing.
    pub(super) fn isolation(&self, config: &LauncherConfig) -> (Level, Vec<String>) {
        let mut missing = self.base.missing.clone();
        if config.job_user.is_empty() && !config.users.apart() {
            missing.push(
                "jobs run as the agent's own user: set `job_user`, or `mode` in `[users]`".into(),
            );
        } else if !config.users.apart() {
            missing.push("the jobs of all owners run as one user: set `mode` in `[users]`".into());
        }
        if let Some(why) = room::missing() {
            missing.push(why);
        } else if !config.private_tmp {
            missing.push("jobs share /tmp and /dev/shm: set `private_tmp`".into());
        }
        if Path::new("/dev/nvidiactl").exists() {
            missing.push(
                "GPUs of other jobs are hidden by CUDA_VISIBLE_DEVICES, not by the kernel".into(),
            );
        }
        let level = match (self.base.holds(), missing.is_empty()) {
            (false, _) => Level::None,
            (true, false) => Level::Partial,
            (true, true) => Level::Full,
        };
        (level, missing)
    }
}

/// Does a keeper hold the lock of this attempt?
fn has_keeper(attempt_dir: &Path) -> bool {
    let lock = File::open(attempt_dir);
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)))
}
