//! SubmitJob: a user asks for a job. What no cluster of this inventory could ever run is refused; what does not fit now waits.
//! The owner is the actor, whatever the client says.
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;
use mlctl_proto::limits::PENDING_PER_USER_MAX;
use mlctl_proto::spec::{JobSpec, parse_json};
use mlctl_proto::units::UtcMs;

use super::membership::{self, Submitter};
use super::{Context, bounded, dependencies, hold_jobs};
use crate::state::change::Change;
use crate::state::records::{Array, Job, JobState, Marks, Reply, Retries, Spec, Turn};
use crate::state::rules::{Request, never_fits};

/// What a user submits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmitJob {
    /// The spec as JSON.
    pub spec: Vec<u8>,
    /// Blob of the code manifest, 64 hex digits; empty: no code.
    pub code_manifest: String,
    /// Bytes of the code.
    pub code_bytes: u64,
    /// Trace of the submit, empty: none.
    pub traceparent: String,
    /// Advice for the node's user map.
    pub submitter_uid: u32,
}

impl SubmitJob {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_person()?;
        let spec = parse_json(&self.spec)?;
        self.check_texts()?;
        let request = Request::of(&spec);
        let actor = context.actor;
        check_times(&spec, context.now_ms)?;
        let who = Submitter {
            id: &actor.user_id,
            name: &actor.name,
            admin: actor.admin,
        };
        let team = membership::team_of(change.state(), who, spec.team.as_deref())?;
        admit(change, &actor.user_id, &actor.name, Some(&request))?;
        membership::admits(change.state(), &team, who, &spec)?;
        let mut array = spec.array.as_ref().map(Array::new);
        let after = dependencies::admit(change, &spec, array.as_mut())?;
        let id = next_id(change)?;
        let json = spec.canonical_json();
        let mut stored = Spec { json, uses: 1 };
        let spec_hash = stored.hash();
        if let Some(known) = change.state().spec(&spec_hash) {
            stored.uses = known.uses.saturating_add(1);
        }
        change.put_spec(stored)?;
        let mut job = self.job(id, &spec, spec_hash, context);
        (job.team, job.array, job.turn.after) = (team, array.map(Arc::new), after);
        if spec.hold {
            let why = "its spec says `hold`";
            job.turn.hold = Some(hold_jobs::by(&job.owner_id, why, context));
            job.state = JobState::Held;
        }
        change.put_job(job);
        change.queued();
        Ok(Reply::Submitted { job: id })
    }

    fn check_texts(&self) -> Result<(), Refusal> {
        let hex = self
            .code_manifest
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !matches!(self.code_manifest.len(), 0 | 64) || !hex {
            return Err(Refusal::new(
                Code::BadRequest,
                "the code manifest is not a blob id: 64 hex digits, or nothing",
            ));
        }
        if !self.traceparent.is_empty() {
            bounded("the trace", &self.traceparent, 128)?;
            if !self.traceparent.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Refusal::new(
                    Code::BadRequest,
                    "the trace is not a traceparent",
                ));
            }
        }
        Ok(())
    }

    /// Its team and its tasks are the caller's.
    fn job(&self, id: JobId, spec: &JobSpec, spec_hash: [u8; 32], context: &Context) -> Job {
        Job {
            id,
            name: spec.display_name(),
            on_disconnect: spec.on_disconnect,
            owner_id: context.actor.user_id.clone(),
            owner_name: context.actor.name.clone(),
            team: String::new(),
            spec_hash,
            code_manifest: self.code_manifest.clone(),
            code_bytes: self.code_bytes,
            state: JobState::Pending,
            submitted_ms: context.now_ms,
            started_ms: 0,
            ended_ms: 0,
            submit_index: context.index,
            epoch_counter: 0,
            recalled_counter: 0,
            infrastructure_restarts: 0,
            outcome: None,
            cancel_requested: false,
            cancelled_by: String::new(),
            traceparent: self.traceparent.clone(),
            checkpoints: Vec::new(),
            submitter_uid: self.submitter_uid,
            array: None,
            retries: Retries::default(),
            lineage: None,
            turn: Turn::of(spec),
            marks: Marks::default(),
        }
    }
}

/// A deadline lies ahead. A start time need not: then the job waits for nothing.
fn check_times(spec: &JobSpec, now_ms: UtcMs) -> Result<(), Refusal> {
    for (key, at) in [("start_by", spec.start_by), ("end_by", spec.end_by)] {
        if let Some(at) = at.filter(|at| at.ms() <= now_ms) {
            let why = format!("`{key}` is {at}, which is over: name a time that lies ahead");
            return Err(Refusal::new(Code::BadRequest, why));
        }
    }
    Ok(())
}

/// Whether one more job of a user may wait, and could ever run.
pub(super) fn admit(
    change: &Change,
    user_id: &str,
    name: &str,
    request: Option<&Request>,
) -> Result<(), Refusal> {
    let waiting = change.state().pending_count_of(user_id);
    if waiting >= PENDING_PER_USER_MAX {
        let why = format!(
            "{waiting} jobs of {name} are pending, as many as one user may have: wait until some start, or cancel some"
        );
        return Err(Refusal::new(Code::LimitExceeded, why));
    }
    let never = request.and_then(|request| never_fits(request, change.state().inventory()));
    match never {
        None => Ok(()),
        Some(never) => {
            let why = format!("no node of this cluster could ever run it: {}", never.why);
            Err(Refusal::new(Code::NeverFits, why))
        }
    }
}

/// The id of a new job: ids never repeat.
pub(super) fn next_id(change: &mut Change) -> Result<JobId, Refusal> {
    let mut settings = change.settings()?;
    let id = JobId::new(settings.incarnation, settings.next_job);
    let next = settings.next_job.checked_add(1);
    settings.next_job = next
        .ok_or_else(|| Refusal::new(Code::LimitExceeded, "this cluster has used up its job ids"))?;
    change.put_settings(settings);
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{Cluster, person, system};
    use crate::state::{Body, Changed, Effect};

    fn submit(spec: &str) -> SubmitJob {
        SubmitJob {
            spec: spec.into(),
            code_manifest: String::new(),
            code_bytes: 0,
            traceparent: String::new(),
            submitter_uid: 7,
        }
    }

    #[test]
    fn ids_count_from_one_and_a_spec_is_stored_once() {
        let mut cluster = Cluster::new();
        for expected in 1..=3 {
            let applied = cluster.run(
                person("ann", false),
                Body::SubmitJob(submit(r#"{"command":["true"],"nodes":9}"#)),
            );
            let id = JobId::new(1, expected);
            assert_eq!(
                applied.reply,
                Reply::Submitted { job: id },
                "nine nodes pend while there is none"
            );
            assert_eq!(
                (applied.effects, applied.changed),
                (vec![Effect::Queued], vec![Changed::Job(id)])
            );
        }
        let job = cluster.job(JobId::new(1, 2));
        assert_eq!(
            (job.owner_id.as_str(), job.team.as_str(), job.name.as_str()),
            ("id-ann", "default", "true")
        );
        assert_eq!(
            cluster.state.spec(&job.spec_hash).map(|spec| spec.uses),
            Some(3)
        );
        assert_eq!(cluster.state.pending_count_of("id-ann"), 3);
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 2);
        let before = cluster.state.digest();
        let fine = r#"{"command":["true"]}"#;
        let bad_code = SubmitJob {
            code_manifest: "../x".into(),
            ..submit(fine)
        };
        let bad_trace = SubmitJob {
            traceparent: "a\nb".into(),
            ..submit(fine)
        };
        let ann = || person("ann", false);
        let nobody = crate::state::records::Actor::default();
        for (actor, submit, code) in [
            (ann(), submit("not json"), Code::BadRequest),
            (ann(), submit(r#"{"command":[]}"#), Code::BadRequest),
            (
                ann(),
                submit(r#"{"command":["x"],"nodes":0}"#),
                Code::BadRequest,
            ),
            (
                ann(),
                submit(r#"{"command":["x"],"gpus":-1}"#),
                Code::BadRequest,
            ),
            (
                ann(),
                submit(r#"{"command":["x"],"gpus":3}"#),
                Code::NeverFits,
            ),
            (
                ann(),
                submit(r#"{"command":["x"],"nodes":2}"#),
                Code::NeverFits,
            ),
            (
                ann(),
                submit(&format!(r#"{{"command":["{}"]}}"#, "x".repeat(70_000))),
                Code::BadRequest,
            ),
            (ann(), bad_code, Code::BadRequest),
            (ann(), bad_trace, Code::BadRequest),
            (system(), submit(fine), Code::Denied),
            (nobody, submit(fine), Code::Denied),
        ] {
            let applied = cluster.run(actor, Body::SubmitJob(submit));
            assert_eq!(
                applied.refusal().map(|refusal| refusal.code),
                Some(code),
                "{:?}",
                applied.reply
            );
        }
        assert_eq!(cluster.state.digest(), before);
    }

    #[test]
    fn one_user_does_not_fill_the_queue() {
        let mut cluster = Cluster::new();
        cluster.checked = false;
        let one = submit(r#"{"command":["true"]}"#);
        for _ in 0..PENDING_PER_USER_MAX {
            cluster.run(person("ann", false), Body::SubmitJob(one.clone()));
        }
        let applied = cluster.run(person("ann", false), Body::SubmitJob(one.clone()));
        assert_eq!(
            applied.refusal().map(|refusal| refusal.code),
            Some(Code::LimitExceeded)
        );
        assert!(
            cluster
                .run(person("bob", false), Body::SubmitJob(one))
                .refusal()
                .is_none()
        );
    }
}
