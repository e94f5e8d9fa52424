//! Typed ids. An id is (incarnation, counter), compared in that order, so that nothing repeats after a recovery.
//! Names of nodes and users are checked here. No id is drawn here: counters belong to the replicated state.
use std::fmt;
use std::str::FromStr;

use crate::limits::NAME_BYTES_MAX;
use crate::persist;

macro_rules! pair_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// Raised only by a recovery; 1 in a cluster that never had one.
            pub incarnation: u32,
            /// Counts from 1.
            pub counter: u64,
        }

        impl $name {
            /// The id `(incarnation, counter)`.
            pub const fn new(incarnation: u32, counter: u64) -> Self {
                Self { incarnation, counter }
            }

            /// Bytes that sort as the ids do: the key of a table row.
            pub fn to_key(self) -> [u8; 12] {
                let mut key = [0; 12];
                key[..4].copy_from_slice(&self.incarnation.to_be_bytes());
                key[4..].copy_from_slice(&self.counter.to_be_bytes());
                key
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.incarnation <= 1 {
                    write!(f, "{}", self.counter)
                } else {
                    write!(f, "{}-{}", self.incarnation, self.counter)
                }
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError::NotAnId { kind: stringify!($name), text: clip(text) };
                let number = |part: &str| -> Result<u64, IdError> {
                    let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                    digits.then(|| part.parse().ok()).flatten().ok_or_else(wrong)
                };
                let (incarnation, counter) = match text.split_once('-') {
                    Some((incarnation, counter)) => (number(incarnation)?, number(counter)?),
                    None => (1, number(text)?),
                };
                let incarnation = u32::try_from(incarnation).map_err(|_| wrong())?;
                if incarnation == 0 || counter == 0 {
                    return Err(wrong());
                }
                Ok(Self { incarnation, counter })
            }
        }

        impl From<$name> for persist::Id {
            fn from(id: $name) -> Self {
                Self { incarnation: id.incarnation, counter: id.counter }
            }
        }

        impl TryFrom<Option<persist::Id>> for $name {
            type Error = IdError;

            fn try_from(id: Option<persist::Id>) -> Result<Self, IdError> {
                match id {
                    Some(id) if id.incarnation > 0 && id.counter > 0 => {
                        Ok(Self { incarnation: id.incarnation, counter: id.counter })
                    }
                    _ => Err(IdError::Missing { kind: stringify!($name) }),
                }
            }
        }
    };
}

pair_id! {
    /// A job. Prints as its counter (`412`), after a recovery as `2-412`.
    JobId
}
pair_id! {
    /// One placement of a job. Its counter is the attempt's number, from 1.
    Epoch
}

/// Why a text or a message is not an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is not of the form `412` or `2-412`.
    #[error("`{text}` is not a {kind}: expected a number such as `412` (after a recovery `2-412`)")]
    NotAnId {
        /// Which id was expected.
        kind: &'static str,
        /// The text, cut to a printable length.
        text: String,
    },
    /// A message without the id, or with a zero in it.
    #[error("a message lacks its {kind}")]
    Missing {
        /// Which id was expected.
        kind: &'static str,
    },
    /// The text is not a name.
    #[error(
        "`{text}` is not a valid name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and `-`, not first or last a `-`"
    )]
    NotAName {
        /// The text, cut to a printable length.
        text: String,
    },
}

/// At most 40 characters of `text`, control characters shown as `?`: safe to print.
pub fn clip(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(40)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(40).is_some() {
        out.push('…');
    }
    out
}

/// Checks a name of a node, user, coordinator or pool: `[a-z0-9-]{1,63}`, no `-` at either end.
pub fn check_name(text: &str) -> Result<(), IdError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ok = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if ok {
        Ok(())
    } else {
        Err(IdError::NotAName { text: clip(text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse() {
        for (id, text) in [(JobId::new(1, 412), "412"), (JobId::new(2, 412), "2-412")] {
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
        }
        assert!(JobId::new(1, 9) < JobId::new(1, 10) && JobId::new(1, 10) < JobId::new(2, 1));
        assert!(JobId::new(1, 256).to_key() < JobId::new(2, 1).to_key());
    }

    #[test]
    fn hostile_ids_are_refused() {
        let huge = "9".repeat(400);
        for text in [
            "",
            "0",
            "-1",
            "1-",
            "1-0",
            "0-1",
            "+1",
            " 1",
            "1\n",
            "٣",
            "4294967296-1",
            huge.as_str(),
        ] {
            let error = text.parse::<JobId>().expect_err(text);
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for (name, ok) in [
            ("gpu-01", true),
            ("a", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("A", false),
            ("a/../b", false),
            ("a\0", false),
            (long.as_str(), false),
        ] {
            assert_eq!(check_name(name).is_ok(), ok, "{name:?}");
        }
    }
}
