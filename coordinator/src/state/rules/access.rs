//! What an admin's decisions say of one job and one node: whether it may start there now. Asked before a plan, when the scheduler's input is made, and again
//! when a start is applied. Does NOT look at room, quota or whether the node answers.
use std::fmt;

use mlctl_proto::units::UtcMs;

use crate::state::State;
use crate::state::records::{Automatic, Job, Node, PoolRules, length_text, moment_text};
use crate::state::view::nodes::Guests;
use crate::state::view::policy::SchedSettings;

/// What keeps a job from starting on a node. The word is stable: programs match on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptOut {
    /// Starts are paused; says by whom, until when and why.
    StartsPaused(String),
    /// The node is maintained, or will be before the job is over.
    Maintenance {
        /// The node.
        node: String,
        /// From when,
        from_ms: UtcMs,
        /// to when.
        until_ms: UtcMs,
    },
    /// The node is another team's.
    NodeOwned {
        /// The node.
        node: String,
        /// Whose.
        team: String,
        /// Who said that it may be preempted could.
        preemptible: bool,
    },
    /// The pool is not for this team.
    PoolTeams(String),
    /// The pool is not for this class.
    PoolClasses(String),
    /// The pool takes only jobs that end sooner.
    PoolTime {
        /// The pool.
        pool: String,
        /// Milliseconds.
        most_ms: u64,
    },
    /// Not enough are left of a named countable.
    Licenses {
        /// Its name.
        name: String,
        /// What the job needs.
        needs: u32,
        /// What is left.
        free: u32,
        /// What there is.
        total: u32,
    },
}

impl KeptOut {
    /// The word people and programs see.
    pub fn word(&self) -> &'static str {
        match self {
            Self::StartsPaused(_) => "StartsPaused",
            Self::Maintenance { .. } => "Maintenance",
            Self::NodeOwned { .. } => "NodeOwned",
            Self::PoolTeams(_) => "PoolTeams",
            Self::PoolClasses(_) => "PoolClasses",
            Self::PoolTime { .. } => "PoolTime",
            Self::Licenses { .. } => "Licenses",
        }
    }
}

impl fmt::Display for KeptOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartsPaused(why) => f.write_str(why),
            Self::Maintenance {
                node,
                from_ms,
                until_ms,
            } => {
                let (from, until) = (moment_text(*from_ms), moment_text(*until_ms));
                write!(f, "node {node} is maintained from {from} to {until}")
            }
            Self::NodeOwned {
                node,
                team,
                preemptible,
            } => {
                let how = if *preemptible {
                    " and takes only guests that are `preemptible`"
                } else {
                    " and takes no guests"
                };
                write!(f, "node {node} is team {team}'s{how}")
            }
            Self::PoolTeams(pool) => write!(f, "pool {pool} is not for its team"),
            Self::PoolClasses(pool) => write!(f, "pool {pool} is not for its class"),
            Self::PoolTime { pool, most_ms } => {
                let most = length_text(*most_ms);
                write!(f, "pool {pool} takes jobs whose `time` is at most {most}")
            }
            Self::Licenses {
                name,
                needs,
                free,
                total,
            } => write!(f, "it needs {needs} {name}, and {free} of {total} are free"),
        }
    }
}

/// Whether a team is another, or in it.
pub fn is_in(team: &str, above: &str) -> bool {
    let rest = team.strip_prefix(above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How long an attempt of a job may still run when others have to give way: its limit, else the default of its class, milliseconds.
pub fn protected_ms(settings: &SchedSettings, job: &Job, limit_ms: Option<u64>) -> u64 {
    let class = crate::state::view::jobs::Class::from(job.turn.class);
    let default = settings.default_time_ms.get(class as usize);
    limit_ms.unwrap_or(default.copied().unwrap_or(0))
}

/// Whether the rules of a pool are against a job.
pub fn pool_refuses(rules: &PoolRules, job: &Job, limit_ms: Option<u64>) -> Option<KeptOut> {
    let pool = || rules.pool.clone();
    let teams = &rules.teams;
    if !teams.is_empty() && !teams.iter().any(|team| is_in(&job.team, team)) {
        return Some(KeptOut::PoolTeams(pool()));
    }
    if !rules.classes.is_empty() && !rules.classes.contains(&job.turn.class) {
        return Some(KeptOut::PoolClasses(pool()));
    }
    let too_long = limit_ms.is_none_or(|limit| limit > rules.max_time_ms);
    (rules.max_time_ms > 0 && too_long).then(|| KeptOut::PoolTime {
        pool: pool(),
        most_ms: rules.max_time_ms,
    })
}

/// What keeps a job from starting on a node at `now_ms`, whatever is free there.
pub fn kept_out(state: &State, job: &Job, node: &Node, now_ms: UtcMs) -> Option<KeptOut> {
    let facts = &node.facts;
    if let Some(pause) = state.paused(Automatic::Starts, &facts.pool, now_ms) {
        return Some(KeptOut::StartsPaused(pause.text()));
    }
    let limit_ms = state.spec_facts(job).and_then(|facts| facts.limit_ms);
    if let Some(rules) = state.pool_rules(&facts.pool)
        && let Some(no) = pool_refuses(rules, job, limit_ms)
    {
        return Some(no);
    }
    if let Some(owner) = state.owner_of(&facts.name) {
        let welcome = match owner.guests {
            Guests::None => false,
            Guests::Preemptible => job.turn.preemptible,
            Guests::Any => true,
        };
        if !welcome && !is_in(&job.team, &owner.team) {
            return Some(KeptOut::NodeOwned {
                node: facts.name.clone(),
                team: owner.team.clone(),
                preemptible: owner.guests == Guests::Preemptible,
            });
        }
    }
    let windows = state.maintenance_of(node, now_ms);
    if windows.is_empty() {
        return None;
    }
    let length = protected_ms(&state.scheduling(), job, limit_ms);
    let over_ms = now_ms.saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
    // Who may be ended at any time may go on until it begins, but nobody begins in it.
    let by_ms = if job.turn.preemptible {
        now_ms.saturating_add(1)
    } else {
        over_ms
    };
    let met = windows.into_iter().find(|one| one.from_ms < by_ms);
    met.map(|one| KeptOut::Maintenance {
        node: facts.name.clone(),
        from_ms: one.from_ms,
        until_ms: one.until_ms,
    })
}

/// Whether a job that starts now would take more of a named countable than is left. Its own attempts hold what they hold already.
pub fn short_of_licenses(state: &State, job: &Job) -> Option<KeptOut> {
    let facts = state.spec_facts(job)?;
    if facts.ask.licenses.is_empty() {
        return None;
    }
    let holds = |attempt: &std::sync::Arc<crate::state::records::Attempt>| {
        !attempt.closed() && !attempt.in_doubt
    };
    if state.attempts_of(job.id).any(holds) {
        return None;
    }
    let all = state.licenses();
    facts.ask.licenses.iter().find_map(|(name, needs)| {
        let (total, held) = all.get(name).copied().unwrap_or((0, 0));
        let free = total.saturating_sub(held);
        (free < *needs).then(|| KeptOut::Licenses {
            name: name.clone(),
            needs: *needs,
            free,
            total,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_in;

    #[test]
    fn a_team_is_in_itself_and_in_those_above_alone() {
        for (team, above, inside) in [
            ("acme", "acme", true),
            ("acme/vision", "acme", true),
            ("acme-2", "acme", false),
            ("acme", "acme/vision", false),
        ] {
            assert_eq!(is_in(team, above), inside, "{team} in {above}");
        }
    }
}
