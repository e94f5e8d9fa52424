//! Events of agents: from their wire form, and into the log.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{self, agent_event::What};

use super::array::{decode_tasks_ended, encode_tasks_ended};
use super::attempt::{decode_end, decode_exit, encode_end, encode_exit};
use super::checkpoint::{
    decode_held, decode_lost, decode_sealed, decode_uploaded, encode_copy, encode_sealed,
};
use super::node::{decode_dirty, encode_dirty};
use super::{CodecError, bad_id, missing};
use crate::state::commands::{AgentEvent, DeviceNews, Happening, News};

/// An event for the log.
pub fn encode_event(event: &AgentEvent) -> persist::AgentEvent {
    let (of, what) = match &event.news {
        News::OfAttempt { job, epoch, what } => (Some((*job, *epoch)), encode_happening(what)),
        News::OfCopy { job, epoch, what } => (Some((*job, *epoch)), encode_copy(what)),
        News::OfDevices(news) => (None, encode_news(news)),
    };
    persist::AgentEvent {
        seq: event.seq,
        job: of.map(|(job, _)| job.into()),
        epoch: of.map(|(_, epoch)| epoch.into()),
        what: Some(what),
    }
}

fn encode_news(news: &DeviceNews) -> What {
    match news {
        DeviceNews::Dirty(devices) => What::DevicesDirty(persist::DevicesDirty {
            devices: devices.iter().map(encode_dirty).collect(),
        }),
        DeviceNews::Clean(uuids) => What::DevicesClean(persist::DevicesClean {
            uuids: uuids.clone(),
        }),
    }
}

fn encode_happening(what: &Happening) -> What {
    match what {
        Happening::RanksStarted => What::RanksStarted(persist::RanksStarted {}),
        Happening::RankExited(exit) => What::RankExited(encode_exit(exit)),
        Happening::AllocationEnded(end) => What::AllocationEnded(persist::AllocationEnded {
            end: Some(encode_end(end)),
        }),
        Happening::TasksEnded(ended) => What::TasksEnded(encode_tasks_ended(ended)),
        Happening::CheckpointSealed(sealed) => What::CheckpointSealed(encode_sealed(sealed)),
    }
}

/// The reverse of [`encode_event`]. What an agent reports is read here too, before it is proposed.
pub fn decode_event(event: persist::AgentEvent) -> Result<AgentEvent, CodecError> {
    let name = "an agent's event";
    let seq = event.seq;
    let of_devices = |news| {
        let news = News::OfDevices(news);
        Ok(AgentEvent { seq, news })
    };
    let id = || JobId::try_from(event.job).map_err(bad_id(name));
    let epoch = || Epoch::try_from(event.epoch).map_err(bad_id(name));
    let of_copy = |what| {
        let (job, epoch) = (id()?, epoch()?);
        let news = News::OfCopy { job, epoch, what };
        Ok(AgentEvent { seq, news })
    };
    let what = match event.what.ok_or_else(|| missing(name, "content"))? {
        What::DevicesDirty(dirty) => {
            let devices = dirty.devices.into_iter().map(decode_dirty);
            return of_devices(DeviceNews::Dirty(devices.collect()));
        }
        What::DevicesClean(clean) => return of_devices(DeviceNews::Clean(clean.uuids)),
        What::RanksStarted(_) => Happening::RanksStarted,
        What::RankExited(exit) => Happening::RankExited(decode_exit(exit)),
        What::AllocationEnded(ended) => {
            Happening::AllocationEnded(decode_end(ended.end.ok_or_else(|| missing(name, "end"))?)?)
        }
        What::TasksEnded(ended) => Happening::TasksEnded(decode_tasks_ended(ended)?),
        What::CheckpointSealed(sealed) => Happening::CheckpointSealed(decode_sealed(sealed)?),
        What::CopyHeld(held) => return of_copy(decode_held(held)?),
        What::CopyLost(lost) => return of_copy(decode_lost(lost)?),
        What::CopyUploaded(uploaded) => return of_copy(decode_uploaded(uploaded)?),
    };
    let news = News::OfAttempt {
        job: id()?,
        epoch: epoch()?,
        what,
    };
    Ok(AgentEvent { seq, news })
}
