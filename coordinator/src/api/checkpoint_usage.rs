//! What the checkpoints of each team take: a read of the state, for everybody. Does NOT measure anything on a node.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::api::{CheckpointUsageReply, TeamUsage};
use mlctl_proto::errors::{Code, Refusal};

use crate::shared::{CallError, Shared};
use crate::state::rules::{Usage, usage};

/// Teams in one answer.
const TEAMS_MAX: usize = 10_000;

/// Serves the call on the leader.
pub async fn get(shared: &Arc<Shared>) -> Result<CheckpointUsageReply, CallError> {
    shared.read().await?;
    let state = shared.state();
    // It looks at every part of every checkpoint.
    let reply = tokio::task::spawn_blocking(move || CheckpointUsageReply {
        index: state.applied_index(),
        ..reply(usage(&state))
    });
    let reply = reply.await;
    reply.map_err(|error| Refusal::new(Code::Internal, error.to_string()).into())
}

fn reply(teams: BTreeMap<String, Usage>) -> CheckpointUsageReply {
    let mut total = Usage::default();
    for one in teams.values() {
        total.add(one);
    }
    let mut teams: Vec<(String, Usage)> = teams.into_iter().collect();
    // Those of the same size by name, as they were.
    teams.sort_by_key(|(_, one)| std::cmp::Reverse(one.held_bytes));
    let left_out = teams.len().saturating_sub(TEAMS_MAX);
    teams.truncate(TEAMS_MAX);
    CheckpointUsageReply {
        teams: teams.into_iter().map(told).collect(),
        total: Some(told((String::new(), total))),
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
        index: 0,
    }
}

fn told((team, usage): (String, Usage)) -> TeamUsage {
    TeamUsage {
        team,
        jobs: usage.jobs,
        checkpoints: usage.checkpoints,
        bytes: usage.bytes,
        held_bytes: usage.held_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teams(count: u64) -> BTreeMap<String, Usage> {
        let one = |number| {
            let usage = Usage {
                jobs: 1,
                checkpoints: 2,
                bytes: 10,
                held_bytes: number / 2,
            };
            (format!("team-{number:05}"), usage)
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn who_holds_most_comes_first_and_then_by_name() {
        let reply = reply(teams(5));
        let names: Vec<&str> = reply.teams.iter().map(|one| one.team.as_str()).collect();
        let wanted = [4, 2, 3, 0, 1].map(|number| format!("team-{number:05}"));
        assert_eq!(names, wanted);
        let total = reply.total.expect("always");
        assert_eq!((total.team.as_str(), total.jobs), ("", 5));
        assert_eq!((total.checkpoints, total.bytes), (10, 50));
        assert_eq!((total.held_bytes, reply.left_out), (4, 0));
    }

    #[test]
    fn an_answer_has_its_limit_and_the_total_has_not() {
        let reply = reply(teams(10_003));
        assert_eq!((reply.teams.len(), reply.left_out), (10_000, 3));
        assert_eq!(reply.total.expect("always").jobs, 10_003);
    }
}
