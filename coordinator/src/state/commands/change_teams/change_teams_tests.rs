//! Teams in a small cluster: edits in force at once, starts within quotas and budgets, and what is given back. Every invariant is checked after each
//! command, I10 among them.
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::{JobSpec, Time};

use super::*;
use crate::state::Body;
use crate::state::commands::RenewCharges;
use crate::state::records::{
    Budget, EndKind, JobState, TeamChange, TeamLimit, WhenExhausted, Window, Zone,
};
use crate::state::testing::{Cluster, person, spec, submit_body, system};
use crate::state::view::amounts::GPU;

pub(super) const HOUR: i64 = 3_600_000;
pub(super) const GPU_HOUR: u64 = GPU * 3_600_000;

pub(super) fn sim() -> Flavor {
    Flavor {
        kind: "sim".into(),
        pool: None,
    }
}

fn made(team: &str) -> TeamEdit {
    limited(team, &[])
}

fn limited(team: &str, limits: &[(TeamLimit, u64)]) -> TeamEdit {
    TeamEdit::Team(SetTeam {
        team: team.into(),
        weight: None,
        limits: limits
            .iter()
            .map(|(which, most)| (*which, Some(*most)))
            .collect(),
        max_class: None,
    })
}

fn quota(team: &str, gpus: u64, borrow: u64) -> TeamEdit {
    TeamEdit::Quota(SetQuota {
        team: team.into(),
        flavor: sim(),
        nominal: Some(gpus * GPU),
        borrow: Some(Limit::Units(borrow * GPU)),
        lend: None,
        per_user: None,
        remove: false,
    })
}

fn members(team: &str, names: &[&str]) -> TeamEdit {
    let member = |name: &&str| NewMember {
        user_id: format!("id-{name}"),
        name: (*name).into(),
        default: false,
    };
    TeamEdit::Members(SetMembers {
        team: team.into(),
        add: names.iter().map(member).collect(),
        remove: Vec::new(),
    })
}

pub(super) fn budget(team: &str, gpu_hours: u64, when_exhausted: WhenExhausted) -> TeamEdit {
    TeamEdit::Budget(SetBudget {
        team: team.into(),
        flavor: sim(),
        budget: Some(Budget {
            limit: gpu_hours * GPU_HOUR,
            window: Window::Month(Zone::utc()),
            when_exhausted,
            until_ms: 0,
        }),
    })
}

/// Changes teams as an admin; gives what was said.
pub(super) fn change(
    cluster: &mut Cluster,
    edits: Vec<TeamEdit>,
) -> (Vec<TeamChange>, Vec<String>) {
    let body = Body::ChangeTeams(ChangeTeams { edits });
    match cluster.run(person("root", true), body).reply {
        Reply::TeamsChanged { changes, notes } => (changes, notes),
        other => panic!("{other:?}"),
    }
}

fn refused(cluster: &mut Cluster, edits: Vec<TeamEdit>) -> Refusal {
    let body = Body::ChangeTeams(ChangeTeams { edits });
    let applied = cluster.run(person("root", true), body);
    applied.refusal().cloned().expect("it is refused")
}

/// Why a start is refused, if it is.
pub(super) fn start(cluster: &mut Cluster, job: JobId, nodes: &[&str]) -> Option<String> {
    let start = cluster.start(job, nodes);
    match cluster.propose(vec![start]).reply {
        Reply::Started { refused, .. } => refused.into_iter().next().map(|(_, why)| why),
        other => panic!("{other:?}"),
    }
}

/// Two teams in one, of four GPUs each, on two nodes of four.
pub(super) fn acme() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    cluster.gpu_node("b", 4);
    let edits = vec![
        made("acme"),
        made("acme/nlp"),
        made("acme/vision"),
        quota("acme", 8, 0),
        quota("acme/nlp", 4, 2),
        quota("acme/vision", 4, 2),
        members("acme/nlp", &["ann"]),
        members("acme/vision", &["bob"]),
    ];
    change(&mut cluster, edits);
    cluster
}

#[test]
fn only_admins_change_teams_and_all_edits_are_done_or_none() {
    let mut cluster = Cluster::new();
    for actor in [person("ann", false), system()] {
        let edits = vec![made("t")];
        let applied = cluster.run(actor, Body::ChangeTeams(ChangeTeams { edits }));
        assert_eq!(
            applied.refusal().map(|refusal| refusal.code),
            Some(Code::Denied)
        );
    }
    let why = refused(&mut cluster, vec![made("t"), made("x/y")]);
    assert!(why.message.contains("no team `x` for `x/y`"), "{why}");
    assert!(cluster.state.team("t").is_none());
    // A parent may come after its child: what counts is the whole.
    change(&mut cluster, vec![made("x/y"), made("x")]);
    assert_eq!(refused(&mut cluster, Vec::new()).code, Code::BadRequest);
    let (changes, notes) = change(&mut cluster, vec![made("x")]);
    assert_eq!(
        (changes.len(), notes.as_slice()),
        (0, &["everything was so already".to_owned()][..])
    );
    let why = refused(&mut cluster, vec![quota("x", 4, 0), quota("x/y", 5, 0)]);
    assert!(
        why.message
            .contains("`x/y` 5 of them, more than the 4 of `x`"),
        "{why}"
    );
    let many = (0..10_001)
        .map(|number| made(&format!("t{number}")))
        .collect();
    assert!(
        refused(&mut cluster, many)
            .message
            .contains("teams are too many")
    );
    let many = vec![made("t"); TEAM_EDITS_MAX + 1];
    assert_eq!(refused(&mut cluster, many).code, Code::LimitExceeded);
}

#[test]
fn a_million_teams_do_not_fit_into_one_request() {
    let edits: Vec<TeamEdit> = (0..1_000_000)
        .map(|number| made(&format!("t{number}")))
        .collect();
    let command = crate::state::testing::command(
        person("root", true),
        1,
        Body::ChangeTeams(ChangeTeams { edits }),
    );
    assert!(crate::state::codec::encode_command(&command).is_err());
}

#[test]
fn jobs_go_to_the_team_of_their_owner_or_to_one_that_takes_him() {
    let mut cluster = acme();
    let job = cluster.submitted("ann", 1, 1);
    assert_eq!(cluster.job(job).team, "acme/nlp");
    let job = cluster.submitted("eve", 1, 1);
    assert_eq!(cluster.job(job).team, "default", "nobody is named there");
    let named = |team: &str| JobSpec {
        team: Some(team.into()),
        ..spec(1, 1)
    };
    for (user, team, part) in [
        (
            "ann",
            "acme/vision",
            "`mlctl team add-user acme/vision id-ann`, or submit with --team acme/nlp",
        ),
        ("ann", "none", "there is no team `none`"),
    ] {
        let applied = cluster.run(person(user, false), submit_body(&named(team)));
        let why = applied.refusal().expect("refused").message.clone();
        assert!(why.contains(part), "{why}");
    }
    change(&mut cluster, vec![members("default", &["eve"])]);
    let applied = cluster.run(person("zoe", false), submit_body(&spec(1, 1)));
    let why = applied.refusal().expect("refused").message.clone();
    assert!(why.contains("zoe is no member of team default"), "{why}");
}

#[test]
fn a_team_borrows_what_the_other_leaves_and_no_more() {
    let mut cluster = acme();
    let jobs: Vec<JobId> = (0..7).map(|_| cluster.submitted("ann", 1, 1)).collect();
    for (number, job) in jobs.iter().enumerate() {
        let node = if number < 4 { "a" } else { "b" };
        let why = start(&mut cluster, *job, &[node]);
        assert_eq!(why.is_some(), number == 6, "{number}: {why:?}");
        if let Some(why) = why {
            assert_eq!(
                why,
                "quota of team acme/nlp: 6 SIM in use or kept + 1 asked for > 4 of its own + 2 borrowed"
            );
        }
    }
    let bob: Vec<JobId> = (0..3).map(|_| cluster.submitted("bob", 1, 1)).collect();
    assert_eq!(start(&mut cluster, bob[0], &["b"]), None);
    assert_eq!(start(&mut cluster, bob[1], &["b"]), None);
    cluster.gpu_node("c", 4);
    let why = start(&mut cluster, bob[2], &["c"]).expect("acme has eight");
    assert!(why.starts_with("quota of team acme: 8 SIM in use"), "{why}");
    // One plan is checked start by start.
    cluster.ended(
        "a",
        jobs[0],
        mlctl_proto::ids::Epoch::new(1, 1),
        EndKind::Exited,
    );
    let both = vec![
        cluster.start(bob[2], &["c"]),
        cluster.start(jobs[6], &["a"]),
    ];
    let reply = cluster.propose(both).reply;
    assert!(
        matches!(&reply, Reply::Started { jobs, refused } if jobs.len() == 1 && refused.len() == 1),
        "{reply:?}"
    );
}

#[test]
fn what_runs_counts_at_once_when_a_quota_is_set_or_lowered_and_nothing_is_ended() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    let jobs: Vec<JobId> = (0..3).map(|_| cluster.submitted("ann", 1, 1)).collect();
    cluster.started(jobs[0], &["a"]);
    cluster.started(jobs[1], &["a"]);
    let (_, notes) = change(&mut cluster, vec![quota("default", 1, 0)]);
    assert_eq!(
        notes,
        [
            "2 SIM are in use or kept in `default`, which may have 1 now: nothing is ended, and nothing more starts until less is in use"
        ]
    );
    assert!(start(&mut cluster, jobs[2], &["a"]).is_some());
    let running = cluster
        .state
        .jobs()
        .filter(|job| job.state == JobState::Starting);
    assert_eq!(running.count(), 2);
    let (_, notes) = change(&mut cluster, vec![quota("default", 3, 0)]);
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(start(&mut cluster, jobs[2], &["a"]), None);
}

#[test]
fn a_node_that_comes_back_with_other_devices_is_counted_as_what_it_is() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    let job = cluster.submitted("ann", 1, 2);
    cluster.started(job, &["a"]);
    change(&mut cluster, vec![quota("default", 2, 0)]);
    let held = |cluster: &Cluster| {
        let held = cluster.state.holdings().team("default");
        cluster.state.units_by_flavor(&held).get(&sim()).copied()
    };
    assert_eq!(held(&cluster), Some(2 * GPU));
    cluster.register(&crate::state::testing::node("a", 2, "NVIDIA H100"));
    assert_eq!(held(&cluster), None);
    cluster.register(&crate::state::testing::node("a", 2, "SIM"));
    assert_eq!(held(&cluster), Some(2 * GPU));
}

#[test]
fn limits_of_teams_and_users_hold() {
    let mut cluster = acme();
    let limits = [
        (TeamLimit::MaxPending, 5),
        (TeamLimit::UserMaxPending, 3),
        (TeamLimit::MaxRunning, 2),
        (TeamLimit::UserMaxRunning, 1),
        (TeamLimit::MaxTimeMs, 3_600_000),
    ];
    change(
        &mut cluster,
        vec![limited("acme", &limits), members("acme/nlp", &["cat"])],
    );
    let timed = |seconds: u64| JobSpec {
        time: Time::from_seconds(seconds),
        ..spec(1, 1)
    };
    let try_submit = |cluster: &mut Cluster, user: &str, spec: &JobSpec| {
        let applied = cluster.run(person(user, false), submit_body(spec));
        match applied.reply {
            Reply::Submitted { job } => Ok(job),
            Reply::Rejected(refusal) => Err(refusal.message),
            other => panic!("{other:?}"),
        }
    };
    let why = try_submit(&mut cluster, "ann", &spec(1, 1)).expect_err("it does not say how long");
    assert!(why.contains("set `time`"), "{why}");
    let why = try_submit(&mut cluster, "ann", &timed(3_601)).expect_err("too long");
    assert!(why.contains("`time` to no more"), "{why}");
    let one = timed(60);
    let ann: Vec<JobId> = (0..3)
        .map(|_| try_submit(&mut cluster, "ann", &one).expect("it may"))
        .collect();
    let cat: Vec<JobId> = (0..2)
        .map(|_| try_submit(&mut cluster, "cat", &one).expect("it may"))
        .collect();
    let why = try_submit(&mut cluster, "bob", &one).expect_err("five wait in acme");
    assert!(
        why.contains("5 tasks wait in team acme and 1 more would"),
        "{why}"
    );
    assert_eq!(start(&mut cluster, ann[0], &["a"]), None);
    let why = start(&mut cluster, ann[1], &["a"]).expect("ann runs one");
    assert!(why.contains("user_max_running"), "{why}");
    assert_eq!(start(&mut cluster, cat[0], &["a"]), None);
    let bob = try_submit(&mut cluster, "bob", &one).expect("two of five run");
    let why = start(&mut cluster, bob, &["a"]).expect("two run in acme");
    assert!(why.contains("`max_running`"), "{why}");
}

#[test]
fn one_user_holds_no_more_than_his_cap() {
    let mut cluster = acme();
    let cap = TeamEdit::Quota(SetQuota {
        team: "acme".into(),
        flavor: sim(),
        nominal: None,
        borrow: None,
        lend: None,
        per_user: Some(Limit::Units(2 * GPU)),
        remove: false,
    });
    change(&mut cluster, vec![cap]);
    let jobs: Vec<JobId> = (0..2).map(|_| cluster.submitted("ann", 1, 2)).collect();
    assert_eq!(start(&mut cluster, jobs[0], &["a"]), None);
    let why = start(&mut cluster, jobs[1], &["a"]).expect("two is the most");
    assert!(
        why.contains("one user may hold 2 SIM: this one holds 2, and would 2 more"),
        "{why}"
    );
}

#[test]
fn a_team_with_jobs_stays_and_one_without_goes_with_all_that_was_known_of_it() {
    let mut cluster = acme();
    change(
        &mut cluster,
        vec![budget("acme/nlp", 100, WhenExhausted::Hold)],
    );
    let job = cluster.submitted("ann", 1, 1);
    let remove = || {
        vec![TeamEdit::Remove(RemoveTeam {
            team: "acme/nlp".into(),
        })]
    };
    let why = refused(&mut cluster, remove());
    assert!(
        why.code == Code::Conflict && why.message.contains("1 jobs that are not over"),
        "{why}"
    );
    let epoch = cluster.started(job, &["a"]);
    cluster.now_ms += HOUR;
    cluster.ended("a", job, epoch, EndKind::Exited);
    assert!(cluster.state.rows().any(|(table, ..)| table == 30));
    change(&mut cluster, remove());
    assert!(
        !cluster
            .state
            .rows()
            .any(|(table, ..)| table == 30 || table == 31)
    );
    let retry = crate::state::commands::RetryJobs { jobs: vec![job] };
    let applied = cluster.run(person("ann", false), Body::RetryJobs(retry));
    let why = applied.refusal().expect("its team is gone").message.clone();
    assert!(why.contains("there is no team `acme/nlp`"), "{why}");
}

#[test]
fn random_teams_and_jobs_never_go_beyond_a_quota_or_a_budget() {
    for seed in 1..12_u64 {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = move |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % sides
        };
        let mut cluster = acme();
        for _ in 0..80 {
            let user = ["ann", "bob"][roll(2) as usize];
            let team = ["acme", "acme/nlp", "acme/vision"][roll(3) as usize];
            match roll(9) {
                0 | 1 => {
                    cluster.submitted(user, 1, 1 + roll(3) as u32);
                }
                2..=4 => {
                    let waiting: Vec<JobId> = cluster.state.pending().map(|job| job.id).collect();
                    let starts = waiting
                        .iter()
                        .take(3)
                        .map(|job| cluster.start(*job, &[["a", "b"][roll(2) as usize]]));
                    let starts = starts.collect();
                    cluster.propose(starts);
                }
                5 | 6 => {
                    let open: Vec<_> = (cluster.state.active_attempts())
                        .map(|one| (one.job, one.epoch, one.allocations[0].node.clone()))
                        .collect();
                    if let Some((job, epoch, node)) =
                        open.get(roll(open.len().max(1) as u64) as usize)
                    {
                        let kind = [EndKind::Exited, EndKind::NodeLost, EndKind::Preempted]
                            [roll(3) as usize];
                        cluster.ended(node, *job, *epoch, kind);
                    }
                }
                7 => {
                    let edit = match roll(2) {
                        0 => quota(team, roll(9), roll(4)),
                        _ => budget(
                            team,
                            1 + roll(20),
                            [WhenExhausted::Hold, WhenExhausted::Stop][roll(2) as usize],
                        ),
                    };
                    // Some are refused: children may have more than their parent.
                    cluster.run(
                        person("root", true),
                        Body::ChangeTeams(ChangeTeams { edits: vec![edit] }),
                    );
                }
                _ => {
                    cluster.now_ms += roll(4_000_000) as i64;
                    cluster.run(system(), Body::RenewCharges(RenewCharges { most: 2 }));
                }
            }
        }
    }
}
