//! When is a checkpoint directory complete, and which step is it? By its name alone, which is all that a
//! trainer says that renames.
//! Pure: does NOT look at the disk.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

/// Endings of names that writers use until all is written.
const UNFINISHED: [&str; 4] = [".tmp", ".partial", ".incomplete", ".dirty"];
/// How Hugging Face Trainer 4.36 begins a name until it renames.
const STAGED: &str = "tmp-checkpoint-";
/// Orbax writes here until it renames.
const ORBAX: &str = ".orbax-checkpoint-tmp";
/// A name that a record may hold, bytes.
const NAME_BYTES_MAX: usize = 255;

/// Is this the name of a directory that is complete?
pub fn is_final(name: &str) -> bool {
    let hidden = name.is_empty() || name.starts_with('.');
    let printable =
        name.len() <= NAME_BYTES_MAX && !name.contains(|c: char| c.is_control() || c == '/');
    !hidden && !is_leftover(name) && printable
}

/// Is this what an attempt left behind without finishing it? Other hidden names are the trainer's own affair.
pub fn is_leftover(name: &str) -> bool {
    let ending = UNFINISHED.iter().any(|ending| name.ends_with(ending));
    ending || name.contains(ORBAX) || name.starts_with(STAGED)
}

/// The step in the name: the number behind `step=`, else the trailing one, before `.ckpt`. `step-40` and `epoch=3-step=40.ckpt` are 40;
/// 0 if there is none or it is too large to be a step.
pub fn step_of(name: &str) -> u64 {
    let stem = name.strip_suffix(".ckpt").unwrap_or(name);
    if let Some((_, behind)) = stem.rsplit_once("step=") {
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        return behind[..digits].parse().unwrap_or(0);
    }
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    stem[stem.len() - digits..].parse().unwrap_or(0)
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
            ("step-40.dirty", false, true, 0),
            ("tmp-checkpoint-40", false, true, 40),
            ("step_10", true, false, 10),
            ("step=10", true, false, 10),
            ("epoch=3-step=120.ckpt", true, false, 120),
            ("epoch=3-step=120-val_loss=0.25.ckpt", true, false, 120),
            ("epoch=3.ckpt", true, false, 3),
            ("last-v1.ckpt", true, false, 1),
            ("step=.ckpt", true, false, 0),
            ("2000", true, false, 2000),
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
