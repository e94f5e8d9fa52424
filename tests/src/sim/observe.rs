//! Rare paths as they show in what is committed: seen once, on the member that applies an entry first.
//! Does NOT judge, but for one thing: one key of a client makes one job (I9).

use mlctl_coordinator::state::commands::{AgentEvents, Command, CopyNews, LossProof, News};
use mlctl_coordinator::state::records::Reply;
use mlctl_coordinator::state::{Applied, Body, Changed, Effect, State};
use mlctl_proto::errors::Code;
use mlctl_proto::ids::JobId;

use super::marks::Mark;
use super::world::World;
use crate::checkers::Key;

impl World {
    /// `command` took `before` further, for the first time anywhere.
    pub(super) fn observe(&mut self, before: &State, command: &Command, applied: &Applied) {
        match &command.body {
            Body::SubmitJob(_) => self.observe_submit(before, command, applied),
            Body::RegisterNode(hello) => {
                let known = before.node(&hello.facts.name);
                let changed = known.is_some_and(|known| known.journal_id != hello.journal_id);
                if changed && applied.refusal().is_none() {
                    self.marks.hit(Mark::JournalIdChanged);
                }
                self.observe_recall(before, applied);
            }
            Body::DeclareNodeLost(lost)
                if lost.proof == LossProof::Witness && applied.refusal().is_none() =>
            {
                self.marks.hit(Mark::WitnessLost);
                let checked = self.checkers.witnessed.lost(&lost.node, self.now);
                self.check(checked);
            }
            Body::RetryJobs(_) | Body::StartAttempts(_) => self.observe_again(before, applied),
            Body::AgentEvents(report) => self.observe_report(before, report, applied),
            _ => {}
        }
        let reused = applied.refusal().map(|refusal| refusal.code) == Some(Code::KeyReused);
        if reused {
            self.marks.hit(Mark::KeyReused);
        }
    }

    fn observe_submit(&mut self, before: &State, command: &Command, applied: &Applied) {
        let (Some(key), Reply::Submitted { job }) = (&command.key, &applied.reply) else {
            return;
        };
        if before.job(*job).is_some() || self.checkers.history.holds(*job) {
            self.marks.hit(Mark::DuplicateKey);
        }
        let user = &command.actor.user_id;
        let checked = self.checkers.keys.made(user, key, *job);
        self.check(checked);
    }

    fn observe_again(&mut self, before: &State, applied: &Applied) {
        let late = |id: &&JobId| before.job(**id).is_some_and(|job| job.retries.waits > 0);
        let held = |id: &&JobId| {
            before
                .job(**id)
                .is_some_and(|job| job.retries.hold.is_some())
        };
        let (mark, count) = match &applied.reply {
            Reply::Started { jobs, .. } => (Mark::StartedLate, jobs.iter().filter(late).count()),
            Reply::Retried { released, .. } => {
                (Mark::HeldReleased, released.iter().filter(held).count())
            }
            _ => return,
        };
        (0..count).for_each(|_| self.marks.hit(mark));
    }

    /// A hello took what is in doubt back, though its successor was committed.
    fn observe_recall(&mut self, before: &State, applied: &Applied) {
        for changed in &applied.changed {
            let Changed::Job(id) = changed else {
                continue;
            };
            let newest = before.job(*id).and_then(|job| before.current_attempt(job));
            let succeeded = newest.is_some_and(|newest| !newest.in_doubt && !newest.closed());
            if before.in_doubt(*id).is_some() && succeeded {
                self.marks.hit(Mark::SupersedeRecalled);
            }
        }
    }

    /// Word of a part that its maker did not bring itself.
    fn observe_copy(&mut self, before: &State, (job, epoch): Key, what: &CopyNews) {
        let CopyNews::Held(sealed) = what else {
            return;
        };
        let known = before.job(job).is_some_and(|job| {
            let mut same = job
                .checkpoints
                .iter()
                .filter(|one| one.epoch == epoch && one.name == sealed.name);
            let index = sealed.part.map(|part| part.index);
            same.any(|one| one.parts.iter().any(|part| Some(part.index) == index))
        });
        let counts = before
            .job(job)
            .is_some_and(|job| job.epoch() == Some(epoch));
        if counts && !known {
            self.marks.hit(Mark::CopySpoke);
        }
    }

    fn observe_report(&mut self, before: &State, report: &AgentEvents, applied: &Applied) {
        let acknowledged = applied.effects.iter().find_map(|effect| match effect {
            Effect::EventsApplied { up_to, .. } => Some(*up_to),
            _ => None,
        });
        let Some((node, up_to)) = before.node(&report.node).zip(acknowledged) else {
            return;
        };
        for event in report.events.iter().filter(|one| one.seq > node.event_mark) {
            let (id, epoch) = match &event.news {
                News::OfAttempt { job, epoch, .. } => (job, epoch),
                News::OfCopy { job, epoch, what } => {
                    self.observe_copy(before, (*job, *epoch), what);
                    continue;
                }
                News::OfDevices(_) => continue,
            };
            let job = before.job(*id);
            // Waves of an array are beside each other.
            let single = job.filter(|job| job.array.is_none());
            if single.is_some_and(|job| job.epoch() > Some(*epoch)) {
                self.marks.hit(Mark::StaleEpoch);
            }
            let counted = applied.changed.contains(&Changed::Job(*id));
            if !counted && event.seq <= up_to {
                self.marks.hit(Mark::EventRefused);
            }
        }
    }
}
