//! Protobuf's wire format as a list of fields, to be changed and written again. Does NOT know any message.

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) value: Value,
}

/// Its value, by wire type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    /// 4 or 8 bytes.
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
}

impl Field {
    /// The bytes of a field that has some.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match &self.value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The fields of a message; `None` if these bytes are none.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Fixed(take(&mut bytes, 8)?.to_vec()),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?.to_vec())
            }
            5 => Value::Fixed(take(&mut bytes, 4)?.to_vec()),
            _ => return None,
        };
        let number = tag >> 3;
        fields.push(Field { number, value });
    }
    fields
        .iter()
        .all(|field| field.number > 0)
        .then_some(fields)
}

/// The reverse of [`parse`].
pub(super) fn write(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        let (kind, length) = match &field.value {
            Value::Number(_) => (0, 0),
            Value::Fixed(fixed) if fixed.len() == 8 => (1, 8),
            Value::Fixed(_) => (5, 4),
            Value::Bytes(inner) => (2, inner.len()),
        };
        put_varint(&mut bytes, field.number << 3 | kind);
        match &field.value {
            Value::Number(number) => put_varint(&mut bytes, *number),
            Value::Fixed(fixed) => bytes.extend_from_slice(fixed),
            Value::Bytes(inner) => {
                put_varint(&mut bytes, length as u64);
                bytes.extend_from_slice(inner);
            }
        }
    }
    bytes
}

/// The first `length` bytes, taken off the front.
pub(super) fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(front)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in 0..10 {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let fields = vec![
            Field {
                number: 1,
                value: Value::Number(u64::MAX),
            },
            Field {
                number: 300,
                value: Value::Bytes(vec![7; 200]),
            },
            Field {
                number: 2,
                value: Value::Fixed(vec![1; 8]),
            },
            Field {
                number: 3,
                value: Value::Fixed(vec![1; 4]),
            },
        ];
        assert_eq!(parse(&write(&fields)), Some(fields));
        assert_eq!(parse(b"\x0a\x05abc"), None, "cut");
        assert_eq!(parse(b"\x0b"), None, "a group");
        assert_eq!(parse(b"\x00\x01"), None, "no number");
    }
}
