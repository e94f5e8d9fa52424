//! The course of a run: a storm in which things break, the calm in which everything has to come right again, idle time; over and
//! over, until its hours are full. Does NOT know what breaks nor how.

use mlctl_coordinator::scheduler;
use mlctl_coordinator::state::commands::{StartAttempt, StartAttempts};
use mlctl_coordinator::state::records::Reply;
use mlctl_coordinator::state::view::ClusterView;
use mlctl_coordinator::state::{Body, Command};
use mlctl_proto::ids::JobId;

use super::client::Client;
use super::coordinator::{ELECTION_MS_MAX, system};
use super::world::{COORDINATORS, Event, Weather, World};
use crate::checkers::{Look, Violation, unacknowledged};

/// How long a storm lasts, milliseconds of virtual time.
const STORM_MS: (u64, u64) = (80_000, 120_000);
/// How long everything may take to end once all is healed: a gang that does not get ready takes two minutes.
const CALM_MS: u64 = 500_000;
/// Between two looks during the calm.
const LOOK_MS: u64 = 2_000;
/// From one storm to the next.
const CYCLE_MS: u64 = 900_000;
/// A member whose state is wrong stops within this once the members can speak with each other.
const FOUND_MS: u64 = 10_000;
/// The jobs of a node that is given up wait again within this.
const REQUEUED_WITHIN_MS: u64 = 10_000;
/// So many storms, one power cut of everything in the calm.
const LAST_LIGHT_EVERY: u64 = 4;

impl World {
    /// Runs until `hours` are full; at least one storm and its calm.
    pub(super) fn play(&mut self, hours: u64) {
        let end = hours * 3_600_000;
        let mut storms = 0;
        loop {
            let begun = self.now;
            self.storm();
            self.calm();
            storms += 1;
            let last = begun + CYCLE_MS >= end;
            if last || storms % LAST_LIGHT_EVERY == 0 {
                self.last_light();
            }
            if self.violation.is_some() || end == 0 {
                return;
            }
            self.idle((begun + CYCLE_MS).min(end.max(self.now)));
            if last || self.violation.is_some() {
                return;
            }
        }
    }

    fn storm(&mut self) {
        self.weather = Weather::Storm;
        self.loss = 1;
        self.after(2_000, Event::Fault);
        let length = self.dice.between(STORM_MS.0, STORM_MS.1);
        self.run_until(self.now + length);
    }

    /// Nothing breaks, and everything that was promised has to come to its end.
    fn calm(&mut self) {
        self.heal();
        self.checkers.liveness.calm_begins();
        let end = self.now + CALM_MS;
        while self.violation.is_none() && self.now < end && !self.settled() {
            self.run_until(self.now + LOOK_MS);
            self.look();
        }
        if self.violation.is_none() && !self.settled() {
            let (open, events) = (self.unfinished(), self.open_events());
            let seconds = CALM_MS / 1_000;
            let what = format!(
                "{seconds} s after everything healed these are not over: {open:?}, and {events} events are not acknowledged"
            );
            self.violate(Violation {
                property: "L",
                what,
            });
        }
    }

    fn look(&mut self) {
        let calm_since = self.awake_at();
        let heard = self.head.nodes().map(|node| node.facts.name.clone());
        let mut leads = self.coordinators.iter().filter_map(|one| one.live.as_ref());
        let leader = leads.find(|member| member.lead.is_some());
        let promised = leader.map(|member| member.promised.clone());
        let view = ClusterView::new(self.head.clone(), heard.collect())
            .promised(promised.unwrap_or_default());
        let wall_ms = self.head.now_ms();
        let plan = scheduler::plan(&view, wall_ms);
        let startable = self.accepted(plan.starts);
        let led = self.coordinators.iter().any(|one| {
            let live = one.live.as_ref();
            live.is_some_and(|member| member.lead.is_some())
        });
        let leader_within = 10 * ELECTION_MS_MAX;
        let away = self.away(calm_since + FOUND_MS + leader_within);
        let look = Look {
            state: &self.head,
            now: self.now,
            calm_since,
            leader_within,
            led,
            startable: &startable,
            away: &away,
        };
        let checked = self.checkers.liveness.look(&look);
        self.check(checked);
        if self.now > calm_since + FOUND_MS {
            self.look_for_the_wrong();
        }
    }

    /// Jobs whose starts would be accepted: the plan does not ask for quotas.
    fn accepted(&self, starts: Vec<StartAttempt>) -> Vec<JobId> {
        let command = Command {
            actor: system("scheduler"),
            source: "simulated".into(),
            time_ms: self.head.now_ms(),
            key: None,
            body: Body::StartAttempts(StartAttempts { starts }),
        };
        let mut copy = self.head.clone();
        match copy.apply(self.head.applied_index(), &command).reply {
            Reply::Started { jobs, .. } => jobs,
            _ => Vec::new(),
        }
    }

    /// Nodes that are off, and when they have to be known as Lost if one leads for good from `led` on.
    fn away(&self, led: u64) -> Vec<(String, u64)> {
        let timers = self.head.settings().map(|settings| settings.timers);
        let lost_after = timers.map_or(0, |timers| u64::from(timers.lost_after_ms));
        let off = self.nodes.iter().filter(|node| self.now < node.away_until);
        off.map(|node| (node.name.clone(), led + lost_after + REQUEUED_WITHIN_MS))
            .collect()
    }

    /// When everybody who sleeps will be awake.
    fn awake_at(&self) -> u64 {
        let coordinators = self.coordinators.iter().map(|one| one.paused_until);
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|node| node.paused_until.max(node.frozen_until));
        coordinators.chain(nodes).fold(self.healed_at, u64::max)
    }

    /// Time in which little is asked for and nothing breaks.
    fn idle(&mut self, end: u64) {
        self.weather = Weather::Idle;
        self.run_until(end);
    }

    /// A power cut of everything after a calm: what is on the disks is all there is.
    fn last_light(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.fault_everything();
        self.check_all();
        self.run_until(self.now + 10 * ELECTION_MS_MAX);
        // Agents that are back may still have things written down: who follows hears of the last of them a heartbeat later.
        let known = self.head.applied_index();
        self.run_until(self.now + ELECTION_MS_MAX);
        for who in 0..COORDINATORS {
            let Some(member) = &self.coordinators[who].live else {
                continue;
            };
            if member.vitals.flipped.is_some() {
                continue;
            }
            let state = member.state.clone();
            let applied = state.applied_index();
            let checked = &self.checkers;
            let checked = checked.acknowledged.check(&state, &checked.history);
            self.check(checked);
            if applied < known {
                let what = format!(
                    "coordinator {} does not catch up: it is at {applied}, {known} was known",
                    who + 1
                );
                self.violate(Violation {
                    property: "state",
                    what,
                });
            }
        }
    }

    fn unfinished(&mut self) -> Vec<(JobId, &'static str)> {
        let checkers = &mut self.checkers;
        checkers
            .acknowledged
            .unfinished(&self.head, &checkers.history)
    }

    /// Everybody is there, nobody waits for an answer, every acknowledged job is over, and so is every event.
    fn settled(&mut self) -> bool {
        let waiting = self.clients.iter().any(Client::waits);
        let away = self.nodes.iter().any(|node| self.now < node.away_until);
        !waiting && !away && self.unfinished().is_empty() && self.open_events() == 0
    }

    fn open_events(&self) -> usize {
        let agents = self.nodes.iter().filter_map(|node| node.agent.as_ref());
        agents.map(|agent| unacknowledged(&agent.records())).sum()
    }
}
