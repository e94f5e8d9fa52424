//! SetQuota: what a team may hold of one flavor (docs/QUOTAS.md, Quotas). What is not named stays. Lowering a quota below what is held is allowed: nothing is ended
//! by it, nothing more is started.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::{QUOTA_UNITS_MAX, TEAM_FLAVORS_MAX};

use super::tree::{Around, Tree, check_flavor, refused};
use crate::state::rules::flavors::{flavor_text, gpus_text, limit_text};
use crate::state::view::teams::{Flavor, Limit, Quota};

/// A quota, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetQuota {
    /// The team.
    pub team: String,
    /// Of what.
    pub flavor: Flavor,
    /// Its own, units.
    pub nominal: Option<u64>,
    /// Beyond that, from others.
    pub borrow: Option<Limit>,
    /// What others may have of its own while it does not use it.
    pub lend: Option<Limit>,
    /// What one user may hold in it.
    pub per_user: Option<Limit>,
    /// Takes the quota, and what one user may hold, away; then nothing else is named.
    pub remove: bool,
}

impl SetQuota {
    pub(super) fn edit(&self, tree: &mut Tree, around: &Around) -> Result<(), Refusal> {
        let mut team = tree.team(&self.team)?;
        check_flavor(&self.flavor, tree, around)?;
        let (name, shown) = (team.name.clone(), flavor_text(&self.flavor));
        let known = team.quotas.get(&self.flavor).copied();
        let cap = team.user_caps.get(&self.flavor).copied();
        let named = [self.borrow, self.lend, self.per_user]
            .iter()
            .any(Option::is_some)
            || self.nominal.is_some();
        if self.remove {
            if named {
                return Err(refused(format!(
                    "the quota of {shown} is to be taken away and set at once: do one of both"
                )));
            }
            if known.is_none() && cap.is_none() {
                let why = format!(
                    "`{name}` has no quota of {shown}: `mlctl quota show` lists what it has"
                );
                return Err(Refusal::new(Code::NotFound, why));
            }
            team.quotas.remove(&self.flavor);
            team.user_caps.remove(&self.flavor);
        } else {
            if !named {
                return Err(refused(format!(
                    "nothing is said of the {shown} of `{name}`: name what it has, may borrow, or lends"
                )));
            }
            if known.is_some()
                || self.nominal.is_some()
                || self.borrow.is_some()
                || self.lend.is_some()
            {
                team.quotas
                    .insert(self.flavor.clone(), self.quota(known, &shown)?);
            }
            match self.per_user {
                None => None,
                Some(Limit::Unlimited) => team.user_caps.remove(&self.flavor),
                Some(Limit::Units(units)) => team
                    .user_caps
                    .insert(self.flavor.clone(), bounded(units, &shown)?),
            };
        }
        if team.quotas.len() > TEAM_FLAVORS_MAX || team.user_caps.len() > TEAM_FLAVORS_MAX {
            let why =
                format!("`{name}` would have quotas of more than {TEAM_FLAVORS_MAX} types of GPUs");
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        let quota = team.quotas.get(&self.flavor);
        tree.change(
            &name,
            format!("quota {shown}"),
            quota_text(known.as_ref()),
            quota_text(quota),
        );
        let new_cap = team.user_caps.get(&self.flavor).copied();
        let text = |cap: Option<u64>| cap.map_or("no limit".to_owned(), gpus_text);
        tree.change(&name, format!("per user {shown}"), text(cap), text(new_cap));
        if team.parent().is_none() && quota.is_some_and(|quota| quota.borrow != Limit::Units(0)) {
            tree.note(format!("`{name}` is in no other team: there is nobody to borrow {shown} from, so that it never borrows"));
        }
        tree.put(team);
        Ok(())
    }

    /// The quota with what is named of it.
    fn quota(&self, known: Option<Quota>, shown: &str) -> Result<Quota, Refusal> {
        let before = known.unwrap_or(Quota {
            nominal: 0,
            borrow: Limit::Units(0),
            lend: Limit::Unlimited,
        });
        let quota = Quota {
            nominal: self.nominal.unwrap_or(before.nominal),
            borrow: self.borrow.unwrap_or(before.borrow),
            lend: self.lend.unwrap_or(before.lend),
        };
        bounded(quota.nominal, shown)?;
        if let Limit::Units(borrow) = quota.borrow {
            bounded(borrow, shown)?;
        }
        if let (true, Limit::Units(lend)) = (self.lend.is_some(), quota.lend)
            && lend > quota.nominal
        {
            let (lend, nominal) = (gpus_text(lend), gpus_text(quota.nominal));
            return Err(refused(format!(
                "it cannot lend {lend} {shown} of {nominal}: lend at most what it has, or say unlimited"
            )));
        }
        Ok(quota)
    }
}

fn bounded(units: u64, shown: &str) -> Result<u64, Refusal> {
    match units <= QUOTA_UNITS_MAX {
        true => Ok(units),
        false => {
            let (gpus, most) = (gpus_text(units), gpus_text(QUOTA_UNITS_MAX));
            Err(refused(format!(
                "{gpus} {shown} are more than any cluster has: at most {most}"
            )))
        }
    }
}

/// A quota as people read it: `48, borrow 16, lend 8`.
pub fn quota_text(quota: Option<&Quota>) -> String {
    let Some(quota) = quota else {
        return "none".into();
    };
    let mut text = gpus_text(quota.nominal);
    if quota.borrow != Limit::Units(0) {
        text.push_str(&format!(", borrow {}", limit_text(quota.borrow)));
    }
    if quota.lend != Limit::Unlimited {
        text.push_str(&format!(", lend {}", limit_text(quota.lend)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tree::testing::{flavor, lines, tree, try_on};
    use super::*;
    use crate::state::view::amounts::GPU;

    fn quota(team: &str, text: &str) -> SetQuota {
        SetQuota {
            team: team.into(),
            flavor: flavor(text),
            nominal: None,
            borrow: None,
            lend: None,
            per_user: None,
            remove: false,
        }
    }

    fn set(tree: &mut Tree, set: &SetQuota) -> Result<(), String> {
        try_on(tree, |tree, around| set.edit(tree, around))
    }

    #[test]
    fn what_is_not_named_stays_and_what_is_taken_away_is_gone() {
        let mut tree = tree(&["acme", "acme/nlp"]);
        let nlp = || quota("acme/nlp", "h100");
        let first = SetQuota {
            nominal: Some(16 * GPU),
            borrow: Some(Limit::Unlimited),
            per_user: Some(Limit::Units(GPU / 2)),
            ..nlp()
        };
        let second = SetQuota {
            lend: Some(Limit::Units(4 * GPU)),
            per_user: Some(Limit::Unlimited),
            ..nlp()
        };
        let third = SetQuota {
            remove: true,
            ..nlp()
        };
        for edit in [&first, &second, &third] {
            set(&mut tree, edit).expect("it makes sense");
        }
        assert!(
            tree.team("acme/nlp")
                .expect("there")
                .flavors()
                .next()
                .is_none()
        );
        assert_eq!(
            lines(tree),
            [
                "acme/nlp quota H100: none -> 16, borrow unlimited",
                "acme/nlp per user H100: no limit -> 0.5",
                "acme/nlp quota H100: 16, borrow unlimited -> 16, borrow unlimited, lend 4",
                "acme/nlp per user H100: 0.5 -> no limit",
                "acme/nlp quota H100: 16, borrow unlimited, lend 4 -> none",
            ]
        );
    }

    #[test]
    fn a_cap_of_each_user_alone_makes_no_quota() {
        let mut tree = tree(&["t"]);
        let cap = SetQuota {
            per_user: Some(Limit::Units(GPU)),
            ..quota("t", "h100")
        };
        set(&mut tree, &cap).expect("it makes sense");
        let team = tree.team("t").expect("there");
        assert!(team.quotas.is_empty() && team.user_caps.len() == 1);
    }

    #[test]
    fn a_root_that_would_borrow_is_told_that_it_never_does() {
        let mut tree = tree(&["t"]);
        let borrow = SetQuota {
            borrow: Some(Limit::Units(GPU)),
            ..quota("t", "a100@spot")
        };
        set(&mut tree, &borrow).expect("it is allowed");
        assert!(lines(tree)[1].contains("nobody to borrow A100@spot from"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let nominal = |units, flavor| SetQuota {
            nominal: Some(units),
            ..quota("t", flavor)
        };
        for (edit, part) in [
            (quota("t", "h100"), "nothing is said of the H100"),
            (nominal(1, "b200"), "this cluster has no `B200`"),
            (nominal(1, ""), "names no type of GPU"),
            (nominal(1, "h100\n"), "names no type of GPU"),
            (nominal(1, "h100@A B"), "not a valid name"),
            (
                nominal(QUOTA_UNITS_MAX + 1, "h100"),
                "more than any cluster has",
            ),
            (nominal(u64::MAX, "h100"), "more than any cluster has"),
            (
                SetQuota {
                    borrow: Some(Limit::Units(u64::MAX)),
                    ..quota("t", "h100")
                },
                "more than any cluster has",
            ),
            (
                SetQuota {
                    lend: Some(Limit::Units(9 * GPU)),
                    ..nominal(8 * GPU, "h100")
                },
                "cannot lend 9 H100 of 8",
            ),
            (
                SetQuota {
                    remove: true,
                    ..nominal(1, "h100")
                },
                "do one of both",
            ),
            (
                SetQuota {
                    remove: true,
                    ..quota("t", "h100")
                },
                "has no quota of H100",
            ),
            (quota("none", "h100"), "there is no team `none`"),
        ] {
            let mut tree = tree(&["t"]);
            let why = set(&mut tree, &edit).expect_err(part);
            assert!(why.contains(part), "{part}: {why}");
            assert!(tree.touched().is_empty(), "{part}");
        }
    }
}
