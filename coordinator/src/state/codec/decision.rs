//! What an admin decides about scheduling, as bytes; and the command that decides it.
use mlctl_proto::persist::{self, decision_edit, decision_record::What};
use mlctl_proto::spec::Class;
use prost::Message;

use super::turn::{class_number, class_of};
use super::words::Word;
use super::{CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, known_version, message, missing};
use crate::state::commands::{
    Decide, DecisionEdit, SetMaintenance, SetOwner, SetPause, SetPool, SetSched,
};
use crate::state::records::{
    Decider, Decision, DecisionKey, Maintenance, NodeOwner, Pause, PoolRules, Target,
};

const WHAT: &str = "what an admin decides";

impl Record for Decision {
    const TABLE: u8 = 40;
    type Key = DecisionKey;

    fn key(&self) -> DecisionKey {
        match self {
            Self::Setting(key, _) => DecisionKey::Setting(*key),
            Self::License(name, _) => DecisionKey::License(name.clone()),
            Self::Pause(pause) => DecisionKey::Pause(pause.what, pause.pool.clone()),
            Self::Maintenance(one) => DecisionKey::Maintenance(one.id),
            Self::Owner(owner) => DecisionKey::Owner(owner.node.clone()),
            Self::Pool(rules) => DecisionKey::Pool(rules.pool.clone()),
        }
    }

    fn key_bytes(key: &DecisionKey) -> Vec<u8> {
        let text = match key {
            DecisionKey::Setting(key) => format!("scheduling/{}", key.word()),
            DecisionKey::License(name) => format!("license/{name}"),
            DecisionKey::Pause(what, pool) => format!("pause/{}/{pool}", what.word()),
            DecisionKey::Maintenance(id) => format!("maintenance/{id}"),
            DecisionKey::Owner(node) => format!("owner/{node}"),
            DecisionKey::Pool(pool) => format!("pool/{pool}"),
        };
        text.into_bytes()
    }

    fn encode(&self) -> Vec<u8> {
        let what = match self {
            Self::Setting(key, values) => What::Setting(persist::SchedSetting {
                key: key.number(),
                values: values.clone(),
            }),
            Self::License(name, total) => What::License(persist::License {
                name: name.clone(),
                total: *total,
            }),
            Self::Pause(pause) => What::Pause(encode_pause(pause)),
            Self::Maintenance(one) => What::Maintenance(encode_maintenance(one)),
            Self::Owner(owner) => What::Owner(persist::NodeOwner {
                node: owner.node.clone(),
                team: owner.team.clone(),
                guests: owner.guests.number(),
                guest_grace_ms: owner.guest_grace_ms,
                by: Some(encode_decider(&owner.by)),
            }),
            Self::Pool(rules) => What::Pool(persist::PoolRules {
                pool: rules.pool.clone(),
                teams: rules.teams.clone(),
                classes: classes(&rules.classes),
                max_time_ms: rules.max_time_ms,
                sharing: rules.sharing.number(),
            }),
        };
        persist::DecisionRecord {
            version: RECORD_VERSION,
            what: Some(what),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let record: persist::DecisionRecord = message(WHAT, bytes, ROW_BYTES_MAX)?;
        known_version(WHAT, record.version)?;
        Ok(match record.what.ok_or_else(|| missing(WHAT, "content"))? {
            What::Setting(set) => Self::Setting(Word::from_number(set.key)?, set.values),
            What::License(license) => Self::License(license.name, license.total),
            What::Pause(pause) => Self::Pause(Pause {
                what: Word::from_number(pause.what)?,
                pool: pause.pool,
                until_ms: pause.until_ms,
                reason: pause.reason,
                by: decode_decider(pause.by)?,
            }),
            What::Maintenance(one) => Self::Maintenance(Maintenance {
                id: one.id,
                target: target(one.node, one.pool),
                from_ms: one.from_ms,
                until_ms: one.until_ms,
                reason: one.reason,
                by: decode_decider(one.by)?,
            }),
            What::Owner(owner) => Self::Owner(NodeOwner {
                node: owner.node,
                team: owner.team,
                guests: Word::from_number(owner.guests)?,
                guest_grace_ms: owner.guest_grace_ms,
                by: decode_decider(owner.by)?,
            }),
            What::Pool(rules) => Self::Pool(PoolRules {
                pool: rules.pool,
                teams: rules.teams,
                classes: classes_of(rules.classes)?,
                max_time_ms: rules.max_time_ms,
                sharing: Word::from_number(rules.sharing)?,
            }),
        })
    }
}

fn encode_pause(pause: &Pause) -> persist::Pause {
    persist::Pause {
        what: pause.what.number(),
        pool: pause.pool.clone(),
        until_ms: pause.until_ms,
        reason: pause.reason.clone(),
        by: Some(encode_decider(&pause.by)),
    }
}

fn encode_maintenance(one: &Maintenance) -> persist::Maintenance {
    let (node, pool) = sides(&one.target);
    persist::Maintenance {
        id: one.id,
        node,
        pool,
        from_ms: one.from_ms,
        until_ms: one.until_ms,
        reason: one.reason.clone(),
        by: Some(encode_decider(&one.by)),
    }
}

fn sides(target: &Target) -> (String, String) {
    match target {
        Target::Node(name) => (name.clone(), String::new()),
        Target::Pool(name) => (String::new(), name.clone()),
    }
}

fn target(node: String, pool: String) -> Target {
    match node.is_empty() {
        true => Target::Pool(pool),
        false => Target::Node(node),
    }
}

fn encode_decider(by: &Decider) -> persist::Decider {
    persist::Decider {
        user_id: by.user_id.clone(),
        name: by.name.clone(),
        at_ms: by.at_ms,
    }
}

fn decode_decider(by: Option<persist::Decider>) -> Result<Decider, CodecError> {
    let by = by.ok_or_else(|| missing(WHAT, "admin"))?;
    Ok(Decider {
        user_id: by.user_id,
        name: by.name,
        at_ms: by.at_ms,
    })
}

fn classes(classes: &[Class]) -> Vec<i32> {
    let numbers = classes.iter().map(|class| class_number(*class).into());
    numbers.collect()
}

fn classes_of(numbers: Vec<i32>) -> Result<Vec<Class>, CodecError> {
    numbers.into_iter().map(class_of).collect()
}

pub(super) fn encode_decide(decide: &Decide) -> persist::Decide {
    let edits = decide.edits.iter().map(|edit| persist::DecisionEdit {
        what: Some(encode_edit(edit)),
    });
    persist::Decide {
        edits: edits.collect(),
    }
}

pub(super) fn decode_decide(decide: persist::Decide) -> Result<Decide, CodecError> {
    let edits = decide.edits.into_iter().map(decode_edit);
    Ok(Decide {
        edits: edits.collect::<Result<_, _>>()?,
    })
}

fn encode_edit(edit: &DecisionEdit) -> decision_edit::What {
    use decision_edit::What;
    match edit {
        DecisionEdit::Setting(set) => What::Setting(persist::SetSched {
            key: set.key.number(),
            class: set.class.map(|class| class_number(class).into()),
            values: set.values.clone(),
        }),
        DecisionEdit::License(name, total) => What::License(persist::SetLicense {
            name: name.clone(),
            total: *total,
        }),
        DecisionEdit::Pause(set) => What::Pause(persist::SetPause {
            what: set.what.number(),
            pool: set.pool.clone(),
            for_ms: set.for_ms,
            reason: set.reason.clone(),
        }),
        DecisionEdit::Resume(what, pool) => What::Resume(persist::Resume {
            what: what.number(),
            pool: pool.clone(),
        }),
        DecisionEdit::Maintenance(set) => {
            let (node, pool) = sides(&set.target);
            What::Maintenance(persist::SetMaintenance {
                node,
                pool,
                from_ms: set.from_ms,
                for_ms: set.for_ms,
                reason: set.reason.clone(),
            })
        }
        DecisionEdit::Cancel(id) => What::Cancel(persist::CancelMaintenance { id: *id }),
        DecisionEdit::Owner(set) => What::Owner(persist::SetOwner {
            node: set.node.clone(),
            team: set.team.clone(),
            guests: set.guests.number(),
            guest_grace_ms: set.guest_grace_ms,
        }),
        DecisionEdit::Pool(set) => What::Pool(persist::SetPool {
            pool: set.pool.clone(),
            teams: (set.teams.clone()).map(|teams| persist::PoolTeams { teams }),
            classes: (set.classes.as_deref()).map(|some| persist::PoolClasses {
                classes: classes(some),
            }),
            max_time_ms: set.max_time_ms,
            sharing: set.sharing.map(Word::number),
        }),
    }
}

fn decode_edit(edit: persist::DecisionEdit) -> Result<DecisionEdit, CodecError> {
    use decision_edit::What;
    Ok(match edit.what.ok_or_else(|| missing(WHAT, "content"))? {
        What::Setting(set) => DecisionEdit::Setting(SetSched {
            key: Word::from_number(set.key)?,
            class: set.class.map(class_of).transpose()?,
            values: set.values,
        }),
        What::License(set) => DecisionEdit::License(set.name, set.total),
        What::Pause(set) => DecisionEdit::Pause(SetPause {
            what: Word::from_number(set.what)?,
            pool: set.pool,
            for_ms: set.for_ms,
            reason: set.reason,
        }),
        What::Resume(resume) => DecisionEdit::Resume(Word::from_number(resume.what)?, resume.pool),
        What::Maintenance(set) => DecisionEdit::Maintenance(SetMaintenance {
            target: target(set.node, set.pool),
            from_ms: set.from_ms,
            for_ms: set.for_ms,
            reason: set.reason,
        }),
        What::Cancel(cancel) => DecisionEdit::Cancel(cancel.id),
        What::Owner(set) => DecisionEdit::Owner(SetOwner {
            node: set.node,
            team: set.team,
            guests: Word::from_number(set.guests)?,
            guest_grace_ms: set.guest_grace_ms,
        }),
        What::Pool(set) => DecisionEdit::Pool(SetPool {
            pool: set.pool,
            teams: set.teams.map(|some| some.teams),
            classes: set
                .classes
                .map(|some| classes_of(some.classes))
                .transpose()?,
            max_time_ms: set.max_time_ms,
            sharing: set.sharing.map(Word::from_number).transpose()?,
        }),
    })
}
