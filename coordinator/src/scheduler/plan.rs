//! What a plan proposes, as data: apply checks each part again against the state that it finds. Does NOT decide anything.
use std::collections::BTreeMap;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use crate::state::view::jobs::{Class, Footing, Reservation, Seat};
use crate::state::view::teams::Flavor;

/// How entitled a job is to what it holds or wants (docs/SCHEDULING.md, Preemption): compared left to right, a borrower never stands above an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entitlement {
    /// Levels, from its team to the root, at which the team's nominal covers it.
    pub cover: u32,
    /// How urgent.
    pub class: Class,
}

/// One gang, or one wave of an array, that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GangStart {
    /// The job.
    pub job: JobId,
    /// Where, in node-rank order.
    pub seats: Vec<Seat>,
    /// What it is charged for: one flavor, or several for a gang that mixes types.
    pub charges: Vec<(Flavor, u64)>,
    /// How it comes to run.
    pub footing: Footing,
    /// Nodes beyond the fewest on which it runs.
    pub surplus: u32,
    /// Of an array: tasks that run there at once.
    pub tasks: Option<u32>,
}

/// Why somebody has to give up devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Taken {
    /// Its team borrowed what another takes back, or is entitled to less.
    Entitlement,
    /// Its protected time is over, and a reservation is due.
    Overtime,
    /// It was let in as a guest, and a reservation is due.
    Guest,
    /// `las`: its quantum is over.
    Slice,
    /// It runs on more nodes than it needs: these go first.
    Surplus,
}

/// Who gives up devices for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Its job.
    pub job: JobId,
    /// Which attempt.
    pub epoch: Epoch,
    /// How entitled it is now.
    pub entitlement: Entitlement,
    /// Why.
    pub why: Taken,
}

/// One transaction: these end, and what they hold is kept for the one gang that then fits whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// For whom.
    pub job: JobId,
    /// How entitled it is afterwards.
    pub entitlement: Entitlement,
    /// Who ends, least work lost first.
    pub victims: Vec<Victim>,
    /// What is held for it, whoever holds it now.
    pub seats: Vec<Seat>,
    /// What it will be charged for.
    pub charges: Vec<(Flavor, u64)>,
}

/// Everything that one pass proposes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proposal<R> {
    /// Starts that fit together, in the order in which they were chosen.
    pub starts: Vec<GangStart>,
    /// Who gives up what for whom.
    pub preemptions: Vec<Preemption>,
    /// Beneficiaries whose notice is recalled: they are gone, or fit elsewhere.
    pub withdrawn: Vec<JobId>,
    /// All reservations from now on.
    pub reservations: Vec<Reservation>,
    /// The leading reason of each job that neither starts nor is promised devices now.
    pub reasons: BTreeMap<JobId, R>,
    /// The earliest time at which this answer could change by time alone.
    pub next: Option<UtcMs>,
}
