//! A table of the state: a persistent map from key to record. Remembers what a command found, so that digest and written rows
//! are settled once per command, however often a row was touched. Knows no index: `view` does.
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::Row;
use super::codec::Record;
use super::digest::Digest;

/// A table. Its clone is cheap and shares every row.
#[derive(Debug, Clone)]
pub struct Table<R: Record> {
    rows: OrdMap<R::Key, Arc<R>>,
    /// What rows touched since the last `settle` were before it.
    before: BTreeMap<R::Key, Option<Arc<R>>>,
}

impl<R: Record> Default for Table<R> {
    fn default() -> Self {
        Self {
            rows: OrdMap::new(),
            before: BTreeMap::new(),
        }
    }
}

impl<R: Record> Table<R> {
    /// The record under `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Arc<R>>
    where
        R::Key: Borrow<Q>,
    {
        self.rows.get(key)
    }

    /// All rows in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&R::Key, &Arc<R>)> {
        self.rows.iter()
    }

    /// Rows whose keys lie in `range`, in order.
    pub fn range(
        &self,
        range: impl std::ops::RangeBounds<R::Key>,
    ) -> impl Iterator<Item = (&R::Key, &Arc<R>)> {
        self.rows.range::<_, R::Key>(range)
    }

    /// The row with the highest key.
    pub fn last(&self) -> Option<&Arc<R>> {
        self.rows.get_max().map(|(_, record)| record)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Stores `record` under its key; gives what was there.
    pub fn put(&mut self, record: R) -> Option<Arc<R>> {
        let key = record.key();
        let old = self.rows.insert(key.clone(), Arc::new(record));
        self.before.entry(key).or_insert_with(|| old.clone());
        old
    }

    /// Takes the row of `key` out; gives what was there.
    pub fn remove(&mut self, key: &R::Key) -> Option<Arc<R>> {
        let old = self.rows.remove(key)?;
        self.before
            .entry(key.clone())
            .or_insert_with(|| Some(old.clone()));
        Some(old)
    }

    /// Brings `digest` up to date with what was put and removed since the last time, and adds each row that differs to `rows`.
    pub fn settle(&mut self, digest: &mut Digest, rows: &mut Vec<Row>) {
        for (key, before) in std::mem::take(&mut self.before) {
            let bytes = R::key_bytes(&key);
            let old = before.map(|record| record.encode());
            let new = self.rows.get(&key).map(|record| record.encode());
            if old == new {
                continue;
            }
            if let Some(old) = &old {
                digest.subtract(Digest::of_row(R::TABLE, &bytes, old));
            }
            if let Some(new) = &new {
                digest.add(Digest::of_row(R::TABLE, &bytes, new));
            }
            rows.push(Row {
                table: R::TABLE,
                key: bytes,
                record: new,
            });
        }
    }

    /// The digest of all rows, from nothing.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (key, record) in &self.rows {
            digest.add(Digest::of_row(
                R::TABLE,
                &R::key_bytes(key),
                &record.encode(),
            ));
        }
        digest
    }

    /// Every row as bytes, in the order of keys.
    pub fn encoded(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.rows
            .iter()
            .map(|(key, record)| (R::key_bytes(key), record.encode()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Team;
    use super::*;

    #[test]
    fn a_row_is_settled_once_and_only_if_it_differs() {
        let team = |name: &str| Team { name: name.into() };
        let mut table = Table::default();
        let mut digest = Digest::default();
        let mut rows = Vec::new();
        table.put(team("a"));
        table.put(team("a"));
        table.put(team("gone"));
        table.remove(&"gone".to_owned());
        table.settle(&mut digest, &mut rows);
        assert_eq!(
            rows.len(),
            1,
            "one row, written once; the one that came and went is not named"
        );
        assert_eq!(digest, table.digest());
        rows.clear();
        table.put(team("a"));
        table.settle(&mut digest, &mut rows);
        assert!(rows.is_empty(), "an equal row is not written");
        table.remove(&"a".to_owned());
        table.settle(&mut digest, &mut rows);
        assert_eq!(rows[0].record, None);
        assert_eq!(digest, Digest::default());
    }
}
