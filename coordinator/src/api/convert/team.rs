//! Teams as people and programs see them, and what they ask to change.
use mlctl_proto::api::{self, team_edit::What};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::spec::Class;
use mlctl_proto::units::UtcMs;

use crate::api::zones::zone;
use crate::state::State;
use crate::state::commands::{
    NewMember, RemoveTeam, SetBudget, SetMembers, SetQuota, SetTeam, TeamEdit, exhausted_word,
};
use crate::state::records::{
    Budget, EVERYBODYS, Team, TeamChange, TeamLimit, WhenExhausted, Window,
};
use crate::state::rules::decay;
use crate::state::rules::flavors::flavor_text;
use crate::state::rules::quota::Ledger;
use crate::state::view::teams::{Flavor, Limit};

fn bad(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, why)
}

/// An edit as a command has it. Names of users become ids here: the command decides by ids alone.
pub fn edit(state: &State, edit: api::TeamEdit, now_ms: UtcMs) -> Result<TeamEdit, Refusal> {
    let what = edit
        .what
        .ok_or_else(|| bad("a change of teams says nothing"))?;
    Ok(match what {
        What::Team(set) => TeamEdit::Team(SetTeam {
            team: set.team,
            weight: set.weight,
            limits: (set.limits.iter()).map(limit).collect::<Result<_, _>>()?,
            max_class: set.max_class.as_deref().map(max_class).transpose()?,
        }),
        What::Remove(remove) => TeamEdit::Remove(RemoveTeam { team: remove.team }),
        What::Quota(set) => TeamEdit::Quota(SetQuota {
            team: set.team,
            flavor: flavor(&set.flavor),
            nominal: set.nominal,
            borrow: set.borrow.map(gpus),
            lend: set.lend.map(gpus),
            per_user: set.per_user.map(gpus),
            remove: set.remove,
        }),
        What::Members(set) => TeamEdit::Members(members(state, &set)?),
        What::Budget(set) => TeamEdit::Budget(SetBudget {
            flavor: flavor(&set.flavor),
            budget: match &set.budget {
                None => None,
                Some(one) => Some(budget(one, now_ms)?),
            },
            team: set.team,
        }),
    })
}

/// `H100`, `H100@spot`; the command checks it.
pub fn flavor(text: &str) -> Flavor {
    let (kind, pool) = match text.split_once('@') {
        Some((kind, pool)) => (kind, Some(pool)),
        None => (text, None),
    };
    Flavor {
        kind: kind.to_lowercase().into(),
        pool: pool.map(Into::into),
    }
}

fn gpus(limit: api::GpuLimit) -> Limit {
    limit.units.map_or(Limit::Unlimited, Limit::Units)
}

fn shown(limit: Limit) -> api::GpuLimit {
    let units = match limit {
        Limit::Units(units) => Some(units),
        Limit::Unlimited => None,
    };
    api::GpuLimit { units }
}

fn limit(limit: &api::TeamLimit) -> Result<(TeamLimit, Option<u64>), Refusal> {
    let mut all = TeamLimit::ALL.into_iter();
    let which = all.find(|which| which.word() == limit.which);
    let which = which.ok_or_else(|| {
        let words = TeamLimit::ALL.map(TeamLimit::word).join(", ");
        bad(format!(
            "there is no limit `{}`, only {words}",
            clip(&limit.which)
        ))
    })?;
    Ok((which, limit.most))
}

/// The word of a class, or `none`.
fn max_class(text: &str) -> Result<Option<Class>, Refusal> {
    if text == "none" {
        return Ok(None);
    }
    Class::of_word(text).map(Some).ok_or_else(|| {
        let given = clip(text);
        bad(format!(
            "`{given}` is no class: use low, normal, high or critical, or none"
        ))
    })
}

fn members(state: &State, set: &api::SetMembers) -> Result<SetMembers, Refusal> {
    let mut add = Vec::new();
    for new in &set.add {
        let (user_id, name) = user(state, &new.user)?;
        add.push(NewMember {
            user_id,
            name,
            default: new.default,
        });
    }
    let ids = set.remove.iter().map(|text| Ok(user(state, text)?.0));
    Ok(SetMembers {
        team: set.team.clone(),
        add,
        remove: ids.collect::<Result<_, Refusal>>()?,
    })
}

/// Id and name of a user: an id is taken as it is, a name if the cluster has seen exactly one user of it.
fn user(state: &State, text: &str) -> Result<(String, String), Refusal> {
    let members = state.teams().flat_map(|team| &team.members);
    let members = members.map(|(id, member)| (id.as_str(), member.name.as_str()));
    let owners = state
        .jobs()
        .map(|job| (job.owner_id.as_str(), job.owner_name.as_str()));
    let mut found: Vec<(&str, &str)> = (members.chain(owners))
        .filter(|(id, name)| *id == text || *name == text)
        .collect();
    found.sort_unstable();
    found.dedup_by_key(|(id, _)| *id);
    match found.as_slice() {
        [(id, name)] => Ok(((*id).to_owned(), (*name).to_owned())),
        [] if text.starts_with("u-") => Ok((text.to_owned(), String::new())),
        [] => {
            let why = format!(
                "this cluster has seen no user `{}`: give the id, u- and eight digits, that is in users.json beside the cluster's authority",
                clip(text)
            );
            Err(Refusal::new(Code::NotFound, why))
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|(id, _)| *id).collect();
            let why = format!(
                "there are several users `{}`: name one of {}",
                clip(text),
                ids.join(", ")
            );
            Err(Refusal::new(Code::Conflict, why))
        }
    }
}

fn budget(budget: &api::Budget, now_ms: UtcMs) -> Result<Budget, Refusal> {
    let window = match (budget.month_zone.as_str(), budget.rolling_days) {
        ("", 0) => return Err(bad("a budget is for each `month`, or for so many days")),
        ("", days) => Window::Rolling(days),
        (name, 0) => Window::Month(zone(name, now_ms)?),
        _ => {
            return Err(bad(
                "a budget is for each month or for so many days, not both",
            ));
        }
    };
    let words = [
        WhenExhausted::Hold,
        WhenExhausted::LowPriority,
        WhenExhausted::Stop,
    ];
    let found = words
        .into_iter()
        .find(|when| exhausted_word(*when) == budget.when_exhausted);
    let when_exhausted = found.ok_or_else(|| {
        let given = clip(&budget.when_exhausted);
        bad(format!("`{given}` is not what may happen at the end of a budget: use hold, low_priority or stop"))
    })?;
    Ok(Budget {
        limit: budget.limit,
        window,
        when_exhausted,
        until_ms: budget.until_ms,
    })
}

fn shown_budget(budget: &Budget) -> api::Budget {
    let (month_zone, rolling_days) = match &budget.window {
        Window::Month(zone) => (zone.name.clone(), 0),
        Window::Rolling(days) => (String::new(), *days),
    };
    api::Budget {
        limit: budget.limit,
        month_zone,
        rolling_days,
        when_exhausted: exhausted_word(budget.when_exhausted).to_owned(),
        until_ms: budget.until_ms,
    }
}

/// What a change did, or would do.
pub fn change(change: TeamChange) -> api::TeamChange {
    api::TeamChange {
        team: change.team,
        what: change.what,
        before: change.before,
        after: change.after,
    }
}

/// A team with what is in use of it; `people`: with its members and who else uses it.
pub fn team(state: &State, ledger: &Ledger, team: &Team, people: bool) -> api::Team {
    let name = team.name.as_str();
    let held = state.holdings().team(name);
    let view = state.team_view(team);
    let limits = team.limits.iter().map(|(which, most)| api::TeamLimit {
        which: which.word().to_owned(),
        most: Some(*most),
    });
    let people = if people {
        persons(state, team)
    } else {
        Vec::new()
    };
    api::Team {
        name: name.to_owned(),
        weight: team.weight,
        quotas: quotas(state, ledger, team),
        limits: limits.collect(),
        budgets: budgets(state, team),
        people,
        members: u32::try_from(team.members.len()).unwrap_or(u32::MAX),
        running: held.running,
        waiting: held.waiting,
        usage: whole(view.usage),
        open: name == EVERYBODYS && team.members.is_empty(),
        max_class: state.max_class(name).word().to_owned(),
    }
}

/// A usage without what is behind its point.
fn whole(usage: u128) -> u64 {
    u64::try_from(usage >> decay::FRACTION_BITS).unwrap_or(u64::MAX)
}

fn quotas(state: &State, ledger: &Ledger, team: &Team) -> Vec<api::TeamQuota> {
    let own = state.units_by_flavor(&state.holdings().team(&team.name));
    let all = state.flavors().iter().map(|flavor| {
        let quota = team.quotas.get(flavor);
        api::TeamQuota {
            flavor: flavor_text(flavor),
            set: quota.is_some(),
            nominal: quota.map_or(0, |quota| quota.nominal),
            borrow: quota.map(|quota| shown(quota.borrow)),
            lend: quota.map(|quota| shown(quota.lend)),
            own: own.get(flavor).copied().unwrap_or(0),
            load: ledger.load(&team.name, flavor),
            per_user: team.user_caps.get(flavor).copied(),
        }
    });
    all.filter(|one| one.set || one.load > 0 || one.own > 0 || one.per_user.is_some())
        .collect()
}

fn budgets(state: &State, team: &Team) -> Vec<api::TeamBudget> {
    let now_ms = state.now_ms();
    let shown = |(flavor, budget): (&Flavor, &Budget)| {
        let book = state.book(&team.name, flavor, budget);
        let used = book.used(now_ms);
        api::TeamBudget {
            flavor: flavor_text(flavor),
            budget: Some(shown_budget(budget)),
            used,
            committed: book.counted(now_ms).saturating_sub(used),
            left: book.left(now_ms),
            beyond: book.account.beyond,
        }
    };
    team.budgets.iter().map(shown).collect()
}

fn persons(state: &State, team: &Team) -> Vec<api::TeamPerson> {
    let view = state.team_view(team);
    let mut ids: Vec<&str> = team.members.keys().map(String::as_str).collect();
    ids.extend(view.users.keys().map(AsRef::as_ref));
    ids.sort_unstable();
    ids.dedup();
    let person = |id: &str| {
        let member = team.members.get(id);
        let held = state.holdings().of(&team.name, id);
        api::TeamPerson {
            user_id: id.to_owned(),
            name: member.map(|member| member.name.clone()).unwrap_or_default(),
            member: member.is_some(),
            default: member.is_some_and(|member| member.default),
            units: held.all_units(),
            running: held.running,
            waiting: held.waiting,
            usage: view.users.get(id).copied().map_or(0, whole),
        }
    };
    ids.into_iter().map(person).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::Cluster;

    #[test]
    fn users_are_found_by_name_or_id_and_never_guessed() {
        let mut cluster = Cluster::new();
        cluster.submitted("ann", 1, 0);
        let state = &cluster.state;
        for text in ["ann", "id-ann"] {
            assert_eq!(user(state, text), Ok(("id-ann".into(), "ann".into())));
        }
        assert_eq!(
            user(state, "u-00000001"),
            Ok(("u-00000001".into(), String::new()))
        );
        let why = user(state, "bob").expect_err("nobody has seen him");
        assert_eq!(why.code, Code::NotFound);
    }

    #[test]
    fn a_budget_has_one_window_and_one_end() {
        let sound = api::Budget {
            limit: 5,
            month_zone: String::new(),
            rolling_days: 30,
            when_exhausted: "hold".into(),
            until_ms: 0,
        };
        let back = budget(&sound, 0).map(|budget| shown_budget(&budget));
        assert_eq!(back, Ok(sound.clone()));
        let month = api::Budget {
            month_zone: "UTC".into(),
            rolling_days: 0,
            ..sound.clone()
        };
        assert_eq!(
            budget(&month, 0).map(|budget| shown_budget(&budget)),
            Ok(month.clone())
        );
        for spoiled in [
            api::Budget {
                rolling_days: 0,
                ..sound.clone()
            },
            api::Budget {
                rolling_days: 3,
                ..month
            },
            api::Budget {
                when_exhausted: "explode".into(),
                ..sound
            },
        ] {
            assert!(budget(&spoiled, 0).is_err(), "{spoiled:?}");
        }
    }

    #[test]
    fn flavors_and_limits_are_read_as_people_write_them() {
        for text in ["H100", "H100@spot"] {
            assert_eq!(flavor_text(&flavor(text)), text);
        }
        let one = |which: &str| {
            limit(&api::TeamLimit {
                which: which.into(),
                most: Some(3),
            })
        };
        assert_eq!(one("max_running"), Ok((TeamLimit::MaxRunning, Some(3))));
        assert!(
            one("max_jobs")
                .expect_err("there is none")
                .message
                .contains("max_pending")
        );
    }
}
