//! Whether this member may go on: digests, clocks and disks of all members, compared each second.
//!
//! `judge`, `marks`, `space` and `admission` are pure and decide; `watch` asks the others and acts on what they decide;
//! `handover`, `note` and `view` are what it acts with. Nothing here is replicated, and nothing here changes state.
pub mod admission;
mod handover;
pub mod judge;
pub mod marks;
mod note;
pub mod space;
mod view;
mod watch;
mod wire;

pub use handover::hand_over;
pub use note::{Note, NoteError};
pub use view::{Condition, Said, Vitals};
pub use watch::watch;
pub use wire::reply;
