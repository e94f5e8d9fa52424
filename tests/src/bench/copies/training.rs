//! A stand-in for training: steps of the same work on one processor, while a transfer at `Rate::Auto` runs on another and is told how
//! the steps do. Does NOT train.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lab::{End, Lab, empty};
use super::side::{path, serving};
use crate::bench::report::median;

/// Where steps run, and where both ends of the transfer do.
const TRAINS: u32 = 0;
const COPIES: u32 = 1;
/// What `auto` never goes beyond: 10 Gbit/s.
pub const CAP: u64 = 1_250_000_000;
/// Steps that take so much longer than without a transfer mean that it disturbs.
const BUSY: f64 = 1.02;
/// How long steps are measured without a transfer, and how often they are looked at during one.
const ALONE: Duration = Duration::from_secs(5);
const REPORT: Duration = Duration::from_millis(500);
/// A transfer that takes longer is cut off: its rate is known by then.
const WITH: Duration = Duration::from_secs(30);

/// Words of a step's memory, and how often each of them is used in a step: about 20 ms.
const WORDS: usize = 512 << 10;
const PASSES: u64 = 48;

/// The end that trains: says how long each step took, in milliseconds, until its input ends.
///
/// # Errors
/// When nobody listens any more.
pub fn train() -> Result<()> {
    use std::io::Write;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut words = vec![1_u64; WORDS];
    loop {
        let begun = Instant::now();
        for pass in 0..PASSES {
            for word in &mut words {
                *word = word.wrapping_mul(6_364_136_223_846_793_005) ^ pass;
            }
        }
        std::hint::black_box(&words);
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        writeln!(std::io::stdout(), "{ms:.3}")?;
    }
}

/// Steps since somebody looked, milliseconds.
#[derive(Clone, Default)]
struct Steps(Arc<Mutex<Vec<f64>>>);

impl Steps {
    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn during(&self, time: Duration) -> Vec<f64> {
        self.take();
        std::thread::sleep(time);
        self.take()
    }
}

/// One round: steps without a transfer, steps with one, and how fast it was.
///
/// # Errors
/// When an end fails.
pub fn round(lab: &Lab, store: &Path, id: &str) -> Result<Value> {
    let dest = lab.dir().join("dest/training");
    empty(&dest)?;
    lab.sync()?;
    let steps = Steps::default();
    let mut trainer = lab.end("a", Some(TRAINS), &["train"])?;
    let heard = steps.clone();
    trainer.listen(move |line| {
        let mut all = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(line.parse::<f64>());
    });
    // The first steps touch memory for the first time.
    steps.during(ALONE / 5);
    let alone = steps.during(ALONE);
    ensure!(!alone.is_empty(), "nothing was trained");
    let (server, address) = serving(lab, "b", Some(COPIES), &dest, true)?;
    let (root, store, cap) = (path(lab.dir())?, path(store)?, CAP.to_string());
    let words = ["push", root, "a", store, id, "-", "b", &address, &cap];
    steps.take();
    let begun = Instant::now();
    let push = lab.end("a", Some(COPIES), &words)?;
    let (with, busy, reports) = reported(push, &steps, median(&alone))?;
    let wall_s = begun.elapsed().as_secs_f64();
    let received = server.finish()?["received_bytes"].as_f64();
    std::fs::remove_dir_all(&dest)?;
    let after = steps.during(ALONE);
    Ok(json!({
        "alone_ms": alone, "with_ms": with, "after_ms": after, "busy_reports": busy, "reports": reports,
        "bytes_per_s": received.context("bytes")? / wall_s, "wall_s": wall_s, "ratio": median(&with) / median(&alone),
    }))
}

/// Tells the sender how the steps do, until it is done or it has been long enough: the steps, and how many reports said busy, of how many.
fn reported(mut push: End, steps: &Steps, usual: f64) -> Result<(Vec<f64>, usize, usize)> {
    let (mut all, mut busy, mut count) = (Vec::new(), 0, 0);
    let begun = Instant::now();
    // From the first moment: a node with a trainer on it has heard of it before.
    push.tell("free");
    while !push.ended()? && begun.elapsed() < WITH {
        std::thread::sleep(REPORT);
        let some = steps.take();
        let disturbed = median(&some) > usual * BUSY;
        push.tell(if disturbed { "busy" } else { "free" });
        busy += usize::from(disturbed);
        count += 1;
        all.extend(some);
    }
    ensure!(!all.is_empty(), "no step ended during the transfer");
    if push.ended()? {
        push.finish()?;
    }
    Ok((all, busy, count))
}
