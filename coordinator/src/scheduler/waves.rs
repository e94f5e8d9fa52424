//! How much of an array job goes to one node at once: slots by what is free there, tasks by what they took so far. Does not choose
//! the node.
use mlctl_proto::limits::{RANKS_PER_NODE_MAX, WAVE_TASKS_MAX};

use crate::state::view::{Array, Wave};

/// A wave lasts about so long, milliseconds: what ends between two waves costs little, and what waits behind the array is looked at soon.
const WAVE_MS: u64 = 4_000;
/// The shortest wave of tasks whose length is known, milliseconds, if there are enough: one costs some tens of milliseconds.
const WAVE_MS_MIN: u64 = 250;
/// Tasks per slot of a first wave, of which nobody knows how long they take.
const UNKNOWN_PER_SLOT: u64 = 16;
/// Tasks per slot of a wave whose tasks are long: one that takes longer than others leaves its slot's neighbours with work.
const LONG_PER_SLOT: u64 = 2;

/// The tasks for a node with room for `room` at once. `running`: how many of the array run elsewhere, at most. `nodes`: on how many nodes
/// its tasks may run now, this one included. The rest stays in `array`.
pub(super) fn wave(array: &mut Array, room: u32, running: u32, nodes: u64) -> Option<Wave> {
    let pending = array.pending.count();
    let limit = match array.limit {
        0 => u32::MAX,
        limit => limit.saturating_sub(running),
    };
    let slots = room.min(limit).min(RANKS_PER_NODE_MAX);
    let nodes = nodes.max(1);
    // Few tasks are spread over the nodes.
    let slots = u64::from(slots).min(pending.div_ceil(nodes));
    if slots == 0 {
        return None;
    }
    let (least, by_pace) = match u64::from(array.task_ms) {
        0 => (1, UNKNOWN_PER_SLOT),
        took => (
            (WAVE_MS_MIN / took).max(1),
            (WAVE_MS / took).max(LONG_PER_SLOT),
        ),
    };
    // Half of this node's share of what is left: nodes that are faster, or come later, find something to do until the end.
    let share = pending.div_ceil(nodes.saturating_mul(2));
    let most = slots.saturating_mul(by_pace).min(u64::from(WAVE_TASKS_MAX));
    let count = share.clamp(slots.saturating_mul(least).min(most), most);
    let tasks = array.pending.take_lowest(count);
    Some(Wave::new(u32::try_from(slots).unwrap_or(u32::MAX), tasks))
}

#[cfg(test)]
mod tests {
    use mlctl_proto::spec::ArraySpec;

    use super::*;

    fn array(text: &str, task_ms: u32) -> Array {
        let mut array = Array::new(&ArraySpec::parse(text).expect("good"));
        array.task_ms = task_ms;
        array
    }

    #[test]
    fn a_wave_is_as_long_as_its_tasks_let_it_be() {
        for (text, task_ms, room, running, nodes, want) in [
            ("0-9999", 0, 16, 0, 2, Some((16, 256))),
            ("0-9999", 12, 16, 0, 2, Some((16, 2_500))),
            ("0-9999", 1, 16, 0, 1, Some((16, 4_096))),
            ("0-9999", 3_600_000, 16, 0, 2, Some((16, 32))),
            ("0-39", 5_000, 16, 0, 2, Some((16, 16))),
            ("0-19", 5_000, 16, 0, 2, Some((10, 10))),
            ("0-999", 12, 16, 0, 2, Some((16, 320))),
            ("0-3", 12, 16, 0, 2, Some((2, 4))),
            ("0-99%8", 0, 16, 0, 1, Some((8, 50))),
            ("0-99%8", 0, 16, 6, 1, Some((2, 32))),
            ("0-99%8", 0, 16, 8, 1, None),
            ("0-99", 0, 0, 0, 1, None),
        ] {
            let mut array = array(text, task_ms);
            let all = array.pending.clone();
            let found = wave(&mut array, room, running, nodes);
            let counts = found.as_ref().map(|wave| (wave.slots, wave.tasks.count()));
            assert_eq!(counts, want, "{text} {task_ms} ms");
            let taken = found.map(|wave| wave.tasks).unwrap_or_default();
            assert_eq!(taken.union(&array.pending), all);
        }
    }

    #[test]
    fn many_rounds_end_and_leave_nothing() {
        let mut array = array("0-99999", 5);
        let mut rounds = 0;
        while let Some(wave) = wave(&mut array, 16, 0, 4) {
            assert!(wave.slots > 0 && wave.tasks.count() >= u64::from(wave.slots));
            rounds += 1;
        }
        assert!(array.pending.is_empty() && rounds < 120, "{rounds}");
    }
}
