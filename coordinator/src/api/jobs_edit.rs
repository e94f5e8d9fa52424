//! Hold, Release, Update: one command for any number of jobs, which a request names or describes. Whose they are, and what may change, is decided when
//! it is applied.
use std::sync::Arc;

use mlctl_proto::api::{EditReply, HoldRequest, JobFilter, LeftJob, ReleaseRequest, UpdateRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::spec::{Class, Edit};
use prost::Message;

use super::auth::Person;
use super::jobs_cancel::named;
use super::jobs_submit::{key, unexpected};
use crate::shared::{CallError, Shared};
use crate::state::commands::{Filter, HoldJobs, ReleaseJobs, Selection, UpdateJobs};
use crate::state::records::{JobState, Reply};
use crate::state::{Body, IdempotencyKey};

/// Serves the call on the leader.
pub async fn hold(
    shared: &Arc<Shared>,
    person: &Person,
    request: HoldRequest,
) -> Result<EditReply, CallError> {
    let bare = HoldRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let key = key(&request.key, hash(&bare))?;
    let body = Body::HoldJobs(HoldJobs {
        which: selection(&request.jobs, request.filter, "hold")?,
        why: request.why,
    });
    edit(shared, person, key, body).await
}

/// Serves the call on the leader.
pub async fn release(
    shared: &Arc<Shared>,
    person: &Person,
    request: ReleaseRequest,
) -> Result<EditReply, CallError> {
    let bare = ReleaseRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let key = key(&request.key, hash(&bare))?;
    let body = Body::ReleaseJobs(ReleaseJobs {
        which: selection(&request.jobs, request.filter, "release")?,
    });
    edit(shared, person, key, body).await
}

/// Serves the call on the leader.
pub async fn update(
    shared: &Arc<Shared>,
    person: &Person,
    request: UpdateRequest,
) -> Result<EditReply, CallError> {
    let bare = UpdateRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let key = key(&request.key, hash(&bare))?;
    let change = Edit::parse(&request.edit).map_err(Refusal::from)?;
    let body = Body::UpdateJobs(UpdateJobs {
        which: selection(&request.jobs, request.filter, "change")?,
        edit: change.to_json(),
    });
    edit(shared, person, key, body).await
}

fn hash(bare: &impl Message) -> [u8; 32] {
    *blake3::hash(&bare.encode_to_vec()).as_bytes()
}

async fn edit(
    shared: &Arc<Shared>,
    person: &Person,
    key: IdempotencyKey,
    body: Body,
) -> Result<EditReply, CallError> {
    let committed = shared
        .propose(person.actor.clone(), &person.source, Some(key), body)
        .await?;
    let Reply::Edited { jobs, left } = committed.reply else {
        return Err(unexpected().into());
    };
    let left = left.into_iter().map(|(job, why)| LeftJob {
        job: job.to_string(),
        why,
    });
    Ok(EditReply {
        jobs: jobs.iter().map(ToString::to_string).collect(),
        left: left.collect(),
        index: committed.index,
    })
}

/// The jobs that a request names, or describes; `verb`: what it asks for.
pub(super) fn selection(
    jobs: &[String],
    filter: Option<JobFilter>,
    verb: &str,
) -> Result<Selection, Refusal> {
    let Some(wanted) = filter else {
        return Ok(Selection::of(named(jobs, verb)?));
    };
    if !jobs.is_empty() {
        let why = format!("name the jobs to {verb}, or say what they have in common: not both");
        return Err(Refusal::new(Code::BadRequest, why));
    }
    Ok(Selection {
        jobs: Vec::new(),
        filter: Some(filter_of(wanted)?),
    })
}

fn filter_of(wanted: JobFilter) -> Result<Filter, Refusal> {
    let unknown = |key: &str, word: &str, words: &[&str]| {
        let (word, words) = (clip(word), words.join(", "));
        Refusal::new(
            Code::BadRequest,
            format!("{key} `{word}`: use one of {words}"),
        )
    };
    let state = match wanted.state.as_str() {
        "" => None,
        word => {
            let mut states = JobState::ALL.into_iter();
            let found = states.find(|state| state.word().eq_ignore_ascii_case(word));
            let words = JobState::ALL.map(JobState::word);
            Some(found.ok_or_else(|| unknown("state", word, &words))?)
        }
    };
    let class = match wanted.class.as_str() {
        "" => None,
        word => {
            let words = Class::ALL.map(|(_, word)| word);
            Some(Class::of_word(word).ok_or_else(|| unknown("class", word, &words))?)
        }
    };
    Ok(Filter {
        user: wanted.user,
        team: wanted.team,
        name: wanted.name,
        state,
        class,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_or_described() {
        let named = selection(&["7".to_owned()], None, "hold").expect("good");
        assert_eq!((named.jobs.len(), named.filter), (1, None));
        let filter = |state: &str, class: &str| JobFilter {
            state: state.into(),
            class: class.into(),
            ..JobFilter::default()
        };
        let found = selection(&[], Some(filter("pending", "high")), "hold").expect("good");
        let want = Filter {
            state: Some(JobState::Pending),
            class: Some(Class::High),
            ..Filter::default()
        };
        assert_eq!(found.filter, Some(want));
        for (jobs, filter, says) in [
            (vec![], None, "name 1 to"),
            (vec!["x".to_owned()], None, "is not a JobId"),
            (vec!["7".to_owned()], Some(filter("", "low")), "not both"),
            (vec![], Some(filter("runing", "")), "use one of Pending"),
            (vec![], Some(filter("", "urgent")), "use one of low"),
        ] {
            let refusal = selection(&jobs, filter, "hold").expect_err(says);
            assert_eq!(refusal.code, Code::BadRequest);
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }
}
