//! Many seeds on several threads, reported in the order of the seeds. Does NOT share anything between two runs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use super::{Report, run_hours};

/// Finished runs that wait for an earlier one, per thread.
const WAITING: usize = 64;

/// Runs `seeds` of `hours` each and hands every report over in the order of the seeds.
pub fn run(seeds: Range<u64>, hours: u64, threads: usize, mut done: impl FnMut(Report)) {
    let next = AtomicU64::new(seeds.start);
    let (finished, reports) = mpsc::sync_channel(WAITING * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (next, finished, end) = (&next, finished.clone(), seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || finished.send(run_hours(seed, hours, None)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(finished);
        let (mut waiting, mut due) = (BTreeMap::new(), seeds.start);
        for report in reports {
            waiting.insert(report.seed, report);
            while let Some(report) = waiting.remove(&due) {
                due += 1;
                done(report);
            }
        }
    });
}
