//! A keeper of an array's tasks: so many at once, the next when one has ended, until all have or it is told to stop. A task that fails
//! stops nobody; what a task leaves in its process group ends with it.
//! Does NOT count them (see `array`).

use std::ffi::CString;

use nix::unistd::Pid;

use super::super::array::Tasks;
use super::super::clock;
use super::super::output::{Log, Stream, log_path};
use super::super::protocol::{FromKeeper, Phase};
use super::super::ranks::{explain_start, image, say_unbound};
use super::super::spawn::Spawner;
use super::{Keeper, Rank};
use crate::launch::LaunchPlan;
use crate::launch::array::ArrayPlan;

/// What a keeper of an array has beside its slots, which are its ranks.
#[derive(Debug)]
pub(in crate::keeper) struct Array {
    pub(in crate::keeper) tasks: Tasks,
    plan: ArrayPlan,
    /// Made when the tasks may start.
    spawner: Option<Spawner>,
    /// It was said that a task is not bound: once is enough for thousands of them.
    unbound: bool,
}

impl Array {
    /// The array of a plan, with its slots as idle ranks.
    pub(super) fn of(plan: &LaunchPlan) -> Option<(Self, Vec<Rank>)> {
        let array = plan.array.as_ref()?;
        let slots = array.slots.iter().map(|_| idle(plan, 0)).collect();
        let tasks = Tasks::new(array.tasks.clone());
        let array = Self {
            tasks,
            plan: array.clone(),
            spawner: None,
            unbound: false,
        };
        Some((array, slots))
    }

    /// The variables that a task alone has.
    fn own(&self, index: u32) -> Vec<CString> {
        let id = format!("MLCTL_TASK_ID={}.{index}", self.plan.job);
        let names = self.plan.index_variables.iter();
        let texts = names.map(|name| format!("{name}={index}")).chain([id]);
        // Names without null bytes come from us.
        texts.filter_map(|text| CString::new(text).ok()).collect()
    }
}

/// A slot in which the task `index` is to run. Its log is made with its first line.
fn idle(plan: &LaunchPlan, index: u32) -> Rank {
    let path = log_path(plan.logs_dir.as_ref(), index);
    Rank {
        rank: index,
        pid: None,
        exit: None,
        log: Log::lazy(path, plan.log_cap_bytes),
        streams: [None, None],
        failure: None,
    }
}

impl Keeper {
    /// The word to go came.
    ///
    /// # Errors
    /// One sentence for people.
    pub(super) fn start_tasks(&mut self) -> Result<(), String> {
        let Some(array) = &mut self.array else {
            return Ok(());
        };
        let image = image(&self.plan, &array.plan, &self.account)?;
        let spawner = Spawner::new(image).map_err(|e| format!("cannot open /dev/null: {e}"))?;
        array.spawner = Some(spawner);
        self.fill_slots()
    }

    /// Starts a task in every slot that is idle.
    pub(super) fn fill_slots(&mut self) -> Result<(), String> {
        for at in 0..self.ranks.len() {
            if self.ranks[at].pid.is_some() {
                continue;
            }
            let Some(index) = self.array.as_mut().and_then(|array| array.tasks.next()) else {
                return Ok(());
            };
            self.start_task(at, index)?;
        }
        Ok(())
    }

    fn start_task(&mut self, at: usize, index: u32) -> Result<(), String> {
        let others = self.ranks.iter().any(|slot| slot.pid.is_some());
        let Some(array) = &mut self.array else {
            return Ok(());
        };
        let own = array.own(index);
        let Some(spawner) = &mut array.spawner else {
            return Ok(());
        };
        let started = match spawner.start(at, &own, self.account.setup(), self.cage.entry()) {
            Ok(started) => started,
            // Processes or descriptors are short: there will be some when another task has ended.
            Err(error) if others && is_shortage(&error) => {
                array.tasks.put_back(index);
                return Ok(());
            }
            Err(error) => return Err(explain_start(&self.plan, &error)),
        };
        if let (Some(why), Some(planned)) = (&started.unbound, array.plan.slots.get(at))
            && !std::mem::replace(&mut array.unbound, true)
        {
            say_unbound("task", index, &planned.cpus, why);
        }
        let mut slot = idle(&self.plan, index);
        slot.pid = Some(started.pid);
        let stream = |fd, stderr| {
            Stream::new(fd, stderr)
                .map_err(|e| format!("cannot read the output of task {index}: {e}"))
        };
        let streams = [stream(started.stdout, false), stream(started.stderr, true)];
        let [stdout, stderr] = streams;
        self.ranks[at] = slot;
        self.ranks[at].streams = [Some(stdout?), Some(stderr?)];
        Ok(())
    }

    /// The task of a slot has ended: takes its last words and says how.
    pub(super) fn task_ended(&mut self, at: usize, code: i32, signal: i32) {
        let now = clock::now_ms();
        let slot = &mut self.ranks[at];
        slot.pid = None;
        for pipe in slot.streams.iter_mut().filter_map(Option::take) {
            pipe.finish(now, &mut slot.log);
        }
        let (index, bytes, dropped) = (slot.rank, slot.log.bytes, slot.log.dropped);
        let spoke = bytes > 0 || dropped > 0;
        slot.log.ended = true;
        slot.log.news = false;
        if spoke {
            self.tell(&FromKeeper::LogEnded {
                rank: index,
                bytes,
                dropped,
            });
        }
        // What ends after the order to stop has no end of its own: it may run again elsewhere.
        let running = self.phase == Phase::Running;
        if let Some(array) = self.array.as_mut().filter(|_| running) {
            array.tasks.ended(now, index, (code, signal), spoke);
        }
    }

    /// Whether a child is the task of a slot: its process group ends with it.
    pub(super) fn is_task(&self, pid: Pid) -> bool {
        self.array.is_some() && self.ranks.iter().any(|slot| slot.pid == Some(pid))
    }

    /// After children have ended: the next tasks.
    pub(super) fn go_on(&mut self) {
        // Without a lease that holds a fenced job starts nothing more: in a moment its fence ends it.
        if self.array.is_none() || self.phase != Phase::Running || !self.may_start() {
            return;
        }
        if let Err(why) = self.fill_slots() {
            self.launch_failed = Some(why.clone());
            self.tell(&FromKeeper::LaunchFailed { why });
            self.stop(0);
        }
    }

    /// Tells the agent which tasks have ended since the last time.
    pub(super) fn tell_tasks(&mut self) {
        let news = self.array.as_mut().map(|array| array.tasks.take_news());
        if let Some(ends) = news.filter(|ends| !ends.is_empty()) {
            self.tell(&FromKeeper::TasksEnded(ends));
        }
    }

    /// Writes down which tasks ended in this turn. Not synced: what was told lies in the agent's journal, and the rest may run again.
    pub(super) fn write_tasks(&mut self) {
        let unwritten = self
            .array
            .as_mut()
            .map(|array| array.tasks.take_unwritten());
        if let Some(ends) = unwritten.filter(|ends| !ends.is_empty())
            && let Err(error) = self.exits_file.tasks(ends)
        {
            tracing::error!(%error, "cannot write down how tasks ended");
        }
    }
}

fn is_shortage(error: &std::io::Error) -> bool {
    let shortages = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE];
    error
        .raw_os_error()
        .is_some_and(|code| shortages.contains(&code))
}
