//! SetBudget: what a team may use up of one flavor in a month, or in the last so many days (docs/QUOTAS.md, Budgets). Does NOT take back what was used.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::limits::{BUDGET_UNIT_MS_MAX, TEAM_FLAVORS_MAX, ZONE_OFFSETS_MAX};

use super::tree::{Around, Tree, check_flavor, refused};
use crate::state::records::{Budget, WhenExhausted, Window, Zone};
use crate::state::rules::flavors::{flavor_text, gpu_hours_text};
use crate::state::rules::window::ROLLING_DAYS_MAX;
use crate::state::view::teams::Flavor;

/// The most that a clock is ahead of UTC, or behind, seconds.
const OFFSET_S_MAX: i32 = 26 * 3_600;

/// A budget, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetBudget {
    /// The team.
    pub team: String,
    /// Of what.
    pub flavor: Flavor,
    /// All of it; `None` takes it away.
    pub budget: Option<Budget>,
}

impl SetBudget {
    pub(super) fn edit(&self, tree: &mut Tree, around: &Around) -> Result<(), Refusal> {
        let mut team = tree.team(&self.team)?;
        check_flavor(&self.flavor, tree, around)?;
        let (name, shown) = (team.name.clone(), flavor_text(&self.flavor));
        let before = team.budgets.get(&self.flavor).cloned();
        match &self.budget {
            None if before.is_none() => {
                let why = format!(
                    "`{name}` has no budget of {shown}: `mlctl quota show` lists what it has"
                );
                return Err(Refusal::new(Code::NotFound, why));
            }
            None => drop(team.budgets.remove(&self.flavor)),
            Some(budget) => {
                check(budget, around, &shown)?;
                team.budgets.insert(self.flavor.clone(), budget.clone());
            }
        }
        if team.budgets.len() > TEAM_FLAVORS_MAX {
            let why = format!(
                "`{name}` would have budgets of more than {TEAM_FLAVORS_MAX} types of GPUs"
            );
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        tree.change(
            &name,
            format!("budget {shown}"),
            budget_text(before.as_ref()),
            budget_text(self.budget.as_ref()),
        );
        tree.put(team);
        Ok(())
    }
}

fn check(budget: &Budget, around: &Around, shown: &str) -> Result<(), Refusal> {
    if !(1..=BUDGET_UNIT_MS_MAX).contains(&budget.limit) {
        let (limit, most) = (
            gpu_hours_text(budget.limit),
            gpu_hours_text(BUDGET_UNIT_MS_MAX),
        );
        return Err(refused(format!(
            "a budget of {limit} of {shown}: use more than 0 and at most {most}; no quota at all is a quota of 0"
        )));
    }
    if budget.until_ms != 0 && budget.until_ms <= around.now_ms {
        return Err(refused(format!(
            "the budget of {shown} would have ended already: name a day that is ahead, or none"
        )));
    }
    match &budget.window {
        Window::Rolling(days) if !(1..=ROLLING_DAYS_MAX).contains(days) => Err(refused(format!(
            "a budget over {days} days: use 1 to {ROLLING_DAYS_MAX}, or `month`"
        ))),
        Window::Rolling(_) => Ok(()),
        Window::Month(zone) => check_zone(zone),
    }
}

fn check_zone(zone: &Zone) -> Result<(), Refusal> {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    let named = (1..=64).contains(&zone.name.len()) && zone.name.chars().all(part);
    let ascending = zone.offsets.is_sorted_by(|one, next| one.0 < next.0);
    let counted = (1..=ZONE_OFFSETS_MAX).contains(&zone.offsets.len());
    let known = zone
        .offsets
        .iter()
        .all(|(_, seconds)| seconds.abs_diff(0) <= OFFSET_S_MAX.unsigned_abs());
    match named && ascending && counted && known {
        true => Ok(()),
        false => Err(refused(format!(
            "`{}` is no time zone with a clock: use a name such as Europe/Berlin or UTC",
            clip(&zone.name)
        ))),
    }
}

/// A budget as people read it: `20000 GPU-h each month (UTC), then hold`.
pub fn budget_text(budget: Option<&Budget>) -> String {
    let Some(budget) = budget else {
        return "none".into();
    };
    let window = match &budget.window {
        Window::Month(zone) => format!("each month ({})", zone.name),
        Window::Rolling(1) => "in 1 day".into(),
        Window::Rolling(days) => format!("in {days} days"),
    };
    let until = if budget.until_ms == 0 {
        ""
    } else {
        ", with an end"
    };
    let then = exhausted_word(budget.when_exhausted);
    format!(
        "{} {window}, then {then}{until}",
        gpu_hours_text(budget.limit)
    )
}

/// The word for what happens when a budget covers no more.
pub fn exhausted_word(when: WhenExhausted) -> &'static str {
    match when {
        WhenExhausted::Hold => "hold",
        WhenExhausted::LowPriority => "low_priority",
        WhenExhausted::Stop => "stop",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::testing::{flavor, lines, tree, try_on};
    use super::*;

    fn budget(limit: u64, window: Window) -> Budget {
        Budget {
            limit,
            window,
            when_exhausted: WhenExhausted::Hold,
            until_ms: 0,
        }
    }

    fn set(tree: &mut Tree, team: &str, budget: Option<Budget>) -> Result<(), String> {
        let edit = SetBudget {
            team: team.into(),
            flavor: flavor("h100"),
            budget,
        };
        try_on(tree, |tree, around| edit.edit(tree, around))
    }

    #[test]
    fn it_is_set_and_changed_and_taken_away() {
        let mut tree = tree(&["t"]);
        let month = budget(7_000 * 3_600_000 * 100, Window::Month(Zone::utc()));
        set(&mut tree, "t", Some(month)).expect("it makes sense");
        let rolling = Budget {
            until_ms: 2_000_000,
            ..budget(7_000 * 1_800_000, Window::Rolling(30))
        };
        set(&mut tree, "t", Some(rolling)).expect("it makes sense");
        set(&mut tree, "t", None).expect("it makes sense");
        assert_eq!(
            lines(tree),
            [
                "t budget H100: none -> 100 GPU-h each month (UTC), then hold",
                "t budget H100: 100 GPU-h each month (UTC), then hold -> 0.5 GPU-h in 30 days, then hold, with an end",
                "t budget H100: 0.5 GPU-h in 30 days, then hold, with an end -> none",
            ]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let zone = |name: &str, offsets: Vec<(i64, i32)>| {
            let zone = Zone {
                name: name.into(),
                offsets,
            };
            budget(1, Window::Month(zone))
        };
        let ended = |until_ms| Budget {
            until_ms,
            ..budget(1, Window::Rolling(1))
        };
        for (wanted, part) in [
            (budget(0, Window::Rolling(1)), "use more than 0"),
            (budget(u64::MAX, Window::Rolling(1)), "use more than 0"),
            (budget(1, Window::Rolling(0)), "0 days"),
            (budget(1, Window::Rolling(u32::MAX)), "use 1 to 366"),
            (ended(1_000_000), "ended already"),
            (ended(-5), "ended already"),
            (zone("", vec![(0, 0)]), "no time zone"),
            (zone("UTC", vec![]), "no time zone"),
            (zone("UTC", vec![(1, 0), (1, 0)]), "no time zone"),
            (zone("UTC", vec![(0, i32::MIN)]), "no time zone"),
            (zone("../etc", vec![(0, 0)]), "no time zone"),
            (zone("UTC", vec![(0, 0); 600]), "no time zone"),
        ] {
            let mut tree = tree(&["t"]);
            let why = set(&mut tree, "t", Some(wanted)).expect_err(part);
            assert!(why.contains(part), "{part}: {why}");
        }
        assert!(
            set(&mut tree(&["t"]), "t", None)
                .expect_err("none")
                .contains("no budget")
        );
        assert!(
            set(&mut tree(&["t"]), "x", None)
                .expect_err("none")
                .contains("no team `x`")
        );
    }
}
