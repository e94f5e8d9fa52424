//! A simulated coordinator that leads: begins its term once that term's first entry is applied, feeds the product's leader
//! step and carries its outputs out. Does NOT decide anything and holds no soft state of its own.

use std::collections::BTreeSet;

use mlctl_coordinator::consensus::turn::Input;
use mlctl_coordinator::leader::commands;
use mlctl_coordinator::leader::orders::Order;
use mlctl_coordinator::leader::step::{self, Note, Output, Term, plan_again_in};
use mlctl_coordinator::scheduler;
use mlctl_coordinator::state::Body;
use mlctl_coordinator::state::commands::{
    Bootstrap, ChangeTeams, DEFAULT_TEAM, SetQuota, TeamEdit,
};
use mlctl_coordinator::state::records::{Actor, Reply, Retention, Timers};
use mlctl_coordinator::state::view::ClusterView;
use mlctl_coordinator::state::view::amounts::GPU;
use mlctl_coordinator::state::view::teams::Flavor;
use mlctl_proto::ids::JobId;

use super::coordinator::{Outcome, Waiter, system};
use super::copies;
use super::marks::Mark;
use super::stream::Down;
use super::words;
use super::world::World;

/// One seed in so many has a quota.
const QUOTA_EVERY: u64 = 3;
/// GPUs of it. Nodes have six or eight, and no job asks for more than four.
const QUOTA_GPUS: u64 = 5;

/// What a proposal of a leader is for.
#[derive(Clone, Debug)]
pub(super) enum Why {
    Bootstrap,
    /// A quota for everybody.
    Quota,
    /// What else a plan proposed before its last command.
    PartOfPlan,
    /// When the scheduler's answer may change by itself, when the plan was made, and whether the deadline of some job is over.
    Plan(Option<i64>, i64, bool),
    Step(step::Why),
}

/// A term that is led.
pub(super) struct Lead {
    pub(super) term: u64,
    step: Term,
}

impl World {
    /// Begins to lead once the term's first entry is applied; then what is due.
    pub(super) fn lead_on(&mut self, who: usize) {
        let now = self.mono_ms(who);
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let Some(term) = member.leads.filter(|term| *term == member.last.1) else {
            return;
        };
        if member.lead.is_none() {
            member.lead = Term::new(now, &member.state).map(|step| Lead { term, step });
        }
        if member.lead.is_none() {
            if !std::mem::replace(&mut member.bootstrapping, true) {
                self.propose_bootstrap(who);
            }
            return;
        }
        let last = member.last.0;
        let confirmed = member.confirmed_at.take_if(|index| *index <= last);
        if confirmed.is_some() {
            self.led(who, step::Event::RoundEnded { confirmed: true });
        }
        self.led(who, step::Event::Time);
    }

    /// Feeds the step of a coordinator that leads, and carries out what comes of it.
    pub(super) fn led(&mut self, who: usize, event: step::Event) {
        let now = self.mono_ms(who);
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let Some(lead) = &mut member.lead else {
            return;
        };
        let term = lead.term;
        for output in lead.step.step(now, &member.state, event) {
            self.carry_out(who, term, output);
        }
    }

    fn carry_out(&mut self, who: usize, term: u64, output: Output) {
        match output {
            Output::Tell { link, order, .. } => self.order(term, link, order),
            Output::Close { link } => {
                if let Some(member) = &mut self.coordinators[who].live {
                    member.sessions.remove(&link);
                    self.push_down(link, Down::End);
                }
            }
            Output::Propose { body, why } => {
                let waiter = Waiter::Lead(Why::Step(why));
                self.propose(who, system("leader"), None, *body, waiter);
            }
            Output::Read => {
                if let Some(member) = &mut self.coordinators[who].live {
                    let id = member.next_id;
                    member.next_id += 1;
                    member.reading = true;
                    member.inbox.push(Input::ReadIndex { id });
                }
            }
            Output::Plan { heard, salvaging } => self.plan(who, heard, salvaging),
            Output::Note(Note::Salvaged { in_time: true, .. }) => {
                self.marks.hit(Mark::SalvageCommit);
            }
            Output::Note(_) => {}
        }
    }

    fn order(&mut self, term: u64, link: u64, order: Order) {
        let told = match order {
            Order::Probe(order) => Down::Probe(*order),
            Order::Copies(order) => copies::down(term, *order),
            order => Down::Say(term, words::order(order)),
        };
        self.push_down(link, told);
    }

    fn plan(&mut self, who: usize, heard: BTreeSet<String>, salvaging: BTreeSet<JobId>) {
        let made = self.stamp_ms(who);
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let view = ClusterView::new(member.state.clone(), heard)
            .salvaging(salvaging)
            .promised(std::mem::take(&mut member.promised));
        let mut plan = scheduler::plan(&view, made);
        member.promised = std::mem::take(&mut plan.reservations);
        let mut bodies = commands(&plan);
        let Some(last) = bodies.pop() else {
            let again_in = plan_again_in(plan.next, made, true).map(|ms| member.pace.wait(ms));
            let late = plan.late;
            return self.led(who, step::Event::PlanEnded { again_in, late });
        };
        // In the order in which they are proposed they are committed: the plan is over with the last.
        for body in bodies {
            let waiter = Waiter::Lead(Why::PartOfPlan);
            self.propose(who, system("scheduler"), None, body, waiter);
        }
        let waiter = Waiter::Lead(Why::Plan(plan.next, made, plan.late));
        self.propose(who, system("scheduler"), None, last, waiter);
    }

    /// What became of a proposal of the leader.
    pub(super) fn lead_settled(&mut self, who: usize, why: Why, outcome: &Outcome) {
        let carried = matches!(outcome, Some((_, reply)) if !matches!(reply, Reply::Rejected(_)));
        match why {
            Why::Bootstrap => {
                if let Some(member) = &mut self.coordinators[who].live {
                    member.bootstrapping = false;
                }
                if carried && self.seed.is_multiple_of(QUOTA_EVERY) {
                    self.propose_quota(who);
                }
            }
            Why::Quota | Why::PartOfPlan => {}
            Why::Plan(next, made, late) => {
                let whole = match outcome {
                    Some((_, Reply::Started { refused, .. })) => refused.is_empty(),
                    _ => carried,
                };
                let again_in = plan_again_in(next, made, whole);
                let member = self.coordinators[who].live.as_ref();
                let again_in = again_in
                    .zip(member)
                    .map(|(ms, member)| member.pace.wait(ms));
                self.led(who, step::Event::PlanEnded { again_in, late });
            }
            Why::Step(why) => self.led(who, step::Event::Proposed { why, carried }),
        }
    }

    /// Less than there is, and enough for the widest job.
    fn propose_quota(&mut self, who: usize) {
        let actor = Actor {
            user_id: "admin".into(),
            name: "admin".into(),
            admin: true,
            system: false,
        };
        let quota = SetQuota {
            team: DEFAULT_TEAM.into(),
            flavor: Flavor {
                kind: "sim".into(),
                pool: None,
            },
            nominal: Some(QUOTA_GPUS * GPU),
            borrow: None,
            lend: None,
            per_user: None,
            remove: false,
        };
        let edits = vec![TeamEdit::Quota(quota)];
        let body = Body::ChangeTeams(ChangeTeams { edits });
        self.propose(who, actor, None, body, Waiter::Lead(Why::Quota));
    }

    fn propose_bootstrap(&mut self, who: usize) {
        // With equal timers a silent node is Lost at once; else it is Unreachable first.
        let equal = self.seed.is_multiple_of(2);
        let timers = Timers {
            lost_after_ms: if equal { 3_000 } else { 9_000 },
            // Clocks here differ by more than the tenth that a fence allows for.
            fence_after_ms: if equal { 2_100 } else { 6_900 },
            ..Timers::DEV
        };
        let bootstrap = Bootstrap {
            cluster_id: "simulated".into(),
            cluster_name: "simulated".into(),
            incarnation: 1,
            dev: true,
            allow_root: true,
            timers,
            // Little, so that jobs leave the tables and segments are closed.
            retention: Retention {
                keep_finished: 8,
                segment_bytes: 4 << 10,
                ..Retention::default()
            },
        };
        let waiter = Waiter::Lead(Why::Bootstrap);
        self.propose(
            who,
            system("coordinator"),
            None,
            Body::Bootstrap(bootstrap),
            waiter,
        );
    }
}
