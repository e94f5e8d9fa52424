//! What reads bytes from disk or wire, given bytes that nobody wrote: it must answer or refuse, never panic, hang or take a lot of memory.
//! One file per target; the test suite runs each for some seconds, `tests/fuzz/run` runs them under libFuzzer, `mlctl-tests fuzz` replays a file.
//! Does NOT look for wrong answers of the wire protocols as a whole: that is the simulator's.

mod apply;
pub mod cli;
mod command;
mod dice;
pub mod drive;
mod log;
mod message;
mod mutate;
mod piece;
mod segment;
mod snapshot;
mod story;
mod wire;

use dice::Dice;

/// One reader of bytes, and what is known about its bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Inputs that make sense, to begin from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads `bytes`. Panics when what must hold of every input does not hold of this one.
    pub run: fn(&[u8]),
    /// Changes an input so that parts of it go on making sense.
    mutate: Mutate,
}

/// Chance, inputs to borrow from, and the input to change.
type Mutate = fn(&mut Dice, &[Vec<u8>], Vec<u8>) -> Vec<u8>;

/// Every target.
pub const TARGETS: [Target; 7] = [
    Target {
        name: "command",
        seeds: command::seeds,
        run: command::run,
        mutate: command::mutate,
    },
    Target {
        name: "apply",
        seeds: apply::seeds,
        run: apply::run,
        mutate: apply::mutate,
    },
    Target {
        name: "snapshot",
        seeds: snapshot::seeds,
        run: snapshot::run,
        mutate: snapshot::mutate,
    },
    Target {
        name: "segment",
        seeds: segment::seeds,
        run: segment::run,
        mutate: segment::mutate,
    },
    Target {
        name: "log",
        seeds: log::seeds,
        run: log::run,
        mutate: log::mutate,
    },
    Target {
        name: "piece",
        seeds: piece::seeds,
        run: piece::run,
        mutate: piece::mutate,
    },
    Target {
        name: "message",
        seeds: message::seeds,
        run: message::run,
        mutate: message::mutate,
    },
];

impl Target {
    /// The target called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// An input made of `bytes` and the seeds, by chance alone: the same `seed`, the same input.
    #[must_use]
    pub fn mutated(&self, seed: u64, seeds: &[Vec<u8>], bytes: &[u8]) -> Vec<u8> {
        (self.mutate)(&mut Dice::new(seed), seeds, bytes.to_vec())
    }
}
