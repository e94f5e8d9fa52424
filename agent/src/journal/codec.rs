//! The only place where the journal's bytes and the core's records meet: a kind and a protobuf message, fields only ever added.
//! Does NOT frame and does NOT touch a file.

use std::sync::Arc;

use mlctl_proto::ids::{Epoch, IdError, JobId};
use mlctl_proto::persist::{AgentEvent, DirtyDevice, Id, PackedRanges, RankExited};
use mlctl_proto::spec::{Ranges, RangesError};
use prost::Message;

use crate::core::{RankEnd, Record};
use crate::link::convert::{start_from_wire, start_to_wire};

const HEADER: u8 = 0;
const INCARNATION: u8 = 1;
const TERM: u8 = 2;
const ACKNOWLEDGED: u8 = 3;
const BEGUN: u8 = 4;
const TOMBSTONE: u8 = 5;
const MARK: u8 = 6;
const REPORTED: u8 = 7;
const EVENT: u8 = 8;
const DIRTY: u8 = 9;

/// The first record of every journal.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    journal_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Marked {
    #[prost(message, optional, tag = "1")]
    job: Option<Id>,
    #[prost(message, optional, tag = "2")]
    epoch: Option<Id>,
    #[prost(uint64, tag = "3")]
    step_floor: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reported {
    #[prost(message, optional, tag = "1")]
    job: Option<Id>,
    #[prost(message, optional, tag = "2")]
    epoch: Option<Id>,
    #[prost(bool, tag = "3")]
    started: bool,
    #[prost(message, repeated, tag = "4")]
    exits: Vec<RankExited>,
    #[prost(bool, tag = "5")]
    ended: bool,
    #[prost(string, repeated, tag = "6")]
    sealed: Vec<String>,
    #[prost(message, optional, tag = "7")]
    tasks: Option<PackedRanges>,
}

/// What a payload holds.
#[derive(Debug, PartialEq)]
pub(super) enum Entry {
    /// The journal's id.
    Header(String),
    /// A record.
    Record(Record),
}

/// Why a payload is not a record of this release.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error("kind {0:?} is unknown")]
    Kind(Option<u8>),
    #[error(transparent)]
    Message(#[from] prost::DecodeError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Tasks(#[from] RangesError),
}

/// The payload of the first record.
pub(super) fn encode_header(journal_id: &str) -> Vec<u8> {
    payload(
        HEADER,
        &Header {
            journal_id: journal_id.to_owned(),
        },
    )
}

/// The payload of a record.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let number = |value| Number { value };
    let marked = |job: JobId, epoch: Epoch, step_floor| Marked {
        job: Some(job.into()),
        epoch: Some(epoch.into()),
        step_floor,
    };
    match record {
        Record::Incarnation(incarnation) => payload(INCARNATION, &number(u64::from(*incarnation))),
        Record::Term(term) => payload(TERM, &number(*term)),
        Record::Acknowledged(up_to) => payload(ACKNOWLEDGED, &number(*up_to)),
        Record::Begun(start) => payload(BEGUN, &start_to_wire(start)),
        Record::Tombstone { job, epoch } => payload(TOMBSTONE, &marked(*job, *epoch, 0)),
        Record::Mark {
            job,
            epoch,
            step_floor,
        } => payload(MARK, &marked(*job, *epoch, *step_floor)),
        Record::Reported {
            job,
            epoch,
            started,
            exits,
            ended,
            sealed,
            tasks,
        } => {
            let exits = exits.iter().map(|exit| RankExited::from(*exit));
            let reported = Reported {
                job: Some((*job).into()),
                epoch: Some((*epoch).into()),
                started: *started,
                exits: exits.collect(),
                ended: *ended,
                sealed: sealed.clone(),
                tasks: (!tasks.is_empty()).then(|| tasks.pack()),
            };
            payload(REPORTED, &reported)
        }
        Record::Dirty(device) => payload(DIRTY, device),
        Record::Event(event) => payload(EVENT, event),
    }
}

/// Reads a payload.
pub(super) fn decode(payload: &[u8]) -> Result<Entry, CodecError> {
    let (kind, body) = payload.split_first().ok_or(CodecError::Kind(None))?;
    let record = match *kind {
        HEADER => return Ok(Entry::Header(Header::decode(body)?.journal_id)),
        INCARNATION => {
            Record::Incarnation(u32::try_from(Number::decode(body)?.value).unwrap_or(u32::MAX))
        }
        TERM => Record::Term(Number::decode(body)?.value),
        ACKNOWLEDGED => Record::Acknowledged(Number::decode(body)?.value),
        BEGUN => Record::Begun(Arc::new(start_from_wire(Message::decode(body)?)?)),
        TOMBSTONE => {
            let Marked { job, epoch, .. } = Message::decode(body)?;
            Record::Tombstone {
                job: job.try_into()?,
                epoch: epoch.try_into()?,
            }
        }
        MARK => {
            let Marked {
                job,
                epoch,
                step_floor,
            } = Message::decode(body)?;
            Record::Mark {
                job: job.try_into()?,
                epoch: epoch.try_into()?,
                step_floor,
            }
        }
        REPORTED => decode_reported(Message::decode(body)?)?,
        DIRTY => Record::Dirty(DirtyDevice::decode(body)?),
        EVENT => Record::Event(AgentEvent::decode(body)?),
        unknown => return Err(CodecError::Kind(Some(unknown))),
    };
    Ok(Entry::Record(record))
}

fn decode_reported(reported: Reported) -> Result<Record, CodecError> {
    let exits = reported.exits.into_iter().map(RankEnd::from);
    let tasks = Ranges::unpack(&reported.tasks.unwrap_or_default())?;
    Ok(Record::Reported {
        job: reported.job.try_into()?,
        epoch: reported.epoch.try_into()?,
        started: reported.started,
        exits: exits.collect(),
        ended: reported.ended,
        sealed: reported.sealed,
        tasks,
    })
}

fn payload(kind: u8, message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + message.encoded_len());
    out.push(kind);
    out.extend_from_slice(&message.encode_to_vec());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Member, Start};
    use mlctl_proto::persist::agent_event;
    use proptest::prelude::*;

    fn samples() -> Vec<Record> {
        let (job, epoch) = (JobId::new(1, 7), Epoch::new(2, 3));
        let mut start = Start::bare(job, epoch);
        start.spec = b"{}".to_vec();
        start.members = vec![Member {
            node: "n".into(),
            rank_address: "a".into(),
            devices: vec!["u".into()],
        }];
        start.resume_from = "step-10".into();
        let exit = RankEnd {
            rank: 3,
            code: -1,
            signal: 9,
            killed_by_us: true,
            oom: Some(mlctl_proto::units::Oom {
                limit_bytes: 2,
                peak_bytes: 1,
            }),
        };
        let what = agent_event::What::RankExited(RankExited {
            rank: 1,
            code: 2,
            signal: 0,
            killed_by_us: false,
            oom: None,
        });
        vec![
            Record::Incarnation(2),
            Record::Term(9),
            Record::Acknowledged(u64::MAX),
            Record::Begun(Arc::new(start)),
            Record::Tombstone { job, epoch },
            Record::Mark {
                job,
                epoch,
                step_floor: 40,
            },
            Record::Reported {
                job,
                epoch,
                started: true,
                exits: vec![exit],
                ended: false,
                sealed: vec!["a-1".into()],
                tasks: Ranges::span(3, 70),
            },
            Record::Dirty(DirtyDevice {
                uuid: "u".into(),
                why: "w".into(),
            }),
            Record::Event(AgentEvent {
                seq: 4,
                job: Some(job.into()),
                epoch: Some(epoch.into()),
                what: Some(what),
            }),
        ]
    }

    #[test]
    fn records_round_trip() {
        for record in samples() {
            let decoded = decode(&encode(&record)).expect("we wrote it");
            assert_eq!(decoded, Entry::Record(record));
        }
        let header = decode(&encode_header("ab")).expect("we wrote it");
        assert_eq!(header, Entry::Header("ab".into()));
    }

    #[test]
    fn unknown_kinds_and_missing_ids_are_refused() {
        for payload in [&[][..], &[200], &[TOMBSTONE], &[BEGUN], &[MARK, 0xff]] {
            assert!(decode(payload).is_err(), "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&payload);
        }
    }
}
