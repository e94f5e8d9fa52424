//! What is listed and explained of teams, from states that commands have made.
use mlctl_proto::api;

use super::*;
use crate::state::testing::{Cluster, command, person};

fn quota(team: &str, gpus: u64, borrow: u64) -> api::TeamEdit {
    let set = api::SetQuota {
        team: team.into(),
        flavor: "SIM".into(),
        nominal: Some(gpus * GPU),
        borrow: Some(GpuLimit {
            units: Some(borrow * GPU),
        }),
        lend: None,
        per_user: None,
        remove: false,
    };
    api::TeamEdit {
        what: Some(api::team_edit::What::Quota(set)),
    }
}

fn made(team: &str) -> api::TeamEdit {
    let set = api::SetTeam {
        team: team.into(),
        weight: None,
        limits: Vec::new(),
        max_class: None,
    };
    api::TeamEdit {
        what: Some(api::team_edit::What::Team(set)),
    }
}

fn body(cluster: &Cluster, edits: Vec<api::TeamEdit>) -> Body {
    let edits = edits
        .into_iter()
        .map(|edit| convert::edit(&cluster.state, edit, 0).expect("sound"));
    Body::ChangeTeams(ChangeTeams {
        edits: edits.collect(),
    })
}

/// Six GPUs; `default` has two of its own and holds one, `acme` has four.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 6);
    let edits = vec![
        made("acme"),
        made("acme/x"),
        quota("acme", 4, 0),
        quota("acme/x", 3, 1),
        quota("default", 2, 0),
    ];
    let body = body(&cluster, edits);
    assert!(cluster.run(person("root", true), body).refusal().is_none());
    let job = cluster.submitted("ann", 1, 1);
    cluster.started(job, &["a"]);
    cluster
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let cluster = cluster();
    let before = (cluster.state.digest(), cluster.state.applied_index());
    let lower = body(&cluster, vec![quota("default", 0, 0)]);
    let told = tried(
        &cluster.state,
        &command(person("root", true), 9_000, lower.clone()),
    );
    let told = told.map(|(_, reply)| reply);
    let Ok(Reply::TeamsChanged { changes, notes }) = told else {
        panic!("{told:?}")
    };
    assert_eq!(
        (changes[0].before.as_str(), changes[0].after.as_str()),
        ("2", "0")
    );
    assert!(notes[0].contains("1 SIM are in use"), "{notes:?}");
    assert_eq!(
        (cluster.state.digest(), cluster.state.applied_index()),
        before
    );
    let denied = tried(&cluster.state, &command(person("ann", false), 9_000, lower));
    let denied = denied.map(|(_, reply)| reply);
    assert_eq!(denied.map_err(|refusal| refusal.code), Err(Code::Denied));
}

#[test]
fn a_list_says_what_each_team_has_and_holds() {
    let cluster = cluster();
    let all = listed(&cluster.state, &ListTeamsRequest::default());
    let names: Vec<&str> = all.teams.iter().map(|team| team.name.as_str()).collect();
    assert_eq!(names, ["acme", "acme/x", "default"]);
    let default = &all.teams[2];
    assert!(default.open && default.running == 1 && default.people.is_empty());
    let quota = &default.quotas[0];
    assert_eq!(
        (quota.flavor.as_str(), quota.nominal, quota.own, quota.load),
        ("SIM", 2 * GPU, GPU, GPU)
    );
    assert_eq!(
        (all.flavors[0].capacity, all.flavors[0].nominal),
        (6 * GPU, 6 * GPU)
    );
    let request = ListTeamsRequest {
        team: "acme".into(),
        people: true,
    };
    assert_eq!(listed(&cluster.state, &request).teams.len(), 2);
    let request = ListTeamsRequest {
        team: "default".into(),
        people: true,
    };
    let people = &listed(&cluster.state, &request).teams[0].people;
    assert_eq!(
        (people[0].user_id.as_str(), people[0].units),
        ("id-ann", GPU)
    );
}

#[test]
fn an_explanation_names_the_level_that_fails_with_its_numbers() {
    let cluster = cluster();
    let ask = |team: &str, flavor: &str, gpus: u64| {
        let request = ExplainQuotaRequest {
            team: team.into(),
            flavor: flavor.into(),
            units: gpus * GPU,
        };
        explained(&cluster.state, &request)
    };
    let fits = ask("acme/x", "SIM", 3);
    assert!(
        fits.fits && !fits.borrows && fits.levels.len() == 2,
        "{fits:?}"
    );
    let borrows = ask("acme/x", "sim", 4);
    assert!(borrows.fits && borrows.borrows, "{borrows:?}");
    let short = ask("acme/x", "SIM", 5);
    assert_eq!((short.fits, short.fails_at.as_str()), (false, "acme/x"));
    assert_eq!(
        short.text,
        "quota of team acme/x: 0 SIM in use or kept + 5 asked for > 3 of its own + 1 borrowed"
    );
    assert_eq!(ask("default", "SIM", 2).fails_at, "default");
    assert!(
        ask("default", "H100", 99)
            .text
            .contains("no team names H100")
    );
}
