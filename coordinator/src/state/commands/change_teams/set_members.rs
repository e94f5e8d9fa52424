//! SetMembers: who may submit jobs to a team, and whose jobs go there unless they say otherwise. The first team that somebody is in is that one. Does NOT
//! touch the jobs of who leaves: they stay where they are.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{check_name, clip};
use mlctl_proto::limits::{PERSON_NAME_BYTES_MAX, TEAM_MEMBERS_MAX};

use super::tree::{Around, Tree, refused};
use crate::state::records::{EVERYBODYS, Member, Team};

/// Members to add and to remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetMembers {
    /// The team.
    pub team: String,
    /// Who comes in, or is known by another name.
    pub add: Vec<NewMember>,
    /// Ids of who leaves.
    pub remove: Vec<String>,
}

/// Who comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// The id of the certificate.
    pub user_id: String,
    /// For people.
    pub name: String,
    /// It is the team of this user's jobs from now on.
    pub default: bool,
}

impl SetMembers {
    pub(super) fn edit(&self, tree: &mut Tree, _: &Around) -> Result<(), Refusal> {
        let mut team = tree.team(&self.team)?;
        let name = team.name.clone();
        if self.add.is_empty() && self.remove.is_empty() {
            return Err(refused(format!(
                "nobody is to join or leave `{name}`: name at least one user"
            )));
        }
        if let Some(both) = self
            .add
            .iter()
            .find(|one| self.remove.contains(&one.user_id))
        {
            return Err(refused(format!(
                "{} is to join and to leave `{name}` at once",
                clip(&both.user_id)
            )));
        }
        for user in &self.remove {
            let Some(member) = team.members.remove(user) else {
                let why = format!(
                    "{} is no member of `{name}`: `mlctl team ls` lists who is",
                    clip(user)
                );
                return Err(Refusal::new(Code::NotFound, why));
            };
            tree.change(
                &name,
                format!("member {user}"),
                text(&member),
                String::new(),
            );
            if member.default {
                hand_on(tree, &name, user);
            }
        }
        if name == EVERYBODYS && team.members.is_empty() && !self.remove.is_empty() {
            tree.note(format!(
                "nobody is named in `{name}` any more: from now on everybody may use it"
            ));
        }
        let opens = name == EVERYBODYS && team.members.is_empty();
        for new in &self.add {
            add(tree, &mut team, new)?;
        }
        if opens && !team.members.is_empty() {
            tree.note(format!(
                "only who is named may use `{name}` from now on: before, everybody might"
            ));
        }
        if team.members.len() > TEAM_MEMBERS_MAX {
            let why = format!(
                "`{name}` would have {} members; at most {TEAM_MEMBERS_MAX}: make teams in it",
                team.members.len()
            );
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        tree.put(team);
        Ok(())
    }
}

fn add(tree: &mut Tree, team: &mut Team, new: &NewMember) -> Result<(), Refusal> {
    let id = new.user_id.as_str();
    if let Err(error) = check_name(id) {
        return Err(refused(format!(
            "the user's id {error}; `mlctl team add-user` takes names of users that the cluster has seen"
        )));
    }
    if new.name.len() > PERSON_NAME_BYTES_MAX || new.name.chars().any(char::is_control) {
        return Err(refused(format!(
            "the name of {id} is not one that can be shown: use at most {PERSON_NAME_BYTES_MAX} bytes"
        )));
    }
    let known = team.members.get(id).cloned();
    let elsewhere = default_of(tree, id).filter(|other| *other != team.name);
    let default = new.default || elsewhere.is_none();
    if let (true, Some(other)) = (default, &elsewhere)
        && let Some(mut other) = tree.get(other).map(|other| Team::clone(other))
        && let Some(member) = other.members.get_mut(id)
    {
        let before = text(member);
        member.default = false;
        let after = text(member);
        let other_name = other.name.clone();
        tree.put(other);
        tree.change(&other_name, format!("member {id}"), before, after);
    }
    let kept = known
        .as_ref()
        .map(|known| known.name.clone())
        .filter(|_| new.name.is_empty());
    let member = Member {
        name: kept.unwrap_or_else(|| new.name.clone()),
        default,
    };
    let before = known.as_ref().map(text).unwrap_or_default();
    tree.change(&team.name, format!("member {id}"), before, text(&member));
    team.members.insert(id.to_owned(), member);
    Ok(())
}

/// The team of a user's jobs.
fn default_of(tree: &Tree, user: &str) -> Option<String> {
    let default = |team: &Team| team.members.get(user).is_some_and(|member| member.default);
    let mut teams = tree.teams().values();
    teams
        .find(|team| default(team))
        .map(|team| team.name.clone())
}

/// Who leaves the team of his jobs gets another of his teams for them: the first by name.
fn hand_on(tree: &mut Tree, left: &str, user: &str) {
    let mut teams = tree.teams().values();
    let next = teams.find(|team| team.name != left && team.members.contains_key(user));
    let Some(mut next) = next.map(|team| Team::clone(team)) else {
        tree.note(format!(
            "{user} is in no team any more: jobs that have been submitted stay where they are"
        ));
        return;
    };
    if let Some(member) = next.members.get_mut(user) {
        let before = text(member);
        member.default = true;
        let after = text(member);
        let name = next.name.clone();
        tree.put(next);
        tree.change(&name, format!("member {user}"), before, after);
    }
}

fn text(member: &Member) -> String {
    let name = if member.name.is_empty() {
        "in"
    } else {
        member.name.as_str()
    };
    match member.default {
        true => format!("{name}, default"),
        false => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::testing::{lines, tree, try_on};
    use super::*;

    fn change(
        tree: &mut Tree,
        team: &str,
        add: &[(&str, bool)],
        remove: &[&str],
    ) -> Result<(), String> {
        let new = |(name, default): &(&str, bool)| NewMember {
            user_id: format!("id-{name}"),
            name: (*name).into(),
            default: *default,
        };
        let edit = SetMembers {
            team: team.into(),
            add: add.iter().map(new).collect(),
            remove: remove.iter().map(|name| format!("id-{name}")).collect(),
        };
        try_on(tree, |tree, around| edit.edit(tree, around))
    }

    #[test]
    fn the_first_team_is_the_one_of_a_users_jobs_until_another_is_said_to_be() {
        let mut tree = tree(&["a", "b", "c"]);
        let is = |tree: &Tree| default_of(tree, "id-ann");
        change(&mut tree, "b", &[("ann", false)], &[]).expect("it makes sense");
        assert_eq!(is(&tree).as_deref(), Some("b"));
        change(&mut tree, "a", &[("ann", false)], &[]).expect("it makes sense");
        assert_eq!(is(&tree).as_deref(), Some("b"));
        change(&mut tree, "c", &[("ann", true), ("bo", false)], &[]).expect("it makes sense");
        assert_eq!(is(&tree).as_deref(), Some("c"));
        change(&mut tree, "c", &[], &["ann"]).expect("it makes sense");
        assert_eq!(is(&tree).as_deref(), Some("a"), "the first that is left");
        let count = tree
            .teams()
            .values()
            .filter(|team| team.members.get("id-ann").is_some_and(|one| one.default));
        assert_eq!(count.count(), 1);
        change(&mut tree, "a", &[], &["ann"]).expect("it makes sense");
        change(&mut tree, "b", &[], &["ann"]).expect("it makes sense");
        assert_eq!(is(&tree), None);
        let said = lines(tree);
        assert!(
            said.iter()
                .any(|line| line.contains("id-ann is in no team any more")),
            "{said:?}"
        );
        assert_eq!(said[0], "b member id-ann:  -> ann, default");
    }

    #[test]
    fn the_team_of_everybody_is_closed_by_its_first_member() {
        let mut tree = tree(&["default"]);
        assert!(tree.team("default").expect("there").takes("id-bo"));
        change(&mut tree, "default", &[("ann", false)], &[]).expect("it makes sense");
        let team = tree.team("default").expect("there");
        assert!(team.takes("id-ann") && !team.takes("id-bo"));
        change(&mut tree, "default", &[], &["ann"]).expect("it makes sense");
        assert!(tree.team("default").expect("there").takes("id-bo"));
        let said = lines(tree);
        assert!(
            said.iter().any(|line| line.contains("only who is named")),
            "{said:?}"
        );
        assert!(
            said.iter()
                .any(|line| line.contains("everybody may use it")),
            "{said:?}"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (add, remove, part) in [
            (&[][..], &[][..], "name at least one user"),
            (&[("ann", false)], &["ann"], "at once"),
            (&[], &["ann"], "no member of `t`"),
            (&[("../x", false)], &[], "not a valid name"),
        ] {
            let mut tree = tree(&["t"]);
            let why = change(&mut tree, "t", add, remove).expect_err(part);
            assert!(why.contains(part), "{part}: {why}");
        }
        let mut tree = tree(&["t"]);
        let many: Vec<String> = (0..=TEAM_MEMBERS_MAX)
            .map(|number| format!("u{number}"))
            .collect();
        let many: Vec<(&str, bool)> = many.iter().map(|name| (name.as_str(), false)).collect();
        let why = change(&mut tree, "t", &many, &[]).expect_err("too many");
        assert!(why.contains("10001 members"), "{why}");
    }
}
