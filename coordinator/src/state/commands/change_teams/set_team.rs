//! SetTeam: makes a team, or changes its weight and its limits. What is not named stays.
use mlctl_proto::errors::Refusal;
use mlctl_proto::spec::Class;
use mlctl_proto::units::{bytes_text, duration_text};

use super::tree::{Around, Tree, refused};
use crate::state::records::{Team, TeamLimit};
use crate::state::rules::quota_tree::check_path;

/// The largest weight: beside it the smallest still counts.
const WEIGHT_MAX: u32 = 1_000_000;

/// A team, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetTeam {
    /// Its path.
    pub team: String,
    /// Its part among its siblings.
    pub weight: Option<u32>,
    /// Limits to set; `None` takes one away.
    pub limits: Vec<(TeamLimit, Option<u64>)>,
    /// The most urgent class of its jobs; `Some(None)`: nothing is said of it any more.
    pub max_class: Option<Option<Class>>,
}

impl SetTeam {
    pub(super) fn edit(&self, tree: &mut Tree, _: &Around) -> Result<(), Refusal> {
        let name = self.team.as_str();
        let mut team = match tree.get(name) {
            Some(team) => Team::clone(team),
            None => {
                check_path(name).map_err(refused)?;
                tree.change(name, "team", String::new(), "made".into());
                Team::new(name)
            }
        };
        if let Some(weight) = self.weight {
            if !(1..=WEIGHT_MAX).contains(&weight) {
                return Err(refused(format!(
                    "a weight of {weight} for `{name}`: use 1 to {WEIGHT_MAX}"
                )));
            }
            tree.change(name, "weight", team.weight.to_string(), weight.to_string());
            team.weight = weight;
        }
        for (which, limit) in &self.limits {
            if *limit == Some(0) && *which == TeamLimit::MaxTimeMs {
                return Err(refused(format!(
                    "no attempt of `{name}` could run for no time at all: use at least 1 s, or no limit"
                )));
            }
            let before = limit_text(*which, team.limit(*which));
            tree.change(name, which.word(), before, limit_text(*which, *limit));
            match limit {
                Some(limit) => team.limits.insert(*which, *limit),
                None => team.limits.remove(which),
            };
        }
        if let Some(class) = self.max_class {
            let text = |class: Option<Class>| class.map_or("", Class::word).to_owned();
            tree.change(name, "max_class", text(team.max_class), text(class));
            team.max_class = class;
        }
        tree.put(team);
        Ok(())
    }
}

/// A limit as people read it.
pub fn limit_text(which: TeamLimit, limit: Option<u64>) -> String {
    match (limit, which) {
        (None, _) => "no limit".into(),
        (Some(bytes), TeamLimit::CheckpointBytes) => bytes_text(bytes),
        (Some(ms), TeamLimit::MaxTimeMs) => duration_text(i64::try_from(ms).unwrap_or(i64::MAX)),
        (Some(count), _) => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::testing::{lines, tree, try_on};
    use super::*;

    fn set(tree: &mut Tree, set: &SetTeam) -> Result<(), String> {
        try_on(tree, |tree, around| set.edit(tree, around))
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut tree = tree(&["acme"]);
        let make = SetTeam {
            team: "acme/vision".into(),
            weight: Some(3),
            limits: vec![
                (TeamLimit::MaxRunning, Some(20)),
                (TeamLimit::MaxTimeMs, Some(259_200_000)),
            ],
            ..SetTeam::default()
        };
        set(&mut tree, &make).expect("it makes sense");
        let again = SetTeam {
            team: "acme/vision".into(),
            weight: None,
            limits: vec![
                (TeamLimit::MaxRunning, None),
                (TeamLimit::MaxPending, Some(0)),
            ],
            max_class: Some(Some(Class::Critical)),
        };
        set(&mut tree, &again).expect("it makes sense");
        let team = tree.team("acme/vision").expect("it was made");
        assert_eq!((team.weight, team.limit(TeamLimit::MaxRunning)), (3, None));
        assert_eq!(
            team.limit(TeamLimit::MaxPending),
            Some(0),
            "nobody may submit"
        );
        assert_eq!(team.limit(TeamLimit::MaxTimeMs), Some(259_200_000));
        assert_eq!(
            lines(tree),
            [
                "acme/vision team:  -> made",
                "acme/vision weight: 1 -> 3",
                "acme/vision max_running: no limit -> 20",
                "acme/vision max_time: no limit -> 3 d",
                "acme/vision max_running: 20 -> no limit",
                "acme/vision max_pending: no limit -> 0",
                "acme/vision max_class:  -> critical",
            ]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let team = || "t".to_owned();
        for (edit, part) in [
            (
                SetTeam {
                    weight: Some(0),
                    team: team(),
                    ..SetTeam::default()
                },
                "a weight of 0",
            ),
            (
                SetTeam {
                    weight: Some(u32::MAX),
                    team: team(),
                    ..SetTeam::default()
                },
                "use 1 to",
            ),
            (
                SetTeam {
                    limits: vec![(TeamLimit::MaxTimeMs, Some(0))],
                    team: team(),
                    ..SetTeam::default()
                },
                "no time at all",
            ),
            (
                SetTeam {
                    team: "a//b".into(),
                    ..SetTeam::default()
                },
                "not a valid name",
            ),
        ] {
            let why = set(&mut tree(&["t"]), &edit).expect_err(part);
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
