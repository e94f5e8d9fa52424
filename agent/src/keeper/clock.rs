//! The keeper's two clocks: CLOCK_BOOTTIME for every duration, the wall clock only to stamp log lines for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine started, suspend included.
pub(super) fn now_ms() -> u64 {
    // Linux has had this clock since 2.6.39; without it nothing could be measured, so the machine's start is as good as any time.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// UTC milliseconds; 0 before 1970.
pub(super) fn wall_ms() -> u64 {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
