//! This process's wall clock: the one place where a coordinator reads it.
//!
//! It goes into commands and is compared with the other members' clocks; it decides nothing by itself. What is measured
//! within the process uses monotonic time instead. In a dev cluster it can be shifted, so that a wrong clock can be tried.
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mlctl_proto::units::UtcMs;

use crate::leader::Pace;

/// In the data directory of a dev cluster's coordinator: milliseconds that are added to its clock.
const SHIFT_FILE: &str = "clock-shift-ms";

/// The wall clock.
#[derive(Debug, Default)]
pub struct Clock {
    shift_ms: AtomicI64,
    pace: Mutex<Pace>,
    started: OnceLock<Instant>,
}

impl Clock {
    /// Now, UTC milliseconds.
    pub fn now_ms(&self) -> UtcMs {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = UtcMs::try_from(since.as_millis()).unwrap_or(UtcMs::MAX);
        now.saturating_add(self.shift_ms.load(Ordering::Relaxed))
    }

    /// The time for a command on a state whose time is `state_ms`.
    pub fn stamp(&self, state_ms: UtcMs) -> UtcMs {
        let started = self.started.get_or_init(Instant::now);
        let now = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.stamp(self.now_ms(), state_ms, now)
    }

    /// How long it takes until so much state time has passed, milliseconds; as of the last stamp.
    pub fn wait(&self, state_time_ms: u64) -> u64 {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.wait(state_time_ms)
    }

    /// Takes the shift that the file in `dir` names; none without one. For dev clusters only: whoever runs a real one
    /// sets the machine's clock.
    pub fn shift_as_told(&self, dir: &Path) {
        let text = std::fs::read_to_string(dir.join(SHIFT_FILE)).unwrap_or_default();
        let shift = text.trim().parse().unwrap_or(0);
        self.shift_ms.store(shift, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_as_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let (shifted, right) = (Clock::default(), Clock::default());
        for (text, at_least, at_most) in [
            ("60000\n", 59_000, 61_000),
            ("-60000", -61_000, -59_000),
            ("x", -1_000, 1_000),
        ] {
            std::fs::write(dir.path().join(SHIFT_FILE), text).expect("written");
            shifted.shift_as_told(dir.path());
            let ahead = shifted.now_ms() - right.now_ms();
            assert!((at_least..=at_most).contains(&ahead), "{text}: {ahead}");
        }
        std::fs::remove_file(dir.path().join(SHIFT_FILE)).expect("removed");
        shifted.shift_as_told(dir.path());
        assert!((shifted.now_ms() - right.now_ms()).abs() < 1_000);
    }
}
