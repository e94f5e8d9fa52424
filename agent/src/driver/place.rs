//! Where the checkpoints of an attempt lie on this node: on its disk, in its memory, or in a directory that every node sees; and whether this node
//! looks for them there.
//! Does NOT judge them, and writes nothing.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlctl_proto::spec::parse_json;
use nix::unistd::{User, getgrouplist};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::Context;
use super::prepare::{PrepareError, user_of};
use crate::checkpoints::seal::Life;
use crate::core::Start;
use crate::dirs::Dirs;
use crate::ram::{self, Memory};

/// A file system that several nodes see may show one what another wrote some seconds later.
const TRIES: u32 = 10;
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// What kind of place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The job's own, on this node's disk.
    Disk,
    /// The attempt's own, in this node's memory.
    Ram,
    /// It was in this node's memory, and is gone: nobody can tell what was there.
    Gone,
    /// Every node sees it: nothing is sealed, made or moved there.
    Shared,
}

/// The checkpoint directory of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) kind: Kind,
}

impl Place {
    /// That of `start`, which may have been prepared by an agent before this one.
    pub(super) fn of(dirs: &Dirs, start: &Start) -> Self {
        let spec = parse_json(&start.spec).ok();
        let shared = spec
            .and_then(|spec| spec.checkpoint)
            .filter(|one| one.shared);
        if let Some(checkpoint) = shared {
            return Self {
                dir: checkpoint.dir.into(),
                kind: Kind::Shared,
            };
        }
        let (dir, kind) = match ram::of(&dirs.attempt(start.job, start.epoch)) {
            Memory::Here(dir) => (dir, Kind::Ram),
            Memory::Gone => (dirs.checkpoints(start.job), Kind::Gone),
            Memory::Never => (dirs.checkpoints(start.job), Kind::Disk),
        };
        Self { dir, kind }
    }

    /// What the attempt resumes from, if it is on this node. What was sealed in memory is laid out on the disk.
    pub(super) fn resume_from(&self, dirs: &Dirs, start: &Start) -> Option<PathBuf> {
        if start.resume_from.is_empty() {
            return None;
        }
        // Another try of a job that is over goes on from what that one left, and has the same spec.
        let made_by = start.resume_job.unwrap_or(start.job);
        match self.kind {
            // It was looked for, and its user may see more than the agent.
            Kind::Shared => Some(self.dir.join(&start.resume_from)),
            Kind::Disk | Kind::Ram | Kind::Gone => {
                let path = dirs.checkpoints(made_by).join(&start.resume_from);
                path.exists().then_some(path)
            }
        }
    }

    /// How far what the ranks of this node did says that checkpoints are complete: not where those of other nodes write into the same directory.
    pub(super) fn life(&self, start: &Start, life: Life) -> Life {
        match life {
            Life::EndedWell if self.kind == Kind::Shared && start.members.len() > 1 => {
                Life::EndedBadly
            }
            life => life,
        }
    }

    /// Looks whether a directory that every node sees is there on this one, with what `start` resumes from. Of others there is nothing to ask.
    ///
    /// # Errors
    /// When it is not. A trainer that found an empty directory instead would begin anew.
    pub(super) async fn check(&self, start: &Start) -> Result<(), PrepareError> {
        if self.kind != Kind::Shared {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            let (dir, resume_from) = (self.dir.clone(), start.resume_from.clone());
            let looked = spawn_blocking(move || look(&dir, &resume_from)).await?;
            match looked {
                Err(_) if tries < TRIES => {
                    tries += 1;
                    sleep(AGAIN).await;
                }
                other => return other.map_err(PrepareError::Shared),
            }
        }
    }
}

fn look(dir: &Path, resume_from: &str) -> Result<(), String> {
    let shown = dir.display();
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(format!(
                "`checkpoint.dir` {shown} is no directory on this node: name one that every node sees"
            ));
        }
        // Its user may enter what the agent may not.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => {
            return Err(format!(
                "`checkpoint.dir` {shown}, which every node should see, is not there on this one ({error}): mount the file system that it lies on, or make the directory"
            ));
        }
    }
    if resume_from.is_empty() {
        return Ok(());
    }
    match fs::metadata(dir.join(resume_from)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "checkpoint {resume_from}, the newest of the job, is not in {shown} on this node: mount the file system that it lies on, or put it back; a new job begins without it"
        )),
        _ => Ok(()),
    }
}

/// Where this node looks for checkpoints of an attempt; `None`: it does not. Of what every node sees the first node of the attempt speaks alone.
pub(super) async fn looked_at(context: &Context, start: &Start) -> Option<Place> {
    let place = Place::of(&context.dirs, start);
    let job = start.job;
    match place.kind {
        Kind::Disk | Kind::Ram => return Some(place),
        Kind::Gone => {
            debug!(%job, epoch = %start.epoch, "checkpoints that were in memory are gone: nobody is told of them, nor that there were none");
            return None;
        }
        Kind::Shared if start.node_rank != 0 => return None,
        Kind::Shared => {}
    }
    let user = user_of(context, start)
        .inspect_err(|error| warn!(%job, %error, "checkpoints are not looked for"))
        .ok()?;
    let dir = place.dir.clone();
    let may = spawn_blocking(move || may_look(&dir, user.as_ref())).await;
    // A panic was reported where it happened.
    match may.unwrap_or(Ok(None)) {
        // Where that user may look, whatever the name leads to by now.
        Ok(Some(dir)) => Some(Place { dir, ..place }),
        Ok(None) => {
            warn!(%job, dir = %place.dir.display(), "the job's user may not list its checkpoint directory by its modes, so nobody is told what is in it: open it to that user");
            None
        }
        Err(error) => {
            warn!(%job, dir = %place.dir.display(), %error, "the agent cannot look into the job's checkpoint directory, so no checkpoint in it is known: let the agent's user list it");
            None
        }
    }
}

/// Where `dir` leads, if the user that a job runs as may list it by the modes of all directories on the way: what the agent finds is told to the job's
/// owner, and the agent may see more than that user. Access lists are not asked. `None` as user: the agent's own.
fn may_look(dir: &Path, user: Option<&User>) -> io::Result<Option<PathBuf>> {
    let dir = fs::canonicalize(dir)?;
    fs::read_dir(&dir)?;
    let Some(user) = user.filter(|user| !user.uid.is_root()) else {
        return Ok(Some(dir));
    };
    let name = CString::new(user.name.as_str())?;
    let groups = getgrouplist(&name, user.gid)?;
    let groups: Vec<u32> = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
    let mut wanted = 0o5;
    for at in dir.ancestors() {
        if !grants(&fs::metadata(at)?, user.uid.as_raw(), &groups, wanted) {
            return Ok(None);
        }
        // Above it it is enough to pass through.
        wanted = 0o1;
    }
    Ok(Some(dir))
}

fn grants(found: &Metadata, user: u32, groups: &[u32], wanted: u32) -> bool {
    let shift = if found.uid() == user {
        6
    } else if groups.contains(&found.gid()) {
        3
    } else {
        0
    };
    (found.mode() >> shift) & wanted == wanted
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use mlctl_proto::ids::{Epoch, JobId};
    use mlctl_proto::spec::{CheckpointSpec, JobSpec, OnDisconnect};

    use super::*;
    use crate::core::Member;

    fn start(dir: Option<&Path>) -> Start {
        let checkpoint = dir.map(|dir| CheckpointSpec {
            shared: true,
            replicas: 0,
            ..CheckpointSpec::in_dir(&dir.to_string_lossy())
        });
        let spec = JobSpec {
            checkpoint,
            on_disconnect: OnDisconnect::Fence,
            ..JobSpec::new(vec!["train".into()])
        };
        Start {
            spec: spec.canonical_json(),
            resume_from: "step-1".into(),
            ..Start::bare(JobId::new(1, 7), Epoch::new(1, 2))
        }
    }

    #[test]
    fn on_disk_in_memory_or_where_every_node_sees_it() {
        let root = tempfile::tempdir().expect("dir");
        let dirs = Dirs::new(root.path().join("data"));
        let own = start(None);
        let made = dirs.checkpoints(own.job).join("step-1");
        fs::create_dir_all(&made).expect("made");
        let place = Place::of(&dirs, &own);
        assert_eq!(place.kind, Kind::Disk);
        assert_eq!(place.dir, dirs.checkpoints(own.job));
        assert_eq!(place.resume_from(&dirs, &own), Some(made.clone()));
        let base = root.path().join("ram");
        fs::create_dir(&base).expect("made");
        fs::create_dir_all(dirs.attempt(own.job, own.epoch)).expect("made");
        let memory = ram::make(&base, &dirs, (own.job, own.epoch)).expect("made");
        let place = Place::of(&dirs, &own);
        assert_eq!((place.kind, &place.dir), (Kind::Ram, &memory));
        assert_eq!(place.resume_from(&dirs, &own), Some(made), "on the disk");
        ram::end(&dirs.attempt(own.job, own.epoch)).expect("it ends");
        assert_eq!(Place::of(&dirs, &own).kind, Kind::Gone);
        let seen = start(Some(Path::new("/nfs/a")));
        let place = Place::of(&dirs, &seen);
        assert_eq!(
            (place.kind, place.dir.as_path()),
            (Kind::Shared, Path::new("/nfs/a"))
        );
        let from = place.resume_from(&dirs, &seen);
        assert_eq!(from, Some("/nfs/a/step-1".into()));
        let anew = Start {
            resume_from: String::new(),
            ..seen
        };
        assert_eq!(place.resume_from(&dirs, &anew), None);
    }

    #[test]
    fn what_one_node_saw_of_its_ranks_says_nothing_of_those_of_others() {
        let dirs = Dirs::new("/data");
        let mut start = start(Some(Path::new("/nfs/a")));
        let place = Place::of(&dirs, &start);
        assert_eq!(place.life(&start, Life::EndedWell), Life::EndedWell);
        start.members = vec![Member::default(); 2];
        assert_eq!(place.life(&start, Life::EndedWell), Life::EndedBadly);
        assert_eq!(place.life(&start, Life::Running), Life::Running);
        let own = Place {
            kind: Kind::Disk,
            ..place
        };
        assert_eq!(own.life(&start, Life::EndedWell), Life::EndedWell);
    }

    #[test]
    fn a_shared_directory_must_be_there_with_what_is_resumed_from() {
        let root = tempfile::tempdir().expect("dir");
        let absent = look(&root.path().join("absent"), "").expect_err("not there");
        assert!(absent.contains("mount the file system"), "{absent}");
        let file = root.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(
            look(&file, "")
                .expect_err("a file")
                .contains("no directory")
        );
        look(root.path(), "").expect("it is there");
        let missing = look(root.path(), "step-1").expect_err("not there");
        assert!(missing.contains("checkpoint step-1"), "{missing}");
        fs::create_dir(root.path().join("step-1")).expect("made");
        look(root.path(), "step-1").expect("it is there");
    }

    #[test]
    fn modes_say_who_may_list_a_directory() {
        let root = tempfile::tempdir().expect("dir");
        let found = |mode| {
            fs::set_permissions(root.path(), Permissions::from_mode(mode)).expect("set");
            fs::metadata(root.path()).expect("there")
        };
        let (own, group) = (found(0o700).uid(), found(0o700).gid());
        let (user, other) = (own + 1, group + 1);
        for (mode, uid, groups, wanted, may) in [
            (0o700, own, &[][..], 0o5, true),
            (0o700, user, &[group], 0o5, false),
            (0o750, user, &[group], 0o5, true),
            (0o750, user, &[other], 0o5, false),
            (0o711, user, &[other], 0o5, false),
            (0o711, user, &[other], 0o1, true),
            (0o705, user, &[group], 0o5, false),
            (0o075, own, &[group], 0o5, false),
        ] {
            let granted = grants(&found(mode), uid, groups, wanted);
            assert_eq!(granted, may, "{mode:o} {uid} {groups:?}");
        }
        let mine = found(0o700);
        assert!(mine.is_dir() && may_look(root.path(), None).expect("read").is_some());
    }
}
