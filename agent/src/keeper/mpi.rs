//! A keeper's part in an MPI job: the launch agents of this node, and what nodes want of each other for them.
//! Does NOT decide (see `remote`) and starts nothing (see `control`).

use std::io;
use std::path::Path;

use nix::unistd::Uid;

use super::clock;
use super::protocol::Answer;
use super::remote::{Do, Remotes};
use super::shims::{Heard, Shims};
use crate::launch::LaunchPlan;

/// After `mpirun` has ended well its daemons go by themselves; one that stays is killed after this, milliseconds.
pub(super) const FINISH_MS: u64 = 5_000;

/// What an MPI job adds to a keeper.
#[derive(Debug)]
pub(super) struct Mpi {
    pub(super) remotes: Remotes,
    pub(super) shims: Shims,
    /// `mpirun` has ended well: its word that it did is on its way to the others, or has come from it.
    pub(super) finished: bool,
}

impl Mpi {
    /// `None` for a plan of another method.
    ///
    /// # Errors
    /// When the socket of launch agents cannot be opened.
    pub(super) fn open(
        plan: &LaunchPlan,
        attempt_dir: &Path,
        user: Uid,
    ) -> io::Result<Option<Self>> {
        let Some(planned) = &plan.mpi else {
            return Ok(None);
        };
        Ok(Some(Self {
            remotes: Remotes::new(planned, plan.node_rank),
            shims: Shims::open(attempt_dir, user)?,
            finished: false,
        }))
    }

    /// Does what runs here run for an `mpirun` elsewhere?
    pub(super) fn serves(&self) -> bool {
        !self.remotes.leads()
    }

    /// A launch agent has said something. `running`: ranks may run now.
    pub(super) fn on_shim(&mut self, number: u64, running: bool) -> Vec<Do> {
        match self.shims.read(number) {
            Heard::Nothing => Vec::new(),
            Heard::Gone => {
                self.remotes.shim_gone(number);
                Vec::new()
            }
            Heard::Asks(ask) if running => {
                let now = clock::now_ms();
                self.remotes.ask(now, number, &ask.host, ask.line)
            }
            Heard::Asks(_) => {
                let why = "the job is being ended".to_owned();
                vec![Do::Answer(number, Answer::Ended { code: 255, why })]
            }
        }
    }

    /// No process of `mpirun` is left and it ended well: has every other node been told?
    pub(super) fn settle(&mut self) -> (Vec<Do>, bool) {
        let words = if std::mem::replace(&mut self.finished, true) {
            Vec::new()
        } else {
            self.remotes.lead_ended(clock::now_ms())
        };
        (words, self.remotes.is_settled())
    }
}
