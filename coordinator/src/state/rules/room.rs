//! What a node has beside GPUs, what attempts hold of it, and what one more would take: one predicate for plan and apply. Does NOT look at devices, nor choose.
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use super::CPU_RANKS_PER_CPU;
use crate::state::State;
use crate::state::records::{AllocationPhase, Attempt, Device, Node, NodeFacts};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus};

/// Thousandths of a processor in one.
const MILLI: u64 = 1_000;
/// Processors that the system keeps when a node's are shared out over its GPUs; of a small machine a quarter.
const SYSTEM_CPUS: u64 = 2;
/// One part in so many of the memory likewise.
const SYSTEM_MEMORY_PART: u64 = 20;

/// All that a node has.
pub fn room(facts: &NodeFacts) -> Amounts {
    let cpus = u64::from(facts.cpus);
    Amounts {
        cpu_milli: cpus.saturating_mul(MILLI),
        memory: facts.memory_bytes,
        disk: u64::MAX,
        ranks: cpus.max(1).saturating_mul(u64::from(CPU_RANKS_PER_CPU)),
    }
}

/// What of it is shared out over the node's GPUs: jobs that say nothing take the part of theirs.
pub fn shared_out(facts: &NodeFacts) -> Amounts {
    let all = room(facts);
    let cpus = (SYSTEM_CPUS * MILLI).min(all.cpu_milli / 4);
    Amounts {
        cpu_milli: all.cpu_milli.saturating_sub(cpus),
        memory: (all.memory).saturating_sub(all.memory / SYSTEM_MEMORY_PART),
        ranks: 0,
        ..all
    }
}

/// Units of all GPUs of a node.
pub fn units(facts: &NodeFacts) -> u64 {
    facts.devices.iter().map(units_of).sum()
}

fn units_of(_: &Device) -> u64 {
    GPU
}

/// What one node gives to its part of a job: what it asks for, else its share per GPU, rounded down for one GPU and then for that many.
pub fn takes(ask: &Ask, facts: &NodeFacts) -> Amounts {
    if let Some(said) = ask.amounts {
        return said;
    }
    let (all, wanted) = (
        u128::from(units(facts).max(1)),
        u128::from(ask.gpus.units()),
    );
    let part = |has: u64| {
        let each = u128::from(has).saturating_mul(u128::from(GPU)) / all;
        let part = each.saturating_mul(wanted) / u128::from(GPU);
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    let has = shared_out(facts);
    Amounts {
        cpu_milli: part(has.cpu_milli),
        memory: part(has.memory),
        disk: part(has.disk),
        ranks: 0,
    }
}

/// An ask without what no start carries out: a gang has devices of one model, and a part of a device takes all of it.
pub fn carried_out(ask: Ask) -> Ask {
    let gpus = match ask.gpus {
        Gpus::Share(_) => Gpus::Whole(1),
        Gpus::Mig { count, .. } => Gpus::Whole(count),
        whole => whole,
    };
    Ask {
        gpus,
        mix: false,
        ..ask
    }
}

/// A job's ask as it is counted. Ranks that share processors wait more than they compute: as many as the smallest node takes are all that one node gives, however
/// many a job starts on it.
pub fn counted(ask: &Arc<Ask>, smallest: u64) -> Arc<Ask> {
    match ask.amounts {
        Some(amounts) if amounts.ranks > smallest => Arc::new(Ask {
            amounts: Some(Amounts {
                ranks: smallest,
                ..amounts
            }),
            ..Ask::clone(ask)
        }),
        _ => ask.clone(),
    }
}

/// The ask of so many tasks of an array beside each other on one node.
pub fn tasks_together(ask: &Ask, slots: u32) -> Ask {
    let many = u64::from(slots);
    Ask {
        gpus: match ask.gpus {
            Gpus::Whole(count) => Gpus::Whole(count.saturating_mul(slots)),
            Gpus::Mig { count, slices } => Gpus::Mig {
                count: count.saturating_mul(slots),
                slices,
            },
            other => other,
        },
        ranks: ask.ranks.saturating_mul(slots),
        amounts: ask.amounts.map(|one| one.times(many)),
        ..ask.clone()
    }
}

/// Who seeks room: what is kept for it is its own.
#[derive(Debug, Clone, Copy)]
pub struct Seeker<'a> {
    /// The job.
    pub job: JobId,
    /// What these attempts hold is free by the time it starts.
    pub leaving: &'a [(JobId, Epoch)],
    /// So is what those hold that are being ended anyway.
    pub later: bool,
}

impl Seeker<'_> {
    /// One that starts now: nobody leaves before.
    pub fn of(job: JobId) -> Self {
        Self {
            job,
            leaving: &[],
            later: false,
        }
    }

    /// Whether somebody who holds something is gone by then.
    pub fn leaves(&self, state: &State, (job, epoch): (JobId, Epoch)) -> bool {
        let ends = || {
            let attempt = state.attempt(job, epoch);
            attempt.is_some_and(|attempt| attempt.stopping && !attempt.in_doubt)
        };
        self.leaving.contains(&(job, epoch)) || self.later && ends()
    }
}

impl State {
    /// The most ranks that share processors which every node takes.
    pub fn smallest_for_ranks(&self) -> u64 {
        let least = self.inventory().least_cpus().unwrap_or(u32::MAX);
        u64::from(least.max(1)).saturating_mul(u64::from(CPU_RANKS_PER_CPU))
    }

    /// What each node of an attempt gives: of a wave, to all its tasks that run at once.
    pub fn ask_of(&self, attempt: &Attempt) -> Option<Arc<Ask>> {
        let ask = &self.spec_facts(self.job(attempt.job)?)?.ask;
        let ask = match &attempt.wave {
            None => ask.clone(),
            Some(wave) => Arc::new(tasks_together(ask, wave.slots)),
        };
        Some(ask)
    }

    /// What attempts hold of a node beside GPUs.
    pub fn held_on(&self, node: &Node) -> Amounts {
        self.held_by(node, |_| true)
    }

    fn held_by(&self, node: &Node, counts: impl Fn((JobId, Epoch)) -> bool) -> Amounts {
        let name = node.facts.name.as_str();
        let open = self.open_allocations_on(name).into_iter();
        let open = open.filter(|holder| counts(*holder));
        let attempts = open.filter_map(|(job, epoch)| self.attempt(job, epoch));
        let here = |attempt: &&Arc<Attempt>| {
            let mut own = attempt.allocations.iter();
            own.any(|one| one.node == name && one.phase != AllocationPhase::Ended)
        };
        let asks = attempts.filter(here).filter_map(|one| self.ask_of(one));
        asks.fold(Amounts::NONE, |sum, ask| sum.plus(takes(&ask, &node.facts)))
    }

    /// What is kept on a node beside GPUs for jobs, but for one.
    fn kept_on(&self, node: &Node, except: JobId) -> Amounts {
        let here = self.holds();
        let here = here.filter(|hold| hold.job != except && hold.is_on(&node.facts.name));
        let asks = here.filter_map(|hold| Some(&self.spec_facts(self.job(hold.job)?)?.ask));
        let smallest = self.smallest_for_ranks();
        let takes = asks.map(|ask| takes(&counted(ask, smallest), &node.facts));
        takes.fold(Amounts::NONE, Amounts::plus)
    }

    /// Ranks on a node that share processors, but for those of attempts that leave.
    fn ranks_beside(&self, node: &str, seeker: &Seeker) -> u64 {
        let all = u64::from(self.cpu_ranks_on(node));
        if seeker.leaving.is_empty() && !seeker.later {
            return all;
        }
        let here = self.open_allocations_on(node).into_iter();
        let leaving = here.filter(|holder| seeker.leaves(self, *holder));
        let leaving = leaving.filter_map(|(job, epoch)| self.attempt(job, epoch));
        let ranks = leaving.map(|attempt| u64::from(self.cpu_ranks_per_node(attempt)));
        all.saturating_sub(ranks.fold(0, u64::saturating_add))
    }

    /// Whether a node has room for one more beside GPUs; else what is short, in words.
    pub fn check_room(&self, ask: &Arc<Ask>, node: &Node, seeker: &Seeker) -> Result<(), String> {
        let wants = takes(&counted(ask, self.smallest_for_ranks()), &node.facts);
        let (name, all) = (&node.facts.name, room(&node.facts));
        let kept = self.kept_on(node, seeker.job);
        let ranks = self.ranks_beside(name, seeker).saturating_add(kept.ranks);
        if wants.ranks > all.ranks.saturating_sub(ranks) {
            return Err(format!("node {name} runs {ranks} ranks already"));
        }
        if (wants.cpu_milli, wants.memory) == (0, 0) {
            return Ok(());
        }
        let held = self.held_by(node, |holder| !seeker.leaves(self, holder));
        let free = all.minus(held).minus(kept);
        let short = |what: &str| Err(format!("node {name} has too little {what} left"));
        if wants.cpu_milli > free.cpu_milli {
            return short("processor time");
        }
        if wants.memory > free.memory {
            return short("memory");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mlctl_proto::spec::parse_toml;

    use super::*;
    use crate::state::testing::{Cluster, node};

    #[test]
    fn the_share_of_a_gpu_leaves_something_to_the_system() {
        let mut node = node("a", 8, "SIM");
        (node.facts.cpus, node.facts.memory_bytes) = (130, 1_000);
        let has = shared_out(&node.facts);
        assert_eq!((has.cpu_milli, has.memory), (128_000, 950));
        (node.facts.cpus, node.facts.memory_bytes) = (2, 1_000);
        assert_eq!(shared_out(&node.facts).cpu_milli, 1_500);
        assert_eq!(units(&node.facts), 8 * GPU);
    }

    #[test]
    fn an_empty_node_takes_any_one_job_that_shares_processors() {
        let mut cluster = Cluster::new();
        let mut small = node("a", 0, "");
        small.facts.cpus = 2;
        cluster.register(&small);
        let node = cluster.state.node("a").expect("there").clone();
        let fits = |cluster: &Cluster, ranks: u32| {
            let spec = parse_toml(&format!("command = ['a']\nranks = {ranks}")).expect("good");
            let (ask, seeker) = (Arc::new(Ask::of(&spec)), Seeker::of(JobId::new(1, 99)));
            cluster.state.check_room(&ask, &node, &seeker).is_ok()
        };
        assert!(fits(&cluster, 1_000));
        let job = cluster.submitted("ann", 1, 0);
        cluster.started(job, &["a"]);
        assert!(fits(&cluster, 15) && !fits(&cluster, 16));
    }
}
