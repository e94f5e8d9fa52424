//! The room of an attempt: mounts that all its ranks on this node share and nobody else sees. A `/tmp` and a `/var/tmp` of their own, which lie
//! in the attempt's directory, and a `/dev/shm` of the size that was asked for. One room for all: ranks hand memory to each other through
//! `/dev/shm`, and an MPI keeps its sessions in `/tmp`. The network stays the keeper's.
//!
//! Needs root. Does NOT hide anything else: files are guarded by their owners.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, geteuid, pipe2};

use super::terms::Terms;
use crate::launch::LaunchPlan;

/// In an attempt's directory, for root alone: below it everybody may write.
const FOLDER: &str = "room";
/// What is private, and where in the folder it lies.
const PRIVATE: [(&str, &str); 2] = [("/tmp", "tmp"), ("/var/tmp", "var-tmp")];
const SHM: &str = "/dev/shm";

/// What stands in the way of rooms on this node, if something does.
pub(crate) fn missing() -> Option<String> {
    (!geteuid().is_root()).then(|| {
        "jobs share /tmp and /dev/shm: the launcher does not run as root, so it cannot give them their own".into()
    })
}

/// What of the node ranks do not see from such a room: with private directories, or with shared memory of a size of their own.
pub(crate) fn hidden(private: bool, own_shm: bool) -> Vec<&'static Path> {
    let mut places = Vec::new();
    if missing().is_some() {
        return places;
    }
    if private {
        places.extend(PRIVATE.map(|(place, _)| Path::new(place)));
    }
    if private || own_shm {
        places.push(Path::new(SHM));
    }
    places
}

/// Is there something that [`remove`] has to remove?
pub(crate) fn is_there(attempt_dir: &Path) -> bool {
    attempt_dir.join(FOLDER).is_dir()
}

/// Removes what the ranks left in their room. Links are not followed.
pub(crate) fn remove(attempt_dir: &Path) {
    let folder = attempt_dir.join(FOLDER);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "what ranks left in /tmp cannot be removed");
        }
        _ => {}
    }
}

/// Makes the room of the attempt in `attempt_dir`, if it is to have one: what a rank enters by.
///
/// # Errors
/// One sentence for people.
pub(super) fn make(
    terms: &Terms,
    attempt_dir: &Path,
    plan: &LaunchPlan,
) -> Result<Option<OwnedFd>, String> {
    let private = terms.private_tmp;
    if !private && plan.shm_bytes.is_none() {
        return Ok(None);
    }
    if let Some(why) = missing() {
        tracing::warn!(why, "the job gets no room of its own");
        return Ok(None);
    }
    let failed = |what: &'static str| {
        move |e: io::Error| format!("cannot give the ranks a room of their own: {what}: {e}")
    };
    let folder = attempt_dir.join(FOLDER);
    if private {
        make_folders(&folder).map_err(failed("its folders"))?;
    }
    let (done, told) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("a pipe")(e.into()))?;
    let (stay, leave) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("a pipe")(e.into()))?;
    // SAFETY: this process has one thread, so the child is whole and may do whatever the parent may.
    let child = match unsafe { fork() }.map_err(|e| failed("a process")(e.into()))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop((done, leave));
            let why = furnish(private.then_some(attempt_dir), plan.shm_bytes);
            let word = why.err().map_or(String::new(), |e| e.to_string());
            let _ = nix::unistd::write(&told, word.as_bytes());
            drop(told);
            // Until the parent holds the room.
            let _ = File::from(stay).read(&mut [0]);
            // SAFETY: ends this process without a word to anything that it shares with its parent.
            unsafe { libc::_exit(0) }
        }
    };
    drop((told, stay));
    let mut word = String::new();
    let heard = File::from(done).read_to_string(&mut word);
    let room = File::open(format!("/proc/{child}/ns/mnt"));
    drop(leave);
    let _ = waitpid(child, None);
    heard.map_err(failed("its word"))?;
    if !word.is_empty() {
        return Err(failed("mounts")(io::Error::other(word)));
    }
    room.map(|room| Some(room.into()))
        .map_err(failed("its door"))
}

fn make_folders(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    for (_, name) in PRIVATE {
        let path = folder.join(name);
        DirBuilder::new().recursive(true).create(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// A file or directory that is shown at a place which may hide it by then: it was opened before.
struct Kept {
    path: PathBuf,
    is_dir: bool,
    open: File,
}

impl Kept {
    /// Where a mount of this namespace is to be seen, it has to be opened in it.
    fn open(path: PathBuf) -> io::Result<Self> {
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&path)?;
        let is_dir = open.metadata()?.is_dir();
        Ok(Self { path, is_dir, open })
    }

    /// The job's directory, with work, checkpoints and the attempt, and this program, where they lie below what becomes private.
    fn open_all(attempt_dir: &Path) -> io::Result<Vec<Self>> {
        let program = fs::read_link("/proc/self/exe").ok();
        let job = attempt_dir.parent().unwrap_or(attempt_dir).to_owned();
        let hidden = |path: &PathBuf| PRIVATE.iter().any(|(place, _)| path.starts_with(place));
        [Some(job), program]
            .into_iter()
            .flatten()
            .filter(hidden)
            .map(Self::open)
            .collect()
    }

    fn show(&self) -> io::Result<()> {
        let above = if self.is_dir {
            Some(self.path.as_path())
        } else {
            self.path.parent()
        };
        if let Some(above) = above {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(above)?;
        }
        if !self.is_dir {
            drop(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path)?,
            );
        }
        self.show_at(&self.path)
    }

    fn show_at(&self, place: &Path) -> io::Result<()> {
        let from = format!("/proc/self/fd/{}", self.open.as_raw_fd());
        mount(Some(from.as_ref()), place, None, libc::MS_BIND, None)
    }
}

/// In a process of its own: leaves the mounts of the node and makes those of the room.
fn furnish(private: Option<&Path>, shm_bytes: Option<u64>) -> io::Result<()> {
    // SAFETY: takes an integer and touches no memory.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // What the node mounts later is seen here, what is mounted here is not seen there.
    mount(
        None,
        Path::new("/"),
        None,
        libc::MS_REC | libc::MS_SLAVE,
        None,
    )?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    if let Some(attempt_dir) = private {
        let kept = Kept::open_all(attempt_dir)?;
        let open = |name: &str| Kept::open(attempt_dir.join(FOLDER).join(name));
        let folders = PRIVATE.map(|(place, name)| (Path::new(place), open(name)));
        for (place, folder) in folders {
            if !place.is_dir() {
                continue;
            }
            folder?.show_at(place)?;
            let closed = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_NOSUID | libc::MS_NODEV;
            mount(None, place, None, closed, None)?;
        }
        kept.iter().try_for_each(Kept::show)?;
    }
    // A private room has its own shared memory too: half of the machine's, as the kernel gives it, unless a size was asked for.
    let size = shm_bytes.map_or(String::new(), |bytes| format!(",size={bytes}"));
    let options = CString::new(format!("mode=1777{size}"))?;
    mount(
        Some(Path::new("tmpfs")),
        Path::new(SHM),
        Some(c"tmpfs"),
        libc::MS_NOSUID | libc::MS_NODEV,
        Some(&options),
    )
}

fn mount(
    from: Option<&Path>,
    to: &Path,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let from = from.map(text).transpose()?;
    let to = text(to)?;
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: texts that end in NUL and outlive the call, or null where the kernel takes it.
    let done = unsafe {
        libc::mount(
            pointer(from.as_deref()),
            to.as_ptr(),
            pointer(kind),
            flags,
            pointer(options).cast(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
