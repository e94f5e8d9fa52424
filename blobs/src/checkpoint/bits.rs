//! A set of chunk numbers: what is had, what is wanted. Also as bytes, for the disk and the wire, checked when they come back. Pure.
//! Does NOT know what a chunk is.

/// A set of numbers below a fixed length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits {
    bytes: Vec<u8>,
    length: u32,
    ones: u32,
}

impl Bits {
    /// The empty set of numbers below `length`.
    pub fn new(length: u32) -> Self {
        let bytes = vec![0; length.div_ceil(8) as usize];
        Self {
            bytes,
            length,
            ones: 0,
        }
    }

    /// What [`Bits::as_bytes`] gave. `None` if the bytes are not a set below `length`.
    pub fn from_bytes(bytes: &[u8], length: u32) -> Option<Self> {
        if bytes.len() != length.div_ceil(8) as usize {
            return None;
        }
        let used = length % 8;
        if used != 0 && bytes.last().is_some_and(|last| last >> used != 0) {
            return None;
        }
        Some(Self {
            bytes: bytes.to_vec(),
            length,
            ones: bytes.iter().map(|byte| byte.count_ones()).sum(),
        })
    }

    /// A bit per number, the lowest first.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Is `number` in it?
    pub fn get(&self, number: u32) -> bool {
        number < self.length && self.bytes[number as usize / 8] & (1 << (number % 8)) != 0
    }

    /// Puts `number` in or takes it out. Numbers that are too large are left alone.
    pub fn set(&mut self, number: u32, to: bool) {
        if number >= self.length || self.get(number) == to {
            return;
        }
        self.bytes[number as usize / 8] ^= 1 << (number % 8);
        if to {
            self.ones += 1;
        } else {
            self.ones -= 1;
        }
    }

    /// How many are in it.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// How many could be.
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Is none in it?
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Those that are in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.length).filter(|number| self.get(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_comes_back_from_its_bytes_and_nothing_else_does() {
        for length in [0, 1, 7, 8, 9, 1_000] {
            let mut bits = Bits::new(length);
            for number in (0..length + 5).step_by(3) {
                bits.set(number, true);
            }
            bits.set(0, false);
            assert_eq!(bits.count() as usize, bits.iter().count());
            let back = Bits::from_bytes(bits.as_bytes(), length);
            assert_eq!(back.as_ref(), Some(&bits));
            assert_eq!(
                Bits::from_bytes(&[bits.as_bytes(), &[0]].concat(), length),
                None
            );
        }
        assert_eq!(Bits::from_bytes(&[0b0100_0000], 6), None);
        assert!(Bits::from_bytes(&[0b0010_0000], 6).is_some_and(|bits| bits.get(5)));
        assert_eq!(Bits::from_bytes(&[], 1), None);
    }
}
