//! Changes of bytes by chance: of any bytes, of protobuf, and of lists of parts. Does NOT know what the bytes are for.

use super::dice::Dice;
use super::wire::{Field, Value, parse, write};

/// Inputs do not grow beyond this.
const LONGEST: usize = 64 * 1024;
/// Messages within messages are followed so deep.
const DEEPEST: usize = 8;

/// Changes bytes without regard for what they mean: flips, cuts, repeats, inserts, or takes a piece from another.
pub(super) fn bytes(dice: &mut Dice, others: &[Vec<u8>], mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=dice.below(3) {
        once(dice, others, &mut bytes);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn once(dice: &mut Dice, others: &[Vec<u8>], bytes: &mut Vec<u8>) {
    let at = dice.below(bytes.len());
    let length = 1 + dice.below(16.min(bytes.len().saturating_sub(at)));
    let end = (at + length).min(bytes.len());
    match dice.below(9) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.edge() as u8;
            }
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        6 => {
            let new: Vec<u8> = (0..length).map(|_| dice.byte()).collect();
            bytes.splice(at..at, new);
        }
        7 => {
            let number = dice.edge().to_le_bytes();
            let width = [2, 4, 8][dice.below(3)];
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, number[..width].iter().copied());
        }
        _ => {
            if let Some(other) = dice.pick(others) {
                let from = dice.below(other.len());
                let piece = other[from..].iter().take(1 + dice.below(512)).copied();
                bytes.splice(at..end, piece.collect::<Vec<_>>());
            }
        }
    }
}

/// Changes one field of a protobuf message, somewhere within; bytes that are no message are changed as bytes.
pub(super) fn protobuf(dice: &mut Dice, others: &[Vec<u8>], message: Vec<u8>) -> Vec<u8> {
    let changed = field(dice, others, &message, DEEPEST);
    match changed {
        Some(changed) if changed.len() <= LONGEST => changed,
        _ => bytes(dice, others, message),
    }
}

fn field(dice: &mut Dice, others: &[Vec<u8>], message: &[u8], depth: usize) -> Option<Vec<u8>> {
    let mut fields = parse(message)?;
    if fields.is_empty() || depth == 0 {
        return None;
    }
    let at = dice.below(fields.len());
    match dice.below(12) {
        0 => drop(fields.remove(at)),
        1 => fields.insert(at, fields[at].clone()),
        2 => {
            let other = dice.below(fields.len());
            fields.swap(at, other);
        }
        3 => {
            let other = others.get(dice.below(others.len())).and_then(|o| parse(o));
            fields.extend(other.and_then(|theirs| dice.pick(&theirs).cloned()));
        }
        4 => fields[at].number = 1 + dice.below(40) as u64,
        _ => value(dice, others, &mut fields[at], depth),
    }
    Some(write(&fields))
}

fn value(dice: &mut Dice, others: &[Vec<u8>], field: &mut Field, depth: usize) {
    match &mut field.value {
        Value::Number(number) => *number = dice.edge(),
        Value::Fixed(fixed) => {
            let at = dice.below(fixed.len());
            fixed[at] = dice.byte();
        }
        Value::Bytes(inner) => {
            // Text is rarely a message by accident, and a change within is as good as one of the whole.
            let deeper = (!dice.once_in(4))
                .then(|| self::field(dice, others, inner, depth - 1))
                .flatten();
            *inner = match deeper {
                Some(deeper) => deeper,
                None if dice.once_in(6) => Vec::new(),
                None => bytes(dice, others, std::mem::take(inner)),
            };
        }
    }
}

/// Changes a list of parts: one part, the order, or which there are. `inside` changes a part.
pub(super) fn parts(
    dice: &mut Dice,
    mut parts: Vec<Vec<u8>>,
    from: &[Vec<u8>],
    inside: impl Fn(&mut Dice, Vec<u8>) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    for _ in 0..=dice.below(3) {
        let at = dice.below(parts.len());
        match dice.below(8) {
            0 if !parts.is_empty() => drop(parts.remove(at)),
            1 if !parts.is_empty() => parts.insert(at, parts[at].clone()),
            2 if !parts.is_empty() => {
                let other = dice.below(parts.len());
                parts.swap(at, other);
            }
            3 => {
                if let Some(part) = dice.pick(from) {
                    parts.insert(at, part.clone());
                }
            }
            _ => {
                if let Some(part) = parts.get_mut(at) {
                    *part = inside(dice, std::mem::take(part));
                }
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_chance_makes_the_same_change() {
        let message = write(&[
            Field {
                number: 1,
                value: Value::Number(7),
            },
            Field {
                number: 2,
                value: Value::Bytes(b"\x08\x05abc".to_vec()),
            },
        ]);
        let changed = |seed| protobuf(&mut Dice::new(seed), &[], message.clone());
        assert!((0..500).all(|seed| changed(seed) == changed(seed)));
        let different: std::collections::BTreeSet<_> = (0..500).map(changed).collect();
        assert!(different.len() > 100, "{}", different.len());
        let still = different.iter().filter(|one| parse(one).is_some()).count();
        assert!(still > different.len() / 2, "most are still messages");
    }

    #[test]
    fn nothing_is_too_short_to_be_changed() {
        for seed in 0..1_000 {
            let mut dice = Dice::new(seed);
            bytes(&mut dice, &[], Vec::new());
            protobuf(&mut dice, &[vec![]], Vec::new());
            parts(&mut dice, Vec::new(), &[], |_, part| part);
        }
    }
}
