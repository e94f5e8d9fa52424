//! What every service and the leader's loop hold: consensus, the published state, the other members, blobs and logs.
//!
//! The one place where a command is stamped with actor, source and time and handed to consensus.
use bytes::Bytes;
use mlctl_blobs::Store;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_runtime::shutdown::Shutdown;
use std::sync::Arc;
use tokio::sync::watch;
use tracing::Instrument;

use crate::clock::Clock;
use crate::config::{Config, Member};
use crate::consensus::{Committed, Handle, MemberId, ProposeError, ReadError};
use crate::downloads::Downloads;
use crate::leader::Port;
use crate::logs::Logs;
use crate::members::roster;
use crate::peers::Peers;
use crate::published::Published;
use crate::state::records::{Actor, Reply};
use crate::state::{Body, Command, IdempotencyKey, State, codec};
use crate::store::history::History;
use crate::vitals::Vitals;
use crate::vitals::admission::admitted;

/// Shared by everything that serves or leads. Held in an `Arc`.
pub struct Shared {
    /// As configured.
    pub config: Config,
    /// The cluster's id, from the certificate.
    pub cluster: String,
    /// Consensus.
    pub raft: Handle<Reply>,
    /// The newest state and what changed.
    pub published: Arc<Published>,
    /// The other members.
    pub peers: Arc<Peers>,
    /// Blobs on this member.
    pub blobs: Store,
    /// Logs on this member.
    pub logs: Logs,
    /// Parts of checkpoints on their way to people.
    pub downloads: Downloads,
    /// Jobs that left the state.
    pub history: Arc<History>,
    /// Where agents' streams report, while this member leads.
    pub leader: watch::Receiver<Option<Port>>,
    /// The wall clock.
    pub clock: Clock,
    /// How the members are.
    pub vitals: Vitals,
    /// Whether the process is to end.
    pub shutdown: Shutdown,
}

/// Why a call was not served here.
#[derive(Debug)]
pub enum CallError {
    /// This member does not lead; nothing happened. Another may serve it.
    Elsewhere,
    /// An answer for the caller.
    Refused(Refusal),
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Shared {
    /// The newest state.
    pub fn state(&self) -> Arc<State> {
        self.published.state()
    }

    /// Replicates a command and answers with what applying it said.
    ///
    /// # Errors
    /// [`CallError::Elsewhere`] when nothing happened; refusals by apply, overload and an unknown outcome otherwise.
    pub async fn propose(
        &self,
        actor: Actor,
        source: &str,
        key: Option<IdempotencyKey>,
        body: Body,
    ) -> Result<Committed<Reply>, CallError> {
        let command = Command {
            actor,
            source: source.to_owned(),
            time_ms: self.clock.stamp(self.state().now_ms()),
            key,
            body,
        };
        // What was accepted before is answered as before, however full the disk is by now: whoever asks again did not hear it.
        if !self.state().was_answered(&command) {
            admitted(&command.body, &self.vitals.stance())?;
        }
        let too_large =
            |error: codec::CodecError| Refusal::new(Code::LimitExceeded, error.to_string());
        let bytes = Bytes::from(codec::encode_command(&command).map_err(too_large)?);
        let span = tracing::info_span!("commit", bytes = bytes.len());
        let outcome = self.raft.propose(bytes).instrument(span).await;
        let mut committed = outcome.map_err(propose_error)?;
        match std::mem::replace(&mut committed.reply, Reply::Done) {
            Reply::Rejected(refusal) => Err(refusal.into()),
            reply => Ok(Committed { reply, ..committed }),
        }
    }

    /// Returns once everything acknowledged before the call is in [`Shared::state`].
    ///
    /// # Errors
    /// [`CallError::Elsewhere`] when this member does not lead, a refusal when no majority answers.
    pub async fn read(&self) -> Result<u64, CallError> {
        self.raft.read_index().await.map_err(|error| match error {
            ReadError::NotLeader { .. } => CallError::Elsewhere,
            ReadError::Overloaded { .. } => {
                Refusal::new(Code::Overloaded, error.to_string()).into()
            }
            ReadError::TimedOut | ReadError::Stopped => {
                Refusal::new(Code::Unavailable, error.to_string()).into()
            }
        })
    }

    /// The leader, if one is known that is likely to be there.
    pub fn likely_leader(&self) -> Option<MemberId> {
        let status = self.raft.status();
        let (own, leader) = (status.borrow().id, status.borrow().leader);
        leader.filter(|leader| *leader == own || self.peers.fresh(*leader))
    }

    /// `host:port` of every member: the leader first, one that seems to be gone last.
    pub fn addresses(&self) -> Vec<String> {
        let (likely, known) = (self.likely_leader(), self.raft.status().borrow().leader);
        let mut members = self.members();
        members.sort_by_key(|member| match Some(member.id) {
            id if id == likely => 0,
            id if id == known => 2,
            _ => 1,
        });
        members.into_iter().map(|member| member.address).collect()
    }

    /// The configured members, each with the id that it has now.
    pub fn members(&self) -> Vec<Member> {
        let (own, members, leader) = {
            let status = self.raft.status();
            let status = status.borrow();
            (status.id, Arc::clone(&status.members), status.leader)
        };
        roster::current(&self.config, own, &members, leader)
    }

    /// What people call a member.
    pub fn member_name(&self, id: MemberId) -> String {
        let members = Arc::clone(&self.raft.status().borrow().members);
        roster::name_of(&members, id).unwrap_or_else(|| id.to_string())
    }

    /// The actor of what the coordinator itself proposes.
    pub fn system(&self) -> Actor {
        Actor {
            user_id: self.config.name.clone(),
            name: self.config.name.clone(),
            admin: false,
            system: true,
        }
    }
}

fn propose_error(error: ProposeError) -> CallError {
    let code = match &error {
        ProposeError::NotLeader { .. } => return CallError::Elsewhere,
        ProposeError::Overloaded { .. } => Code::Overloaded,
        ProposeError::TooLarge { .. } => Code::LimitExceeded,
        ProposeError::Unknown | ProposeError::Stopped => Code::Unavailable,
    };
    Refusal::new(code, error.to_string()).into()
}
