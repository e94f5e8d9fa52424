//! A writer's word that a checkpoint is complete: the message `COMMIT dir=step-500 step=500 metric.val_loss=0.12`, and what the file
//! `.mlctl-complete` may hold. Bytes of a user's program: everything is bounded and nothing is guessed.
//! Does NOT receive messages.

use serde_json::Value;

/// The longest message, bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// The longest file, bytes.
pub const COMPLETE_BYTES_MAX: usize = 64 * 1024;
/// Metrics of one checkpoint.
pub const METRICS_MAX: usize = 32;
/// A metric's name, bytes.
pub const METRIC_NAME_BYTES_MAX: usize = 64;
/// A metric's value as text, bytes.
const VALUE_BYTES_MAX: usize = 32;

/// How good a checkpoint is, by its writer's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Letters, digits and `_ - . /`.
    pub name: String,
    /// A decimal number as it was written, such as `0.12` or `-3e-5`.
    pub value: String,
}

/// What its writer said of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commit {
    /// Which step it is, if that was said.
    pub step: Option<u64>,
    /// In the order in which they were said.
    pub metrics: Vec<Metric>,
}

/// Why a word cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Too many bytes.
    #[error("it has {0} bytes; at most {1}")]
    Long(usize, usize),
    /// Not printable UTF-8.
    #[error("it is not UTF-8 without control characters")]
    Text,
    /// Another word than `COMMIT`.
    #[error("it begins with `{0}`; use `COMMIT dir=NAME`")]
    Verb(String),
    /// A part that is no `key=value`, or a key that there is not.
    #[error("`{0}` is unknown; use dir=, step= and metric.NAME=")]
    Key(String),
    /// The same key twice.
    #[error("`{0}` is said twice")]
    Twice(String),
    /// No directory.
    #[error("it names no directory; use `COMMIT dir=NAME`")]
    NoDir,
    /// A value that cannot be.
    #[error("{0} is `{1}`; use {2}")]
    Value(String, String, &'static str),
    /// More metrics than are kept.
    #[error("it has more than {METRICS_MAX} metrics")]
    Metrics,
    /// The file holds something else.
    #[error(
        "it is neither empty nor JSON such as {{\"step\": 500, \"metrics\": {{\"val_loss\": 0.12}}}}"
    )]
    Json,
}

/// Reads a message. Parts are separated by single spaces; in a value `%20` is a space and `%25` is `%`. Returns the directory as it was
/// said, absolute or relative to the job's checkpoint directory, and the rest.
///
/// # Errors
/// Whatever is not exactly such a message.
pub fn parse_message(bytes: &[u8]) -> Result<(String, Commit), NotifyError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(NotifyError::Long(bytes.len(), MESSAGE_BYTES_MAX));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NotifyError::Text)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.contains(char::is_control) {
        return Err(NotifyError::Text);
    }
    let mut parts = text.split(' ');
    let verb = parts.next().unwrap_or_default();
    if verb != "COMMIT" {
        return Err(NotifyError::Verb(short(verb)));
    }
    let (mut dir, mut commit) = (None, Commit::default());
    for part in parts {
        let unknown = || NotifyError::Key(short(part));
        let (key, value) = part.split_once('=').ok_or_else(unknown)?;
        match key {
            "dir" => once(&mut dir, key, unescaped(value)?)?,
            "step" => once(&mut commit.step, key, step(value)?)?,
            _ => {
                let name = key.strip_prefix("metric.").ok_or_else(unknown)?;
                add(&mut commit.metrics, name, value)?;
            }
        }
    }
    Ok((dir.ok_or(NotifyError::NoDir)?, commit))
}

/// Reads `.mlctl-complete`: empty, or JSON with `step` and `metrics`, both optional.
///
/// # Errors
/// Whatever is not exactly that.
pub fn parse_complete(bytes: &[u8]) -> Result<Commit, NotifyError> {
    if bytes.len() > COMPLETE_BYTES_MAX {
        return Err(NotifyError::Long(bytes.len(), COMPLETE_BYTES_MAX));
    }
    let mut commit = Commit::default();
    if bytes.trim_ascii().is_empty() {
        return Ok(commit);
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|_| NotifyError::Json)?;
    for (key, value) in value.as_object().ok_or(NotifyError::Json)? {
        match (key.as_str(), value) {
            ("step", value) => commit.step = Some(step(&value.to_string())?),
            ("metrics", Value::Object(metrics)) => {
                for (name, value) in metrics {
                    add(&mut commit.metrics, name, &value.to_string())?;
                }
            }
            _ => return Err(NotifyError::Json),
        }
    }
    Ok(commit)
}

/// The name in the checkpoint directory `root` that a message's `dir` means: one part, not hidden.
pub fn name_below<'a>(dir: &'a str, root: &str) -> Option<&'a str> {
    let below = match dir.strip_prefix('/') {
        Some(_) => dir
            .strip_prefix(root.trim_end_matches('/'))?
            .strip_prefix('/')?,
        None => dir.strip_prefix("./").unwrap_or(dir),
    };
    let name = below.strip_suffix('/').unwrap_or(below);
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    plain.then_some(name)
}

fn once<T>(place: &mut Option<T>, key: &str, value: T) -> Result<(), NotifyError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(NotifyError::Twice(key.into())),
    }
}

fn add(metrics: &mut Vec<Metric>, name: &str, value: &str) -> Result<(), NotifyError> {
    if metrics.len() == METRICS_MAX {
        return Err(NotifyError::Metrics);
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    if name.is_empty() || name.len() > METRIC_NAME_BYTES_MAX || !name.bytes().all(legal) {
        let kind = "1 to 64 letters, digits and `_ - . /`";
        return Err(NotifyError::Value(
            "a metric's name".into(),
            short(name),
            kind,
        ));
    }
    if metrics.iter().any(|metric| metric.name == name) {
        return Err(NotifyError::Twice(format!("metric.{name}")));
    }
    if !is_decimal(value) {
        let kind = "a decimal number such as 0.12 or -3e-5";
        return Err(NotifyError::Value(name.into(), short(value), kind));
    }
    metrics.push(Metric {
        name: name.into(),
        value: value.into(),
    });
    Ok(())
}

fn step(text: &str) -> Result<u64, NotifyError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let wrong = || NotifyError::Value("step".into(), short(text), "a whole number");
    text.parse().ok().filter(|_| plain).ok_or_else(wrong)
}

/// `-12.5e-3`: a sign, digits with a point among them, an exponent of at most three digits. Neither `nan` nor `inf`.
fn is_decimal(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = |text: &str| text.strip_prefix(['-', '+']).unwrap_or(text).to_owned();
    let lower = text.to_ascii_lowercase();
    let (number, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (number, exponent) = (unsigned(number), unsigned(exponent));
    let (whole, part) = number.split_once('.').unwrap_or((&number, "0"));
    text.len() <= VALUE_BYTES_MAX
        && digits(whole)
        && digits(part)
        && digits(&exponent)
        && exponent.len() <= 3
}

fn unescaped(value: &str) -> Result<String, NotifyError> {
    let wrong = || {
        NotifyError::Value(
            "dir".into(),
            short(value),
            "`%20` for a space, `%25` for `%`",
        )
    };
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let escaped = |digit: Option<u8>| char::from(digit?).to_digit(16);
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (escaped(rest.next()), escaped(rest.next()));
                let (high, low) = (high.ok_or_else(wrong)?, low.ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    if text.is_empty() || text.contains(char::is_control) {
        return Err(wrong());
    }
    Ok(text)
}

/// As much of it as a message for people holds.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metric(name: &str, value: &str) -> Metric {
        Metric {
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn a_message() {
        let text = b"COMMIT dir=step%205 step=500 metric.val_loss=0.12 metric.acc/top-1=-3E-5\n";
        let (dir, commit) = parse_message(text).expect("good");
        assert_eq!((dir.as_str(), commit.step), ("step 5", Some(500)));
        assert_eq!(
            commit.metrics,
            [metric("val_loss", "0.12"), metric("acc/top-1", "-3E-5")]
        );
        let (dir, commit) = parse_message(b"COMMIT dir=/c/a").expect("good");
        assert_eq!((dir.as_str(), commit), ("/c/a", Commit::default()));
    }

    #[test]
    fn other_messages_are_refused() {
        let many: String = (0..33).map(|n| format!(" metric.m{n}=1")).collect();
        let long = format!("COMMIT dir={}", "a".repeat(MESSAGE_BYTES_MAX));
        for (text, says) in [
            ("", "begins with ``"),
            ("commit dir=a", "use `COMMIT dir=NAME`"),
            ("COMMIT", "names no directory"),
            ("COMMIT dir=", "dir is ``"),
            ("COMMIT  dir=a", "`` is unknown"),
            ("COMMIT dir=a stop=1", "`stop=1` is unknown"),
            ("COMMIT dir=a dir=b", "`dir` is said twice"),
            ("COMMIT dir=a step=1 step=1", "twice"),
            ("COMMIT dir=a step=-1", "whole number"),
            ("COMMIT dir=a step=+1", "whole number"),
            ("COMMIT dir=a step=99999999999999999999", "whole number"),
            ("COMMIT dir=a metric.=1", "metric's name"),
            ("COMMIT dir=a metric.x\u{e9}=1", "metric's name"),
            ("COMMIT dir=a metric.x=nan", "decimal"),
            ("COMMIT dir=a metric.x=inf", "decimal"),
            ("COMMIT dir=a metric.x=1e9999", "decimal"),
            ("COMMIT dir=a metric.x=.5", "decimal"),
            ("COMMIT dir=a metric.x=", "decimal"),
            (
                "COMMIT dir=a metric.x=1 metric.x=2",
                "`metric.x` is said twice",
            ),
            ("COMMIT dir=%2", "%20"),
            ("COMMIT dir=%0a", "%20"),
            ("COMMIT dir=%ff", "%20"),
            ("COMMIT dir=a\0b", "control characters"),
            ("COMMIT dir=a\nCOMMIT dir=b", "control characters"),
            (&format!("COMMIT dir=a{many}"), "more than 32"),
            (&long, "at most 4096"),
        ] {
            let error = parse_message(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(says), "{text:?}\n-> {error}");
        }
        assert_eq!(parse_message(b"COMMIT dir=\xff"), Err(NotifyError::Text));
    }

    #[test]
    fn the_file() {
        assert_eq!(parse_complete(b" \n"), Ok(Commit::default()));
        let commit = parse_complete(b"{\"step\": 7, \"metrics\": {\"loss\": 0.5}}").expect("good");
        assert_eq!(
            (commit.step, commit.metrics),
            (Some(7), vec![metric("loss", "0.5")])
        );
        for text in [
            "{\"step\": 7",
            "[]",
            "7",
            "{\"stop\": 7}",
            "{\"step\": 1.5}",
            "{\"step\": \"7\"}",
            "{\"metrics\": {\"a\": null}}",
            "{\"metrics\": {\"a\": \"1\"}}",
            "{\"metrics\": []}",
        ] {
            assert!(parse_complete(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse_complete(&b" ".repeat(COMPLETE_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn only_what_lies_in_the_checkpoint_directory_is_meant() {
        for (dir, name) in [
            ("step-1", Some("step-1")),
            ("./step-1/", Some("step-1")),
            ("/c/k/step-1", Some("step-1")),
            ("/c/k/", None),
            ("/c/kk/step-1", None),
            ("/c/step-1", None),
            ("../step-1", None),
            ("a/b", None),
            (".hidden", None),
            ("", None),
        ] {
            assert_eq!(name_below(dir, "/c/k/"), name, "{dir}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tail in "[ -~]{0,80}") {
            let _ = parse_message(&bytes);
            let _ = parse_complete(&bytes);
            let message = format!("COMMIT dir={tail}");
            if let Ok((dir, commit)) = parse_message(message.as_bytes()) {
                prop_assert!(!dir.is_empty() && commit.metrics.len() <= METRICS_MAX);
            }
        }
    }
}
