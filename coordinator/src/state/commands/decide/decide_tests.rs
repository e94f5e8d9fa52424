//! What admins decide: who may, what makes no sense, and what it does to the state.
use mlctl_proto::errors::Code;
use mlctl_proto::spec::{Class, parse_toml};

use super::*;
use crate::state::records::{PoolRules, SchedKey, Target};
use crate::state::testing::{Cluster, person, system};
use crate::state::view::nodes::{Guests, Sharing};
use crate::state::view::policy::{Policy, SchedSettings};
use crate::state::{Applied, Body, Effect};

const HOUR_MS: u64 = 3_600_000;

fn set(key: SchedKey, values: &[u64]) -> DecisionEdit {
    let (class, values) = (None, values.to_vec());
    DecisionEdit::Setting(SetSched { key, class, values })
}

fn pause(what: Automatic, pool: &str, for_ms: u64) -> DecisionEdit {
    DecisionEdit::Pause(SetPause {
        what,
        pool: pool.into(),
        for_ms,
        reason: "new switch".into(),
    })
}

fn maintain(target: Target, from_ms: i64, for_ms: u64) -> DecisionEdit {
    DecisionEdit::Maintenance(SetMaintenance {
        target,
        from_ms,
        for_ms,
        reason: "new disks".into(),
    })
}

fn own(node: &str, team: &str) -> DecisionEdit {
    DecisionEdit::Owner(SetOwner {
        node: node.into(),
        team: team.into(),
        guests: Guests::Any,
        guest_grace_ms: 300_000,
    })
}

fn decide(cluster: &mut Cluster, edits: Vec<DecisionEdit>) -> Applied {
    cluster.run(person("root", true), Body::Decide(Decide { edits }))
}

fn told(applied: &Applied) -> (Vec<String>, Vec<String>) {
    let Reply::Decided { changes, notes } = &applied.reply else {
        panic!("{:?}", applied.reply)
    };
    let line = |one: &crate::state::records::TeamChange| {
        format!("{} {}: {} -> {}", one.team, one.what, one.before, one.after)
    };
    (changes.iter().map(line).collect(), notes.clone())
}

fn why(applied: &Applied) -> String {
    applied.refusal().expect("refused").message.clone()
}

#[test]
fn settings_reach_the_scheduler_and_go_back_to_what_is_shipped() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.state.scheduling(), SchedSettings::default());
    let high = DecisionEdit::Setting(SetSched {
        key: SchedKey::AgeLimit,
        class: Some(Class::High),
        values: vec![12 * HOUR_MS],
    });
    let edits = vec![
        set(SchedKey::Policy, &[1]),
        set(SchedKey::LasThresholds, &[HOUR_MS, 20 * HOUR_MS]),
        high,
    ];
    let applied = decide(&mut cluster, edits);
    assert_eq!(
        told(&applied).0,
        [
            "scheduling policy: fair -> las",
            "scheduling las_thresholds: 20h -> 1h,20h",
            "scheduling age_limit: 1d -> 1d,1d,12h,1d",
        ]
    );
    assert!(applied.effects.contains(&Effect::Replan));
    let settings = cluster.state.scheduling();
    assert_eq!(settings.policy, Policy::Las);
    assert_eq!(settings.age_limit_ms[2], 12 * HOUR_MS);
    assert_eq!(settings.las_thresholds, [HOUR_MS, 20 * HOUR_MS]);
    let back = [
        SchedKey::Policy,
        SchedKey::LasThresholds,
        SchedKey::AgeLimit,
    ];
    decide(&mut cluster, back.map(|key| set(key, &[])).to_vec());
    assert_eq!(cluster.state.scheduling(), SchedSettings::default());
    assert_eq!(cluster.state.decisions().count(), 0, "no row is left");
    let (changes, notes) = told(&decide(&mut cluster, vec![set(SchedKey::Policy, &[0])]));
    assert!(changes.is_empty() && notes == ["everything was so already"]);
}

#[test]
fn only_admins_decide() {
    let mut cluster = Cluster::new();
    for actor in [person("ann", false), system()] {
        let edits = vec![set(SchedKey::Policy, &[1])];
        let applied = cluster.run(actor, Body::Decide(Decide { edits }));
        assert_eq!(applied.refusal().map(|one| one.code), Some(Code::Denied));
    }
    assert_eq!(cluster.state.decisions().count(), 0);
}

/// Each is refused with these words, and changes nothing.
fn make_no_sense(cases: Vec<(DecisionEdit, &str)>) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    for (edit, part) in cases {
        cluster.now_ms += 10_000;
        // What is sound beside it is not done either.
        let applied = decide(&mut cluster, vec![set(SchedKey::Hold, &[5_000]), edit]);
        assert!(why(&applied).contains(part), "{part}: {}", why(&applied));
    }
    assert_eq!(cluster.state.decisions().count(), 0);
}

#[test]
fn settings_and_countables_that_make_no_sense_change_nothing() {
    let class = DecisionEdit::Setting(SetSched {
        key: SchedKey::Policy,
        class: Some(Class::Low),
        values: vec![1],
    });
    make_no_sense(vec![
        (set(SchedKey::Reservations, &[0]), "use 1 to 1000"),
        (set(SchedKey::Kill, &[u64::MAX]), "use 1s to 10m"),
        (
            set(SchedKey::DefaultTime, &[60_000]),
            "longer than `scheduling.default_time`",
        ),
        (class, "leave the class out"),
        (DecisionEdit::License("ansys".into(), Some(0)), "use 1 to"),
        (DecisionEdit::License("an sys".into(), Some(1)), "countable"),
    ]);
}

#[test]
fn pauses_and_maintenance_that_make_no_sense_change_nothing() {
    let silent = DecisionEdit::Pause(SetPause {
        what: Automatic::Starts,
        pool: String::new(),
        for_ms: 0,
        reason: " ".into(),
    });
    let node = || Target::Node("a".into());
    make_no_sense(vec![
        (silent, "--reason"),
        (pause(Automatic::Starts, "a/b", 0), "the pool"),
        (pause(Automatic::Starts, "", u64::MAX), "after all time"),
        (
            DecisionEdit::Resume(Automatic::Starts, String::new()),
            "not paused",
        ),
        (maintain(Target::Node("z".into()), 0, HOUR_MS), "no node z"),
        (maintain(node(), 0, 0), "maintenance takes 1s to"),
        (maintain(node(), 0, u64::MAX), "maintenance takes 1s to"),
        (maintain(node(), i64::MAX, HOUR_MS), "after all time"),
        (maintain(node(), 1, 1_000), "lies ahead"),
        (DecisionEdit::Cancel(7), "no maintenance 7"),
    ]);
}

#[test]
fn owners_and_pools_that_make_no_sense_change_nothing() {
    let pool = |set: SetPool| {
        DecisionEdit::Pool(SetPool {
            pool: "default".into(),
            ..set
        })
    };
    let nobodys = pool(SetPool {
        teams: Some(vec!["nobody".to_owned()]),
        ..SetPool::default()
    });
    let short = pool(SetPool {
        max_time_ms: Some(5),
        ..SetPool::default()
    });
    make_no_sense(vec![
        (own("z", "default"), "no node z"),
        (own("a", "nobody"), "no team `nobody`"),
        (nobodys, "no team `nobody`"),
        (short, "use 1s to 366d"),
    ]);
}

#[test]
fn a_request_changes_something_and_not_too_much() {
    let mut cluster = Cluster::new();
    let none = decide(&mut cluster, vec![]);
    assert_eq!(why(&none), "the request changes nothing");
    let many = vec![set(SchedKey::Policy, &[1]); DECISION_EDITS_MAX + 1];
    assert!(why(&decide(&mut cluster, many)).contains("several requests"));
    assert_eq!(cluster.state.decisions().count(), 0);
}

#[test]
fn a_pause_ends_by_itself_in_state_time_and_is_forgotten_with_the_next_change() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let applied = decide(&mut cluster, vec![pause(Automatic::Starts, "", HOUR_MS)]);
    let (changes, _) = told(&applied);
    assert!(
        changes[0].starts_with("everywhere starts:  -> paused until ")
            && changes[0].ends_with("(root: new switch)"),
        "{changes:?}"
    );
    let now_ms = cluster.now_ms;
    let end = now_ms + 3_600_000;
    let holds = |cluster: &Cluster, at| cluster.state.paused(Automatic::Starts, "x", at).is_some();
    assert!(holds(&cluster, now_ms) && holds(&cluster, end - 1) && !holds(&cluster, end));
    assert_eq!(cluster.state.next_decision_ms(now_ms), Some(end));
    assert_eq!(
        cluster.state.paused(Automatic::Preemption, "", now_ms),
        None
    );
    let none = [Automatic::Preemption, Automatic::Health, Automatic::Power];
    decide(
        &mut cluster,
        none.map(|what| pause(what, "default", 0)).to_vec(),
    );
    assert_eq!(cluster.state.pauses(cluster.now_ms).count(), 4);
    cluster.now_ms = end;
    decide(
        &mut cluster,
        vec![DecisionEdit::Resume(Automatic::Power, "default".into())],
    );
    assert_eq!(
        cluster.state.decisions().count(),
        2,
        "the one that is over is gone"
    );
}

#[test]
fn starts_are_refused_while_they_are_paused_in_that_pool_and_nothing_else_is() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    let mut other = crate::state::testing::node("b", 2, "SIM");
    other.facts.pool = "spot".into();
    cluster.register(&other);
    let jobs: Vec<_> = (0..3).map(|_| cluster.submitted("ann", 1, 1)).collect();
    decide(&mut cluster, vec![pause(Automatic::Starts, "spot", 0)]);
    let refused = |cluster: &mut Cluster, job, node| {
        let start = cluster.start(job, &[node]);
        let applied = cluster.propose(vec![start]);
        assert!(
            !applied.effects.contains(&Effect::Replan),
            "it would be refused again"
        );
        let Reply::Started { refused, .. } = applied.reply else {
            panic!("{:?}", applied.reply)
        };
        refused
            .into_iter()
            .map(|(_, why)| why)
            .next()
            .unwrap_or_default()
    };
    let why = refused(&mut cluster, jobs[0], "b");
    assert!(
        why.starts_with("StartsPaused: starts are paused in pool spot"),
        "{why}"
    );
    assert_eq!(refused(&mut cluster, jobs[0], "a"), "");
    decide(&mut cluster, vec![pause(Automatic::Starts, "", 0)]);
    assert!(
        refused(&mut cluster, jobs[1], "a").starts_with("StartsPaused: starts are paused until")
    );
    let cancel = crate::state::commands::CancelJobs::of(vec![jobs[1]]);
    let applied = cluster.run(person("ann", false), Body::CancelJobs(cancel));
    assert!(applied.refusal().is_none(), "what people do goes on");
    let everywhere = DecisionEdit::Resume(Automatic::Starts, String::new());
    let note = told(&decide(&mut cluster, vec![everywhere])).1;
    assert_eq!(note, Vec::<String>::new());
    cluster.started(jobs[2], &["a"]);
}

#[test]
fn countables_are_never_exceeded_and_one_job_holds_them_once() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    let spec = |needs: u32| {
        let text = format!("command = ['x']\ngpus = 1\nlicenses = {{ ansys = {needs} }}");
        parse_toml(&text).expect("sound")
    };
    let submit = |cluster: &mut Cluster, needs| {
        let body = crate::state::testing::submit_body(&spec(needs));
        cluster.run(person("ann", false), body)
    };
    let unknown = submit(&mut cluster, 1);
    assert_eq!(unknown.refusal().map(|one| one.code), Some(Code::NeverFits));
    decide(
        &mut cluster,
        vec![DecisionEdit::License("ansys".into(), Some(3))],
    );
    assert_eq!(
        submit(&mut cluster, 4).refusal().map(|one| one.code),
        Some(Code::NeverFits)
    );
    let first = cluster.submitted_spec("ann", &spec(2));
    let second = cluster.submitted_spec("bob", &spec(2));
    let third = cluster.submitted_spec("bob", &spec(1));
    let epoch = cluster.started(first, &["a"]);
    let start = cluster.start(second, &["a"]);
    let Reply::Started { refused, .. } = cluster.propose(vec![start]).reply else {
        panic!("it is a plan")
    };
    assert_eq!(
        refused[0].1,
        "Licenses: it needs 2 ansys, and 1 of 3 are free"
    );
    cluster.started(third, &["a"]);
    assert_eq!(cluster.state.licenses().get("ansys"), Some(&(3, 3)));
    let (_, notes) = told(&decide(
        &mut cluster,
        vec![DecisionEdit::License("ansys".into(), Some(2))],
    ));
    assert!(
        notes[0].contains("hold 3 of `ansys`: nothing is ended"),
        "{notes:?}"
    );
    cluster.ended("a", first, epoch, crate::state::records::EndKind::Exited);
    assert_eq!(cluster.state.licenses().get("ansys"), Some(&(2, 1)));
}

#[test]
fn a_node_that_will_be_maintained_takes_only_what_ends_before() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    let from_ms = cluster.now_ms + 7_200_000;
    let applied = decide(
        &mut cluster,
        vec![maintain(Target::Pool("default".into()), from_ms, HOUR_MS)],
    );
    let (changes, _) = told(&applied);
    assert!(
        changes[0].starts_with("pool default maintenance "),
        "{changes:?}"
    );
    let spec =
        |text: &str| parse_toml(&format!("command = ['x']\ngpus = 1\n{text}")).expect("sound");
    let short = cluster.submitted_spec("ann", &spec("time = '1h'"));
    let long = cluster.submitted_spec("ann", &spec("time = '3h'"));
    let open = cluster.submitted_spec("ann", &spec(""));
    let guest = cluster.submitted_spec("ann", &spec("preemptible = true"));
    let tried = |cluster: &mut Cluster, job| {
        let start = cluster.start(job, &["a"]);
        match cluster.propose(vec![start]).reply {
            Reply::Started { refused, .. } => refused.first().map(|(_, why)| why.clone()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tried(&mut cluster, short), None);
    for job in [long, open] {
        let why = tried(&mut cluster, job).expect("refused");
        assert!(
            why.starts_with("Maintenance: node a is maintained from"),
            "{why}"
        );
    }
    assert_eq!(tried(&mut cluster, guest), None);
    cluster.now_ms = from_ms;
    let guest = cluster.submitted_spec("ann", &spec("preemptible = true\ntime = '1m'"));
    assert!(tried(&mut cluster, guest).is_some(), "nobody begins in it");
    let id = cluster.state.maintenance().next().expect("one").id;
    decide(&mut cluster, vec![DecisionEdit::Cancel(id)]);
    assert_eq!(tried(&mut cluster, guest), None);
    let again = maintain(Target::Node("a".into()), 0, HOUR_MS);
    let (_, notes) = told(&decide(&mut cluster, vec![again.clone(), again]));
    assert!(
        notes[0].contains("3 allocations run there now"),
        "{notes:?}"
    );
    let ids: Vec<u64> = cluster.state.maintenance().map(|one| one.id).collect();
    assert!(ids.len() == 2 && ids[0] > id && ids[1] > ids[0], "{ids:?}");
}

/// Two nodes; ann is in a team below acme, and bob is in none of theirs.
fn acme() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    cluster.gpu_node("b", 4);
    let team = |name: &str| {
        let set = crate::state::commands::SetTeam {
            team: name.into(),
            ..Default::default()
        };
        crate::state::commands::TeamEdit::Team(set)
    };
    let members = crate::state::commands::TeamEdit::Members(crate::state::commands::SetMembers {
        team: "acme/vision".into(),
        add: vec![crate::state::commands::NewMember {
            user_id: "id-ann".into(),
            name: "ann".into(),
            default: true,
        }],
        remove: Vec::new(),
    });
    let edits = vec![team("acme"), team("acme/vision"), members];
    let change = crate::state::commands::ChangeTeams { edits };
    let applied = cluster.run(person("root", true), Body::ChangeTeams(change));
    assert_eq!(applied.refusal(), None);
    cluster
}

/// The word for which a job of one GPU does not start on a node; empty: it starts.
fn tried(cluster: &mut Cluster, user: &str, node: &str, text: &str) -> String {
    let spec = parse_toml(&format!("command = ['x']\ngpus = 1\n{text}")).expect("sound");
    let job = cluster.submitted_spec(user, &spec);
    let start = cluster.start(job, &[node]);
    match cluster.propose(vec![start]).reply {
        Reply::Started { refused, .. } => {
            let word = refused.first().and_then(|(_, why)| why.split(':').next());
            word.unwrap_or("").to_owned()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_that_a_team_owns_takes_others_as_its_guests_or_not_at_all() {
    let mut cluster = acme();
    let owner = |guests| {
        DecisionEdit::Owner(SetOwner {
            node: "a".into(),
            team: "acme".into(),
            guests,
            guest_grace_ms: 0,
        })
    };
    decide(&mut cluster, vec![owner(Guests::Preemptible)]);
    assert_eq!(
        tried(&mut cluster, "ann", "a", ""),
        "",
        "a team in it is the owner too"
    );
    assert_eq!(tried(&mut cluster, "bob", "a", ""), "NodeOwned");
    assert_eq!(tried(&mut cluster, "bob", "a", "preemptible = true"), "");
    decide(&mut cluster, vec![owner(Guests::None)]);
    assert_eq!(
        tried(&mut cluster, "bob", "a", "preemptible = true"),
        "NodeOwned"
    );
}

#[test]
fn a_pool_with_rules_takes_only_what_they_allow() {
    let mut cluster = acme();
    let pool = SetPool {
        pool: "default".into(),
        teams: Some(vec!["default".into(), "acme".into(), "acme".into()]),
        classes: Some(vec![Class::Normal, Class::Low]),
        max_time_ms: Some(HOUR_MS),
        sharing: Some(Sharing::Team),
    };
    let (changes, _) = told(&decide(&mut cluster, vec![DecisionEdit::Pool(pool)]));
    assert_eq!(
        changes,
        [
            "pool default teams:  -> acme,default",
            "pool default classes:  -> low,normal",
            "pool default max_time:  -> 1h",
            "pool default share:  -> team",
        ]
    );
    assert_eq!(tried(&mut cluster, "bob", "b", ""), "PoolTime");
    assert_eq!(tried(&mut cluster, "bob", "b", "time = '2h'"), "PoolTime");
    assert_eq!(
        tried(&mut cluster, "bob", "b", "time = '1h'\nclass = 'high'"),
        "PoolClasses"
    );
    assert_eq!(tried(&mut cluster, "bob", "b", "time = '1h'"), "");
    let few = SetPool {
        pool: "default".into(),
        teams: Some(vec!["acme/vision".into()]),
        ..SetPool::default()
    };
    decide(&mut cluster, vec![DecisionEdit::Pool(few)]);
    assert_eq!(tried(&mut cluster, "bob", "b", "time = '1h'"), "PoolTeams");
    assert_eq!(tried(&mut cluster, "ann", "b", "time = '1h'"), "");
    let kept: Option<&PoolRules> = cluster.state.pool_rules("default");
    assert_eq!(
        kept.map(|rules| rules.max_time_ms),
        Some(HOUR_MS),
        "what is not named stays"
    );
}

#[test]
fn another_half_life_counts_from_now_on() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let job = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(job, &["a"]);
    cluster.now_ms += 3_600_000;
    cluster.ended("a", job, epoch, crate::state::records::EndKind::Exited);
    let used = |cluster: &Cluster| {
        let team = cluster.state.team("default").expect("there");
        cluster.state.team_view(team).usage >> 16
    };
    let before = used(&cluster);
    assert!(before > 7_000 * 3_000, "{before}");
    decide(&mut cluster, vec![set(SchedKey::HalfLife, &[2 * HOUR_MS])]);
    assert!(used(&cluster).abs_diff(before) <= 1);
    assert_eq!(cluster.state.half_life_ms(), 7_200_000);
    cluster.now_ms += 7_200_000;
    cluster.submitted("ann", 1, 0);
    let half = used(&cluster);
    assert!(
        half.abs_diff(before / 2) < before / 1_000,
        "{half} of {before}"
    );
}

#[test]
fn critical_is_for_admins_and_for_teams_that_may() {
    let mut cluster = Cluster::new();
    let spec = parse_toml("command = ['x']\nclass = 'critical'").expect("sound");
    let submit = |cluster: &mut Cluster, user: &str, admin| {
        let body = crate::state::testing::submit_body(&spec);
        let applied = cluster.run(person(user, admin), body);
        applied.refusal().map(|one| (one.code, one.message.clone()))
    };
    let (code, why) = submit(&mut cluster, "ann", false).expect("refused");
    assert_eq!(code, Code::Denied);
    assert!(
        why.contains("at most high") && why.contains("--max-class critical"),
        "{why}"
    );
    assert_eq!(submit(&mut cluster, "root", true), None);
    let most = |cluster: &mut Cluster, class| {
        let set = crate::state::commands::SetTeam {
            team: "default".into(),
            max_class: Some(class),
            ..Default::default()
        };
        let edits = vec![crate::state::commands::TeamEdit::Team(set)];
        let change = crate::state::commands::ChangeTeams { edits };
        cluster.run(person("root", true), Body::ChangeTeams(change));
    };
    most(&mut cluster, Some(Class::Critical));
    assert_eq!(submit(&mut cluster, "ann", false), None);
    most(&mut cluster, None);
    assert!(submit(&mut cluster, "ann", false).is_some());
}
