//! Small scenes for tests.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus, Kind, Near, Prefer, Width};
use crate::state::view::jobs::{Class, Footing, Running, Seat, Waiting};
use crate::state::view::nodes::{DeviceView, NodeView, Open, Sharing};
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, Limit, Quota, TeamView};

/// A job's id.
pub fn id(number: u64) -> JobId {
    JobId::new(1, number)
}

/// The flavor of most tests.
pub fn h100() -> Flavor {
    Flavor {
        kind: "h100".into(),
        pool: None,
    }
}

/// So many nodes of so many whole GPUs each.
pub fn ask(nodes: u32, gpus: u32) -> Ask {
    Ask {
        nodes: Width::Exactly(nodes),
        gpus: if gpus == 0 {
            Gpus::None
        } else {
            Gpus::Whole(gpus)
        },
        ranks: gpus.max(1),
        amounts: None,
        kinds: Vec::new(),
        pools: Vec::new(),
        mix: false,
        near: Near::Prefer,
        prefer: Prefer::Type,
        licenses: Vec::new(),
        labels: Vec::new(),
    }
}

/// The same of these types.
pub fn of_kinds(ask: Ask, kinds: &[&str]) -> Ask {
    let kinds = kinds
        .iter()
        .map(|name| Kind {
            name: (*name).to_owned(),
            memory: 0,
        })
        .collect();
    Ask { kinds, ..ask }
}

/// A job of one GPU that waits.
pub fn waiting(number: u64) -> Waiting {
    Waiting {
        id: id(number),
        team: "a".into(),
        user: "ann".into(),
        class: Class::Normal,
        submit_ms: i64::try_from(number).unwrap_or(0),
        submit_index: number,
        eligible_ms: 0,
        ask: Arc::new(ask(1, 1)),
        limit_ms: None,
        preemptible: false,
        interactive: false,
        blocked: None,
        tasks: None,
        avoid: Vec::new(),
        rank_0: Vec::new(),
        attained: 0,
        ran_ms: 0,
        evicted_ms: Vec::new(),
        no_preempt_until_ms: 0,
        was_guest_taken: false,
    }
}

/// It runs, with those devices.
pub fn running(
    job: &Waiting,
    started_ms: i64,
    seats: Vec<Seat>,
    footing: Footing,
    surplus: u32,
) -> Running {
    Running {
        id: job.id,
        epoch: Epoch::new(1, 1),
        team: job.team.clone(),
        user: job.user.clone(),
        class: job.class,
        ask: job.ask.clone(),
        seats,
        submit_index: job.submit_index,
        started_ms,
        limit_ms: job.limit_ms,
        preemptible: job.preemptible,
        interactive: job.interactive,
        footing,
        saved_ms: None,
        ends_by_ms: None,
        surplus,
        attained: job.attained,
        ran_ms: job.ran_ms,
        waited_ms: 0,
        evicted_ms: job.evicted_ms.clone(),
        min_runtime_ms: 0,
    }
}

/// A node with free devices of one model.
pub fn node(name: &str, pool: &str, model: &str, devices: u16) -> NodeView {
    let device = |at: u16| DeviceView {
        uuid: format!("{name}-{at}").into(),
        model: model.into(),
        memory: 80 << 30,
        free: GPU as u32,
        slices: None,
        island: 0,
        numa: at / 4,
        shared_by: "".into(),
    };
    let has = Amounts {
        cpu_milli: u64::from(devices.max(2)) * 12_000,
        memory: u64::from(devices.max(2)) << 36,
        disk: 1 << 40,
        ranks: 0,
    };
    NodeView {
        name: name.into(),
        boot_id: "boot".into(),
        pool: pool.into(),
        network: "net".into(),
        racks: vec!["block".into(), "rack".into()],
        open: Open::Now,
        devices: (0..devices).map(device).collect(),
        has,
        free: has,
        owner: None,
        sharing: Sharing::User,
        labels: Arc::from([]),
        windows: Vec::new(),
    }
}

/// A team with nominals, in GPUs, and what it may borrow.
pub fn team(name: &str, quotas: &[(&str, u64, Limit)]) -> TeamView {
    let quota = |(kind, nominal, borrow): &(&str, u64, Limit)| {
        let flavor = Flavor {
            kind: (*kind).into(),
            pool: None,
        };
        (
            flavor,
            Quota {
                nominal: nominal * GPU,
                borrow: *borrow,
                lend: Limit::Unlimited,
            },
        )
    };
    TeamView {
        name: name.into(),
        weight: 1,
        quotas: quotas.iter().map(quota).collect(),
        own: BTreeMap::new(),
        usage: 0,
        users: BTreeMap::new(),
        budgets: BTreeMap::new(),
        max_running: None,
    }
}

/// Of nodes and teams.
pub fn scene(nodes: Vec<NodeView>, teams: Vec<TeamView>) -> Scene {
    Scene {
        nodes: nodes
            .into_iter()
            .map(|one| (one.name.clone(), Arc::new(one)))
            .collect(),
        teams: teams
            .into_iter()
            .map(|one| (one.name.clone(), Arc::new(one)))
            .collect(),
        ..Scene::default()
    }
}

/// One more job waits.
pub fn submit(scene: &mut Scene, job: Waiting) {
    scene
        .waiting
        .insert((job.submit_index, job.id), Arc::new(job));
}
