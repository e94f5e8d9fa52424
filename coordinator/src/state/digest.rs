//! The digest of the state: a sum of hashes, one per row, so that it is kept row by row and does not depend on order.
//! Proves that two members hold the same rows; it does not say which row differs.
use std::fmt;

/// Σ mod 2²⁵⁶ of BLAKE3(table ‖ key length ‖ key ‖ record) over all rows. The length keeps two rows from sharing their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The digest of one row.
    pub fn of_row(table: u8, key: &[u8], record: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[table]);
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key);
        hasher.update(record);
        Self::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Adds the digest of a row that is now there.
    pub fn add(&mut self, other: Self) {
        let mut carry = false;
        for (limb, term) in self.0.iter_mut().zip(other.0) {
            let (sum, over) = limb.overflowing_add(term);
            let (sum, over_too) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || over_too;
        }
    }

    /// Takes out the digest of a row that is no longer there.
    pub fn subtract(&mut self, other: Self) {
        let mut borrow = false;
        for (limb, term) in self.0.iter_mut().zip(other.0) {
            let (rest, under) = limb.overflowing_sub(term);
            let (rest, under_too) = rest.overflowing_sub(u64::from(borrow));
            *limb = rest;
            borrow = under || under_too;
        }
    }

    /// 32 bytes, least significant first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (part, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            part.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    /// The reverse of [`Digest::to_bytes`].
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, part) in limbs.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(part);
            *limb = u64::from_le_bytes(eight);
        }
        Self(limbs)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()
            .iter()
            .rev()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_carry_and_come_back() {
        let one = Digest([1, 0, 0, 0]);
        let all = Digest([u64::MAX; 4]);
        let mut sum = all;
        sum.add(one);
        assert_eq!(sum, Digest::default(), "mod 2^256");
        sum.subtract(one);
        assert_eq!(sum, all);
        assert_eq!(Digest::from_bytes(all.to_bytes()), all);
        assert_eq!(one.to_string(), format!("{}1", "0".repeat(63)));
    }

    #[test]
    fn order_does_not_matter_but_every_byte_does() {
        let rows = [(1, "a", "x"), (1, "b", "y"), (2, "a", "x")];
        let terms = rows
            .map(|(table, key, record)| Digest::of_row(table, key.as_bytes(), record.as_bytes()));
        let mut forward = Digest::default();
        let mut backward = Digest::default();
        terms.iter().for_each(|term| forward.add(*term));
        terms.iter().rev().for_each(|term| backward.add(*term));
        assert_eq!(forward, backward);
        assert_ne!(
            Digest::of_row(1, b"ab", b"c"),
            Digest::of_row(1, b"a", b"bc")
        );
        assert_ne!(terms[0], terms[2]);
    }
}
