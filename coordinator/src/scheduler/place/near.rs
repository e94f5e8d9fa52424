//! Which of several places are nearest to each other, by paths in a tree: racks below blocks, processors below islands. Does NOT know what the places are.
use std::collections::BTreeMap;

use super::tables::number;

/// Chooses `count` of these, which are in order of liking, so that they span few branches: inside the tightest branch that has enough, else whole branches,
/// the largest first. `first` is chosen in any case, and the others around it. Their places in the order given; all if there are not enough.
pub(super) fn choose(paths: &[&[u32]], count: usize, first: Option<usize>) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(count.min(paths.len()));
    descend(
        paths,
        (0..paths.len()).collect(),
        count,
        0,
        first,
        &mut chosen,
    );
    chosen
}

fn descend(
    paths: &[&[u32]],
    mut places: Vec<usize>,
    count: usize,
    depth: usize,
    first: Option<usize>,
    chosen: &mut Vec<usize>,
) {
    if places.len() <= count || places.iter().all(|place| paths[*place].len() <= depth) {
        if let Some(first) = first.filter(|_| places.len() > count) {
            places.retain(|place| *place != first);
            places.insert(0, first);
        }
        chosen.extend(places.into_iter().take(count));
        return;
    }
    let mut branches: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
    for place in places {
        branches
            .entry(paths[place].get(depth).copied())
            .or_default()
            .push(place);
    }
    let mut branches: Vec<Vec<usize>> = branches.into_values().collect();
    // Those that hold what is liked best first, so that ties fall there.
    branches.sort_by_key(|branch| branch.first().copied());
    let (mut rest, mut first) = (count, first);
    while rest > 0 && !branches.is_empty() {
        let with_first =
            first.and_then(|first| branches.iter().position(|one| one.contains(&first)));
        let tightest = (branches.iter().enumerate())
            .filter(|(_, branch)| branch.len() >= rest)
            .min_by_key(|(at, branch)| (branch.len(), number(*at)));
        let largest = (branches.iter().enumerate())
            .min_by_key(|(at, branch)| (std::cmp::Reverse(branch.len()), number(*at)));
        let next = with_first
            .or(tightest.or(largest).map(|(at, _)| at))
            .unwrap_or(0);
        let branch = branches.remove(next);
        let takes = branch.len().min(rest);
        rest -= takes;
        descend(
            paths,
            branch,
            takes,
            depth + 1,
            first.filter(|_| with_first.is_some()),
            chosen,
        );
        first = first.filter(|_| with_first.is_none());
    }
}
