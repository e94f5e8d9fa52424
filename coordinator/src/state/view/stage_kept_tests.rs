//! A kept scene is the scene, whatever happened since.
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::state::testing::script::{histories, play};

/// As a leader sees it that has not heard every node at every time.
fn view(state: &State, deaf: u64) -> ClusterView {
    let named = state.nodes().zip(0_u64..);
    let heard = named.filter(|(_, number)| number % 5 != deaf);
    let heard: BTreeSet<String> = heard.map(|(node, _)| node.facts.name.clone()).collect();
    ClusterView::new(state.clone(), heard)
}

proptest! {
    #[test]
    fn what_is_kept_says_the_same_as_what_is_made_anew(history in histories(120), every in 1_usize..9, deaf in 0_u64..9) {
        let cluster = play(&history, false);
        let (mut state, mut stage) = (State::new(), Stage::default());
        for (index, command) in (1..).zip(cluster.log()) {
            state.apply(index, command);
            let now_ms = state.now_ms().saturating_add(i64::try_from(index % 3).unwrap_or(0) * 700);
            if (index as usize).is_multiple_of(every) {
                let view = view(&state, deaf.wrapping_add(index / 40));
                let (kept, anew) = (stage.scene(&view, now_ms), scene(&view, now_ms));
                prop_assert_eq!(kept, anew, "after entry {}", index);
            }
        }
    }
}
