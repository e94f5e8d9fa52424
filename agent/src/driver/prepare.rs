//! Lays out one attempt: directories, code, the plan. Everything that a keeper needs, and nothing that runs.
//! Does NOT start anything. Interrupted, it leaves no plan, and the next try begins anew.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use mlctl_proto::spec::{JobSpec, SpecError, parse_json};
use mlctl_runtime::telemetry::trace_context::current_traceparent;
use nix::unistd::User;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::place::{Kind, Place};
use super::{Context, memory};
use crate::checkpoints::leftovers::{set_aside, set_aside_half};
use crate::code::{self, FetchError};
use crate::copies::restore::RestoreError;
use crate::core::Start;
use crate::failpoint;
use crate::keeper::PLAN;
use crate::launch::interface::{self, Interface};
use crate::launch::port::{self, PortError, PortLease};
use crate::launch::rdma::{self, active_ports};
use crate::launch::{
    FencePlan, Interpreters, LaunchPlan, Member, PlanError, PlannedFile, Request, plan,
};
use crate::link::Leader;
use crate::link::convert::start_to_wire;
use crate::ram;

/// The committed start, so that a live keeper can be adopted even without a journal.
pub(super) const START: &str = "start.pb";
/// The port leased for this attempt.
const PORT: &str = "port";
/// Between two tries to fetch code from a leader that is there.
const AGAIN: Duration = Duration::from_millis(300);
/// Variables of the agent that every job gets.
const HANDED_ON: [&str; 8] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
];

/// Why an attempt cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the job's spec cannot be read: {0}")]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(
        "there is no user `{0}` on this node: make it, or name another in `job_user` or `[users]` of the agent's configuration"
    )]
    User(String),
    #[error("{0}")]
    Nobody(String),
    #[error("{0}")]
    Shared(String),
    #[error("a task of the agent died: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// What laying out leaves in hand.
#[derive(Debug)]
pub(super) struct Laid {
    /// On node rank 0: the port where the gang meets.
    pub(super) lease: Option<PortLease>,
}

/// Lays the attempt out, whose folders are made.
pub(super) async fn lay_out(context: &Context, start: &Start) -> Result<Laid, PrepareError> {
    let spec = parse_json(&start.spec)?;
    let dirs = &context.dirs;
    let work = dirs.work(start.job, start.epoch);
    if !start.code_manifest.is_empty() {
        fetch_code(context, &start.code_manifest, &work).await?;
        failpoint::hit("prepare.code");
    }
    make(&work)?;
    let checkpoints = dirs.checkpoints(start.job);
    let in_memory = memory::make(context, start, &spec);
    let place = Place::of(dirs, start);
    place.check(start).await?;
    let own = spec.checkpoint.as_ref().filter(|one| !one.shared);
    if let Some(checkpoint) = own {
        link_checkpoints(&work.join(&checkpoint.dir), &place.dir)?;
    }
    let user = user_of(context, start)?;
    if let Some(user) = &user {
        hand_over(&work, user)?;
        hand_over_checkpoints(&checkpoints, user)?;
        if let Some(dir) = &in_memory {
            hand_over_checkpoints(dir, user)?;
        }
    }
    let own = start
        .members
        .get(start.node_rank as usize)
        .map(|member| member.rank_address.clone());
    let lead = start.node_rank == 0;
    let peer = peer_of(start);
    let (lease, interface) = tokio::task::spawn_blocking(move || {
        let lease = own
            .filter(|_| lead)
            .map(|address| port::lease(&address))
            .transpose()?;
        Ok::<_, PortError>((lease, peer.and_then(|peer| interface::to_peer(&peer))))
    })
    .await??;
    let request = request(context, start, spec, &place, interface, user);
    let mut plan = plan(&request)?;
    plan.fence = start.fence.map(|fence| FencePlan {
        after_ms: fence.after_ms,
        grace_ms: fence.grace_ms,
    });
    if context.config.users.apart() {
        plan.owner = start.owner_name.clone();
    }
    write_plan(context, start, &plan, lease.as_ref())?;
    failpoint::hit("prepare.plan");
    Ok(Laid { lease })
}

/// The port that an attempt leased before the agent restarted, 0 if none.
pub(super) fn noted_port(folder: &Path) -> u16 {
    fs::read_to_string(folder.join(PORT))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Another node's rank address; of a gang of one its own.
fn peer_of(start: &Start) -> Option<String> {
    let other = start
        .members
        .iter()
        .enumerate()
        .find(|(rank, _)| *rank != start.node_rank as usize);
    let member = other
        .map(|(_, member)| member)
        .or_else(|| start.members.first());
    member.map(|member| member.rank_address.clone())
}

/// Makes the attempt's folders anew, and moves aside what earlier attempts left unfinished.
pub(super) fn make_folders(context: &Context, start: &Start) -> Result<(), PrepareError> {
    let spec = parse_json(&start.spec)?;
    let dirs = &context.dirs;
    let folder = dirs.attempt(start.job, start.epoch);
    // An interrupted preparation: nothing of it ever ran.
    ram::remove(&folder).map_err(failed("clear what is in memory of", &folder))?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("clear", &folder)(error));
        }
        _ => {}
    }
    make(&folder)?;
    make(&dirs.logs(start.job, start.epoch))?;
    let checkpoints = dirs.checkpoints(start.job);
    make(&checkpoints)?;
    // What others have in a directory that every node sees is theirs.
    if Place::of(dirs, start).kind != Kind::Shared {
        set_leftovers_aside(start, &spec, &checkpoints)?;
    }
    failpoint::hit("prepare.folders");
    Ok(())
}

fn set_leftovers_aside(
    start: &Start,
    spec: &JobSpec,
    checkpoints: &Path,
) -> Result<(), PrepareError> {
    let moved = set_aside(checkpoints)
        .map_err(failed("set aside unfinished checkpoints in", checkpoints))?;
    if moved > 0 {
        info!(job = %start.job, moved, "unfinished checkpoints of an earlier attempt were set aside");
    }
    if spec.nodes == 1 {
        let half = set_aside_half(checkpoints, 0..spec.ranks_per_node(), &start.resume_from)
            .map_err(failed("set aside half a checkpoint in", checkpoints))?;
        for (name, why) in half {
            info!(job = %start.job, name, %why, "a checkpoint that an earlier attempt did not finish was set aside");
        }
    }
    Ok(())
}

/// Fetches from whoever leads, for as long as the preparation may take.
async fn fetch_code(context: &Context, manifest: &str, work: &Path) -> Result<(), PrepareError> {
    let mut leader = context.leader.clone();
    let mut told = false;
    loop {
        let now = leading(&mut leader).await;
        match code::fetch(&context.store, now.channel, manifest, work).await {
            Err(FetchError::Leader(status)) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(
                        why = status.message(),
                        "code cannot be fetched yet; trying again"
                    );
                }
                // Another leader is tried at once, the same one after a pause.
                if let Ok(Err(_)) = timeout(AGAIN, leader.changed()).await {
                    sleep(AGAIN).await;
                }
            }
            other => return Ok(other?),
        }
    }
}

/// The leader, once there is one.
async fn leading(leader: &mut watch::Receiver<Option<Leader>>) -> Leader {
    loop {
        if let Some(now) = leader.borrow_and_update().clone() {
            return now;
        }
        if leader.changed().await.is_err() {
            // The agent ends, and this task with it.
            std::future::pending::<()>().await;
        }
    }
}

/// `checkpoint.dir` of the spec leads to where the job's checkpoints outlive its attempts.
fn link_checkpoints(at: &Path, checkpoints: &Path) -> Result<(), PrepareError> {
    if let Some(parent) = at.parent() {
        make(parent)?;
    }
    match symlink(checkpoints, at) {
        // The code brought a directory of that name: it stays, and MLCTL_CHECKPOINT_DIR says where checkpoints go.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed("link", at)),
    }
}

fn request(
    context: &Context,
    start: &Start,
    spec: JobSpec,
    place: &Place,
    interface: Option<Interface>,
    user: Option<User>,
) -> Request {
    let dirs = &context.dirs;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    // Tasks of an array have none of their own.
    let checkpoints = start.wave.is_none().then(|| place.dir.clone());
    // Set for every member; only a holder has it.
    let resume = place.resume_from(dirs, start);
    let members = start.members.iter().map(|member| Member {
        node: member.node.clone(),
        rank_address: member.rank_address.clone(),
        devices: member.devices.clone(),
    });
    Request {
        spec: of_width(spec, start.members.len()),
        job: start.job,
        epoch: start.epoch,
        job_name: start.job_name.clone(),
        owner: start.owner_name.clone(),
        node_name: context.config.name.clone(),
        members: members.collect(),
        node_rank: start.node_rank,
        wave: start.wave.clone(),
        job_dir: text(dirs.job(start.job)),
        attempt_dir: text(dirs.attempt(start.job, start.epoch)),
        work_dir: text(dirs.work(start.job, start.epoch)),
        checkpoint_dir: checkpoints.map(text),
        resume_from: resume.map(text),
        traceparent: current_traceparent().unwrap_or_else(|| start.traceparent.clone()),
        base_env: base_env(user.as_ref()),
        node_env: context.config.job_env.clone(),
        rdma: active_ports(Path::new(rdma::DEVICES), &context.config.rdma_devices),
        network: interface.as_ref().and_then(|found| found.network.clone()),
        interface: interface.map(|found| found.name),
        topology: context.topology.clone(),
        program: text(context.program.clone()),
        user: user.map(|user| user.name),
        allow_root: start.allow_root,
        interpreters: Interpreters::default(),
    }
}

/// An elastic job has as many nodes as it was given.
fn of_width(spec: JobSpec, members: usize) -> JobSpec {
    match (&spec.elastic, u32::try_from(members)) {
        (Some(_), Ok(nodes)) => JobSpec {
            nodes,
            elastic: None,
            ..spec
        },
        _ => spec,
    }
}

/// What every job on this node gets of the agent's environment, with the home and name of the user that it runs as.
fn base_env(user: Option<&User>) -> BTreeMap<String, String> {
    let handed = HANDED_ON
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), env::var(key).ok()?)));
    let mut variables: BTreeMap<String, String> = handed.collect();
    if let Some(user) = user {
        variables.insert("HOME".into(), user.dir.to_string_lossy().into_owned());
        variables.insert("USER".into(), user.name.clone());
        variables.insert("LOGNAME".into(), user.name.clone());
    }
    variables
}

pub(super) fn user_of(context: &Context, start: &Start) -> Result<Option<User>, PrepareError> {
    let config = &context.config;
    let choice = config.users.of(&start.owner_name, &config.job_user);
    let Some(choice) = choice.map_err(PrepareError::Nobody)? else {
        return Ok(None);
    };
    let found = User::from_name(&choice.name).ok().flatten();
    found.map(Some).ok_or(PrepareError::User(choice.name))
}

/// Checkpoints are the job's user's once and for all: where an attempt has run nobody else changes anything in its directories.
pub(super) fn hand_over_checkpoints(path: &Path, user: &User) -> Result<(), PrepareError> {
    let found = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if found.uid() == user.uid.as_raw() {
        return Ok(());
    }
    hand_over(path, user)
}

/// Gives `path`, and what is in it, to the job's user, and to nobody else. Links are changed themselves, never followed.
fn hand_over(path: &Path, user: &User) -> Result<(), PrepareError> {
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("close", path))?;
    give_away(path, user)
}

fn give_away(path: &Path, user: &User) -> Result<(), PrepareError> {
    let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    std::os::unix::fs::lchown(path, uid, gid).map_err(failed("give away", path))?;
    if !path.is_symlink() && path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed("read", path))? {
            give_away(&entry.map_err(failed("read", path))?.path(), user)?;
        }
    }
    Ok(())
}

/// The plan is renamed into place last: a keeper is asked for only when all of it is there.
fn write_plan(
    context: &Context,
    start: &Start,
    plan: &LaunchPlan,
    lease: Option<&PortLease>,
) -> Result<(), PrepareError> {
    let folder = context.dirs.attempt(start.job, start.epoch);
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(failed("write", &path))
    };
    write(START, &start_to_wire(start).encode_to_vec())?;
    if let Some(lease) = lease {
        write(PORT, lease.port().to_string().as_bytes())?;
    }
    plan.files.iter().try_for_each(write_planned)?;
    let json = serde_json::to_vec(plan)
        .map_err(|error| failed("write", &folder.join(PLAN))(error.into()))?;
    write("plan.new", &json)?;
    let path = folder.join(PLAN);
    fs::rename(folder.join("plan.new"), &path).map_err(failed("write", &path))
}

/// A file for the ranks: everybody may read it, whoever they run as.
fn write_planned(file: &PlannedFile) -> Result<(), PrepareError> {
    let path = Path::new(&file.path);
    let mode = if file.executable { 0o755 } else { 0o644 };
    fs::write(path, &file.text)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(failed("write", path))
}

/// Makes a directory that is the agent's own; where ranks run as somebody else, that user must be able to pass through.
pub(super) fn make(path: &Path) -> Result<(), PrepareError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(failed("make", path))
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrepareError {
    let path = path.to_owned();
    move |source| PrepareError::Io {
        action,
        path,
        source,
    }
}
