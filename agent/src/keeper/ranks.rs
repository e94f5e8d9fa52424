//! Before and at the start of ranks: may they run, does their program exist, who do they run as, and the start itself.
//! Does NOT watch them (see `control`).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlctl_proto::spec::Ranges;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, User, geteuid, getgrouplist, getpid};

pub(super) use super::birth::Started;
use super::birth::{Program, spawn};
use super::child::{Identity, Setup};
use super::mask::Mask;
use super::spawn::Image;
use super::terms::Terms;
use crate::cgroup::Entry;
use crate::launch::array::ArrayPlan;
use crate::launch::{LaunchPlan, RankPlan};

/// Where programs are looked for when a job has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
/// Descriptors that the keeper needs beside two pipes and a log per rank.
const DESCRIPTORS_OWN: u64 = 64;

/// Who ranks run as.
#[derive(Debug, Clone)]
pub(super) struct Account {
    setup: Setup,
    /// `HOME`, `USER`, `LOGNAME` of another user.
    env: BTreeMap<String, String>,
}

impl Account {
    /// What a rank is before it becomes its program.
    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Ranks share the mounts behind `room`.
    pub(super) fn enters(&mut self, room: Option<OwnedFd>) {
        self.setup.room = room.map(Arc::new);
    }

    /// The user.
    pub(super) fn uid(&self) -> Uid {
        self.setup
            .identity
            .as_ref()
            .map_or_else(geteuid, |identity| identity.uid)
    }
}

/// Finds out, before any rank of the gang runs, what would keep this node's from starting.
///
/// # Errors
/// One sentence for people: what, why, what to do.
pub(super) fn check(plan: &LaunchPlan, terms: &Terms) -> Result<Account, String> {
    let account = account(plan, terms)?;
    let work_dir = Path::new(&plan.work_dir);
    if !work_dir.is_dir() {
        return Err(format!(
            "the working directory {} is not there",
            plan.work_dir
        ));
    }
    for rank in &plan.ranks {
        find_program(rank, work_dir)?;
    }
    Ok(account)
}

/// Starts one rank, in the group that `entry` leads to.
///
/// # Errors
/// One sentence for people.
pub(super) fn start(
    rank: &RankPlan,
    work_dir: &Path,
    account: &Account,
    entry: Option<&Entry>,
) -> Result<Started, String> {
    let program = find_program(rank, work_dir)?;
    let image = image_of(rank, &program, work_dir, account)
        .ok_or_else(|| format!("rank {} has a word that holds a NUL byte", rank.rank))?;
    spawn(&image, &account.setup, entry).map_err(|error| explain(rank, &program, work_dir, &error))
}

fn image_of(
    rank: &RankPlan,
    program: &Path,
    work_dir: &Path,
    account: &Account,
) -> Option<Program> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).ok();
    let mut env = rank.env.clone();
    env.extend(account.env.clone());
    let env = env
        .iter()
        .map(|(key, value)| CString::new(format!("{key}={value}")).ok());
    let argv = rank
        .argv
        .iter()
        .map(|word| CString::new(word.as_str()).ok());
    Some(Program {
        program: path(program)?,
        argv: argv.collect::<Option<_>>()?,
        env: env.collect::<Option<_>>()?,
        work_dir: path(work_dir)?,
        cpus: Mask::of(&rank.cpus),
    })
}

/// What the tasks of an array have in common.
///
/// # Errors
/// One sentence for people.
pub(super) fn image(
    plan: &LaunchPlan,
    array: &ArrayPlan,
    account: &Account,
) -> Result<Image, String> {
    let Some(rank) = plan.ranks.first() else {
        return Err("the plan has no task".into());
    };
    let program = find_program(rank, plan.work_dir.as_ref())?;
    let text = |text: &[u8]| {
        CString::new(text).map_err(|_| "a word or a variable holds a NUL byte".to_owned())
    };
    let variable = |(key, value): (&String, &String)| text(format!("{key}={value}").as_bytes());
    let slots = array.slots.iter().map(|slot| {
        let mut env = rank.env.clone();
        let others = account.env.iter().chain(&slot.env);
        env.extend(others.map(|(key, value)| (key.clone(), value.clone())));
        env.iter().map(variable).collect::<Result<_, _>>()
    });
    let words = rank.argv.iter().map(|word| text(word.as_bytes()));
    Ok(Image {
        program: text(program.as_os_str().as_bytes())?,
        argv: words.collect::<Result<_, _>>()?,
        dir: text(plan.work_dir.as_bytes())?,
        env: slots.collect::<Result<_, _>>()?,
        cpus: array
            .slots
            .iter()
            .map(|slot| Mask::of(&slot.cpus))
            .collect(),
    })
}

/// Says that a process runs on all processors although it should not.
pub(super) fn say_unbound(what: &str, number: u32, cpus: &Ranges, why: &io::Error) {
    tracing::warn!(
        what,
        number,
        %cpus,
        %why,
        "it is not bound to the processors near its devices and runs on all: they are offline, or the launcher may not use them"
    );
}

/// Why a task did not start although its program was there.
pub(super) fn explain_start(plan: &LaunchPlan, error: &io::Error) -> String {
    let work_dir = Path::new(&plan.work_dir);
    match plan
        .ranks
        .first()
        .map(|rank| (rank, find_program(rank, work_dir)))
    {
        Some((rank, Ok(program))) => explain(rank, &program, work_dir, error),
        Some((_, Err(why))) => why,
        None => error.to_string(),
    }
}

/// Room for two pipes and a log per rank; the ranks get back what was. No room: the start of some rank says so.
pub(super) fn raise_open_files(account: &mut Account, ranks: usize) {
    let wanted = ranks as u64 * 3 + DESCRIPTORS_OWN;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
        && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_ok()
    {
        account.setup.open_files = Some((soft, hard));
    }
}

fn account(plan: &LaunchPlan, terms: &Terms) -> Result<Account, String> {
    let allowed = terms.users.of(&plan.owner, &terms.job_user)?;
    if let Some(allowed) = &allowed
        && plan.user.as_ref() != Some(&allowed.name)
    {
        let asked = plan.user.as_deref().unwrap_or("its own user");
        return Err(format!(
            "the plan asks for {asked}, but on this node jobs run as `{}` (`job_user` or `[users]` of the launcher)",
            allowed.name
        ));
    }
    let mut account = Account {
        setup: Setup::of(getpid()),
        env: BTreeMap::new(),
    };
    let own = geteuid();
    let mut uid = own;
    if let Some(name) = &plan.user {
        let user =
            User::from_name(name).map_err(|e| format!("cannot look up the user `{name}`: {e}"))?;
        let user = user.ok_or_else(|| {
            format!("there is no user `{name}` on this node: set `job_user` of the agent to one")
        })?;
        uid = user.uid;
        let least = allowed.as_ref().map_or(0, |allowed| allowed.uid_min);
        if terms.users.apart() && uid.as_raw() < least {
            return Err(format!(
                "jobs do not run as `{name}`, which has the user id {uid}: those below {least} belong to the system; \
                 an administrator names another user in `map` of `[users]`"
            ));
        }
        if uid != own {
            if !own.is_root() {
                return Err(format!(
                    "only root can start ranks as `{name}`: run the launcher as root, or unset `job_user`"
                ));
            }
            let c_name = CString::new(name.as_str())
                .map_err(|_| "the user's name holds a NUL byte".to_owned())?;
            let groups = getgrouplist(&c_name, user.gid)
                .map_err(|e| format!("cannot look up the groups of `{name}`: {e}"))?;
            account.setup.identity = Some(Identity {
                uid,
                gid: user.gid,
                groups,
            });
            let home = user.dir.to_string_lossy().into_owned();
            account.env = [
                ("HOME", home),
                ("USER", name.clone()),
                ("LOGNAME", name.clone()),
            ]
            .map(|(k, v)| (k.into(), v))
            .into();
        }
    }
    if uid.is_root() && !plan.allow_root {
        return Err("jobs do not run as root here: set `job_user` in the agent's configuration to another user, \
                    or let an admin allow root jobs in the cluster's settings (`allow_root`; a dev cluster does)"
            .into());
    }
    Ok(account)
}

/// The program as an absolute path, found as `execvp` would with the rank's own `PATH`.
fn find_program(rank: &RankPlan, work_dir: &Path) -> Result<PathBuf, String> {
    let name = rank.argv.first().map_or("", String::as_str);
    let shown = mlctl_proto::ids::clip(name);
    if name.is_empty() {
        return Err("the command is empty: name the program to run".into());
    }
    if name.contains('/') {
        let program = work_dir.join(name);
        return match fault(&program) {
            None => Ok(program),
            Some(fault) => Err(format!(
                "cannot start `{shown}`: {fault} (looked for {})",
                program.display()
            )),
        };
    }
    let path = rank.env.get("PATH").map_or(PATH_DEFAULT, String::as_str);
    let mut found = None;
    for dir in path.split(':') {
        let program = work_dir.join(dir).join(name);
        match fault(&program) {
            None => return Ok(program),
            Some(fault) if program.exists() => {
                found = Some(format!("{} is there, but {fault}", program.display()))
            }
            Some(_) => {}
        }
    }
    let hint = if work_dir.join(name).is_file() {
        format!("; to run the one in the code, write `./{shown}`")
    } else {
        String::new()
    };
    let why = found.unwrap_or_else(|| format!("no such program in PATH ({path})"));
    Err(format!("cannot start `{shown}`: {why}{hint}"))
}

/// What keeps a file from being a program.
fn fault(program: &Path) -> Option<&'static str> {
    match program.metadata() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Some("it may not be looked at")
        }
        Err(_) => Some("there is no such file"),
        Ok(file) if file.is_dir() => Some("it is a directory"),
        Ok(file) if Permissions::mode(&file.permissions()) & 0o111 == 0 => {
            Some("it is not executable: chmod +x it")
        }
        Ok(_) => None,
    }
}

/// The program was there: why it did not start all the same.
fn explain(rank: &RankPlan, program: &Path, work_dir: &Path, error: &io::Error) -> String {
    let shown = mlctl_proto::ids::clip(rank.argv.first().map_or("", String::as_str));
    let hint = match error.raw_os_error() {
        _ if !work_dir.is_dir() => format!("the working directory {} is gone", work_dir.display()),
        Some(libc::ENOENT) => format!(
            "{} is there, but the interpreter that its first line or its header names is not",
            program.display()
        ),
        Some(libc::EACCES) => format!(
            "{} may not be run by this user, or lies on a file system mounted noexec",
            program.display()
        ),
        Some(libc::E2BIG) => "arguments and environment are too long for this system".into(),
        Some(libc::EMFILE | libc::ENFILE) => {
            "no open files are left: raise the limit `nofile` of the launcher".into()
        }
        Some(libc::EAGAIN) => "no processes are left for this user: raise the limit `nproc`".into(),
        _ => program.display().to_string(),
    };
    format!("cannot start `{shown}`: {hint} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(program: &str, path: &str) -> RankPlan {
        let env = [("PATH".to_owned(), path.to_owned())].into();
        RankPlan {
            rank: 0,
            local_rank: 0,
            argv: vec![program.into()],
            env,
            devices: Vec::new(),
            cpus: Ranges::new(),
        }
    }

    #[test]
    fn programs_are_found_or_their_absence_is_explained() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("bin")).expect("made");
        for (name, mode) in [
            ("run", 0o755),
            ("plain", 0o644),
            ("bin/tool", 0o755),
            ("bin/plain", 0o644),
        ] {
            std::fs::write(at(name), "x").expect("written");
            std::fs::set_permissions(at(name), Permissions::from_mode(mode)).expect("mode");
        }
        let find = |program: &str, path: &str| find_program(&rank(program, path), dir.path());
        assert_eq!(find("./run", "/bin"), Ok(at("./run")));
        assert_eq!(find("tool", "/none:bin"), Ok(at("bin/tool")));
        assert!(find("sh", "/none:/bin").is_ok());
        for (program, path, says) in [
            (
                "nothing-like-it",
                "/bin:/usr/bin",
                "no such program in PATH (/bin:/usr/bin)",
            ),
            ("run", "/bin", "write `./run`"),
            ("plain", "bin", "chmod +x"),
            ("./plain", "", "chmod +x"),
            ("./bin", "", "is a directory"),
            ("/no/such", "", "no such file"),
            ("", "", "is empty"),
        ] {
            let error = find(program, path).expect_err(program);
            assert!(error.contains(says), "{error}");
        }
    }
}
