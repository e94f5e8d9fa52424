//! What the apply thread shows to everybody else: the newest state, its changes, and whether this member leads.
//!
//! Readers take immutable clones without a lock. Nothing here changes state and nothing here waits for a reader.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;
use mlctl_proto::limits::WATCH_WINDOW;
use mlctl_proto::units::UtcMs;
use tokio::sync::{Notify, Semaphore, watch};

use crate::scheduler::{self, Explained, Plan, Reason};
use crate::state::view::ClusterView;
use crate::state::view::jobs::Reservation;
use crate::state::{Changed, Effect, State};
use crate::vitals::marks::{Mark, Marks};

/// Effects that may wait for the leader's loop; above that it derives everything from the state again.
const EFFECTS_MAX: usize = 65_536;

/// Questions why a job waits that are worked on at once: each plans several times, and the leader plans beside them. Others wait for their turn.
const LOOKS_AT_ONCE: usize = 2;

/// Written by the apply thread (and, for explanations, by the leader's loop), read by everybody.
#[derive(Debug)]
pub struct Published {
    state: ArcSwap<State>,
    explanations: ArcSwap<BTreeMap<JobId, Reason>>,
    soft: ArcSwap<Soft>,
    /// What the scheduler keeps from plan to plan.
    kept: Mutex<scheduler::Kept>,
    looks: Arc<Semaphore>,
    ring: Mutex<Ring>,
    marks: Mutex<Marks>,
    effects: Mutex<EffectQueue>,
    effects_ready: Notify,
    applied: watch::Sender<u64>,
    leading: watch::Sender<Option<u64>>,
}

/// What the last plan knew beside the state, and what it promised.
#[derive(Debug, Clone, Default)]
pub struct Soft {
    /// Nodes that were heard.
    pub heard: BTreeSet<String>,
    /// Jobs that wait for what is salvaged.
    pub salvaging: BTreeSet<JobId>,
    /// To whom what is promised.
    pub reservations: Vec<Reservation>,
}

/// What a group of entries did.
#[derive(Debug, Default)]
pub struct Group {
    /// (index, what changed) in order.
    pub changes: Vec<(u64, Changed)>,
    /// For the leader.
    pub effects: Vec<Effect>,
    /// Digests to be remembered.
    pub marks: Vec<Mark>,
}

/// The changes after `from` are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Changes after this index are kept.
    pub floor: u64,
}

/// Changes up to an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// They are complete up to here.
    pub index: u64,
    /// Each once, in order of its last change.
    pub changed: Vec<Changed>,
}

#[derive(Debug)]
struct Ring {
    /// Changes with an index at or below this one may be missing.
    floor: u64,
    /// Complete up to here.
    index: u64,
    records: VecDeque<(u64, Changed)>,
}

#[derive(Debug, Default)]
struct EffectQueue {
    term: Option<u64>,
    effects: Vec<Effect>,
    overflowed: bool,
}

impl Published {
    /// Shows `state` as what the process starts with.
    pub fn new(state: State) -> Self {
        let applied = state.applied_index();
        Self {
            state: ArcSwap::from_pointee(state),
            explanations: ArcSwap::default(),
            soft: ArcSwap::default(),
            kept: Mutex::default(),
            looks: Arc::new(Semaphore::new(LOOKS_AT_ONCE)),
            ring: Mutex::new(Ring {
                floor: applied,
                index: applied,
                records: VecDeque::new(),
            }),
            marks: Mutex::default(),
            effects: Mutex::default(),
            effects_ready: Notify::new(),
            applied: watch::Sender::new(applied),
            leading: watch::Sender::new(None),
        }
    }

    /// The newest state.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// The leading reason of each job that the last plan left pending.
    pub fn explanations(&self) -> Arc<BTreeMap<JobId, Reason>> {
        self.explanations.load_full()
    }

    /// `state` with what the last plan knew beside it.
    pub fn view(&self, state: State) -> ClusterView {
        let soft = Soft::clone(&self.soft.load_full());
        ClusterView::new(state, soft.heard)
            .salvaging(soft.salvaging)
            .promised(soft.reservations)
    }

    /// Plans on a view, with what the plan before left.
    pub fn plan(&self, view: &ClusterView, now_ms: UtcMs) -> Plan {
        // Taken out: what a plan that panicked had begun to change is not met again.
        let mut kept = std::mem::take(&mut *lock(&self.kept));
        let plan = scheduler::plan_on(&mut kept, view, now_ms);
        *lock(&self.kept) = kept;
        plan
    }

    /// Everything about why a job of `view` waits, few at once.
    pub async fn look(
        &self,
        view: ClusterView,
        job: JobId,
        now_ms: UtcMs,
    ) -> Result<Explained, Refusal> {
        let failed = |error: String| Refusal::new(Code::Internal, error);
        let turn = self.looks.clone().acquire_owned().await;
        let turn = turn.map_err(|error| failed(error.to_string()))?;
        // Whoever asked may be gone: the turn lasts as long as the work.
        let looking = tokio::task::spawn_blocking(move || {
            let explained = scheduler::look(&view, job, now_ms);
            drop(turn);
            explained
        });
        looking.await.map_err(|error| failed(error.to_string()))
    }

    /// What the last plan of this leader promised.
    pub fn reservations(&self) -> Vec<Reservation> {
        self.soft.load().reservations.clone()
    }

    /// Shows what the last plan said, what it knew beside the state, and what it promised.
    pub fn explain(&self, reasons: BTreeMap<JobId, Reason>, soft: Soft) {
        self.explanations.store(Arc::new(reasons));
        self.soft.store(Arc::new(soft));
    }

    /// Moves with every group of entries.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// `Some(term)` while this member leads it and has applied all that earlier leaders committed.
    pub fn leading(&self) -> watch::Receiver<Option<u64>> {
        self.leading.subscribe()
    }

    /// Shows `state` and what led to it. The state comes first: whoever is woken finds it.
    pub fn publish(&self, state: &State, applied: u64, group: Group, term: Option<u64>) {
        self.state.store(Arc::new(state.clone()));
        lock(&self.ring).push(applied, group.changes);
        if !group.marks.is_empty() {
            let mut marks = lock(&self.marks);
            group.marks.into_iter().for_each(|mark| marks.push(mark));
        }
        if lock(&self.effects).push(group.effects, term) {
            self.effects_ready.notify_one();
        }
        self.leading.send_if_modified(|leading| {
            let changed = *leading != term;
            *leading = term;
            changed
        });
        self.applied.send_if_modified(|index| {
            let changed = *index != applied;
            *index = applied;
            changed
        });
    }

    /// Shows a state that came from a snapshot: what changed on the way to it is not known.
    pub fn replace(&self, state: &State, index: u64) {
        self.state.store(Arc::new(state.clone()));
        *lock(&self.ring) = Ring {
            floor: index,
            index,
            records: VecDeque::new(),
        };
        lock(&self.marks).clear();
        self.applied.send_replace(index);
    }

    /// The digests that are remembered, oldest first.
    pub fn marks(&self) -> Vec<Mark> {
        lock(&self.marks).iter().copied().collect()
    }

    /// Everything that changed after `from`, or that it is not known any more.
    ///
    /// # Errors
    /// [`Compacted`] when `from` is older than what is kept.
    pub fn changes_since(&self, from: u64) -> Result<Changes, Compacted> {
        let ring = lock(&self.ring);
        if from < ring.floor {
            return Err(Compacted { floor: ring.floor });
        }
        let start = ring.records.partition_point(|(index, _)| *index <= from);
        let mut seen = BTreeSet::new();
        let mut changed: Vec<Changed> = Vec::new();
        for (_, change) in ring.records.range(start..).rev() {
            if seen.insert(change) {
                changed.push(change.clone());
            }
        }
        changed.reverse();
        Ok(Changes {
            index: ring.index.max(from),
            changed,
        })
    }

    /// The effects since the last call, and whether some were dropped because they were too many.
    pub fn take_effects(&self) -> (Vec<Effect>, bool) {
        let mut queue = lock(&self.effects);
        let overflowed = std::mem::take(&mut queue.overflowed);
        (std::mem::take(&mut queue.effects), overflowed)
    }

    /// Returns when there may be effects to take.
    pub async fn effects_ready(&self) {
        self.effects_ready.notified().await;
    }
}

impl Ring {
    fn push(&mut self, applied: u64, changes: Vec<(u64, Changed)>) {
        self.records.extend(changes);
        while self.records.len() > WATCH_WINDOW {
            if let Some((index, _)) = self.records.pop_front() {
                self.floor = self.floor.max(index);
            }
        }
        self.index = self.index.max(applied);
    }
}

impl EffectQueue {
    /// Whether there is something to take.
    fn push(&mut self, effects: Vec<Effect>, term: Option<u64>) -> bool {
        if self.term != term {
            // A new leader derives everything from the state.
            self.effects.clear();
            self.overflowed = false;
            self.term = term;
        }
        if term.is_none() || effects.is_empty() {
            return false;
        }
        if self.effects.len() + effects.len() > EFFECTS_MAX {
            self.effects.clear();
            self.overflowed = true;
        } else {
            self.effects.extend(effects);
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change under these locks leaves them consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u64) -> Changed {
        Changed::Job(JobId::new(1, number))
    }

    fn published(published: &Published, applied: u64, changes: Vec<(u64, Changed)>) {
        let group = Group {
            changes,
            ..Group::default()
        };
        published.publish(&State::new(), applied, group, None);
    }

    #[test]
    fn changes_come_once_and_in_order_of_the_last() {
        let shown = Published::new(State::new());
        published(&shown, 3, vec![(1, job(1)), (2, job(2)), (3, job(1))]);
        published(&shown, 5, Vec::new());
        for (from, want) in [
            (0, vec![job(2), job(1)]),
            (1, vec![job(2), job(1)]),
            (2, vec![job(1)]),
            (3, vec![]),
        ] {
            let got = shown.changes_since(from).expect("kept");
            assert_eq!((got.index, got.changed), (5, want), "from {from}");
        }
    }

    #[test]
    fn what_is_too_old_is_said_to_be() {
        let shown = Published::new(State::new());
        let many = WATCH_WINDOW as u64 + 10;
        published(&shown, many, (1..=many).map(|n| (n, job(n))).collect());
        assert_eq!(shown.changes_since(9), Err(Compacted { floor: 10 }));
        let kept = shown.changes_since(10).expect("kept").changed.len();
        assert_eq!(kept, WATCH_WINDOW);
        shown.replace(&State::new(), many + 5);
        assert_eq!(
            shown.changes_since(many),
            Err(Compacted { floor: many + 5 })
        );
    }

    #[test]
    fn effects_are_for_one_term_and_bounded() {
        let shown = Published::new(State::new());
        let push = |count: usize, term| {
            let group = Group {
                effects: vec![Effect::Replan; count],
                ..Group::default()
            };
            shown.publish(&State::new(), 1, group, term);
        };
        push(2, None);
        assert_eq!(shown.take_effects(), (vec![], false));
        push(2, Some(4));
        push(1, Some(4));
        assert_eq!(shown.take_effects().0.len(), 3);
        push(2, Some(4));
        push(1, Some(5));
        assert_eq!(shown.take_effects().0.len(), 1);
        push(EFFECTS_MAX + 1, Some(5));
        assert_eq!(shown.take_effects(), (vec![], true));
        assert_eq!(shown.take_effects(), (vec![], false));
    }
}
