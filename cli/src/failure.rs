//! How a command fails: its exit code and the one text that says what happened, why, and what to do next.
//! Prints nothing itself.
use std::fmt;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_runtime::tls::DialError;

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    exit: u8,
    code: Option<Code>,
    message: String,
    retry: bool,
}

impl Failure {
    fn new(exit: u8, message: String) -> Self {
        Self {
            exit,
            code: None,
            message,
            retry: false,
        }
    }

    /// The user asked for something senseless: 64.
    pub fn usage(message: String) -> Self {
        Self::new(64, message)
    }

    /// There is no such thing: 66.
    pub fn not_found(message: String) -> Self {
        Self::new(66, message)
    }

    /// Our fault or the machine's: 70.
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new(70, format!("{error:#}"))
    }

    /// What was run has failed: 1.
    pub fn failed(message: String) -> Self {
        Self::new(1, message)
    }

    /// Time ran out; the job lives: 75.
    pub fn timed_out(message: String) -> Self {
        Self::new(75, message)
    }

    /// A local configuration cannot be used: 78.
    pub fn config(error: impl std::error::Error) -> Self {
        Self::new(78, chain(&error))
    }

    /// The same, in words.
    pub fn config_text(message: String) -> Self {
        Self::new(78, message)
    }

    /// A coordinator could not be reached. Another one may be, unless it is we who are wrong.
    pub fn dial(error: DialError) -> Self {
        let retry = matches!(
            error,
            DialError::Unreachable { .. }
                | DialError::Timeout { .. }
                | DialError::NotACoordinator { .. }
        );
        Self {
            retry,
            ..Self::new(69, chain(&error))
        }
    }

    /// The same, and what to do about it.
    pub fn and(mut self, what: &str) -> Self {
        self.message.push_str(what);
        self
    }

    /// What a program matches on, if a coordinator said it.
    pub fn code(&self) -> Option<Code> {
        self.code
    }

    /// Whether another coordinator, or the same a little later, may answer.
    pub fn may_retry(&self) -> bool {
        self.retry
    }

    /// The process's exit code.
    pub fn exit(&self) -> u8 {
        self.exit
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let retry = matches!(refusal.code, Code::Unavailable | Code::Overloaded);
        Self {
            exit: refusal.code.exit_code(),
            code: Some(refusal.code),
            message: refusal.message,
            retry,
        }
    }
}

impl From<&tonic::Status> for Failure {
    fn from(status: &tonic::Status) -> Self {
        Self::from(Refusal::from(status))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
