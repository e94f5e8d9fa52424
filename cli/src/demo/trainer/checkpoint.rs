//! Checkpoints as directories: `step-N/` holds `params.bin` (parameters, then momentum, `f32` little endian) and
//! `meta.json`.
//!
//! A directory gets its final name by a rename when all its bytes are on disk: whoever sees `step-N` sees a whole
//! checkpoint, and whatever ends in `.tmp` is not one. Nothing is resumed that does not verify or that
//! belongs to another training. Does not decide when to write one, and knows nothing of other nodes.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Layout of the two files; another layout needs another number.
const FORMAT: u32 = 1;
/// How many checkpoints stay on disk.
const KEEP: usize = 3;
/// A `meta.json` has a few hundred bytes; what is larger is something else.
const META_LIMIT: u64 = 64 * 1024;

/// What decides the parameters at a given step (beside the world size, which decides the order of additions).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// Seed of the initial parameters and of the batch order.
    pub(super) seed: u64,
    /// Units in the hidden layer.
    pub(super) hidden: usize,
    /// Images per step, over all ranks.
    pub(super) batch: usize,
    /// Learning rate.
    pub(super) rate: f32,
}

impl Recipe {
    /// The first difference from `other`, in words: `None` if there is none.
    pub(super) fn difference(&self, other: &Recipe) -> Option<String> {
        let differs = |name: &str, ours: &dyn ToString, theirs: &dyn ToString| {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            (ours != theirs).then(|| format!("--{name} {theirs} instead of {ours}"))
        };
        differs("seed", &self.seed, &other.seed)
            .or_else(|| differs("hidden", &self.hidden, &other.hidden))
            .or_else(|| differs("batch", &self.batch, &other.batch))
            .or_else(|| differs("lr", &self.rate, &other.rate))
    }
}

/// Where a training stands: after `step` steps, with these parameters and this momentum.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Progress {
    pub(super) step: u64,
    pub(super) parameters: Vec<f32>,
    pub(super) momentum: Vec<f32>,
}

impl Progress {
    /// Parameters, then momentum, each number in 4 bytes little endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let numbers = self.parameters.iter().chain(&self.momentum);
        numbers.flat_map(|number| number.to_le_bytes()).collect()
    }

    /// Undoes `to_bytes` for a network of `parameters` parameters: `None` if the length is another.
    pub(super) fn from_bytes(step: u64, bytes: &[u8], parameters: usize) -> Option<Progress> {
        let (numbers, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || numbers.len() != 2 * parameters {
            return None;
        }
        let mut all: Vec<f32> = numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let momentum = all.split_off(parameters);
        Some(Progress {
            step,
            parameters: all,
            momentum,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    step: u64,
    recipe: Recipe,
    /// BLAKE3 of this object with an empty digest, then of `params.bin`.
    digest: String,
}

impl Meta {
    fn digest_with(&self, bytes: &[u8]) -> Result<String> {
        let bare = Meta {
            format: self.format,
            step: self.step,
            recipe: self.recipe.clone(),
            digest: String::new(),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&serde_json::to_vec(&bare)?);
        hasher.update(bytes);
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Writes `dir/step-N` and removes all but the newest of the earlier ones. When this returns, the checkpoint
/// survives a power cut.
///
/// # Errors
/// The disk's, with the path. A checkpoint of the same step from an earlier attempt stays until the new one is on disk.
pub(super) fn save(dir: &Path, recipe: &Recipe, progress: &Progress) -> Result<()> {
    let done = dir.join(format!("step-{}", progress.step));
    let unfinished = dir.join(format!("step-{}.tmp", progress.step));
    let replaced = dir.join(format!("step-{}.replaced.tmp", progress.step));
    write_all(dir, &unfinished, recipe, progress)
        .and_then(|()| {
            if done.exists() {
                // Left by an attempt that ended after it: the same training writes it anew.
                remove(&replaced)?;
                fs::rename(&done, &replaced)?;
            }
            fs::rename(&unfinished, &done)?;
            sync_dir(dir)?;
            remove(&replaced)?;
            rotate(dir, progress.step)?;
            Ok(())
        })
        .with_context(|| format!("cannot write the checkpoint {}", done.display()))
}

fn write_all(dir: &Path, unfinished: &Path, recipe: &Recipe, progress: &Progress) -> Result<()> {
    let bytes = progress.to_bytes();
    let mut meta = Meta {
        format: FORMAT,
        step: progress.step,
        recipe: recipe.clone(),
        digest: String::new(),
    };
    meta.digest = meta.digest_with(&bytes)?;
    fs::create_dir_all(dir)?;
    remove(unfinished)?;
    fs::create_dir(unfinished)?;
    for (name, content) in [
        ("params.bin", bytes.as_slice()),
        ("meta.json", &serde_json::to_vec(&meta)?),
    ] {
        let mut file = File::create_new(unfinished.join(name))?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    sync_dir(unfinished)?;
    Ok(())
}

/// Reads a checkpoint of the training `recipe`, whose network has `parameters` parameters.
///
/// # Errors
/// A file is missing or damaged (the message names it), or the checkpoint belongs to another training.
pub(super) fn load(path: &Path, recipe: &Recipe, parameters: usize) -> Result<Progress> {
    let meta_path = path.join("meta.json");
    let read_meta = || -> Result<Meta> {
        let mut text = Vec::new();
        File::open(&meta_path)?
            .take(META_LIMIT)
            .read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    let meta = read_meta().with_context(|| {
        format!(
            "cannot read {}: resume from another checkpoint",
            meta_path.display()
        )
    })?;
    ensure!(
        meta.format == FORMAT,
        "{} has format {}, this binary reads format {FORMAT}",
        meta_path.display(),
        meta.format
    );
    if let Some(difference) = recipe.difference(&meta.recipe) {
        bail!(
            "the checkpoint {} belongs to a training with {difference}: start this one without it, or with the same options",
            path.display()
        );
    }
    let params_path = path.join("params.bin");
    let bytes = read_params(&params_path, parameters)
        .with_context(|| format!("cannot read {}", params_path.display()))?;
    ensure!(
        meta.digest_with(&bytes)? == meta.digest,
        "the checkpoint is damaged: {} does not match the digest in {}; resume from another checkpoint",
        params_path.display(),
        meta_path.display()
    );
    Progress::from_bytes(meta.step, &bytes, parameters)
        .with_context(|| format!("{} has the wrong length", params_path.display()))
}

/// Reads at most one byte more than there should be, whatever the file is.
fn read_params(path: &Path, parameters: usize) -> Result<Vec<u8>> {
    let expected = (2 * parameters * size_of::<f32>()) as u64;
    let mut bytes = Vec::new();
    File::open(path)?
        .take(expected + 1)
        .read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 == expected,
        "the checkpoint is damaged: the file has {} bytes instead of {expected}; resume from another checkpoint",
        fs::metadata(path)?.len()
    );
    Ok(bytes)
}

/// Removes the oldest checkpoints up to `newest`. Later ones are left over from an attempt that got further; they do
/// not count, or they would push out what was just written.
fn rotate(dir: &Path, newest: u64) -> io::Result<()> {
    let mut steps = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix("step-")?.parse().ok());
        steps.extend(step.filter(|&step: &u64| step <= newest));
    }
    steps.sort_unstable();
    let surplus = steps.len().saturating_sub(KEEP);
    for step in &steps[..surplus] {
        remove(&dir.join(format!("step-{step}")))?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            seed: 7,
            hidden: 4,
            batch: 8,
            rate: 0.05,
        }
    }

    fn progress(step: u64) -> Progress {
        Progress {
            step,
            parameters: vec![1.5, -0.0, f32::MIN_POSITIVE],
            momentum: vec![0.1, step as f32, 3.0],
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("the directory is there")
            .map(|entry| {
                entry
                    .expect("it can be read")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_written_comes_back_and_three_stay() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let nested = dir.path().join("a/b");
        for step in [5, 10, 15, 20] {
            save(&nested, &recipe(), &progress(step)).expect("it is written");
        }
        assert_eq!(names(&nested), ["step-10", "step-15", "step-20"]);
        let loaded = load(&nested.join("step-15"), &recipe(), 3).expect("it is read");
        assert_eq!(loaded.to_bytes(), progress(15).to_bytes(), "bit for bit");
        assert_eq!(loaded.step, 15);
    }

    #[test]
    fn leftovers_of_an_earlier_attempt_are_replaced_and_push_nothing_out() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        for step in [100, 120, 140] {
            save(dir.path(), &recipe(), &progress(step)).expect("it is written");
        }
        for half in ["step-110.tmp", "step-120.replaced.tmp"] {
            fs::create_dir(dir.path().join(half)).expect("it is made");
            fs::write(dir.path().join(half).join("params.bin"), "half").expect("it is written");
        }
        fs::write(dir.path().join("step-120/params.bin"), "damaged").expect("it is written");
        for step in [110, 120] {
            save(dir.path(), &recipe(), &progress(step)).expect("it is written");
        }
        assert_eq!(
            names(dir.path()),
            ["step-100", "step-110", "step-120", "step-140"]
        );
        assert_eq!(
            load(&dir.path().join("step-120"), &recipe(), 3).expect("it is whole again"),
            progress(120)
        );
    }

    #[test]
    fn what_does_not_verify_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("step-5");
        let check = |damage: &dyn Fn(&Path), name: &str| {
            save(dir.path(), &recipe(), &progress(5)).expect("it is written");
            load(&path, &recipe(), 3).expect("it is good before the damage");
            damage(&path);
            let error = format!(
                "{:#}",
                load(&path, &recipe(), 3).expect_err("it is damaged")
            );
            assert!(error.contains(name), "{error} does not name {name}");
        };
        for at in [0, 11, 23] {
            let flip = |path: &Path| {
                let mut bytes = fs::read(path.join("params.bin")).expect("it can be read");
                bytes[at] ^= 1;
                fs::write(path.join("params.bin"), bytes).expect("it is written");
            };
            check(&flip, "params.bin");
        }
        let shorter =
            |path: &Path| fs::write(path.join("params.bin"), [0; 23]).expect("it is written");
        check(&shorter, "params.bin");
        let longer =
            |path: &Path| fs::write(path.join("params.bin"), [0; 25]).expect("it is written");
        check(&longer, "params.bin");
        check(
            &|path| fs::remove_file(path.join("params.bin")).expect("it is removed"),
            "params.bin",
        );
        check(
            &|path| fs::remove_file(path.join("meta.json")).expect("it is removed"),
            "meta.json",
        );
        check(
            &|path| fs::write(path.join("meta.json"), "{").expect("it is written"),
            "meta.json",
        );
        let other_step = |path: &Path| {
            let meta = fs::read_to_string(path.join("meta.json")).expect("it can be read");
            let moved = meta.replace("\"step\":5", "\"step\":6");
            assert_ne!(meta, moved);
            fs::write(path.join("meta.json"), moved).expect("it is written");
        };
        check(&other_step, "meta.json");
        check(
            &|path| fs::remove_dir_all(path).expect("it is removed"),
            "step-5",
        );
    }

    #[test]
    fn a_checkpoint_of_another_training_is_refused() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        save(dir.path(), &recipe(), &progress(5)).expect("it is written");
        let check = |other: Recipe, name: &str| {
            let error = load(&dir.path().join("step-5"), &other, 3).expect_err(name);
            assert!(
                error.to_string().contains(name),
                "{error} does not name {name}"
            );
        };
        check(
            Recipe {
                seed: 8,
                ..recipe()
            },
            "--seed 7 instead of 8",
        );
        check(
            Recipe {
                hidden: 5,
                ..recipe()
            },
            "--hidden 4 instead of 5",
        );
        check(
            Recipe {
                batch: 9,
                ..recipe()
            },
            "--batch 8 instead of 9",
        );
        check(
            Recipe {
                rate: 0.06,
                ..recipe()
            },
            "--lr 0.05 instead of 0.06",
        );
    }
}
