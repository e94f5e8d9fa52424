//! Jobs that wait, with the numbers of what they ask for, whose they are, and when it is their turn; in the order in which it was their turn in the last pass, which is
//! almost that of this one. Does NOT decide the order: `order` does.
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::SPARE;
use super::ground::Ground;
use crate::scheduler::engine::estimate;
use crate::scheduler::engine::names::Names;
use crate::scheduler::engine::order::{Turn, share::People};
use crate::scheduler::engine::targets::Asks;
use crate::scheduler::engine::terms::Numbers;
use crate::scheduler::policy::{self, Rules};
use crate::state::view::jobs::{Blocked, Class, Waiting};
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;

/// One job.
#[derive(Debug)]
pub struct Entry {
    key: (u64, JobId),
    waiting: Arc<Waiting>,
    /// Something keeps it back: the rest says nothing.
    pub is_blocked: bool,
    /// How urgent.
    pub class: Class,
    /// Its least width.
    pub least: u32,
    /// Units at that.
    pub units: u64,
    /// It needs no countables, and is no array.
    pub is_plain: bool,
    /// The number of its team's name.
    pub team: u32,
    /// The number of its owner.
    pub user: u32,
    /// The number of the two together.
    pub person: u32,
    /// The number of its ask.
    pub ask: u32,
    /// The number of its conditions.
    pub terms: u32,
    /// When it is its turn, but for its share.
    pub turn: Turn,
    /// The next time at which something about it changes by time alone.
    pub next: Option<UtcMs>,
    /// As of when these are.
    since: UtcMs,
}

/// All jobs that wait.
#[derive(Debug, Default)]
pub struct Queue {
    /// In the scene's order.
    pub all: Vec<Entry>,
    /// Places of those that nothing keeps back, in the order of their turns in the last pass; new ones at the end.
    pub order: Vec<u32>,
    /// Their teams.
    pub teams: Names,
    users: Names,
    /// Users of teams.
    pub people: People,
    known: Option<Known>,
}

/// What all of it depends on.
#[derive(Debug)]
struct Known {
    settings: Arc<SchedSettings>,
    terms: Numbers,
    owners: bool,
    windows: bool,
}

impl Queue {
    /// Whether what is known is worth something for a scene.
    pub fn still_holds(&self, scene: &Scene) -> bool {
        let spare = 2 * scene.waiting.len() + SPARE;
        self.known.as_ref().is_none_or(|known| {
            let settings =
                Arc::ptr_eq(&known.settings, &scene.settings) || known.settings == scene.settings;
            let numbers = [
                known.terms.count(),
                self.people.count(),
                self.users.all().len(),
            ];
            settings && numbers.into_iter().all(|count| count <= spare)
        })
    }

    /// As the scene has them.
    pub fn renew(&mut self, scene: &Scene, ground: &Ground, asks: &mut Asks, now: UtcMs) {
        let mut known = match self.known.take() {
            Some(known) if (known.owners, known.windows) == (ground.owners, ground.windows) => {
                known
            }
            _ => {
                // Conditions have other numbers.
                self.all.clear();
                self.order.clear();
                Known {
                    settings: scene.settings.clone(),
                    terms: Numbers::new(ground.owners, ground.windows),
                    owners: ground.owners,
                    windows: ground.windows,
                }
            }
        };
        asks.forget_addresses();
        self.teams.forget_addresses();
        self.users.forget_addresses();
        self.people.renew(scene, self.teams.all());
        let rules = policy::rules(scene.settings.policy);
        let same = |(one, (key, waiting)): &(&mut Entry, (&(u64, JobId), &Arc<Waiting>))| {
            one.key == **key && Arc::ptr_eq(&one.waiting, waiting)
        };
        // Most stand where they stood.
        let stay = self.all.iter_mut().zip(&scene.waiting).take_while(same);
        let stay = stay.map(|(one, _)| one.renew(rules, &scene.settings, now));
        let stay = stay.count();
        let rest = self.all.split_off(stay);
        // Where each of the others is now; `u32::MAX`: it is gone.
        let mut moved = vec![u32::MAX; rest.len()];
        let mut new: Vec<u32> = Vec::new();
        self.all.reserve(scene.waiting.len() - stay);
        let mut old = rest.into_iter().zip(&mut moved).peekable();
        for ((key, waiting), place) in scene.waiting.iter().zip(0_u32..).skip(stay) {
            while old.next_if(|(one, _)| one.key < *key).is_some() {}
            let same = |(one, _): &(Entry, &mut u32)| {
                one.key == *key && Arc::ptr_eq(&one.waiting, waiting)
            };
            let entry = match old.next_if(same) {
                Some((mut one, moved)) => {
                    if !one.is_blocked {
                        *moved = place;
                    }
                    one.renew(rules, &scene.settings, now);
                    one
                }
                None => {
                    let one = self.made(*key, waiting, ground, asks, &mut known, (scene, now));
                    if !one.is_blocked {
                        new.push(place);
                    }
                    one
                }
            };
            self.all.push(entry);
        }
        drop(old);
        self.order.retain_mut(|place| {
            if let Some(rest) = (*place as usize).checked_sub(stay) {
                *place = moved.get(rest).copied().unwrap_or(u32::MAX);
            }
            *place != u32::MAX
        });
        self.order.append(&mut new);
        self.known = Some(known);
    }

    fn made(
        &mut self,
        key: (u64, JobId),
        waiting: &Arc<Waiting>,
        ground: &Ground,
        asks: &mut Asks,
        known: &mut Known,
        (scene, now): (&Scene, UtcMs),
    ) -> Entry {
        let (team, user) = (
            self.teams.number(&waiting.team),
            self.users.number(&waiting.user),
        );
        self.people.know(team, scene.teams.get(&waiting.team));
        let rules = policy::rules(scene.settings.policy);
        let mut one = Entry {
            key,
            is_blocked: waiting.blocked.is_some(),
            class: waiting.class,
            least: waiting.ask.nodes.least(),
            units: waiting.ask.units(waiting.ask.nodes.least()),
            is_plain: waiting.ask.licenses.is_empty() && waiting.tasks.is_none(),
            team,
            user,
            person: self.people.number((team, user), &waiting.user),
            ask: asks.number(&waiting.ask, &ground.kinds),
            terms: known.terms.of(waiting),
            turn: Turn::of(rules, &scene.settings, waiting, 0, now),
            next: None,
            since: now,
            waiting: waiting.clone(),
        };
        one.look(rules, &scene.settings, now);
        one
    }
}

impl Entry {
    /// Which job.
    pub fn id(&self) -> JobId {
        self.waiting.id
    }

    /// Brings what time alone changes up to date.
    fn renew(&mut self, rules: &dyn Rules, settings: &SchedSettings, now: UtcMs) {
        if self.since > now || self.next.is_some_and(|next| next <= now) {
            self.look(rules, settings, now);
        }
    }

    fn look(&mut self, rules: &dyn Rules, settings: &SchedSettings, now: UtcMs) {
        let job = &*self.waiting;
        let ahead = |time: UtcMs| (time > now).then_some(time);
        self.since = now;
        self.next = match job.blocked {
            Some(Blocked::StartTime(at) | Blocked::Backoff(at)) => ahead(at),
            Some(_) => None,
            None => {
                let limit = estimate::of_class(&settings.age_limit_ms, job.class);
                // It is aged one millisecond later.
                let aged = estimate::after(job.eligible_ms, limit.saturating_add(1));
                let turn = rules.next_of_waiting(settings, job, now);
                let all = [ahead(aged), ahead(job.no_preempt_until_ms), turn];
                all.into_iter().flatten().min()
            }
        };
        if job.blocked.is_none() {
            self.turn = Turn::of(rules, settings, job, 0, now);
        }
    }
}
