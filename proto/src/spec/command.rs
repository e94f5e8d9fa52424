//! A command: an argv array, or a string split by POSIX quoting. Never run by a shell, so nothing in it expands.
use serde::{Deserialize, Deserializer, Serialize};

use super::SpecError;
use crate::limits::ARGV_MAX;

/// The words of a command, the program first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Argv(pub Vec<String>);

/// Why a text is not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A quote is not closed, or a backslash ends the text.
    #[error("has an open quote or ends in a backslash")]
    Quoting,
}

impl Argv {
    /// Splits `text` as a POSIX shell would, without expanding anything.
    pub fn split(text: &str) -> Result<Self, CommandError> {
        shlex::split(text).map(Self).ok_or(CommandError::Quoting)
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        let wrong = |why: &str| {
            Err(SpecError::Value {
                key: "command".into(),
                why: why.into(),
            })
        };
        match self.0.first() {
            None => wrong("is empty: name the program to run"),
            Some(first) if first.is_empty() => wrong("names an empty program"),
            _ if self.0.len() > ARGV_MAX => wrong("has more than 4096 words"),
            _ if self.0.iter().any(|word| word.contains('\0')) => wrong("holds a NUL byte"),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "`command` must be a string or an array of strings"
        )]
        enum Form {
            Text(String),
            Words(Vec<String>),
        }
        match Form::deserialize(from)? {
            Form::Words(words) => Ok(Self(words)),
            Form::Text(text) => Self::split(&text)
                .map_err(|error| serde::de::Error::custom(format!("`command` {error}"))),
        }
    }
}
