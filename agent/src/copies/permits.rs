//! What other nodes may do here, as the leader said lately. Nobody waits: what is not known is refused and asked for, and the other node
//! comes again in a moment.
//! Pure: time comes in. Does NOT ask and holds no copy.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use mlctl_proto::persist::CheckpointSealed;

use crate::core::{ManifestId, PartKey};

/// An answer counts for so long, milliseconds.
const COUNTS_MS: u64 = 60_000;
/// A question that nobody answered is asked again after this, milliseconds.
const AGAIN_MS: u64 = 1_000;
/// Answers that are kept; the oldest goes.
const KEPT_MAX: usize = 4_096;

/// What somebody wants to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wish {
    /// The other node.
    pub(crate) node: String,
    /// The manifest of what it wants to bring or to read.
    pub(crate) manifest: ManifestId,
    /// It wants to bring it.
    pub(crate) write: bool,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may.
    Allowed,
    /// It may not, or nobody knows yet.
    Refused,
    /// Nobody knows: refused, and the leader is to be asked under this number.
    Ask(u64),
}

/// Which part it is, and everything that is known of it.
pub(crate) type Part = (PartKey, CheckpointSealed);

#[derive(Debug)]
struct Known {
    /// Of the question that is open, or was answered last.
    id: u64,
    asked_ms: u64,
    answer: Option<(u64, bool)>,
    /// What it brings. Kept when the answer is old: a transfer takes longer than an answer counts.
    brought: Vec<Part>,
}

/// The answers.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    next: u64,
    known: BTreeMap<Wish, Known>,
}

impl Permits {
    /// May it?
    pub(crate) fn may(&mut self, now_ms: u64, wish: Wish) -> Verdict {
        let fresh = |at: u64| now_ms.saturating_sub(at) < COUNTS_MS;
        if let Some(known) = self.known.get(&wish) {
            match known.answer {
                Some((at, true)) if fresh(at) => return Verdict::Allowed,
                // A refusal may come from a leader that did not know yet what it is asked about.
                Some((at, false)) if now_ms.saturating_sub(at) < AGAIN_MS => {
                    return Verdict::Refused;
                }
                None if now_ms.saturating_sub(known.asked_ms) < AGAIN_MS => {
                    return Verdict::Refused;
                }
                _ => {}
            }
        }
        self.next += 1;
        let known = self.known.remove(&wish);
        let brought = known.map_or_else(Vec::new, |known| known.brought);
        self.make_room();
        let known = Known {
            id: self.next,
            asked_ms: now_ms,
            answer: None,
            brought,
        };
        self.known.insert(wish, known);
        Verdict::Ask(self.next)
    }

    /// The leader answered question `id`.
    pub(crate) fn answered(&mut self, now_ms: u64, id: u64, allowed: bool, mut brought: Vec<Part>) {
        let asked = self.known.iter_mut().find(|(_, known)| known.id == id);
        let Some((wish, known)) = asked else {
            return;
        };
        brought.retain(|(key, _)| key.manifest == wish.manifest);
        // Without that nobody could say later what it is.
        let allowed = allowed && (!brought.is_empty() || !wish.write);
        known.answer = Some((now_ms, allowed));
        if !brought.is_empty() {
            known.brought = brought;
        }
    }

    /// What `node` has brought with this manifest, by the last answer about it. Is it to bring the same bytes for another checkpoint, the leader
    /// is asked again: that answer was about this one.
    pub(crate) fn brings(&mut self, node: &str, manifest: &ManifestId) -> Vec<Part> {
        let wish = Wish {
            node: node.to_owned(),
            manifest: *manifest,
            write: true,
        };
        let Some(known) = self.known.get_mut(&wish) else {
            return Vec::new();
        };
        if known.answer.take().is_some() {
            known.asked_ms = 0;
        }
        known.brought.clone()
    }

    fn make_room(&mut self) {
        if self.known.len() < KEPT_MAX {
            return;
        }
        let oldest = self.known.iter().min_by_key(|(_, known)| known.id);
        if let Some(wish) = oldest.map(|(wish, _)| wish.clone()) {
            self.known.remove(&wish);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::ids::{Epoch, JobId};

    fn wish(node: &str, write: bool) -> Wish {
        Wish {
            node: node.into(),
            manifest: [1; 32],
            write,
        }
    }

    fn part(manifest: u8) -> Part {
        let key = PartKey {
            job: JobId::new(1, 1),
            epoch: Epoch::new(1, 1),
            name: "step-1".into(),
            index: 0,
            manifest: [manifest; 32],
        };
        (key, CheckpointSealed::default())
    }

    #[test]
    fn what_is_not_known_is_asked_once_and_again_when_nobody_answers() {
        let mut permits = Permits::default();
        assert_eq!(permits.may(0, wish("a", false)), Verdict::Ask(1));
        assert_eq!(permits.may(10, wish("a", false)), Verdict::Refused);
        assert_eq!(permits.may(10, wish("b", false)), Verdict::Ask(2));
        assert_eq!(permits.may(10, wish("a", true)), Verdict::Ask(3));
        permits.answered(20, 1, true, vec![]);
        assert_eq!(permits.may(30, wish("a", false)), Verdict::Allowed);
        assert_eq!(permits.may(30, wish("a", true)), Verdict::Refused);
        assert_eq!(permits.may(30, wish("b", false)), Verdict::Refused);
        let later = AGAIN_MS + 10;
        assert_eq!(permits.may(later, wish("b", false)), Verdict::Ask(4));
        permits.answered(later, 2, true, vec![]);
        let refused = permits.may(later, wish("b", false));
        assert_eq!(
            refused,
            Verdict::Refused,
            "an old number counts for nothing"
        );
        permits.answered(later, 4, false, vec![]);
        assert_eq!(permits.may(later + 1, wish("b", false)), Verdict::Refused);
        let again = permits.may(later + AGAIN_MS, wish("b", false));
        assert_eq!(again, Verdict::Ask(5), "a refusal may have come too early");
        let old = permits.may(20 + COUNTS_MS, wish("a", false));
        assert_eq!(old, Verdict::Ask(6));
    }

    #[test]
    fn who_brings_something_may_only_if_the_answer_says_what_it_is() {
        let mut permits = Permits::default();
        let (node, manifest) = ("a", [1; 32]);
        assert_eq!(permits.may(0, wish(node, true)), Verdict::Ask(1));
        permits.answered(0, 1, true, vec![]);
        assert_eq!(permits.may(0, wish(node, true)), Verdict::Refused);
        assert_eq!(permits.may(AGAIN_MS, wish(node, true)), Verdict::Ask(2));
        permits.answered(AGAIN_MS, 2, true, vec![part(9)]);
        assert_eq!(permits.brings(node, &manifest), [], "of another manifest");
        let now = 2 * AGAIN_MS;
        assert_eq!(permits.may(now, wish(node, true)), Verdict::Ask(3));
        permits.answered(now, 3, true, vec![part(1)]);
        assert_eq!(permits.may(now, wish(node, true)), Verdict::Allowed);
        let late = now + COUNTS_MS;
        assert_eq!(permits.may(late, wish(node, true)), Verdict::Ask(4));
        let known = permits.brings(node, &manifest);
        assert_eq!(known, [part(1)], "a transfer may take that long");
        assert_eq!(permits.brings("b", &manifest), []);
    }

    /// Files that are equal in each checkpoint are one manifest: what has come counted for the first of them alone.
    #[test]
    fn equal_bytes_for_another_checkpoint_are_asked_for_again() {
        let mut permits = Permits::default();
        let (node, manifest, now) = ("a", [1; 32], 5 * AGAIN_MS);
        assert_eq!(permits.may(now, wish(node, true)), Verdict::Ask(1));
        permits.answered(now, 1, true, vec![part(1)]);
        assert_eq!(permits.may(now, wish(node, true)), Verdict::Allowed);
        assert_eq!(permits.brings(node, &manifest), [part(1)]);
        assert_eq!(permits.may(now + 1, wish(node, true)), Verdict::Ask(2));
        assert_eq!(permits.may(now + 2, wish(node, true)), Verdict::Refused);
        let mut other = part(1);
        other.0.name = "step-2".into();
        permits.answered(now + 3, 2, true, vec![part(1), other.clone()]);
        assert_eq!(permits.may(now + 3, wish(node, true)), Verdict::Allowed);
        assert_eq!(permits.brings(node, &manifest), [part(1), other]);
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let mut permits = Permits::default();
        for number in 0..KEPT_MAX + 10 {
            let asked = permits.may(0, wish(&format!("n-{number}"), false));
            assert!(matches!(asked, Verdict::Ask(_)));
        }
        assert_eq!(permits.known.len(), KEPT_MAX);
        assert!(
            !permits.known.contains_key(&wish("n-0", false)),
            "the oldest"
        );
    }
}
