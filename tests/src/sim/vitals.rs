//! What simulated members compare each second, and what follows: the product's judge decides, the world carries it out. With it
//! what the judge is there for: a bit that flips in one member's memory, a clock that is off, a disk that is full.
//! Does NOT send anything: a call that gets through is answered at once.

use mlctl_coordinator::consensus::turn::Input;
use mlctl_coordinator::state::Body;
use mlctl_coordinator::state::commands::{Command, RegisterNode};
use mlctl_coordinator::state::records::NodeFacts;
use mlctl_coordinator::vitals::admission::{Stance, Tight};
use mlctl_coordinator::vitals::judge::{Heard, Own, Verdict, judge};
use mlctl_coordinator::vitals::marks::{Mark as DigestMark, Marks};

use super::coordinator::{Member, system};
use super::marks::Mark;
use super::world::{COORDINATORS, Event, Process, World};
use crate::checkers::Violation;

/// Between two comparisons.
pub(super) const COMPARE_MS: u64 = 1_000;
/// What a call between members takes at most.
const UNCERTAIN_MS: u64 = 10;
/// A member whose state is wrong is found within so many entries: two marks, and some more to agree on them.
const FOUND_WITHIN: u64 = 192;

/// What a member knows of itself.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    pub(super) marks: Marks,
    clock_off: bool,
    read_only: Option<u64>,
    /// The index at which a bit of the state flipped.
    pub(super) flipped: Option<u64>,
}

impl Vitals {
    /// Of a member that starts; `flipped`: a bit of the state that it starts from is another.
    pub(super) fn new(flipped: Option<u64>) -> Self {
        Self {
            flipped,
            ..Self::default()
        }
    }

    /// Exactly what is up to `index` is applied, with this digest.
    pub(super) fn applied(&mut self, index: u64, digest: [u8; 32]) {
        if Marks::wanted(index) {
            self.marks.push(DigestMark { index, digest });
        }
    }
}

/// What a member tells of its state: the digests that it remembers, and that of what it holds now. Without the last a cluster in
/// which nobody may change anything would never find out who is wrong.
fn marks(member: &Member) -> Vec<DigestMark> {
    let mut marks: Vec<DigestMark> = member.vitals.marks.iter().copied().collect();
    let index = member.state.applied_index();
    if marks.last().is_none_or(|last| last.index < index) {
        let digest = member.state.digest().to_bytes();
        marks.push(DigestMark { index, digest });
    }
    marks
}

impl World {
    /// A member asks the others, and is judged.
    pub(super) fn on_compare(&mut self, at: Process) {
        if self.member(at).is_none() {
            return;
        }
        self.after(COMPARE_MS, Event::Compare(at));
        let who = at.who;
        let heard: Vec<Heard> = (0..COORDINATORS)
            .filter_map(|other| self.hears(who, other))
            .collect();
        let Some(member) = self.member(at) else {
            return;
        };
        let own = Own {
            marks: marks(member),
            clock_off: member.vitals.clock_off,
        };
        let verdict = judge(COORDINATORS, &own, &heard);
        self.judged(who, verdict);
    }

    fn hears(&self, who: usize, other: usize) -> Option<Heard> {
        let reachable = who != other && !self.is_cut(who, other) && !self.is_cut(other, who);
        let there = self.coordinators[other].paused_until <= self.now;
        let member = self.coordinators[other].live.as_ref();
        let member = member.filter(|_| reachable && there)?;
        Some(Heard {
            marks: marks(member),
            ahead_ms: self.wall_ms(other) - self.wall_ms(who),
            uncertain_ms: UNCERTAIN_MS,
        })
    }

    fn judged(&mut self, who: usize, verdict: Verdict) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        member.vitals.read_only = match verdict {
            Verdict::NoMajority { index } => Some(index),
            _ => None,
        };
        let off = matches!(verdict, Verdict::ClockOff { .. });
        if off != std::mem::replace(&mut member.vitals.clock_off, off) {
            member.inbox.push(Input::Abstain(off));
            self.turn(who);
        }
        match verdict {
            Verdict::Fine | Verdict::NoMajority { .. } => {}
            Verdict::ClockOff { .. } => self.hands_over_if_it_leads(who),
            Verdict::Diverged { index, .. } => self.diverged(who, index),
        }
    }

    fn hands_over_if_it_leads(&mut self, who: usize) {
        let leads = |member: &Member| member.leads.is_some();
        if self.coordinators[who].live.as_ref().is_some_and(leads) {
            self.marks.hit(Mark::ClockRefusal);
            let fit = |other: &usize| {
                let live = self.coordinators[*other].live.as_ref();
                *other != who && live.is_some_and(|member| !member.vitals.clock_off)
            };
            if let Some(to) = (0..COORDINATORS).find(fit) {
                self.hand_over(who, to);
            }
        }
    }

    /// A majority has another state: the member says so on its disk and ends.
    fn diverged(&mut self, who: usize, index: u64) {
        let live = self.coordinators[who].live.as_ref();
        if live.is_some_and(|member| member.vitals.flipped.is_none()) {
            let what = format!("member {} is sound and stops for index {index}", who + 1);
            let property = "I5";
            return self.violate(Violation { property, what });
        }
        self.marks.hit(Mark::DigestMinority);
        self.crash_coordinator(who, false);
        self.coordinators[who].noted = true;
        let delay = self.dice.between(2_000, 20_000);
        self.after(delay, Event::Repair(who));
    }

    /// People give a member that may not start what another holds; false: none holds enough yet.
    pub(super) fn reseed(&mut self, who: usize) -> bool {
        let last = self.coordinators[who].disk.stored().2;
        let sources = (0..COORDINATORS).filter(|other| *other != who);
        let mut files = sources.filter_map(|other| self.coordinators[other].disk.newest_sound());
        let Some(file) = files.find(|file| file.meta.index >= last).cloned() else {
            return false;
        };
        self.coordinators[who].disk.replace(file);
        self.coordinators[who].noted = false;
        true
    }

    /// A bit of a follower's state in memory is another from now on.
    pub(super) fn flip_in_memory(&mut self, who: usize) {
        let time_ms = self.wall_ms(who);
        // One at a time, and a member that is down may have it in a snapshot: two that are wrong in the same way would be a majority.
        let flipped = |other: &super::coordinator::Coordinator| {
            let live = other.live.as_ref();
            let held = live.is_some_and(|member| member.vitals.flipped.is_some());
            other.noted || held || other.disk.holds_a_flip()
        };
        if self.coordinators.iter().any(flipped) {
            return;
        }
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        if member.leads.is_some() || member.state.settings().is_none() {
            return;
        }
        let facts = NodeFacts {
            name: "ghost".into(),
            boot_id: "ghost".into(),
            pool: "default".into(),
            ..NodeFacts::default()
        };
        let journal_id = "ghost".into();
        let command = Command {
            actor: system("ghost"),
            source: "a flipped bit".into(),
            time_ms: time_ms.min(member.state.now_ms()),
            key: None,
            body: Body::RegisterNode(RegisterNode { facts, journal_id }),
        };
        let index = member.state.applied_index();
        member.state.apply(index, &command);
        member.vitals.flipped = Some(index);
        self.counts.memory_flips += 1;
    }

    /// How much a coordinator takes.
    pub(super) fn stance(&self, who: usize) -> Stance {
        let coordinator = &self.coordinators[who];
        let member = coordinator.live.as_ref();
        match member.and_then(|member| member.vitals.read_only) {
            Some(index) => Stance::ReadOnly { index },
            None if coordinator.low => Stance::Low(Tight {
                coordinator: format!("c{}", who + 1),
                dir: "/simulated".into(),
                free: 0,
                mark: 1,
            }),
            None => Stance::Open,
        }
    }

    /// In a calm a member with a wrong state has to be found.
    pub(super) fn look_for_the_wrong(&mut self) {
        let newest = self.head.applied_index();
        let wrong = self.coordinators.iter().find_map(|one| {
            let member = one.live.as_ref()?;
            let since = member.vitals.flipped?;
            (member.last.0 >= since + FOUND_WITHIN && newest >= since + FOUND_WITHIN)
                .then_some(since)
        });
        if let Some(index) = wrong {
            let what = format!("a member whose state is wrong since {index} runs on");
            let property = "I5";
            self.violate(Violation { property, what });
        }
    }
}
