//! CLOCK_BOOTTIME in milliseconds: the one clock that leases and deadlines are measured with. It goes on during suspend and never jumps.
//! The only place of the agent's daemon that reads it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::core::BoottimeMs;

/// Now, in milliseconds since the machine started.
pub(crate) fn now() -> BoottimeMs {
    // Linux has had this clock since 2.6.39; without it nothing could be measured, so the machine's start is as good as any time.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
