//! One command to its end: exit code, both outputs, and how long it took. Every one has a deadline.
//! Does NOT know the cluster.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::machine;

/// How long a command may take unless said otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; 128 + n after signal n.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it remarked.
    pub stderr: String,
    /// From its start to its end.
    pub wall: Duration,
    shown: String,
}

/// The exit code as a shell would give it.
pub fn code_of(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be started, or has not ended within `deadline`: it is killed, and the text holds what it had printed.
pub fn run(mut command: Command, deadline: Duration) -> Output {
    let shown = shown(&command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begun = Instant::now();
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    let pid = machine::pid_of(&child);
    let (sender, ended) = mpsc::sync_channel(1);
    // The thread ends with the child; nobody listens any more only if this one has panicked.
    std::thread::spawn(move || drop(sender.send((child.wait_with_output(), begun.elapsed()))));
    let mut late = false;
    let (output, wall) = ended.recv_timeout(deadline).unwrap_or_else(|_| {
        late = true;
        machine::kill(pid);
        ended
            .recv_timeout(Duration::from_secs(10))
            .unwrap_or_else(|_| panic!("{shown} cannot be killed"))
    });
    let output = output.unwrap_or_else(|error| panic!("{shown}: {error}"));
    let output = Output {
        code: code_of(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        wall,
        shown,
    };
    assert!(!late, "not done within {deadline:?}: {}", output.text());
    output
}

impl Output {
    /// Everything, for a failure's text.
    pub fn text(&self) -> String {
        format!(
            "`{}` ended with {} after {:?}\nstdout: {}\nstderr: {}",
            self.shown, self.code, self.wall, self.stdout, self.stderr
        )
    }

    /// Itself, if it ended with `code`.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }

    /// Checks that it was refused: this exit code, and each of `words` in what it said.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Self {
        let said = format!("{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(
                said.contains(word),
                "nothing about `{word}` in {}",
                self.text()
            );
        }
        self.expect(code)
    }

    /// The one JSON value on stdout.
    ///
    /// # Panics
    /// When it failed or printed something else.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let output = self.expect(0);
        serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", output.text()))
    }

    /// The lines of stdout.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}
