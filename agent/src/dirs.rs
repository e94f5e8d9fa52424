//! Where things lie below the agent's data directory. Names only: makes nothing, opens nothing.

use std::path::{Path, PathBuf};

use mlctl_proto::ids::{Epoch, JobId};

/// The agent's data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    root: PathBuf,
}

impl Dirs {
    /// The layout below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every job of this node.
    pub fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// What a job keeps over its attempts.
    pub fn job(&self, job: JobId) -> PathBuf {
        self.jobs().join(job.to_string())
    }

    /// A job's checkpoints on this node; they outlive its attempts.
    pub fn checkpoints(&self, job: JobId) -> PathBuf {
        self.job(job).join("checkpoints")
    }

    /// One attempt: plan, work directory, logs, keeper's socket.
    pub fn attempt(&self, job: JobId, epoch: Epoch) -> PathBuf {
        self.job(job).join(epoch.to_string())
    }

    /// Where the ranks of an attempt run.
    pub fn work(&self, job: JobId, epoch: Epoch) -> PathBuf {
        self.attempt(job, epoch).join("work")
    }

    /// The logs of an attempt's ranks.
    pub fn logs(&self, job: JobId, epoch: Epoch) -> PathBuf {
        self.attempt(job, epoch).join("logs")
    }

    /// The log of one rank, framed.
    pub fn log(&self, job: JobId, epoch: Epoch, rank: u32) -> PathBuf {
        self.logs(job, epoch).join(format!("rank-{rank}.log"))
    }

    /// Content-addressed bytes.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Parts of checkpoints, of this node and of others. On one file system with the jobs, so that files can be shared.
    pub fn copies(&self) -> PathBuf {
        self.root.join("copies")
    }

    /// Which parts these are.
    pub fn copies_ledger(&self) -> PathBuf {
        self.root.join("copies-ledger")
    }

    /// What is being sealed.
    pub fn copies_staging(&self) -> PathBuf {
        self.root.join("copies-staging")
    }

    /// The launcher's socket.
    pub fn launcher_socket(&self) -> PathBuf {
        self.root.join("launcher.sock")
    }

    /// The coordinators that the last leader named.
    pub fn coordinators(&self) -> PathBuf {
        self.root.join("coordinators.json")
    }
}

/// Every attempt that has a directory here, in order. What is not named like one is passed over.
pub(crate) fn attempts_on_disk(dirs: &Dirs) -> Vec<(JobId, Epoch)> {
    let mut found: Vec<(JobId, Epoch)> = named::<JobId>(&dirs.jobs())
        .flat_map(|job| named::<Epoch>(&dirs.job(job)).map(move |epoch| (job, epoch)))
        .collect();
    found.sort_unstable();
    found
}

/// The entries of `dir` whose names are ids. A directory that is not there has none.
fn named<T: std::str::FromStr>(dir: &Path) -> impl Iterator<Item = T> + use<T> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_found_and_strangers_passed_over() {
        let root = tempfile::tempdir().expect("dir");
        let dirs = Dirs::new(root.path());
        assert!(attempts_on_disk(&dirs).is_empty());
        for path in [
            "jobs/12/1",
            "jobs/12/2",
            "jobs/2-3/2-1",
            "jobs/12/checkpoints",
            "jobs/x/1",
            "jobs/0/1",
        ] {
            std::fs::create_dir_all(root.path().join(path)).expect("made");
        }
        let want = [
            (JobId::new(1, 12), Epoch::new(1, 1)),
            (JobId::new(1, 12), Epoch::new(1, 2)),
            (JobId::new(2, 3), Epoch::new(2, 1)),
        ];
        assert_eq!(attempts_on_disk(&dirs), want);
        assert_eq!(
            dirs.log(want[0].0, want[0].1, 3),
            root.path().join("jobs/12/1/logs/rank-3.log")
        );
    }
}
