//! Where a row meets the indexes: the one way into the tables, for commands as for what is loaded from disk.
//! Checks nothing that a command must check.
use mlctl_proto::ids::JobId;

use super::codec::{CodecError, RawRow};
use super::digest::Digest;
use super::records::{
    Allocation, AllocationPhase, Attempt, BudgetAccount, Decision, DecisionKey, DeviceHold,
    HistoryBatch, Idempotency, Job, Node, RequestKey, Segment, Settings, Spec, Team, TeamUsage,
};
use super::rules::Request;
use super::table::Table;
use super::teams::kinds_of;
use super::view::teams::Flavor;
use super::view::{Holding, Indexes};
use super::{Row, State};

impl State {
    pub(super) fn put_settings(&mut self, settings: Settings) {
        self.settings.put(settings);
    }

    pub(super) fn put_team(&mut self, team: Team) {
        let old = self.teams.get(team.name.as_str()).cloned();
        self.indexes.teams.team(old.as_deref(), Some(&team));
        self.teams.put(team);
    }

    /// Takes a team out, with what its budgets and its jobs have come to.
    pub(super) fn remove_team(&mut self, name: &str) {
        if let Some(old) = self.teams.remove(&name.to_owned()) {
            self.indexes.teams.team(Some(&old), None);
        }
        let accounts = self.accounts.iter().map(|(key, _)| key.clone());
        let accounts: Vec<_> = accounts.filter(|(team, _)| *team == *name).collect();
        accounts.iter().for_each(|key| self.remove_account(key));
        let usages = self.usages.iter().map(|(key, _)| key.clone());
        let usages: Vec<_> = usages.filter(|(team, _)| *team == *name).collect();
        for key in &usages {
            self.usages.remove(key);
        }
    }

    pub(super) fn put_account(&mut self, account: BudgetAccount) {
        self.accounts.put(account);
    }

    pub(super) fn remove_account(&mut self, key: &(String, Flavor)) {
        self.accounts.remove(key);
    }

    pub(super) fn put_decision(&mut self, decision: Decision) {
        self.decisions.put(decision);
    }

    pub(super) fn remove_decision(&mut self, key: &DecisionKey) {
        self.decisions.remove(key);
    }

    pub(super) fn put_usage(&mut self, usage: TeamUsage) {
        self.usages.put(usage);
    }

    pub(super) fn put_node(&mut self, node: Node) {
        let old = self.nodes.get(node.facts.name.as_str()).cloned();
        self.indexes.node(old.as_deref(), &node);
        if let Some(old) = old {
            self.recount(&old, &node);
        }
        self.nodes.put(node);
    }

    /// Devices that are held may be of another model, or in another pool, than they were.
    fn recount(&mut self, old: &Node, new: &Node) {
        if old.facts.pool == new.facts.pool && old.facts.devices == new.facts.devices {
            return;
        }
        for key in self.indexes.open_allocations_on(&new.facts.name) {
            let (Some(attempt), Some(job)) = (self.attempts.get(&key), self.jobs.get(&key.0))
            else {
                continue;
            };
            if attempt.in_doubt {
                continue;
            }
            let who = (job.team.as_str(), job.owner_id.as_str());
            let open = |one: &&Allocation| {
                one.node == new.facts.name && one.phase != AllocationPhase::Ended
            };
            for allocation in attempt.allocations.iter().filter(open) {
                let begun_ms = attempt.started_ms;
                let holdings = &mut self.indexes.holdings;
                holdings.units(who, &kinds_of(Some(old), allocation), begun_ms, false);
                holdings.units(who, &kinds_of(Some(new), allocation), begun_ms, true);
            }
        }
    }

    pub(super) fn put_spec(&mut self, spec: Spec) -> Result<(), CodecError> {
        let hash = spec.hash();
        if self.indexes.request(&hash).is_none() {
            self.indexes.add_spec(hash, Request::spec(&spec.json)?);
        }
        self.specs.put(spec);
        Ok(())
    }

    pub(super) fn put_job(&mut self, job: Job) {
        let old = self.jobs.get(&job.id).cloned();
        self.indexes.job(old.as_deref(), Some(&job));
        self.jobs.put(job);
    }

    /// Takes a job that is over out of the tables, with its attempts and its part in its spec.
    pub(super) fn remove_job(&mut self, job: &Job) -> Result<(), CodecError> {
        let epochs: Vec<_> = self.attempts_of(job.id).map(|one| one.epoch).collect();
        for epoch in epochs {
            // Closed: it is in no index.
            self.attempts.remove(&(job.id, epoch));
        }
        self.jobs.remove(&job.id);
        self.indexes.job(Some(job), None);
        self.release_spec(&job.spec_hash)
    }

    /// One job less names a spec; the last one takes it along.
    pub(super) fn release_spec(&mut self, spec_hash: &[u8; 32]) -> Result<(), CodecError> {
        match self.specs.get(spec_hash).map(|spec| Spec::clone(spec)) {
            Some(spec) if spec.uses > 1 => self.put_spec(Spec {
                uses: spec.uses - 1,
                ..spec
            }),
            _ => {
                self.specs.remove(spec_hash);
                self.indexes.remove_spec(spec_hash);
                Ok(())
            }
        }
    }

    pub(super) fn put_batch(&mut self, batch: HistoryBatch) {
        self.indexes.tail(&batch, true);
        self.tail.put(batch);
    }

    pub(super) fn remove_tail(&mut self) {
        let batches: Vec<_> = self.tail().cloned().collect();
        for batch in batches {
            self.indexes.tail(&batch, false);
            self.tail.remove(&batch.first_seq);
        }
    }

    pub(super) fn put_segment(&mut self, segment: Segment) {
        self.segments.put(segment);
    }

    pub(super) fn put_attempt(&mut self, attempt: Attempt) {
        let old = self.attempts.get(&(attempt.job, attempt.epoch)).cloned();
        let ranks = self.cpu_ranks_per_node(&attempt);
        let tables = (&self.nodes, &self.jobs);
        index_attempt(&mut self.indexes, tables, (old.as_deref(), &attempt), ranks);
        self.attempts.put(attempt);
    }

    pub(super) fn put_hold(&mut self, hold: DeviceHold) {
        let old = self.holds.get(&hold.job).cloned();
        self.indexes.holds.hold(old.as_deref(), Some(&hold));
        self.holds.put(hold);
    }

    pub(super) fn remove_hold(&mut self, job: JobId) {
        let old = self.holds.remove(&job);
        self.indexes.holds.hold(old.as_deref(), None);
    }

    pub(super) fn put_key(&mut self, key: Idempotency) {
        let old = self.keys.put(key.clone());
        self.indexes.key(old.as_deref(), Some(&key));
    }

    pub(super) fn remove_key(&mut self, key: &RequestKey) {
        let old = self.keys.remove(key);
        self.indexes.key(old.as_deref(), None);
    }

    pub(super) fn key(&self, key: &RequestKey) -> Option<&Idempotency> {
        self.keys.get(key).map(AsRef::as_ref)
    }

    pub(super) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    /// Ranks of an attempt on each node that share processors.
    pub(super) fn cpu_ranks_per_node(&self, attempt: &Attempt) -> u32 {
        let at_once = attempt.wave.as_ref().map_or(1, |wave| wave.slots);
        let job = self.jobs.get(&attempt.job);
        let facts = job.and_then(|job| self.indexes.facts(&job.spec_hash));
        let ranks = facts
            .and_then(|facts| facts.ask.amounts)
            .map_or(0, |one| one.ranks);
        let ranks = ranks.saturating_mul(u64::from(at_once));
        u32::try_from(ranks).unwrap_or(u32::MAX)
    }

    pub(super) fn settle(&mut self, rows: &mut Vec<Row>) {
        let digest = &mut self.digest;
        self.settings.settle(digest, rows);
        self.teams.settle(digest, rows);
        self.nodes.settle(digest, rows);
        self.specs.settle(digest, rows);
        self.jobs.settle(digest, rows);
        self.attempts.settle(digest, rows);
        self.keys.settle(digest, rows);
        self.tail.settle(digest, rows);
        self.segments.settle(digest, rows);
        self.usages.settle(digest, rows);
        self.accounts.settle(digest, rows);
        self.decisions.settle(digest, rows);
        self.holds.settle(digest, rows);
    }

    /// The digest of all rows, from nothing.
    pub(super) fn recomputed_digest(&self) -> Digest {
        let mut digest = Digest::default();
        let tables = [
            self.settings.digest(),
            self.teams.digest(),
            self.nodes.digest(),
            self.specs.digest(),
            self.jobs.digest(),
            self.attempts.digest(),
            self.keys.digest(),
            self.tail.digest(),
            self.segments.digest(),
            self.usages.digest(),
            self.accounts.digest(),
            self.decisions.digest(),
            self.holds.digest(),
        ];
        tables.into_iter().for_each(|table| digest.add(table));
        digest
    }

    /// The indexes of all rows, from nothing. A spec that cannot be read is left out, so that the result differs.
    pub(super) fn rebuilt_indexes(&self) -> Indexes {
        let mut indexes = Indexes::default();
        for (hash, spec) in self.specs.iter() {
            if let Ok(spec) = Request::spec(&spec.json) {
                indexes.add_spec(*hash, spec);
            }
        }
        self.teams()
            .for_each(|team| indexes.teams.team(None, Some(team)));
        self.nodes().for_each(|node| indexes.node(None, node));
        self.jobs().for_each(|job| indexes.job(None, Some(job)));
        for attempt in self.attempts() {
            let (tables, ranks) = ((&self.nodes, &self.jobs), self.cpu_ranks_per_node(attempt));
            index_attempt(&mut indexes, tables, (None, attempt), ranks);
        }
        self.keys
            .iter()
            .for_each(|(_, key)| indexes.key(None, Some(key)));
        self.tail().for_each(|batch| indexes.tail(batch, true));
        self.holds()
            .for_each(|hold| indexes.holds.hold(None, Some(hold)));
        indexes
    }

    /// Every row as (table, key, record), table by table.
    pub fn rows(&self) -> impl Iterator<Item = RawRow> {
        fn of<R: super::codec::Record>(
            table: &super::table::Table<R>,
        ) -> impl Iterator<Item = RawRow> {
            table.encoded().map(|(key, record)| (R::TABLE, key, record))
        }
        of(&self.settings)
            .chain(of(&self.teams))
            .chain(of(&self.nodes))
            .chain(of(&self.specs))
            .chain(of(&self.jobs))
            .chain(of(&self.attempts))
            .chain(of(&self.keys))
            .chain(of(&self.tail))
            .chain(of(&self.segments))
            .chain(of(&self.usages))
            .chain(of(&self.accounts))
            .chain(of(&self.decisions))
            .chain(of(&self.holds))
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.settings.len()
            + self.teams.len()
            + self.nodes.len()
            + self.specs.len()
            + self.jobs.len()
            + self.attempts.len()
            + self.keys.len()
            + self.tail.len()
            + self.segments.len()
            + self.usages.len()
            + self.accounts.len()
            + self.decisions.len()
            + self.holds.len()
    }
}

/// Hook of the attempts, with what their nodes and jobs say of them.
fn index_attempt(
    indexes: &mut Indexes,
    (nodes, jobs): (&Table<Node>, &Table<Job>),
    (old, new): (Option<&Attempt>, &Attempt),
    cpu_ranks: u32,
) {
    let job = jobs.get(&new.job);
    let kinds = |allocation: &Allocation| {
        let node = nodes.get(allocation.node.as_str());
        kinds_of(node.map(AsRef::as_ref), allocation)
    };
    let holding = Holding {
        cpu_ranks,
        team: job.map_or("", |job| job.team.as_str()),
        user: job.map_or("", |job| job.owner_id.as_str()),
        kinds: &kinds,
    };
    indexes.attempt(old, new, &holding);
}
