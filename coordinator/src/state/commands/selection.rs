//! Which jobs a person means: by their ids, all of them or none; or by what they have in common, and then those that may be changed. Changes
//! nothing itself.
use std::collections::BTreeSet;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{JobId, clip};
use mlctl_proto::limits::{JOB_NAME_BYTES_MAX, TEAM_BYTES_MAX};
use mlctl_proto::spec::Class;

use super::{Context, bounded};
use crate::state::State;
use crate::state::change::Change;
use crate::state::records::{Actor, Job, JobState, Reply};

/// Who asks, as a filter's user.
const ME: &str = "me";
/// Reasons that one reply gives for jobs that a filter found and that stayed as they were.
const LEFT_MAX: usize = 100;

/// What jobs have in common. An empty field says nothing. Jobs that are over are never meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Their owner's name or id; `me`: whoever asks.
    pub user: String,
    /// Their team's path.
    pub team: String,
    /// Their name; `*` stands for any text.
    pub name: String,
    /// Where they are in their life.
    pub state: Option<JobState>,
    /// How urgent they are.
    pub class: Option<Class>,
}

impl Filter {
    /// Refuses a filter that says nothing, or too much.
    fn check(&self) -> Result<(), Refusal> {
        if *self == Self::default() {
            let why = "the filter says nothing: name a user, team, name, state or class";
            return Err(Refusal::new(Code::BadRequest, why));
        }
        for (what, text, most) in [
            ("the user of the filter", &self.user, JOB_NAME_BYTES_MAX),
            ("the team of the filter", &self.team, TEAM_BYTES_MAX),
            ("the name of the filter", &self.name, JOB_NAME_BYTES_MAX),
        ] {
            if !text.is_empty() {
                bounded(what, text, most)?;
            }
        }
        Ok(())
    }

    /// Whether `actor` means this job.
    pub fn matches(&self, job: &Job, actor: &Actor) -> bool {
        let user = match self.user.as_str() {
            "" => true,
            ME => job.owner_id == actor.user_id,
            user => job.owner_id == user || job.owner_name == user,
        };
        let team = self.team.is_empty() || self.team == job.team;
        let name = self.name.is_empty() || alike(&self.name, &job.name);
        let state = self.state.is_none_or(|state| state == job.state);
        let class = self.class.is_none_or(|class| class == job.turn.class);
        user && team && name && state && class
    }
}

/// Whether a text is like a pattern in which `*` stands for any text.
fn alike(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, behind)) = left.split_once(part) else {
            return false;
        };
        left = behind;
    }
    left.ends_with(last)
}

/// Which jobs a person means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Their ids.
    pub jobs: Vec<JobId>,
    /// Or what they have in common.
    pub filter: Option<Filter>,
}

impl Selection {
    /// These jobs.
    pub fn of(jobs: Vec<JobId>) -> Self {
        Self { jobs, filter: None }
    }

    /// The ids of all that are meant, at least one. What belongs to others is only meant by an admin, or by its id, which is refused later.
    pub(super) fn ids(&self, state: &State, actor: &Actor) -> Result<BTreeSet<JobId>, Refusal> {
        let bad = |why: &str| Err(Refusal::new(Code::BadRequest, why));
        let Some(filter) = &self.filter else {
            if self.jobs.is_empty() {
                return bad("no job is named: give at least one id");
            }
            return Ok(self.jobs.iter().copied().collect());
        };
        if !self.jobs.is_empty() {
            return bad("jobs are named and a filter is given: use one of them");
        }
        filter.check()?;
        let meant = |job: &&std::sync::Arc<Job>| {
            let own = actor.admin || job.owner_id == actor.user_id;
            own && !job.state.terminal() && filter.matches(job, actor)
        };
        let ids: BTreeSet<JobId> = state.jobs().filter(meant).map(|job| job.id).collect();
        if ids.is_empty() {
            let why = "no job that is not over is like that: `mlctl jobs` lists them";
            return Err(Refusal::new(Code::NotFound, why));
        }
        Ok(ids)
    }

    /// Changes each of them by `act`, which answers whether there was anything to change. What is named by its id is changed with all others or not
    /// at all; of what a filter found, what cannot be changed stays, and the reply says why.
    pub(super) fn each(
        &self,
        change: &mut Change,
        context: &Context,
        act: impl Fn(&mut Change, Job) -> Result<bool, Refusal>,
    ) -> Result<Reply, Refusal> {
        let (mut jobs, mut left) = (Vec::new(), Vec::new());
        for id in self.ids(change.state(), context.actor)? {
            let job = change.job(id)?;
            owned(&job, context.actor)?;
            match act(change, job) {
                Ok(true) => jobs.push(id),
                Ok(false) => {}
                Err(refusal) if self.filter.is_some() && refusal.code != Code::Internal => {
                    if left.len() < LEFT_MAX {
                        left.push((id, refusal.message));
                    }
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(Reply::Edited { jobs, left })
    }
}

/// Refuses what belongs to somebody else, unless an admin asks.
pub(super) fn owned(job: &Job, actor: &Actor) -> Result<(), Refusal> {
    if job.owner_id == actor.user_id || actor.admin {
        return Ok(());
    }
    let why = format!(
        "job {} belongs to {}: ask them, or an admin",
        job.id,
        clip(&job.owner_name)
    );
    Err(Refusal::new(Code::Denied, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{Cluster, person};

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, like) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*a*", "bab", true),
            ("**", "x", true),
            ("sweep-*", "sweep", false),
        ] {
            assert_eq!(alike(pattern, text), like, "{pattern} {text}");
        }
    }

    #[test]
    fn a_filter_means_own_jobs_that_are_not_over() {
        let mut cluster = Cluster::new();
        let ann = cluster.submitted("ann", 1, 0);
        let bob = cluster.submitted("bob", 1, 0);
        let ids = |filter: Filter, name: &str, admin| {
            let selection = Selection {
                jobs: Vec::new(),
                filter: Some(filter),
            };
            let found = selection.ids(&cluster.state, &person(name, admin));
            found.map(|ids| ids.into_iter().collect::<Vec<_>>())
        };
        let pending = || Filter {
            state: Some(JobState::Pending),
            ..Filter::default()
        };
        let user = |user: &str| Filter {
            user: user.into(),
            ..Filter::default()
        };
        assert_eq!(ids(pending(), "ann", false), Ok(vec![ann]));
        assert_eq!(ids(pending(), "root", true), Ok(vec![ann, bob]));
        assert_eq!(ids(user("me"), "bob", false), Ok(vec![bob]));
        assert_eq!(ids(user("bob"), "root", true), Ok(vec![bob]));
        for (filter, code) in [
            (user("bob"), Code::NotFound),
            (Filter::default(), Code::BadRequest),
            (user(&"x".repeat(129)), Code::BadRequest),
        ] {
            assert_eq!(
                ids(filter, "ann", false).map_err(|refusal| refusal.code),
                Err(code)
            );
        }
    }
}
