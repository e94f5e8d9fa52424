//! A table of the state: a persistent map from key to record. Remembers what a command found, so that digest and written rows
//! are settled once per command, however often a row was touched. Knows no index: `view` does.
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::Row;
use super::codec::Record;
use super::digest::Digest;

/// A table. Its clone is cheap and shares every row.
#[derive(Debug, Clone)]
pub struct Table<R: Record> {
    rows: OrdMap<R::Key, Stored<R>>,
    /// The digests that rows touched since the last `settle` had before it.
    before: BTreeMap<R::Key, Option<Digest>>,
}

/// A record with the digest of its row, which `settle` fills in: it is the part of the table's digest that goes with the row.
#[derive(Debug)]
struct Stored<R> {
    record: Arc<R>,
    digest: Digest,
}

impl<R> Clone for Stored<R> {
    fn clone(&self) -> Self {
        Self {
            record: Arc::clone(&self.record),
            digest: self.digest,
        }
    }
}

/// The very same record: what was put anew is another one.
impl<R> PartialEq for Stored<R> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.record, &other.record)
    }
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
        self.rows.get(key).map(|row| &row.record)
    }

    /// All rows in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&R::Key, &Arc<R>)> {
        self.rows.iter().map(|(key, row)| (key, &row.record))
    }

    /// Rows whose keys lie in `range`, in order.
    pub fn range(
        &self,
        range: impl std::ops::RangeBounds<R::Key>,
    ) -> impl Iterator<Item = (&R::Key, &Arc<R>)> {
        let rows = self.rows.range::<_, R::Key>(range);
        rows.map(|(key, row)| (key, &row.record))
    }

    /// The row with the highest key.
    pub fn last(&self) -> Option<&Arc<R>> {
        self.rows.get_max().map(|(_, row)| &row.record)
    }

    /// Rows that were put, put anew or removed since `older`, as they were and as they are. What both share is not looked at.
    pub fn changed_since<'a>(
        &'a self,
        older: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Arc<R>>, Option<&'a Arc<R>>)> {
        older.rows.diff(&self.rows).map(|item| match item {
            DiffItem::Add(_, new) => (None, Some(&new.record)),
            DiffItem::Remove(_, old) => (Some(&old.record), None),
            DiffItem::Update { old, new } => (Some(&old.1.record), Some(&new.1.record)),
        })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Stores `record` under its key; gives what was there.
    pub fn put(&mut self, record: R) -> Option<Arc<R>> {
        let key = record.key();
        let row = Stored {
            record: Arc::new(record),
            digest: Digest::default(),
        };
        let old = self.rows.insert(key.clone(), row);
        self.touched(key, old.as_ref());
        old.map(|row| row.record)
    }

    /// Takes the row of `key` out; gives what was there.
    pub fn remove(&mut self, key: &R::Key) -> Option<Arc<R>> {
        let old = self.rows.remove(key)?;
        self.touched(key.clone(), Some(&old));
        Some(old.record)
    }

    /// The first time counts: a row that is touched again has no digest yet.
    fn touched(&mut self, key: R::Key, old: Option<&Stored<R>>) {
        let digest = old.map(|row| row.digest);
        self.before.entry(key).or_insert(digest);
    }

    /// Brings `digest` up to date with what was put and removed since the last time, and adds each row that differs to `rows`.
    pub fn settle(&mut self, digest: &mut Digest, rows: &mut Vec<Row>) {
        for (key, before) in std::mem::take(&mut self.before) {
            let bytes = R::key_bytes(&key);
            let mut record = None;
            let mut now = None;
            if let Some(row) = self.rows.get_mut(&key) {
                let encoded = row.record.encode();
                row.digest = Digest::of_row(R::TABLE, &bytes, &encoded);
                (record, now) = (Some(encoded), Some(row.digest));
            }
            if before == now {
                continue;
            }
            if let Some(before) = before {
                digest.subtract(before);
            }
            if let Some(now) = now {
                digest.add(now);
            }
            rows.push(Row {
                table: R::TABLE,
                key: bytes,
                record,
            });
        }
    }

    /// The digest of all rows, from nothing.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (key, record) in self.iter() {
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
        self.iter()
            .map(|(key, record)| (R::key_bytes(key), record.encode()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Team;
    use super::*;

    #[test]
    fn a_row_is_settled_once_and_only_if_it_differs() {
        let team = |name: &str| Team::new(name);
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
