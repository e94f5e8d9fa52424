//! A whole state as bytes: a header, then every row framed by its length. Digest and row count are verified on the way in;
//! files, checksums and fsync belong to whoever stores the bytes.
use std::collections::BTreeMap;

use mlctl_proto::persist::SnapshotRow;
use prost::Message;

use super::{CodecError, RECORD_VERSION, ROW_BYTES_MAX, RawRow, Record, message};
use crate::state::records::{
    Attempt, BudgetAccount, Decision, DeviceHold, HistoryBatch, Idempotency, Job, Node, Segment,
    Settings, Spec, Team, TeamUsage,
};
use crate::state::{Digest, State};

const MAGIC: &[u8; 8] = b"mlctl-sn";
/// A whole snapshot, bytes: what one member keeps in memory.
pub const SNAPSHOT_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;

/// The state as a snapshot's payload: the same state, the same bytes.
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&RECORD_VERSION.to_le_bytes());
    bytes.extend_from_slice(&state.applied_index().to_le_bytes());
    bytes.extend_from_slice(&(state.row_count() as u64).to_le_bytes());
    bytes.extend_from_slice(&state.digest().to_bytes());
    bytes.extend_from_slice(&header_sum(&bytes));
    for (table, key, record) in state.rows() {
        let row = SnapshotRow {
            table: u32::from(table),
            key,
            record,
        };
        bytes.extend_from_slice(&(row.encoded_len() as u32).to_le_bytes());
        bytes.extend_from_slice(&row.encode_to_vec());
    }
    bytes
}

/// The reverse of [`encode_snapshot`].
///
/// # Errors
/// Bytes that are damaged or that another release wrote.
pub fn decode_snapshot(bytes: &[u8]) -> Result<State, CodecError> {
    if bytes.len() > SNAPSHOT_BYTES_MAX {
        return Err(CodecError::TooLong {
            what: "a snapshot",
            bytes: bytes.len(),
            most: SNAPSHOT_BYTES_MAX,
        });
    }
    let mut rest = bytes;
    if take::<8>(&mut rest)? != *MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    let version = u32::from_le_bytes(take(&mut rest)?);
    if version != RECORD_VERSION {
        return Err(CodecError::Version {
            what: "the snapshot",
            version,
        });
    }
    let applied = u64::from_le_bytes(take(&mut rest)?);
    let count = u64::from_le_bytes(take(&mut rest)?);
    let digest = Digest::from_bytes(take(&mut rest)?);
    let header = &bytes[..bytes.len() - rest.len()];
    if take::<8>(&mut rest)? != header_sum(header) {
        return Err(damaged("its header does not match its checksum"));
    }
    let mut rows = Vec::new();
    while !rest.is_empty() {
        rows.push(read_row(&mut rest)?);
    }
    if rows.len() as u64 != count {
        return Err(damaged(&format!(
            "it has {} rows, its header says {count}",
            rows.len()
        )));
    }
    let state = state_from_rows(applied, rows.into_iter())?;
    if state.digest() != digest {
        return Err(damaged(
            "the digest of its rows is not the one in its header",
        ));
    }
    Ok(state)
}

/// A state from its rows in any order, as an index keeps them. The digest is computed from what was read; compare it.
///
/// # Errors
/// A row that this release cannot read, that lies under a wrong key or refers to a row that is not there.
pub fn state_from_rows(
    applied: u64,
    rows: impl Iterator<Item = RawRow>,
) -> Result<State, CodecError> {
    // Specs before jobs before attempts: the hooks of the indexes look back.
    let mut tables: BTreeMap<u8, Vec<RawRow>> = BTreeMap::new();
    for row in rows {
        tables.entry(row.0).or_default().push(row);
    }
    let mut state = State::new();
    for (table, key, record) in tables.into_values().flatten() {
        load_row(&mut state, table, &key, &record)?;
    }
    if state.settings().is_none() && state.row_count() > 0 {
        return Err(CodecError::Row {
            table: Settings::TABLE,
            why: "there are rows but no settings".into(),
        });
    }
    state.settle(&mut Vec::new());
    state.skip(applied);
    Ok(state)
}

fn load_row(state: &mut State, table: u8, key: &[u8], record: &[u8]) -> Result<(), CodecError> {
    match table {
        Settings::TABLE => state.put_settings(own(key, record)?),
        Team::TABLE => state.put_team(own(key, record)?),
        Node::TABLE => state.put_node(own(key, record)?),
        Spec::TABLE => state.put_spec(own(key, record)?)?,
        Job::TABLE => {
            let job: Job = own(key, record)?;
            if state.request(&job).is_none() {
                return Err(dangling(table, format!("job {} has no spec", job.id)));
            }
            state.put_job(job);
        }
        Attempt::TABLE => {
            let attempt: Attempt = own(key, record)?;
            if state.job(attempt.job).is_none() {
                return Err(dangling(
                    table,
                    format!("attempt {} has no job {}", attempt.epoch, attempt.job),
                ));
            }
            state.put_attempt(attempt);
        }
        Idempotency::TABLE => state.put_key(own(key, record)?),
        Decision::TABLE => state.put_decision(own(key, record)?),
        HistoryBatch::TABLE => state.put_batch(own(key, record)?),
        Segment::TABLE => state.put_segment(own(key, record)?),
        TeamUsage::TABLE => state.put_usage(own(key, record)?),
        BudgetAccount::TABLE => state.put_account(own(key, record)?),
        DeviceHold::TABLE => {
            let hold: DeviceHold = own(key, record)?;
            if state.job(hold.job).is_none() {
                let why = format!("devices are kept for job {}, which is not there", hold.job);
                return Err(dangling(table, why));
            }
            state.put_hold(hold);
        }
        _ => return Err(dangling(table, "this release knows no such table".into())),
    }
    Ok(())
}

/// Decodes a record and checks that it lies under its own key and would be written as it was read.
fn own<R: Record>(key: &[u8], bytes: &[u8]) -> Result<R, CodecError> {
    let record = R::decode(bytes)?;
    if R::key_bytes(&record.key()) != key {
        return Err(dangling(
            R::TABLE,
            "a record lies under a key that is not its own".into(),
        ));
    }
    if record.encode() != bytes {
        return Err(dangling(
            R::TABLE,
            "a record holds fields that this release does not know".into(),
        ));
    }
    Ok(record)
}

/// The digest covers the rows; this covers what stands before them.
fn header_sum(header: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(header).as_bytes()[..8]);
    sum
}

fn read_row(rest: &mut &[u8]) -> Result<RawRow, CodecError> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    if length > rest.len() {
        return Err(damaged("it is cut inside a row"));
    }
    let (bytes, after) = rest.split_at(length);
    *rest = after;
    let row: SnapshotRow = message("a snapshot row", bytes, ROW_BYTES_MAX)?;
    let table = u8::try_from(row.table).map_err(|_| damaged("a table's number is out of range"))?;
    Ok((table, row.key, row.record))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let (head, after) = rest
        .split_first_chunk::<N>()
        .ok_or_else(|| damaged("it is cut"))?;
    *rest = after;
    Ok(*head)
}

fn damaged(why: &str) -> CodecError {
    CodecError::Snapshot { why: why.into() }
}

fn dangling(table: u8, why: String) -> CodecError {
    CodecError::Row { table, why }
}
