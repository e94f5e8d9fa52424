//! What an MPI job adds to a keeper's turns: launch agents that call, words of other nodes' keepers, `mpirun`'s good end.
//! Does NOT decide what they mean (see `remote`).

use super::super::clock;
use super::super::mpi::{FINISH_MS, Mpi};
use super::super::protocol::{Answer, FromKeeper, Phase};
use super::super::remote::Do;
use super::Keeper;

impl Keeper {
    /// A launch agent calls.
    pub(in crate::keeper) fn accept_shim(&mut self) {
        if let Some(mpi) = &mut self.mpi {
            mpi.shims.accept();
        }
    }

    /// A launch agent has said something.
    pub(in crate::keeper) fn on_shim(&mut self, number: u64) {
        let running = self.phase == Phase::Running;
        self.mpi_does(|mpi| mpi.on_shim(number, running));
    }

    pub(super) fn mpi_does(&mut self, work: impl FnOnce(&mut Mpi) -> Vec<Do>) {
        let done = self.mpi.as_mut().map(work).unwrap_or_default();
        self.carry_out(done);
    }

    pub(super) fn carry_out(&mut self, done: Vec<Do>) {
        for one in done {
            match one {
                Do::Send(to, what) => self.tell(&FromKeeper::Remote { to, what }),
                Do::Answer(shim, answer) => {
                    if let Some(mpi) = &mut self.mpi {
                        mpi.shims.answer(shim, &answer);
                    }
                    // MPICH waits for ever for a daemon that its launch agent could not start.
                    if let Answer::Ended { why, .. } = answer
                        && !why.is_empty()
                        && self.phase == Phase::Running
                    {
                        self.launch_failed = Some(why.clone());
                        self.tell(&FromKeeper::LaunchFailed { why });
                        self.stop(0);
                    }
                }
                Do::Start(line) => {
                    if let Err(why) = self.start_rank(0, Some(line)) {
                        self.mpi_does(|mpi| mpi.remotes.daemon_ended(255, why));
                    }
                }
                Do::Finish => self.finish(),
            }
        }
    }

    /// `mpirun` has ended well, and what it had started here ends with it.
    pub(super) fn finish(&mut self) {
        let running = self.phase == Phase::Running;
        // Its word may be here before the word to go, which has another way.
        if let Some(mpi) = self
            .mpi
            .as_mut()
            .filter(|_| running || self.phase == Phase::Waiting)
        {
            mpi.finished = true;
        }
        if !running {
            return;
        }
        self.phase = Phase::Stopping;
        self.kill_at = Some(clock::now_ms() + FINISH_MS);
        self.on_children();
    }
}
