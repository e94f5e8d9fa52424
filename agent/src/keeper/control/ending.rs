//! How ranks end: a stop, their own ends, what they leave behind, and the word that nothing is left.
//! Does NOT decide when a gang is to end (see `control`).

use nix::sys::signal::{Signal, kill, killpg};

use super::super::clock;
use super::super::descendants;
use super::super::mpi::Mpi;
use super::super::protocol::{Exit, FromKeeper, Phase};
use super::super::sweep::terminate_mpi_ranks;
use super::{Keeper, LEAVE_MS, LEFTOVERS_MS, STDERR};

impl Keeper {
    /// Children have ended, or leftovers are looked at again.
    pub(in crate::keeper) fn on_children(&mut self) {
        self.again_at = None;
        let (failed, more) = self.take_ends();
        self.go_on();
        if self.phase == Phase::Running && failed {
            self.stop(self.plan.grace_ms);
            return;
        }
        let under_way = matches!(self.phase, Phase::Running | Phase::Stopping);
        if under_way && self.is_empty() && !self.stays() {
            self.clear(more);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranks.iter().all(|rank| rank.pid.is_none())
    }

    /// What was waited for besides ranks may have come.
    pub(super) fn end_if_empty(&mut self) {
        if self.phase == Phase::Running && self.mpi.is_some() && self.is_empty() {
            self.on_children();
        }
    }

    /// No rank lives, and yet this is not the end: `mpirun` may want more of this node, or not every other node knows that it has ended.
    pub(super) fn stays(&mut self) -> bool {
        if self
            .array
            .as_ref()
            .is_some_and(|array| !array.tasks.all_begun())
        {
            return true;
        }
        let Some(mpi) = self.mpi.as_mut().filter(|_| self.phase == Phase::Running) else {
            return false;
        };
        if mpi.serves() {
            return true;
        }
        let (words, settled) = mpi.settle();
        self.carry_out(words);
        !settled
    }

    /// TERM now, KILL after the grace. Whatever ends from here on was ended by us.
    pub(super) fn stop(&mut self, grace_ms: u32) {
        if self.phase == Phase::Ended {
            return;
        }
        let kill_at = clock::now_ms() + u64::from(grace_ms);
        if self.phase == Phase::Stopping {
            self.kill_at = self.kill_at.map(|at| at.min(kill_at));
            return;
        }
        // Ends that nobody has taken note of yet happened before this stop, and not because of it.
        if self.phase == Phase::Running {
            self.take_ends();
        }
        self.phase = Phase::Stopping;
        if let Some(array) = &mut self.array {
            array.tasks.give_up();
        }
        if self.is_empty() {
            self.on_children();
            return;
        }
        self.kill_at = Some(kill_at);
        if let Some(mpi) = &self.mpi {
            let env = self.plan.ranks.first().map(|rank| &rank.env);
            let dir = env.and_then(|env| env.get("MLCTL_ATTEMPT_DIR"));
            let told = dir.map_or(0, |dir| terminate_mpi_ranks(dir));
            // Who starts ranks ends with them. Told itself it would kill them within a second or two.
            if told > 0 || mpi.serves() {
                return;
            }
        }
        self.signal_ranks(Signal::SIGTERM);
        // A stopped process acts on TERM only once it goes on.
        self.signal_ranks(Signal::SIGCONT);
    }

    pub(super) fn signal_ranks(&self, signal: Signal) {
        for pid in self.ranks.iter().filter_map(|rank| rank.pid) {
            // Not reaped yet, so the id is the rank's. The group is gone only with its last member.
            if killpg(pid, signal).is_err() {
                let _ = kill(pid, signal);
            }
        }
    }

    /// Takes note of children that ended. Did a rank fail, and are children left?
    pub(super) fn take_ends(&mut self) -> (bool, bool) {
        let mut reaped = if self.array.is_some() {
            descendants::reap_groups(|pid| self.is_task(pid))
        } else {
            descendants::reap()
        };
        if self.cage.is_out_of_memory() {
            // Who was killed for that is the reason; others of the gang fail because of it.
            reaped
                .ended
                .sort_by_key(|(_, _, signal)| *signal != libc::SIGKILL);
        }
        let mut failed = false;
        for (pid, code, signal) in reaped.ended {
            // Others are orphans of a rank: nobody asks how they ended.
            if let Some(at) = self.ranks.iter().position(|rank| rank.pid == Some(pid)) {
                failed |= self.rank_ended(at, code, signal);
            }
        }
        (failed, reaped.more)
    }

    /// A rank's process has ended. Did it fail?
    pub(super) fn rank_ended(&mut self, at: usize, code: i32, signal: i32) -> bool {
        if self.array.is_some() {
            self.task_ended(at, code, signal);
            return false;
        }
        let killed_by_us = self.phase == Phase::Stopping;
        let rank = &mut self.ranks[at];
        // Its last words may still wait in the pipe.
        rank.read(STDERR, !killed_by_us);
        rank.pid = None;
        let mut exit = Exit {
            rank: rank.rank,
            code,
            signal,
            killed_by_us,
            oom: None,
        };
        if let Some(failure) = rank.failure {
            // The rank's own end says more than that of the torchrun above it, and came before anything that we did.
            (exit.code, exit.signal, exit.killed_by_us) = (failure.code, failure.signal, false);
        }
        if self.mpi.as_ref().is_some_and(Mpi::serves) {
            let shown = if signal == 0 { code } else { 128 + signal };
            self.mpi_does(|mpi| mpi.remotes.daemon_ended(shown, String::new()));
            // A daemon that ends by itself tells `mpirun` why, and that is the judge. Only what killed it is news.
            let finished = self.mpi.as_ref().is_some_and(|mpi| mpi.finished);
            if finished || (signal == 0 && !killed_by_us) {
                return false;
            }
        }
        if exit.is_failure() {
            exit.oom = self.cage.take_oom();
        }
        self.note_exit(at, exit);
        exit.is_failure()
    }

    pub(super) fn note_exit(&mut self, at: usize, exit: Exit) {
        self.ranks[at].exit = Some(exit);
        if let Err(error) = self.exits_file.exited(exit) {
            tracing::error!(%error, "cannot write down how a rank ended");
        }
        self.tell(&FromKeeper::RankExited(exit));
    }

    /// No rank lives: kills what they left, then closes the logs, then says so.
    pub(super) fn clear(&mut self, more: bool) {
        self.phase = Phase::Stopping;
        self.kill_at = None;
        if more || !self.cage.is_empty() {
            self.cage.kill();
            descendants::kill_children();
            self.again_at = Some(clock::now_ms() + LEFTOVERS_MS);
            return;
        }
        self.write_tasks();
        self.tell_tasks();
        let now = clock::now_ms();
        let finished = self.mpi.as_ref().is_some_and(|mpi| mpi.finished);
        // Those of tasks are complete already.
        let logs = if self.array.is_some() {
            0
        } else {
            self.ranks.len()
        };
        for at in 0..logs {
            if finished && self.ranks[at].exit.is_none() {
                let exit = Exit {
                    rank: self.ranks[at].rank,
                    code: 0,
                    signal: 0,
                    killed_by_us: false,
                    oom: None,
                };
                self.note_exit(at, exit);
            }
            let rank = &mut self.ranks[at];
            for pipe in rank.streams.iter_mut().filter_map(Option::take) {
                pipe.finish(now, &mut rank.log);
            }
            rank.log.ended = true;
            rank.log.news = false;
            let ended = FromKeeper::LogEnded {
                rank: rank.rank,
                bytes: rank.log.bytes,
                dropped: rank.log.dropped,
            };
            self.tell(&ended);
        }
        self.phase = Phase::Ended;
        self.cage.remove();
        if let Err(error) = self.exits_file.all_ended(self.launch_failed.clone()) {
            tracing::error!(%error, "cannot write down that all ranks ended");
        }
        let exits = self.status().exits();
        self.tell(&FromKeeper::AllEnded {
            exits,
            launch_failed: self.launch_failed.clone(),
        });
        if self.leaving {
            self.leave_at = Some(now + LEAVE_MS);
        }
    }
}
