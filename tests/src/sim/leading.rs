//! A simulated coordinator that leads: begins its loop once its term's first entry is applied, and does what the loop leaves to do.
//! Does NOT hold the loop's state: `lead` does.

use mlctl_coordinator::consensus::turn::Input;
use mlctl_coordinator::state::Body;
use mlctl_coordinator::state::commands::Bootstrap;
use mlctl_coordinator::state::records::Timers;

use super::coordinator::{Waiter, system};
use super::lead::{Lead, Todo, Why};
use super::stream::Down;
use super::world::World;

impl World {
    /// The leader's loop: begins once its term's first entry is applied, does what is due.
    pub(super) fn lead_on(&mut self, who: usize) {
        let (now, wall_ms) = (self.now, self.wall_ms(who));
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let Some(term) = member.leads.filter(|term| *term == member.last.1) else {
            return;
        };
        if member.lead.is_none() {
            member.lead = Lead::new(term, &member.state, now);
        }
        let Some(lead) = &mut member.lead else {
            if !std::mem::replace(&mut member.bootstrapping, true) {
                self.propose_bootstrap(who);
            }
            return;
        };
        if member
            .confirmed_at
            .is_some_and(|index| index <= member.last.0)
        {
            member.confirmed_at = None;
            lead.round_ended(true);
        }
        lead.on_time(&member.state, now, wall_ms);
        while let Some(todo) = self.next_todo(who) {
            self.do_for_lead(who, term, todo);
        }
    }

    fn next_todo(&mut self, who: usize) -> Option<Todo> {
        let member = self.coordinators[who].live.as_mut()?;
        member.lead.as_mut()?.todo.pop_front()
    }

    fn do_for_lead(&mut self, who: usize, term: u64, todo: Todo) {
        match todo {
            Todo::Tell(stream, message) => self.push_down(stream, Down::Say(term, message)),
            Todo::Propose(body, why) => {
                self.propose(who, system("leader"), None, *body, Waiter::Lead(why));
            }
            Todo::Read => {
                if let Some(member) = &mut self.coordinators[who].live {
                    let id = member.next_id;
                    member.next_id += 1;
                    member.inbox.push(Input::ReadIndex { id });
                }
            }
        }
    }

    fn propose_bootstrap(&mut self, who: usize) {
        // With equal timers a silent node is Lost at once; else it is Unreachable first.
        let equal = self.seed.is_multiple_of(2);
        let timers = Timers {
            lost_after_ms: if equal { 3_000 } else { 9_000 },
            ..Timers::DEV
        };
        let bootstrap = Bootstrap {
            cluster_id: "simulated".into(),
            cluster_name: "simulated".into(),
            incarnation: 1,
            dev: true,
            allow_root: true,
            timers,
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
