//! Checkpoints of the jobs on this node: which are complete, seeing them become so, putting leftovers aside.
//! Does NOT hash or copy them: `copies` does, once they are complete.

pub mod follow;
pub mod leftovers;
pub mod look;
pub mod rules;
pub mod seal;
pub mod track;
pub mod watch;
