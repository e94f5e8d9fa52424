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
/// How PyTorch Lightning ends the name of the file that is its checkpoint.
pub const LIGHTNING: &str = ".ckpt";
/// And others, who end names of files that are no checkpoints in the same way.
const ONE_FILE: [&str; 4] = [".pt", ".pth", ".pth.tar", ".safetensors"];
/// Those of theirs that are checkpoints although no number says which.
const NEWEST: [&str; 5] = ["checkpoint", "ckpt", "last", "latest", "snapshot"];
/// What names of files have of which several are one checkpoint.
const PIECES: [&str; 3] = ["-of-", "rank", "shard"];
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

/// Can a file of this name be a checkpoint by itself? All that is called `*.ckpt`; of what is called `*.pt` and the like only what is numbered or
/// called `last` and the like: `best.pt` and `tokenizer.pt` are nothing to go on from.
pub fn is_one_file(name: &str) -> bool {
    let other = ONE_FILE.iter().find_map(|ending| name.strip_suffix(ending));
    let counts = |stem: &str| {
        let piece = PIECES.iter().any(|word| stem.contains(word));
        let numbered = stem.ends_with(|c: char| c.is_ascii_digit()) && !piece;
        numbered || NEWEST.contains(&stem)
    };
    name.ends_with(LIGHTNING) || other.is_some_and(counts)
}

/// The step in the name: the number behind `step=`, else the trailing one, before the ending of a file. `step-40`, `epoch=3-step=40.ckpt` and
/// `step-40.pt` are 40; 0 if there is none or it is too large to be a step.
pub fn step_of(name: &str) -> u64 {
    let endings = [LIGHTNING].into_iter().chain(ONE_FILE);
    let mut stems = endings.filter_map(|ending| name.strip_suffix(ending));
    let stem = stems.next().unwrap_or(name);
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
            ("step-40.pt", true, false, 40),
            ("ckpt_40.pth.tar", true, false, 40),
            ("step-40.pt.tmp", false, true, 0),
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

    #[test]
    fn one_file_is_a_checkpoint_if_its_name_says_so() {
        let yes = [
            "a.ckpt",
            "step-5.pt",
            "epoch_3.pth",
            "ckpt-7.pth.tar",
            "model-9.safetensors",
            "last.pt",
            "snapshot.pt",
        ];
        let no = [
            "best.pt",
            "tokenizer.pt",
            "model.safetensors",
            ".pt",
            "step-5.bin",
            "step-5",
            "notes-1.txt",
            "model-5.pt.json",
            "model-00001-of-00004.safetensors",
            "ckpt_rank1.pt",
        ];
        for (names, counts) in [(&yes[..], true), (&no[..], false)] {
            for name in names {
                assert_eq!(is_one_file(name), counts, "{name}");
            }
        }
    }
}
