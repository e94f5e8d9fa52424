//! Random histories: every invariant after every command, and the same history gives the same state.
use proptest::prelude::*;

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
    use super::records::JobState;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut states = std::collections::BTreeSet::new();
    let (mut restarts, mut resumed, mut lost) = (0, 0, 0);
    let (mut doubtful, mut recalled) = (0, 0);
    let (mut tasks, mut returned) = (0, 0);
    let (mut retried, mut waited, mut avoided, mut anew) = (0, 0, 0, 0);
    let (mut held, mut followers, mut lowered) = (0, 0, 0);
    let (mut preempted, mut vain, mut took, mut kept, mut evicted) = (0, 0, 0, 0, 0);
    for _ in 0..300 {
        let history = histories(120)
            .new_tree(&mut runner)
            .expect("numbers can always be drawn")
            .current();
        let state = play(&history, false).state;
        states.extend(state.jobs().map(|job| job.state));
        restarts += state
            .jobs()
            .map(|job| job.infrastructure_restarts)
            .sum::<u32>();
        for job in state.jobs() {
            retried += job.retries.used;
            waited += job.retries.waits;
            avoided += job.retries.excluded.len();
            anew += usize::from(job.lineage.is_some());
            held += usize::from(job.turn.hold.is_some());
            followers += usize::from(!job.turn.after.is_empty());
            lowered += usize::from(job.turn.class == mlctl_proto::spec::Class::Low);
        }
        let settings = state.settings().expect("it was set up");
        preempted += settings.preemptions;
        vain += settings.preemptions_in_vain;
        took += state.attempts().filter(|one| one.took).count();
        kept += state.holds().count();
        evicted += (state.jobs().map(|job| job.marks.evicted_ms.len())).sum::<usize>();
        let dropped = |attempt: &&std::sync::Arc<super::records::Attempt>| {
            let end = attempt.end.as_ref();
            end.is_some_and(|end| end.kind == super::records::EndKind::Superseded)
        };
        recalled += state.attempts().filter(dropped).count();
        doubtful += state.attempts().filter(|one| one.in_doubt).count();
        resumed += state
            .attempts()
            .filter(|attempt| !attempt.resume_from.is_empty())
            .count();
        for array in state.jobs().filter_map(|job| job.array.as_deref()) {
            tasks += array.succeeded() + array.failed();
            returned += array.returned.len();
        }
        lost += state
            .nodes()
            .filter(|node| node.liveness == super::records::Liveness::Lost)
            .count();
    }
    let unreachable = [JobState::TimedOut];
    let missing: Vec<_> = JobState::ALL
        .into_iter()
        .filter(|state| !states.contains(state) && !unreachable.contains(state))
        .collect();
    assert_eq!(missing, []);
    assert!(
        tasks > 50 && returned > 5,
        "{tasks} tasks, {returned} returned"
    );
    assert!(
        retried > 20 && waited > 5 && avoided > 20 && anew > 5,
        "{retried} retried, {waited} waited, {avoided} avoided, {anew} submitted anew"
    );
    assert!(
        held > 2 && followers > 10 && lowered > 0,
        "{held} held, {followers} wait for others, {lowered} of another class"
    );
    assert!(
        preempted > 25 && vain > 10 && took > 5 && kept > 3 && evicted > 25,
        "{preempted} preemptions, {vain} in vain, {took} started, {kept} kept, {evicted} evicted"
    );
    assert!(
        restarts > 20 && resumed > 5 && lost > 20 && doubtful > 5 && recalled > 0,
        "{restarts} restarts, {resumed} resumed, {lost} lost, {doubtful} in doubt, {recalled} recalled"
    );
}
