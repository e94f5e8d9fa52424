//! Target: a snapshot's payload, and the rows in it as an index would hand them over, with no digest to protect them.
//! A state that was read is the same after it was written, bit for bit, and commands can be applied to it, whatever its rows say.
//! Does NOT demand the invariants of such a state: nobody could have written it.

use mlctl_coordinator::state::{State, codec, invariants};

use super::apply::round_trip;
use super::dice::Dice;
use super::wire::{Field, Value, parse, take, write};
use super::{mutate as change, story};

/// Magic, version, index, count, digest, checksum: what stands before the first row, bytes.
const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 32 + 8;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![
        codec::encode_snapshot(&story::state()),
        codec::encode_snapshot(&story::end()),
        codec::encode_snapshot(&State::new()),
    ]
}

pub(super) fn run(bytes: &[u8]) {
    if let Ok(state) = codec::decode_snapshot(bytes) {
        round_trip(&state);
        go_on(state);
    }
    let rows = rows(bytes).into_iter().filter_map(|row| raw_row(&row));
    if let Ok(state) = codec::state_from_rows(7, rows) {
        round_trip(&state);
        go_on(state);
    }
}

/// Life goes on, whatever the state says.
fn go_on(mut state: State) {
    invariants::check(&state);
    let index = state.applied_index();
    for command in story::commands() {
        state.apply(index.saturating_add(1), &command);
    }
}

/// The rows behind the header, as far as their frames hold.
fn rows(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let mut rows = Vec::new();
    while let Some(length) = take(&mut rest, 4).and_then(|four| four.try_into().ok()) {
        let Some(row) = take(&mut rest, u32::from_le_bytes(length) as usize) else {
            break;
        };
        rows.push(row.to_vec());
    }
    rows
}

/// Table, key and record of a row.
fn raw_row(row: &[u8]) -> Option<codec::RawRow> {
    let fields = parse(row)?;
    let bytes = |number| {
        let field = fields.iter().rfind(|field| field.number == number);
        field
            .and_then(Field::bytes)
            .map(<[u8]>::to_vec)
            .unwrap_or_default()
    };
    let table = fields
        .iter()
        .find_map(|field| match (field.number, &field.value) {
            (1, Value::Number(table)) => u8::try_from(*table).ok(),
            _ => None,
        })?;
    Some((table, bytes(2), bytes(3)))
}

pub(super) fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: Vec<u8>) -> Vec<u8> {
    if dice.once_in(6) || bytes.len() < HEADER_BYTES {
        return change::bytes(dice, seeds, bytes);
    }
    let known: Vec<Vec<u8>> = seeds.iter().flat_map(|seed| rows(seed)).collect();
    let changed = change::parts(dice, rows(&bytes), &known, |dice, row| {
        change_row(dice, &known, row)
    });
    let mut whole = bytes[..HEADER_BYTES].to_vec();
    for row in changed {
        whole.extend_from_slice(&(row.len() as u32).to_le_bytes());
        whole.extend_from_slice(&row);
    }
    whole
}

/// Mostly the record: a row under a wrong key is refused at once.
fn change_row(dice: &mut Dice, known: &[Vec<u8>], row: Vec<u8>) -> Vec<u8> {
    let Some(mut fields) = parse(&row).filter(|_| !dice.once_in(8)) else {
        return change::protobuf(dice, known, row);
    };
    for field in fields.iter_mut().filter(|field| field.number == 3) {
        if let Value::Bytes(record) = &mut field.value {
            *record = change::protobuf(dice, &[], std::mem::take(record));
        }
    }
    write(&fields)
}
