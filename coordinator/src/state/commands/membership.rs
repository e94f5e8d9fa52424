//! Which team a job goes to, and whether that team takes it: members, what may wait in it, how long an attempt may run, how much its checkpoints take. What
//! may run is decided at the start.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::spec::{Class, JobSpec};
use mlctl_proto::units::{bytes_text, duration_text};

use super::bootstrap::DEFAULT_TEAM;
use crate::state::State;
use crate::state::records::{Team, TeamLimit};
use crate::state::rules::usage_below;

/// Who submits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Submitter<'a> {
    pub id: &'a str,
    pub name: &'a str,
    /// An admin asks: what a team's most urgent class is does not bind.
    pub admin: bool,
}

/// The team of a job: the one that it names, else the owner's.
pub(super) fn team_of(
    state: &State,
    who: Submitter,
    asked: Option<&str>,
) -> Result<String, Refusal> {
    if let Some(asked) = asked {
        let Some(team) = state.team(asked) else {
            let why = format!(
                "there is no team `{}`: `mlctl team ls` lists all",
                clip(asked)
            );
            return Err(Refusal::new(Code::NotFound, why));
        };
        return takes(state, team, who).map(|()| asked.to_owned());
    }
    if let Some(own) = state.default_team_of(who.id) {
        return Ok(own.to_owned());
    }
    match state.team(DEFAULT_TEAM) {
        Some(team) => takes(state, team, who).map(|()| DEFAULT_TEAM.to_owned()),
        None => Err(no_member(state, DEFAULT_TEAM, who)),
    }
}

/// Whether a user may submit to a team.
pub(super) fn takes(state: &State, team: &Team, who: Submitter) -> Result<(), Refusal> {
    match team.takes(who.id) {
        true => Ok(()),
        false => Err(no_member(state, &team.name, who)),
    }
}

fn no_member(state: &State, team: &str, who: Submitter) -> Refusal {
    let teams = state.teams().filter(|team| team.takes(who.id));
    let teams: Vec<&str> = teams.map(|team| team.name.as_str()).take(5).collect();
    let (name, id) = (clip(who.name), clip(who.id));
    let instead = match teams.as_slice() {
        [] => String::new(),
        some => format!(", or submit with --team {}", some.join(" or --team ")),
    };
    let why = format!(
        "{name} is no member of team {}: ask an admin for `mlctl team add-user {} {id}`{instead}",
        clip(team),
        clip(team)
    );
    Refusal::new(Code::Denied, why)
}

/// Whether a team, and those that it is in, let one more job of a user wait.
pub(super) fn admits(
    state: &State,
    team: &str,
    who: Submitter,
    spec: &JobSpec,
) -> Result<(), Refusal> {
    urgent_enough(state, team, who, spec.class)?;
    knows_licenses(state, spec)?;
    let tasks = spec.array.as_ref().map_or(1, |array| array.tasks.count());
    for level in state.levels(team).filter(|level| !level.limits.is_empty()) {
        waits(state, level, who, tasks)?;
        runs_long_enough(level, spec)?;
        if let Some(most) = level
            .limit(TeamLimit::CheckpointBytes)
            .filter(|_| spec.checkpoint.is_some())
        {
            let held = usage_below(state, &level.name).held_bytes;
            if held >= most {
                let why = format!(
                    "checkpoints of team {} take {} of {}: remove some (`mlctl checkpoint rm`), or ask an admin to raise `checkpoint_bytes`",
                    level.name,
                    bytes_text(held),
                    bytes_text(most)
                );
                return Err(Refusal::new(Code::LimitExceeded, why));
            }
        }
    }
    Ok(())
}

fn urgent_enough(state: &State, team: &str, who: Submitter, class: Class) -> Result<(), Refusal> {
    let most = state.max_class(team);
    if who.admin || class <= most {
        return Ok(());
    }
    let (asked, most, team) = (class.word(), most.word(), clip(team));
    let why = format!(
        "jobs of team {team} are at most {most}, and this one asks for {asked}: submit it as {most}, or ask an admin for `mlctl team set {team} --max-class {asked}`"
    );
    Err(Refusal::new(Code::Denied, why))
}

/// Whether there could ever be enough of the countables that a job names.
pub(super) fn knows_licenses(state: &State, spec: &JobSpec) -> Result<(), Refusal> {
    for (name, needs) in &spec.licenses {
        let total = state.license_total(name);
        if *needs > total {
            let there = match total {
                0 => format!("this cluster has no `{}`", clip(name)),
                total => format!("this cluster has {total} `{}`", clip(name)),
            };
            let why = format!(
                "it needs {needs} of the countable `{}`, and {there}: an admin sets how many there are with `mlctl admin set licenses.{}=N`",
                clip(name),
                clip(name)
            );
            return Err(Refusal::new(Code::NeverFits, why));
        }
    }
    Ok(())
}

fn waits(state: &State, level: &Team, who: Submitter, tasks: u64) -> Result<(), Refusal> {
    let name = &level.name;
    for (which, user) in [
        (TeamLimit::MaxPending, None),
        (TeamLimit::UserMaxPending, Some(who.id)),
    ] {
        let Some(most) = level.limit(which) else {
            continue;
        };
        let waiting = state.holdings().below(name, user).waiting;
        if waiting.saturating_add(tasks) > most {
            let whose = user.map_or_else(String::new, |_| format!(" of {}", clip(who.name)));
            let why = format!(
                "{waiting} tasks{whose} wait in team {name} and {tasks} more would, but at most {most} may (`{}`): wait until some start, or cancel some",
                which.word()
            );
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
    }
    Ok(())
}

fn runs_long_enough(level: &Team, spec: &JobSpec) -> Result<(), Refusal> {
    let Some(most) = level.limit(TeamLimit::MaxTimeMs) else {
        return Ok(());
    };
    let name = &level.name;
    let text = |ms: u64| duration_text(i64::try_from(ms).unwrap_or(i64::MAX));
    let limit = text(most);
    let why = match spec.time {
        Some(time) if time.ms() <= most => return Ok(()),
        Some(time) => {
            let asked = text(time.ms());
            format!(
                "jobs of team {name} may run for {limit}, and this one asks for {asked}: set `time` to no more"
            )
        }
        None => format!(
            "jobs of team {name} may run for {limit}, and this one does not say how long it runs: set `time`"
        ),
    };
    Err(Refusal::new(Code::LimitExceeded, why))
}
