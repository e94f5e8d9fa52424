//! The `Checkpoints` service: what people keep and remove, and what there is. Whose job it is, and what may go, is decided when the
//! command is applied.
use std::sync::Arc;

use mlctl_proto::api::checkpoints_client::CheckpointsClient;
use mlctl_proto::api::{
    self, ChangeCheckpointsReply, ChangeCheckpointsRequest, CheckpointUsageReply,
    CheckpointUsageRequest, GetPartRequest, ListCheckpointsReply, ListCheckpointsRequest,
    ListedCheckpoint, PartPiece, UploadCheckpointRequest, UploadedPart, VerifiedCopy,
    VerifyPartRequest, checkpoints_server,
};
use mlctl_proto::errors::{Code, Refusal};
use prost::Message;
use tonic::{Request, Response, Status};

use super::auth::{Person, person};
use super::convert::job::checkpoints;
use super::jobs::held;
use super::jobs_read::{PAGE_BYTES, not_found, parse};
use super::jobs_submit::{key, unexpected};
use super::route::on_leader;
use super::{
    Answers, checkpoint_parts, checkpoint_upload, checkpoint_usage, checkpoint_verify, shown,
};
use crate::peers::Lease;
use crate::shared::{CallError, Shared};
use crate::state::commands::{ChangeCheckpoints, CheckpointAction, NamedCheckpoint};
use crate::state::records::{Job, Reply};
use crate::state::rules::checkpoint_rules;
use crate::state::{Body, State};

/// Holders of one checkpoint in a list.
const HOLDERS_MAX: usize = 16;

/// The service.
pub struct Checkpoints {
    shared: Arc<Shared>,
}

impl Checkpoints {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl checkpoints_server::Checkpoints for Checkpoints {
    async fn change(
        &self,
        request: Request<ChangeCheckpointsRequest>,
    ) -> Result<Response<ChangeCheckpointsReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| change(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            CheckpointsClient::new(lease.channel.clone())
                .change(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn list(
        &self,
        request: Request<ListCheckpointsRequest>,
    ) -> Result<Response<ListCheckpointsReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| list(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            CheckpointsClient::new(lease.channel.clone())
                .list(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    type GetPartStream = Answers<PartPiece>;

    async fn get_part(
        &self,
        request: Request<GetPartRequest>,
    ) -> Result<Response<Self::GetPartStream>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| checkpoint_parts::open(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            let answer = CheckpointsClient::new(lease.channel.clone())
                .get_part(request)
                .await?;
            Ok(held(answer, lease, self.shared.shutdown.clone()))
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    type VerifyPartStream = Answers<VerifiedCopy>;

    async fn verify_part(
        &self,
        request: Request<VerifyPartRequest>,
    ) -> Result<Response<Self::VerifyPartStream>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| checkpoint_verify::open(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            let answer = CheckpointsClient::new(lease.channel.clone())
                .verify_part(request)
                .await?;
            Ok(held(answer, lease, self.shared.shutdown.clone()))
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    type UploadStream = Answers<UploadedPart>;

    async fn upload(
        &self,
        request: Request<UploadCheckpointRequest>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| checkpoint_upload::open(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            let answer = CheckpointsClient::new(lease.channel.clone())
                .upload(request)
                .await?;
            Ok(held(answer, lease, self.shared.shutdown.clone()))
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn usage(
        &self,
        request: Request<CheckpointUsageRequest>,
    ) -> Result<Response<CheckpointUsageReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |_| checkpoint_usage::get(&self.shared);
        let there = |lease: Lease, request| async move {
            CheckpointsClient::new(lease.channel.clone())
                .usage(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }
}

async fn change(
    shared: &Arc<Shared>,
    person: &Person,
    request: ChangeCheckpointsRequest,
) -> Result<ChangeCheckpointsReply, CallError> {
    let bare = ChangeCheckpointsRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let hash = *blake3::hash(&bare.encode_to_vec()).as_bytes();
    let key = key(&request.key, hash)?;
    let action = match request.action() {
        api::CheckpointAction::Pin => CheckpointAction::Pin,
        api::CheckpointAction::Unpin => CheckpointAction::Unpin,
        api::CheckpointAction::Remove => CheckpointAction::Remove,
        api::CheckpointAction::Unspecified => {
            let why = "this release knows pin, unpin and remove: use the same release as the coordinators";
            return Err(Refusal::new(Code::BadRequest, why).into());
        }
    };
    let named = |one: api::NamedCheckpoint| NamedCheckpoint {
        name: one.name,
        attempt: one.attempt,
    };
    let body = Body::ChangeCheckpoints(ChangeCheckpoints {
        job: parse(&request.job)?,
        which: request.which.into_iter().map(named).collect(),
        action,
    });
    let committed = shared
        .propose(person.actor.clone(), &person.source, Some(key), body)
        .await?;
    match committed.reply {
        Reply::Done => Ok(ChangeCheckpointsReply {
            index: committed.index,
        }),
        _ => Err(unexpected().into()),
    }
}

async fn list(
    shared: &Arc<Shared>,
    person: &Person,
    request: ListCheckpointsRequest,
) -> Result<ListCheckpointsReply, CallError> {
    let one = match request.job.as_str() {
        "" => None,
        text => Some(parse(text)?),
    };
    let after = match request.after.as_str() {
        "" => None,
        text => Some(parse(text)?),
    };
    shared.read().await?;
    let state = match one {
        Some(id) => shown::state_with(shared, id).await?,
        None => shared.state(),
    };
    let owner = &person.actor.user_id;
    let wanted = |job: &Job| match one {
        Some(id) => job.id == id,
        None => request.all || &job.owner_id == owner,
    };
    if let Some(id) = one.filter(|id| state.job(*id).is_none()) {
        return Err(not_found(id).into());
    }
    let jobs = state
        .jobs()
        .filter(|job| wanted(job) && Some(job.id) >= after);
    let mut page = Page::new(&state);
    for job in jobs {
        let seen = if Some(job.id) == after {
            request.seen
        } else {
            0
        };
        if !page.add(&state, job, seen as usize) {
            break;
        }
    }
    Ok(page.reply)
}

/// As much as fits into one answer.
struct Page {
    reply: ListCheckpointsReply,
    bytes: usize,
}

impl Page {
    fn new(state: &State) -> Self {
        let reply = ListCheckpointsReply {
            index: state.applied_index(),
            ..ListCheckpointsReply::default()
        };
        Self { reply, bytes: 0 }
    }

    /// Adds what a job has but for the first `seen`. False: the page is full.
    fn add(&mut self, state: &State, job: &Job, seen: usize) -> bool {
        if job.checkpoints.is_empty() {
            return true;
        }
        let best = checkpoint_rules(state, job).keep_best;
        let metric = best.map_or(String::new(), |best| best.metric);
        for checkpoint in checkpoints(state, job).into_iter().skip(seen) {
            let listed = listed(job, checkpoint, &metric);
            // Its length and tag besides.
            self.bytes += listed.encoded_len() + 8;
            if self.bytes > PAGE_BYTES {
                self.reply.more = true;
                return false;
            }
            self.reply.checkpoints.push(listed);
        }
        true
    }
}

fn listed(job: &Job, mut checkpoint: api::Checkpoint, metric: &str) -> ListedCheckpoint {
    let nodes = u32::try_from(checkpoint.holders.len()).unwrap_or(u32::MAX);
    let metric = if checkpoint.metric.is_some() {
        metric
    } else {
        ""
    };
    checkpoint.holders.truncate(HOLDERS_MAX);
    checkpoint.parts.clear();
    ListedCheckpoint {
        job: job.id.to_string(),
        job_name: job.name.clone(),
        owner: job.owner_name.clone(),
        metric_name: metric.to_owned(),
        checkpoint: Some(checkpoint),
        nodes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::{Happening, PartOf, SealedPart};
    use crate::state::testing::Cluster;
    use mlctl_proto::ids::JobId;
    use mlctl_proto::spec::{CheckpointSpec, JobSpec, KeepBest};

    fn cluster(count: u64) -> (Cluster, JobId) {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let best = KeepBest::parse("val_loss:min:1").expect("good");
        let spec = JobSpec {
            gpus: 1,
            checkpoint: Some(CheckpointSpec {
                keep_last: Some(64),
                keep_best: Some(best),
                ..CheckpointSpec::default()
            }),
            ..JobSpec::new(vec!["true".into()])
        };
        let job = cluster.submitted_spec("ann", &spec);
        let epoch = cluster.started(job, &["a"]);
        for step in 1..=count {
            let sealed = SealedPart {
                name: format!("step-{step}"),
                step,
                part: Some(PartOf {
                    index: 0,
                    manifest: Some([1; 32]),
                    bytes: 7,
                }),
                parts: 1,
                metric: (step > 1).then_some(1 << 63 | step),
                save_ms: 5,
            };
            cluster.event("a", job, epoch, Happening::CheckpointSealed(sealed));
        }
        (cluster, job)
    }

    #[test]
    fn a_list_says_what_is_measured_and_leaves_the_parts_out() {
        let (cluster, job) = cluster(3);
        let mut page = Page::new(&cluster.state);
        assert!(page.add(&cluster.state, &cluster.job(job), 0));
        let listed = page.reply.checkpoints;
        let names: Vec<&str> = (listed.iter())
            .map(|one| one.checkpoint.as_ref().map_or("", |one| one.name.as_str()))
            .collect();
        assert_eq!(names, ["step-1", "step-2", "step-3"]);
        let metrics: Vec<&str> = listed.iter().map(|one| one.metric_name.as_str()).collect();
        assert_eq!(metrics, ["", "val_loss", "val_loss"]);
        let last = listed[2].clone();
        let checkpoint = last.checkpoint.expect("always");
        assert_eq!(
            (last.job.as_str(), last.owner.as_str(), last.nodes),
            ("1", "ann", 1)
        );
        assert_eq!((checkpoint.bytes, checkpoint.save_ms), (7, 5));
        assert_eq!(
            (checkpoint.durability.as_str(), checkpoint.parts.len()),
            ("0/1", 0)
        );
    }

    #[test]
    fn what_every_node_sees_is_called_shared() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let spec = JobSpec {
            gpus: 1,
            checkpoint: Some(CheckpointSpec {
                shared: true,
                replicas: 0,
                ..CheckpointSpec::in_dir("/nfs/a")
            }),
            ..JobSpec::new(vec!["true".into()])
        };
        let job = cluster.submitted_spec("ann", &spec);
        let epoch = cluster.started(job, &["a"]);
        let what = crate::state::testing::sealed("step-1", 1);
        cluster.event("a", job, epoch, what);
        let mut page = Page::new(&cluster.state);
        assert!(page.add(&cluster.state, &cluster.job(job), 0));
        let one = page.reply.checkpoints[0].checkpoint.clone();
        assert_eq!(one.expect("always").durability, "shared");
    }

    #[test]
    fn a_page_goes_on_where_the_last_one_ended() {
        let (cluster, job) = cluster(9);
        let record = cluster.job(job);
        let mut names = Vec::new();
        loop {
            let mut page = Page::new(&cluster.state);
            // Room for two or three.
            page.bytes = PAGE_BYTES - 250;
            let all = page.add(&cluster.state, &record, names.len());
            assert_eq!(all, !page.reply.more);
            assert!(!page.reply.checkpoints.is_empty());
            let page = page.reply.checkpoints.into_iter();
            names.extend(page.filter_map(|one| Some(one.checkpoint?.name)));
            if all {
                break;
            }
        }
        let wanted: Vec<String> = (1..=9).map(|step| format!("step-{step}")).collect();
        assert_eq!(names, wanted);
    }
}
