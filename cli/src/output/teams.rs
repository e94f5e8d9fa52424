//! Teams, quotas and budgets as cells and lines for people, and as JSON. Amounts are GPUs and GPU-hours for both.
use mlctl_proto::api::{
    Budget, ChangeTeamsReply, ExplainQuotaReply, GpuLimit, ListTeamsReply, QuotaLevel, Team,
    TeamBudget, TeamLimit, TeamQuota,
};
use mlctl_proto::units::{bytes_text, duration_text};
use serde_json::{Value, json};

use super::clean::clean;

/// Units of one GPU.
const GPU: u64 = 7_000;
/// Unit-milliseconds of one GPU-hour are this times [`GPU`].
const HOUR_MS: u64 = 3_600_000;

/// Titles of [`teams_rows`].
pub const TEAMS_HEAD: [&str; 7] = [
    "TEAM", "WEIGHT", "MEMBERS", "RUNNING", "WAITING", "QUOTA", "LIMITS",
];
/// Titles of [`people_rows`].
pub const PEOPLE_HEAD: [&str; 7] = ["TEAM", "USER", "ID", "MEMBER", "GPUS", "RUNNING", "WAITING"];
/// Titles of [`quota_rows`].
pub const QUOTA_HEAD: [&str; 8] = [
    "TEAM",
    "TYPE",
    "IN USE",
    "OF",
    "BORROW",
    "LEND",
    "PER USER",
    "GPU-HOURS",
];
/// Titles of [`usage_rows`].
pub const USAGE_HEAD: [&str; 5] = ["TEAM", "USER", "GPUS", "RUNNING", "USED LATELY"];

/// GPUs without what is below a thousandth.
fn gpus(units: u64) -> String {
    let milli = u128::from(units) * 1_000 / u128::from(GPU);
    let (whole, rest) = (milli / 1_000, milli % 1_000);
    match rest {
        0 => whole.to_string(),
        rest => format!("{whole}.{}", format!("{rest:03}").trim_end_matches('0')),
    }
}

fn limit(limit: Option<&GpuLimit>) -> String {
    match limit {
        None => "-".into(),
        Some(limit) => limit.units.map_or_else(|| "unlimited".into(), gpus),
    }
}

/// GPUs as a number that programs read, to the thousandth.
fn number(units: u64) -> Value {
    let text = gpus(units);
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn number_or_word(limit: Option<&GpuLimit>) -> Value {
    match limit {
        None => Value::Null,
        Some(limit) => limit.units.map_or_else(|| "unlimited".into(), number),
    }
}

fn hours(unit_ms: u64) -> String {
    gpus(unit_ms / HOUR_MS)
}

fn window(budget: &Budget) -> String {
    match budget.rolling_days {
        0 => format!("month ({})", clean(&budget.month_zone)),
        days => format!("{days} d"),
    }
}

fn team_limit(limit: &TeamLimit) -> String {
    let most = limit.most.unwrap_or(0);
    let text = match limit.which.as_str() {
        "max_time" => duration_text(i64::try_from(most).unwrap_or(i64::MAX)),
        "checkpoint_bytes" => bytes_text(most),
        _ => most.to_string(),
    };
    format!("{} {text}", clean(&limit.which))
}

/// A team a line.
pub fn teams_rows(reply: &ListTeamsReply) -> Vec<Vec<String>> {
    let row = |team: &Team| {
        let quotas = team.quotas.iter().filter(|quota| quota.set);
        let quotas: Vec<String> = quotas
            .map(|quota| {
                format!(
                    "{}/{} {}",
                    gpus(quota.load),
                    gpus(quota.nominal),
                    clean(&quota.flavor)
                )
            })
            .collect();
        let mut limits: Vec<String> = team.limits.iter().map(team_limit).collect();
        // What nobody has changed goes without saying.
        if !matches!(team.max_class.as_str(), "" | "high") {
            limits.push(format!("max_class {}", clean(&team.max_class)));
        }
        let members = if team.open {
            "everybody".to_owned()
        } else {
            team.members.to_string()
        };
        vec![
            clean(&team.name),
            team.weight.to_string(),
            members,
            team.running.to_string(),
            team.waiting.to_string(),
            quotas.join(", "),
            limits.join(", "),
        ]
    };
    reply.teams.iter().map(row).collect()
}

/// Members, and who else has jobs in a team, a line each.
pub fn people_rows(reply: &ListTeamsReply) -> Vec<Vec<String>> {
    let of = |team: &Team| -> Vec<Vec<String>> {
        let person = |one: &mlctl_proto::api::TeamPerson| {
            let member = match (one.member, one.default) {
                (false, _) => "no",
                (true, false) => "yes",
                (true, true) => "default",
            };
            vec![
                clean(&team.name),
                clean(&one.name),
                clean(&one.user_id),
                member.to_owned(),
                gpus(one.units),
                one.running.to_string(),
                one.waiting.to_string(),
            ]
        };
        team.people.iter().map(person).collect()
    };
    reply.teams.iter().flat_map(of).collect()
}

/// Every type of every team, a line each.
pub fn quota_rows(reply: &ListTeamsReply) -> Vec<Vec<String>> {
    reply.teams.iter().flat_map(quota_lines).collect()
}

fn quota_lines(team: &Team) -> Vec<Vec<String>> {
    let mut flavors: Vec<&str> = team.quotas.iter().map(|one| one.flavor.as_str()).collect();
    flavors.extend(team.budgets.iter().map(|one| one.flavor.as_str()));
    flavors.sort_unstable();
    flavors.dedup();
    let line = |flavor: &str| {
        let quota = team.quotas.iter().find(|one| one.flavor == flavor);
        let budget = team.budgets.iter().find(|one| one.flavor == flavor);
        let set = quota.filter(|quota| quota.set);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        vec![
            clean(&team.name),
            clean(flavor),
            gpus(quota.map_or(0, |quota| quota.load)),
            or_dash(set.map(|quota| gpus(quota.nominal))),
            limit(set.and_then(|quota| quota.borrow.as_ref())),
            limit(set.and_then(|quota| quota.lend.as_ref())),
            or_dash(quota.and_then(|quota| quota.per_user).map(gpus)),
            or_dash(budget.map(budget_cell)),
        ]
    };
    flavors.into_iter().map(line).collect()
}

/// `120.5 + 8 of 500 in 30 d, then hold`.
fn budget_cell(budget: &TeamBudget) -> String {
    let what = budget.budget.clone().unwrap_or_default();
    let committed = match budget.committed {
        0 => String::new(),
        some => format!(" + {} committed", hours(some)),
    };
    let beyond = match budget.beyond {
        0 => String::new(),
        some => format!(", {} beyond it", hours(some)),
    };
    format!(
        "{}{committed} of {} in {}, then {}{beyond}",
        hours(budget.used),
        hours(what.limit),
        window(&what),
        clean(&what.when_exhausted)
    )
}

/// What each user of each team holds and has used, a line each; all of a team first.
pub fn usage_rows(reply: &ListTeamsReply) -> Vec<Vec<String>> {
    let lately = |unit_seconds: u64| format!("{} GPU-h", gpus(unit_seconds / 3_600));
    let of = |team: &Team| -> Vec<Vec<String>> {
        let own: u64 = team
            .quotas
            .iter()
            .map(|quota| quota.own)
            .fold(0, u64::saturating_add);
        let held = team
            .people
            .iter()
            .map(|one| one.units)
            .fold(0, u64::saturating_add);
        let all = vec![
            clean(&team.name),
            "all".into(),
            gpus(own.max(held)),
            team.running.to_string(),
            lately(team.usage),
        ];
        let person = |one: &mlctl_proto::api::TeamPerson| {
            let name = if one.name.is_empty() {
                &one.user_id
            } else {
                &one.name
            };
            vec![
                clean(&team.name),
                clean(name),
                gpus(one.units),
                one.running.to_string(),
                lately(one.usage),
            ]
        };
        std::iter::once(all)
            .chain(team.people.iter().map(person))
            .collect()
    };
    reply.teams.iter().flat_map(of).collect()
}

/// What an admin should know of the numbers.
pub fn warnings(reply: &ListTeamsReply) -> Vec<String> {
    let mut warnings = Vec::new();
    for flavor in &reply.flavors {
        if flavor.capacity < flavor.nominal {
            warnings.push(format!(
                "note: teams have {} {} of their own together, and nodes that take work have {}: who comes first in order gets them",
                gpus(flavor.nominal),
                clean(&flavor.flavor),
                gpus(flavor.capacity)
            ));
        }
    }
    for team in &reply.teams {
        for budget in &team.budgets {
            let limit = budget.budget.as_ref().map_or(0, |budget| budget.limit);
            let spent = budget.used.saturating_add(budget.committed);
            let hundredths = u128::from(spent) * 100 / u128::from(limit.max(1));
            if hundredths >= 80 {
                warnings.push(format!(
                    "note: {hundredths} % of the GPU-hours of {} of {} are used or committed",
                    clean(&budget.flavor),
                    clean(&team.name)
                ));
            }
        }
    }
    warnings
}

/// What a change did, a line each.
pub fn change_lines(reply: &ChangeTeamsReply, dry_run: bool) -> Vec<String> {
    let word = if dry_run { "would be" } else { "is" };
    let line = |one: &mlctl_proto::api::TeamChange| {
        let (team, what) = (clean(&one.team), clean(&one.what));
        match (one.before.as_str(), one.after.as_str()) {
            ("", after) => format!("{team}: {what} {word} {}", clean(after)),
            (_, "") => format!("{team}: {what} {word} gone"),
            (before, after) => format!(
                "{team}: {what} {word} {}, was {}",
                clean(after),
                clean(before)
            ),
        }
    };
    let mut lines: Vec<String> = reply.changes.iter().map(line).collect();
    lines.extend(
        reply
            .notes
            .iter()
            .map(|note| format!("note: {}", clean(note))),
    );
    if dry_run {
        lines.push("nothing was changed: this was a dry run".into());
    }
    lines
}

/// The same for programs.
pub fn change_value(reply: &ChangeTeamsReply, dry_run: bool) -> Value {
    let changes = reply.changes.iter().map(|one| {
        json!({ "team": one.team, "what": one.what, "before": one.before, "after": one.after })
    });
    json!({ "v": 1, "dry_run": dry_run, "changes": changes.collect::<Vec<_>>(), "notes": reply.notes })
}

/// Whether it fits, and how each level stands.
pub fn explain_lines(reply: &ExplainQuotaReply) -> Vec<String> {
    let word = if reply.fits { "fits" } else { "does not fit" };
    let mut lines = vec![format!("{word}: {}", clean(&reply.text))];
    lines.extend(reply.levels.iter().map(|level| {
        let mark = if level.team == reply.fails_at {
            "x"
        } else {
            " "
        };
        let team = clean(&level.team);
        match level.limited {
            false => format!("{mark} {team}: no quota counts here"),
            true => format!(
                "{mark} {team}: {} in use or kept, of {} of its own{}",
                gpus(level.load),
                gpus(level.nominal),
                beyond(level)
            ),
        }
    }));
    lines
}

fn beyond(level: &QuotaLevel) -> String {
    match level.borrow.as_ref().map(|limit| limit.units) {
        None | Some(Some(0)) => String::new(),
        Some(None) => " and any number borrowed".into(),
        Some(Some(more)) => format!(" and {} borrowed", gpus(more)),
    }
}

/// The same for programs.
pub fn explain_value(reply: &ExplainQuotaReply) -> Value {
    let levels = reply.levels.iter().map(|level| {
        json!({
            "team": level.team, "limited": level.limited, "load": number(level.load), "nominal": number(level.nominal),
            "borrow": number_or_word(level.borrow.as_ref()),
        })
    });
    let fails_at = Some(&reply.fails_at).filter(|team| !team.is_empty());
    json!({
        "v": 1, "fits": reply.fits, "borrows": reply.borrows, "text": reply.text, "fails_at": fails_at,
        "levels": levels.collect::<Vec<_>>(), "index": reply.index,
    })
}

/// Everything of a list for programs.
pub fn value(reply: &ListTeamsReply) -> Value {
    let flavors = reply.flavors.iter().map(|one| {
        json!({ "gpu": one.flavor, "capacity": number(one.capacity), "nominal": number(one.nominal) })
    });
    json!({
        "v": 1, "teams": reply.teams.iter().map(team_value).collect::<Vec<_>>(), "gpus": flavors.collect::<Vec<_>>(),
        "index": reply.index, "now_ms": reply.now_ms,
    })
}

fn team_value(team: &Team) -> Value {
    let limits: serde_json::Map<String, Value> = (team.limits.iter())
        .map(|limit| (limit.which.clone(), limit.most.into()))
        .collect();
    let people = team.people.iter().map(|one| {
        json!({
            "id": one.user_id, "name": one.name, "member": one.member, "default": one.default, "gpus": number(one.units),
            "running": one.running, "waiting": one.waiting, "used_gpu_hours": number(one.usage / 3_600),
        })
    });
    json!({
        "name": team.name, "weight": team.weight, "open": team.open, "members": team.members, "running": team.running,
        "max_class": team.max_class, "waiting": team.waiting, "used_gpu_hours": number(team.usage / 3_600), "limits": limits,
        "quotas": team.quotas.iter().map(quota_value).collect::<Vec<_>>(),
        "budgets": team.budgets.iter().map(budget_value).collect::<Vec<_>>(),
        "people": people.collect::<Vec<_>>(),
    })
}

fn quota_value(quota: &TeamQuota) -> Value {
    let set = Some(quota).filter(|quota| quota.set);
    json!({
        "gpu": quota.flavor, "nominal": set.map(|quota| number(quota.nominal)),
        "borrow": number_or_word(set.and_then(|quota| quota.borrow.as_ref())),
        "lend": number_or_word(set.and_then(|quota| quota.lend.as_ref())),
        "own": number(quota.own), "in_use": number(quota.load), "per_user": quota.per_user.map(number),
    })
}

fn budget_value(budget: &TeamBudget) -> Value {
    let what = budget.budget.clone().unwrap_or_default();
    let zone = Some(&what.month_zone).filter(|zone| !zone.is_empty());
    let days = Some(what.rolling_days).filter(|days| *days > 0);
    let until = Some(what.until_ms).filter(|until| *until != 0);
    let hours = |unit_ms: u64| number(unit_ms / HOUR_MS);
    json!({
        "gpu": budget.flavor, "gpu_hours": hours(what.limit), "month_zone": zone, "rolling_days": days,
        "when_exhausted": what.when_exhausted, "until_ms": until, "used": hours(budget.used),
        "committed": hours(budget.committed), "left": hours(budget.left), "beyond": hours(budget.beyond),
        "used_gpu_seconds": number(budget.used / 1_000),
    })
}

#[cfg(test)]
#[path = "teams_tests.rs"]
mod tests;
