//! A set of task indices as ranges: what an array job's tasks are named by, however many there are. Knows no limit on how many that
//! may be; whoever takes one in from outside has to.
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::persist::PackedRanges;

/// Indices in order, as inclusive ranges that neither overlap nor touch: the same set, the same ranges.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ranges(Vec<(u32, u32)>);

/// Why numbers or a text are no set of indices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct RangesError {
    /// What is wrong, for people.
    pub why: String,
}

fn wrong<T>(why: impl Into<String>) -> Result<T, RangesError> {
    Err(RangesError { why: why.into() })
}

impl Ranges {
    /// No index.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// From `first` to `last`, both in it; none if `last` is below `first`.
    pub fn span(first: u32, last: u32) -> Self {
        if first <= last {
            Self(vec![(first, last)])
        } else {
            Self::new()
        }
    }

    /// One index.
    pub fn one(index: u32) -> Self {
        Self::span(index, index)
    }

    /// Whether there is no index in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indices there are.
    pub fn count(&self) -> u64 {
        let spans = self.0.iter();
        spans
            .map(|(first, last)| u64::from(last - first) + 1)
            .fold(0, u64::saturating_add)
    }

    /// Its ranges, first and last index of each.
    pub fn spans(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Every index in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The lowest index.
    pub fn first(&self) -> Option<u32> {
        self.0.first().map(|(first, _)| *first)
    }

    /// The highest index.
    pub fn last(&self) -> Option<u32> {
        self.0.last().map(|(_, last)| *last)
    }

    /// Whether `index` is in it.
    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Whether every index of `other` is in it.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(first, last)| {
            let at = self.0.partition_point(|(_, end)| end < first);
            let span = self.0.get(at);
            span.is_some_and(|(begin, end)| begin <= first && last <= end)
        })
    }

    /// Adds one index.
    pub fn insert(&mut self, index: u32) {
        let at = self.0.partition_point(|(_, last)| *last < index);
        if self.0.get(at).is_some_and(|(first, _)| *first <= index) {
            return;
        }
        let grows = at > 0 && self.0[at - 1].1.checked_add(1) == Some(index);
        let meets = self
            .0
            .get(at)
            .is_some_and(|(first, _)| index.checked_add(1) == Some(*first));
        match (grows, meets) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = index,
            (false, true) => self.0[at].0 = index,
            (false, false) => self.0.insert(at, (index, index)),
        }
    }

    /// What is in one of them or in both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out: Vec<(u32, u32)> = Vec::with_capacity(self.0.len().max(other.0.len()));
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(one), Some(two)) if one.0 <= two.0 => left.next(),
                (Some(_), None) => left.next(),
                (_, Some(_)) => right.next(),
                (None, None) => break,
            };
            let Some((first, last)) = next.copied() else {
                break;
            };
            match out.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut out = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().copied().peekable();
        for (first, last) in self.0.iter().copied() {
            let mut next = Some(first);
            while let Some(begin) = next {
                while holes.peek().is_some_and(|(_, end)| *end < begin) {
                    holes.next();
                }
                match holes.peek().copied().filter(|(from, _)| *from <= last) {
                    Some((from, to)) => {
                        if begin < from {
                            out.push((begin, from - 1));
                        }
                        next = to.checked_add(1).filter(|begin| *begin <= last);
                    }
                    None => {
                        out.push((begin, last));
                        next = None;
                    }
                }
            }
        }
        Self(out)
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// Takes the `most` lowest indices out of it.
    #[must_use]
    pub fn take_lowest(&mut self, most: u64) -> Self {
        let mut taken = Vec::new();
        let mut left = most;
        let mut whole = 0;
        for (first, last) in &mut self.0 {
            let count = u64::from(*last - *first) + 1;
            if left == 0 {
                break;
            }
            if count > left {
                // Fits: it is less than the count of a range of u32.
                let cut = *first + u32::try_from(left).unwrap_or(u32::MAX);
                taken.push((*first, cut - 1));
                *first = cut;
                break;
            }
            taken.push((*first, *last));
            left -= count;
            whole += 1;
        }
        self.0.drain(..whole);
        Self(taken)
    }

    /// As a message carries it: for each range how far it begins behind the one before, and how long it is, less one.
    pub fn pack(&self) -> PackedRanges {
        let mut steps = Vec::with_capacity(2 * self.0.len());
        let mut from = 0;
        for (first, last) in &self.0 {
            steps.extend([first - from, last - first]);
            from = *last;
        }
        PackedRanges { steps }
    }

    /// The reverse of [`Ranges::pack`].
    ///
    /// # Errors
    /// Numbers that it did not write.
    pub fn unpack(packed: &PackedRanges) -> Result<Self, RangesError> {
        if !packed.steps.len().is_multiple_of(2) {
            return wrong("a range of indices lacks its length");
        }
        let mut spans = Vec::with_capacity(packed.steps.len() / 2);
        let mut from = 0_u32;
        for pair in packed.steps.chunks_exact(2) {
            // Nearer they would be one range.
            if !spans.is_empty() && pair[0] < 2 {
                return wrong("ranges of indices touch or are out of order");
            }
            let first = from.checked_add(pair[0]);
            let last = first.and_then(|first| first.checked_add(pair[1]));
            let (Some(first), Some(last)) = (first, last) else {
                return wrong("a range of indices goes beyond all numbers");
            };
            spans.push((first, last));
            from = last;
        }
        Ok(Self(spans))
    }

    /// Reads `0-9,12,20-29`, in any order.
    ///
    /// # Errors
    /// What is no such list, or holds an index above `highest`.
    pub fn parse(text: &str, highest: u32) -> Result<Self, RangesError> {
        let number = |word: &str| -> Result<u32, RangesError> {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            match digits.then(|| word.parse::<u32>().ok()).flatten() {
                Some(index) if index <= highest => Ok(index),
                Some(_) => wrong(format!("has an index above {highest}")),
                None if digits => wrong(format!("has an index above {highest}")),
                None => wrong("is not a list of indices such as `0-9` or `1,3,7-9`"),
            }
        };
        let mut spans = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first.trim())?, number(last.trim())?),
                None => (number(part)?, number(part)?),
            };
            if last < first {
                return wrong(format!(
                    "has the range {first}-{last}, which ends before it begins"
                ));
            }
            spans.push((first, last));
        }
        spans.sort_unstable();
        let mut out: Vec<(u32, u32)> = Vec::with_capacity(spans.len());
        for (first, last) in spans {
            match out.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => out.push((first, last)),
            }
        }
        Ok(Self(out))
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::new());
        }
        let parsed = Self::parse(&text, u32::MAX);
        parsed.map_err(|error| {
            serde::de::Error::custom(format!("`{}` {error}", crate::ids::clip(&text)))
        })
    }
}

impl FromIterator<u32> for Ranges {
    fn from_iter<I: IntoIterator<Item = u32>>(indices: I) -> Self {
        let mut ranges = Self::new();
        indices.into_iter().for_each(|index| ranges.insert(index));
        ranges
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A sequence that looks random and is the same everywhere.
    struct Dice(u64);

    impl Dice {
        fn next(&mut self, below: u32) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            u32::try_from((self.0 >> 33) % u64::from(below)).expect("it is below")
        }

        fn set(&mut self) -> BTreeSet<u32> {
            let most = self.next(40);
            let mut set = BTreeSet::new();
            for _ in 0..most {
                let first = self.next(64);
                let length = self.next(5);
                // Also at the end of all numbers.
                let base = if self.next(8) == 0 { u32::MAX - 70 } else { 0 };
                set.extend((first..=first + length).map(|index| base + index));
            }
            set
        }
    }

    fn ranges(set: &BTreeSet<u32>) -> Ranges {
        set.iter().copied().collect()
    }

    fn sound(ranges: &Ranges) {
        assert!(ranges.0.iter().all(|(first, last)| first <= last));
        let apart = |pair: &[(u32, u32)]| {
            pair[0]
                .1
                .checked_add(1)
                .is_some_and(|next| next < pair[1].0)
        };
        assert!(ranges.0.windows(2).all(apart), "{ranges:?}");
    }

    #[test]
    fn it_does_what_a_set_does() {
        let mut dice = Dice(7);
        for _ in 0..2_000 {
            let (left, right) = (dice.set(), dice.set());
            let (a, b) = (ranges(&left), ranges(&right));
            let check = |ours: Ranges, naive: Vec<u32>| {
                sound(&ours);
                assert!(ours.iter().eq(naive), "{a} with {b}: {ours}");
            };
            check(a.union(&b), left.union(&right).copied().collect());
            check(a.minus(&b), left.difference(&right).copied().collect());
            check(a.and(&b), left.intersection(&right).copied().collect());
            assert_eq!(a.covers(&b), left.is_superset(&right));
            assert_eq!(a.count(), left.len() as u64);
            assert_eq!(
                (a.first(), a.last()),
                (left.first().copied(), left.last().copied())
            );
            let most = dice.next(40);
            let mut rest = a.clone();
            check(
                rest.take_lowest(u64::from(most)),
                left.iter().copied().take(most as usize).collect(),
            );
            check(rest, left.iter().copied().skip(most as usize).collect());
            let index = dice.next(70);
            assert_eq!(a.contains(index), left.contains(&index));
            assert_eq!(Ranges::unpack(&a.pack()), Ok(a.clone()));
            if !left.is_empty() {
                assert_eq!(Ranges::parse(&a.to_string(), u32::MAX), Ok(a.clone()));
            }
            let mut shuffled: Vec<u32> = left.iter().copied().collect();
            for at in (1..shuffled.len()).rev() {
                let other = dice.next(u32::try_from(at).expect("short") + 1);
                shuffled.swap(at, other as usize);
            }
            assert_eq!(shuffled.into_iter().collect::<Ranges>(), a, "in any order");
        }
    }

    #[test]
    fn what_is_no_set_of_indices_is_refused() {
        for (steps, says) in [
            (vec![1], "lacks its length"),
            (vec![0, 3, 1, 0], "touch"),
            (vec![0, 3, 0, 0], "touch"),
            (vec![u32::MAX, 1], "beyond all numbers"),
            (vec![5, 5, u32::MAX, 0], "beyond all numbers"),
        ] {
            let error = Ranges::unpack(&PackedRanges { steps }).expect_err(says);
            assert!(error.why.contains(says), "{error}");
        }
        for (text, says) in [
            ("", "is not a list"),
            ("a", "is not a list"),
            ("1,,2", "is not a list"),
            ("-1", "is not a list"),
            ("3-1", "ends before it begins"),
            ("1-100", "above 99"),
            ("99999999999999999999", "above 99"),
        ] {
            let error = Ranges::parse(text, 99).expect_err(text);
            assert!(error.why.contains(says), "{text}: {error}");
        }
        assert_eq!(
            Ranges::parse(" 7-9, 1 ,8-12", 99)
                .expect("good")
                .to_string(),
            "1,7-12"
        );
    }
}
