//! A command that goes on while the test does something else: its lines with the time they came at, signals, its end.
//! Does NOT outlive the test: it is killed when it is dropped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{command, machine};

/// A line that a command printed.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it came.
    pub at: Instant,
    /// On stderr instead of stdout.
    pub stderr: bool,
    /// Without its newline.
    pub text: String,
}

/// A command under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    /// When it was started.
    pub begun: Instant,
    lines: Arc<Mutex<Vec<Line>>>,
    readers: Vec<JoinHandle<()>>,
}

fn collect(
    stream: impl Read + Send + 'static,
    stderr: bool,
    lines: &Arc<Mutex<Vec<Line>>>,
) -> JoinHandle<()> {
    let lines = lines.clone();
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches('\n')
                .to_owned();
            held(&lines).push(Line {
                at: Instant::now(),
                stderr,
                text,
            });
            line.clear();
        }
    })
}

/// A list of lines is whole after every push, whoever panicked.
fn held(lines: &Mutex<Vec<Line>>) -> MutexGuard<'_, Vec<Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Starts `command`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Self {
        let shown = command::shown(&command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let lines = Arc::default();
        let stdout = child
            .stdout
            .take()
            .map(|stream| collect(stream, false, &lines));
        let stderr = child
            .stderr
            .take()
            .map(|stream| collect(stream, true, &lines));
        Self {
            child,
            shown,
            begun,
            lines,
            readers: stdout.into_iter().chain(stderr).collect(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        machine::pid_of(&self.child)
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<Line> {
        held(&self.lines).clone()
    }

    /// The first line with `word` in it, waited for.
    ///
    /// # Panics
    /// When none came within `deadline`.
    #[track_caller]
    pub fn line(&self, word: &str, deadline: Duration) -> Line {
        let begun = Instant::now();
        loop {
            if let Some(line) = held(&self.lines)
                .iter()
                .find(|line| line.text.contains(word))
            {
                return line.clone();
            }
            let waited = begun.elapsed();
            assert!(
                waited < deadline,
                "no `{word}` from `{}` within {deadline:?}: {:#?}",
                self.shown,
                self.lines()
            );
            std::thread::sleep(super::LOOK);
        }
    }

    /// Sends it `signal`.
    pub fn send(&self, signal: Signal) {
        machine::send(self.pid(), signal);
    }

    /// Its exit code and everything it printed on stdout.
    ///
    /// # Panics
    /// When it has not ended within `deadline`.
    #[track_caller]
    pub fn end(mut self, deadline: Duration) -> (i32, Vec<String>) {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => panic!("{}: {error}", self.shown),
            }
            assert!(
                begun.elapsed() < deadline,
                "`{}` did not end within {deadline:?}: {:#?}",
                self.shown,
                self.lines()
            );
            std::thread::sleep(super::LOOK);
        };
        for reader in self.readers.drain(..) {
            // A reader cannot panic: it only reads and pushes.
            let _ = reader.join();
        }
        let lines = self
            .lines()
            .into_iter()
            .filter(|line| !line.stderr)
            .map(|line| line.text)
            .collect();
        (command::code_of(status), lines)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
