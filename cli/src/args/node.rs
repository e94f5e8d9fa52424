//! Arguments of `node`.
use clap::Subcommand;

/// What an admin does with one machine.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Say that a silent machine is gone for good, so that what it held starts elsewhere
    DeclareLost {
        /// Its name
        node: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}
