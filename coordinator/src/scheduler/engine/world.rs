//! A small cluster in virtual time for tests: jobs with true lengths that the engine never sees, and apply as simple as can be. Checks at every step what the policy
//! promises, by recounting all from scratch.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use super::ahead::is_below;
use super::entitlement::{Covers, Holder, grows, standing};
use super::fixtures::running;
use super::grid::whole_units;
use super::order::{Turn, share};
use super::{Why, propose_marked};
use crate::scheduler::place::{Capacity, Terms};
use crate::scheduler::plan::{Proposal, Taken};
use crate::scheduler::policy::rules;
use crate::state::rules::quota::Ledger;
use crate::state::view::amounts::GPU;
use crate::state::view::ask::{Gpus, Prefer, Width};
use crate::state::view::jobs::{Footing, Hold, Reservation, Running, Seat, Tasks, Waiting};
use crate::state::view::nodes::{NodeView, Open};
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, Limit, TeamView};

/// A job as the world knows it.
#[derive(Debug, Clone)]
pub struct Truth {
    pub job: Waiting,
    pub length_ms: i64,
    /// It goes on where it was; else it starts again.
    pub saved: bool,
    pub done_ms: i64,
    pub evictions: u32,
}

/// The cluster.
pub struct World {
    pub scene: Scene,
    pub now: i64,
    pub truths: BTreeMap<JobId, Truth>,
    pub epochs: u64,
    pub marks: BTreeMap<&'static str, u64>,
    /// Preemptions since the last arrival or end.
    pub streak: u32,
    pub preemptions: u64,
    pub starts: BTreeMap<JobId, i64>,
    /// Between notice and its delivery.
    pub signal_ms: i64,
    notices: BTreeMap<JobId, i64>,
    next: Option<i64>,
}

pub fn length_of(run: &Running, truth: &Truth) -> i64 {
    let left = if truth.saved { (truth.length_ms - truth.done_ms).max(1) } else { truth.length_ms };
    let limit = run.limit_ms.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    left.min(limit)
}

impl World {
    pub fn new(scene: Scene) -> Self {
        Self {
            scene,
            now: 0,
            truths: BTreeMap::new(),
            epochs: 0,
            marks: BTreeMap::new(),
            streak: 0,
            preemptions: 0,
            starts: BTreeMap::new(),
            signal_ms: 0,
            notices: BTreeMap::new(),
            next: None,
        }
    }

    pub fn submit(&mut self, mut job: Waiting, length_ms: i64) {
        job.submit_ms = self.now;
        job.eligible_ms = self.now;
        let truth = Truth { job: job.clone(), length_ms, saved: false, done_ms: 0, evictions: 0 };
        self.truths.insert(job.id, truth);
        self.scene.waiting.insert((job.submit_index, job.id), Arc::new(job));
        self.streak = 0;
    }

    /// What teams hold follows from what runs.
    pub fn recount(&mut self) {
        let mut own: BTreeMap<Arc<str>, BTreeMap<Flavor, u64>> = BTreeMap::new();
        for run in self.scene.running.values() {
            for (flavor, units) in charges(&self.scene, &run.ask.gpus, &run.seats) {
                *own.entry(run.team.clone()).or_default().entry(flavor).or_default() += units;
            }
        }
        for (name, team) in self.scene.teams.clone() {
            let mine = own.remove(&name).unwrap_or_default();
            if team.own != mine {
                self.scene.teams.insert(name, Arc::new(TeamView { own: mine, ..(*team).clone() }));
            }
        }
    }

    /// Takes or gives back what seats hold.
    fn seats(&mut self, run: &Running, give: bool) {
        for seat in &run.seats {
            let Some(node) = self.scene.nodes.get(&seat.node) else { continue };
            let mut node = NodeView::clone(node);
            let amounts = amounts_of(run, &node);
            node.free = if give { node.free.plus(amounts) } else { node.free.minus(amounts) };
            for device in &seat.devices {
                let one = &mut node.devices[usize::from(*device)];
                let units = match run.ask.gpus {
                    Gpus::Share(units) => units,
                    _ => whole_units(one),
                };
                if give {
                    one.free += units;
                    if one.free == whole_units(one) {
                        one.shared_by = "".into();
                    }
                } else {
                    assert!(one.free >= units, "a device is given twice: {} {device} to {}", seat.node, run.id);
                    one.free -= units;
                    if matches!(run.ask.gpus, Gpus::Share(_)) {
                        one.shared_by = run.user.clone();
                    }
                }
            }
            self.scene.nodes.insert(node.name.clone(), Arc::new(node));
        }
    }

    /// Plans until nothing is left to do now, and applies all.
    pub fn settle(&mut self) -> Proposal<Why> {
        for _ in 0..400 {
            self.recount();
            let (plan, marks, owners) = propose_marked(&self.scene, self.now);
            let (again, ..) = propose_marked(&self.scene, self.now);
            assert_eq!(plan, again, "the same scene, another plan");
            for mark in marks {
                *self.marks.entry(mark).or_default() += 1;
            }
            self.check_before(&plan);
            let quiet = plan.starts.is_empty() && plan.preemptions.is_empty() && plan.withdrawn.is_empty();
            self.apply(&plan, &owners);
            if quiet {
                self.next = plan.next.filter(|next| *next > self.now);
                self.check_reasons(&plan);
                return plan;
            }
        }
        panic!("plans never come to rest at {}", self.now);
    }

    fn apply(&mut self, plan: &Proposal<Why>, owners: &[JobId]) {
        // What is kept for a job, or was promised to it, or would be taken back from one ahead by it, is not overtaking.
        let promised = self.scene.holds.keys().chain(self.scene.reservations.keys()).chain(owners);
        let promised: Vec<JobId> = promised.copied().collect();
        for job in &plan.withdrawn {
            self.withdraw(*job);
        }
        for start in &plan.starts {
            let seats = start.seats.clone();
            self.start(start.job, seats, start.footing, start.surplus, start.tasks);
            self.check_quota(start.job, &start.charges);
        }
        self.check_overtaking(plan, &promised);
        for preemption in &plan.preemptions {
            self.check_preemption(preemption);
            let mut victims = Vec::new();
            for victim in &preemption.victims {
                let key = (victim.job, victim.epoch);
                let run = self.scene.running.get(&key).expect("victims run").clone();
                assert!(run.ends_by_ms.is_none(), "ended twice: {}", victim.job);
                let ending = self.scene.settings.grace_ms[run.class as usize] + self.scene.settings.kill_ms;
                let by = self.now + i64::try_from(ending).expect("small");
                let told = Running { ends_by_ms: Some(by), ..(*run).clone() };
                self.scene.running.insert(key, Arc::new(told));
                victims.push((victim.job, victim.epoch, self.signal_ms == 0));
                let truth = self.truths.get_mut(&victim.job).expect("known");
                truth.evictions += 1;
                let (id, index) = (victim.job, truth.job.submit_index);
                truth.job.evicted_ms.push(self.now);
                if victim.why == Taken::Guest {
                    truth.job.was_guest_taken = true;
                }
                if let Some(waits) = self.scene.waiting.get(&(index, id)).cloned() {
                    let evicted_ms = truth.job.evicted_ms.clone();
                    self.scene.waiting.insert((index, id), Arc::new(Waiting { evicted_ms, ..(*waits).clone() }));
                }
            }
            let until_ms = self.now + 3 * 3_600_000;
            let hold = Hold { job: preemption.job, seats: preemption.seats.clone(), until_ms, victims };
            self.scene.holds.insert(preemption.job, Arc::new(hold));
            self.notices.insert(preemption.job, self.now + self.signal_ms);
            self.preemptions += 1;
            self.streak += 1;
        }
        self.scene.reservations.clear();
        for one in &plan.reservations {
            assert!(self.scene.reservations.insert(one.job, Arc::new(one.clone())).is_none(), "two for one");
        }
    }

    fn withdraw(&mut self, job: JobId) {
        let Some(hold) = self.scene.holds.remove(&job) else { panic!("nothing to withdraw for {job}") };
        self.notices.remove(&job);
        for (victim, epoch, told) in &hold.victims {
            let key = (*victim, *epoch);
            if let Some(run) = self.scene.running.get(&key).filter(|_| !told).cloned() {
                self.scene.running.insert(key, Arc::new(Running { ends_by_ms: None, ..(*run).clone() }));
            }
        }
    }

    fn start(&mut self, id: JobId, seats: Vec<Seat>, footing: Footing, surplus: u32, tasks: Option<u32>) {
        let truth = self.truths.get(&id).expect("known").clone();
        let key = (truth.job.submit_index, id);
        let waits = self.scene.waiting.get(&key).expect("it waits").clone();
        assert!(waits.blocked.is_none(), "{id} is blocked");
        self.check_gang(&waits, &seats, tasks);
        self.epochs += 1;
        let mut run = running(&truth.job, self.now, seats, footing, surplus);
        run.epoch = Epoch::new(1, self.epochs);
        self.seats(&run, false);
        match (waits.tasks, tasks) {
            (Some(all), Some(count)) => {
                let tasks = Tasks { waiting: all.waiting - count, running: all.running + count, ..all };
                assert!(tasks.at_once.is_none_or(|most| tasks.running <= most), "more tasks at once than allowed");
                self.scene.waiting.remove(&key);
                if tasks.waiting > 0 {
                    self.scene.waiting.insert(key, Arc::new(Waiting { tasks: Some(tasks), ..(*waits).clone() }));
                }
            }
            _ => {
                self.scene.waiting.remove(&key);
            }
        }
        if let Some(hold) = self.scene.holds.remove(&id) {
            let open = hold.victims.iter().filter(|(job, epoch, _)| self.scene.running.contains_key(&(*job, *epoch)));
            assert_eq!(open.count(), 0, "{id} starts before its victims have ended");
        }
        self.starts.entry(id).or_insert(self.now);
        self.scene.running.insert((id, run.epoch), Arc::new(run));
        self.recount();
    }

    fn check_gang(&self, job: &Waiting, seats: &[Seat], tasks: Option<u32>) {
        if let Some(tasks) = tasks {
            assert_eq!(seats.len(), tasks as usize);
        } else {
            let wide = u32::try_from(seats.len()).expect("small");
            let allowed = match &job.ask.nodes {
                Width::Exactly(nodes) => wide == *nodes,
                Width::Elastic(all) => all.contains(&wide),
            };
            assert!(allowed, "{} on {wide} nodes", job.id);
            let mut names: Vec<_> = seats.iter().map(|seat| &seat.node).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), seats.len(), "distinct nodes");
        }
        let mut sorts = Vec::new();
        for seat in seats {
            let node = &self.scene.nodes[&seat.node];
            assert_eq!(node.open, Open::Now);
            let count = match job.ask.gpus {
                Gpus::Whole(count) | Gpus::Mig { count, .. } => count as usize,
                Gpus::Share(_) => 1,
                Gpus::None => 0,
            };
            assert_eq!(seat.devices.len(), count, "all of each node's part");
            sorts.extend(seat.devices.iter().map(|at| (&node.pool, &node.devices[usize::from(*at)].model)));
        }
        sorts.sort();
        sorts.dedup();
        assert!(job.ask.mix || sorts.len() <= 1, "one type and one pool");
    }

    /// The slow oracle of the inequality, at every level above a job that just started.
    fn check_quota(&self, id: JobId, charges: &[(Flavor, u64)]) {
        let team = &self.truths[&id].job.team;
        for (flavor, _) in charges {
            for level in self.scene.teams.values().filter(|level| is_below(team, &level.name)) {
                if let Some((load, most)) = self.load(&level.name, flavor) {
                    assert!(load <= most, "{} holds {load} of {most} {flavor:?} after {id}", level.name);
                }
            }
        }
    }

    /// What a team holds and claims, and what it may: recursively, by the definition; `None`: no limit.
    fn load(&self, name: &str, flavor: &Flavor) -> Option<(u64, u64)> {
        let root = name.split('/').next().expect("a name");
        let governed = self.scene.teams.values().any(|team| is_below(&team.name, root) && team.quotas.contains_key(flavor));
        if !governed {
            return None;
        }
        let (nominal, borrow) = self.nominal(name, flavor);
        let load = self.total(name, flavor);
        let root = !name.contains('/');
        match borrow {
            Limit::Unlimited if !root => None,
            Limit::Units(more) if !root => Some((load, nominal + more)),
            _ => Some((load, nominal)),
        }
    }

    fn children(&self, name: &str) -> Vec<Arc<TeamView>> {
        let below = |team: &&Arc<TeamView>| team.name.rsplit_once('/').is_some_and(|(above, _)| above == name);
        self.scene.teams.values().filter(below).cloned().collect()
    }

    fn nominal(&self, name: &str, flavor: &Flavor) -> (u64, Limit) {
        let team = &self.scene.teams[name];
        match team.quotas.get(flavor) {
            Some(quota) => (quota.nominal, quota.borrow),
            None => {
                let below: Vec<_> = self.children(name).iter().map(|child| self.named(&child.name, flavor)).collect();
                if below.iter().any(Option::is_some) {
                    (below.into_iter().flatten().sum(), Limit::Unlimited)
                } else {
                    (0, Limit::Units(0))
                }
            }
        }
    }

    fn named(&self, name: &str, flavor: &Flavor) -> Option<u64> {
        let here = self.scene.teams.values().any(|team| is_below(&team.name, name) && team.quotas.contains_key(flavor));
        here.then(|| self.nominal(name, flavor).0)
    }

    fn total(&self, name: &str, flavor: &Flavor) -> u64 {
        let own: u64 = (self.scene.running.values().filter(|run| &*run.team == name))
            .flat_map(|run| charges(&self.scene, &run.ask.gpus, &run.seats))
            .filter(|(one, _)| one == flavor)
            .map(|(_, units)| units)
            .sum();
        let claims = self.children(name).into_iter().map(|child| {
            let load = self.total(&child.name, flavor);
            let kept = match child.quotas.get(flavor) {
                Some(quota) => match quota.lend {
                    Limit::Unlimited => 0,
                    Limit::Units(lend) => quota.nominal.saturating_sub(lend),
                },
                None => 0,
            };
            load.max(kept)
        });
        own + claims.sum::<u64>()
    }

    fn check_before(&self, plan: &Proposal<Why>) {
        let mut seen = std::collections::BTreeSet::new();
        for start in &plan.starts {
            assert!(start.tasks.is_some() || seen.insert(start.job), "{} starts twice", start.job);
        }
        for job in plan.preemptions.iter().map(|one| one.job) {
            assert!(seen.insert(job), "{job} starts and preempts");
        }
        assert!(plan.next.is_none_or(|next| next >= self.now));
    }

    /// Everybody who waits has a reason, or devices are promised to it.
    fn check_reasons(&self, plan: &Proposal<Why>) {
        for job in self.scene.waiting.values() {
            let started = plan.starts.iter().any(|start| start.job == job.id);
            assert!(started || plan.reasons.contains_key(&job.id), "{} waits without a reason", job.id);
        }
    }

    pub fn holders(&self, flavor: &Flavor) -> (Vec<Holder>, Vec<(JobId, Option<Epoch>)>) {
        let ledger = Ledger::new(self.scene.teams.values().map(|team| &**team));
        let mut found = (Vec::new(), Vec::new());
        for run in self.scene.running.values().filter(|run| run.ends_by_ms.is_none()) {
            let units: u64 = charges(&self.scene, &run.ask.gpus, &run.seats)
                .into_iter()
                .filter(|(one, _)| one == flavor)
                .map(|(_, units)| units)
                .sum();
            if units > 0 {
                let submit = (run.submit_index, run.id);
                found.0.push(Holder { team: ledger.team(&run.team), class: run.class, start: run.started_ms, submit, units });
                found.1.push((run.id, Some(run.epoch)));
            }
        }
        for hold in self.scene.holds.values() {
            let job = &self.truths[&hold.job].job;
            let units: u64 = charges(&self.scene, &job.ask.gpus, &hold.seats)
                .into_iter()
                .filter(|(one, _)| one == flavor)
                .map(|(_, units)| units)
                .sum();
            if units > 0 {
                let submit = (job.submit_index, job.id);
                let (team, start) = (ledger.team(&job.team), self.now);
                found.0.push(Holder { team, class: job.class, start, submit, units });
                found.1.push((hold.job, None));
            }
        }
        found
    }

    /// The order of entitlements, and growth (docs/SCHEDULING.md, Preemption).
    fn check_preemption(&self, one: &crate::scheduler::plan::Preemption) {
        assert!(!one.victims.is_empty(), "nobody ends, and still it waits");
        let outside = one.victims.iter().all(|victim| matches!(victim.why, Taken::Overtime | Taken::Guest | Taken::Slice));
        if outside {
            return;
        }
        let job = &self.truths[&one.job].job;
        let ledger = Ledger::new(self.scene.teams.values().map(|team| &**team));
        for (flavor, units) in &one.charges {
            let column = ledger.column_of(flavor);
            let (before, names) = self.holders(flavor);
            let old = Covers::new(&ledger, column, &before);
            let goes = |id: &(JobId, Option<Epoch>)| one.victims.iter().any(|victim| (victim.job, Some(victim.epoch)) == *id);
            let mut after: Vec<Holder> =
                before.iter().zip(&names).filter(|(_, id)| !goes(id)).map(|(holder, _)| *holder).collect();
            after.push(Holder {
                team: ledger.team(&job.team),
                class: job.class,
                start: self.now,
                submit: (job.submit_index, job.id),
                units: *units,
            });
            let new = Covers::new(&ledger, column, &after);
            let mine = new.of(after.len() - 1, job.class);
            for (at, id) in names.iter().enumerate().filter(|(_, id)| goes(id)) {
                let theirs = old.of(at, before[at].class);
                assert!(theirs < mine, "{id:?} {theirs:?} goes for {} {mine:?}", one.job);
            }
            let (old, new) = (standing(&old, &before), standing(&new, &after));
            assert!(grows(&old, &new), "no growth: {old:?} {new:?}");
        }
    }

    /// I14: nobody starts before a job ahead of it that could have started there.
    fn check_overtaking(&self, plan: &Proposal<Why>, promised: &[JobId]) {
        let settings = &self.scene.settings;
        let policy = rules(settings.policy);
        let shares = share::Shares::new(&self.scene);
        let all: Vec<&Waiting> =
            self.scene.waiting.values().map(|job| &**job).chain(plan.starts.iter().map(|start| &self.truths[&start.job].job)).collect();
        let paths: Vec<Vec<u16>> = all.iter().map(|job| shares.path(&self.scene, &job.team, &job.user)).collect();
        let ranks = share::ranks(&paths);
        let turn = |id: JobId| {
            let at = all.iter().position(|job| job.id == id).expect("known");
            let mut turn = Turn::of(policy, settings, all[at], 0, self.now);
            turn.set_share(ranks[at]);
            turn
        };
        let ledger = Ledger::new(self.scene.teams.values().map(|team| &**team));
        let mut after = ledger.clone();
        for run in self.scene.running.values().filter(|run| run.ends_by_ms.is_some()) {
            for (flavor, units) in charges(&self.scene, &run.ask.gpus, &run.seats) {
                after.remove(&run.team, &flavor, units);
            }
        }
        let kept = self.scene.holds.values().map(|hold| (hold.job, &hold.seats));
        for (job, seats) in kept.chain(plan.preemptions.iter().map(|one| (one.job, &one.seats))) {
            let job = &self.truths[&job].job;
            for (flavor, units) in charges(&self.scene, &job.ask.gpus, seats) {
                after.add(&job.team, &flavor, units);
            }
        }
        let capacity = {
            let mut capacity = Capacity::new(&self.scene);
            for hold in self.scene.holds.values() {
                capacity.hold_seats(&self.truths[&hold.job].job.ask, &hold.seats);
            }
            for one in &plan.preemptions {
                capacity.hold_seats(&self.truths[&one.job].job.ask, &one.seats);
            }
            capacity
        };
        for start in plan.starts.iter().filter(|start| start.tasks.is_none() && !promised.contains(&start.job)) {
            let mine = &self.truths[&start.job].job;
            let my_turn = turn(start.job);
            let (mut without, mut after) = (ledger.clone(), after.clone());
            for (flavor, units) in &start.charges {
                without.remove(&mine.team, flavor, *units);
                after.remove(&mine.team, flavor, *units);
            }
            let inside = start.charges.iter().all(|(flavor, units)| without.inside_nominal(&mine.team, flavor, *units));
            let mut free = capacity.clone();
            free.release_seats(&mine.ask, &start.seats);
            for job in self.scene.waiting.values() {
                let planned = plan.preemptions.iter().any(|one| one.job == job.id) || self.scene.holds.contains_key(&job.id);
                let ahead = turn(job.id) < my_turn;
                let team = self.scene.teams.get(&job.team);
                let mut runs: Vec<JobId> =
                    self.scene.running.values().filter(|run| run.team == job.team).map(|run| run.id).collect();
                runs.extend(self.scene.holds.keys().filter(|id| self.truths[id].job.team == job.team));
                runs.sort();
                runs.dedup();
                let most = team.and_then(|team| team.max_running).map_or(usize::MAX, |most| most as usize);
                let planned = planned || runs.len() + plan.preemptions.len() >= most;
                if !ahead || planned || job.blocked.is_some() || job.tasks.is_some() || job.ask.mix {
                    continue;
                }
                let avoid: Vec<Arc<str>> = (plan.reservations.iter().filter(|one| one.job != job.id))
                    .flat_map(|one: &Reservation| one.nodes.clone())
                    .collect();
                let protected = super::estimate::protected(settings, job.class, job.limit_ms);
                let terms = Terms {
                    team: &job.team,
                    user: &job.user,
                    preemptible: job.preemptible,
                    rank_0: &[],
                    avoid: &avoid,
                    span: (self.now, super::estimate::after(self.now, protected)),
                };
                let Some(choice) = free.find(&job.ask, job.ask.nodes.least(), &terms) else { continue };
                let of = &choice.charges;
                let legal = [&without, &after].iter().all(|ledger| of.iter().all(|(flavor, units)| ledger.legal(&job.team, flavor, *units).is_ok()));
                let theirs = [&without, &after].iter().all(|ledger| of.iter().all(|(flavor, units)| ledger.inside_nominal(&job.team, flavor, *units)));
                // Within one class who stays inside nominal comes before who borrows.
                // Who would rather borrow its first type than take its second counts as a borrower.
                let choosy = job.ask.kinds.len() > 1 && job.ask.prefer == Prefer::Type;
                let borrows_behind = job.class == mine.class && inside && (!theirs || choosy) && !turn(job.id).is_aged();
                let there = choice.nodes.iter().any(|node| {
                    start.seats.iter().any(|seat| free.node(&seat.node) == Some(*node))
                });
                let taken_back = self.would_be_taken_back(job, mine, &choice.charges);
                assert!(
                    !legal || borrows_behind || !there || taken_back,
                    "{} ({:?}) overtakes {} ({:?}) at {}: {:?}",
                    start.job, my_turn, job.id, turn(job.id), self.now, plan.reasons.get(&job.id)
                );
            }
        }
    }

    /// One ahead that is less entitled than one behind does not start for nothing: its devices would be taken back at once.
    fn would_be_taken_back(&self, ahead: &Waiting, owner: &Waiting, charges: &[(Flavor, u64)]) -> bool {
        let ledger = Ledger::new(self.scene.teams.values().map(|team| &**team));
        let units = ahead.ask.units(ahead.ask.nodes.least());
        charges.iter().any(|(flavor, _)| {
            let column = ledger.column_of(flavor);
            let (holders, names) = self.holders(flavor);
            let all = Covers::new(&ledger, column, &holders);
            let mine = names.iter().position(|(id, _)| *id == owner.id).map(|at| all.of(at, owner.class));
            let rest: Vec<Holder> =
                holders.iter().zip(&names).filter(|(_, (id, _))| *id != owner.id).map(|(holder, _)| *holder).collect();
            let theirs = Covers::new(&ledger, column, &rest).of_new(&ledger, ledger.team(&ahead.team), ahead.class, units);
            mine.is_some_and(|mine| theirs < mine)
        })
    }

    /// Time goes on to the next thing that happens.
    pub fn advance(&mut self, most: i64) {
        let ends = self.scene.running.values().map(|run| {
            let truth = &self.truths[&run.id];
            let natural = run.started_ms + length_of(run, truth);
            run.ends_by_ms.map_or(natural, |by| by.min(natural.max(self.now + 1)))
        });
        let notices = self.notices.values().copied().filter(|at| *at > self.now);
        let holds = self.scene.holds.values().map(|hold| hold.until_ms);
        let next = ends.chain(notices).chain(holds).chain(self.next).filter(|at| *at > self.now).min();
        self.now = next.unwrap_or(most).min(most);
        for (job, at) in self.notices.clone() {
            if at <= self.now {
                if let Some(hold) = self.scene.holds.get(&job).cloned() {
                    let victims = hold.victims.iter().map(|(job, epoch, _)| (*job, *epoch, true)).collect();
                    self.scene.holds.insert(job, Arc::new(Hold { victims, ..(*hold).clone() }));
                }
            }
        }
        self.end_what_ends();
    }

    fn end_what_ends(&mut self) {
        let all: Vec<Arc<Running>> = self.scene.running.values().cloned().collect();
        for run in all {
            let truth = &self.truths[&run.id];
            let natural = run.started_ms + length_of(&run, truth);
            if natural <= self.now {
                self.end(&run, true);
            } else if run.ends_by_ms.is_some_and(|by| by <= self.now) {
                self.end(&run, false);
            }
        }
    }

    /// An attempt is over; one that was ended for others waits again.
    pub fn end(&mut self, run: &Running, done: bool) {
        self.seats(run, true);
        self.scene.running.remove(&(run.id, run.epoch));
        self.streak = 0;
        let ran = self.now - run.started_ms;
        let truth = self.truths.get_mut(&run.id).expect("known");
        truth.done_ms += ran;
        let key = (truth.job.submit_index, run.id);
        let count = u32::try_from(run.seats.len()).expect("small");
        if let Some(waits) = self.scene.waiting.get(&key).cloned() {
            // An array goes on waiting; its tasks that were ended wait again.
            if let Some(tasks) = waits.tasks {
                let back = if done { 0 } else { count };
                let tasks = Tasks { waiting: tasks.waiting + back, running: tasks.running - count, ..tasks };
                self.scene.waiting.insert(key, Arc::new(Waiting { tasks: Some(tasks), ..(*waits).clone() }));
            }
        } else if !done {
            let mut job = truth.job.clone();
            job.eligible_ms = self.now;
            if let Some(tasks) = job.tasks {
                let runs = self.scene.running.values().filter(|other| other.id == run.id);
                let running = runs.map(|other| u32::try_from(other.seats.len()).expect("small")).sum();
                job.tasks = Some(Tasks { waiting: count, running, ..tasks });
            }
            self.scene.waiting.insert(key, Arc::new(job));
        }
        if done {
            let units = run.ask.gpus.units() * run.seats.len() as u64;
            let key = (run.user.clone(), units);
            let mut all = self.scene.histories.get(&key).map(|all| (**all).clone()).unwrap_or_default();
            let ran = u64::try_from(ran).unwrap_or(0);
            all.insert(all.partition_point(|one| *one <= ran), ran);
            self.scene.histories.insert(key, Arc::new(all));
        }
        self.recount();
    }

    pub fn is_idle(&self) -> bool {
        self.scene.running.is_empty() && self.scene.waiting.is_empty()
    }
}

fn amounts_of(run: &Running, node: &NodeView) -> crate::state::view::amounts::Amounts {
    use crate::state::view::amounts::Amounts;
    let all: u64 = node.devices.iter().map(|one| u64::from(whole_units(one))).sum::<u64>().max(1);
    let part = |has: u64| has * GPU / all * run.ask.gpus.units() / GPU;
    run.ask.amounts.unwrap_or(match run.ask.gpus {
        Gpus::None => Amounts::NONE,
        _ => Amounts { cpu_milli: part(node.has.cpu_milli), memory: part(node.has.memory), disk: part(node.has.disk) },
    })
}

/// What seats count as: by the words of docs/QUOTAS.md, Quotas, not by the engine's tables.
pub fn charges(scene: &Scene, gpus: &Gpus, seats: &[Seat]) -> Vec<(Flavor, u64)> {
    let mut found: BTreeMap<Flavor, u64> = BTreeMap::new();
    for seat in seats {
        let Some(node) = scene.nodes.get(&seat.node) else { continue };
        for at in &seat.devices {
            let device = &node.devices[usize::from(*at)];
            let named = scene.teams.values().flat_map(|team| team.quotas.keys());
            let fits = named.filter(|one| device.model.contains(&*one.kind) && one.pool.as_ref().is_none_or(|pool| *pool == node.pool));
            let best = fits.max_by_key(|one| (one.pool.is_some(), one.kind.len(), (*one).clone())).cloned();
            let flavor = best.unwrap_or(Flavor { kind: device.model.clone(), pool: None });
            let units = match gpus {
                Gpus::Share(units) => u64::from(*units),
                _ => u64::from(whole_units(device)),
            };
            *found.entry(flavor).or_default() += units;
        }
    }
    found.into_iter().collect()
}
