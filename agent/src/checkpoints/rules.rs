//! When is a checkpoint directory complete, and which step is it? By its name alone: a trainer renames it when it is whole.
//! Pure: does NOT look at the disk.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

/// Endings of names that writers use until all is written.
const UNFINISHED: [&str; 3] = [".tmp", ".partial", ".incomplete"];
/// Orbax writes here until it renames.
const ORBAX: &str = ".orbax-checkpoint-tmp";
/// A name that a record may hold, bytes.
const NAME_BYTES_MAX: usize = 255;

/// Is this the name of a directory that is complete?
pub fn is_final(name: &str) -> bool {
    let hidden = name.is_empty() || name.starts_with('.');
    let unfinished = UNFINISHED.iter().any(|ending| name.ends_with(ending)) || name.contains(ORBAX);
    let printable =
        name.len() <= NAME_BYTES_MAX && !name.contains(|c: char| c.is_control() || c == '/');
    !hidden && !unfinished && printable
}

/// Is this what an attempt left behind without finishing it? Other hidden names are the trainer's own affair.
pub fn is_leftover(name: &str) -> bool {
    UNFINISHED.iter().any(|ending| name.ends_with(ending)) || name.contains(ORBAX)
}

/// The trailing number of the name: `step-40` is 40; 0 if there is none or it is too large to be a step.
pub fn step_of(name: &str) -> u64 {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(256);
        for (name, complete, leftover, step) in [
            ("step-40", true, false, 40),
            ("checkpoint-000100", true, false, 100),
            ("final", true, false, 0),
            ("step-40.tmp", false, true, 0),
            ("step-40.partial", false, true, 0),
            ("step-40.incomplete", false, true, 0),
            ("40.orbax-checkpoint-tmp-1700", false, true, 1700),
            (".hidden-3", false, false, 3),
            (".mlctl-incomplete", false, false, 0),
            ("", false, false, 0),
            ("a/../b-1", false, false, 1),
            ("a\n1", false, false, 1),
            ("é7", true, false, 7),
            ("step-99999999999999999999999", true, false, 0),
            (long.as_str(), false, false, 0),
        ] {
            assert_eq!(
                (is_final(name), is_leftover(name), step_of(name)),
                (complete, leftover, step),
                "{name:?}"
            );
        }
    }
}
