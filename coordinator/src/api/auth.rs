//! Who may call what: one table of every call, checked before a service sees the request. What is not in it is denied.
//!
//! A certificate says who somebody is; whether a job is theirs is the state machine's question. Actors named in
//! metadata count only when a coordinator names them, and are an error from everybody else.
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{check_name, clip};
use mlctl_runtime::identity::{Peer, Role};
use mlctl_runtime::tls::ConnPeer;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};
use tower::{Layer, Service};

use crate::config::Member;
use crate::state::records::Actor;

const ACTOR_ID: &str = "mlctl-actor-id";
const ACTOR_NAME: &str = "mlctl-actor-name";
const ACTOR_ADMIN: &str = "mlctl-actor-admin";

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Users, and coordinators on behalf of one.
    User,
    /// Admins, and coordinators on behalf of one.
    Admin,
    /// Agents; each speaks only about its own node.
    Node,
    /// Members of this cluster.
    Coordinator,
}

/// Every call that there is.
pub const CALLS: [(&str, Access); 43] = [
    ("/mlctl.api.v1.Jobs/Submit", Access::User),
    ("/mlctl.api.v1.Jobs/List", Access::User),
    ("/mlctl.api.v1.Jobs/Get", Access::User),
    ("/mlctl.api.v1.Jobs/Cancel", Access::User),
    ("/mlctl.api.v1.Jobs/Retry", Access::User),
    ("/mlctl.api.v1.Jobs/Hold", Access::User),
    ("/mlctl.api.v1.Jobs/Release", Access::User),
    ("/mlctl.api.v1.Jobs/Update", Access::User),
    ("/mlctl.api.v1.Jobs/Why", Access::User),
    ("/mlctl.api.v1.Jobs/Foresee", Access::User),
    ("/mlctl.api.v1.Jobs/Logs", Access::User),
    ("/mlctl.api.v1.Jobs/Watch", Access::User),
    ("/mlctl.api.v1.Cluster/Hello", Access::User),
    ("/mlctl.api.v1.Cluster/Nodes", Access::User),
    ("/mlctl.api.v1.Cluster/Change", Access::Admin),
    ("/mlctl.api.v1.Cluster/DeclareLost", Access::Admin),
    ("/mlctl.api.v1.Checkpoints/Change", Access::User),
    ("/mlctl.api.v1.Checkpoints/List", Access::User),
    ("/mlctl.api.v1.Checkpoints/GetPart", Access::User),
    ("/mlctl.api.v1.Checkpoints/VerifyPart", Access::User),
    ("/mlctl.api.v1.Checkpoints/Upload", Access::User),
    ("/mlctl.api.v1.Checkpoints/Usage", Access::User),
    ("/mlctl.api.v1.Teams/Change", Access::Admin),
    ("/mlctl.api.v1.Teams/List", Access::User),
    ("/mlctl.api.v1.Teams/Explain", Access::User),
    ("/mlctl.api.v1.Admin/Decide", Access::Admin),
    ("/mlctl.api.v1.Admin/Show", Access::User),
    ("/mlctl.api.v1.Blobs/Missing", Access::User),
    ("/mlctl.api.v1.Blobs/Put", Access::User),
    ("/mlctl.agent.v1.Link/Open", Access::Node),
    ("/mlctl.agent.v1.Bulk/PushLogs", Access::Node),
    ("/mlctl.agent.v1.Bulk/GetBlob", Access::Node),
    ("/mlctl.peer.v1.Peer/Raft", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/PullSnapshot", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/PutBlob", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/HasBlobs", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/FetchBlob", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/Vitals", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/FetchSegment", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/Join", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/KeepLogs", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/ListLogs", Access::Coordinator),
    ("/mlctl.peer.v1.Peer/FetchLogs", Access::Coordinator),
];

/// A caller that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A user, here or through another coordinator.
    Person(Person),
    /// An agent.
    Node(String),
    /// Another coordinator, by name.
    Coordinator(String),
}

/// A user whose call was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// From the certificate.
    pub actor: Actor,
    /// Another coordinator passed the call on: it is not passed on again.
    pub forwarded: bool,
    /// Where the call came from, for the record.
    pub source: String,
}

impl Person {
    /// Names the actor to the coordinator that the call is passed on to.
    ///
    /// # Errors
    /// Never for names that certificates carry.
    pub fn put(&self, metadata: &mut MetadataMap) -> Result<(), Status> {
        let value = |text: &str| {
            let value = AsciiMetadataValue::try_from(text);
            value.map_err(|_| Status::internal("a user's name cannot be passed on"))
        };
        metadata.insert(ACTOR_ID, value(&self.actor.user_id)?);
        metadata.insert(ACTOR_NAME, value(&self.actor.name)?);
        metadata.insert(
            ACTOR_ADMIN,
            value(if self.actor.admin { "1" } else { "0" })?,
        );
        Ok(())
    }
}

/// The user behind a request.
///
/// # Errors
/// When the request was not let in as one of a user: a service that is not behind [`AuthLayer`] serves nobody.
pub fn person<T>(request: &Request<T>) -> Result<Person, Status> {
    match request.extensions().get() {
        Some(Caller::Person(person)) => Ok(person.clone()),
        _ => Err(stranger()),
    }
}

/// The node behind a request.
///
/// # Errors
/// As [`person`].
pub fn node<T>(request: &Request<T>) -> Result<String, Status> {
    match request.extensions().get() {
        Some(Caller::Node(name)) => Ok(name.clone()),
        _ => Err(stranger()),
    }
}

/// The name of the coordinator behind a request. Which member it is, is for consensus to say.
///
/// # Errors
/// As [`person`].
pub fn coordinator<T>(request: &Request<T>) -> Result<String, Status> {
    match request.extensions().get() {
        Some(Caller::Coordinator(name)) => Ok(name.clone()),
        _ => Err(stranger()),
    }
}

fn stranger() -> Status {
    Refusal::new(Code::Denied, "the caller is not known here").into()
}

/// Lets a call in, or says why not.
///
/// # Errors
/// [`Code::Denied`].
pub fn admit(
    path: &str,
    peer: &Peer,
    headers: &http::HeaderMap,
    members: &BTreeSet<String>,
    remote: &str,
) -> Result<Caller, Refusal> {
    let denied = |why: String| Err(Refusal::new(Code::Denied, why));
    let Some((_, access)) = CALLS.iter().find(|(known, _)| *known == path) else {
        return denied(format!("there is no call {}", clip(path)));
    };
    let member = match peer.role {
        Role::Coordinator if !members.contains(&peer.id) => {
            return denied(format!("{peer} is not a member of this cluster"));
        }
        Role::Coordinator => true,
        Role::Node | Role::User => false,
    };
    let named = named_actor(headers)?;
    if named.is_some() && !member {
        return denied(format!(
            "{peer} names another user; only coordinators pass calls on"
        ));
    }
    match (access, peer.role) {
        (Access::User | Access::Admin, Role::User) => {
            let actor = Actor {
                user_id: peer.id.clone(),
                name: peer.name.clone(),
                admin: peer.admin,
                system: false,
            };
            let_in(*access, actor, false, format!("api {remote}"))
        }
        (Access::User | Access::Admin, Role::Coordinator) => match named {
            Some(actor) => let_in(*access, actor, true, format!("api via {}", peer.name)),
            None => denied(format!(
                "{peer} names no user, and only users may make this call"
            )),
        },
        (Access::Node, Role::Node) => Ok(Caller::Node(peer.id.clone())),
        (Access::Coordinator, Role::Coordinator) => Ok(Caller::Coordinator(peer.id.clone())),
        (Access::User | Access::Admin, Role::Node) => denied(format!(
            "{peer} is a node; use a user's certificate (`mlctl admin user add NAME`)"
        )),
        (Access::Node, ..) => denied(format!("{peer} is not a node")),
        (Access::Coordinator, ..) => denied(format!("{peer} is not a coordinator")),
    }
}

fn let_in(
    access: Access,
    actor: Actor,
    forwarded: bool,
    source: String,
) -> Result<Caller, Refusal> {
    if access == Access::Admin && !actor.admin {
        let why = format!("{} is not an admin; ask one to do this", actor.name);
        return Err(Refusal::new(Code::Denied, why));
    }
    Ok(Caller::Person(Person {
        actor,
        forwarded,
        source,
    }))
}

fn named_actor(headers: &http::HeaderMap) -> Result<Option<Actor>, Refusal> {
    let text = |key: &str| {
        headers
            .get(key)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let (id, name, admin) = (text(ACTOR_ID), text(ACTOR_NAME), text(ACTOR_ADMIN));
    let (Some(id), Some(name), Some(admin)) = (id, name, admin) else {
        return match (id, name, admin) {
            (None, None, None) => Ok(None),
            _ => Err(Refusal::new(Code::Denied, "half an actor is named")),
        };
    };
    if check_name(id).is_err() || check_name(name).is_err() || !["0", "1"].contains(&admin) {
        return Err(Refusal::new(
            Code::Denied,
            "the actor that is named is malformed",
        ));
    }
    Ok(Some(Actor {
        user_id: id.to_owned(),
        name: name.to_owned(),
        admin: admin == "1",
        system: false,
    }))
}

/// Puts [`admit`] before every service.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    members: Arc<BTreeSet<String>>,
}

impl AuthLayer {
    /// Coordinators are let in if they are among `members`.
    pub fn new(members: &[Member]) -> Self {
        let members = members.iter().map(|member| member.name.clone());
        Self {
            members: Arc::new(members.collect()),
        }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth {
            inner,
            members: Arc::clone(&self.members),
        }
    }
}

/// A service behind the check.
#[derive(Debug, Clone)]
pub struct Auth<S> {
    inner: S,
    members: Arc<BTreeSet<String>>,
}

type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<S, B, R> Service<http::Request<B>> for Auth<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: Default + Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Answer<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let caller = match request.extensions().get::<ConnPeer>() {
            Some(conn) => {
                let (path, headers) = (request.uri().path(), request.headers());
                admit(
                    path,
                    &conn.peer,
                    headers,
                    &self.members,
                    &conn.remote.to_string(),
                )
            }
            None => Err(Refusal::new(
                Code::Denied,
                "this call did not come over mutual TLS",
            )),
        };
        match caller {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => {
                let denied = Status::from(refusal).into_http();
                Box::pin(std::future::ready(Ok(denied)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(role: Role, name: &str, admin: bool) -> Peer {
        let id = if role == Role::User {
            "u-0000000a"
        } else {
            name
        };
        Peer {
            role,
            id: id.into(),
            name: name.into(),
            admin,
            cluster: "c".into(),
        }
    }

    fn headers(actor: &[(&'static str, &'static str)]) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        for (key, value) in actor {
            headers.insert(*key, http::HeaderValue::from_static(value));
        }
        headers
    }

    fn check(path: &str, peer: &Peer, headers: &http::HeaderMap) -> Result<Caller, Refusal> {
        let members = BTreeSet::from(["c1".to_owned()]);
        admit(path, peer, headers, &members, "127.0.0.1:5")
    }

    const ANN: [(&str, &str); 3] = [
        (ACTOR_ID, "u-0000000b"),
        (ACTOR_NAME, "ann"),
        (ACTOR_ADMIN, "0"),
    ];
    const ROOT: [(&str, &str); 3] = [
        (ACTOR_ID, "u-0000000c"),
        (ACTOR_NAME, "root"),
        (ACTOR_ADMIN, "1"),
    ];

    fn callers() -> Vec<(&'static str, Peer, http::HeaderMap)> {
        let none = headers(&[]);
        vec![
            ("user", peer(Role::User, "bob", false), none.clone()),
            ("admin", peer(Role::User, "eve", true), none.clone()),
            (
                "user naming another",
                peer(Role::User, "bob", false),
                headers(&ANN),
            ),
            ("node", peer(Role::Node, "n1", false), none.clone()),
            (
                "node naming a user",
                peer(Role::Node, "n1", false),
                headers(&ANN),
            ),
            (
                "coordinator",
                peer(Role::Coordinator, "c1", false),
                none.clone(),
            ),
            (
                "coordinator for a user",
                peer(Role::Coordinator, "c1", false),
                headers(&ANN),
            ),
            (
                "coordinator for an admin",
                peer(Role::Coordinator, "c1", false),
                headers(&ROOT),
            ),
            (
                "unknown coordinator",
                peer(Role::Coordinator, "c9", false),
                none.clone(),
            ),
            (
                "unknown coordinator for a user",
                peer(Role::Coordinator, "c9", false),
                headers(&ANN),
            ),
        ]
    }

    /// Every call times every kind of caller.
    #[test]
    fn the_authorization_matrix() {
        for (path, access) in CALLS {
            let allowed: &[&str] = match access {
                Access::User => &[
                    "user",
                    "admin",
                    "coordinator for a user",
                    "coordinator for an admin",
                ],
                Access::Admin => &["admin", "coordinator for an admin"],
                Access::Node => &["node"],
                Access::Coordinator => &[
                    "coordinator",
                    "coordinator for a user",
                    "coordinator for an admin",
                ],
            };
            for (what, peer, headers) in &callers() {
                let outcome = check(path, peer, headers);
                assert_eq!(
                    outcome.is_ok(),
                    allowed.contains(what),
                    "{what} calls {path}: {outcome:?}"
                );
                if let Err(refusal) = outcome {
                    assert_eq!(refusal.code, Code::Denied, "{what} calls {path}");
                }
            }
        }
        assert!(
            check(
                "/mlctl.api.v1.Jobs/Delete",
                &peer(Role::User, "eve", true),
                &headers(&[])
            )
            .is_err()
        );
    }

    #[test]
    fn the_actor_is_the_certificates_or_the_one_that_was_passed_on() {
        let path = "/mlctl.api.v1.Jobs/Submit";
        let who = |caller: Caller| match caller {
            Caller::Person(person) => (person.actor.user_id, person.forwarded),
            other => panic!("{other:?} is not a person"),
        };
        let own = check(path, &peer(Role::User, "bob", false), &headers(&[])).expect("let in");
        assert_eq!(who(own), ("u-0000000a".into(), false));
        let passed =
            check(path, &peer(Role::Coordinator, "c1", false), &headers(&ANN)).expect("let in");
        assert_eq!(who(passed.clone()), ("u-0000000b".into(), true));
        let Caller::Person(person) = passed else {
            panic!("a person")
        };
        let mut metadata = MetadataMap::new();
        person.put(&mut metadata).expect("ascii");
        let again = check(
            path,
            &peer(Role::Coordinator, "c1", false),
            &metadata.into_headers(),
        )
        .expect("let in");
        assert_eq!(who(again), ("u-0000000b".into(), true));
    }

    #[test]
    fn malformed_actors_are_denied() {
        for actor in [
            &[(ACTOR_ID, "u-0000000b")][..],
            &[(ACTOR_ADMIN, "1")],
            &[
                (ACTOR_ID, "u-0000000b"),
                (ACTOR_NAME, "ann"),
                (ACTOR_ADMIN, "yes"),
            ],
            &[(ACTOR_ID, ""), (ACTOR_NAME, "ann"), (ACTOR_ADMIN, "0")],
            &[
                (ACTOR_ID, "u/../x"),
                (ACTOR_NAME, "ann"),
                (ACTOR_ADMIN, "0"),
            ],
        ] {
            let caller = peer(Role::Coordinator, "c1", false);
            assert!(
                check("/mlctl.api.v1.Jobs/List", &caller, &headers(actor)).is_err(),
                "{actor:?}"
            );
        }
    }
}
