//! Parts of checkpoints between agents and the leader: from the wire, checked, and onto it.
use mlctl_proto::agent as wire;
use mlctl_proto::errors::Refusal;

use super::agent::{bad, key};
use crate::leader::copies::{CopyOrder, DataPeer, RestoreOrder, Room, Word};
use crate::state::codec::encode_sealed;
use crate::state::records::{ManifestId, PartKey};

/// Parts in one message.
const PARTS_MAX: usize = 4_096;

/// What an agent says of copies.
///
/// # Errors
/// When it is malformed, or about something else.
pub fn word(what: wire::agent_message::What) -> Result<Word, Refusal> {
    use wire::agent_message::What;
    match what {
        What::Inventory(message) => inventory(message),
        What::Ask(message) => ask(message),
        What::Pushed(message) => pushed(message),
        What::Uploaded(message) => uploaded(message),
        What::PartGone(message) => part_gone(message),
        _ => Err(bad("this is not about copies")),
    }
}

/// Parts that a node holds.
fn inventory(message: wire::Inventory) -> Result<Word, Refusal> {
    if message.parts.len() > PARTS_MAX {
        return Err(bad("more parts of checkpoints than one message may hold"));
    }
    let parts = message.parts.into_iter().map(part_key);
    Ok(Word::Inventory {
        parts: parts.collect::<Result<_, _>>()?,
        more: message.more,
    })
}

/// A question about who may do what.
fn ask(message: wire::Ask) -> Result<Word, Refusal> {
    Ok(Word::Ask {
        id: message.id,
        node: message.node,
        manifest: manifest(&message.manifest)?,
        write: message.write,
    })
}

/// What became of a copy.
fn pushed(message: wire::Pushed) -> Result<Word, Refusal> {
    let key = message.key.ok_or_else(|| bad("a copy of nothing"))?;
    Ok(Word::Pushed {
        key: part_key(key)?,
        to: message.to,
        error: message.error,
    })
}

/// A part that will not come.
fn part_gone(message: wire::PartGone) -> Result<Word, Refusal> {
    Ok(Word::Gone {
        key: key(message.job, message.epoch)?,
        name: message.name,
    })
}

/// What became of an upload.
fn uploaded(message: wire::Uploaded) -> Result<Word, Refusal> {
    let key = message.key.ok_or_else(|| bad("an upload of nothing"))?;
    Ok(Word::Uploaded {
        key: part_key(key)?,
        url: message.url,
        error: message.error,
    })
}

/// How much room a node has.
pub fn room(space: &wire::CopySpace) -> Word {
    Word::Room(Room { free: space.free })
}

/// An order as the agent reads it.
pub fn order(order: CopyOrder) -> wire::leader_message::What {
    use wire::leader_message::What;
    match order {
        CopyOrder::Replicate {
            key,
            to,
            urgent,
            rate,
        } => What::Replicate(wire::Replicate {
            key: Some(wire_key(key)),
            to: Some(peer(to)),
            urgent,
            rate: rate.unwrap_or(0),
        }),
        CopyOrder::Upload {
            key,
            sealed,
            url,
            elsewhere,
            rate,
        } => {
            // Agents that do not know the other field find no URL, and refuse.
            let (url, elsewhere) = match elsewhere {
                true => (String::new(), url),
                false => (url, String::new()),
            };
            What::Upload(wire::Upload {
                key: Some(wire_key(key)),
                sealed: Some(encode_sealed(&sealed)),
                url,
                rate: rate.unwrap_or(0),
                elsewhere,
            })
        }
        CopyOrder::Answer { id, brought, yes } => {
            let brought = brought.into_iter().map(|(key, sealed)| wire::Brought {
                key: Some(wire_key(key)),
                sealed: Some(encode_sealed(&sealed)),
            });
            What::Answer(wire::Answer {
                id,
                allowed: yes,
                brought: brought.collect(),
            })
        }
        CopyOrder::Forget(parts) => What::Forget(wire::Forget {
            parts: parts.into_iter().map(wire_key).collect(),
        }),
        CopyOrder::SealPart {
            key: (job, epoch),
            name,
            step,
        } => What::SealPart(wire::SealPart {
            job: Some(job.into()),
            epoch: Some(epoch.into()),
            name,
            step,
        }),
        CopyOrder::Announce(parts) => What::Announce(wire::Announce {
            parts: parts.into_iter().map(wire_key).collect(),
        }),
    }
}

/// What a start restores from.
pub fn restore(order: RestoreOrder) -> wire::Restore {
    let parts = order.parts.into_iter().map(|part| wire::RestorePart {
        index: part.index,
        manifest: part.manifest.to_vec(),
        bytes: part.bytes,
        holders: part.holders.into_iter().map(peer).collect(),
        url: part.url.unwrap_or_default(),
    });
    wire::Restore {
        epoch: Some(order.epoch.into()),
        parts: parts.collect(),
    }
}

fn peer(peer: DataPeer) -> wire::DataPeer {
    wire::DataPeer {
        node: peer.node,
        address: peer.address,
    }
}

fn wire_key(key: PartKey) -> wire::PartKey {
    wire::PartKey {
        job: Some(key.job.into()),
        epoch: Some(key.epoch.into()),
        name: key.name,
        index: key.index,
        manifest: key.manifest.to_vec(),
    }
}

fn part_key(part: wire::PartKey) -> Result<PartKey, Refusal> {
    let (job, epoch) = key(part.job, part.epoch)?;
    Ok(PartKey {
        job,
        epoch,
        name: part.name,
        index: part.index,
        manifest: manifest(&part.manifest)?,
    })
}

fn manifest(bytes: &[u8]) -> Result<ManifestId, Refusal> {
    let wrong = |_| bad("a part of a checkpoint without a manifest");
    bytes.try_into().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::SealedPart;
    use mlctl_proto::persist;

    fn wired(manifest: &[u8]) -> wire::PartKey {
        let id = Some(persist::Id {
            incarnation: 1,
            counter: 7,
        });
        wire::PartKey {
            job: id,
            epoch: id,
            name: "step-5".into(),
            index: 1,
            manifest: manifest.to_vec(),
        }
    }

    #[test]
    fn parts_are_read_as_they_were_written() {
        let key = part_key(wired(&[3; 32])).expect("a good one");
        assert_eq!(wire_key(key), wired(&[3; 32]));
    }

    #[test]
    fn an_upload_to_another_store_is_none_for_agents_that_do_not_know_the_word() {
        let sealed = SealedPart {
            name: "step-5".into(),
            step: 5,
            part: None,
            parts: 1,
            metric: None,
            save_ms: 0,
        };
        let sent = |elsewhere| {
            let key = part_key(wired(&[3; 32])).expect("a good one");
            let upload = CopyOrder::Upload {
                key,
                sealed: sealed.clone(),
                url: "s3://runs/a".into(),
                elsewhere,
                rate: None,
            };
            match order(upload) {
                wire::leader_message::What::Upload(sent) => (sent.url, sent.elsewhere),
                other => panic!("{other:?}"),
            }
        };
        let (url, nothing) = ("s3://runs/a".to_owned(), String::new());
        assert_eq!(sent(false), (url.clone(), nothing.clone()));
        assert_eq!(sent(true), (nothing, url));
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for manifest in [&[][..], &[1; 31], &[1; 33]] {
            part_key(wired(manifest)).expect_err("no manifest");
        }
        let nameless = wire::PartKey {
            job: None,
            ..wired(&[1; 32])
        };
        part_key(nameless).expect_err("of no job");
        let parts = vec![wired(&[1; 32]); PARTS_MAX + 1];
        inventory(wire::Inventory { parts, more: false }).expect_err("too many");
        pushed(wire::Pushed::default()).expect_err("of nothing");
        uploaded(wire::Uploaded::default()).expect_err("of nothing");
    }
}
