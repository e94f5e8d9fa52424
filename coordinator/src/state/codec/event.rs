//! Events of agents: from their wire form, and into the log.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{self, agent_event::What};

use super::array::{decode_tasks_ended, encode_tasks_ended};
use super::attempt::{decode_end, decode_exit, encode_end, encode_exit};
use super::{CodecError, bad_id, missing};
use crate::state::commands::{AgentEvent, Happening};

/// An event for the log.
pub fn encode_event(event: &AgentEvent) -> persist::AgentEvent {
    let what = match &event.what {
        Happening::RanksStarted => What::RanksStarted(persist::RanksStarted {}),
        Happening::RankExited(exit) => What::RankExited(encode_exit(exit)),
        Happening::AllocationEnded(end) => What::AllocationEnded(persist::AllocationEnded {
            end: Some(encode_end(end)),
        }),
        Happening::TasksEnded(ended) => What::TasksEnded(encode_tasks_ended(ended)),
        Happening::CheckpointSealed { name, step } => {
            What::CheckpointSealed(persist::CheckpointSealed {
                name: name.clone(),
                step: *step,
            })
        }
    };
    persist::AgentEvent {
        seq: event.seq,
        job: Some(event.job.into()),
        epoch: Some(event.epoch.into()),
        what: Some(what),
    }
}

/// The reverse of [`encode_event`]. What an agent reports is read here too, before it is proposed.
pub fn decode_event(event: persist::AgentEvent) -> Result<AgentEvent, CodecError> {
    let name = "an agent's event";
    let what = match event.what.ok_or_else(|| missing(name, "content"))? {
        What::RanksStarted(_) => Happening::RanksStarted,
        What::RankExited(exit) => Happening::RankExited(decode_exit(exit)),
        What::AllocationEnded(ended) => {
            Happening::AllocationEnded(decode_end(ended.end.ok_or_else(|| missing(name, "end"))?)?)
        }
        What::TasksEnded(ended) => Happening::TasksEnded(decode_tasks_ended(ended)?),
        What::CheckpointSealed(sealed) => Happening::CheckpointSealed {
            name: sealed.name,
            step: sealed.step,
        },
    };
    Ok(AgentEvent {
        seq: event.seq,
        job: JobId::try_from(event.job).map_err(bad_id(name))?,
        epoch: Epoch::try_from(event.epoch).map_err(bad_id(name))?,
        what,
    })
}
