//! Pools with rules, as the scheduler is told of them: by the pools that a job may ask for. Does NOT decide who may go where: `rules::access` does.
use std::collections::BTreeSet;
use std::sync::Arc;

use super::ask::Ask;
use super::jobs::Waiting;
use crate::state::State;
use crate::state::records::{Decision, Job, PoolRules};
use crate::state::rules::access;

/// Pools with rules: the scheduler is told of them by the pools that a job takes.
#[derive(Debug, Default)]
pub struct Pools<'a> {
    all: BTreeSet<&'a str>,
    rules: Vec<&'a PoolRules>,
}

impl<'a> Pools<'a> {
    /// Those of a state. Where no pool has rules, nobody asks which pools there are.
    pub fn of(state: &'a State) -> Self {
        let rules = state.decisions().filter_map(|one| match one.as_ref() {
            Decision::Pool(rules) => Some(rules),
            _ => None,
        });
        let rules: Vec<&PoolRules> = rules.collect();
        if rules.is_empty() {
            return Self::default();
        }
        let all = state.nodes().map(|node| node.facts.pool.as_str());
        Self {
            all: all.collect(),
            rules,
        }
    }

    /// Whether the same pools are there: who takes any asks for those that are open to him.
    pub fn same(&self, other: &Pools) -> bool {
        self.all == other.all
    }

    /// Takes from a job the pools that are closed to it. One that has none left asks for a pool that no node can be in.
    pub fn narrow(&self, job: &Job, waiting: &mut Waiting) {
        let refuses =
            |rules: &&&PoolRules| access::pool_refuses(rules, job, waiting.limit_ms).is_some();
        let closed = self.rules.iter().filter(refuses);
        let closed: BTreeSet<&str> = closed.map(|rules| rules.pool.as_str()).collect();
        if closed.is_empty() {
            return;
        }
        let asked: Vec<&str> = match waiting.ask.pools.is_empty() {
            true => self.all.iter().copied().collect(),
            false => waiting.ask.pools.iter().map(String::as_str).collect(),
        };
        let open = asked.into_iter().filter(|pool| !closed.contains(pool));
        let mut pools: Vec<String> = open.map(str::to_owned).collect();
        if pools.is_empty() {
            pools.push(String::new());
        }
        if waiting.ask.pools != pools {
            let ask = Ask {
                pools,
                ..Ask::clone(&waiting.ask)
            };
            waiting.ask = Arc::new(ask);
        }
    }
}
