//! Entitlement on worked examples.
use super::*;
use crate::scheduler::engine::fixtures::{h100, team};
use crate::state::view::teams::Limit;

#[test]
fn placeholder_is_replaced() {
    let ledger = Ledger::new([team("a", &[("h100", 8, Limit::Unlimited)])].iter());
    assert_eq!(depth(&ledger), 1);
    assert!(ledger.column_of(&h100()).is_some());
}
