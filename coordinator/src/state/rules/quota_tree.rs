//! What has to be true of the tree of teams, whoever changes it (docs/QUOTAS.md, Quotas): paths are paths, every parent is there, and children have no more of
//! their own than their parent. A path names its parent, so that a tree of paths has no cycle. Does NOT look at what jobs hold: `quota` does.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::{check_name, clip};
use mlctl_proto::limits::{TEAM_LEVELS_MAX, TEAM_PATH_BYTES_MAX, TEAMS_MAX};

use super::flavors::{flavor_text, gpus_text};
use crate::state::records::Team;
use crate::state::view::teams::Flavor;

/// All teams, by path.
pub type Teams = BTreeMap<String, Arc<Team>>;

/// Checks a path: names of `a-z`, `0-9` and `-`, with `/` between them.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), String> {
    let shown = clip(path);
    if path.len() > TEAM_PATH_BYTES_MAX {
        let bytes = path.len();
        return Err(format!(
            "the team `{shown}` has a path of {bytes} bytes; at most {TEAM_PATH_BYTES_MAX}"
        ));
    }
    let levels = path.split('/').count();
    if levels > TEAM_LEVELS_MAX {
        return Err(format!(
            "the team `{shown}` is {levels} levels deep; at most {TEAM_LEVELS_MAX}"
        ));
    }
    match path.split('/').try_for_each(check_name) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!(
            "the team `{shown}`: {error}, and `/` between a team and one inside it"
        )),
    }
}

/// Checks a whole tree.
///
/// # Errors
/// The first rule that does not hold, with the two teams that it is about.
pub fn check(teams: &Teams) -> Result<(), String> {
    if teams.len() > TEAMS_MAX {
        return Err(format!(
            "{} teams are too many; at most {TEAMS_MAX}",
            teams.len()
        ));
    }
    for team in teams.values() {
        if let Some(parent) = team.parent().filter(|parent| !teams.contains_key(*parent)) {
            let name = &team.name;
            return Err(format!(
                "there is no team `{parent}` for `{name}` to be in: make it first"
            ));
        }
    }
    let flavors: BTreeSet<&Flavor> = teams.values().flat_map(|team| team.quotas.keys()).collect();
    flavors
        .into_iter()
        .try_for_each(|flavor| check_sums(teams, flavor))
}

/// Children's nominals sum to at most the parent's. A team without a word of its own has what those in it have.
fn check_sums(teams: &Teams, flavor: &Flavor) -> Result<(), String> {
    // Of each team: what its children have in all, and which of them has most.
    let mut below: BTreeMap<&str, (u64, &str, u64)> = BTreeMap::new();
    // A child's path is longer than its parent's and begins with it: from the end, children come first.
    for team in teams.values().rev() {
        let inside = below.get(team.name.as_str()).copied();
        let own = team.quotas.get(flavor).map(|quota| quota.nominal);
        if let (Some((sum, most, has)), Some(nominal)) = (inside, own)
            && sum > nominal
        {
            return Err(too_much(flavor, (&team.name, nominal), (sum, most, has)));
        }
        let counts = own.or(inside.map(|(sum, _, _)| sum));
        if let (Some(parent), Some(nominal)) = (team.parent(), counts) {
            let entry = below.entry(parent).or_insert((0, &team.name, nominal));
            entry.0 = entry.0.saturating_add(nominal);
            if nominal >= entry.2 {
                (entry.1, entry.2) = (&team.name, nominal);
            }
        }
    }
    Ok(())
}

fn too_much(
    flavor: &Flavor,
    (parent, nominal): (&str, u64),
    (sum, most, has): (u64, &str, u64),
) -> String {
    let (flavor, sum) = (flavor_text(flavor), gpus_text(sum));
    let (nominal, has) = (gpus_text(nominal), gpus_text(has));
    format!(
        "teams in `{parent}` would have {sum} {flavor} of their own, `{most}` {has} of them, more than the {nominal} of `{parent}`: raise `{parent}` first, or lower `{most}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::view::amounts::GPU;
    use crate::state::view::teams::{Limit, Quota};

    fn flavor() -> Flavor {
        Flavor {
            kind: "h100".into(),
            pool: None,
        }
    }

    fn tree(teams: &[(&str, Option<u64>)]) -> Teams {
        let team = |(name, gpus): &(&str, Option<u64>)| {
            let mut team = Team::new(*name);
            if let Some(gpus) = gpus {
                let quota = Quota {
                    nominal: gpus * GPU,
                    borrow: Limit::Units(0),
                    lend: Limit::Unlimited,
                };
                team.quotas.insert(flavor(), quota);
            }
            ((*name).to_owned(), Arc::new(team))
        };
        teams.iter().map(team).collect()
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        let (long, deep) = ("a/".repeat(130) + "a", "a/".repeat(8) + "a");
        let part = "a".repeat(64);
        for path in [
            "", "/", "a/", "/a", "a//b", "A", "a b", "a/../b", ".", "-a", "a/-b", "a\0", "ä",
            "a\n", "NaN", &long, &deep, &part,
        ] {
            let error = check_path(path).expect_err(path);
            assert!(error.len() < 300 && !error.contains('\n'), "{error}");
        }
        for path in ["a", "acme/vision", "a/b/c/d/e/f/g/h"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn children_have_no_more_than_their_parent_and_both_are_named() {
        for (teams, wanted) in [
            (
                &[("a", Some(8)), ("a/x", Some(5)), ("a/y", Some(3))][..],
                None,
            ),
            (
                &[("a", Some(8)), ("a/x", Some(5)), ("a/y", Some(4))],
                Some("`a/x` 5 of them, more than the 8 of `a`"),
            ),
            // Through a team that says nothing, and beside one that holds what it likes.
            (
                &[("a", Some(8)), ("a/m", None), ("a/m/x", Some(9))],
                Some("`a/m` 9 of them, more than the 8 of `a`"),
            ),
            (&[("a", None), ("a/x", Some(9)), ("b", Some(1))], None),
            (
                &[("a", Some(8)), ("a/m", Some(2)), ("a/m/x", Some(3))],
                Some("more than the 2 of `a/m`"),
            ),
            // What sorts between a team and those in it.
            (&[("a", Some(3)), ("a-b", Some(9)), ("a/x", Some(3))], None),
            (
                &[("a", Some(3)), ("a-b", Some(9)), ("a/x", Some(4))],
                Some("the 3 of `a`"),
            ),
            (
                &[
                    ("a", Some(u64::MAX / GPU)),
                    ("a/x", Some(u64::MAX / GPU)),
                    ("a/y", Some(u64::MAX / GPU)),
                ],
                Some("`a`"),
            ),
        ] {
            let found = check(&tree(teams));
            match (wanted, &found) {
                (None, Ok(())) => {}
                (Some(part), Err(why)) if why.contains(part) => {}
                _ => panic!("{teams:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn every_parent_is_there_and_there_are_not_too_many() {
        let orphan = check(&tree(&[("a/b", None)])).expect_err("no parent");
        assert!(orphan.contains("no team `a` for `a/b`"), "{orphan}");
        let many: Vec<String> = (0..=TEAMS_MAX).map(|number| format!("t{number}")).collect();
        let many: Vec<(&str, Option<u64>)> =
            many.iter().map(|name| (name.as_str(), None)).collect();
        assert!(
            check(&tree(&many))
                .expect_err("too many")
                .contains("10001 teams")
        );
        assert_eq!(check(&tree(&many[1..])), Ok(()));
    }
}
