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
}
