//! What copies of checkpoints cost, beside `rsync` and `cp`, with both ends in network namespaces of their own.
//! Does NOT judge; see docs/BENCHMARKS.md for what we aim for.

pub mod case;
pub mod end;
pub mod holders;
pub mod lab;
pub mod memory;
pub mod peers;
pub mod pki;
pub mod side;
pub mod training;
pub mod tree;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::report::{Report, median};
use crate::process::{netns, tool};
use crate::tidy::skips;
use case::Case;
pub use lab::End;
use lab::Lab;
use side::{SIDES, Side};
use tree::Tree;

/// How it is called.
pub const USAGE: &str = "mlctl-tests bench copies [--rounds N] [--shard-mib 32] [--large-mib 4096] [--sparse-gib 200] [--link-mbit 1000] [--dir DISK]";

/// What to copy, and where.
#[derive(Debug, Clone)]
pub struct Sizes {
    rounds: usize,
    shard_mib: u64,
    large_mib: u64,
    sparse_gib: u64,
    link_mbit: u64,
    dir: PathBuf,
}

impl Sizes {
    /// Reads the words that follow `copies`. A size of 0 leaves its part out.
    ///
    /// # Errors
    /// For words it does not know.
    pub fn of(words: &[&str], rounds: usize) -> Result<Self> {
        let mut sizes = Self {
            rounds,
            shard_mib: 32,
            large_mib: 4096,
            sparse_gib: 200,
            link_mbit: 1000,
            dir: std::env::temp_dir(),
        };
        for pair in words.chunks(2) {
            let [name, value] = *pair else {
                bail!("usage: {USAGE}");
            };
            let number = || -> Result<u64> {
                let number = value.parse();
                number.with_context(|| format!("{name} {value}: use a whole number"))
            };
            match name {
                "--rounds" => sizes.rounds = usize::try_from(number()?)?.max(1),
                "--shard-mib" => sizes.shard_mib = number()?.max(1),
                "--large-mib" => sizes.large_mib = number()?,
                "--sparse-gib" => sizes.sparse_gib = number()?,
                "--link-mbit" => sizes.link_mbit = number()?.max(1),
                "--dir" => sizes.dir = value.into(),
                _ => bail!("usage: {USAGE}"),
            }
        }
        Ok(sizes)
    }
}

/// What could not be measured here, said aloud and counted.
#[derive(Default)]
struct Skips(Vec<String>);

impl Skips {
    fn skip(&mut self, what: &str, why: &str) {
        skips::skip(&format!("bench copies: {what}"), why);
        self.0.push(format!("{what}: {why}"));
    }
}

/// Takes all figures, prints the tables, and writes every sample to `docs/bench/copies.json`.
///
/// # Errors
/// When a copy fails or is wrong where it must not be, or a file cannot be written.
pub fn run(sizes: &Sizes) -> Result<()> {
    if let Some(why) = netns::obstacle() {
        skips::skip("bench copies", &why);
        return Ok(());
    }
    let report = Report::begin("copies");
    let mut skips = Skips::default();
    let sides = sides(&mut skips);
    let lab = Lab::new(&sizes.dir)?;
    if sides.iter().any(|side| matches!(side, Side::Ssh(_))) {
        peers::prepare(&lab)?;
    }
    let mut figures = Map::new();
    let mut tables = notes(sizes);
    let title = format!("64 x {} MiB and 500 small files", sizes.shard_mib);
    let shards = measured(
        &lab,
        "shards",
        title,
        Tree::Shards(sizes.shard_mib),
        &sides,
        sizes,
    )?;
    figures.insert("shards".to_owned(), shards.json());
    tables += &shards.tables();
    if sizes.large_mib > 0 {
        let title = format!("one file of {} MiB", sizes.large_mib);
        let large = measured(
            &lab,
            "large",
            title,
            Tree::Large(sizes.large_mib),
            &sides,
            sizes,
        )?;
        figures.insert("large".to_owned(), large.json());
        tables += &format!("\n{}", large.tables());
        for dir in [&large.source, &large.store] {
            std::fs::remove_dir_all(dir)?;
        }
    } else {
        skips.skip("one large file", "--large-mib 0");
    }
    tables += &trainings(&lab, &shards, sizes, &mut figures, &mut skips)?;
    tables += &restores(&lab, &shards, sizes, &mut figures, &mut skips)?;
    tables += &memories(&lab, sizes, &mut figures, &mut skips)?;
    for skipped in &skips.0 {
        tables += &format!("\nNot measured: {skipped}.\n");
    }
    figures.insert("skipped".to_owned(), json!(skips.0));
    figures.insert("command".to_owned(), json!(command(sizes)));
    figures.insert("assertions".to_owned(), json!(cfg!(debug_assertions)));
    report.end(figures, &tables)
}

fn command(sizes: &Sizes) -> String {
    format!(
        "cargo run -p mlctl-tests --release -- bench copies --rounds {} --shard-mib {} --large-mib {} --sparse-gib {} --link-mbit {}",
        sizes.rounds, sizes.shard_mib, sizes.large_mib, sizes.sparse_gib, sizes.link_mbit
    )
}

fn notes(sizes: &Sizes) -> String {
    let build = if cfg!(debug_assertions) {
        " **A build that checks itself: these are no figures of a release.**"
    } else {
        ""
    };
    format!(
        "`{}`; medians of {} rounds.{build}\n\n",
        command(sizes),
        sizes.rounds
    )
}

/// Those whose tools are here.
fn sides(skips: &mut Skips) -> Vec<Side> {
    let mut sides = Vec::new();
    for side in SIDES {
        let tools = match side {
            Side::Ssh(_) => &peers::TOOLS[..],
            Side::Daemon => &peers::TOOLS[..1],
            Side::Ours { .. } | Side::Cp => &[],
        };
        match tool::missing(tools) {
            Some(tool) => skips.skip(side.label(), &format!("{tool} is not installed")),
            None => sides.push(side),
        }
    }
    sides
}

fn measured(
    lab: &Lab,
    key: &'static str,
    title: String,
    tree: Tree,
    sides: &[Side],
    sizes: &Sizes,
) -> Result<Case> {
    let mut case = Case::new(lab, key, title, tree, sides)?;
    for round in 0..sizes.rounds {
        case.round(lab, round)?;
        eprintln!("{key}: round {} of {}", round + 1, sizes.rounds);
    }
    Ok(case)
}

/// The numbers under `key`.
fn numbers(values: &[Value], key: &str) -> Vec<f64> {
    let found = values.iter().filter_map(|value| value[key].as_f64());
    found.collect()
}

fn trainings(
    lab: &Lab,
    shards: &Case,
    sizes: &Sizes,
    figures: &mut Map<String, Value>,
    skips: &mut Skips,
) -> Result<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 || tool::missing(&["taskset"]).is_some() {
        skips.skip("training beside a copy", "needs two processors and taskset");
        return Ok(String::new());
    }
    let mut rounds = Vec::new();
    for _ in 0..sizes.rounds {
        let round = training::round(lab, &shards.store, &shards.id)?;
        eprintln!(
            "training: x {} at {} B/s",
            round["ratio"], round["bytes_per_s"]
        );
        rounds.push(round);
    }
    let all = |key: &str| -> Vec<f64> {
        let lists = rounds.iter().filter_map(|round| round[key].as_array());
        lists.flatten().filter_map(Value::as_f64).collect()
    };
    let (alone, with) = (median(&all("alone_ms")), median(&all("with_ms")));
    let table = format!(
        "\n| a step of training on processor 0, both ends of a copy on processor 1 | ms, median |\n|---|---|\n\
         | no copy | {alone:.2} |\n| a copy at `Rate::Auto`, {:.0} MB/s (cap {} MB/s) | {with:.2} |\n| x (median of the rounds' ratios) | {:.3} |\n",
        median(&numbers(&rounds, "bytes_per_s")) / 1e6,
        training::CAP / 1_000_000,
        median(&numbers(&rounds, "ratio")),
    );
    figures.insert("training".to_owned(), json!(rounds));
    Ok(table)
}

fn restores(
    lab: &Lab,
    shards: &Case,
    sizes: &Sizes,
    figures: &mut Map<String, Value>,
    skips: &mut Skips,
) -> Result<String> {
    let (source, store, id, mbit) = (&shards.source, &shards.store, &shards.id, sizes.link_mbit);
    let made = match tool::missing(&["tc"]) {
        Some(_) => Err(anyhow::anyhow!("tc is not installed")),
        None => holders::Holders::new(lab, source, store, id, mbit),
    };
    let holders = match made {
        Ok(holders) => holders,
        Err(why) => {
            skips.skip("restore from two holders", &why.to_string());
            return Ok(String::new());
        }
    };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..sizes.rounds {
        one.push(holders.restore(1)?);
        two.push(holders.restore(2)?);
    }
    let times = |values: &[Value]| {
        (
            median(&numbers(values, "held_s")),
            median(&numbers(values, "laid_out_s")),
        )
    };
    let (single, double) = (times(&one), times(&two));
    let table = format!(
        "\n| restore of {}, each holder's link limited to {mbit} Mbit/s | held and durable s | laid out as a directory s |\n|---|---|---|\n\
         | from one holder | {:.2} | {:.2} |\n| from two | {:.2} | {:.2} |\n| x faster | {:.2} | {:.2} |\n",
        shards.title,
        single.0,
        single.1,
        double.0,
        double.1,
        single.0 / double.0,
        single.1 / double.1,
    );
    figures.insert("restore".to_owned(), json!({ "one": one, "two": two }));
    Ok(table)
}

fn memories(
    lab: &Lab,
    sizes: &Sizes,
    figures: &mut Map<String, Value>,
    skips: &mut Skips,
) -> Result<String> {
    if sizes.sparse_gib == 0 {
        skips.skip("memory", "--sparse-gib 0");
        return Ok(String::new());
    }
    let found = memory::run(lab, sizes.sparse_gib)?;
    let mib = |key: &str| found[key].as_f64().unwrap_or(f64::NAN);
    let table = format!(
        "\n| a checkpoint of {} GiB, {} MiB of it no holes: resident memory | MiB, at most |\n|---|---|\n\
         | sealing | {:.0} |\n| sending | {:.0} |\n| receiving | {:.0} |\n| laying it out | {:.0} |\n",
        sizes.sparse_gib,
        Tree::Sparse(sizes.sparse_gib).data_bytes() >> 20,
        mib("seal_mib"),
        mib("send_mib"),
        mib("receive_mib"),
        mib("restore_mib"),
    );
    figures.insert("memory".to_owned(), found);
    Ok(table)
}
