//! Each second: asks the other members how they are, has it judged, and acts: stops leading, changes nothing, or ends.
//!
//! What is wrong is said when it begins and when it ends, not in between. A member that does not answer is not judged.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::admission::Tight;
use super::handover::hand_over;
use super::judge::{self, Heard, Own, Verdict};
use super::note::Note;
use super::space::{self, Room};
use super::view::{BELIEVED, Said, clock_words};
use super::wire;
use crate::consensus::MemberId;
use crate::shared::Shared;

const EVERY: Duration = Duration::from_secs(1);
/// A member that should not lead waits this long for a successor.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Runs until the process is to end, which it asks for itself when this member's state is wrong.
pub async fn watch(shared: Arc<Shared>) {
    let mut rounds = tokio::time::interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = shared.shutdown.wait() => return,
        }
        if shared.config.dev {
            shared.clock.shift_as_told(&shared.config.data_dir);
        }
        let voters = shared.raft.status().borrow().members.voters.clone();
        listen(&shared, &voters).await;
        let verdict = verdict(&shared, &voters);
        act(&shared, verdict).await;
    }
}

/// Asks everybody at once and shows what they said.
async fn listen(shared: &Arc<Shared>, voters: &[MemberId]) {
    let mut asked = JoinSet::new();
    for member in shared.peers.ids() {
        let shared = Arc::clone(shared);
        asked.spawn(async move { (member, wire::ask(&shared, member).await) });
    }
    let mut others: BTreeMap<MemberId, Said> = (*shared.vitals.others()).clone();
    while let Some(answer) = asked.join_next().await {
        if let Ok((member, Some(said))) = answer {
            others.insert(member, said);
        }
    }
    others.retain(|_, said| said.at.elapsed() <= BELIEVED);
    let heeded = heeded(shared.vitals.room(), &others, voters);
    shared.vitals.heard(others, heeded);
}

fn heeded(
    own: Room,
    others: &BTreeMap<MemberId, Said>,
    voters: &[MemberId],
) -> Option<(Room, Tight)> {
    let voting: Vec<&Said> = of_voters(others, voters).collect();
    let rooms: Vec<Room> = voting.iter().map(|said| said.room).collect();
    let (room, whose) = space::heeded(voters.len(), own, &rooms);
    let said = voting.get(whose?)?;
    Some((room, said.tight.clone()))
}

fn of_voters<'a>(
    others: &'a BTreeMap<MemberId, Said>,
    voters: &'a [MemberId],
) -> impl Iterator<Item = &'a Said> {
    others
        .iter()
        .filter(|(id, _)| voters.contains(id))
        .map(|(_, said)| said)
}

fn verdict(shared: &Shared, voters: &[MemberId]) -> Verdict {
    let others = shared.vitals.others();
    let heard: Vec<Heard> = of_voters(&others, voters)
        .map(|said| Heard {
            marks: said.marks.clone(),
            ahead_ms: said.ahead_ms,
            uncertain_ms: said.uncertain_ms,
        })
        .collect();
    let own = Own {
        marks: wire::marks(shared),
        clock_off: matches!(shared.vitals.verdict(), Verdict::ClockOff { .. }),
    };
    judge::judge(voters.len(), &own, &heard)
}

async fn act(shared: &Arc<Shared>, verdict: Verdict) {
    let before = shared.vitals.verdict();
    shared.vitals.judged(verdict);
    let is_new = std::mem::discriminant(&before) != std::mem::discriminant(&verdict);
    if is_new {
        say(before, verdict);
        let off = matches!(verdict, Verdict::ClockOff { .. });
        shared.raft.abstain(off);
    }
    match verdict {
        Verdict::Fine | Verdict::NoMajority { .. } => {}
        Verdict::ClockOff { .. } => {
            // Each second again: it may lead because nobody else could.
            hand_over(shared, HAND_OVER).await;
        }
        Verdict::Diverged {
            index,
            own,
            majority,
        } => end(shared, Note::new(index, own, majority)).await,
    }
}

fn say(before: Verdict, now: Verdict) {
    match now {
        Verdict::Fine => tracing::info!(?before, "this coordinator is in agreement again"),
        Verdict::NoMajority { index } => {
            tracing::error!(
                index,
                "the coordinators' states differ and no majority agrees on one: nothing is changed until one does"
            );
        }
        Verdict::ClockOff { by_ms } => {
            tracing::warn!(
                by_ms,
                "this coordinator does not lead while another can: {}",
                clock_words(by_ms)
            );
        }
        // Said where it ends.
        Verdict::Diverged { .. } => {}
    }
}

/// Leaves a note for the next start and ends the process. What is already committed stays committed: only the copy of
/// the state here is wrong.
async fn end(shared: &Arc<Shared>, note: Note) {
    hand_over(shared, HAND_OVER).await;
    let raft = shared.config.raft_dir();
    tracing::error!(index = note.index, own = %note.own, majority = %note.majority, "this member's state differs from the majority's: it ends, and must join anew with --rejoin");
    if let Err(error) = note.leave(&raft) {
        // It ends all the same; the next start will find out again.
        tracing::error!(%error, "the note for the next start could not be written");
    }
    shared.vitals.ends_with(note);
    shared.shutdown.trigger();
}
