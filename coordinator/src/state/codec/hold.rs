//! Devices that are kept for jobs, the commands that begin and end that, and the marks it leaves, as bytes.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist;
use mlctl_proto::units::UtcMs;
use prost::Message;

use super::turn::{class_number, class_of};
use super::words::Word;
use super::{
    CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, bad_id, known_version, message, missing,
};
use crate::state::commands::{Placement, Preempt, PreemptVictim};
use crate::state::records::{DeviceHold, HeldSeat, HoldVictim, Marks};
use crate::state::rules::entitlement::Entitlement;
use crate::state::rules::taking::Taken;
use crate::state::view::jobs::Footing;

const WHAT: &str = "a preemption";

impl Record for DeviceHold {
    const TABLE: u8 = 32;
    type Key = JobId;

    fn key(&self) -> JobId {
        self.job
    }

    fn key_bytes(key: &JobId) -> Vec<u8> {
        key.to_key().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        let seat = |seat: &HeldSeat| persist::HeldSeat {
            node: seat.node.clone(),
            devices: seat.devices.clone(),
        };
        let victim = |victim: &HoldVictim| persist::HoldVictim {
            job: Some(victim.job.into()),
            epoch: Some(victim.epoch.into()),
            signalled: victim.signalled,
        };
        persist::DeviceHoldRecord {
            version: RECORD_VERSION,
            job: Some(self.job.into()),
            seats: self.seats.iter().map(seat).collect(),
            since_ms: self.since_ms,
            until_ms: self.until_ms,
            victims: self.victims.iter().map(victim).collect(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "devices that are kept";
        let record: persist::DeviceHoldRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        let seat = |seat: persist::HeldSeat| HeldSeat {
            node: seat.node,
            devices: seat.devices,
        };
        let victim = |victim: persist::HoldVictim| -> Result<HoldVictim, CodecError> {
            Ok(HoldVictim {
                job: JobId::try_from(victim.job).map_err(bad_id(what))?,
                epoch: Epoch::try_from(victim.epoch).map_err(bad_id(what))?,
                signalled: victim.signalled,
            })
        };
        Ok(Self {
            job: JobId::try_from(record.job).map_err(bad_id(what))?,
            seats: record.seats.into_iter().map(seat).collect(),
            since_ms: record.since_ms,
            until_ms: record.until_ms,
            victims: record
                .victims
                .into_iter()
                .map(victim)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// A job that never ran, and never took anything, keeps nothing of that.
pub(super) fn encode_marks(marks: &Marks) -> Option<persist::MarksRecord> {
    (*marks != Marks::default()).then(|| persist::MarksRecord {
        evicted_ms: marks.evicted_ms.clone(),
        no_preempt_until_ms: marks.no_preempt_until_ms,
        guest_taken: marks.guest_taken,
        attained: marks.attained,
        planned_again: marks.planned_again,
    })
}

pub(super) fn decode_marks(record: persist::MarksRecord) -> Marks {
    Marks {
        evicted_ms: record.evicted_ms,
        no_preempt_until_ms: record.no_preempt_until_ms,
        guest_taken: record.guest_taken,
        attained: record.attained,
        planned_again: record.planned_again,
    }
}

/// Until when a guest was let in, 0: none. A time before 1970 is nobody's.
pub(super) fn footing_ms(footing: Footing) -> UtcMs {
    match footing {
        Footing::Regular => 0,
        Footing::Guest(until) => until,
    }
}

pub(super) fn footing_of(until_ms: UtcMs) -> Footing {
    match until_ms {
        0 => Footing::Regular,
        until => Footing::Guest(until),
    }
}

pub(super) fn encode_preempt(preempt: &Preempt) -> persist::Preempt {
    let seat = |seat: &Placement| persist::Placement {
        node: seat.node.clone(),
        boot_id: seat.boot_id.clone(),
        devices: seat.devices.clone(),
    };
    let victim = |victim: &PreemptVictim| persist::PreemptVictim {
        job: Some(victim.job.into()),
        epoch: Some(victim.epoch.into()),
        entitlement: Some(encode_entitlement(victim.entitlement)),
        why: victim.why.number(),
    };
    persist::Preempt {
        job: Some(preempt.job.into()),
        entitlement: Some(encode_entitlement(preempt.entitlement)),
        victims: preempt.victims.iter().map(victim).collect(),
        seats: preempt.seats.iter().map(seat).collect(),
    }
}

pub(super) fn decode_preempt(preempt: persist::Preempt) -> Result<Preempt, CodecError> {
    let seat = |seat: persist::Placement| Placement {
        node: seat.node,
        boot_id: seat.boot_id,
        devices: seat.devices,
    };
    let victim = |victim: persist::PreemptVictim| -> Result<PreemptVictim, CodecError> {
        Ok(PreemptVictim {
            job: JobId::try_from(victim.job).map_err(bad_id(WHAT))?,
            epoch: Epoch::try_from(victim.epoch).map_err(bad_id(WHAT))?,
            entitlement: decode_entitlement(victim.entitlement)?,
            why: Taken::from_number(victim.why)?,
        })
    };
    Ok(Preempt {
        job: JobId::try_from(preempt.job).map_err(bad_id(WHAT))?,
        entitlement: decode_entitlement(preempt.entitlement)?,
        victims: preempt
            .victims
            .into_iter()
            .map(victim)
            .collect::<Result<_, _>>()?,
        seats: preempt.seats.into_iter().map(seat).collect(),
    })
}

fn encode_entitlement(one: Entitlement) -> persist::Entitlement {
    persist::Entitlement {
        cover: one.cover,
        class: class_number(one.class.into()).into(),
    }
}

fn decode_entitlement(one: Option<persist::Entitlement>) -> Result<Entitlement, CodecError> {
    let one = one.ok_or_else(|| missing(WHAT, "entitlement"))?;
    Ok(Entitlement {
        cover: one.cover,
        class: class_of(one.class)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_footings_come_back_and_the_usual_ones_take_no_byte() {
        assert_eq!(encode_marks(&Marks::default()), None);
        let marks = Marks {
            evicted_ms: vec![5, 9],
            no_preempt_until_ms: 7,
            guest_taken: true,
            attained: 3,
            planned_again: true,
        };
        assert_eq!(encode_marks(&marks).map(decode_marks), Some(marks));
        for footing in [Footing::Regular, Footing::Guest(1 << 40)] {
            assert_eq!(footing_of(footing_ms(footing)), footing);
        }
        assert_eq!(footing_ms(Footing::Regular), 0);
    }

    #[test]
    fn a_hold_comes_back() {
        let victim = |counter| HoldVictim {
            job: JobId::new(1, counter),
            epoch: Epoch::new(1, 2),
            signalled: counter > 1,
        };
        let hold = DeviceHold {
            job: JobId::new(2, 7),
            seats: vec![HeldSeat {
                node: "a".into(),
                devices: vec!["a-0".into()],
            }],
            since_ms: 5,
            until_ms: 9,
            victims: vec![victim(1), victim(2)],
        };
        assert_eq!(DeviceHold::decode(&hold.encode()), Ok(hold));
    }

    #[test]
    fn words_of_later_releases_are_errors() {
        let victim = |why, class| persist::PreemptVictim {
            job: Some(JobId::new(1, 1).into()),
            epoch: Some(Epoch::new(1, 1).into()),
            entitlement: Some(persist::Entitlement { cover: 1, class }),
            why,
        };
        let preempt = |victim| persist::Preempt {
            job: Some(JobId::new(1, 2).into()),
            entitlement: Some(persist::Entitlement { cover: 2, class: 0 }),
            victims: vec![victim],
            seats: Vec::new(),
        };
        assert!(decode_preempt(preempt(victim(1, 3))).is_ok());
        assert!(decode_preempt(preempt(victim(77, 0))).is_err());
        assert!(decode_preempt(preempt(victim(1, 77))).is_err());
        assert!(decode_preempt(persist::Preempt::default()).is_err());
    }
}
