//! Follows the membership: tells the transport whom to reach, and, on the leader, lets a learner that has caught up take
//! the place of the member of the same name.
//!
//! Every leader does it from what Raft knows, so a re-join that one leader began another completes. Whether a promotion is
//! safe is for consensus to say; here it is only asked for until it is done.
use std::sync::Arc;
use std::time::Duration;

use super::roster;
use crate::consensus::{Change, ChangeRefusal, MemberId, Membership, Role};
use crate::shared::Shared;

/// Between two tries to promote a learner that is not ready yet.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs until the process is to end.
pub async fn follow(shared: Arc<Shared>) {
    let mut status = shared.raft.status();
    let mut known = None;
    let mut said = String::new();
    loop {
        let (role, members) = {
            let status = status.borrow_and_update();
            (status.role, Arc::clone(&status.members))
        };
        if known != Some(members.index) {
            shared
                .peers
                .know(&members, &roster::known(&shared.config, &members));
            known = Some(members.index);
        }
        let mut waits = false;
        if let Some(change) = (role == Role::Leader)
            .then(|| promotion(&members))
            .flatten()
        {
            waits = true;
            match shared.raft.change_members(change.clone()).await {
                Ok(()) => tracing::info!(?change, "a learner takes its predecessor's place"),
                // Said once; that it is still so is not news.
                Err(refusal @ ChangeRefusal::Impossible(_)) if refusal.to_string() != said => {
                    tracing::warn!(?change, %refusal, "a learner cannot be promoted");
                    said = refusal.to_string();
                }
                Err(refusal) => tracing::debug!(?change, %refusal, "a learner is not promoted yet"),
            }
        }
        tokio::select! {
            changed = status.changed(), if !waits => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(PAUSE), if waits => {}
            () = shared.shutdown.wait() => return,
        }
    }
}

/// The first learner, and the voter whose place it takes: the one of the same name.
fn promotion(members: &Membership) -> Option<Change> {
    if members.is_joint() {
        return None;
    }
    let learner = *members.learners.first()?;
    let name = roster::name_of(members, learner)?;
    let same = |id: &&MemberId| roster::name_of(members, **id).as_ref() == Some(&name);
    Some(Change::Promote {
        learner,
        replacing: members.voters.iter().find(same).copied(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_replaces_the_voter_of_its_name_and_nobody_else() {
        let text = |name: &str| roster::info(name, "127.0.0.1:1");
        let mut members = Membership::founded([(1, text("c1")), (2, text("c2")), (3, text("c3"))]);
        assert_eq!(promotion(&members), None);
        members.learners = vec![9];
        members.info.insert(9, text("c2"));
        let promote = |replacing| {
            Some(Change::Promote {
                learner: 9,
                replacing,
            })
        };
        assert_eq!(promotion(&members), promote(Some(2)));
        members.info.insert(9, text("c4"));
        assert_eq!(promotion(&members), promote(None));
        members.info.insert(9, "not what we write".into());
        assert_eq!(promotion(&members), None);
        members.outgoing = vec![1, 2, 3];
        assert_eq!(promotion(&members), None);
    }
}
