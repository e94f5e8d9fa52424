//! Identical lines of many ranks at about the same time, shown once: `[0-3,7] text`. Pure: lines and times in, groups out.
//!
//! No rank's lines change their order: a line joins an earlier one only if its rank has said nothing in between; where the others have
//! said nothing in between, the earlier line waits for this one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mlctl_proto::api::LogLine;

/// How long a line waits for others like it, milliseconds.
pub const WINDOW_MS: u64 = 150;
/// Nodes' clocks may differ by so much for lines of about the same time, milliseconds.
const NEAR_MS: i64 = 1_000;
/// Lines that wait at most.
const GROUPS_MAX: usize = 1_024;

/// A line of one or more ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Whose, in order.
    pub ranks: BTreeSet<u32>,
    /// As the first of them wrote it.
    pub line: LogLine,
    /// When it came, on the caller's clock.
    since_ms: u64,
}

/// What makes two lines the same.
type Same = (u64, bool, bool, Vec<u8>);

/// Lines that wait.
#[derive(Debug, Default)]
pub struct Fold {
    /// In the order in which they are shown; the first has this number.
    groups: VecDeque<Group>,
    first: u64,
    /// The newest group of each text.
    newest: BTreeMap<Same, u64>,
    /// The newest group of each rank.
    of_rank: BTreeMap<u32, u64>,
}

impl Fold {
    /// Takes a line that came at `now` (any clock in milliseconds). Some may be ready then, see [`Fold::ready`].
    pub fn push(&mut self, now: u64, line: &LogLine) {
        let end = self.first + self.groups.len() as u64;
        // A remark is nobody's line, and stands where it stands.
        let known = self.newest.get(&same(line)).copied();
        let known = known.filter(|at| line.note.is_empty() && self.is_near(*at, line));
        let said = self.of_rank.get(&line.rank).copied();
        let at = match known {
            Some(at) if said.is_none_or(|said| said < at) => at,
            Some(at) if said > Some(at) && self.may_wait(at) => {
                self.put_off(at);
                end
            }
            _ => {
                self.groups.push_back(Group {
                    ranks: BTreeSet::new(),
                    line: line.clone(),
                    since_ms: now,
                });
                if line.note.is_empty() {
                    self.newest.insert(same(line), end);
                }
                end
            }
        };
        if let Some(group) = self.groups.get_mut((at - self.first) as usize) {
            group.ranks.insert(line.rank);
        }
        self.of_rank.insert(line.rank, at);
        self.drop_empty();
    }

    fn group(&self, at: u64) -> Option<&Group> {
        let place = usize::try_from(at.checked_sub(self.first)?).ok()?;
        self.groups.get(place)
    }

    fn is_near(&self, at: u64, line: &LogLine) -> bool {
        let apart = |group: &Group| (group.line.time_ms - line.time_ms).abs();
        self.group(at).is_some_and(|group| apart(group) <= NEAR_MS)
    }

    /// Whether none of the group's ranks has said anything after it.
    fn may_wait(&self, at: u64) -> bool {
        let last = |rank: &u32| self.of_rank.get(rank) == Some(&at);
        self.group(at)
            .is_some_and(|group| group.ranks.iter().all(last))
    }

    /// Moves a group behind all others.
    fn put_off(&mut self, at: u64) {
        let end = self.first + self.groups.len() as u64;
        let Some(old) = self.groups.get_mut((at - self.first) as usize) else {
            return;
        };
        // What is left without ranks is not shown.
        let moved = Group {
            ranks: std::mem::take(&mut old.ranks),
            ..old.clone()
        };
        for rank in &moved.ranks {
            self.of_rank.insert(*rank, end);
        }
        self.newest.insert(same(&moved.line), end);
        self.groups.push_back(moved);
    }

    fn drop_empty(&mut self) {
        while self
            .groups
            .front()
            .is_some_and(|group| group.ranks.is_empty())
        {
            self.groups.pop_front();
            self.first += 1;
        }
    }

    /// When [`Fold::ready`] has something to give, if nothing else comes.
    pub fn due(&self) -> Option<u64> {
        self.groups.front().map(|group| group.since_ms + WINDOW_MS)
    }

    /// The next group that has waited long enough, or that makes room.
    pub fn ready(&mut self, now: u64) -> Option<Group> {
        let due = self.due().is_some_and(|due| due <= now);
        if due || self.groups.len() > GROUPS_MAX {
            return self.take();
        }
        None
    }

    /// The next group, whether it has waited or not.
    pub fn take(&mut self) -> Option<Group> {
        let group = self.groups.pop_front()?;
        let same = same(&group.line);
        if self.newest.get(&same) == Some(&self.first) {
            self.newest.remove(&same);
        }
        for rank in &group.ranks {
            if self.of_rank.get(rank) == Some(&self.first) {
                self.of_rank.remove(rank);
            }
        }
        self.first += 1;
        self.drop_empty();
        Some(group)
    }
}

fn same(line: &LogLine) -> Same {
    (line.attempt, line.stderr, line.partial, line.text.clone())
}

/// Ranks as people write them: `0-3,7`.
pub fn ranges(ranks: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*rank) => *last = *rank,
            _ => runs.push((*rank, *rank)),
        }
    }
    let text = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rank: u32, text: &str) -> LogLine {
        LogLine {
            attempt: 1,
            rank,
            text: text.as_bytes().to_vec(),
            ..LogLine::default()
        }
    }

    fn shown(group: &Group) -> String {
        let text = String::from_utf8_lossy(&group.line.text);
        format!("[{}] {text}", ranges(&group.ranks))
    }

    fn all(fold: &mut Fold) -> Vec<String> {
        std::iter::from_fn(|| fold.take())
            .map(|group| shown(&group))
            .collect()
    }

    #[test]
    fn ranks_are_written_as_ranges() {
        for (ranks, want) in [
            (&[][..], ""),
            (&[7], "7"),
            (&[0, 1, 2, 3, 7], "0-3,7"),
            (&[0, 2, 4, 5], "0,2,4-5"),
            (&[u32::MAX - 1, u32::MAX], "4294967294-4294967295"),
        ] {
            assert_eq!(ranges(&ranks.iter().copied().collect()), want);
        }
    }

    #[test]
    fn the_same_line_of_many_ranks_is_one() {
        let mut fold = Fold::default();
        for rank in 0..4 {
            fold.push(0, &line(rank, "init"));
        }
        fold.push(1, &line(5, "other"));
        fold.push(2, &line(7, "init"));
        for rank in 0..4 {
            fold.push(3, &line(rank, "step 1"));
        }
        assert_eq!(
            all(&mut fold),
            ["[0-3,7] init", "[5] other", "[0-3] step 1"]
        );
        assert!(fold.newest.is_empty() && fold.of_rank.is_empty());
    }

    #[test]
    fn no_rank_overtakes_itself() {
        let mut fold = Fold::default();
        for (rank, text) in [
            (0, "a"),
            (1, "b"),
            (1, "a"),
            (0, "b"),
            (0, "a"),
            (1, "a"),
            (1, "a"),
        ] {
            fold.push(0, &line(rank, text));
        }
        // Rank 1 said b before its a, so rank 0's a waits for it, and rank 0's b, which comes behind its a, is a line of its own.
        assert_eq!(
            all(&mut fold),
            ["[1] b", "[0-1] a", "[0] b", "[0-1] a", "[1] a"]
                .into_iter()
                .map(String::from)
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_line_waits_for_those_that_said_something_else_before() {
        let mut fold = Fold::default();
        for rank in 0..3 {
            fold.push(0, &line(rank, "same"));
            fold.push(0, &line(rank, &format!("of {rank}")));
            fold.push(0, &line(rank, "end"));
        }
        let want = [
            "[0-2] same",
            "[0] of 0",
            "[1] of 1",
            "[2] of 2",
            "[0-2] end",
        ];
        assert_eq!(all(&mut fold), want);
    }

    #[test]
    fn lines_wait_for_the_window_and_no_longer() {
        let mut fold = Fold::default();
        fold.push(10, &line(0, "a"));
        fold.push(10 + WINDOW_MS - 1, &line(1, "a"));
        assert_eq!(fold.due(), Some(10 + WINDOW_MS));
        assert!(fold.ready(9 + WINDOW_MS).is_none());
        assert_eq!(
            fold.ready(10 + WINDOW_MS).as_ref().map(shown),
            Some("[0-1] a".into())
        );
        fold.push(11 + WINDOW_MS, &line(2, "a"));
        assert_eq!(all(&mut fold), ["[2] a"]);
        assert_eq!(fold.due(), None);
    }

    #[test]
    fn streams_attempts_times_and_remarks_are_kept_apart() {
        let mut fold = Fold::default();
        let mut changed: Vec<LogLine> = (0..6).map(|rank| line(rank, "a")).collect();
        changed[1].stderr = true;
        changed[2].attempt = 2;
        changed[3].time_ms = NEAR_MS + 1;
        changed[4].partial = true;
        changed[5].note = "attempt 2".into();
        for line in &changed {
            fold.push(0, line);
        }
        assert_eq!(all(&mut fold).len(), changed.len());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut fold = Fold::default();
        let mut shown = 0;
        for n in 0..5_000 {
            fold.push(0, &line(n % 3, &n.to_string()));
            while fold.ready(0).is_some() {
                shown += 1;
            }
            assert!(fold.groups.len() <= GROUPS_MAX && fold.newest.len() <= GROUPS_MAX);
        }
        assert_eq!(shown + all(&mut fold).len(), 5_000);
    }

    #[test]
    fn any_interleaving_keeps_each_ranks_lines_and_their_order() {
        let mut seed = 1_u64;
        let mut draw = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let (mut fold, mut said) = (Fold::default(), BTreeMap::<u32, Vec<Vec<u8>>>::new());
            let mut heard = said.clone();
            for _ in 0..60 {
                let (rank, text) = (draw(4) as u32, draw(3).to_string());
                fold.push(0, &line(rank, &text));
                said.entry(rank).or_default().push(text.into_bytes());
            }
            while let Some(group) = fold.take() {
                for rank in group.ranks {
                    heard.entry(rank).or_default().push(group.line.text.clone());
                }
            }
            assert_eq!(said, heard);
        }
    }
}
