//! Random histories: every invariant after every command, and the same history gives the same state.
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::records::{EndKind, JobState, Liveness};
use super::testing::script::{histories, play};
use super::{Row, State, codec};

proptest! {
    #[test]
    fn every_history_keeps_the_invariants_and_replays_to_the_same_state(history in histories(120)) {
        let cluster = play(&history, true);
        let mut replayed = State::new();
        let mut index = std::collections::BTreeMap::new();
        for (number, command) in cluster.log().iter().enumerate() {
            let applied = replayed.apply(number as u64 + 1, command);
            for Row { table, key, record } in applied.rows {
                match record {
                    Some(record) => index.insert((table, key), record),
                    None => index.remove(&(table, key)),
                };
            }
        }
        prop_assert_eq!(replayed.digest(), cluster.state.digest());
        prop_assert_eq!(replayed.applied_index(), cluster.state.applied_index());
        let rows = index.into_iter().map(|((table, key), record)| (table, key, record));
        let loaded = codec::state_from_rows(replayed.applied_index(), rows).expect("an index of every row is the state");
        prop_assert_eq!(loaded.digest(), replayed.digest(), "no row was forgotten");
    }
}

#[test]
fn an_entry_that_comes_late_changes_nothing() {
    let cluster = play(&[], true);
    let mut state = cluster.state.clone();
    let late = state.apply(1, &cluster.log()[0]);
    assert!(late.refusal().is_some());
    assert_eq!(state.applied_index(), cluster.state.applied_index());
    let command = cluster.submit("ann", &["true"]);
    let index = state.applied_index();
    assert!(
        state.apply(index, &command).refusal().is_none(),
        "several commands share one entry"
    );
    state.skip(index + 5);
    state.skip(index);
    assert_eq!(state.applied_index(), index + 5);
}

/// The property above is worth what the histories reach.
#[test]
fn histories_reach_what_matters() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut reach = Reach::default();
    for _ in 0..300 {
        let history = histories(120)
            .new_tree(&mut runner)
            .expect("numbers can always be drawn")
            .current();
        reach.count(&play(&history, false).state);
    }
    let unreachable = [JobState::TimedOut];
    let missing: Vec<_> = JobState::ALL
        .into_iter()
        .filter(|state| !reach.states.contains(state) && !unreachable.contains(state))
        .collect();
    assert_eq!(missing, []);
    reach.check();
}

/// What histories came to, counted over all of them.
#[derive(Debug, Default)]
struct Reach {
    states: BTreeSet<JobState>,
    restarts: u32,
    resumed: usize,
    lost: usize,
    doubtful: usize,
    recalled: usize,
    tasks: u64,
    returned: usize,
    retried: u32,
    waited: u32,
    avoided: usize,
    anew: usize,
    held: usize,
    followers: usize,
    lowered: usize,
    preempted: u64,
    vain: u64,
    took: usize,
    kept: usize,
    evicted: usize,
}

impl Reach {
    /// What a state holds at the end of its history.
    fn count(&mut self, state: &State) {
        for job in state.jobs() {
            self.states.insert(job.state);
            self.restarts += job.infrastructure_restarts;
            self.retried += job.retries.used;
            self.waited += job.retries.waits;
            self.avoided += job.retries.excluded.len();
            self.anew += usize::from(job.lineage.is_some());
            self.held += usize::from(job.turn.hold.is_some());
            self.followers += usize::from(!job.turn.after.is_empty());
            self.lowered += usize::from(job.turn.class == mlctl_proto::spec::Class::Low);
            self.evicted += job.marks.evicted_ms.len();
            if let Some(array) = job.array.as_deref() {
                self.tasks += array.succeeded() + array.failed();
                self.returned += array.returned.len();
            }
        }
        for attempt in state.attempts() {
            let end = attempt.end.as_ref();
            self.recalled += usize::from(end.is_some_and(|end| end.kind == EndKind::Superseded));
            self.doubtful += usize::from(attempt.in_doubt);
            self.resumed += usize::from(!attempt.resume_from.is_empty());
            self.took += usize::from(attempt.took);
        }
        let settings = state.settings().expect("it was set up");
        self.preempted += settings.preemptions;
        self.vain += settings.preemptions_in_vain;
        self.kept += state.holds().count();
        let lost = state.nodes().filter(|node| node.liveness == Liveness::Lost);
        self.lost += lost.count();
    }

    /// Enough of everything.
    fn check(&self) {
        assert!(self.tasks > 50 && self.returned > 5, "{self:?}");
        assert!(
            self.retried > 20 && self.waited > 5 && self.avoided > 20 && self.anew > 5,
            "{self:?}"
        );
        assert!(
            self.held > 2 && self.followers > 10 && self.lowered > 0,
            "{self:?}"
        );
        assert!(
            self.preempted > 25 && self.vain > 10 && self.took > 5,
            "{self:?}"
        );
        assert!(self.kept > 3 && self.evicted > 25, "{self:?}");
        assert!(
            self.restarts > 20 && self.resumed > 5 && self.lost > 20,
            "{self:?}"
        );
        assert!(self.doubtful > 5 && self.recalled > 0, "{self:?}");
    }
}
