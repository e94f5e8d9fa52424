//! Copies give way to training: whether ranks of this node are held up while something travels is found out and told to the pacer.
//! Does NOT slow anything down itself: the pacer of `blobs` does.
//!
//! - `attempts`: whose ranks are here. `sight`: what the kernel says of them. `strain` (pure): are they held up? `reporter`: tells the pacer.

mod attempts;
mod reporter;
mod sight;
mod strain;

pub(in crate::copies) use attempts::{AttemptHere, Attempts};
pub(in crate::copies) use reporter::report;
