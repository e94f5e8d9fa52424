//! What the engine proposes on a state, apply takes: random clusters with teams that borrow, victims that end, jobs that come, go and change.
use std::collections::BTreeSet;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{Class, JobSpec};

use super::*;
use crate::scheduler::engine::propose;
use crate::scheduler::starts::starts;
use crate::state::Body;
use crate::state::commands::{
    CancelJobs, ChangeTeams, NewMember, SetMembers, SetQuota, SetTeam, StartAttempts, TeamEdit,
    Withdraw,
};
use crate::state::records::{EndKind, Reply};
use crate::state::testing::{Cluster, person, spec, system};
use crate::state::view::amounts::GPU;
use crate::state::view::teams::{Flavor, Limit};
use crate::state::view::{ClusterView, scene};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

const USERS: [(&str, &str); 3] = [("ann", "org/a"), ("bob", "org/b"), ("cem", "org/b/c")];

fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = Cluster::new();
    for name in ["n1", "n2", "n3"] {
        cluster.gpu_node(name, 4);
    }
    let made = |team: &str| {
        TeamEdit::Team(SetTeam {
            team: team.into(),
            weight: None,
            limits: Vec::new(),
            max_class: Some(Some(mlctl_proto::spec::Class::Critical)),
        })
    };
    let quota = |team: &str, gpus: u64| {
        TeamEdit::Quota(SetQuota {
            team: team.into(),
            flavor: Flavor {
                kind: "sim".into(),
                pool: None,
            },
            nominal: Some(gpus * GPU),
            borrow: Some(Limit::Unlimited),
            lend: None,
            per_user: None,
            remove: false,
        })
    };
    let mut edits: Vec<TeamEdit> = ["org", "org/a", "org/b", "org/b/c"].map(made).into();
    let (a, b) = (2 + dice.roll(5), 2 + dice.roll(5));
    edits.extend([quota("org", 12), quota("org/a", a), quota("org/b", b)]);
    edits.push(quota("org/b/c", dice.roll(b + 1)));
    for (user, team) in USERS {
        edits.push(TeamEdit::Members(SetMembers {
            team: team.into(),
            add: vec![NewMember {
                user_id: format!("id-{user}"),
                name: user.into(),
                default: true,
            }],
            remove: Vec::new(),
        }));
    }
    let body = Body::ChangeTeams(ChangeTeams { edits });
    assert_eq!(cluster.run(person("root", true), body).refusal(), None);
    cluster
}

fn submitted(cluster: &mut Cluster, dice: &mut Dice) {
    let nodes = 1 + u32::from(dice.roll(4) == 0);
    let gpus = 1 + u32::try_from(dice.roll(4)).expect("small");
    let (class, _) = Class::ALL[usize::try_from(dice.roll(4)).expect("small")];
    let spec = JobSpec {
        class,
        ..spec(nodes, gpus)
    };
    let (user, _) = USERS[usize::try_from(dice.roll(3)).expect("small")];
    cluster.submitted_spec(user, &spec);
}

/// Carries a proposal out as a leader does; how many preemptions that were.
fn carried(cluster: &mut Cluster) -> usize {
    let heard: BTreeSet<String> = (cluster.state.nodes())
        .map(|node| node.facts.name.clone())
        .collect();
    let view = ClusterView::new(cluster.state.clone(), heard);
    let now_ms = cluster.now_ms + 1;
    let scene = scene(&view, now_ms);
    let proposal = propose(&scene, now_ms);
    // All commands of one plan carry its time.
    let run = |cluster: &mut Cluster, body: Body| {
        cluster.now_ms = now_ms - 1;
        cluster.run(system(), body)
    };
    if !proposal.withdrawn.is_empty() {
        let jobs = proposal.withdrawn.clone();
        run(cluster, Body::Withdraw(Withdraw { jobs }));
    }
    let starts = starts(&view, &scene, &proposal.starts);
    assert_eq!(starts.len(), proposal.starts.len());
    let reply = run(cluster, Body::StartAttempts(StartAttempts { starts })).reply;
    let Reply::Started { refused, .. } = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(refused, []);
    let preempts = preemptions(&scene, &proposal.preemptions);
    assert_eq!(preempts.len(), proposal.preemptions.len());
    let count = preempts.len();
    for preempt in preempts {
        let applied = run(cluster, Body::Preempt(preempt.clone()));
        assert_eq!(applied.refusal(), None, "{preempt:?}");
    }
    count
}

fn some_end(cluster: &mut Cluster, dice: &mut Dice) {
    let open: Vec<(JobId, Epoch, Vec<String>, bool)> = (cluster.state.active_attempts())
        .map(|one| {
            let nodes = one.allocations.iter().filter(|part| part.end.is_none());
            let nodes = nodes.map(|part| part.node.clone()).collect();
            (one.job, one.epoch, nodes, one.stopping)
        })
        .collect();
    for (job, epoch, nodes, stopping) in open {
        let sides = if stopping { 2 } else { 12 };
        if dice.roll(sides) != 0 {
            continue;
        }
        let kind = match stopping {
            true => EndKind::Preempted,
            false => [EndKind::Exited, EndKind::Exited, EndKind::KeeperLost]
                [usize::try_from(dice.roll(3)).expect("small")],
        };
        for node in nodes {
            cluster.ended(&node, job, epoch, kind);
        }
    }
}

#[test]
fn what_the_engine_proposes_is_what_apply_takes() {
    let (mut preempted, mut started) = (0, 0);
    for seed in 1..40_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut cluster = cluster(&mut dice);
        for _ in 0..60 {
            match dice.roll(8) {
                0..=3 => submitted(&mut cluster, &mut dice),
                4 | 5 => some_end(&mut cluster, &mut dice),
                6 => cluster.now_ms += i64::try_from(dice.roll(20 * 60_000)).expect("small"),
                _ => {
                    let waiting: Vec<JobId> = cluster.state.pending().map(|job| job.id).collect();
                    let one = usize::try_from(dice.roll(20)).expect("small");
                    if let Some(job) = waiting.get(one) {
                        let body = Body::CancelJobs(CancelJobs::of(vec![*job]));
                        cluster.run(person("root", true), body);
                    }
                }
            }
            preempted += carried(&mut cluster);
        }
        started += cluster.state.attempts().filter(|one| one.took).count();
    }
    assert!(
        preempted > 100 && started > 50,
        "{preempted} preemptions, {started} started"
    );
}
