//! One file, one verb. A command asks the cluster, hands what it got to `output`, and returns its exit code.
mod admin_allow_root;
mod admin_cert;
mod admin_init;
mod admin_user_add;
mod cancel;
mod checkpoint;
mod decide;
pub mod follow;
mod foresee;
mod gpus;
mod hold;
mod jobs;
mod logs;
mod node_declare_lost;
mod nodes;
mod release;
mod retry;
mod run;
mod show;
mod spec;
mod submit;
mod teams;
mod update;
mod version;
mod wait;
mod when;
mod which;
mod why;

#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
mod demo;
#[cfg(target_os = "linux")]
mod dev;
#[cfg(target_os = "linux")]
mod dry_run;
#[cfg(target_os = "linux")]
mod simulate;

use crate::args::{AdminCommand, CertCommand, Cli, Command, NodeCommand, RunArgs, UserCommand};
use crate::failure::Failure;
use crate::output::Output;

/// Runs the command of `cli` to its exit code.
pub fn dispatch(cli: Cli, output: &dyn Output) -> Result<u8, Failure> {
    let global = &cli.global;
    match cli.command {
        #[cfg(target_os = "linux")]
        Command::Submit(args) | Command::Run(RunArgs { submit: args, .. }) if args.dry_run => {
            client_side(dry_run::run(&args, global, output))
        }
        #[cfg(not(target_os = "linux"))]
        Command::Submit(args) | Command::Run(RunArgs { submit: args, .. }) if args.dry_run => {
            Err(Failure::usage("plans are made by the agent's planner, which this build for another system than Linux does not have".into()))
        }
        Command::Submit(args) => client_side(submit::run(&args, global, output)),
        Command::Run(args) => client_side(run::run(&args, global, output)),
        Command::Jobs(args) => client_side(jobs::run(&args, global, output)),
        Command::Show(args) => client_side(show::run(&args, global, output)),
        Command::Why(args) => client_side(why::run(&args, global, output)),
        Command::Logs(args) => client_side(logs::run(&args, global, output)),
        Command::Cancel(args) => client_side(cancel::run(&args, global, output)),
        Command::Retry(args) => client_side(retry::run(&args, global, output)),
        Command::Hold(args) => client_side(hold::run(&args, global, output)),
        Command::Release(args) => client_side(release::run(&args, global, output)),
        Command::Update(args) => client_side(update::run(&args, global, output)),
        Command::Wait(args) => client_side(wait::run(&args, global, output)),
        Command::Checkpoint { command } => checkpoint::dispatch(&command, global, output),
        Command::Gpus => client_side(gpus::run(global, output)),
        Command::Nodes => client_side(nodes::run(global, output)),
        Command::Node { command } => node(command, global, output),
        Command::Team { command } => client_side(teams::team(&command, global, output)),
        Command::Quota { command } => client_side(teams::quota(&command, global, output)),
        Command::Admin { command } => admin(command, global, output),
        Command::Completion { shell } => Ok(version::completion(shell)),
        Command::Version { verbose } => Ok(version::run(verbose, output)),
        Command::DemoTrainer(args) => crate::demo::trainer::run(&args).map(|()| 0).map_err(trainer_failure),
        #[cfg(target_os = "linux")]
        Command::Simulate(args) => simulate::run(&args, output),
        #[cfg(target_os = "linux")]
        Command::Dev(args) => dev::dispatch(&args, output),
        #[cfg(target_os = "linux")]
        Command::Demo(args) => demo::run(&args, output),
        #[cfg(target_os = "linux")]
        Command::Coordinator(args) => daemon::coordinator(&args),
        #[cfg(target_os = "linux")]
        Command::Agent(args) => daemon::agent(&args),
        #[cfg(target_os = "linux")]
        Command::Launcher(args) => daemon::launcher(&args),
        #[cfg(target_os = "linux")]
        Command::DevSupervisor { dir } => dev::supervise(&dir),
        #[cfg(not(target_os = "linux"))]
        _ => Err(Failure::usage("coordinators, agents, `dev`, `demo` and `simulate` run on Linux only; this build is the command line alone".into())),
    }
}

fn admin(
    command: AdminCommand,
    global: &crate::args::Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    match command {
        AdminCommand::Init {
            dir,
            name,
            coordinators,
        } => admin_init::run(&dir, &name, &coordinators, output),
        AdminCommand::User {
            command:
                UserCommand::Add {
                    name,
                    admin,
                    ca,
                    out,
                },
        } => admin_user_add::run(&name, admin, &ca, out, output),
        AdminCommand::Cert {
            command: CertCommand::Coordinator { name, ca, out },
        } => admin_cert::coordinator(&name, &ca, out, output),
        AdminCommand::Cert {
            command: CertCommand::Node { name, ca, out },
        } => admin_cert::node(&name, &ca, out, output),
        AdminCommand::Set { settings, dry } => {
            client_side(decide::set(&settings, dry, global, output))
        }
        AdminCommand::Settings { prefix, changed } => {
            client_side(decide::settings(prefix.as_deref(), changed, global, output))
        }
        AdminCommand::Pause(args) => client_side(decide::pause(&args, global, output)),
        AdminCommand::Resume { what, pool, dry } => client_side(decide::resume(
            (&what, pool.as_deref()),
            dry,
            global,
            output,
        )),
        AdminCommand::Show => client_side(decide::everything(global, output)),
        AdminCommand::AllowRoot { allow } => {
            client_side(admin_allow_root::run(allow, global, output))
        }
    }
}

fn node(
    command: NodeCommand,
    global: &crate::args::Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    match command {
        NodeCommand::DeclareLost { node, yes } => {
            client_side(node_declare_lost::run(&node, yes, global, output))
        }
        NodeCommand::Maintenance(args) => client_side(decide::maintenance(&args, global, output)),
        NodeCommand::Own(args) => client_side(decide::own(&args, global, output)),
        NodeCommand::Disown { node, dry } => {
            client_side(decide::disown(&node, dry, global, output))
        }
    }
}

/// Drives a command that only talks to the cluster: one thread is enough, and quickest to start.
fn client_side(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    // Without a collector this only makes the ids by which a job's spans find one another.
    let _telemetry = mlctl_runtime::telemetry::init(&mlctl_runtime::telemetry::TelemetryConfig {
        filter: "warn".into(),
        ..mlctl_runtime::telemetry::TelemetryConfig::new("cli", "")
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::internal)?;
    runtime.block_on(command)
}

fn trainer_failure(error: anyhow::Error) -> Failure {
    Failure::failed(format!("{error:#}"))
}
