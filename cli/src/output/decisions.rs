//! What admins decide about scheduling as cells and lines for people, and as JSON.
use mlctl_proto::api::{
    ChangeTeamsReply, DecideReply, Decisions, License, Maintenance, NodeOwner, Pause,
};
use mlctl_proto::spec::{Moment, Time};
use serde_json::{Value, json};

use super::clean::clean;
use super::teams;

/// Titles of [`settings_rows`].
pub const SETTINGS_HEAD: [&str; 3] = ["SETTING", "VALUE", "SHIPPED"];
/// Titles of [`maintenance_rows`].
pub const MAINTENANCE_HEAD: [&str; 6] = ["NUMBER", "OF", "FROM", "UNTIL", "BY", "WHY"];
/// Titles of [`rows`].
pub const HEAD: [&str; 3] = ["WHAT", "OF", "HOW"];

/// A time, in UTC.
pub fn moment(ms: i64) -> String {
    Moment::from_ms(ms).map_or_else(|| "-".into(), |moment| moment.to_string())
}

fn length(ms: u64) -> String {
    Time::from_seconds(ms / 1_000).map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}

fn target(one: &Maintenance) -> String {
    match one.node.as_str() {
        "" => format!("pool {}", clean(&one.pool)),
        node => format!("node {}", clean(node)),
    }
}

/// A setting a line.
pub fn settings_rows(reply: &Decisions) -> Vec<Vec<String>> {
    let row = |one: &mlctl_proto::api::Setting| {
        let shipped = if one.shipped { "yes" } else { "no" };
        vec![clean(&one.key), clean(&one.value), shipped.to_owned()]
    };
    reply.settings.iter().map(row).collect()
}

/// The same for programs.
pub fn settings_value(reply: &Decisions) -> Value {
    let settings = reply
        .settings
        .iter()
        .map(|one| json!({ "key": one.key, "value": one.value, "shipped": one.shipped }));
    json!({ "v": 1, "settings": settings.collect::<Vec<_>>(), "index": reply.index })
}

/// A time of maintenance a line.
pub fn maintenance_rows(reply: &Decisions) -> Vec<Vec<String>> {
    let row = |one: &Maintenance| {
        vec![
            one.id.to_string(),
            target(one),
            moment(one.from_ms),
            moment(one.until_ms),
            clean(&one.by),
            clean(&one.reason),
        ]
    };
    reply.maintenance.iter().map(row).collect()
}

/// The same for programs.
pub fn maintenance_value(reply: &Decisions) -> Value {
    let all: Vec<Value> = reply.maintenance.iter().map(window_value).collect();
    json!({ "v": 1, "maintenance": all, "index": reply.index })
}

/// A time of maintenance for programs.
pub fn window_value(one: &Maintenance) -> Value {
    json!({
        "id": one.id, "node": some(&one.node), "pool": some(&one.pool), "from_ms": one.from_ms,
        "until_ms": one.until_ms, "reason": one.reason, "by": one.by,
    })
}

/// An owner of a node for programs.
pub fn owner_value(one: &NodeOwner) -> Value {
    json!({ "node": one.node, "team": one.team, "guests": one.guests, "guest_grace_ms": one.guest_grace_ms })
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A pause for programs.
pub fn pause_value(one: &Pause) -> Value {
    let until_ms = Some(one.until_ms).filter(|until| *until > 0);
    json!({
        "what": one.what, "pool": some(&one.pool), "until_ms": until_ms, "reason": one.reason,
        "by": one.by, "since_ms": one.since_ms,
    })
}

/// Everything but settings, a line each: what is paused first.
pub fn rows(reply: &Decisions) -> Vec<Vec<String>> {
    let row = |what: &str, of: String, how: String| vec![what.to_owned(), of, how];
    let pause = |one: &Pause| {
        let of = match one.pool.as_str() {
            "" => "everywhere".to_owned(),
            pool => format!("pool {}", clean(pool)),
        };
        row("paused", of, clean(&one.text))
    };
    let window = |one: &Maintenance| {
        let (from, until) = (moment(one.from_ms), moment(one.until_ms));
        let how = format!(
            "{}: {from} to {until} ({}: {})",
            one.id,
            clean(&one.by),
            clean(&one.reason)
        );
        row("maintenance", target(one), how)
    };
    let owner = |one: &NodeOwner| {
        let grace = match one.guest_grace_ms {
            0 => String::new(),
            ms => format!(", which get {} notice", length(ms)),
        };
        let how = format!("{}, guests {}{grace}", clean(&one.team), clean(&one.guests));
        row("owner", format!("node {}", clean(&one.node)), how)
    };
    let license = |one: &License| {
        let how = format!("{} of {} held", one.held, one.total);
        row("license", clean(&one.name), how)
    };
    let mut all: Vec<Vec<String>> = reply.pauses.iter().map(pause).collect();
    all.extend(reply.maintenance.iter().map(window));
    all.extend(reply.owners.iter().map(owner));
    all.extend(reply.licenses.iter().map(license));
    all
}

/// Everything for programs.
pub fn value(reply: &Decisions) -> Value {
    let mut value = settings_value(reply);
    let list = |all: Vec<Value>| Value::Array(all);
    value["paused"] = list(reply.pauses.iter().map(pause_value).collect());
    value["maintenance"] = list(reply.maintenance.iter().map(window_value).collect());
    value["owners"] = list(reply.owners.iter().map(owner_value).collect());
    let license = |one: &License| json!({ "name": one.name, "total": one.total, "held": one.held });
    value["licenses"] = list(reply.licenses.iter().map(license).collect());
    value
}

/// What a change did, or would do, a line each.
pub fn change_lines(reply: &DecideReply, dry_run: bool) -> Vec<String> {
    let reply = ChangeTeamsReply {
        changes: reply.changes.clone(),
        notes: reply.notes.clone(),
        index: reply.index,
    };
    teams::change_lines(&reply, dry_run)
}

/// The same for programs.
pub fn change_value(reply: &DecideReply, dry_run: bool) -> Value {
    let changes = reply.changes.iter().map(
        |one| json!({ "of": one.team, "what": one.what, "before": one.before, "after": one.after }),
    );
    json!({ "v": 1, "dry_run": dry_run, "changes": changes.collect::<Vec<_>>(), "notes": reply.notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> Decisions {
        Decisions {
            pauses: vec![Pause {
                what: "starts".into(),
                text: "starts are paused\u{1b}[2J until an admin resumes it (root: x)".into(),
                ..Pause::default()
            }],
            maintenance: vec![Maintenance {
                id: 7,
                pool: "spot".into(),
                from_ms: 1_893_456_000_000,
                until_ms: 1_893_459_600_000,
                reason: "disks".into(),
                by: "root".into(),
                ..Maintenance::default()
            }],
            owners: vec![NodeOwner {
                node: "a".into(),
                team: "acme".into(),
                guests: "any".into(),
                guest_grace_ms: 300_000,
            }],
            licenses: vec![License {
                name: "ansys".into(),
                total: 3,
                held: 2,
            }],
            ..Decisions::default()
        }
    }

    #[test]
    fn each_kind_has_its_line_and_nothing_reaches_the_terminal_as_it_is() {
        let rows = rows(&reply());
        let lines: Vec<String> = rows.iter().map(|row| row.join(" ")).collect();
        assert!(
            !lines[0].contains('\u{1b}')
                && lines[0].starts_with("paused everywhere starts are paused")
        );
        assert_eq!(
            lines[1..],
            [
                "maintenance pool spot 7: 2030-01-01T00:00:00Z to 2030-01-01T01:00:00Z (root: disks)",
                "owner node a acme, guests any, which get 5m notice",
                "license ansys 2 of 3 held",
            ]
        );
    }

    #[test]
    fn programs_are_told_what_is_not_said_as_null() {
        let value = value(&reply());
        assert_eq!(value["paused"][0]["until_ms"], Value::Null);
        assert_eq!(value["maintenance"][0]["node"], Value::Null);
        assert_eq!(value["maintenance"][0]["pool"], "spot");
        assert_eq!(value["licenses"][0]["held"], 2);
    }
}
