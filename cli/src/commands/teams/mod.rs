//! `mlctl team` and `mlctl quota`: the tree of teams, what they may hold and use up, and what of it is in use. What an amount means is `amounts`', what is
//! printed `output`'s; whether a change is sound is decided by the cluster.
mod amounts;
mod import;

use mlctl_proto::api::{
    ChangeTeamsReply, ChangeTeamsRequest, ExplainQuotaRequest, ListTeamsReply, ListTeamsRequest,
    NewTeamMember, RemoveTeam, SetBudget, SetMembers, SetQuota, SetTeam, TeamEdit, TeamLimit,
    team_edit::What,
};

use crate::args::{Global, LimitArgs, QuotaCommand, QuotaSetArgs, TeamCommand};
use crate::client::{Client, fresh_key, teams, traced};
use crate::failure::Failure;
use crate::output::{Output, teams as shown};

/// Runs one of `team`.
pub async fn team(
    command: &TeamCommand,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let (edits, dry) = match command {
        TeamCommand::Ls { team } => {
            let reply = list(global, team.as_deref(), team.is_some()).await?;
            let (head, rows) = match team {
                Some(_) => (&shown::PEOPLE_HEAD[..], shown::people_rows(&reply)),
                None => (&shown::TEAMS_HEAD[..], shown::teams_rows(&reply)),
            };
            output.table(&shown::value(&reply), head, &rows);
            return Ok(0);
        }
        TeamCommand::Set {
            team,
            weight,
            max_class,
            limits,
            dry,
        } => {
            let set = SetTeam {
                team: team.clone(),
                weight: weight.as_deref().map(weight_of).transpose()?,
                limits: limits_of(limits)?,
                max_class: max_class.clone(),
            };
            (vec![What::Team(set)], dry)
        }
        TeamCommand::Rm { team, dry } => {
            let team = team.clone();
            (vec![What::Remove(RemoveTeam { team })], dry)
        }
        TeamCommand::AddUser {
            team,
            users,
            default,
            dry,
        } => {
            let new = |user: &String| NewTeamMember {
                user: user.clone(),
                default: *default,
            };
            let set = SetMembers {
                team: team.clone(),
                add: users.iter().map(new).collect(),
                remove: Vec::new(),
            };
            (vec![What::Members(set)], dry)
        }
        TeamCommand::RmUser { team, users, dry } => {
            let set = SetMembers {
                team: team.clone(),
                add: Vec::new(),
                remove: users.clone(),
            };
            (vec![What::Members(set)], dry)
        }
        TeamCommand::Import { file, dry } => {
            let edits = import::read(file)?;
            return change(edits, dry.dry_run, global, output).await;
        }
    };
    change(edits_of(edits), dry.dry_run, global, output).await
}

/// Runs one of `quota`.
pub async fn quota(
    command: &QuotaCommand,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    match command {
        QuotaCommand::Show { team } => {
            let reply = list(global, team.as_deref(), false).await?;
            let rows = shown::quota_rows(&reply);
            output.table(&shown::value(&reply), &shown::QUOTA_HEAD, &rows);
            for warning in shown::warnings(&reply) {
                output.note(&warning);
            }
            Ok(0)
        }
        QuotaCommand::Usage { team } => {
            let reply = list(global, team.as_deref(), true).await?;
            let rows = shown::usage_rows(&reply);
            output.table(&shown::value(&reply), &shown::USAGE_HEAD, &rows);
            Ok(0)
        }
        QuotaCommand::Set(args) => {
            let edits = edits_of(set(args)?);
            change(edits, args.dry.dry_run, global, output).await
        }
        QuotaCommand::Explain { team, gpus, gpu } => {
            explain((team, gpus, gpu), global, output).await
        }
    }
}

fn edits_of(edits: Vec<What>) -> Vec<TeamEdit> {
    let edit = |what| TeamEdit { what: Some(what) };
    edits.into_iter().map(edit).collect()
}

fn weight_of(text: &str) -> Result<u32, Failure> {
    let fail = |_| Failure::usage(format!("--weight {text}: use a whole number, 1 or more"));
    text.parse().map_err(fail)
}

fn limits_of(args: &LimitArgs) -> Result<Vec<TeamLimit>, Failure> {
    let named = [
        ("max_pending", &args.max_pending),
        ("max_running", &args.max_running),
        ("max_time", &args.max_time),
        ("checkpoint_bytes", &args.checkpoint_bytes),
        ("user_max_pending", &args.user_max_pending),
        ("user_max_running", &args.user_max_running),
    ];
    let given = named
        .into_iter()
        .filter_map(|(which, text)| Some((which, text.as_ref()?)));
    given
        .map(|(which, text)| amounts::team_limit(which, text))
        .collect()
}

/// What `quota set` asks for: of each type one change of its quota, and one of its budget.
fn set(args: &QuotaSetArgs) -> Result<Vec<What>, Failure> {
    let mut quotas: Vec<SetQuota> = Vec::new();
    let of = |quotas: &mut Vec<SetQuota>, flavor: &str| {
        let known = quotas.iter().position(|one| one.flavor == flavor);
        known.unwrap_or_else(|| {
            quotas.push(SetQuota {
                team: args.team.clone(),
                flavor: flavor.to_owned(),
                ..SetQuota::default()
            });
            quotas.len() - 1
        })
    };
    for text in &args.gpus {
        let (flavor, value) = amounts::pair("--gpus", text)?;
        let place = of(&mut quotas, flavor);
        quotas[place].nominal = Some(amounts::gpus("--gpus", value)?);
    }
    for text in &args.borrow {
        let (flavor, value) = amounts::pair("--borrow", text)?;
        let place = of(&mut quotas, flavor);
        quotas[place].borrow = Some(amounts::limit("--borrow", value)?);
    }
    for text in &args.lend {
        let (flavor, value) = amounts::pair("--lend", text)?;
        let place = of(&mut quotas, flavor);
        quotas[place].lend = Some(amounts::limit("--lend", value)?);
    }
    for text in &args.per_user {
        let (flavor, value) = amounts::pair("--per-user", text)?;
        let place = of(&mut quotas, flavor);
        quotas[place].per_user = Some(amounts::limit("--per-user", value)?);
    }
    for flavor in &args.remove {
        let place = of(&mut quotas, flavor);
        quotas[place].remove = true;
    }
    let mut edits: Vec<What> = quotas.into_iter().map(What::Quota).collect();
    let until = args
        .until
        .as_deref()
        .map(|day| amounts::day_end("--until", day));
    let until_ms = until.transpose()?.unwrap_or(0);
    for text in &args.gpu_hours {
        let (flavor, value) = amounts::pair("--gpu-hours", text)?;
        let ends = (args.zone.as_str(), args.exhausted.as_str(), until_ms);
        edits.push(What::Budget(SetBudget {
            team: args.team.clone(),
            flavor: flavor.to_owned(),
            budget: amounts::budget("--gpu-hours", value, ends)?,
        }));
    }
    let limits = limits_of(&args.limits)?;
    if !limits.is_empty() {
        edits.push(What::Team(SetTeam {
            team: args.team.clone(),
            weight: None,
            limits,
            max_class: None,
        }));
    }
    match edits.is_empty() {
        true => Err(Failure::usage(
            "nothing is to be set: name GPUs (--gpus H100=64), GPU-hours (--gpu-hours H100=500/month) or a limit".into(),
        )),
        false => Ok(edits),
    }
}

async fn list(
    global: &Global,
    team: Option<&str>,
    people: bool,
) -> Result<ListTeamsReply, Failure> {
    let mut client = Client::open(global)?;
    let request = ListTeamsRequest {
        team: team.unwrap_or_default().to_owned(),
        people,
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { teams(channel).list(request).await }
    });
    answer.await
}

async fn change(
    edits: Vec<TeamEdit>,
    dry_run: bool,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let request = ChangeTeamsRequest {
        key: fresh_key(),
        dry_run,
        edits,
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { teams(channel).change(request).await }
    });
    let reply: ChangeTeamsReply = answer.await?;
    let lines = shown::change_lines(&reply, dry_run);
    output.value(&shown::change_value(&reply, dry_run), &lines.join("\n"));
    Ok(0)
}

async fn explain(
    (team, gpus, gpu): (&str, &str, &str),
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let request = ExplainQuotaRequest {
        team: team.to_owned(),
        flavor: gpu.to_owned(),
        units: amounts::gpus("--gpus", gpus)?,
    };
    let mut client = Client::open(global)?;
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { teams(channel).explain(request).await }
    });
    let reply = answer.await?;
    let lines = shown::explain_lines(&reply);
    output.value(&shown::explain_value(&reply), &lines.join("\n"));
    Ok(0)
}
