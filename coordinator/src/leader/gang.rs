//! PURE: which nodes of a gang are ready, and when all may start their ranks.
//!
//! Soft: a new leader learns it again from what agents report. Telling an agent twice does no harm. Ending a gang that
//! never gets ready is the caller's business; it is only named here.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use std::collections::BTreeMap;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::mutants::{Mutant, planted};

use super::liveness::Mono;

/// (job, epoch).
pub type Key = (JobId, Epoch);

/// How far a node is with its part of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Fetches code, makes directories.
    Preparing,
    /// Waits for the others.
    Ready,
    /// Its ranks run.
    Running,
    /// Its ranks are being ended.
    Stopping,
    /// They ended; not acknowledged yet.
    Ended,
}

/// What a node says of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The attempt.
    pub key: Key,
    /// How far it is.
    pub phase: Phase,
    /// The port leased on node rank 0, else 0.
    pub master_port: u16,
    /// The newest event of the node that announces a checkpoint of this attempt and is not acknowledged, 0: none.
    pub moving_up_to: u64,
}

/// Tell `node` to start its ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Go {
    /// Whom to tell.
    pub node: String,
    /// The attempt.
    pub key: Key,
    /// Node rank 0, where the port was leased.
    pub master: String,
    /// The port.
    pub master_port: u16,
}

#[derive(Debug)]
struct Gang {
    /// In node-rank order.
    members: Vec<String>,
    reports: BTreeMap<String, (Phase, u16)>,
    deadline: Mono,
    expired: bool,
}

/// The gangs that have not all started.
#[derive(Debug, Default)]
pub struct Gangs {
    gangs: BTreeMap<Key, Gang>,
}

impl Gangs {
    /// Watches a committed attempt until `deadline`. Watching it again changes nothing.
    pub fn watch(&mut self, key: Key, members: Vec<String>, deadline: Mono) {
        self.gangs.entry(key).or_insert(Gang {
            members,
            reports: BTreeMap::new(),
            deadline,
            expired: false,
        });
    }

    /// The attempt runs or ends: there is no barrier any more.
    pub fn forget(&mut self, key: Key) {
        self.gangs.remove(&key);
    }

    /// Forgets every gang of which `over` holds.
    pub fn forget_if(&mut self, over: impl Fn(Key) -> bool) {
        self.gangs.retain(|key, _| !over(*key));
    }

    /// Whether it took too long.
    pub fn expired(&self, key: Key) -> bool {
        self.gangs.get(&key).is_some_and(|gang| gang.expired)
    }

    /// A node's word. Answers with who may start now: everybody that still waits once nobody is missing.
    pub fn report(&mut self, node: &str, report: &Report) -> Vec<Go> {
        let Some(gang) = self.gangs.get_mut(&report.key) else {
            return Vec::new();
        };
        if !gang.members.iter().any(|member| member == node) {
            return Vec::new();
        }
        let old = gang.reports.get(node).copied();
        // Messages of one stream arrive in order; a heartbeat written before `Ready` may still be read after it.
        let older = old.is_some_and(|(phase, _)| phase > report.phase);
        if !older {
            let said = (report.phase, report.master_port);
            gang.reports.insert(node.to_owned(), said);
        }
        let completes = old.is_none_or(|(phase, _)| phase < Phase::Ready);
        gang.all_clear(report.key, (!completes).then_some(node))
    }

    /// Who waits for the word to start, if nobody is missing: all of them may be told.
    pub fn waiting(&self, key: Key) -> Vec<Go> {
        let gang = self.gangs.get(&key);
        gang.map_or_else(Vec::new, |gang| gang.all_clear(key, None))
    }

    /// A node's stream broke: what it waits for must be said again, and nobody starts without it.
    pub fn unheard(&mut self, node: &str) {
        for gang in self.gangs.values_mut() {
            if gang
                .reports
                .get(node)
                .is_some_and(|(phase, _)| *phase < Phase::Running)
            {
                gang.reports.remove(node);
            }
        }
    }

    /// When the next gang's time is over.
    pub fn next(&self) -> Option<Mono> {
        let waiting = self.gangs.values().filter(|gang| !gang.expired);
        waiting.map(|gang| gang.deadline).min()
    }

    /// Gangs whose time is over, each named once.
    pub fn expire(&mut self, now: Mono) -> Vec<Key> {
        let mut over = Vec::new();
        for (key, gang) in &mut self.gangs {
            if !gang.expired && gang.deadline <= now {
                gang.expired = true;
                over.push(*key);
            }
        }
        over
    }

    /// The nodes that are not ready, for people.
    pub fn missing(&self, key: Key) -> Vec<String> {
        let Some(gang) = self.gangs.get(&key) else {
            return Vec::new();
        };
        let waited = gang.members.iter().filter(|member| !gang.ready(member));
        waited.cloned().collect()
    }
}

impl Gang {
    fn ready(&self, member: &str) -> bool {
        let said = self.reports.get(member);
        said.is_some_and(|(phase, _)| matches!(phase, Phase::Ready | Phase::Running))
    }

    /// Everybody when the last one got ready, later `only` the one that says again that it waits.
    fn all_clear(&self, key: Key, only: Option<&str>) -> Vec<Go> {
        let all_ready = self.members.iter().all(|member| self.ready(member));
        if self.expired || !(all_ready || planted(Mutant::GangGoesEarly)) {
            return Vec::new();
        }
        let Some(master) = self.members.first() else {
            return Vec::new();
        };
        let port = self.reports.get(master).map_or(0, |(_, port)| *port);
        if port == 0 {
            return Vec::new();
        }
        let waits = |member: &&String| {
            let said = self.reports.get(*member).map(|(phase, _)| *phase);
            said == Some(Phase::Ready) && only.is_none_or(|only| *member == only)
        };
        let go = |member: &String| Go {
            node: member.clone(),
            key,
            master: master.clone(),
            master_port: port,
        };
        self.members.iter().filter(waits).map(go).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (JobId::new(1, 7), Epoch::new(1, 1));

    fn gangs() -> Gangs {
        let mut gangs = Gangs::default();
        gangs.watch(KEY, vec!["a".into(), "b".into()], 1_000);
        gangs
    }

    fn said(gangs: &mut Gangs, node: &str, phase: Phase, port: u16) -> Vec<String> {
        let report = Report {
            key: KEY,
            phase,
            master_port: port,
            moving_up_to: 0,
        };
        let gos = gangs.report(node, &report);
        for go in &gos {
            assert_eq!((go.master.as_str(), go.master_port), ("a", 4_000));
        }
        gos.into_iter().map(|go| go.node).collect()
    }

    #[test]
    fn nobody_starts_before_the_last_is_ready() {
        let mut gangs = gangs();
        assert_eq!(gangs.missing(KEY), ["a", "b"]);
        assert!(said(&mut gangs, "a", Phase::Preparing, 0).is_empty());
        assert!(said(&mut gangs, "b", Phase::Ready, 0).is_empty());
        assert!(said(&mut gangs, "stranger", Phase::Ready, 1).is_empty());
        assert_eq!(said(&mut gangs, "a", Phase::Ready, 4_000), ["a", "b"]);
        assert_eq!(
            said(&mut gangs, "b", Phase::Ready, 0),
            ["b"],
            "again for who asks again"
        );
        assert!(said(&mut gangs, "b", Phase::Running, 0).is_empty());
        assert!(gangs.missing(KEY).is_empty());
    }

    #[test]
    fn a_new_leader_lets_the_late_one_start() {
        let mut gangs = gangs();
        assert!(said(&mut gangs, "b", Phase::Ready, 0).is_empty());
        assert_eq!(said(&mut gangs, "a", Phase::Running, 4_000), ["b"]);
    }

    #[test]
    fn a_heartbeat_from_before_does_not_take_ready_back() {
        let mut gangs = gangs();
        said(&mut gangs, "b", Phase::Ready, 0);
        said(&mut gangs, "b", Phase::Preparing, 0);
        assert_eq!(said(&mut gangs, "a", Phase::Ready, 4_000), ["a", "b"]);
    }

    #[test]
    fn a_broken_stream_holds_the_gang() {
        let mut gangs = gangs();
        said(&mut gangs, "b", Phase::Ready, 0);
        gangs.unheard("b");
        assert!(said(&mut gangs, "a", Phase::Ready, 4_000).is_empty());
        assert_eq!(gangs.missing(KEY), ["b"]);
        assert_eq!(said(&mut gangs, "b", Phase::Ready, 0), ["a", "b"]);
    }

    #[test]
    fn a_gang_that_takes_too_long_is_named_once_and_never_starts() {
        let mut gangs = gangs();
        assert_eq!(gangs.next(), Some(1_000));
        assert!(gangs.expire(999).is_empty());
        assert_eq!(gangs.expire(1_000), [KEY]);
        assert!(gangs.expire(2_000).is_empty() && gangs.expired(KEY) && gangs.next().is_none());
        said(&mut gangs, "b", Phase::Ready, 0);
        assert!(said(&mut gangs, "a", Phase::Ready, 4_000).is_empty());
        gangs.forget(KEY);
        assert!(!gangs.expired(KEY));
    }

    #[test]
    fn without_a_port_nobody_starts() {
        let mut gangs = gangs();
        said(&mut gangs, "b", Phase::Ready, 0);
        assert!(said(&mut gangs, "a", Phase::Ready, 0).is_empty());
        assert_eq!(
            said(&mut gangs, "a", Phase::Ready, 4_000),
            ["a"],
            "b asks again with its next heartbeat"
        );
        assert_eq!(said(&mut gangs, "b", Phase::Ready, 0), ["b"]);
    }
}
