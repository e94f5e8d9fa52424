//! `mlctl mpi-agent`: what `mpirun` calls where it would call ssh. Asks the keeper of this node to have the line run on the other one, waits
//! for its end and ends as it did. Reads its words as ssh does: options, a host, and a line for that host's shell.
//!
//! Does NOT speak over a network: keeper, agent and leader carry its words.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::protocol::{Answer, Ask};
use super::socket_dir::ShortPath;
use crate::launch::wire::{Decoder, encode};

/// The socket in an attempt's directory.
pub(super) const SOCKET: &str = "mpi.sock";
/// A line and its host, bytes. Open MPI puts the names of all nodes into it.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// ssh's own exit code when it fails.
const FAILED: i32 = 255;
/// Options of ssh that have a value of their own.
const WITH_VALUE: &[u8] = b"BbcDEeFIiJLlmOopQRSWw";

/// Runs a launch agent of the attempt in `attempt_dir`. Returns the exit code of the process.
pub fn run(attempt_dir: &Path, words: &[String]) -> i32 {
    let told = |why: &str| {
        eprintln!("mlctl mpi-agent: {why}");
        FAILED
    };
    let Some(ask) = read_words(words) else {
        return told("usage: mpi-agent ATTEMPT_DIR [OPTIONS] HOST LINE... (called by mpirun)");
    };
    match converse(attempt_dir, &ask) {
        Ok(Answer::Here) => {
            let error = Command::new("/bin/sh").arg("-c").arg(&ask.line).exec();
            told(&format!("cannot start /bin/sh: {error}"))
        }
        Ok(Answer::Ended { code, why }) if why.is_empty() => code,
        Ok(Answer::Ended { code, why }) => {
            told(&format!("{}: {why}", ask.host));
            code
        }
        Err(error) => told(&format!(
            "the keeper of this job does not answer in {}: {error}",
            attempt_dir.display()
        )),
    }
}

/// Host and line, as ssh would take them: options first, the rest joined by blanks.
fn read_words(words: &[String]) -> Option<Ask> {
    let mut words = words.iter();
    let host = loop {
        let word = words.next()?;
        match word.as_bytes() {
            [b'-', option] if WITH_VALUE.contains(option) => drop(words.next()?),
            [b'-', ..] => {}
            _ => break word.clone(),
        }
    };
    let line: Vec<&str> = words.map(String::as_str).collect();
    (!line.is_empty()).then(|| Ask {
        host,
        line: line.join(" "),
    })
}

fn converse(attempt_dir: &Path, ask: &Ask) -> io::Result<Answer> {
    let short = ShortPath::open(attempt_dir, SOCKET)?;
    let mut stream = UnixStream::connect(short.path())?;
    stream.write_all(&encode(ask, MESSAGE_BYTES_MAX).map_err(io::Error::other)?)?;
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
    let mut buffer = [0; 4096];
    loop {
        if let Some(answer) = decoder.next().map_err(io::Error::other)? {
            return Ok(answer);
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => decoder.push(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_ssh_reads_them() {
        let check = |words: &[&str], want: Option<(&str, &str)>| {
            let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
            let found = read_words(&words);
            let found = found.as_ref().map(|ask| (&*ask.host, &*ask.line));
            assert_eq!(found, want, "{words:?}");
        };
        // Open MPI 4, MPICH, Intel MPI, Open MPI 5: the words that they really send.
        check(
            &["n2", "orted", "-mca", "ess", "\"env\""],
            Some(("n2", "orted -mca ess \"env\"")),
        );
        check(
            &[
                "-x",
                "n2",
                "\"/usr/bin/hydra_pmi_proxy\"",
                "--control-port",
                "h:1",
            ],
            Some(("n2", "\"/usr/bin/hydra_pmi_proxy\" --control-port h:1")),
        );
        check(
            &["-q", "-x", "n2", "/p//proxy", "-q"],
            Some(("n2", "/p//proxy -q")),
        );
        check(
            &["n2", "A=1;export A;/p/prted", "--prtemca"],
            Some(("n2", "A=1;export A;/p/prted --prtemca")),
        );
        check(
            &["-l", "ada", "-p", "22", "n2", "true"],
            Some(("n2", "true")),
        );
        check(&["-x", "n2"], None);
        check(&["-l"], None);
        check(&[], None);
    }

    /// Runs what a launch agent would run, in a folder whose `daemon` says its words and the variables that were exported to it.
    fn daemon_hears(words: &[&str]) -> (String, Vec<String>) {
        let folder = tempfile::tempdir().expect("dir");
        let daemon = folder.path().join("daemon");
        let script =
            "#!/bin/sh\nfor word; do echo \"word $word\"; done\nenv | grep '^P.*_PREFIX=' | sort\n";
        std::fs::write(&daemon, script).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&daemon, mode).expect("changed");
        let place = |word: &&str| word.replace("/p/daemon", daemon.to_str().expect("UTF-8"));
        let words: Vec<String> = words.iter().map(place).collect();
        let ask = read_words(&words).expect("good words");
        let mut shell = Command::new("/bin/sh");
        let output = shell.arg("-c").arg(&ask.line).output().expect("started");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        (ask.host, said.lines().map(str::to_owned).collect())
    }

    #[test]
    fn prted_and_its_exports_come_as_one_word() {
        let (host, said) = daemon_hears(&[
            "n2",
            "PRTE_PREFIX=/v/openmpi;export PRTE_PREFIX;PMIX_PREFIX=/v/pmix;export PMIX_PREFIX;/p/daemon",
            "--allow-run-as-root",
            "--prtemca",
            "ess",
            "\"env\"",
            "--prtemca",
            "ess_base_nspace",
            "\"prterun-n1-1234@0\"",
            "--prtemca",
            "prte_hnp_uri",
            "\"prterun-n1-1234@0.0;tcp://10.77.0.11:59187:24\"",
        ]);
        assert_eq!(host, "n2");
        let wanted = [
            "word --allow-run-as-root",
            "word --prtemca",
            "word ess",
            "word env",
            "word --prtemca",
            "word ess_base_nspace",
            "word prterun-n1-1234@0",
            "word --prtemca",
            "word prte_hnp_uri",
            // The quotes are the shell's, or it would end the command at the semicolon.
            "word prterun-n1-1234@0.0;tcp://10.77.0.11:59187:24",
            "PMIX_PREFIX=/v/pmix",
            "PRTE_PREFIX=/v/openmpi",
        ];
        assert_eq!(said, wanted);
    }

    #[test]
    fn intels_proxy_keeps_its_words_in_their_order() {
        let words = [
            "--upstream-host",
            "10.77.0.11",
            "--upstream-port",
            "41235",
            "--pgid",
            "0",
            "--launcher",
            "ssh",
            "--launcher-number",
            "0",
            "--launcher-exec",
            "/d/mpi-agent",
            "--tree-width",
            "16",
            "--tree-level",
            "1",
            "--iface",
            "eth0",
            "--time-left",
            "-1",
            "--launch-type",
            "2",
            "--proxy-id",
            "1",
            "--node-id",
            "1",
            "--subtree-size",
            "1",
            "/v/bin//hydra_pmi_proxy",
            "--usize",
            "-1",
            "--auto-cleanup",
            "1",
            "--abort-signal",
            "9",
        ];
        let (host, said) = daemon_hears(&[&["-q", "-x", "n2", "/p/daemon"], &words[..]].concat());
        assert_eq!(host, "n2");
        assert_eq!(said, words.map(|word| format!("word {word}")));
    }
}
