//! The items of a record: which entries its block holds, what was cut, which keys were put.
//!
//! raft-engine trusts whatever bears a right checksum: it reserves memory for as many items as a record says, subtracts offsets
//! and makes an enum of a byte. So what it would trust is walked here first. It does not keep what it reads.
//!
//! Items are a count, then per item its group, its kind and a body; every number is a varint. Entries: a count, the first index,
//! and where each entry ends in the block. A command: clean, or compact up to an index. A key: put with a value, or deleted.

const ENTRIES: u8 = 1;
const COMMAND: u8 = 2;
const KEY: u8 = 3;
const CLEAN: u8 = 1;
const COMPACT: u8 = 2;
const PUT: u8 = 1;
const DELETE: u8 = 2;

const WRONG: &str = "its items make no sense";

/// Walks the items of one record whose entries take `block` bytes.
pub(super) fn check(mut items: &[u8], block: usize) -> Result<(), &'static str> {
    let count = varint(&mut items)?;
    let mut end = 0;
    for _ in 0..count {
        varint(&mut items)?;
        match byte(&mut items)? {
            ENTRIES => entries(&mut items, &mut end, block as u64)?,
            COMMAND => command(&mut items)?,
            KEY => key(&mut items)?,
            _ => return Err(WRONG),
        }
    }
    if items.is_empty() { Ok(()) } else { Err(WRONG) }
}

/// Entries follow each other in the block; `end` is where those of the items before ended.
fn entries(items: &mut &[u8], end: &mut u64, block: u64) -> Result<(), &'static str> {
    let count = varint(items)?;
    if count == 0 {
        return Ok(());
    }
    // Each takes a byte here at least: a count beyond that is a lie that would cost memory.
    let first = varint(items)?;
    if count > items.len() as u64 || first.checked_add(count).is_none() {
        return Err(WRONG);
    }
    for _ in 0..count {
        let next = varint(items)?;
        if next < *end || next > block || u32::try_from(next).is_err() {
            return Err(WRONG);
        }
        *end = next;
    }
    Ok(())
}

fn command(items: &mut &[u8]) -> Result<(), &'static str> {
    match byte(items)? {
        CLEAN => Ok(()),
        COMPACT => varint(items).map(|_| ()),
        _ => Err(WRONG),
    }
}

fn key(items: &mut &[u8]) -> Result<(), &'static str> {
    let operation = byte(items)?;
    text(items)?;
    match operation {
        PUT => text(items),
        DELETE => Ok(()),
        _ => Err(WRONG),
    }
}

/// A length and so many bytes.
fn text(items: &mut &[u8]) -> Result<(), &'static str> {
    let length = usize::try_from(varint(items)?).map_err(|_| WRONG)?;
    *items = items.get(length..).ok_or(WRONG)?;
    Ok(())
}

fn byte(items: &mut &[u8]) -> Result<u8, &'static str> {
    let (&first, rest) = items.split_first().ok_or(WRONG)?;
    *items = rest;
    Ok(first)
}

fn varint(items: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for place in 0..10 {
        let next = byte(items)?;
        // Of the tenth byte only one bit fits.
        if place == 9 && next > 1 {
            return Err(WRONG);
        }
        value |= u64::from(next & 0x7f) << (7 * place);
        if next < 0x80 {
            return Ok(value);
        }
    }
    Err(WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];

    #[test]
    fn what_is_written_passes_and_lies_do_not() {
        let whole: &[u8] = &[
            4, 1, 1, 2, 7, 10, 20, 1, 2, 2, 5, 1, 3, 1, 1, b'k', 2, b'v', b'w', 1, 3, 2, 1, b'k',
        ];
        assert_eq!(check(whole, 20), Ok(()));
        assert_eq!(check(&[0], 0), Ok(()));
        let cases: [(&str, &[u8], usize); 10] = [
            ("an entry ends behind the block", whole, 19),
            ("cut", &whole[..whole.len() - 1], 20),
            ("nothing", &[], 0),
            ("more behind it", &[0, 0], 0),
            ("offsets go back", &[1, 1, 1, 2, 7, 20, 10], 20),
            ("an unknown kind", &[1, 1, 4, 0], 0),
            ("an unknown command", &[1, 1, 2, 3], 0),
            ("an operation that is no enum's", &[1, 1, 3, 0, 0], 0),
            ("a value behind the end", &[1, 1, 3, 1, 0, 9], 0),
            ("a kind of compression as a count", &[0xff, 0xff], 0),
        ];
        for (what, items, block) in cases {
            assert_eq!(check(items, block), Err(WRONG), "{what}");
        }
    }

    /// Found by the fuzz target `log`: the process ended because it could not have 2^61 items in memory.
    #[test]
    fn a_count_reserves_nothing() {
        assert_eq!(check(&MAX, 0), Err(WRONG));
        let entries = [&[1, 1, 1][..], &MAX, &[1, 1]].concat();
        assert_eq!(check(&entries, 9), Err(WRONG));
        let beyond = [&[1, 1, 1, 1][..], &MAX, &[1]].concat();
        assert_eq!(
            check(&beyond, 9),
            Err(WRONG),
            "indexes end before the last one"
        );
    }
}
