//! What is printed of teams, for people and for programs.
use mlctl_proto::api::{FlavorInUse, TeamChange, TeamPerson};

use super::*;

fn reply() -> ListTeamsReply {
    let team = Team {
        name: "acme/vision".into(),
        weight: 2,
        quotas: vec![TeamQuota {
            flavor: "H100".into(),
            set: true,
            nominal: 48 * GPU,
            borrow: Some(GpuLimit {
                units: Some(16 * GPU),
            }),
            lend: Some(GpuLimit { units: None }),
            own: 40 * GPU,
            load: 40 * GPU,
            per_user: Some(GPU / 2),
        }],
        limits: vec![TeamLimit {
            which: "max_time".into(),
            most: Some(259_200_000),
        }],
        budgets: vec![TeamBudget {
            flavor: "H100".into(),
            budget: Some(Budget {
                limit: 500 * GPU * HOUR_MS,
                month_zone: String::new(),
                rolling_days: 30,
                when_exhausted: "hold".into(),
                until_ms: 0,
            }),
            used: 400 * GPU * HOUR_MS,
            committed: 8 * GPU * HOUR_MS,
            left: 67 * GPU * HOUR_MS,
            beyond: 0,
        }],
        people: vec![TeamPerson {
            user_id: "u-1".into(),
            name: "ann".into(),
            member: true,
            default: true,
            units: 40 * GPU,
            running: 3,
            waiting: 1,
            usage: GPU * 7_200,
        }],
        members: 1,
        running: 3,
        waiting: 1,
        usage: GPU * 7_200,
        open: false,
        max_class: "high".into(),
    };
    ListTeamsReply {
        teams: vec![team],
        flavors: vec![FlavorInUse {
            flavor: "H100".into(),
            capacity: 40 * GPU,
            nominal: 48 * GPU,
        }],
        index: 7,
        now_ms: 9,
    }
}

#[test]
fn tables_have_a_cell_for_each_title() {
    let reply = reply();
    let rows = [
        (teams_rows(&reply), TEAMS_HEAD.len()),
        (people_rows(&reply), PEOPLE_HEAD.len()),
        (quota_rows(&reply), QUOTA_HEAD.len()),
        (usage_rows(&reply), USAGE_HEAD.len()),
    ];
    for (rows, width) in rows {
        assert!(
            !rows.is_empty() && rows.iter().all(|row| row.len() == width),
            "{rows:?}"
        );
    }
    assert_eq!(
        quota_rows(&reply)[0],
        [
            "acme/vision",
            "H100",
            "40",
            "48",
            "16",
            "unlimited",
            "0.5",
            "400 + 8 committed of 500 in 30 d, then hold"
        ]
    );
    assert_eq!(teams_rows(&reply)[0][5..], ["40/48 H100", "max_time 3 d"]);
    assert_eq!(
        usage_rows(&reply)[1],
        ["acme/vision", "ann", "40", "3", "2 GPU-h"]
    );
}

#[test]
fn too_little_and_nearly_used_up_are_said() {
    let warnings = warnings(&reply());
    assert!(
        warnings[0].contains("48 H100 of their own together, and nodes that take work have 40")
    );
    assert!(warnings[1].contains("81 % of the GPU-hours of H100 of acme/vision"));
}

#[test]
fn programs_get_numbers_and_words() {
    let value = value(&reply());
    let team = &value["teams"][0];
    assert_eq!(team["quotas"][0]["per_user"], json!(0.5));
    assert_eq!(
        (&team["quotas"][0]["borrow"], &team["quotas"][0]["lend"]),
        (&json!(16), &json!("unlimited"))
    );
    assert_eq!(
        (
            &team["budgets"][0]["left"],
            &team["budgets"][0]["month_zone"]
        ),
        (&json!(67), &Value::Null)
    );
    assert_eq!(team["limits"]["max_time"], 259_200_000);
}

#[test]
fn changes_and_explanations_are_lines() {
    let change = |before: &str, after: &str| TeamChange {
        team: "t".into(),
        what: "quota H100".into(),
        before: before.into(),
        after: after.into(),
    };
    let reply = ChangeTeamsReply {
        changes: vec![change("none", "5"), change("", "made"), change("in", "")],
        notes: vec!["so".into()],
        index: 0,
    };
    assert_eq!(
        change_lines(&reply, true),
        [
            "t: quota H100 would be 5, was none",
            "t: quota H100 would be made",
            "t: quota H100 would be gone",
            "note: so",
            "nothing was changed: this was a dry run",
        ]
    );
    let explain = ExplainQuotaReply {
        fits: false,
        borrows: false,
        text: "quota of team t: 1 + 1 > 1".into(),
        fails_at: "t".into(),
        levels: vec![QuotaLevel {
            team: "t".into(),
            limited: true,
            load: GPU,
            nominal: GPU,
            borrow: Some(GpuLimit { units: Some(0) }),
        }],
        index: 3,
    };
    assert_eq!(
        explain_lines(&explain),
        [
            "does not fit: quota of team t: 1 + 1 > 1",
            "x t: 1 in use or kept, of 1 of its own"
        ]
    );
    assert_eq!(explain_value(&explain)["fails_at"], "t");
}
