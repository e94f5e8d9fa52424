//! When a job's turn comes, as bytes. A job of which nothing is said of that keeps nothing of it.
use mlctl_proto::ids::JobId;
use mlctl_proto::persist;
use mlctl_proto::spec::{After, AfterKind, Class};

use super::words::Word;
use super::{CodecError, bad_id, unknown};
use crate::state::records::{Hold, Turn};

pub(super) fn encode_turn(turn: &Turn) -> Option<persist::TurnRecord> {
    if *turn == Turn::default() {
        return None;
    }
    let hold = |hold: &Hold| persist::HoldRecord {
        user_id: hold.user_id.clone(),
        name: hold.name.clone(),
        admin: hold.admin,
        since_ms: hold.since_ms,
        why: hold.why.clone(),
    };
    let after = |after: &After| persist::AfterJob {
        kind: after.kind.number(),
        job: Some(after.job.into()),
    };
    Some(persist::TurnRecord {
        class: class_number(turn.class).into(),
        hold: turn.hold.as_ref().map(hold),
        after: turn.after.iter().map(after).collect(),
        begin_ms: turn.begin_ms,
        start_by_ms: turn.start_by_ms,
        end_by_ms: turn.end_by_ms,
        total_ms: turn.total_ms,
        ran_ms: turn.ran_ms,
        preemptible: turn.preemptible,
        eligible_ms: turn.eligible_ms,
        blocked_ms: turn.blocked_ms,
    })
}

pub(super) fn decode_turn(record: Option<persist::TurnRecord>) -> Result<Turn, CodecError> {
    let Some(record) = record else {
        return Ok(Turn::default());
    };
    let hold = |hold: persist::HoldRecord| Hold {
        user_id: hold.user_id,
        name: hold.name,
        admin: hold.admin,
        since_ms: hold.since_ms,
        why: hold.why,
    };
    let after = |after: persist::AfterJob| -> Result<After, CodecError> {
        Ok(After {
            kind: AfterKind::from_number(after.kind)?,
            job: JobId::try_from(after.job).map_err(bad_id("what a job waits for"))?,
        })
    };
    Ok(Turn {
        class: class_of(record.class)?,
        hold: record.hold.map(hold),
        after: record
            .after
            .into_iter()
            .map(after)
            .collect::<Result<_, _>>()?,
        begin_ms: record.begin_ms,
        start_by_ms: record.start_by_ms,
        end_by_ms: record.end_by_ms,
        total_ms: record.total_ms,
        ran_ms: record.ran_ms,
        preemptible: record.preemptible,
        eligible_ms: record.eligible_ms,
        blocked_ms: record.blocked_ms,
    })
}

/// The first number is also that of records from before there were classes.
pub(super) fn class_number(class: Class) -> persist::Class {
    match class {
        Class::Normal => persist::Class::Normal,
        Class::Low => persist::Class::Low,
        Class::High => persist::Class::High,
        Class::Critical => persist::Class::Critical,
    }
}

pub(super) fn class_of(number: i32) -> Result<Class, CodecError> {
    match persist::Class::try_from(number) {
        Ok(persist::Class::Normal) => Ok(Class::Normal),
        Ok(persist::Class::Low) => Ok(Class::Low),
        Ok(persist::Class::High) => Ok(Class::High),
        Ok(persist::Class::Critical) => Ok(Class::Critical),
        Err(_) => Err(unknown("class", number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_comes_back_and_the_usual_one_takes_no_byte() {
        assert_eq!(encode_turn(&Turn::default()), None);
        assert_eq!(decode_turn(None), Ok(Turn::default()));
        for (class, _) in Class::ALL {
            let turn = Turn {
                class,
                hold: Some(Hold {
                    user_id: "id-ann".into(),
                    name: "ann".into(),
                    admin: true,
                    since_ms: 5,
                    why: "later".into(),
                }),
                after: AfterKind::ALL
                    .map(|(kind, _)| After {
                        kind,
                        job: JobId::new(2, 7),
                    })
                    .to_vec(),
                begin_ms: 1,
                start_by_ms: 2,
                end_by_ms: 3,
                total_ms: 4,
                ran_ms: 5,
                preemptible: true,
                eligible_ms: 6,
                blocked_ms: 7,
            };
            assert_eq!(decode_turn(encode_turn(&turn)), Ok(turn));
        }
    }

    #[test]
    fn words_of_later_releases_are_errors() {
        let later = persist::TurnRecord {
            class: 77,
            ..persist::TurnRecord::default()
        };
        assert!(decode_turn(Some(later)).is_err());
        let after = vec![persist::AfterJob {
            kind: 99,
            job: Some(JobId::new(1, 1).into()),
        }];
        let later = persist::TurnRecord {
            after,
            ..persist::TurnRecord::default()
        };
        assert!(decode_turn(Some(later)).is_err());
    }
}
