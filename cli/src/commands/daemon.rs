//! `mlctl coordinator`, `mlctl agent`, `mlctl launcher`: read the configuration, start the telemetry, run.
use mlctl_runtime::config::load_toml;
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::telemetry::{Guard, TelemetryConfig, init};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::args::{AgentArgs, CoordinatorArgs, LauncherArgs};
use crate::failure::Failure;

/// Ends this process when its parent does: a dev cluster without its supervisor would be nobody's.
fn die_with(parent: Option<i32>) -> Result<(), Failure> {
    let Some(parent) = parent else { return Ok(()) };
    prctl::set_pdeathsig(Some(Signal::SIGKILL)).map_err(Failure::internal)?;
    if nix::unistd::getppid().as_raw() != parent {
        return Err(Failure::internal("the supervisor has gone already"));
    }
    Ok(())
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::internal)?;
    runtime.block_on(work)
}

/// Runs a coordinator.
pub fn coordinator(args: &CoordinatorArgs) -> Result<u8, Failure> {
    die_with(args.die_with)?;
    let mut config: mlctl_coordinator::Config = load_toml(&args.config).map_err(Failure::config)?;
    config.bootstrap = args.bootstrap;
    config.rejoin = args.rejoin;
    let _telemetry = telemetry("coordinator", &config.name, config.telemetry.otlp.clone());
    block_on(async {
        let shutdown = Shutdown::on_signals().map_err(Failure::internal)?;
        mlctl_coordinator::run(config, shutdown)
            .await
            .map_err(Failure::config)?;
        Ok(0)
    })
}

/// Runs a node's agent.
pub fn agent(args: &AgentArgs) -> Result<u8, Failure> {
    die_with(args.die_with)?;
    let config: mlctl_agent::Config = load_toml(&args.config).map_err(Failure::config)?;
    let _telemetry = telemetry("agent", &config.name, config.telemetry.otlp.clone());
    block_on(async {
        let shutdown = Shutdown::on_signals().map_err(Failure::internal)?;
        mlctl_agent::run(config, shutdown)
            .await
            .map_err(Failure::config)?;
        Ok(0)
    })
}

/// Logs and traces of a daemon, for as long as the guard lives.
fn telemetry(service: &str, node: &str, otlp: Option<String>) -> Guard {
    init(&TelemetryConfig {
        otlp_endpoint: otlp,
        ..TelemetryConfig::new(service, node)
    })
}

/// Runs a node's launcher.
pub fn launcher(args: &LauncherArgs) -> Result<u8, Failure> {
    die_with(args.die_with)?;
    let config: mlctl_agent::Config = load_toml(&args.config).map_err(Failure::config)?;
    let _telemetry = telemetry("launcher", &config.name, None);
    let launcher = mlctl_agent::launcher::LauncherConfig::of(&config);
    mlctl_agent::launcher::run(launcher).map_err(Failure::config)?;
    Ok(0)
}
