//! Arguments of `simulate`.
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The recorded load: NAME.csv or NAME.csv.gz; what stands in NAME_resources.csv.gz beside it is read too
    #[arg(value_name = "TRACE", required_unless_present = "synthetic")]
    pub trace: Option<PathBuf>,
    /// The cluster to run it on: FILE#NAME, as in clusters.json#philly-64x8
    #[arg(long, value_name = "FILE#NAME")]
    pub cluster: String,
    /// fair, las, or a TOML file of settings
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "fair",
        conflicts_with = "compare"
    )]
    pub policy: String,
    /// Run two policies on the same load and show both
    #[arg(long, value_names = ["A", "B"], num_args = 2)]
    pub compare: Option<Vec<String>>,
    /// Make this part of the jobs 16 to 64 GPUs wide; each keeps its GPU-hours
    #[arg(long, value_name = "PART", value_parser = part)]
    pub widen: Option<u64>,
    /// Move each submit by up to so many seconds either way
    #[arg(long, value_name = "SECONDS")]
    pub jitter: Option<u64>,
    /// Of what is drawn at random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Multiply the load: the same jobs arrive in less time
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub load: Option<u64>,
    /// How far back planners look at ended jobs to guess lengths: 30d, 12h, 0
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = span)]
    pub history: u64,
    /// Who shares the cluster
    #[arg(long, value_enum, default_value_t = SharedBy::One)]
    pub teams: SharedBy,
    /// Make up a load from this seed instead of reading one
    #[arg(long, value_name = "SEED", conflicts_with = "trace")]
    pub synthetic: Option<u64>,
    /// The packing experiment: pods arrive until they ask for all GPUs; prints what was allocated, for seeds 0 to 9
    #[arg(long, conflicts_with_all = ["compare", "synthetic", "widen", "jitter", "load"])]
    pub inflation: bool,
    /// Plan also every 30 s between events, and fail if that finds anything
    #[arg(long)]
    pub safety: bool,
}

/// Who shares the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SharedBy {
    /// One team.
    One,
    /// One team per virtual cluster of the trace, with equal weights.
    Vc,
}

/// A part of one, in millionths.
fn part(text: &str) -> Result<u64, String> {
    let millionths = decimals(text, 6).filter(|part| *part <= 1_000_000);
    millionths.ok_or_else(|| format!("`{text}` is no part: give a number from 0 to 1, as 0.1"))
}

/// A factor, in thousandths.
fn factor(text: &str) -> Result<u64, String> {
    let thousandths = decimals(text, 3).filter(|factor| (1..=1_000_000).contains(factor));
    thousandths.ok_or_else(|| format!("`{text}` is no factor: give a number above 0, as 1.2"))
}

/// A time, in milliseconds.
fn span(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms: Option<u64> = match &text[digits.len()..] {
        "d" => Some(86_400_000),
        "h" => Some(3_600_000),
        "m" => Some(60_000),
        "s" => Some(1_000),
        "" if digits == "0" => Some(1),
        _ => None,
    };
    let span = unit_ms
        .zip(digits.parse::<u64>().ok())
        .and_then(|(unit, count)| count.checked_mul(unit));
    span.ok_or_else(|| format!("`{text}` is no time: write 30d, 12h, 45m, or 0 for none"))
}

/// A decimal number, times ten to the `places`; further digits are cut.
fn decimals(text: &str, places: usize) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if !whole
        .chars()
        .chain(part.chars())
        .all(|c| c.is_ascii_digit())
        || whole.is_empty()
    {
        return None;
    }
    let part: String = part
        .chars()
        .chain(std::iter::repeat('0'))
        .take(places)
        .collect();
    format!("{whole}{part}").parse().ok()
}
