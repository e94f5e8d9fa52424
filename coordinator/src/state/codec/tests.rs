//! Tests of the codec: round trips, every kind of damage, and bytes that somebody made up.
use std::collections::BTreeMap;

use mlctl_proto::persist;
use mlctl_proto::spec::{Class, JobSpec};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::state::Body;
use crate::state::State;
use crate::state::commands::{
    ChangeSettings, ChangeTeams, Decide, DecisionEdit, NewMember, RemoveTeam, SetBudget,
    SetMaintenance, SetMembers, SetOwner, SetPause, SetPool, SetQuota, SetSched, SetTeam, TeamEdit,
};
use crate::state::invariants;
use crate::state::records::{
    Attempt, Automatic, Budget, BudgetAccount, Decision, EndKind, HistoryBatch, Idempotency, Job,
    Node, SchedKey, Settings, Spec, Target, Team, TeamLimit, TeamUsage, WhenExhausted, Window,
    Zone,
};
use crate::state::rules::taking::Taken;
use crate::state::testing::script::{histories, play};
use crate::state::testing::{Cluster, person, sealed, spec, system};
use crate::state::view::nodes::{Guests, Sharing};
use crate::state::view::teams::{Flavor, Limit};

/// A state with a row in every table.
fn rich() -> Cluster {
    let mut cluster = Cluster::new();
    for name in ["a", "b"] {
        cluster.gpu_node(name, 2);
    }
    let keyed = cluster.submit_keyed("ann", &["true"], [3; 16], [4; 32]);
    cluster.apply(&keyed);
    // Something is kept for a job, and that has left its marks on others.
    cluster.gpu_node("c", 1);
    let small = cluster.submitted("ann", 1, 1);
    cluster.started(small, &["c"]);
    let urgent = JobSpec {
        class: Class::High,
        ..spec(1, 1)
    };
    let urgent = cluster.submitted_spec("ann", &urgent);
    let preempt = cluster.preempt(urgent, &["c"], Taken::Entitlement);
    let applied = cluster.run(system(), Body::Preempt(preempt));
    assert_eq!(applied.refusal(), None);
    cluster.run(person("root", true), Body::ChangeTeams(teams()));
    cluster.run(person("root", true), Body::Decide(decisions()));
    let job = cluster.submitted("ann", 2, 1);
    let epoch = cluster.started(job, &["a", "b"]);
    cluster.event("a", job, epoch, sealed("step-1", 1));
    cluster.event("a", job, epoch, crate::state::testing::exit(0, 1, 0, false));
    cluster.ended("b", job, epoch, EndKind::Signalled);
    cluster
}

fn flavor(kind: &str, pool: Option<&str>) -> Flavor {
    Flavor {
        kind: kind.into(),
        pool: pool.map(Into::into),
    }
}

fn made(team: &str, limits: Vec<(TeamLimit, Option<u64>)>) -> TeamEdit {
    TeamEdit::Team(SetTeam {
        team: team.into(),
        weight: Some(3),
        limits,
        max_class: Some(Some(mlctl_proto::spec::Class::Critical)),
    })
}

fn quota(flavor: Flavor, nominal: Option<u64>, limits: [Option<Limit>; 3]) -> TeamEdit {
    let [borrow, lend, per_user] = limits;
    TeamEdit::Quota(SetQuota {
        team: "default".into(),
        flavor,
        nominal,
        borrow,
        lend,
        per_user,
        remove: nominal.is_none(),
    })
}

fn members(add: &[&str], remove: &[&str]) -> TeamEdit {
    let member = |name: &&str| NewMember {
        user_id: format!("id-{name}"),
        name: (*name).into(),
        default: true,
    };
    TeamEdit::Members(SetMembers {
        team: "default".into(),
        add: add.iter().map(member).collect(),
        remove: remove.iter().map(|name| format!("id-{name}")).collect(),
    })
}

fn budget(flavor: Flavor, budget: Option<(Window, WhenExhausted)>) -> TeamEdit {
    let budget = budget.map(|(window, when_exhausted)| Budget {
        limit: 1 << 50,
        window,
        when_exhausted,
        until_ms: 1 << 50,
    });
    TeamEdit::Budget(SetBudget {
        team: "default".into(),
        flavor,
        budget,
    })
}

/// Every kind of edit, with everything that there is to say.
fn teams() -> ChangeTeams {
    // With a limit of time, jobs would have to say how long they run.
    let every = TeamLimit::ALL.into_iter();
    let every = every.filter(|which| *which != TeamLimit::MaxTimeMs);
    let every = every.map(|which| (which, Some(1 << 40)));
    let zone = Zone {
        name: "Europe/Berlin".into(),
        offsets: vec![(0, 3_600), (5, -7_200)],
    };
    let here = || flavor("im", Some("default"));
    let rolling = Window::Rolling(9);
    let (units, all) = (Some(Limit::Units(70_000)), Some(Limit::Unlimited));
    let edits = vec![
        made("default", every.collect()),
        made("gone", vec![(TeamLimit::MaxPending, None)]),
        TeamEdit::Remove(RemoveTeam {
            team: "gone".into(),
        }),
        quota(flavor("sim", None), Some(70_000), [units, all, units]),
        quota(here(), Some(70_000), [all, units, all]),
        quota(here(), None, [None; 3]),
        members(&["ann", "bob"], &[]),
        members(&[], &["bob"]),
        budget(
            flavor("sim", None),
            Some((Window::Month(zone), WhenExhausted::Hold)),
        ),
        budget(here(), Some((rolling.clone(), WhenExhausted::LowPriority))),
        budget(flavor("si", None), Some((rolling, WhenExhausted::Stop))),
        budget(flavor("si", None), None),
    ];
    ChangeTeams { edits }
}

/// Every kind of edit, with everything that there is to say.
fn decisions() -> Decide {
    let reason = || "new switch".to_owned();
    let setting = |key, class, values: &[u64]| {
        let values = values.to_vec();
        DecisionEdit::Setting(SetSched { key, class, values })
    };
    let pause = |what, pool: &str, for_ms| {
        let (pool, reason) = (pool.to_owned(), reason());
        DecisionEdit::Pause(SetPause {
            what,
            pool,
            for_ms,
            reason,
        })
    };
    let maintain = |target| {
        let (from_ms, for_ms, reason) = (1 << 40, 1 << 20, reason());
        DecisionEdit::Maintenance(SetMaintenance {
            target,
            from_ms,
            for_ms,
            reason,
        })
    };
    let owner = |team: &str| {
        DecisionEdit::Owner(SetOwner {
            node: "a".into(),
            team: team.into(),
            guests: Guests::Any,
            guest_grace_ms: 5_000,
        })
    };
    let high = Some(mlctl_proto::spec::Class::High);
    let pool = SetPool {
        pool: "default".into(),
        teams: Some(vec!["default".into()]),
        classes: Some(vec![mlctl_proto::spec::Class::Normal]),
        max_time_ms: Some(0),
        sharing: Some(Sharing::Team),
    };
    let silent = SetPool {
        pool: "spot".into(),
        ..SetPool::default()
    };
    let mut edits = vec![
        setting(SchedKey::Policy, None, &[1]),
        setting(SchedKey::LasThresholds, None, &[1 << 20, 1 << 21]),
        setting(SchedKey::Grace, high, &[5_000]),
        setting(SchedKey::Hold, None, &[]),
        DecisionEdit::License("ansys".into(), Some(2)),
        DecisionEdit::License("gone".into(), None),
        maintain(Target::Node("a".into())),
        maintain(Target::Pool("default".into())),
        owner("default"),
        owner(""),
        owner("default"),
        DecisionEdit::Pool(pool),
        DecisionEdit::Pool(silent),
        DecisionEdit::Resume(Automatic::Power, String::new()),
    ];
    let pauses = Automatic::ALL.into_iter();
    edits.splice(0..0, pauses.map(|what| pause(what, "", 1 << 40)));
    // Of another pool: jobs start.
    edits[0] = pause(Automatic::Starts, "spot", 0);
    Decide { edits }
}

fn same(left: &State, right: &State) {
    assert_eq!(left.digest(), right.digest());
    assert_eq!(left.applied_index(), right.applied_index());
    assert_eq!(left.indexes(), right.indexes());
    assert!(left.rows().eq(right.rows()));
    assert_eq!(invariants::check(right), []);
}

#[test]
fn a_snapshot_comes_back_as_it_was() {
    let state = rich().state;
    let tables: std::collections::BTreeSet<u8> = state.rows().map(|(table, _, _)| table).collect();
    assert_eq!(tables.len(), 11, "every table is covered");
    let bytes = encode_snapshot(&state);
    same(
        &state,
        &decode_snapshot(&bytes).expect("it was just written"),
    );
    same(
        &State::new(),
        &decode_snapshot(&encode_snapshot(&State::new())).expect("an empty state is one"),
    );
    let mut rows: Vec<_> = state.rows().collect();
    rows.reverse();
    same(
        &state,
        &state_from_rows(state.applied_index(), rows.into_iter()).expect("in any order"),
    );
}

#[test]
fn a_team_as_it_was_before_there_was_more_to_say_is_read_and_written_as_it_was() {
    let before = persist::TeamRecord {
        version: 1,
        name: "default".into(),
        ..persist::TeamRecord::default()
    };
    let bytes = before.encode_to_vec();
    let team = Team::decode(&bytes).expect("it was written by an earlier release");
    assert_eq!(team, Team::new("default"));
    assert_eq!(team.encode(), bytes);
}

#[test]
fn all_that_is_said_of_teams_comes_back() {
    let cluster = rich();
    let team = cluster.state.team("default").expect("it is always there");
    assert_eq!(Team::decode(&team.encode()).as_ref(), Ok(team.as_ref()));
    assert!(team.weight == 3 && team.limits.len() == 5 && team.budgets.len() == 2);
    assert!(team.quotas.len() == 1 && team.user_caps.len() == 1 && team.members.len() == 1);
    let charged = cluster
        .state
        .attempts()
        .any(|attempt| !attempt.charges.is_empty());
    assert!(charged, "an attempt runs at the cost of a budget");
    let large = TeamUsage {
        team: "a".into(),
        user: "b".into(),
        usage: crate::state::records::Decayed {
            value: u128::MAX - 5,
            half_life: 9,
        },
    };
    assert_eq!(TeamUsage::decode(&large.encode()), Ok(large));
}

#[test]
fn every_decision_comes_back() {
    let state = rich().state;
    for decision in state.decisions() {
        assert_eq!(
            Decision::decode(&decision.encode()).as_ref(),
            Ok(decision.as_ref())
        );
    }
    // Three settings, one countable, three pauses, two times of maintenance, an owner, a pool.
    assert_eq!(state.decisions().count(), 11);
}

#[test]
fn no_flipped_and_no_missing_byte_goes_unseen() {
    let bytes = encode_snapshot(&rich().state);
    for at in 0..bytes.len() {
        assert!(decode_snapshot(&bytes[..at]).is_err(), "cut at {at}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(decode_snapshot(&flipped).is_err(), "flipped at {at}");
    }
    let longer = [bytes.as_slice(), &bytes[60..]].concat();
    assert!(decode_snapshot(&longer).is_err());
}

#[test]
fn sound_rows_of_another_state_are_refused() {
    // Header, checksum and every row are sound; the rows are only not those that the digest was taken of.
    let before = rich();
    let mut after = rich();
    let change = ChangeSettings {
        allow_root: Some(true),
        ..ChangeSettings::default()
    };
    after.run(person("root", true), Body::ChangeSettings(change));
    let (bytes, other) = (
        encode_snapshot(&before.state),
        encode_snapshot(&after.state),
    );
    const HEADER: usize = 8 + 4 + 8 + 8 + 32 + 8;
    assert_eq!(before.state.rows().count(), after.state.rows().count());
    let mixed = [&bytes[..HEADER], &other[HEADER..]].concat();
    let error = decode_snapshot(&mixed).expect_err("refused").to_string();
    assert!(error.contains("digest"), "{error}");
}

#[test]
fn rows_that_do_not_belong_are_refused() {
    let state = rich().state;
    let rows: Vec<_> = state.rows().collect();
    let check = |part: &str, spoil: &dyn Fn(&mut Vec<RawRow>)| {
        let mut rows = rows.clone();
        spoil(&mut rows);
        let error = state_from_rows(1, rows.into_iter())
            .expect_err(part)
            .to_string();
        assert!(error.contains(part), "{part}: {error}");
    };
    check("knows no such table", &|rows| rows[0].0 = 99);
    check("a key that is not its own", &|rows| rows[1].1.push(0));
    check("rows but no settings", &|rows| drop(rows.remove(0)));
    check("has no spec", &|rows| {
        rows.retain(|row| row.0 != Spec::TABLE)
    });
    check("has no job", &|rows| rows.retain(|row| row.0 != Job::TABLE));
    check("does not know", &|rows| {
        rows[1].2.extend_from_slice(&[0xf8, 0x07, 1])
    });
}

/// Found by the fuzz target `snapshot`.
#[test]
fn a_batch_of_history_at_the_end_of_the_numbers_is_refused() {
    let batch = |first_seq| HistoryBatch {
        first_seq,
        specs: BTreeMap::new(),
        jobs: Vec::new(),
    };
    assert!(HistoryBatch::decode(&batch(1).encode()).is_ok());
    for first_seq in [u64::MAX, (u64::MAX >> 1) + 1] {
        assert!(HistoryBatch::decode(&batch(first_seq).encode()).is_err());
        let one = [batch(first_seq)];
        assert!(decode_segment(&encode_segment(one.iter())).is_err());
    }
}

#[test]
fn what_another_release_wrote_is_an_error() {
    let check = |expected: &str, spoil: &dyn Fn(&mut persist::Command)| {
        let bytes = encode_command(&rich().log()[1]).expect("short");
        let mut command = persist::Command::decode(bytes.as_slice()).expect("it was just written");
        spoil(&mut command);
        let error = decode_command(&command.encode_to_vec())
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    };
    let facts = |command: &mut persist::Command, spoil: &dyn Fn(&mut persist::NodeFacts)| {
        let Some(persist::command::Body::RegisterNode(register)) = &mut command.body else {
            panic!("it registers a node")
        };
        spoil(register.facts.as_mut().expect("with facts"));
    };
    check("has version 2", &|command| command.version = 2);
    check("has version 0", &|command| command.version = 0);
    check("lacks its actor", &|command| command.actor = None);
    check("lacks its body", &|command| command.body = None);
    check("has 3 bytes", &|command| {
        command.key = Some(persist::IdempotencyKey {
            uuid: vec![1; 3],
            request_hash: vec![1; 32],
        });
    });
    check("isolation has the unknown value 77", &|command| {
        facts(command, &|facts| facts.isolation = 77)
    });
    check("lacks its addresses", &|command| {
        facts(command, &|facts| facts.addresses = None)
    });
    let record = persist::JobRecord {
        version: 9,
        ..persist::JobRecord::default()
    };
    assert!(matches!(
        Job::decode(&record.encode_to_vec()),
        Err(CodecError::Version { version: 9, .. })
    ));
    assert!(matches!(
        decode_command(&vec![0; COMMAND_BYTES_MAX + 1]),
        Err(CodecError::TooLong { .. })
    ));
}

fn decode_anything(bytes: &[u8]) {
    let _ = decode_command(bytes);
    let _ = decode_snapshot(bytes);
    let _ = Settings::decode(bytes);
    let _ = Team::decode(bytes);
    let _ = Node::decode(bytes);
    let _ = Spec::decode(bytes);
    let _ = Job::decode(bytes);
    let _ = Attempt::decode(bytes);
    let _ = Idempotency::decode(bytes);
    let _ = TeamUsage::decode(bytes);
    let _ = BudgetAccount::decode(bytes);
    let _ = Decision::decode(bytes);
    for table in (0..9).chain(30..32).chain(40..41) {
        let _ = state_from_rows(1, [(table, Vec::new(), bytes.to_vec())].into_iter());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        decode_anything(&bytes);
    }

    #[test]
    fn mutated_commands_are_refused_or_mean_what_they_say(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let cluster = rich();
        let mut bytes = encode_command(which.get(cluster.log())).expect("short");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        decode_anything(&bytes);
        if let Ok(command) = decode_command(&bytes) {
            let again = encode_command(&command).expect("no longer than it was");
            prop_assert_eq!(decode_command(&again), Ok(command.clone()));
            let mut state = cluster.state;
            state.apply(state.applied_index() + 1, &command);
            prop_assert_eq!(invariants::check(&state), []);
        }
    }

    #[test]
    fn a_snapshot_of_any_history_comes_back(history in histories(60)) {
        let state = play(&history, false).state;
        same(&state, &decode_snapshot(&encode_snapshot(&state)).expect("it was just written"));
    }
}
