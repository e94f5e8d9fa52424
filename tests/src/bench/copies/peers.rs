//! `rsync` over ssh, an rsync daemon, and `cp`: the commands, and the servers that they need. Keys, configurations and ports are the run's
//! own, on hosts of its own: nothing of this machine's ssh is read or touched. Does NOT measure.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::lab::{Lab, Server, whole};

const SSH_PORT: u16 = 2222;
const RSYNC_PORT: u16 = 8730;

/// What has to be installed.
pub const TOOLS: [&str; 4] = ["rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd"];

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes keys and configurations in `ssh/` and `rsyncd.conf` of the run's directory.
///
/// # Errors
/// When `ssh-keygen` fails.
pub fn prepare(lab: &Lab) -> Result<()> {
    let (dir, address) = (lab.dir().join("ssh"), lab.address("b"));
    fs::create_dir(&dir)?;
    for name in ["host", "client"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]);
        keygen.arg(dir.join(name));
        whole(keygen)?;
    }
    let public = |name: &str| fs::read_to_string(dir.join(name));
    fs::write(dir.join("authorized"), public("client.pub")?)?;
    let host = public("host.pub")?;
    fs::write(
        dir.join("known"),
        format!("[{address}]:{SSH_PORT} {}\n", host.trim()),
    )?;
    let config = format!(
        "Port {SSH_PORT}\nListenAddress {address}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
         UseDNS no\nPrintMotd no\nPrintLastLog no\nLogLevel ERROR\n",
        text(&dir)
    );
    fs::write(dir.join("sshd_config"), config)?;
    let root = text(lab.dir());
    let config = format!(
        "uid = root\ngid = root\nuse chroot = false\nlog file = {root}/rsyncd.log\n[bench]\npath = {root}\nread only = false\n"
    );
    Ok(fs::write(lab.dir().join("rsyncd.conf"), config)?)
}

/// An sshd on host `b`. Its directory for the separation of privileges is a mount that nobody else sees.
///
/// # Errors
/// When it does not start.
pub fn sshd(lab: &Lab) -> Result<Server> {
    let config = text(&lab.dir().join("ssh/sshd_config"));
    let script =
        "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f \"$1\"";
    let command = lab.command("b", &["sh", "-c", script, "sh", &config]);
    Server::start(command, SSH_PORT)
}

/// An rsync daemon on host `b`.
///
/// # Errors
/// When it does not start.
pub fn rsyncd(lab: &Lab) -> Result<Server> {
    let config = format!("--config={}", text(&lab.dir().join("rsyncd.conf")));
    let (address, port) = (
        format!("--address={}", lab.address("b")),
        format!("--port={RSYNC_PORT}"),
    );
    let words = ["rsync", "--daemon", "--no-detach", &config, &address, &port];
    Server::start(lab.command("b", &words), RSYNC_PORT)
}

/// `rsync -a` over ssh from host `a`, with a cipher if one is named.
pub fn over_ssh(lab: &Lab, cipher: Option<&str>, source: &Path, dest: &Path) -> Command {
    let dir = text(&lab.dir().join("ssh"));
    let mut shell = format!(
        "ssh -F /dev/null -p {SSH_PORT} -i {dir}/client -o UserKnownHostsFile={dir}/known -o GlobalKnownHostsFile=/dev/null \
         -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes -o LogLevel=ERROR"
    );
    if let Some(cipher) = cipher {
        shell += &format!(" -c {cipher}");
    }
    let to = format!("root@{}:{}/", lab.address("b"), text(dest));
    let from = format!("{}/", text(source));
    lab.command("a", &["rsync", "-a", "-e", &shell, &from, &to])
}

/// `rsync -a` to the daemon from host `a`.
pub fn to_daemon(lab: &Lab, source: &Path, dest: &Path) -> Command {
    let below = dest.strip_prefix(lab.dir()).unwrap_or(dest);
    let (address, below) = (lab.address("b"), text(below));
    let to = format!("rsync://{address}:{RSYNC_PORT}/bench/{below}/");
    lab.command("a", &["rsync", "-a", &format!("{}/", text(source)), &to])
}

/// `cp -a` on host `a`.
pub fn cp(lab: &Lab, source: &Path, dest: &Path) -> Command {
    let from = format!("{}/.", text(source));
    lab.command("a", &["cp", "-a", &from, &text(dest)])
}
