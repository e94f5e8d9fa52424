//! The logs of ranks as this coordinator keeps them: what agents pushed, in files, and readers that follow them.
//!
//! Copies, not truth: the node keeps its own file until its log is stored here. Not replicated: a new leader is
//! pushed to anew.
mod reader;
mod store;

pub use reader::{Line, Reader};
pub use store::{Key, LogError, Logs, Piece, RankLog, Stored};
