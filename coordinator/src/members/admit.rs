//! Lets a coordinator in that starts anew under another id: the leader's side of a re-join.
//!
//! It adds a learner and nothing more; that the learner takes its predecessor's place is `follow`'s work, when it has
//! caught up. Asking again changes nothing.
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::peer::{JoinReply, JoinRequest};

use super::roster;
use crate::consensus::{Change, ChangeRefusal, MemberId, Role};
use crate::shared::Shared;

/// Adds `request.id` as a learner. `name` is the caller's, from its certificate.
///
/// # Errors
/// [`Code::Unavailable`] when another coordinator should be asked, or this one again later; others when it is no use.
pub async fn admit(
    shared: &Arc<Shared>,
    name: &str,
    request: &JoinRequest,
) -> Result<JoinReply, Refusal> {
    check(shared, name, request)?;
    let status = shared.raft.status();
    if status.borrow().role != Role::Leader {
        let why = "this coordinator does not lead; ask another";
        return Err(Refusal::new(Code::Unavailable, why));
    }
    let members = Arc::clone(&status.borrow().members);
    let stale = |id: &&MemberId| {
        **id != request.id && roster::name_of(&members, **id).as_deref() == Some(name)
    };
    // A re-join that was begun and given up.
    for id in members.learners.iter().filter(stale) {
        change(shared, Change::Remove { id: *id }).await?;
    }
    let addition = Change::AddLearner {
        id: request.id,
        info: roster::info(name, &request.address),
    };
    change(shared, addition).await?;
    let members = Arc::clone(&shared.raft.status().borrow().members);
    tracing::info!(
        name,
        id = request.id,
        "a coordinator joins under a new member id"
    );
    Ok(JoinReply {
        founders: shared.raft.founders().to_bytes(),
        members: members.to_bytes(),
        incarnation: shared.raft.incarnation(),
    })
}

fn check(shared: &Shared, name: &str, request: &JoinRequest) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::new(Code::BadRequest, why));
    if request.name != name {
        return bad(format!("{name} asks to join as {}", request.name));
    }
    if request.id == 0 || request.address.is_empty() || request.address.len() > 256 {
        return bad("a member needs an id that is not 0 and an address".into());
    }
    let members = Arc::clone(&shared.raft.status().borrow().members);
    match roster::name_of(&members, request.id) {
        Some(other) if other != name => bad(format!("the id is that of {other}; draw another")),
        _ => Ok(()),
    }
}

async fn change(shared: &Arc<Shared>, change: Change) -> Result<(), Refusal> {
    let outcome = shared.raft.change_members(change).await;
    outcome.map_err(|refusal| {
        let code = match refusal {
            ChangeRefusal::Impossible(_) => Code::BadRequest,
            _ => Code::Unavailable,
        };
        Refusal::new(code, refusal.to_string())
    })
}
