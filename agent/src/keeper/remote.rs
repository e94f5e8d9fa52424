//! PURE: what launch agents of `mpirun` want run on other nodes, what other nodes want run here, and who has to be told what.
//!
//! Words between nodes travel through the leader and may be lost, doubled or late: each is said again until it is answered, and a second
//! one gets the answer of the first. What is said once too often does no harm. Does NOT start anything and owns no socket.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use super::protocol::{Answer, Remote};
use crate::launch::mpi::MpiPlan;

/// Until a node says that it has begun, it is asked again after this, milliseconds.
const AGAIN_MS: u64 = 1_000;
/// A node that has begun is asked for its end after this, milliseconds: its word of it may have been lost.
const ENDED_MS: u64 = 15_000;
/// What `ssh` ends with when it could not do what it was asked.
const NOT_DONE: i32 = 255;
/// Bits of a number that count the requests of one node.
const COUNT_BITS: u32 = 32;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Do {
    /// Tell another node.
    Send(String, Remote),
    /// Tell a launch agent of this node.
    Answer(u64, Answer),
    /// Run this line here.
    Start(String),
    /// Nothing more will be wanted here: `mpirun` has ended well.
    Finish,
}

/// A request to another node that is not answered.
#[derive(Debug)]
struct Open {
    to: String,
    what: Remote,
    /// The launch agent that waits for it.
    shim: Option<u64>,
    due: u64,
    begun: bool,
}

/// Who asked for the daemon that runs here, and its number there.
type Asked = (String, u64);

/// One node's view.
#[derive(Debug)]
pub(super) struct Remotes {
    members: Vec<(String, String)>,
    own: usize,
    open: BTreeMap<u64, Open>,
    count: u64,
    /// Ranks may start.
    begun: bool,
    /// Came before that.
    early: BTreeMap<Asked, String>,
    serving: Option<Asked>,
    served: BTreeMap<Asked, (i32, String)>,
}

impl Remotes {
    pub(super) fn new(plan: &MpiPlan, node_rank: u32) -> Self {
        Self {
            members: plan.members.clone(),
            own: node_rank as usize,
            open: BTreeMap::new(),
            count: 0,
            begun: false,
            early: BTreeMap::new(),
            serving: None,
            served: BTreeMap::new(),
        }
    }

    /// Is this the node of `mpirun`?
    pub(super) fn leads(&self) -> bool {
        self.own == 0
    }

    /// Ranks may start: what other nodes asked for before that is done now.
    pub(super) fn begin(&mut self) -> Vec<Do> {
        self.begun = true;
        let early = std::mem::take(&mut self.early);
        let asked = early.into_iter();
        asked
            .flat_map(|((from, id), line)| self.spawn(from, id, line))
            .collect()
    }

    /// A launch agent wants `line` run on `host`.
    pub(super) fn ask(&mut self, now: u64, shim: u64, host: &str, line: String) -> Vec<Do> {
        let named = |(name, address): &(String, String)| host == name || host == address;
        let Some(at) = self.members.iter().position(named) else {
            let nodes: Vec<&str> = self.members.iter().map(|(name, _)| &**name).collect();
            let host = mlctl_proto::ids::clip(host);
            let why = format!(
                "`{host}` is no node of this job; its nodes: {}",
                nodes.join(", ")
            );
            return vec![Do::Answer(shim, ended(NOT_DONE, why))];
        };
        if at == self.own {
            return vec![Do::Answer(shim, Answer::Here)];
        }
        let to = self.members[at].0.clone();
        vec![self.request(now, to, Some(shim), |id| Remote::Spawn { id, line })]
    }

    /// `mpirun` has ended well: the other nodes need not wait any more.
    pub(super) fn lead_ended(&mut self, now: u64) -> Vec<Do> {
        // What launch agents still wait for, nobody asks for any more.
        self.open.clear();
        let others = (0..self.members.len()).filter(|at| *at != self.own);
        let others: Vec<String> = others.map(|at| self.members[at].0.clone()).collect();
        others
            .into_iter()
            .map(|to| self.request(now, to, None, |id| Remote::Finish { id }))
            .collect()
    }

    /// Is nothing waited for?
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Another node speaks.
    pub(super) fn heard(&mut self, now: u64, from: String, what: Remote) -> Vec<Do> {
        match what {
            Remote::Spawn { id, line } => self.spawn(from, id, line),
            Remote::Finish { id } => {
                let told = Remote::Ended {
                    id,
                    code: 0,
                    why: String::new(),
                };
                vec![Do::Send(from, told), Do::Finish]
            }
            Remote::Begun { id } => {
                if let Some(open) = self.open.get_mut(&id).filter(|open| open.to == from) {
                    (open.begun, open.due) = (true, now + ENDED_MS);
                }
                Vec::new()
            }
            Remote::Ended { id, code, why } => {
                if self.open.get(&id).is_none_or(|open| open.to != from) {
                    return Vec::new();
                }
                let shim = self.open.remove(&id).and_then(|open| open.shim);
                shim.map(|shim| Do::Answer(shim, ended(code, why)))
                    .into_iter()
                    .collect()
            }
        }
    }

    /// The daemon that was started here has ended.
    pub(super) fn daemon_ended(&mut self, code: i32, why: String) -> Vec<Do> {
        let Some(asked) = self.serving.take() else {
            return Vec::new();
        };
        self.served.insert(asked.clone(), (code, why));
        vec![self.end_of(asked)]
    }

    /// A launch agent is gone: `mpirun` does not want to know any more.
    pub(super) fn shim_gone(&mut self, shim: u64) {
        self.open.retain(|_, open| open.shim != Some(shim));
    }

    /// When something is to be said again.
    pub(super) fn due(&self) -> Option<u64> {
        self.open.values().map(|open| open.due).min()
    }

    /// Says again what is due.
    pub(super) fn on_time(&mut self, now: u64) -> Vec<Do> {
        let due = self.open.values_mut().filter(|open| open.due <= now);
        due.map(|open| {
            open.due = now + if open.begun { ENDED_MS } else { AGAIN_MS };
            Do::Send(open.to.clone(), open.what.clone())
        })
        .collect()
    }

    fn request(
        &mut self,
        now: u64,
        to: String,
        shim: Option<u64>,
        what: impl FnOnce(u64) -> Remote,
    ) -> Do {
        self.count += 1;
        let id = ((self.own as u64) << COUNT_BITS) | self.count;
        let what = what(id);
        let open = Open {
            to: to.clone(),
            what: what.clone(),
            shim,
            due: now + AGAIN_MS,
            begun: false,
        };
        self.open.insert(id, open);
        Do::Send(to, what)
    }

    fn spawn(&mut self, from: String, id: u64, line: String) -> Vec<Do> {
        let asked = (from, id);
        if self.served.contains_key(&asked) {
            return vec![self.end_of(asked)];
        }
        if !self.begun {
            self.early.insert(asked, line);
            return Vec::new();
        }
        let begun = Do::Send(asked.0.clone(), Remote::Begun { id });
        if self.serving.as_ref() == Some(&asked) {
            return vec![begun];
        }
        if self.serving.is_some() {
            let why = "a daemon of another `mpirun` of this job still runs here".to_owned();
            self.served.insert(asked.clone(), (NOT_DONE, why));
            return vec![self.end_of(asked)];
        }
        self.serving = Some(asked);
        vec![begun, Do::Start(line)]
    }

    fn end_of(&self, (from, id): Asked) -> Do {
        let (code, why) = self
            .served
            .get(&(from.clone(), id))
            .cloned()
            .unwrap_or_default();
        Do::Send(from, Remote::Ended { id, code, why })
    }
}

fn ended(code: i32, why: String) -> Answer {
    Answer::Ended { code, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(own: u32) -> Remotes {
        let member = |at: u32| (format!("n{at}"), format!("10.0.0.{at}"));
        let members = (0..3).map(member).collect();
        let mut node = Remotes::new(&MpiPlan { members }, own);
        assert!(node.begin().is_empty());
        node
    }

    fn spawn(id: u64) -> Remote {
        let line = "orted".to_owned();
        Remote::Spawn { id, line }
    }

    const ID: u64 = 1;

    #[test]
    fn a_daemon_starts_once_and_its_end_is_told_as_often_as_it_is_asked_for() {
        let mut there = node(2);
        let ask = |there: &mut Remotes| there.heard(0, "n0".into(), spawn(ID));
        let begun = Do::Send("n0".into(), Remote::Begun { id: ID });
        assert_eq!(ask(&mut there), [begun.clone(), Do::Start("orted".into())]);
        assert_eq!(ask(&mut there), [begun]);
        let over = Remote::Ended {
            id: ID,
            code: 3,
            why: String::new(),
        };
        let over = [Do::Send("n0".into(), over)];
        assert_eq!(there.daemon_ended(3, String::new()), over);
        assert_eq!(ask(&mut there), over);
        assert!(there.daemon_ended(3, String::new()).is_empty());
        // The next `mpirun` of the same script.
        let next = there.heard(0, "n0".into(), spawn(9));
        assert!(next.contains(&Do::Start("orted".into())), "{next:?}");
        // Two at once would fight over this node's slot.
        let second = there.heard(0, "n1".into(), spawn(9));
        assert!(
            matches!(&second[..], [Do::Send(to, Remote::Ended { code: NOT_DONE, .. })] if to == "n1"),
            "{second:?}"
        );
    }

    #[test]
    fn what_comes_before_the_start_waits_for_it() {
        let members = vec![("n0".into(), "a".into()), ("n1".into(), "b".into())];
        let mut there = Remotes::new(&MpiPlan { members }, 1);
        for _ in 0..2 {
            assert!(there.heard(0, "n0".into(), spawn(ID)).is_empty());
        }
        let done = there.begin();
        let starts = done.iter().filter(|one| matches!(one, Do::Start(_)));
        assert_eq!(starts.count(), 1, "{done:?}");
    }

    #[test]
    fn requests_are_said_again_until_they_are_answered() {
        let mut here = node(0);
        let sent = here.ask(0, 7, "10.0.0.2", "orted".into());
        let [Do::Send(to, Remote::Spawn { id, .. })] = &sent[..] else {
            panic!("{sent:?}");
        };
        assert_eq!(to, "n2");
        assert!(here.on_time(AGAIN_MS - 1).is_empty());
        assert_eq!(here.on_time(AGAIN_MS), sent);
        let id = *id;
        // A stranger's word does not count.
        assert!(
            here.heard(AGAIN_MS, "n1".into(), Remote::Begun { id })
                .is_empty()
        );
        assert_eq!(here.due(), Some(2 * AGAIN_MS));
        here.heard(AGAIN_MS, "n2".into(), Remote::Begun { id });
        assert_eq!(here.due(), Some(AGAIN_MS + ENDED_MS));
        let over = |code| Remote::Ended {
            id,
            code,
            why: String::new(),
        };
        assert!(here.heard(0, "n1".into(), over(1)).is_empty());
        let told = here.heard(0, "n2".into(), over(0));
        assert_eq!(told, [Do::Answer(7, ended(0, String::new()))]);
        assert!(here.heard(0, "n2".into(), over(0)).is_empty() && here.is_settled());
    }

    #[test]
    fn hosts_are_known_by_name_and_address() {
        let mut here = node(1);
        for own in ["n1", "10.0.0.1"] {
            assert_eq!(
                here.ask(0, 1, own, String::new()),
                [Do::Answer(1, Answer::Here)]
            );
        }
        let refused = here.ask(0, 1, "elsewhere", String::new());
        let [Do::Answer(1, Answer::Ended { code, why })] = &refused[..] else {
            panic!("{refused:?}");
        };
        assert!(*code == NOT_DONE && why.contains("n0, n1, n2"), "{why}");
    }

    #[test]
    fn the_end_of_mpirun_is_told_to_all_until_they_know() {
        let mut here = node(0);
        here.ask(0, 7, "n1", String::new());
        let told = here.lead_ended(0);
        assert_eq!(told.len(), 2);
        assert!(!here.is_settled());
        for word in told {
            let Do::Send(to, what) = word else {
                panic!("a word to a node");
            };
            let mut there = node(if to == "n1" { 1 } else { 2 });
            let answer = there.heard(0, "n0".into(), what.clone());
            let [Do::Send(back, over), Do::Finish] = &answer[..] else {
                panic!("{answer:?}");
            };
            assert_eq!(back, "n0");
            here.heard(0, to, over.clone());
        }
        assert!(here.is_settled());
    }

    #[test]
    fn a_launch_agent_that_is_gone_is_not_answered() {
        let mut here = node(0);
        here.ask(0, 7, "n1", String::new());
        here.shim_gone(7);
        assert!(here.is_settled() && here.due().is_none());
    }
}
