//! How entitled jobs are to what they hold: the rule that apply asks too. Does NOT choose victims.
pub use crate::state::rules::entitlement::*;

#[cfg(test)]
use crate::state::{rules::quota::Ledger, view::jobs::Class};
#[cfg(test)]
#[path = "entitlement_tests.rs"]
mod tests;
