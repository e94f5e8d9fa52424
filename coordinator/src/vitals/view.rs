//! What this member knows of all members' health, for everybody in the process to look at.
//!
//! Readers take what is there without waiting. It asks nobody; `watch` fills it in.
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::admission::{Stance, Tight};
use super::judge::Verdict;
use super::marks::Mark;
use super::note::Note;
use super::space::Room;
use crate::consensus::MemberId;
use crate::disk::Gauge;

/// What a member said is believed this long after it said it.
pub const BELIEVED: Duration = Duration::from_millis(3_500);

/// How a member is, for people and programs: the gravest thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is wrong.
    Fine,
    /// Its disk is below the mark.
    LowDisk,
    /// Its disk is nearly full.
    ShortDisk,
    /// Its clock is off: it does not lead if another can.
    ClockOff,
    /// States differ and no majority agrees: it changes nothing.
    ReadOnly,
    /// Its state is not the majority's: it ends.
    Diverged,
    /// It does not answer.
    Silent,
}

impl Condition {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fine => "Fine",
            Self::LowDisk => "LowDisk",
            Self::ShortDisk => "ShortDisk",
            Self::ClockOff => "ClockOff",
            Self::ReadOnly => "ReadOnly",
            Self::Diverged => "Diverged",
            Self::Silent => "Silent",
        }
    }
}

/// What another member said last.
#[derive(Debug, Clone)]
pub struct Said {
    /// When its answer came.
    pub at: Instant,
    /// Digests of its state.
    pub marks: Vec<Mark>,
    /// How far its clock is ahead of ours, milliseconds.
    pub ahead_ms: i64,
    /// What that may be wrong by, milliseconds.
    pub uncertain_ms: u64,
    /// What its state machine holds.
    pub applied: u64,
    /// The word of its condition; a later release may have more of them.
    pub condition: String,
    /// A sentence about it, empty when it is fine.
    pub note: String,
    /// How full its disk is.
    pub room: Room,
    /// In numbers.
    pub tight: Tight,
    /// Whether it may be handed the leadership.
    pub fit: bool,
}

/// What is known of all members. Shared.
#[derive(Debug)]
pub struct Vitals {
    name: String,
    gauge: Gauge,
    verdict: ArcSwap<Verdict>,
    others: ArcSwap<BTreeMap<MemberId, Said>>,
    /// Another member whose disk the cluster must heed.
    heeded: ArcSwap<Option<(Room, Tight)>>,
    diverged: OnceLock<Note>,
}

impl Vitals {
    /// Of the member `name`, whose disk `gauge` measures.
    pub fn new(name: &str, gauge: Gauge) -> Self {
        Self {
            name: name.to_owned(),
            gauge,
            verdict: ArcSwap::from_pointee(Verdict::Fine),
            others: ArcSwap::default(),
            heeded: ArcSwap::from_pointee(None),
            diverged: OnceLock::new(),
        }
    }

    /// The last verdict about this member.
    pub fn verdict(&self) -> Verdict {
        **self.verdict.load()
    }

    /// What the others said last, however long ago.
    pub fn others(&self) -> Arc<BTreeMap<MemberId, Said>> {
        self.others.load_full()
    }

    /// What the cluster takes at the moment.
    pub fn stance(&self) -> Stance {
        if let Verdict::NoMajority { index } | Verdict::Diverged { index, .. } = self.verdict() {
            return Stance::ReadOnly { index };
        }
        let (own, heeded) = (self.gauge.room(), self.heeded.load());
        match (own, heeded.as_ref()) {
            (own, Some((room, tight))) if *room > own => stance(*room, tight.clone()),
            (own, _) => stance(own, self.tight()),
        }
    }

    /// This member's own disk.
    pub fn room(&self) -> Room {
        self.gauge.room()
    }

    /// This member's own disk in numbers.
    pub fn tight(&self) -> Tight {
        Tight {
            coordinator: self.name.clone(),
            dir: self.gauge.dir().display().to_string(),
            free: self.gauge.free(),
            mark: self.gauge.limits().mark,
        }
    }

    /// How this member is, and a sentence about it, empty when it is fine.
    pub fn condition(&self) -> (Condition, String) {
        match self.verdict() {
            Verdict::Diverged { index, .. } => (
                Condition::Diverged,
                format!("its state differs from the majority's at index {index}; it ends"),
            ),
            Verdict::NoMajority { index } => (
                Condition::ReadOnly,
                format!("states differ at index {index} and no majority agrees on one"),
            ),
            Verdict::ClockOff { by_ms } => (Condition::ClockOff, clock_words(by_ms)),
            Verdict::Fine => match self.room() {
                Room::Enough => (Condition::Fine, String::new()),
                Room::Low => (Condition::LowDisk, self.tight().to_string()),
                Room::Short => (Condition::ShortDisk, self.tight().to_string()),
            },
        }
    }

    /// How another member is, by its own word; [`Condition::Silent`] when it has not answered lately.
    pub fn condition_of(&self, member: MemberId) -> (String, String) {
        let others = self.others.load();
        match others.get(&member) {
            Some(said) if said.at.elapsed() <= BELIEVED => {
                (said.condition.clone(), said.note.clone())
            }
            _ => (
                Condition::Silent.word().to_owned(),
                "it does not answer".to_owned(),
            ),
        }
    }

    /// Why the process ends, once it has found out that its state is wrong.
    pub fn diverged(&self) -> Option<&Note> {
        self.diverged.get()
    }

    pub(super) fn judged(&self, verdict: Verdict) {
        self.verdict.store(Arc::new(verdict));
    }

    pub(super) fn heard(&self, others: BTreeMap<MemberId, Said>, heeded: Option<(Room, Tight)>) {
        self.others.store(Arc::new(others));
        self.heeded.store(Arc::new(heeded));
    }

    pub(super) fn ends_with(&self, note: Note) {
        // The first reason counts.
        let _ = self.diverged.set(note);
    }
}

/// For people.
pub fn clock_words(by_ms: i64) -> String {
    let side = if by_ms > 0 { "behind" } else { "ahead of" };
    let ms = by_ms.unsigned_abs();
    format!(
        "its clock is at least {}.{} s {side} the majority's",
        ms / 1_000,
        ms % 1_000 / 100
    )
}

fn stance(room: Room, tight: Tight) -> Stance {
    match room {
        Room::Enough => Stance::Open,
        Room::Low => Stance::Low(tight),
        Room::Short => Stance::Short(tight),
    }
}
