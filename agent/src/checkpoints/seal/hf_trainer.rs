//! Hugging Face Trainer: `checkpoint-N` is written in place, file by file, by all ranks at once. `trainer_state.json` comes after the model
//! and the optimizer; the random states of ranks come before it or after it.
//! Does NOT look into weights beyond whether they are whole.

use std::collections::BTreeSet;

use serde_json::Value;

use super::listing::{Content, Entry, Listing};
use super::{Facts, Life, Proof, Ruling, Why, archive, dcp, safetensors, settled};

const STATE: &str = "trainer_state.json";
/// What is written before `trainer_state.json`, in every release.
const BEFORE: [&str; 6] = [
    "model",
    "pytorch_model",
    "adapter_model",
    "optimizer",
    "scheduler",
    "scaler",
];

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<Ruling> {
    let number = listing.name.strip_prefix("checkpoint-");
    let its_name = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let its_file = |entry: &Entry| {
        [STATE, "training_args.bin"].contains(&entry.name()) || rank_of(entry).is_some()
    };
    if !its_name && !listing.top().any(its_file) {
        return None;
    }
    if facts.renamed && !listing.top().any(its_file) {
        // Of somebody who gives directories the same names.
        return None;
    }
    Some(check(listing, facts).map(|step| Proof { step }))
}

/// Whether it is the trainer's beyond its name, which others use too: what it writes first, or nothing yet.
pub(super) fn began(listing: &Listing) -> bool {
    let first = |entry: &Entry| {
        let texts = ["config.json", "adapter_config.json", "training_args.bin"];
        texts.contains(&entry.name()) || of_the_save(entry)
    };
    listing.entries.is_empty() || listing.top().any(first)
}

fn check(listing: &Listing, facts: &Facts) -> Result<Option<u64>, Why> {
    safetensors::check(listing)?;
    let archives = listing
        .files()
        .find(|entry| archive::whole(entry) == Some(false));
    if let Some(torn) = archives {
        return Err(Why::Torn(torn.path.clone()));
    }
    let Some(state) = listing.file(STATE) else {
        return without_state(listing, facts);
    };
    let step = step_in(state).ok_or_else(|| Why::Torn(STATE.into()))?;
    let later = listing.top().find(|entry| {
        let before = BEFORE.iter().any(|name| entry.path.starts_with(name));
        before && entry.mark.mtime_ns > state.mark.mtime_ns
    });
    if let Some(later) = later.filter(|_| !facts.renamed) {
        return Err(Why::Stale(later.path.clone()));
    }
    let mut unchanged = listing.top().filter(|entry| of_the_save(entry));
    let old = unchanged.find(|entry| {
        facts
            .before
            .as_ref()
            .is_some_and(|before| before.has(entry))
    });
    if let Some(old) = old.filter(|_| !facts.renamed) {
        return Err(Why::Stale(old.path.clone()));
    }
    random_states(listing, facts)?;
    dcp::check_all(listing, facts)?;
    // What is there is whole. Whether other ranks, of which nobody told us, still write is seen while somebody lives.
    if facts.life == Life::Running {
        settled(facts)?;
    }
    Ok(Some(step))
}

/// Every save writes it.
fn of_the_save(entry: &Entry) -> bool {
    let before = BEFORE.iter().any(|name| entry.path.starts_with(name));
    before || entry.path == STATE || entry.path.starts_with("rng_state")
}

/// A node whose ranks saved only their random states.
fn without_state(listing: &Listing, facts: &Facts) -> Result<Option<u64>, Why> {
    if facts.nodes == 1 {
        return Err(Why::Missing(STATE.into()));
    }
    if !facts.marker_elsewhere {
        return Err(Why::Elsewhere(STATE));
    }
    random_states(listing, facts)?;
    settled(facts).map(|()| None)
}

/// Every rank of this node that we know of has saved its random state.
fn random_states(listing: &Listing, facts: &Facts) -> Result<(), Why> {
    let saved: BTreeSet<u32> = listing.top().filter_map(rank_of).collect();
    if listing.file("rng_state.pth").is_some() {
        return Ok(());
    }
    if saved.is_empty() {
        // With `save_only_model` there is neither an optimizer nor a random state.
        let optimizer = listing.entries.iter().find(|entry| {
            ["optimizer", "global_step", "zero_pp"]
                .iter()
                .any(|name| entry.path.starts_with(name))
        });
        return optimizer.map_or(Ok(()), |_| Err(Why::Missing("rng_state.pth".into())));
    }
    let absent = facts.ranks.clone().find(|rank| !saved.contains(rank));
    if let Some(rank) = absent {
        return Err(Why::Missing(format!("rng_state_{rank}.pth")));
    }
    // Processes that the job started by itself: how many there were nobody knows.
    let known = facts.ranks.len() > 1;
    if !known && facts.life == Life::EndedBadly && !facts.renamed {
        return Err(Why::Unseen);
    }
    Ok(())
}

/// `rng_state_3.pth` is rank 3's.
fn rank_of(entry: &Entry) -> Option<u32> {
    let rank = entry.name().strip_prefix("rng_state_")?;
    rank.strip_suffix(".pth")?.parse().ok()
}

fn step_in(state: &Entry) -> Option<u64> {
    let Content::Whole(text) = &state.content else {
        return None;
    };
    let value: Value = serde_json::from_slice(text).ok()?;
    value.get("global_step")?.as_u64()
}
