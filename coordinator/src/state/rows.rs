//! Where a row meets the indexes: the one way into the tables, for commands as for what is loaded from disk.
//! Checks nothing that a command must check.
use super::codec::{CodecError, RawRow};
use super::digest::Digest;
use super::records::{
    Attempt, HistoryBatch, Idempotency, Job, Node, RequestKey, Segment, Settings, Spec, Team,
};
use super::rules::Request;
use super::view::Indexes;
use super::{Row, State};

impl State {
    pub(super) fn put_settings(&mut self, settings: Settings) {
        self.settings.put(settings);
    }

    pub(super) fn put_team(&mut self, team: Team) {
        self.teams.put(team);
    }

    pub(super) fn put_node(&mut self, node: Node) {
        let old = self.nodes.get(node.facts.name.as_str()).cloned();
        self.indexes.node(old.as_deref(), &node);
        self.nodes.put(node);
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
        self.indexes.attempt(old.as_deref(), &attempt, ranks);
        self.attempts.put(attempt);
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

    /// What an attempt takes of a node's CPU room: nothing if it holds devices.
    pub(super) fn cpu_ranks_per_node(&self, attempt: &Attempt) -> u32 {
        let at_once = attempt.wave.as_ref().map_or(1, |wave| wave.slots);
        let request = self
            .jobs
            .get(&attempt.job)
            .and_then(|job| self.indexes.request(&job.spec_hash));
        request
            .filter(|request| request.gpus == 0)
            .map_or(0, |request| request.ranks.saturating_mul(at_once))
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
        self.nodes().for_each(|node| indexes.node(None, node));
        self.jobs().for_each(|job| indexes.job(None, Some(job)));
        self.attempts()
            .for_each(|attempt| indexes.attempt(None, attempt, self.cpu_ranks_per_node(attempt)));
        self.keys
            .iter()
            .for_each(|(_, key)| indexes.key(None, Some(key)));
        self.tail().for_each(|batch| indexes.tail(batch, true));
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
    }
}
