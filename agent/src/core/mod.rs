//! What an agent decides: which attempts may begin, when ranks start and stop, what is told to the leader and when.
//! Pure: `step(now, event)` returns actions; does NOT touch files, processes or the network, and reads no clock.
//!
//! The order that everything rests on: a decision becomes a [`Record`]; what depends on it leaves only after [`Event::JournalSynced`].
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

mod attempt;
mod checkpoints;
mod devices;
mod keeper_events;
mod leader_messages;
mod leases;
mod limits;
mod outbox;
mod parts;
mod record;
mod replay;
mod types;

#[cfg(test)]
mod alone_tests;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::AGENT_REDIAL_MS;
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::persist::DirtyDevice;

pub use crate::tasks::{TaskEnds, TaskGroup, Wave};
use attempt::Attempt;
use outbox::Outbox;
pub use parts::{CheckpointFound, Holder, ManifestId, PartFound, PartKey, Restore, RestorePart};
pub use record::Record;
pub use replay::{Closed, Recovered};
pub use types::{
    Action, BoottimeMs, Event, Fence, KeeperStatus, LeaderHello, LeaderMessage, Member, Phase,
    RankEnd, Rendezvous, Start, Status, Stop, ToLeader,
};

/// Heartbeats whose answers are still waited for; older ones are forgotten.
const HEARTBEATS_OPEN_MAX: usize = 64;
/// Before the first hello of a leader names the period.
const HEARTBEAT_MS_DEFAULT: u64 = 2_000;

/// One job on this node: what was begun or buried here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// The highest epoch begun or buried. Nothing at or below it ever begins again.
    epoch: Epoch,
    /// The highest step that an earlier attempt sealed here: a rescan reports nothing at or below it.
    step_floor: u64,
}

/// The connection to the leader, as far as decisions depend on it.
#[derive(Debug, Default)]
struct Link {
    /// Counts the connections of this agent, from 1.
    number: u64,
    /// The leader has answered the hello on this connection.
    up: bool,
    /// The hello has been sent, its answer is awaited.
    dialled: bool,
    seq: u64,
    sent_at: BTreeMap<u64, BoottimeMs>,
    /// When something was last confirmed on this connection, or it was made.
    heard_at: BoottimeMs,
    next_heartbeat: BoottimeMs,
    /// The parts that are held were listed on this connection.
    inventoried: bool,
}

/// The agent's mind. One owner, one event at a time.
#[derive(Debug)]
pub struct Core {
    node: String,
    journal_id: String,
    incarnation: u32,
    term: u64,
    heartbeat_ms: u64,
    redial_ms: u64,
    marks: BTreeMap<JobId, Mark>,
    attempts: BTreeMap<(JobId, Epoch), Attempt>,
    outbox: Outbox,
    link: Link,
    /// Sending time of the newest heartbeat that a leader confirmed: a lease counts from here.
    confirmed_at: Option<BoottimeMs>,
    /// Answers to what this node had closed before, still unacknowledged: each is given once.
    refused: BTreeSet<(JobId, Epoch)>,
    /// Devices that no attempt holds with something on them, by UUID, and what it is.
    dirty: BTreeMap<String, String>,
    /// How many directories of an attempt are being sealed now.
    sealing: BTreeMap<(JobId, Epoch), u32>,
    ticket: u64,
    synced: u64,
    records: Vec<Record>,
    lazy: Vec<Record>,
    actions: Vec<Action>,
}

impl Core {
    /// The mind of the agent of `node` that starts, from what its journal said. The actions re-adopt what was running.
    pub fn new(node: String, recovered: Recovered, now: BoottimeMs) -> (Self, Vec<Action>) {
        let mut core = Self {
            node,
            journal_id: recovered.journal_id,
            incarnation: recovered.incarnation,
            term: recovered.term,
            heartbeat_ms: HEARTBEAT_MS_DEFAULT,
            redial_ms: AGENT_REDIAL_MS,
            marks: recovered.marks,
            attempts: recovered.attempts,
            outbox: Outbox::new(recovered.acked, recovered.events),
            link: Link {
                heard_at: now,
                ..Link::default()
            },
            confirmed_at: None,
            refused: BTreeSet::new(),
            dirty: recovered.dirty,
            sealing: BTreeMap::new(),
            ticket: 0,
            synced: 0,
            records: Vec::new(),
            lazy: Vec::new(),
            actions: Vec::new(),
        };
        core.adopt_all();
        let actions = core.finish();
        (core, actions)
    }

    /// Takes one event and says what to do. Call again at [`Core::next_deadline`] with [`Event::Tick`].
    pub fn step(&mut self, now: BoottimeMs, event: Event) -> Vec<Action> {
        match event {
            Event::Tick => {}
            Event::Dialled => self.on_dialled(now),
            Event::LinkDown => self.unlink(now),
            Event::Leader { term, message } => self.on_leader(now, term, message),
            Event::JournalSynced { ticket } => self.on_synced(ticket),
            Event::Prepared {
                job,
                epoch,
                master_port,
            } => self.on_prepared(now, job, epoch, master_port),
            Event::PrepareFailed { job, epoch, why } => self.on_prepare_failed(job, epoch, &why),
            Event::KeeperConnected { job, epoch, status } => {
                self.on_keeper_connected(now, (job, epoch), &status)
            }
            Event::KeeperNeverStarted { job, epoch } => self.on_keeper_never_started(job, epoch),
            Event::KeeperLost { job, epoch, why } => self.on_keeper_lost(job, epoch, &why),
            Event::RanksStarted { job, epoch } => self.on_ranks_started(job, epoch),
            Event::LaunchFailed { job, epoch, why } => self.on_launch_failed(job, epoch, &why),
            Event::ProbePort { job, epoch, probe } => {
                if let Some(attempt) = self.attempts.get_mut(&(job, epoch)) {
                    attempt.probe = Some(probe);
                }
            }
            Event::Fenced { job, epoch, why } => self.on_fenced(job, epoch, &why),
            Event::TimedOut { job, epoch, why } => self.on_timed_out(job, epoch, &why),
            Event::RankExited { job, epoch, exit } => self.on_rank_exited(job, epoch, exit),
            Event::TasksEnded { job, epoch, ends } => self.on_tasks_ended(job, epoch, &ends),
            Event::AllRanksEnded { job, epoch } => self.on_all_ranks_ended(job, epoch),
            Event::DevicesChecked { job, epoch, dirty } => {
                self.on_devices_checked((job, epoch), dirty)
            }
            Event::DevicesSeen { dirty, clean } => self.on_devices_seen(dirty, &clean),
            Event::Checkpoint(found) => self.on_checkpoint(found),
            Event::Sealing { job, epoch, begun } => self.on_sealing(now, (job, epoch), begun),
            Event::CopyHeld { job, epoch, sealed } => self.on_copy_held((job, epoch), sealed),
            Event::CopyLost(lost) => self.on_copy_lost(lost),
            Event::CopyUploaded(key) => self.on_copy_uploaded(key),
        }
        self.on_time(now);
        self.finish()
    }

    /// When [`Event::Tick`] is due. `None`: nothing will happen by itself.
    pub fn next_deadline(&self) -> Option<BoottimeMs> {
        let redial =
            (self.link.up || self.link.dialled).then(|| self.link.heard_at + self.redial_ms);
        let heartbeat = self.link.up.then_some(self.link.next_heartbeat);
        redial.into_iter().chain(heartbeat).min()
    }

    /// The sending time of the newest heartbeat that a leader has confirmed.
    pub fn confirmed_at(&self) -> Option<BoottimeMs> {
        self.confirmed_at
    }

    /// The highest leader term seen.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Everything that the journal must hold, for a journal written anew.
    pub fn records(&self) -> Vec<Record> {
        let mut records = vec![
            Record::Incarnation(self.incarnation),
            Record::Term(self.term),
            Record::Acknowledged(self.outbox.acked()),
        ];
        let marks = self.marks.iter();
        records.extend(marks.map(|(job, mark)| Record::Mark {
            job: *job,
            epoch: mark.epoch,
            step_floor: mark.step_floor,
        }));
        for attempt in self.attempts.values() {
            records.push(Record::Begun(attempt.start.clone()));
            records.push(attempt.reported());
        }
        let dirty = self.dirty.iter().map(|(uuid, why)| DirtyDevice {
            uuid: uuid.clone(),
            why: why.clone(),
        });
        records.extend(dirty.map(Record::Dirty));
        records.extend(self.outbox.unacknowledged().cloned().map(Record::Event));
        records
    }

    /// The journaled attempts, as hello and heartbeats carry them.
    pub fn statuses(&self) -> Vec<Status> {
        let moving = self.outbox.moving();
        let journaled = self.attempts.iter();
        let mut statuses: Vec<Status> = journaled
            .filter(|(_, attempt)| attempt.begun_ticket <= self.synced)
            .map(|(key, attempt)| attempt.status(self.moving_up_to(*key, &moving)))
            .collect();
        statuses.extend(self.gone_and_moving(&moving));
        statuses
    }

    /// There is no connection, since `now`.
    fn unlink(&mut self, now: BoottimeMs) {
        self.link = Link {
            number: self.link.number,
            heard_at: now,
            ..Link::default()
        };
    }

    /// The leader that speaks on connection `number` has been heard of lately: it cannot have given this node up.
    fn hears(&self, now: BoottimeMs, number: u64) -> bool {
        let lately = now < self.link.heard_at + self.redial_ms;
        self.link.up && self.link.number == number && lately
    }

    /// Heartbeats that are due, and the decision that this leader has gone silent.
    fn on_time(&mut self, now: BoottimeMs) {
        self.send_inventory();
        if (self.link.up || self.link.dialled) && now >= self.link.heard_at + self.redial_ms {
            self.unlink(now);
            self.actions.push(Action::Redial {
                why: format!("no answer for {} ms", self.redial_ms),
            });
        }
        if self.link.up && now >= self.link.next_heartbeat {
            self.send_heartbeat(now);
        }
    }

    fn send_heartbeat(&mut self, now: BoottimeMs) {
        self.link.seq += 1;
        self.link.sent_at.insert(self.link.seq, now);
        self.list_fenced(now);
        if self.link.sent_at.len() > HEARTBEATS_OPEN_MAX {
            self.link.sent_at.pop_first();
        }
        self.link.next_heartbeat = now + self.heartbeat_ms;
        let message = ToLeader::Heartbeat {
            seq: self.link.seq,
            attempts: self.statuses(),
        };
        self.actions.push(Action::Send(message));
    }

    /// Closes a step: what was decided goes to the journal in one piece, before anything that depends on it.
    fn finish(&mut self) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.actions);
        let mut lazy = std::mem::take(&mut self.lazy);
        let records = std::mem::take(&mut self.records);
        if !records.is_empty() && planted(Mutant::JournalNotSynced) {
            self.ticket += 1;
            self.on_synced(self.ticket);
            let early = std::mem::take(&mut self.actions);
            lazy.extend(records);
            actions.insert(0, Action::JournalLazily { records: lazy });
            actions.extend(early);
            actions.extend(self.finish());
        } else if !records.is_empty() {
            self.ticket += 1;
            lazy.extend(records);
            actions.insert(
                0,
                Action::Journal {
                    ticket: self.ticket,
                    records: lazy,
                },
            );
        } else if !lazy.is_empty() {
            actions.insert(0, Action::JournalLazily { records: lazy });
        }
        actions
    }

    /// The ticket that the records of this step will get.
    fn coming_ticket(&self) -> u64 {
        self.ticket + 1
    }
}
