//! Control groups: what bounds the processes of one attempt, holds them together and ends them at once, wherever they hid.
//!
//! `detect` reads which kinds the machine has (pure), `base` finds out where cgroups may be made and makes ready for them, `group` is
//! the one of an attempt, `count` bounds the number of its processes with v1. Does NOT start processes and does NOT know jobs. Keepers and the launcher stay outside of every group.

pub mod base;
pub mod count;
pub mod detect;
pub mod group;

pub use base::Base;
pub use group::{Entry, Group};
pub use mlctl_proto::units::Oom;

pub use crate::launch::plan::Bounds;

/// The folder of ours in each hierarchy; below it one per node, below that one per attempt.
pub const FOLDER: &str = "mlctl";
