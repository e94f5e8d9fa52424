//! When does a directory count as a complete checkpoint? One rule a file, all over a listing that somebody else made.
//! Pure: does NOT look at the disk.
//!
//! The order: the writer's own word; what a library's layout says; a rename; at last that nothing happens any more. **What a library began
//! and did not finish is never complete because it is quiet.** Each node judges its own part alone.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

mod archive;
mod dcp;
mod explicit;
mod hf_trainer;
pub mod listing;
pub mod notify;
mod one_file;
mod orbax;
mod quiet;
mod renamed;
#[cfg(test)]
mod replays;
pub mod safetensors;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::rules::{is_final, is_leftover, step_of};
use listing::{Fingerprint, Kind, Listing};
use notify::{Commit, Metric};
pub use quiet::QUIET_MS;

/// Does any process have one of the files open for writing?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// None has.
    Nobody,
    /// One has.
    Somebody,
    /// Some processes do not let us see.
    Unknown,
}

/// What the ranks do that write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// They run, and may write.
    Running,
    /// All have ended, and none failed.
    EndedWell,
    /// They failed, were killed or lost, or belong to an attempt before this one: whatever they did may have been cut short.
    EndedBadly,
}

/// What a listing does not show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Who has files of it open for writing.
    pub writers: Writers,
    /// Nothing of it has changed for so long, milliseconds.
    pub quiet_ms: u64,
    /// The ranks of this attempt.
    pub life: Life,
    /// It was seen to get its name by being renamed.
    pub renamed: bool,
    /// Its writer's word that it is complete, given for these bytes.
    pub committed: Option<Commit>,
    /// The file that completes it was seen on another node, after the last change of this part.
    pub marker_elsewhere: bool,
    /// The ranks of this node.
    pub ranks: Range<u32>,
    /// Nodes of the job.
    pub nodes: u32,
    /// The files that lay there before this attempt, if it is writing over them.
    pub before: Option<Fingerprint>,
}

/// By which rule it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Its writer said so.
    Word,
    /// Orbax.
    Orbax,
    /// Hugging Face Trainer.
    HfTrainer,
    /// PyTorch Distributed Checkpoint.
    Dcp,
    /// A model in safetensors files.
    Safetensors,
    /// A file of PyTorch Lightning.
    Lightning,
    /// Another file that is a checkpoint by itself.
    OneFile,
    /// It was renamed.
    Rename,
    /// Nobody writes to it.
    Quiet,
}

/// Why it is not complete, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Its name is one that writers use until all is written.
    #[error("its name says that it is unfinished")]
    Name,
    /// Something that its library writes is not there.
    #[error("it has no {0}")]
    Missing(String),
    /// A file that is not all there.
    #[error("{0} is not all there")]
    Torn(String),
    /// A file that its library renames or removes when it has finished.
    #[error("{0} is there, which is gone from a finished one")]
    Temporary(String),
    /// A file of another save into the same directory than the one that was completed.
    #[error("{0} is not of the same save as the file that completes it")]
    Stale(String),
    /// The file that completes it is on another node.
    #[error("its {0} is on another node")]
    Elsewhere(&'static str),
    /// Somebody writes.
    #[error("a process has a file of it open for writing")]
    Written,
    /// It changed a moment ago.
    #[error("it has not been quiet for {} s", QUIET_MS / 1_000)]
    Fresh,
    /// Nobody can tell whether somebody writes.
    #[error(
        "processes of other users may be writing to it: rename it, or commit it, when it is whole"
    )]
    Unknown,
    /// Nobody saw it quiet while its writers lived.
    #[error("its writers ended before it was seen to be whole")]
    Unseen,
    /// More files than are looked at.
    #[error("it has too many files to look at: rename it, or commit it, when it is whole")]
    Large,
    /// The file that says that it is complete says something else.
    #[error("its .mlctl-complete cannot be used: {0}")]
    Word(String),
}

impl Why {
    /// Whether the files themselves show it: no time that passes makes it whole.
    pub fn is_half(&self) -> bool {
        matches!(
            self,
            Self::Name | Self::Missing(_) | Self::Torn(_) | Self::Temporary(_) | Self::Stale(_)
        )
    }
}

/// A complete checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// By which rule.
    pub by: By,
    /// Its step, 0 if nothing tells.
    pub step: u64,
    /// What its writer said of how good it is.
    pub metrics: Vec<Metric>,
}

/// What a listing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that a job resumes from.
    NotACheckpoint,
    /// Not complete, or not known to be; `by` is the rule that says so.
    Unfinished {
        /// The rule.
        by: By,
        /// Why.
        why: Why,
    },
    /// Complete.
    Sealed(Sealed),
}

/// What a rule finds in a whole checkpoint.
#[derive(Debug, Default)]
struct Proof {
    /// The step that its files name.
    step: Option<u64>,
}

/// What a rule says of what its library wrote.
type Ruling = Result<Proof, Why>;
/// A rule. `None`: its library did not write this.
type Rule = fn(&Listing, &Facts) -> Option<Ruling>;

/// The libraries' rules and then a rename, in the order in which they are asked. A trainer comes before the formats that it uses.
const RULES: [(By, Rule); 5] = [
    (By::Orbax, orbax::judge),
    (By::HfTrainer, hf_trainer::judge),
    (By::Dcp, dcp::judge),
    (By::Safetensors, safetensors::judge),
    (By::Rename, renamed::judge),
];

/// Judges what was found in a job's checkpoint directory.
pub fn judge(listing: &Listing, facts: &Facts) -> Verdict {
    if is_leftover(&listing.name) {
        return unfinished(By::Rename, Why::Name);
    }
    if !is_final(&listing.name) {
        return Verdict::NotACheckpoint;
    }
    match listing.root.kind {
        Kind::Dir => judge_directory(listing, facts),
        _ => match one_file::judge(listing, facts) {
            Some((by, ruling)) => verdict(by, listing, ruling),
            None => Verdict::NotACheckpoint,
        },
    }
}

/// Why no time will complete what a library began here; `None`: it is complete, or nobody knows, or its library cannot be told for sure.
pub fn left_half(listing: &Listing, facts: &Facts) -> Option<Why> {
    if renamed::named_last(listing) {
        // Copied and renamed as a whole: the times of its files say nothing.
        return None;
    }
    match judge(listing, facts) {
        Verdict::Unfinished { by, why } if why.is_half() => match by {
            By::Orbax | By::Dcp => Some(why),
            By::HfTrainer => hf_trainer::began(listing).then_some(why),
            _ => None,
        },
        _ => None,
    }
}

fn judge_directory(listing: &Listing, facts: &Facts) -> Verdict {
    match explicit::judge(listing, facts) {
        Some(Ok(commit)) => {
            return Verdict::Sealed(Sealed {
                by: By::Word,
                step: commit.step.unwrap_or_else(|| step_of(&listing.name)),
                metrics: commit.metrics,
            });
        }
        Some(Err(why)) => return unfinished(By::Word, why),
        None => {}
    }
    if listing.cut && !facts.renamed {
        return unfinished(By::Quiet, Why::Large);
    }
    let ruled = RULES
        .iter()
        .find_map(|(by, rule)| Some((*by, rule(listing, facts)?)));
    let (by, ruling) = ruled.unwrap_or_else(|| (By::Quiet, quiet::judge(listing, facts)));
    verdict(by, listing, ruling)
}

fn unfinished(by: By, why: Why) -> Verdict {
    Verdict::Unfinished { by, why }
}

fn verdict(by: By, listing: &Listing, ruling: Ruling) -> Verdict {
    match ruling {
        Ok(proof) => Verdict::Sealed(Sealed {
            by,
            // The name is what the user sees; files are asked only where it has no number.
            step: match step_of(&listing.name) {
                0 => proof.step.unwrap_or(0),
                step => step,
            },
            metrics: Vec::new(),
        }),
        Err(why) => unfinished(by, why),
    }
}

/// Nobody writes to it any more.
fn settled(facts: &Facts) -> Result<(), Why> {
    match (facts.life, facts.writers) {
        _ if facts.renamed => Ok(()),
        (Life::EndedWell, _) => Ok(()),
        (Life::EndedBadly, _) => Err(Why::Unseen),
        (Life::Running, Writers::Somebody) => Err(Why::Written),
        (Life::Running, _) if facts.quiet_ms < QUIET_MS => Err(Why::Fresh),
        (Life::Running, Writers::Unknown) => Err(Why::Unknown),
        (Life::Running, Writers::Nobody) => Ok(()),
    }
}
