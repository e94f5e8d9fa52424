//! The socket of an attempt, `$MLCTL_NOTIFY`: a rank that sends `COMMIT dir=step-500 step=500 metric.val_loss=0.12` says that this directory is
//! complete. One datagram each, from the job's user alone. Does NOT answer: what a rank says while the agent is away is lost, and the file
//! `.mlctl-complete` is not.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

use crate::checkpoints::seal::notify::{Commit, MESSAGE_BYTES_MAX, name_below, parse_message};
use crate::keeper::socket_dir::ShortPath;
use crate::launch::plan::NOTIFY;

/// A checkpoint's name and what is said of it, or why that cannot be used.
pub(super) type Said = Result<(String, Commit), String>;

/// A socket that is bound.
pub(super) struct Notify {
    socket: UnixDatagram,
    /// The job's checkpoint directory.
    dir: PathBuf,
}

impl Notify {
    /// Binds the socket in `folder`, that of the attempt, in the place of one that an agent before this one had. Whoever owns `dir` may send.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn bind(folder: &Path, dir: &Path) -> io::Result<Self> {
        let path = folder.join(NOTIFY);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let short = ShortPath::open(folder, NOTIFY)?;
        let socket = UnixDatagram::bind(short.path())?;
        let owner = fs::metadata(dir)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        chown(&path, Some(owner.uid()), Some(owner.gid()))?;
        let dir = dir.to_owned();
        Ok(Self { socket, dir })
    }

    /// The next message; `None`: the socket is broken. It may be dropped, and nothing is lost.
    pub(super) async fn next(&self) -> Option<Said> {
        // One byte more than any message may have, so that a longer one shows.
        let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
        let count = self.socket.recv(&mut bytes).await.ok()?;
        Some(read(&bytes[..count], &self.dir))
    }
}

fn read(bytes: &[u8], dir: &Path) -> Said {
    let (said, word) = parse_message(bytes).map_err(|error| error.to_string())?;
    match name_below(&said, &dir.to_string_lossy()) {
        Some(name) => Ok((name.to_owned(), word)),
        None => Err(format!(
            "`{}` is no directory of {}",
            mlctl_proto::ids::clip(&said),
            dir.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_rank_says_is_read_or_refused_and_a_new_agent_binds_again() {
        let root = tempfile::tempdir().expect("dir");
        let (folder, dir) = (root.path().join("1"), root.path().join("ckpt"));
        fs::create_dir(&folder).expect("made");
        fs::create_dir(&dir).expect("made");
        drop(Notify::bind(&folder, &dir).expect("bound"));
        let notify = Notify::bind(&folder, &dir).expect("bound again");
        let rank = UnixDatagram::unbound().expect("a socket");
        let path = folder.join(NOTIFY);
        let absolute = format!("COMMIT dir={}/step-6", dir.display());
        let long = format!("COMMIT dir=step-5 metric.a={}", "1".repeat(5_000));
        for (text, name) in [
            ("COMMIT dir=step-5 step=5 metric.loss=0.5", Some("step-5")),
            (&absolute, Some("step-6")),
            ("COMMIT dir=../step-5", None),
            ("COMMIT dir=/etc", None),
            ("READY=1", None),
            ("\0", None),
            (&long, None),
        ] {
            rank.send_to(text.as_bytes(), &path).await.expect("sent");
            let said = notify.next().await.expect("a message");
            let found = said.as_ref().ok().map(|(name, _)| name.as_str());
            assert_eq!(found, name, "{text}: {said:?}");
        }
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
