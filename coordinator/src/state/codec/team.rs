//! Teams, what they have used and what their budgets have come to, as bytes; and the changes of teams.
use std::collections::BTreeMap;

use mlctl_proto::persist::{self, budget, limit, team_edit::What};
use mlctl_proto::spec::Class;
use mlctl_proto::units::UtcMs;
use prost::Message;

use super::turn::{class_number, class_of};
use super::words::Word;
use super::{CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, known_version, message, missing};
use crate::state::commands::{
    ChangeTeams, NewMember, RemoveTeam, SetBudget, SetMembers, SetQuota, SetTeam, TeamEdit,
};
use crate::state::records::{
    Account, Budget, BudgetAccount, Charge, Decayed, Member, Team, TeamChange, TeamLimit,
    TeamUsage, WhenExhausted, Window, Zone,
};
use crate::state::view::teams::{Flavor, Limit, Quota};

impl Record for Team {
    const TABLE: u8 = 2;
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn key_bytes(key: &String) -> Vec<u8> {
        key.as_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        let quotas = self.quotas.iter();
        let caps = self.user_caps.iter();
        let limits = self.limits.iter();
        let members = self.members.iter();
        let budgets = self.budgets.iter();
        persist::TeamRecord {
            version: RECORD_VERSION,
            name: self.name.clone(),
            extra_weight: self.weight.saturating_sub(1),
            quotas: quotas
                .map(|(flavor, quota)| encode_quota(flavor, quota))
                .collect(),
            user_caps: caps
                .map(|(flavor, units)| persist::UserCap {
                    flavor: Some(encode_flavor(flavor)),
                    units: *units,
                })
                .collect(),
            limits: limits
                .map(|(which, most)| encode_team_limit(*which, Some(*most)))
                .collect(),
            members: members
                .map(|(user, member)| persist::TeamMember {
                    user_id: user.clone(),
                    name: member.name.clone(),
                    default: member.default,
                })
                .collect(),
            budgets: budgets
                .map(|(flavor, budget)| encode_budget(flavor, budget))
                .collect(),
            max_class: self.max_class.map(|class| encode_max(Some(class))),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let record: persist::TeamRecord = message("a team", bytes, ROW_BYTES_MAX)?;
        known_version("a team", record.version)?;
        let mut team = Self::new(record.name);
        team.weight = record.extra_weight.saturating_add(1);
        for quota in record.quotas {
            let (flavor, quota) = decode_quota(quota)?;
            team.quotas.insert(flavor, quota);
        }
        for cap in record.user_caps {
            team.user_caps.insert(decode_flavor(cap.flavor)?, cap.units);
        }
        for limit in record.limits {
            let (which, most) = decode_team_limit(&limit)?;
            let most = most.ok_or_else(|| missing("a limit of a team", "number"))?;
            team.limits.insert(which, most);
        }
        for member in record.members {
            let (name, default) = (member.name, member.default);
            team.members
                .insert(member.user_id, Member { name, default });
        }
        for budget in record.budgets {
            let (flavor, budget) = decode_budget(budget)?;
            team.budgets.insert(flavor, budget);
        }
        if let Some(max) = record.max_class {
            team.max_class = decode_max(max)?;
        }
        Ok(team)
    }
}

impl Record for TeamUsage {
    const TABLE: u8 = 30;
    type Key = (String, String);

    fn key(&self) -> Self::Key {
        (self.team.clone(), self.user.clone())
    }

    fn key_bytes((team, user): &Self::Key) -> Vec<u8> {
        pair(team, user)
    }

    fn encode(&self) -> Vec<u8> {
        let value = self.usage.value;
        persist::TeamUsageRecord {
            version: RECORD_VERSION,
            team: self.team.clone(),
            user: self.user.clone(),
            value_high: (value >> 64) as u64,
            value_low: value as u64,
            half_life: self.usage.half_life,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "a team's usage";
        let record: persist::TeamUsageRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        let high = u128::from(record.value_high) << 64;
        Ok(Self {
            team: record.team,
            user: record.user,
            usage: Decayed {
                value: high | u128::from(record.value_low),
                half_life: record.half_life,
            },
        })
    }
}

impl Record for BudgetAccount {
    const TABLE: u8 = 31;
    type Key = (String, Flavor);

    fn key(&self) -> Self::Key {
        (self.team.clone(), self.flavor.clone())
    }

    fn key_bytes((team, flavor): &Self::Key) -> Vec<u8> {
        let pool = flavor.pool.as_deref().unwrap_or_default();
        pair(team, &format!("{}@{pool}", flavor.kind))
    }

    fn encode(&self) -> Vec<u8> {
        persist::BudgetAccountRecord {
            version: RECORD_VERSION,
            team: self.team.clone(),
            flavor: Some(encode_flavor(&self.flavor)),
            used: encode_pieces(&self.account.used),
            committed: encode_pieces(&self.account.committed),
            beyond: self.account.beyond,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "a budget's account";
        let record: persist::BudgetAccountRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        Ok(Self {
            team: record.team,
            flavor: decode_flavor(record.flavor)?,
            account: Account {
                used: decode_pieces(record.used),
                committed: decode_pieces(record.committed),
                beyond: record.beyond,
            },
        })
    }
}

/// Two texts as one key: neither holds a zero byte where it was checked, and where not, the record says itself who it is.
fn pair(first: &str, second: &str) -> Vec<u8> {
    [first.as_bytes(), &[0], second.as_bytes()].concat()
}

fn encode_pieces(pieces: &BTreeMap<UtcMs, u64>) -> Vec<persist::PieceOfTime> {
    let piece = |(begin_ms, amount): (&UtcMs, &u64)| persist::PieceOfTime {
        begin_ms: *begin_ms,
        amount: *amount,
    };
    pieces.iter().map(piece).collect()
}

fn decode_pieces(pieces: Vec<persist::PieceOfTime>) -> BTreeMap<UtcMs, u64> {
    let piece = |piece: persist::PieceOfTime| (piece.begin_ms, piece.amount);
    pieces.into_iter().map(piece).collect()
}

fn encode_flavor(flavor: &Flavor) -> persist::Flavor {
    persist::Flavor {
        kind: flavor.kind.to_string(),
        pool: flavor.pool.as_deref().unwrap_or_default().to_owned(),
    }
}

fn decode_flavor(flavor: Option<persist::Flavor>) -> Result<Flavor, CodecError> {
    let flavor = flavor.ok_or_else(|| missing("what a quota is about", "type"))?;
    let pool = Some(flavor.pool).filter(|pool| !pool.is_empty());
    Ok(Flavor {
        kind: flavor.kind.into(),
        pool: pool.map(Into::into),
    })
}

fn encode_limit(limit: Limit) -> persist::Limit {
    let most = match limit {
        Limit::Units(units) => limit::Most::Units(units),
        Limit::Unlimited => limit::Most::Unlimited(persist::Unlimited {}),
    };
    persist::Limit { most: Some(most) }
}

fn decode_limit(limit: persist::Limit) -> Result<Limit, CodecError> {
    match limit.most.ok_or_else(|| missing("a limit", "number"))? {
        limit::Most::Units(units) => Ok(Limit::Units(units)),
        limit::Most::Unlimited(_) => Ok(Limit::Unlimited),
    }
}

fn some_limit(limit: Option<persist::Limit>) -> Result<Option<Limit>, CodecError> {
    limit.map(decode_limit).transpose()
}

fn encode_quota(flavor: &Flavor, quota: &Quota) -> persist::Quota {
    persist::Quota {
        flavor: Some(encode_flavor(flavor)),
        nominal: quota.nominal,
        borrow: Some(encode_limit(quota.borrow)),
        lend: Some(encode_limit(quota.lend)),
    }
}

fn decode_quota(quota: persist::Quota) -> Result<(Flavor, Quota), CodecError> {
    let lacks = |field| move || missing("a quota", field);
    let borrow = quota.borrow.ok_or_else(lacks("borrowing"))?;
    let lend = quota.lend.ok_or_else(lacks("lending"))?;
    let decoded = Quota {
        nominal: quota.nominal,
        borrow: decode_limit(borrow)?,
        lend: decode_limit(lend)?,
    };
    Ok((decode_flavor(quota.flavor)?, decoded))
}

fn encode_team_limit(which: TeamLimit, most: Option<u64>) -> persist::TeamLimit {
    persist::TeamLimit {
        which: which.number(),
        most,
    }
}

fn decode_team_limit(limit: &persist::TeamLimit) -> Result<(TeamLimit, Option<u64>), CodecError> {
    Ok((TeamLimit::from_number(limit.which)?, limit.most))
}

fn encode_max(class: Option<Class>) -> persist::MaxClass {
    persist::MaxClass {
        class: class.map(|class| class_number(class).into()),
    }
}

fn decode_max(max: persist::MaxClass) -> Result<Option<Class>, CodecError> {
    max.class.map(class_of).transpose()
}

fn encode_budget(flavor: &Flavor, budget: &Budget) -> persist::Budget {
    let offset = |(from_ms, seconds): &(UtcMs, i32)| persist::ZoneOffset {
        from_ms: *from_ms,
        seconds: *seconds,
    };
    let window = match &budget.window {
        Window::Month(zone) => budget::Window::Month(persist::Zone {
            name: zone.name.clone(),
            offsets: zone.offsets.iter().map(offset).collect(),
        }),
        Window::Rolling(days) => budget::Window::RollingDays(*days),
    };
    persist::Budget {
        flavor: Some(encode_flavor(flavor)),
        limit: budget.limit,
        window: Some(window),
        when_exhausted: budget.when_exhausted.number(),
        until_ms: budget.until_ms,
    }
}

fn decode_budget(budget: persist::Budget) -> Result<(Flavor, Budget), CodecError> {
    let window = budget.window.ok_or_else(|| missing("a budget", "window"))?;
    let offset = |offset: persist::ZoneOffset| (offset.from_ms, offset.seconds);
    let window = match window {
        budget::Window::Month(zone) => Window::Month(Zone {
            name: zone.name,
            offsets: zone.offsets.into_iter().map(offset).collect(),
        }),
        budget::Window::RollingDays(days) => Window::Rolling(days),
    };
    let decoded = Budget {
        limit: budget.limit,
        window,
        when_exhausted: WhenExhausted::from_number(budget.when_exhausted)?,
        until_ms: budget.until_ms,
    };
    Ok((decode_flavor(budget.flavor)?, decoded))
}

pub(super) fn encode_charge(charge: &Charge) -> persist::ChargeRecord {
    persist::ChargeRecord {
        flavor: Some(encode_flavor(&charge.flavor)),
        units: charge.units,
        from_ms: charge.from_ms,
        until_ms: charge.until_ms,
        at: charge.at.clone(),
    }
}

pub(super) fn decode_charge(charge: persist::ChargeRecord) -> Result<Charge, CodecError> {
    Ok(Charge {
        flavor: decode_flavor(charge.flavor)?,
        units: charge.units,
        from_ms: charge.from_ms,
        until_ms: charge.until_ms,
        at: charge.at,
    })
}

pub(super) fn encode_changes(changes: &[TeamChange], notes: &[String]) -> persist::TeamsChanged {
    let change = |one: &TeamChange| persist::TeamChange {
        team: one.team.clone(),
        what: one.what.clone(),
        before: one.before.clone(),
        after: one.after.clone(),
    };
    persist::TeamsChanged {
        changes: changes.iter().map(change).collect(),
        notes: notes.to_vec(),
    }
}

pub(super) fn decode_changes(changed: persist::TeamsChanged) -> (Vec<TeamChange>, Vec<String>) {
    let change = |one: persist::TeamChange| TeamChange {
        team: one.team,
        what: one.what,
        before: one.before,
        after: one.after,
    };
    (
        changed.changes.into_iter().map(change).collect(),
        changed.notes,
    )
}

pub(super) fn encode_change_teams(change: &ChangeTeams) -> persist::ChangeTeams {
    persist::ChangeTeams {
        edits: change.edits.iter().map(encode_edit).collect(),
    }
}

pub(super) fn decode_change_teams(change: persist::ChangeTeams) -> Result<ChangeTeams, CodecError> {
    let edits = change.edits.into_iter().map(decode_edit);
    Ok(ChangeTeams {
        edits: edits.collect::<Result<_, _>>()?,
    })
}

fn encode_edit(edit: &TeamEdit) -> persist::TeamEdit {
    let what = match edit {
        TeamEdit::Team(set) => What::Team(persist::SetTeam {
            team: set.team.clone(),
            weight: set.weight,
            limits: (set.limits.iter())
                .map(|(which, most)| encode_team_limit(*which, *most))
                .collect(),
            max_class: set.max_class.map(encode_max),
        }),
        TeamEdit::Remove(remove) => What::Remove(persist::RemoveTeam {
            team: remove.team.clone(),
        }),
        TeamEdit::Quota(set) => What::Quota(persist::SetQuota {
            team: set.team.clone(),
            flavor: Some(encode_flavor(&set.flavor)),
            nominal: set.nominal,
            borrow: set.borrow.map(encode_limit),
            lend: set.lend.map(encode_limit),
            per_user: set.per_user.map(encode_limit),
            remove: set.remove,
        }),
        TeamEdit::Members(set) => What::Members(persist::SetMembers {
            team: set.team.clone(),
            add: set.add.iter().map(encode_new_member).collect(),
            remove: set.remove.clone(),
        }),
        TeamEdit::Budget(set) => What::Budget(persist::SetBudget {
            team: set.team.clone(),
            flavor: Some(encode_flavor(&set.flavor)),
            budget: (set.budget.as_ref()).map(|budget| encode_budget(&set.flavor, budget)),
        }),
    };
    persist::TeamEdit { what: Some(what) }
}

fn encode_new_member(new: &NewMember) -> persist::TeamMember {
    persist::TeamMember {
        user_id: new.user_id.clone(),
        name: new.name.clone(),
        default: new.default,
    }
}

fn decode_edit(edit: persist::TeamEdit) -> Result<TeamEdit, CodecError> {
    let what = edit
        .what
        .ok_or_else(|| missing("a change of teams", "content"))?;
    Ok(match what {
        What::Team(set) => TeamEdit::Team(SetTeam {
            team: set.team,
            weight: set.weight,
            limits: (set.limits.iter())
                .map(decode_team_limit)
                .collect::<Result<_, _>>()?,
            max_class: set.max_class.map(decode_max).transpose()?,
        }),
        What::Remove(remove) => TeamEdit::Remove(RemoveTeam { team: remove.team }),
        What::Quota(set) => TeamEdit::Quota(SetQuota {
            team: set.team,
            flavor: decode_flavor(set.flavor)?,
            nominal: set.nominal,
            borrow: some_limit(set.borrow)?,
            lend: some_limit(set.lend)?,
            per_user: some_limit(set.per_user)?,
            remove: set.remove,
        }),
        What::Members(set) => TeamEdit::Members(SetMembers {
            team: set.team,
            add: set.add.into_iter().map(decode_new_member).collect(),
            remove: set.remove,
        }),
        What::Budget(set) => TeamEdit::Budget(SetBudget {
            team: set.team,
            flavor: decode_flavor(set.flavor)?,
            budget: match set.budget {
                None => None,
                Some(budget) => Some(decode_budget(budget)?.1),
            },
        }),
    })
}

fn decode_new_member(member: persist::TeamMember) -> NewMember {
    NewMember {
        user_id: member.user_id,
        name: member.name,
        default: member.default,
    }
}
