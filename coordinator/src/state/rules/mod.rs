//! What plan and apply both need: one predicate, used twice, so that a plan never proposes what apply refuses on the same state.
pub mod access;
mod ask;
pub mod budget;
pub mod decay;
pub mod entitlement;
mod excluded;
mod fits;
pub mod flavors;
mod inventory;
pub mod quota;
pub mod quota_text;
pub mod quota_tree;
mod request;
mod resume;
mod retention;
mod retry;
pub mod room;
pub mod sched;
pub mod taking;
mod turn;
mod usage;
pub mod window;

pub use excluded::excluded;
pub(crate) use fits::kinds_text;
pub use fits::{CPU_RANKS_PER_CPU, NeverFits, fits_kind, never_fits};
pub use inventory::Inventory;
pub use request::{Request, all_of};
pub use resume::{
    Resume, checkpoint_name_is_legal, is_shared, living_copies, living_holders, resume,
    resumed_from, resumes_another,
};
pub use retention::{checkpoint_rules, dropped, next_to_upload};
pub use retry::{Backoff, Ended, Verdict, count, verdict};
pub use turn::{NotYet, blocked, not_yet, ready_tasks};
pub use usage::{Usage, usage, usage_below};
