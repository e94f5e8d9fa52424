//! Errors that cross a boundary: one closed set of codes, each with its exit code.
//! Says nothing of transport; `rpc` maps them to gRPC and back.
use std::fmt;

/// What kind of refusal or fault it is. The word is stable: programs match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The request itself is wrong: a bad spec, a bad argument.
    BadRequest,
    /// No healthy cluster of this inventory could ever run it.
    NeverFits,
    /// No such job, node, blob.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// The same idempotency key came with another request.
    KeyReused,
    /// The state has moved on: what was asked no longer makes sense.
    Conflict,
    /// More than a limit allows.
    LimitExceeded,
    /// Too much at once: try again later.
    Overloaded,
    /// No coordinator leads at the moment, or none was reached.
    Unavailable,
    /// The index is older than what is kept: list again.
    Compacted,
    /// A coordinator's disk is too full for what was asked.
    DiskFull,
    /// The coordinators disagree about the state: nothing is changed.
    ReadOnly,
    /// Our fault.
    Internal,
}

impl Code {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::BadRequest,
        Self::NeverFits,
        Self::NotFound,
        Self::Denied,
        Self::KeyReused,
        Self::Conflict,
        Self::LimitExceeded,
        Self::Overloaded,
        Self::Unavailable,
        Self::Compacted,
        Self::DiskFull,
        Self::ReadOnly,
        Self::Internal,
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::NeverFits => "NeverFits",
            Self::NotFound => "NotFound",
            Self::Denied => "Denied",
            Self::KeyReused => "KeyReused",
            Self::Conflict => "Conflict",
            Self::LimitExceeded => "LimitExceeded",
            Self::Overloaded => "Overloaded",
            Self::Unavailable => "Unavailable",
            Self::Compacted => "Compacted",
            Self::DiskFull => "DiskFull",
            Self::ReadOnly => "ReadOnly",
            Self::Internal => "Internal",
        }
    }

    /// The code of a word; an unknown word is `Internal`.
    pub fn from_word(word: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.word() == word)
            .unwrap_or(Self::Internal)
    }

    /// The exit code of a command that ends with it (sysexits where one fits).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::BadRequest | Self::NeverFits | Self::LimitExceeded => 64,
            Self::NotFound => 66,
            Self::Unavailable | Self::Overloaded | Self::DiskFull | Self::ReadOnly => 69,
            Self::Internal | Self::Compacted => 70,
            Self::KeyReused | Self::Conflict => 73,
            Self::Denied => 77,
        }
    }
}

/// An error for a person or a program: its code and what happened, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Its kind.
    pub code: Code,
    /// What happened, why, and what to do next; no final period.
    pub message: String,
}

impl Refusal {
    /// A refusal of `code` that says `message`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(feature = "rpc")]
mod rpc {
    use super::{Code, Refusal};
    use tonic::{Code as Grpc, Status};

    const HEADER: &str = "mlctl-code";

    impl From<Refusal> for Status {
        fn from(refusal: Refusal) -> Self {
            let grpc = match refusal.code {
                Code::BadRequest | Code::NeverFits => Grpc::InvalidArgument,
                Code::NotFound => Grpc::NotFound,
                Code::Denied => Grpc::PermissionDenied,
                Code::KeyReused => Grpc::AlreadyExists,
                Code::Conflict | Code::ReadOnly => Grpc::FailedPrecondition,
                Code::LimitExceeded | Code::Overloaded | Code::DiskFull => Grpc::ResourceExhausted,
                Code::Unavailable => Grpc::Unavailable,
                Code::Compacted => Grpc::OutOfRange,
                Code::Internal => Grpc::Internal,
            };
            let mut status = Status::new(grpc, refusal.message);
            status.metadata_mut().insert(
                HEADER,
                tonic::metadata::MetadataValue::from_static(refusal.code.word()),
            );
            status
        }
    }

    impl From<&Status> for Refusal {
        fn from(status: &Status) -> Self {
            let word = status
                .metadata()
                .get(HEADER)
                .and_then(|value| value.to_str().ok());
            let code = match (word, status.code()) {
                (Some(word), _) => Code::from_word(word),
                // What the transport says when a connection breaks in the middle of an answer is `Unknown`.
                (
                    None,
                    Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Cancelled | Grpc::Unknown,
                ) => Code::Unavailable,
                (None, Grpc::PermissionDenied | Grpc::Unauthenticated) => Code::Denied,
                (None, Grpc::InvalidArgument | Grpc::OutOfRange) => Code::BadRequest,
                (None, Grpc::NotFound) => Code::NotFound,
                (None, Grpc::ResourceExhausted) => Code::Overloaded,
                _ => Code::Internal,
            };
            Refusal::new(code, status.message())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_round_trip() {
        for code in Code::ALL {
            assert_eq!(Code::from_word(code.word()), code);
        }
        assert_eq!(Code::from_word("Nonsense"), Code::Internal);
    }

    /// Scripts go by these numbers.
    #[test]
    fn every_refusal_has_its_exit_code() {
        for (code, exit) in [
            (Code::BadRequest, 64),
            (Code::NeverFits, 64),
            (Code::LimitExceeded, 64),
            (Code::NotFound, 66),
            (Code::Unavailable, 69),
            (Code::Internal, 70),
            (Code::Conflict, 73),
            (Code::KeyReused, 73),
            (Code::Denied, 77),
        ] {
            assert_eq!(code.exit_code(), exit, "{code:?}");
        }
    }

    #[cfg(feature = "rpc")]
    #[test]
    fn refusals_survive_the_wire() {
        for code in Code::ALL {
            let refusal = Refusal::new(code, "what, why, what to do");
            let status = tonic::Status::from(refusal.clone());
            assert_eq!(Refusal::from(&status), refusal);
        }
    }

    #[cfg(feature = "rpc")]
    #[test]
    fn a_broken_connection_is_worth_another_try() {
        let broken =
            tonic::Status::unknown("h2 protocol error: error reading a body from connection");
        assert_eq!(Refusal::from(&broken).code, Code::Unavailable);
    }
}
