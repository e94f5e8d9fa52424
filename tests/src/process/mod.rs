//! Real processes: a dev cluster per test with the command line as people use it, or a fleet whose daemons the test handles itself;
//! faults by signal, by cut networks and by cut power.
//! Does NOT reach into a daemon: what a test knows it learned from the command line, the API, log files or the process table.
//!
//! A test that uses this lives in a binary `tests/tests/process_*.rs`, so that only one of them runs at a time.

pub mod binary;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod disk;
pub mod faults;
pub mod fleet;
pub mod home;
pub mod job;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod netns;
pub mod raw;
pub mod relay;
pub mod running;
pub mod tool;
pub mod training;
pub mod trial;
pub mod workload;

pub use cluster::{Cluster, Daemon};
pub use command::Output;
pub use fleet::Fleet;
pub use job::{Job, list};
pub use running::Running;

use std::time::{Duration, Instant};

/// The longest pause between two looks at something.
pub const LOOK: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds something.
///
/// # Panics
/// When nothing was found within `deadline`; the text says that it waited for `what`.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            begun.elapsed() < deadline,
            "waited {deadline:?} in vain for {what}"
        );
        std::thread::sleep(LOOK);
    }
}
