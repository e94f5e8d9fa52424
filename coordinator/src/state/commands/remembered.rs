//! Remembered replies: a client that asks again with the same key gets the same answer, and nothing happens twice.
//! Only accepted requests of people are remembered, for a day of state time.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::IDEMPOTENCY_MS;
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::units::UtcMs;

use super::Command;
use crate::state::State;
use crate::state::change::Change;
use crate::state::records::{Idempotency, Reply};

/// Replies forgotten per command at most: more than one is added per command, so the table shrinks to what is due.
pub(super) const PURGED_PER_COMMAND_MAX: usize = 16;

/// The reply to a request that was answered before, if it still is remembered.
///
/// # Errors
/// `KeyReused`: the same key came with another request.
pub fn find(state: &State, command: &Command) -> Result<Option<Reply>, Refusal> {
    let Some(key) = command.key.as_ref().filter(|_| command.body.of_person()) else {
        return Ok(None);
    };
    let Some(known) = state.key(&(command.actor.user_id.as_str().into(), key.uuid)) else {
        return Ok(None);
    };
    if planted(Mutant::IdempotencyForgotten) {
        return Ok(None);
    }
    if expired(known, state.now_ms().max(command.time_ms)) {
        return Ok(None);
    }
    if known.request_hash != key.request_hash {
        let why =
            "this idempotency key was used for another request: use a new key for a new request";
        return Err(Refusal::new(Code::KeyReused, why));
    }
    Ok(Some(known.reply.clone()))
}

/// Remembers the reply to an accepted request.
pub(super) fn remember(change: &mut Change, command: &Command, now_ms: UtcMs, reply: &Reply) {
    let Some(key) = command.key.as_ref().filter(|_| command.body.of_person()) else {
        return;
    };
    change.put_key(Idempotency {
        user_id: command.actor.user_id.as_str().into(),
        uuid: key.uuid,
        request_hash: key.request_hash,
        time_ms: now_ms,
        reply: reply.clone(),
    });
}

/// Forgets the oldest replies whose time is over, `most` of them: bounded work per command.
pub(super) fn purge(change: &mut Change, now_ms: UtcMs, most: usize) {
    let due = change
        .state()
        .indexes()
        .keys_up_to(now_ms.saturating_sub(IDEMPOTENCY_MS));
    let due: Vec<_> = due.take(most).cloned().collect();
    for key in &due {
        change.remove_key(key);
    }
}

fn expired(known: &Idempotency, now_ms: UtcMs) -> bool {
    known.time_ms <= now_ms.saturating_sub(IDEMPOTENCY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::Cluster;

    #[test]
    fn the_same_request_is_answered_as_before_and_another_is_refused() {
        let mut cluster = Cluster::new();
        let submit = |cluster: &Cluster, key: u8, hash: u8| {
            cluster.submit_keyed("ann", &["true"], [key; 16], [hash; 32])
        };
        let first = submit(&cluster, 1, 1);
        let reply = cluster.apply(&first).reply;
        let before = cluster.state.digest();
        let again = cluster.apply(&first);
        assert_eq!(again.reply, reply);
        assert!(again.effects.is_empty() && again.changed.is_empty() && again.rows.is_empty());
        assert_eq!(cluster.state.digest(), before);

        let other = submit(&cluster, 1, 2);
        assert_eq!(
            cluster.apply(&other).refusal().map(|refusal| refusal.code),
            Some(Code::KeyReused)
        );
        assert_eq!(cluster.state.digest(), before);

        let bob = cluster.submit_keyed("bob", &["true"], [1; 16], [9; 32]);
        assert!(
            matches!(cluster.apply(&bob).reply, Reply::Submitted { .. }),
            "keys of two people never meet"
        );
        assert_eq!(cluster.state.jobs().count(), 2);
    }

    #[test]
    fn a_refused_request_is_not_remembered() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let mut command = cluster.submit_keyed("ann", &["true"], [1; 16], [1; 32]);
        let super::super::Body::SubmitJob(submit) = &mut command.body else {
            unreachable!("made above")
        };
        let good = std::mem::replace(&mut submit.spec, br#"{"command":["x"],"nodes":9}"#.to_vec());
        assert!(cluster.apply(&command).refusal().is_some());
        let super::super::Body::SubmitJob(submit) = &mut command.body else {
            unreachable!("made above")
        };
        submit.spec = good;
        assert!(
            cluster.apply(&command).refusal().is_none(),
            "the key was not used up"
        );
    }

    #[test]
    fn a_day_later_the_key_is_forgotten_and_the_row_goes() {
        let mut cluster = Cluster::new();
        for key in 0..40 {
            let command = cluster.submit_keyed("ann", &["true"], [key; 16], [1; 32]);
            cluster.apply(&command);
        }
        assert_eq!(cluster.state.keys.len(), 40);
        cluster.now_ms += IDEMPOTENCY_MS;
        let again = cluster.submit_keyed("ann", &["true"], [39; 16], [2; 32]);
        assert!(
            matches!(cluster.apply(&again).reply, Reply::Submitted { .. }),
            "39 is over, though its row may still be there"
        );
        assert_eq!(
            cluster.state.keys.len(),
            40 - PURGED_PER_COMMAND_MAX,
            "its row was replaced"
        );
        for _ in 0..3 {
            let command = cluster.submit("bob", &["true"]);
            cluster.apply(&command);
        }
        assert_eq!(cluster.state.keys.len(), 1, "only the newest is left");
    }
}
