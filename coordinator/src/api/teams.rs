//! The `Teams` service: what admins change of the tree of teams, what is in use of it, and why a job would not be within it. Whether a change is sound
//! is decided when it is applied; a dry run applies it to a copy of the state.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::api::teams_client::TeamsClient;
use mlctl_proto::api::{
    ChangeTeamsReply, ChangeTeamsRequest, ExplainQuotaReply, ExplainQuotaRequest, FlavorInUse,
    GpuLimit, ListTeamsReply, ListTeamsRequest, QuotaLevel, teams_server,
};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::limits::{QUOTA_UNITS_MAX, TEAM_EDITS_MAX};
use prost::Message;
use tonic::{Request, Response, Status};

use super::auth::{Person, person};
use super::convert::team as convert;
use super::jobs_submit::{key, unexpected};
use super::route::on_leader;
use super::tried::tried;
use crate::peers::Lease;
use crate::shared::{CallError, Shared};
use crate::state::commands::ChangeTeams;
use crate::state::records::Reply;
use crate::state::rules::budget::{Asks, SLICE_MS};
use crate::state::rules::flavors::{flavor_text, gpus_text};
use crate::state::rules::quota::Ledger;
use crate::state::rules::quota_text;
use crate::state::view::amounts::GPU;
use crate::state::view::teams::{Flavor, Limit};
use crate::state::{Body, Command, State};

/// The service.
pub struct Teams {
    shared: Arc<Shared>,
}

impl Teams {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl teams_server::Teams for Teams {
    async fn change(
        &self,
        request: Request<ChangeTeamsRequest>,
    ) -> Result<Response<ChangeTeamsReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| change(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            TeamsClient::new(lease.channel.clone())
                .change(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn list(
        &self,
        request: Request<ListTeamsRequest>,
    ) -> Result<Response<ListTeamsReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| list(&self.shared, message);
        let there = |lease: Lease, request| async move {
            TeamsClient::new(lease.channel.clone()).list(request).await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn explain(
        &self,
        request: Request<ExplainQuotaRequest>,
    ) -> Result<Response<ExplainQuotaReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| explain(&self.shared, message);
        let there = |lease: Lease, request| async move {
            TeamsClient::new(lease.channel.clone())
                .explain(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }
}

async fn change(
    shared: &Arc<Shared>,
    person: &Person,
    request: ChangeTeamsRequest,
) -> Result<ChangeTeamsReply, CallError> {
    let bare = ChangeTeamsRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let hash = *blake3::hash(&bare.encode_to_vec()).as_bytes();
    let key = key(&request.key, hash)?;
    if request.edits.len() > TEAM_EDITS_MAX {
        let why = format!(
            "{} changes at once; at most {TEAM_EDITS_MAX}: make several requests of it",
            request.edits.len()
        );
        return Err(Refusal::new(Code::LimitExceeded, why).into());
    }
    shared.read().await?;
    let state = shared.state();
    let now_ms = shared.clock.stamp(state.now_ms());
    let edits = request.edits.into_iter();
    let edits = edits.map(|edit| convert::edit(&state, edit, now_ms));
    let body = Body::ChangeTeams(ChangeTeams {
        edits: edits.collect::<Result<_, _>>()?,
    });
    let (reply, index) = if request.dry_run {
        let command = Command {
            actor: person.actor.clone(),
            source: person.source.clone(),
            time_ms: now_ms,
            key: None,
            body,
        };
        (tried(&state, &command)?.1, 0)
    } else {
        let committed = shared
            .propose(person.actor.clone(), &person.source, Some(key), body)
            .await?;
        (committed.reply, committed.index)
    };
    let Reply::TeamsChanged { changes, notes } = reply else {
        return Err(unexpected().into());
    };
    Ok(ChangeTeamsReply {
        changes: changes.into_iter().map(convert::change).collect(),
        notes,
        index,
    })
}

async fn list(
    shared: &Arc<Shared>,
    request: ListTeamsRequest,
) -> Result<ListTeamsReply, CallError> {
    shared.read().await?;
    let state = shared.state();
    if !request.team.is_empty() && state.team(&request.team).is_none() {
        return Err(no_team(&request.team).into());
    }
    // It looks at every team and every device.
    let listed = tokio::task::spawn_blocking(move || listed(&state, &request));
    let listed = listed.await;
    listed.map_err(|error| Refusal::new(Code::Internal, error.to_string()).into())
}

fn listed(state: &State, request: &ListTeamsRequest) -> ListTeamsReply {
    let wanted = |name: &str| {
        let rest = name.strip_prefix(request.team.as_str());
        let inside = |rest: &str| rest.is_empty() || rest.starts_with('/');
        request.team.is_empty() || rest.is_some_and(inside)
    };
    let ledger = state.ledger();
    let teams = state.teams().filter(|team| wanted(&team.name));
    let teams = teams.map(|team| convert::team(state, &ledger, team, request.people));
    ListTeamsReply {
        teams: teams.collect(),
        flavors: in_use(state, &ledger),
        index: state.applied_index(),
        now_ms: state.now_ms(),
    }
}

/// Of every flavor that is named: what nodes that take work have of it, and what all teams have together.
fn in_use(state: &State, ledger: &Ledger) -> Vec<FlavorInUse> {
    let mut capacity: BTreeMap<&Flavor, u64> = BTreeMap::new();
    for node in state.nodes().filter(|node| node.schedulable()) {
        for device in &node.facts.devices {
            if let Some(flavor) = state.flavors().of(&node.facts.pool, &device.model) {
                let sum = capacity.entry(flavor).or_default();
                *sum = sum.saturating_add(GPU);
            }
        }
    }
    let nominal = |flavor: &Flavor| {
        let roots = state.teams().filter(|team| team.parent().is_none());
        let nominals = roots.filter_map(|team| ledger.quota(&team.name, flavor));
        nominals.fold(0_u64, |sum, quota| sum.saturating_add(quota.nominal))
    };
    let flavors = state.flavors().iter().map(|flavor| FlavorInUse {
        flavor: flavor_text(flavor),
        capacity: capacity.get(flavor).copied().unwrap_or(0),
        nominal: nominal(flavor),
    });
    flavors.collect()
}

fn no_team(name: &str) -> Refusal {
    let why = format!(
        "there is no team `{}`: `mlctl team ls` lists all",
        clip(name)
    );
    Refusal::new(Code::NotFound, why)
}

async fn explain(
    shared: &Arc<Shared>,
    request: ExplainQuotaRequest,
) -> Result<ExplainQuotaReply, CallError> {
    if !(1..=QUOTA_UNITS_MAX).contains(&request.units) {
        let why = "ask for more than 0 GPUs, and for no more than any cluster has";
        return Err(Refusal::new(Code::BadRequest, why).into());
    }
    shared.read().await?;
    let state = shared.state();
    if state.team(&request.team).is_none() {
        return Err(no_team(&request.team).into());
    }
    Ok(explained(&state, &request))
}

fn explained(state: &State, request: &ExplainQuotaRequest) -> ExplainQuotaReply {
    let (team, units) = (request.team.as_str(), request.units);
    let flavor = convert::flavor(&request.flavor);
    let ledger = state.ledger();
    let levels = state.levels(team);
    let levels =
        levels.map(|level| self::level(&ledger, &level.name, level.parent().is_none(), &flavor));
    let mut reply = ExplainQuotaReply {
        levels: levels.collect(),
        index: state.applied_index(),
        ..ExplainQuotaReply::default()
    };
    if let Err(short) = ledger.legal(team, &flavor, units) {
        reply.fails_at = short.team.to_string();
        reply.text = quota_text::shortfall(&short);
        return reply;
    }
    let now_ms = state.now_ms();
    for book in state.books(team, &flavor) {
        if let Err(short) = book.covers(
            units,
            now_ms,
            now_ms.saturating_add(SLICE_MS),
            Asks::ToBegin,
        ) {
            reply.fails_at = short.team.to_string();
            reply.text = quota_text::exhausted(&short, &flavor);
            return reply;
        }
    }
    reply.fits = true;
    reply.borrows = !ledger.inside_nominal(team, &flavor, units);
    let (gpus, shown) = (gpus_text(units), flavor_text(&flavor));
    let named = state.flavors().iter().any(|one| *one == flavor);
    reply.text = match (named, reply.borrows) {
        (false, _) => format!("no team names {shown}: any number of them is within quota"),
        (true, false) => format!("{gpus} {shown} more are within what is its own at every level"),
        (true, true) => format!(
            "{gpus} {shown} more are within quota, on borrowed GPUs: their owners may take them back"
        ),
    };
    reply
}

/// How a level stands.
fn level(ledger: &Ledger, level: &str, root: bool, flavor: &Flavor) -> QuotaLevel {
    let quota = ledger.quota(level, flavor);
    let borrow = quota.map(|quota| if root { Limit::Units(0) } else { quota.borrow });
    let units = |limit: Limit| match limit {
        Limit::Units(units) => GpuLimit { units: Some(units) },
        Limit::Unlimited => GpuLimit { units: None },
    };
    QuotaLevel {
        team: level.to_owned(),
        limited: quota.is_some(),
        load: ledger.load(level, flavor),
        nominal: quota.map_or(0, |quota| quota.nominal),
        borrow: borrow.map(units),
    }
}

#[cfg(test)]
#[path = "teams_tests.rs"]
mod tests;
