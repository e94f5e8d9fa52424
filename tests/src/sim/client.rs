//! Simulated users: submit and cancel through any coordinator, try another one with the same key when no answer comes.
//! Does NOT know who leads: coordinators forward.

use mlctl_coordinator::state::Body;
use mlctl_coordinator::state::commands::{CancelJobs, IdempotencyKey, RetryJobs, SubmitJob};
use mlctl_coordinator::state::records::{Actor, JobState, Reply};
use mlctl_proto::ids::JobId;
use mlctl_proto::limits::{CLIENT_RETRY_MS, CLIENT_TRY_MS};

use super::coordinator::{Outcome, Waiter};
use super::world::{COORDINATORS, Event, Weather, World};
use crate::checkers::Violation;

/// Of a hundred looks at the clock in idle time, so many begin something.
const IDLE_CALLS_PERCENT: u64 = 3;
/// Of a hundred new calls, so many end a job, and so many try one again.
const CANCELS_PERCENT: u64 = 15;
const RETRIES_PERCENT: u64 = 8;
/// Of a hundred jobs that are held, so many are ended by who looks at them.
const GIVEN_UP_PERCENT: u64 = 20;
/// Of a hundred calls, so many are the last one once more, though it was answered; and some of these ask for something else.
const AGAIN_PERCENT: u64 = 8;
const MISUSE_PERCENT: u64 = 3;
/// Of a hundred jobs, so many are arrays.
const ARRAYS_PERCENT: u64 = 12;

/// Answered, refused for now, or of unknown outcome.
pub(super) type Answer = Outcome;

/// One request on its way.
#[derive(Clone)]
pub(super) struct Call {
    client: usize,
    number: u64,
    key: [u8; 16],
    body: Body,
    /// The key was used for another request before: this one has to be refused.
    misused: bool,
}

/// A user with at most one call open.
pub(super) struct Client {
    number: usize,
    open: Option<(Box<Call>, u64, u64)>,
    calls: u64,
    own: Vec<JobId>,
    /// The last submit that was answered with a job.
    last: Option<Box<Call>>,
}

impl Client {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            open: None,
            calls: 0,
            own: Vec::new(),
            last: None,
        }
    }

    /// An answer is waited for.
    pub(super) fn waits(&self) -> bool {
        self.open.is_some()
    }

    fn actor(&self) -> Actor {
        let name = format!("user-{}", self.number);
        Actor {
            user_id: name.clone(),
            name,
            admin: false,
            system: false,
        }
    }
}

impl World {
    /// A user looks at the clock: begins something, tries again, or gives up.
    pub(super) fn on_client_turn(&mut self, who: usize) {
        let (now, storms) = (self.now, self.storms());
        let idles = self.weather == Weather::Idle;
        match &self.clients[who].open {
            None if storms || (idles && self.dice.chance(IDLE_CALLS_PERCENT)) => self.begin(who),
            None => self.look_at_held(who),
            Some((_, began, _)) if now > began + CLIENT_RETRY_MS && storms => {
                self.clients[who].open = None;
            }
            Some((_, _, tried)) if now > tried + CLIENT_TRY_MS => self.try_again(who),
            Some(_) => {}
        }
        let delay = self.dice.between(500, 5_000);
        self.after(delay, Event::ClientTurn(who));
    }

    fn begin(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.calls += 1;
        let (number, roll) = (client.calls, self.dice.roll(100));
        let old = client.last.clone().filter(|_| roll < AGAIN_PERCENT);
        if let Some(mut call) = old {
            call.number = number;
            if roll < MISUSE_PERCENT
                && let Body::SubmitJob(submit) = &mut call.body
            {
                call.misused = true;
                submit.submitter_uid += 1;
            }
            self.clients[who].open = Some((call, self.now, self.now));
            return self.try_again(who);
        }
        let body = match self.dice.roll(100) {
            roll if roll < CANCELS_PERCENT + RETRIES_PERCENT && !client.own.is_empty() => {
                let jobs = vec![client.own[self.dice.place(client.own.len())]];
                if roll < CANCELS_PERCENT {
                    Body::CancelJobs(CancelJobs::of(jobs))
                } else {
                    Body::RetryJobs(RetryJobs { jobs })
                }
            }
            _ => self.submits(who, number),
        };
        self.call(who, number, body);
    }

    fn submits(&mut self, who: usize, number: u64) -> Body {
        let (nodes, gpus) = (self.dice.between(1, 2), self.dice.roll(3));
        let ranks = if gpus == 0 {
            self.dice.between(1, 2)
        } else {
            gpus
        };
        let retry = match self.dice.roll(3) {
            0 => r#","retry":{"max":3}"#,
            1 => r#","retry":{"max":1,"on":["node_lost","launch_failed"]}"#,
            _ => "",
        };
        let policy = if self.dice.chance(35) {
            "fence"
        } else {
            "replace"
        };
        let spec = if self.dice.chance(ARRAYS_PERCENT) {
            let (last, gpus) = (self.dice.between(1, 12), gpus.min(1));
            let limit = ["", "%2"][self.dice.place(2)];
            format!(
                r#"{{"command":["train","{who}-{number}"],"gpus":{gpus},"on_disconnect":"{policy}","array":"0-{last}{limit}"}}"#
            )
        } else {
            let upload = match number.is_multiple_of(3) {
                true => r#","checkpoint":{"upload":"s3://runs/sim"}"#,
                false => "",
            };
            format!(
                r#"{{"command":["train","{who}-{number}"],"nodes":{nodes},"gpus":{gpus},"ranks":{ranks},"on_disconnect":"{policy}"{upload}{retry}}}"#
            )
        };
        Body::SubmitJob(SubmitJob {
            spec: spec.into_bytes(),
            code_manifest: String::new(),
            code_bytes: 0,
            traceparent: String::new(),
            submitter_uid: 0,
        })
    }

    /// A person looks at what waits for one: most jobs are let go, some are ended.
    fn look_at_held(&mut self, who: usize) {
        let own = self.clients[who].own.iter().copied();
        let mut states = own.filter_map(|job| Some((job, self.head.job(job)?.state)));
        let held = states.find(|(_, state)| *state == JobState::Held);
        let Some((job, _)) = held else {
            return;
        };
        let jobs = vec![job];
        let body = if self.dice.chance(GIVEN_UP_PERCENT) {
            Body::CancelJobs(CancelJobs::of(jobs))
        } else {
            Body::RetryJobs(RetryJobs { jobs })
        };
        let client = &mut self.clients[who];
        client.calls += 1;
        let number = client.calls;
        self.call(who, number, body);
    }

    fn call(&mut self, who: usize, number: u64, body: Body) {
        let mut key = [who as u8 + 1; 16];
        key[8..].copy_from_slice(&number.to_le_bytes());
        let call = Call {
            client: who,
            number,
            key,
            body,
            misused: false,
        };
        self.clients[who].open = Some((Box::new(call), self.now, self.now));
        self.try_again(who);
    }

    fn try_again(&mut self, who: usize) {
        let now = self.now;
        let Some((call, _, tried)) = &mut self.clients[who].open else {
            return;
        };
        *tried = now;
        let (call, to) = (call.clone(), self.dice.place(COORDINATORS));
        if let Some(delay) = self.datagram() {
            let forwarded = false;
            self.after(
                delay,
                Event::Request {
                    to,
                    call,
                    forwarded,
                },
            );
        }
    }

    /// A coordinator is asked: it leads, or forwards once to who does.
    pub(super) fn on_request(&mut self, to: usize, call: Box<Call>, forwarded: bool) {
        let Some(leader) = self.leader_known_to(to) else {
            return self.answer(call.client, call.number, None);
        };
        if leader != to {
            let delay = self
                .datagram()
                .filter(|_| !forwarded && !self.is_cut(to, leader));
            if let Some(delay) = delay {
                let forwarded = true;
                self.after(
                    delay,
                    Event::Request {
                        to: leader,
                        call,
                        forwarded,
                    },
                );
            }
            return;
        }
        let key = IdempotencyKey {
            uuid: call.key,
            request_hash: *blake3::hash(format!("{:?}", call.body).as_bytes()).as_bytes(),
        };
        let waiter = Waiter::Client {
            client: call.client,
            call: call.number,
        };
        let actor = self.clients[call.client].actor();
        self.propose(to, actor, Some(key), call.body, waiter);
        self.turn(to);
    }

    /// An answer sets out.
    pub(super) fn answer(&mut self, client: usize, call: u64, answer: Answer) {
        if let Some(delay) = self.datagram() {
            self.after(
                delay,
                Event::Answer {
                    client,
                    call,
                    answer,
                },
            );
        }
    }

    /// An answer arrives. Only now something was promised.
    pub(super) fn on_answer(&mut self, who: usize, number: u64, answer: Answer) {
        let client = &mut self.clients[who];
        let Some((call, _, _)) = client
            .open
            .as_ref()
            .filter(|(call, ..)| call.number == number)
        else {
            return;
        };
        let Some((index, reply)) = answer else {
            // It is tried elsewhere at the next turn.
            return;
        };
        let key = call.key;
        let Some((call, ..)) = client.open.take() else {
            return;
        };
        if call.misused {
            if !matches!(&reply, Reply::Rejected(_)) {
                let what = format!("a key that was used before was answered with {reply:?}");
                let property = "I9";
                self.violate(Violation { property, what });
            }
            return;
        }
        match reply {
            Reply::Submitted { job } => {
                client.own.push(job);
                client.last = Some(call);
                let checked = self.checkers.acknowledged.submitted(key, job, index);
                self.check(checked);
            }
            Reply::Retried { anew, .. } => {
                for (_, job) in anew {
                    self.clients[who].own.push(job);
                    let checked = self.checkers.acknowledged.submitted(key, job, index);
                    self.check(checked);
                }
            }
            Reply::Cancelled { jobs, .. } => {
                for job in jobs {
                    self.checkers.acknowledged.cancelled(job, index);
                }
            }
            _ => {}
        }
    }
}
