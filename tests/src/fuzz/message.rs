//! Target: what a peer sends, turn by turn, to a member with a log of its own. An input is a list of steps: time passes, a peer's bytes
//! arrive, somebody proposes or reads, a write is done. The member goes on, ignores, or stops with an error; it never panics.
//! Does NOT check that the member is right: peers are trusted to be coordinators, and the simulator checks them together.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;
use mlctl_coordinator::consensus::turn::{Core, CoreConfig, Input, Outputs, Recovered};

use super::dice::Dice;
use super::mutate as change;
use super::wire::take;

/// The member that is given the bytes. The others are 2 and 3.
const SELF: u64 = 1;
const VOTERS: [u64; 3] = [1, 2, 3];
/// Turns that one input may cause.
const TURNS: usize = 4_096;

/// A step: what it is, then its bytes, framed by their length.
const TICKS: u8 = 0;
const PROPOSE: u8 = 1;
/// From the peer of this number.
const FROM_2: u8 = 2;
const FROM_3: u8 = 3;
const READ: u8 = 4;
/// Writes take effect only when this is next said.
const SLOW_DISK: u8 = 5;
const FAST_DISK: u8 = 6;
const KINDS: u8 = 7;

/// What three members said while they elected one of them, wrote, and elected another, and the log that member 1 had then.
struct Past {
    seeds: Vec<Vec<u8>>,
    recovered: Recovered,
}

static PAST: LazyLock<Past> = LazyLock::new(past);

fn member(id: u64, recovered: Recovered) -> Core {
    Core::new(CoreConfig::new(id, VOTERS.to_vec(), 7), recovered).expect("a sound member starts")
}

fn past() -> Past {
    let mut members: Vec<Core> = VOTERS.map(|id| member(id, Recovered::default())).into();
    let mut seeds = Vec::new();
    let mut recovered = Recovered::default();
    let mut steps = Vec::new();
    for round in 0..400_u64 {
        let awake = match round {
            // Members 2 and 3 each get a time alone with member 1.
            200..300 => [true, true, false],
            300.. => [true, false, true],
            _ => [true; 3],
        };
        push(&mut steps, TICKS, &[1]);
        let mut mail: VecDeque<(u64, u64, Bytes)> = VecDeque::new();
        for (id, core) in VOTERS.iter().zip(&mut members) {
            let mut inputs = vec![Input::Tick];
            let (id, commands) = (*id, vec![Bytes::from(vec![round as u8; 9])]);
            if round % 10 == id {
                inputs.push(Input::Propose {
                    id: round,
                    commands,
                });
            }
            turns(
                core,
                inputs,
                (id == SELF).then_some(&mut recovered),
                |to, message| {
                    mail.push_back((id, to, message));
                },
            );
        }
        while let Some((from, to, message)) = mail.pop_front() {
            if !awake[from as usize - 1] || !awake[to as usize - 1] {
                continue;
            }
            if to == SELF {
                push(&mut steps, from as u8, &message);
            }
            let core = &mut members[to as usize - 1];
            turns(
                core,
                vec![Input::Step { from, message }],
                (to == SELF).then_some(&mut recovered),
                |next, message| {
                    mail.push_back((to, next, message));
                },
            );
        }
        if round % 50 == 49 {
            seeds.push(std::mem::take(&mut steps));
        }
    }
    Past { seeds, recovered }
}

/// Turns until there is no more to say. What is to be stored is kept in `disk`, if there is one.
fn turns(
    core: &mut Core,
    mut inputs: Vec<Input>,
    mut disk: Option<&mut Recovered>,
    mut send: impl FnMut(u64, Bytes),
) {
    loop {
        let outputs = core.turn(inputs).expect("among themselves they go on");
        inputs = done(&outputs, true);
        if let (Some(disk), Some(persist)) = (disk.as_deref_mut(), outputs.persist) {
            disk.hard_state = persist.hard_state;
            if let Some(first) = persist.entries.first().map(|entry| entry.index) {
                disk.entries.retain(|entry| entry.index < first);
                disk.entries.extend(persist.entries);
            }
        }
        for one in outputs
            .messages
            .into_iter()
            .chain(outputs.messages_after_persist)
        {
            send(one.to, one.message);
        }
        if inputs.is_empty() && !outputs.more {
            return;
        }
    }
}

/// What follows from outputs: writes are done, entries applied, snapshots there.
fn done(outputs: &Outputs, written: bool) -> Vec<Input> {
    let mut inputs = Vec::new();
    if let Some(persist) = outputs.persist.as_ref().filter(|_| written) {
        let number = persist.number;
        inputs.push(Input::Persisted { number });
    }
    if let Some(last) = outputs.committed.last() {
        inputs.push(Input::Applied { index: last.index });
    }
    for offer in &outputs.offers {
        let message = offer.message.clone();
        inputs.push(Input::SnapshotReceived { message });
    }
    inputs
}

fn push(steps: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    steps.push(kind);
    steps.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    steps.extend_from_slice(bytes);
}

/// The steps of an input, as far as its frames hold.
fn steps(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut steps = Vec::new();
    while let Some(&[kind, low, high]) = take(&mut bytes, 3) {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let Some(body) = take(&mut bytes, length) else {
            break;
        };
        steps.push((kind % KINDS, body.to_vec()));
    }
    steps
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    PAST.seeds.clone()
}

pub(super) fn run(bytes: &[u8]) {
    let mut core = member(SELF, PAST.recovered.clone());
    let (mut slow, mut waiting) = (false, Vec::new());
    let mut budget = TURNS;
    for (number, (kind, body)) in steps(bytes).into_iter().enumerate() {
        let id = number as u64 + 1;
        let inputs = match kind {
            TICKS => vec![Input::Tick; usize::from(body.first().copied().unwrap_or(1) % 64)],
            PROPOSE => vec![Input::Propose {
                id,
                commands: vec![Bytes::from(body)],
            }],
            FROM_2 | FROM_3 => vec![Input::Step {
                from: u64::from(kind),
                message: Bytes::from(body),
            }],
            READ => vec![Input::ReadIndex { id }],
            _ => {
                slow = kind == SLOW_DISK;
                debug_assert!(slow || kind == FAST_DISK);
                std::mem::take(&mut waiting)
            }
        };
        if !follow(&mut core, inputs, slow, &mut waiting, &mut budget) {
            return;
        }
    }
}

/// Turns until nothing follows; false when the member stops.
fn follow(
    core: &mut Core,
    mut inputs: Vec<Input>,
    slow: bool,
    waiting: &mut Vec<Input>,
    budget: &mut usize,
) -> bool {
    loop {
        let Some(left) = budget.checked_sub(1) else {
            return false;
        };
        *budget = left;
        let Ok(outputs) = core.turn(inputs) else {
            return false;
        };
        if let Some(persist) = outputs.persist.as_ref().filter(|_| slow) {
            let number = persist.number;
            waiting.push(Input::Persisted { number });
        }
        inputs = done(&outputs, !slow);
        if inputs.is_empty() && !outputs.more {
            return true;
        }
    }
}

pub(super) fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: Vec<u8>) -> Vec<u8> {
    if dice.once_in(16) {
        return change::bytes(dice, seeds, bytes);
    }
    let whole = |input: &[u8]| -> Vec<Vec<u8>> {
        let join = |(kind, body): (u8, Vec<u8>)| [&[kind], &body[..]].concat();
        steps(input).into_iter().map(join).collect()
    };
    let known: Vec<Vec<u8>> = dice.pick(seeds).map(|seed| whole(seed)).unwrap_or_default();
    let changed = change::parts(dice, whole(&bytes), &known, |dice, step| {
        let Some((&kind, body)) = step.split_first() else {
            return step;
        };
        let kind = if dice.once_in(10) {
            dice.byte() % KINDS
        } else {
            kind
        };
        [&[kind], &change::protobuf(dice, &[], body.to_vec())[..]].concat()
    });
    let mut input = Vec::new();
    for step in changed {
        if let Some((kind, body)) = step.split_first() {
            push(
                &mut input,
                *kind,
                &body[..body.len().min(usize::from(u16::MAX))],
            );
        }
    }
    input
}
