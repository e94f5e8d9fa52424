//! What an admin decides about scheduling: `mlctl admin set|settings|pause|resume|show`, `mlctl node maintenance|own|disown`. What a key and a value mean is for
//! the cluster to say.
use mlctl_proto::api::{
    CancelMaintenance, DecideReply, DecideRequest, DecisionEdit, Decisions, Pause, Resume,
    SetMaintenance, SetOwner, SetPause, SetSetting, ShowDecisionsRequest, decision_edit::What,
};
use mlctl_proto::spec::{Moment, Time};

use super::when;
use crate::args::{DryRun, Global, MaintenanceArgs, OwnArgs, PauseArgs};
use crate::client::{Client, admin, fresh_key, traced};
use crate::failure::Failure;
use crate::output::{Output, clean, decisions as shown};

/// `admin set`.
pub async fn set(
    settings: &[String],
    dry: DryRun,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let edit = |text: &String| {
        let pair = text.split_once('=');
        let pair = pair.filter(|(key, _)| !key.trim().is_empty());
        let fail = || {
            Failure::usage(format!(
                "`{text}`: write KEY=VALUE, such as scheduling.policy=las"
            ))
        };
        let (key, value) = pair.ok_or_else(fail)?;
        Ok(What::Set(SetSetting {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        }))
    };
    let edits = settings.iter().map(edit).collect::<Result<_, Failure>>()?;
    change(edits, dry, global, output).await
}

/// `admin settings`.
pub async fn settings(
    prefix: Option<&str>,
    changed: bool,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let mut reply = show(global).await?;
    let prefix = prefix.unwrap_or_default();
    reply
        .settings
        .retain(|one| one.key.starts_with(prefix) && !(changed && one.shipped));
    let rows = shown::settings_rows(&reply);
    output.table(&shown::settings_value(&reply), &shown::SETTINGS_HEAD, &rows);
    Ok(0)
}

/// `admin pause`.
pub async fn pause(args: &PauseArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let set = SetPause {
        what: args.what.clone(),
        pool: args.pool.clone().unwrap_or_default(),
        for_ms: length("for", args.length.as_deref())?,
        reason: args.reason.clone(),
    };
    change(vec![What::Pause(set)], args.dry, global, output).await
}

/// `admin resume`.
pub async fn resume(
    (what, pool): (&str, Option<&str>),
    dry: DryRun,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let resume = Resume {
        what: what.to_owned(),
        pool: pool.unwrap_or_default().to_owned(),
    };
    change(vec![What::Resume(resume)], dry, global, output).await
}

/// `admin show`.
pub async fn everything(global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let reply = show(global).await?;
    let rows = shown::rows(&reply);
    output.table(&shown::value(&reply), &shown::HEAD, &rows);
    Ok(0)
}

/// `node maintenance`.
pub async fn maintenance(
    args: &MaintenanceArgs,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    if let Some(id) = args.cancel {
        let cancel = What::Cancel(CancelMaintenance { id });
        return change(vec![cancel], args.dry, global, output).await;
    }
    let (node, pool) = match (&args.node, &args.pool) {
        (None, None) if args.length.is_some() => {
            let why = "name the machine to maintain, or its pool with --pool";
            return Err(Failure::usage(why.into()));
        }
        (None, None) => {
            let reply = show(global).await?;
            let rows = shown::maintenance_rows(&reply);
            let value = shown::maintenance_value(&reply);
            output.table(&value, &shown::MAINTENANCE_HEAD, &rows);
            return Ok(0);
        }
        (node, pool) => (node.clone(), pool.clone()),
    };
    let set = SetMaintenance {
        node: node.unwrap_or_default(),
        pool: pool.unwrap_or_default(),
        from_ms: args.from.as_deref().map_or(Ok(0), moment)?,
        for_ms: length("for", args.length.as_deref())?,
        reason: args.reason.clone().unwrap_or_default(),
    };
    change(vec![What::Maintenance(set)], args.dry, global, output).await
}

/// `node own`.
pub async fn own(args: &OwnArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let set = SetOwner {
        node: args.node.clone(),
        team: args.team.clone(),
        guests: args.guests.clone(),
        guest_grace_ms: length("guest-grace", args.guest_grace.as_deref())?,
    };
    change(vec![What::Owner(set)], args.dry, global, output).await
}

/// `node disown`.
pub async fn disown(
    node: &str,
    dry: DryRun,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let set = SetOwner {
        node: node.to_owned(),
        ..SetOwner::default()
    };
    change(vec![What::Owner(set)], dry, global, output).await
}

/// A line for each pause, below what was asked for.
pub fn note_pauses(pauses: &[Pause], output: &dyn Output) {
    for pause in pauses {
        output.note(&clean(&pause.text));
    }
}

/// Milliseconds of a flag; 0: it was not given.
fn length(flag: &str, text: Option<&str>) -> Result<u64, Failure> {
    let Some(text) = text else {
        return Ok(0);
    };
    let time: Result<Time, String> = text.parse();
    let time = time.map_err(|why| Failure::usage(format!("--{flag} {why}")))?;
    Ok(time.ms())
}

fn moment(text: &str) -> Result<i64, Failure> {
    let text = when::when("from", text)?;
    let moment: Result<Moment, String> = text.parse();
    let moment = moment.map_err(|why| Failure::usage(format!("--from {why}")))?;
    Ok(moment.ms())
}

async fn change(
    edits: Vec<What>,
    dry: DryRun,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let edit = |what| DecisionEdit { what: Some(what) };
    let request = DecideRequest {
        key: fresh_key(),
        dry_run: dry.dry_run,
        edits: edits.into_iter().map(edit).collect(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { admin(channel).decide(request).await }
    });
    let reply: DecideReply = answer.await?;
    let lines = shown::change_lines(&reply, dry.dry_run);
    output.value(&shown::change_value(&reply, dry.dry_run), &lines.join("\n"));
    Ok(0)
}

async fn show(global: &Global) -> Result<Decisions, Failure> {
    let mut client = Client::open(global)?;
    let answer = client.call(|channel| {
        let request = traced(ShowDecisionsRequest {});
        async move { admin(channel).show(request).await }
    });
    answer.await
}
