//! From the journal's records to where the agent stood: marks, open attempts, unacknowledged events.
//! Pure and tolerant: a record that makes no sense here is skipped and counted, never a reason not to start.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{AgentEvent, agent_event};

use super::Mark;
use super::attempt::Attempt;
use super::checkpoints::{name_told, told};
use super::record::Record;
use super::types::{RankEnd, Start};
use crate::checkpoints::rules::step_of;
use crate::tasks::tasks_of;

/// Highest epoch of a job that was found outside the journal, for instance as a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The job.
    pub job: JobId,
    /// Nothing at or below it may begin.
    pub epoch: Epoch,
}

/// What an agent knows when it starts.
#[derive(Debug)]
pub struct Recovered {
    pub(super) journal_id: String,
    pub(super) incarnation: u32,
    pub(super) term: u64,
    pub(super) acked: u64,
    pub(super) marks: BTreeMap<JobId, Mark>,
    pub(super) attempts: BTreeMap<(JobId, Epoch), Attempt>,
    pub(super) events: Vec<AgentEvent>,
    pub(super) dirty: BTreeMap<String, String>,
    gap: bool,
}

impl Recovered {
    /// An agent with an empty journal of this id.
    pub fn empty(journal_id: String) -> Self {
        Self {
            journal_id,
            incarnation: 0,
            term: 0,
            acked: 0,
            marks: BTreeMap::new(),
            attempts: BTreeMap::new(),
            events: Vec::new(),
            dirty: BTreeMap::new(),
            gap: false,
        }
    }

    /// Folds the records of the journal `journal_id` in their order.
    pub fn replay(journal_id: String, records: Vec<Record>) -> Self {
        let mut recovered = Self::empty(journal_id);
        for record in records {
            recovered.take(record);
        }
        recovered.drop_acknowledged();
        recovered
    }

    /// Event numbers are missing: the cluster would wait for them for ever under this journal id.
    pub fn has_gap(&self) -> bool {
        self.gap
    }

    /// Continues under a new journal id: what is unacknowledged is numbered anew from 1.
    pub fn renumber(&mut self, journal_id: String) {
        self.journal_id = journal_id;
        self.acked = 0;
        self.gap = false;
        for (seq, event) in (1..).zip(&mut self.events) {
            event.seq = seq;
        }
    }

    /// Adopts what was found beside the journal: a live keeper of an attempt that the journal does not know.
    pub fn adopt(&mut self, start: Arc<Start>) {
        let key = (start.job, start.epoch);
        self.raise(
            Closed {
                job: start.job,
                epoch: start.epoch,
            },
            0,
        );
        self.attempts
            .entry(key)
            .or_insert_with(|| Attempt::new(start, 0));
    }

    /// Is the attempt open or unacknowledged here?
    pub fn knows(&self, job: JobId, epoch: Epoch) -> bool {
        self.attempts.contains_key(&(job, epoch))
    }

    /// Nothing at or below this epoch begins again.
    pub fn close(&mut self, closed: Closed) {
        self.raise(closed, 0);
    }

    /// The open attempts: journaled as begun, not as ended.
    pub fn open(&self) -> impl Iterator<Item = &Arc<Start>> {
        self.attempts
            .values()
            .filter(|attempt| attempt.ended.is_none())
            .map(|attempt| &attempt.start)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Incarnation(incarnation) => {
                self.incarnation = self.incarnation.max(incarnation)
            }
            Record::Term(term) => self.term = self.term.max(term),
            Record::Acknowledged(up_to) => self.acked = self.acked.max(up_to),
            Record::Begun(start) => {
                self.raise(
                    Closed {
                        job: start.job,
                        epoch: start.epoch,
                    },
                    0,
                );
                self.attempts
                    .insert((start.job, start.epoch), Attempt::new(start, 0));
            }
            Record::Tombstone { job, epoch } => self.raise(Closed { job, epoch }, 0),
            Record::Mark {
                job,
                epoch,
                step_floor,
            } => self.raise(Closed { job, epoch }, step_floor),
            Record::Reported {
                job,
                epoch,
                started,
                exits,
                ended,
                sealed,
                tasks,
            } => {
                if let Some(attempt) = self.attempts.get_mut(&(job, epoch)) {
                    attempt.started = started;
                    exits.into_iter().for_each(|exit| note_exit(attempt, exit));
                    attempt.ended = ended.then_some(0);
                    let steps = sealed.iter().map(|told| step_of(name_told(told)));
                    attempt.step_max = steps.max().unwrap_or(0);
                    attempt.sealed = sealed.into_iter().collect();
                    attempt.tasks = tasks;
                }
            }
            Record::Dirty(device) => drop(self.dirty.insert(device.uuid, device.why)),
            Record::Event(event) => self.take_event(event),
        }
    }

    fn take_event(&mut self, event: AgentEvent) {
        let last = self
            .events
            .last()
            .map_or(self.acked, |last| last.seq.max(self.acked));
        if event.seq <= last {
            return;
        }
        self.gap |= event.seq != last + 1;
        if let (Ok(job), Ok(epoch)) = (JobId::try_from(event.job), Epoch::try_from(event.epoch)) {
            match self.attempts.get_mut(&(job, epoch)) {
                Some(attempt) => note_event(attempt, event.what.as_ref()),
                None => self.note_sealed_late(job, epoch, event.what.as_ref()),
            }
        }
        self.note_devices(event.what.as_ref());
        self.events.push(event);
    }

    /// Sealed after the cluster had acknowledged the end of its attempt.
    fn note_sealed_late(&mut self, job: JobId, epoch: Epoch, what: Option<&agent_event::What>) {
        if let Some(agent_event::What::CheckpointSealed(sealed)) = what
            && let Some(mark) = self.marks.get_mut(&job).filter(|mark| mark.epoch == epoch)
        {
            mark.step_floor = mark.step_floor.max(sealed.step);
        }
    }

    fn note_devices(&mut self, what: Option<&agent_event::What>) {
        match what {
            Some(agent_event::What::DevicesDirty(found)) => {
                let devices = found.devices.iter();
                let known = devices.map(|one| (one.uuid.clone(), one.why.clone()));
                self.dirty.extend(known);
            }
            Some(agent_event::What::DevicesClean(clean)) => {
                let uuids = clean.uuids.iter();
                uuids.for_each(|uuid| drop(self.dirty.remove(uuid)));
            }
            _ => {}
        }
    }

    /// Drops what the cluster has acknowledged, and the attempts whose end is among it.
    fn drop_acknowledged(&mut self) {
        let acked = self.acked;
        for event in self.events.iter().filter(|event| event.seq <= acked) {
            let ended = matches!(event.what, Some(agent_event::What::AllocationEnded(_)));
            if let (true, Ok(job), Ok(epoch)) = (
                ended,
                JobId::try_from(event.job),
                Epoch::try_from(event.epoch),
            ) && let Some(attempt) = self.attempts.remove(&(job, epoch))
                && let Some(mark) = self.marks.get_mut(&job)
            {
                mark.step_floor = mark.step_floor.max(attempt.step_max);
            }
        }
        self.events.retain(|event| event.seq > acked);
    }

    fn raise(&mut self, closed: Closed, step_floor: u64) {
        let earlier = self
            .attempts
            .iter()
            .filter(|((job, epoch), _)| *job == closed.job && *epoch < closed.epoch);
        let sealed = earlier
            .map(|(_, attempt)| attempt.step_max)
            .max()
            .unwrap_or(0);
        let mark = self.marks.entry(closed.job).or_insert(Mark {
            epoch: closed.epoch,
            step_floor: 0,
        });
        mark.epoch = mark.epoch.max(closed.epoch);
        mark.step_floor = mark.step_floor.max(step_floor).max(sealed);
    }
}

fn note_exit(attempt: &mut Attempt, exit: RankEnd) {
    if exit.is_failure() && attempt.first_failure.is_none() {
        attempt.first_failure = Some(exit);
    }
    attempt.exits.insert(exit.rank, exit);
}

fn note_event(attempt: &mut Attempt, what: Option<&agent_event::What>) {
    match what {
        Some(agent_event::What::RanksStarted(_)) => attempt.started = true,
        Some(agent_event::What::RankExited(exit)) => {
            note_exit(attempt, (*exit).into());
        }
        Some(agent_event::What::AllocationEnded(_)) => attempt.ended = Some(0),
        Some(agent_event::What::CheckpointSealed(sealed)) => {
            attempt.step_max = attempt.step_max.max(sealed.step);
            attempt.sealed.insert(told(sealed));
        }
        Some(agent_event::What::TasksEnded(ended)) => {
            attempt.tasks = attempt.tasks.union(&tasks_of(ended));
        }
        Some(
            agent_event::What::DevicesDirty(_)
            | agent_event::What::DevicesClean(_)
            | agent_event::What::CopyHeld(_)
            | agent_event::What::CopyLost(_)
            | agent_event::What::CopyUploaded(_),
        )
        | None => {}
    }
}
