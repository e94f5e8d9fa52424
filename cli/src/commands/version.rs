//! `mlctl version` and completions: what this build is.
use clap::CommandFactory;

use crate::args::Cli;
use crate::output::Output;

/// Prints the version.
pub fn run(verbose: bool, output: &dyn Output) -> u8 {
    output.line(&format!("mlctl {}", mlctl_proto::VERSION));
    if verbose {
        output.line(&format!("protocol {}", mlctl_proto::PROTOCOL));
        output.line(&format!(
            "capabilities {}",
            mlctl_proto::CAPABILITIES.join(" ")
        ));
        output.line(format!("cfgs {}", mlctl_proto::CFGS.join(" ")).trim_end());
    }
    0
}

/// Prints completions for `shell`.
pub fn completion(shell: clap_complete::Shell) -> u8 {
    clap_complete::generate(shell, &mut Cli::command(), "mlctl", &mut std::io::stdout());
    0
}
