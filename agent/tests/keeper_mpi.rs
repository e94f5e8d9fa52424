//! Two keepers of an MPI job, with the test for agents and leader between them: words are lost, doubled and early, and a daemon still starts once.
//! Does NOT need an MPI: a launch agent is called by a script, as `mpirun` would.

mod processes;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mlctl_agent::keeper::client::Connection;
use mlctl_agent::keeper::protocol::{Exit, FromKeeper, Remote, ToKeeper};
use mlctl_agent::launch::LaunchPlan;
use mlctl_agent::launch::mpi::MpiPlan;
use mlctl_proto::spec::LaunchMethod;
use processes::{Keeper, exit, go, next, program, skip, to_the_end, until};

/// The keeper of one of two nodes, `n0` with `mpirun`'s stand-in.
fn keeper(node_rank: u32, script: &str) -> Keeper {
    keeper_with(node_rank, script, |_, _| {})
}

/// The same with a plan that `change` has seen, with the attempt's directory.
fn keeper_with(
    node_rank: u32,
    script: &str,
    change: impl FnOnce(&mut LaunchPlan, &Path),
) -> Keeper {
    Keeper::start_with(&[script], |plan| {
        let member = |at: u32| (format!("n{at}"), format!("198.18.0.{at}"));
        plan.method = LaunchMethod::Mpi;
        plan.node_rank = node_rank;
        plan.ranks[0].rank = node_rank;
        plan.mpi = Some(MpiPlan {
            members: vec![member(0), member(1)],
        });
        if node_rank > 0 {
            plan.ranks[0].argv.truncate(2);
        }
        plan.ranks[0]
            .env
            .insert("NODE".into(), format!("n{node_rank}"));
        let dir = plan.ranks[0].env["MLCTL_ATTEMPT_DIR"].clone();
        change(plan, Path::new(&dir));
    })
}

/// A script in which a launch agent runs `line` on `host`. It finds its keeper by the directory of its attempt.
fn launch_agent(host: &str, line: &str) -> String {
    let program = program();
    let program = program.to_str().expect("UTF-8");
    format!("{program} mpi-agent \"$MLCTL_ATTEMPT_DIR\" -x {host} '{line}'")
}

/// The next word for the other node.
async fn word(agent: &mut Connection) -> Remote {
    loop {
        match next(&mut agent.receiver).await {
            Some(FromKeeper::Remote { what, .. }) => return what,
            Some(_) => {}
            None => panic!("the keeper is gone"),
        }
    }
}

/// How the ranks ended. The words before it were read for other things.
async fn ends(agent: &mut Connection) -> Vec<Exit> {
    loop {
        match next(&mut agent.receiver).await {
            Some(FromKeeper::AllEnded { exits, .. }) => return exits,
            Some(_) => {}
            None => panic!("the keeper is gone"),
        }
    }
}

async fn tell(agent: &Connection, from: &str, what: &Remote) {
    let from = from.to_owned();
    let what = what.clone();
    let told = agent.sender.send(ToKeeper::Remote { from, what });
    told.await.expect("sent");
}

fn is_there(dir: &Path, name: &str) -> bool {
    dir.join("work").join(name).exists()
}

#[tokio::test]
async fn a_daemon_starts_once_whatever_happens_to_words() {
    let line = "echo on $NODE >> daemon; exit 3";
    let script = launch_agent("198.18.0.1", line) + "; echo $? > code; exit 0";
    let (lead, other) = (keeper(0, &script), keeper(1, "unused"));
    let mut first = lead.running().await;
    let mut second = other.agent().await;
    // Lost: it is said again. Then it comes before the word to go, and twice.
    let lost = word(&mut first).await;
    let spawn = word(&mut first).await;
    assert_eq!(lost, spawn);
    for _ in 0..2 {
        tell(&second, "n0", &spawn).await;
    }
    assert!(!is_there(&other.dir, "daemon"));
    second.sender.send(go()).await.expect("sent");
    let begun = word(&mut second).await;
    assert!(matches!(begun, Remote::Begun { .. }), "{begun:?}");
    let ended = word(&mut second).await;
    assert!(matches!(ended, Remote::Ended { code: 3, .. }), "{ended:?}");
    // Asked again it tells the end again.
    tell(&second, "n0", &spawn).await;
    assert_eq!(word(&mut second).await, ended);
    for _ in 0..2 {
        tell(&first, "n1", &ended).await;
    }
    assert_eq!(lead.noted("code").await, "3");
    assert_eq!(other.noted("daemon").await, "on n1");
    // `mpirun` has ended well; the other keeper waits until it hears of it.
    let finish = word(&mut first).await;
    assert!(matches!(finish, Remote::Finish { .. }), "{finish:?}");
    tell(&second, "n0", &finish).await;
    let heard = word(&mut second).await;
    tell(&first, "n1", &heard).await;
    assert_eq!(ends(&mut first).await, [exit(0, 0, 0, false)]);
    assert_eq!(ends(&mut second).await, [exit(1, 0, 0, false)]);
}

#[tokio::test]
async fn an_end_that_comes_before_the_start_ends_it() {
    let other = keeper(1, "unused");
    let mut agent = other.agent().await;
    tell(&agent, "n0", &Remote::Finish { id: 1 }).await;
    assert!(matches!(
        word(&mut agent).await,
        Remote::Ended { id: 1, .. }
    ));
    agent.sender.send(go()).await.expect("sent");
    assert_eq!(
        to_the_end(&mut agent.receiver).await.0,
        [exit(1, 0, 0, false)]
    );
}

#[tokio::test]
async fn a_host_of_nobody_and_the_own_one_are_answered_here() {
    let script = launch_agent("n0", "echo on $NODE > own; exit 7") + " || [ $? = 7 ]";
    let lead = keeper(0, &script);
    let mut agent = lead.running().await;
    assert!(matches!(word(&mut agent).await, Remote::Finish { .. }));
    assert_eq!(lead.noted("own").await, "on n0");

    let script = launch_agent("elsewhere", "true") + "; sleep 1000";
    let lead = keeper(0, &script);
    let mut agent = lead.running().await;
    let (exits, why) = to_the_end(&mut agent.receiver).await;
    let why = why.unwrap_or_default();
    assert!(why.contains("`elsewhere` is no node of this job"), "{why}");
    assert!(exits.iter().all(|exit| exit.killed_by_us), "{exits:?}");
}

#[tokio::test]
async fn launch_agents_of_the_jobs_user_are_heard_and_no_others() {
    if !nix::unistd::geteuid().is_root() {
        skip(
            "launch_agents_of_the_jobs_user_are_heard_and_no_others",
            "only root can become somebody else",
        );
        return;
    }
    let script = launch_agent("n0", "id -u") + "; echo over $?; sleep 1000";
    let lead = keeper_with(0, &script, |plan, dir| {
        plan.user = Some("nobody".into());
        plan.allow_root = false;
        // As an agent's directories are: others may pass through.
        for dir in dir.ancestors().take(2) {
            let through = Permissions::from_mode(0o711);
            std::fs::set_permissions(dir, through).expect("set");
        }
    });
    let _agent = lead.running().await;
    let log = until(|| Some(lead.log(0)).filter(|log| log.len() == 2)).await;
    assert_eq!(log.expect("two lines"), ["65534", "over 0"]);
    // Somebody else of the same machine.
    let mut stranger = std::process::Command::new("setpriv");
    let ids = ["--reuid", "1", "--regid", "1", "--clear-groups"];
    let words = ["mpi-agent", lead.dir.to_str().expect("UTF-8"), "n0", "id"];
    let output = stranger.args(ids).arg(program()).args(words).output();
    let output = output.expect("setpriv is there");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(255), "{told}");
    assert!(
        output.stdout.is_empty() && told.contains("denied"),
        "{told}"
    );
}
