//! RemoveTeam: takes a team out of the tree. Refused while there are jobs in it that are not over, or teams inside it: nothing is ended by it.
use mlctl_proto::errors::{Code, Refusal};

use super::tree::{Around, Tree};
use crate::state::records::EVERYBODYS;

/// Which team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveTeam {
    /// Its path.
    pub team: String,
}

impl RemoveTeam {
    pub(super) fn edit(&self, tree: &mut Tree, around: &Around) -> Result<(), Refusal> {
        let team = tree.team(&self.team)?;
        let name = &team.name;
        let conflict = |why: String| Err(Refusal::new(Code::Conflict, why));
        if name == EVERYBODYS {
            return conflict(format!(
                "`{name}` stays: it is the team of those who are in no other"
            ));
        }
        let below = format!("{name}/");
        let inside = tree
            .teams()
            .range(below.clone()..)
            .next()
            .map(|(inside, _)| inside.clone());
        if let Some(inside) = inside.filter(|inside| inside.starts_with(&below)) {
            return conflict(format!("team `{inside}` is in `{name}`: remove it first"));
        }
        let jobs = (around.jobs_of)(name);
        if jobs > 0 {
            return conflict(format!(
                "`{name}` has {jobs} jobs that are not over: wait for them, or cancel them; `mlctl team set {name} --max-pending 0` lets no more in"
            ));
        }
        tree.change(name, "team", "was there".into(), String::new());
        if !team.members.is_empty() {
            let count = team.members.len();
            tree.note(format!(
                "{count} users were members of `{name}`: their jobs need another team now"
            ));
        }
        tree.remove(&self.team);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::testing::{lines, tree, try_on};
    use super::*;

    fn remove(tree: &mut Tree, team: &str) -> Result<(), String> {
        let remove = RemoveTeam { team: team.into() };
        try_on(tree, |tree, around| remove.edit(tree, around))
    }

    #[test]
    fn a_team_with_jobs_or_teams_in_it_stays_and_it_is_said_what_to_do() {
        let mut tree = tree(&["a", "a-b", "a/x", "busy", "default"]);
        for (team, part) in [
            ("a", "`a/x` is in `a`: remove it first"),
            ("busy", "2 jobs that are not over: wait for them, or cancel"),
            ("default", "it is the team of those"),
            ("none", "there is no team `none`"),
        ] {
            let why = remove(&mut tree, team).expect_err(team);
            assert!(why.contains(part), "{team}: {why}");
        }
        assert!(tree.touched().is_empty());
        for team in ["a/x", "a"] {
            remove(&mut tree, team).expect("nothing is in it");
        }
        assert!(tree.get("a-b").is_some() && tree.get("a").is_none());
        assert_eq!(
            lines(tree),
            ["a/x team: was there -> ", "a team: was there -> "]
        );
    }
}
