//! Closed sets: each word of the records beside its number on disk. A number is never given to another word.
use mlctl_proto::persist;
use mlctl_proto::spec::AfterKind;

use super::{CodecError, unknown};
use crate::state::commands::{CheckpointAction, LossProof};
use crate::state::records::{
    Admin, AllocationPhase, Automatic, EndKind, HoldReason, Isolation, JobState, Liveness, Power,
    SchedKey, TeamLimit, WhenExhausted,
};
use crate::state::rules::taking::Taken;
use crate::state::view::nodes::{Guests, Sharing};

/// A word that has a number on disk.
pub(super) trait Word: Sized + Copy + 'static {
    /// What it is, for errors.
    const FIELD: &'static str;
    /// Every word with its number.
    const WORDS: &'static [(Self, i32)];

    fn number(self) -> i32;

    fn from_number(number: i32) -> Result<Self, CodecError> {
        Self::WORDS
            .iter()
            .find(|(_, n)| *n == number)
            .map(|(word, _)| *word)
            .ok_or_else(|| unknown(Self::FIELD, number))
    }
}

macro_rules! words {
    ($record:ident, $field:literal, $disk:ident: $($word:ident = $number:ident),+ $(,)?) => {
        impl Word for $record {
            const FIELD: &'static str = $field;
            const WORDS: &'static [(Self, i32)] = &[$((Self::$word, persist::$disk::$number as i32)),+];

            fn number(self) -> i32 {
                match self {
                    $(Self::$word => persist::$disk::$number as i32),+
                }
            }
        }
    };
}

words!(JobState, "job state", JobState:
    Pending = Pending, Held = Held, Starting = Starting, Running = Running, Stopping = Stopping,
    Completed = Completed, Failed = Failed, Cancelled = Cancelled, TimedOut = TimedOut);

words!(EndKind, "end", EndKind:
    Exited = Exited, Signalled = Signalled, OutOfMemory = OutOfMemory, TimedOut = TimedOut, Cancelled = Cancelled,
    Preempted = Preempted, Superseded = Superseded, DeviceError = DeviceError, LaunchFailed = LaunchFailed,
    NeverStarted = NeverStarted, KeeperLost = KeeperLost, NodeLost = NodeLost, Hung = Hung);

words!(AllocationPhase, "allocation phase", AllocationPhase: Assigned = Assigned, Running = Running, Ended = Ended);

words!(Liveness, "liveness", Liveness: Joining = Joining, Ready = Ready, Unreachable = Unreachable, Lost = Lost);

words!(Admin, "admin axis", Admin:
    Open = Open, Cordoned = Cordoned, Draining = Draining, Drained = Drained, Retired = Retired);

words!(Power, "power", Power: On = On, GoingDown = GoingDown, Off = Off, ComingUp = ComingUp, WakeFailed = WakeFailed);

words!(Isolation, "isolation", Isolation: None = None, Partial = Partial, Full = Full);

words!(LossProof, "proof of loss", LossProof:
    NewBootId = NewBootId, LostAfter = LostAfter, Witness = Witness, DeclaredByAdmin = DeclaredByAdmin);

words!(AfterKind, "what a job waits for", AfterKind: Started = Started, Ok = Ok, Any = Any, NotOk = NotOk, Corr = Corr);

words!(HoldReason, "reason of a hold", HoldReason: SuspectedPoison = SuspectedPoison);

words!(CheckpointAction, "what to do with checkpoints", CheckpointAction: Pin = Pin, Unpin = Unpin, Remove = Remove);

words!(TeamLimit, "limit of a team", TeamLimitKind:
    MaxPending = MaxPending, MaxRunning = MaxRunning, MaxTimeMs = MaxTimeMs, CheckpointBytes = CheckpointBytes,
    UserMaxPending = UserMaxPending, UserMaxRunning = UserMaxRunning);

words!(Taken, "why devices are taken", Taken:
    Entitlement = Entitlement, Overtime = Overtime, Guest = Guest, Slice = Slice, Surplus = Surplus);

words!(WhenExhausted, "what an exhausted budget does", WhenExhausted: Hold = Hold, LowPriority = LowPriority, Stop = Stop);

words!(SchedKey, "setting of the scheduler", SchedKey:
    Policy = Policy, Reservations = Reservations, AgeLimit = AgeLimit, DefaultTime = DefaultTime, Grace = Grace,
    Kill = Kill, Hold = Hold, HalfLife = HalfLife, LasThresholds = LasThresholds, LasQuantum = LasQuantum,
    LasPromote = LasPromote, KeepGpuShare = KeepGpuShare);

words!(Automatic, "what may be paused", Automatic:
    Starts = Starts, Preemption = Preemption, Health = Health, Power = Power);

words!(Guests, "who may be a guest", Guests: None = None, Preemptible = Preemptible, Any = Any);

words!(Sharing, "how devices are shared", Sharing: User = User, Team = Team, Any = Any);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<W: Word + PartialEq + std::fmt::Debug>() {
        for (word, number) in W::WORDS {
            assert_eq!(W::from_number(*number).as_ref(), Ok(word));
            assert_eq!(word.number(), *number);
            assert_ne!(*number, 0, "0 means that a field was never written");
        }
        for number in [0, -1, 99, i32::MIN] {
            assert!(
                matches!(W::from_number(number), Err(CodecError::Unknown { .. })),
                "{} {number}",
                W::FIELD
            );
        }
    }

    #[test]
    fn every_word_has_its_own_number_and_others_are_refused() {
        check::<JobState>();
        check::<EndKind>();
        check::<AllocationPhase>();
        check::<Liveness>();
        check::<Admin>();
        check::<Power>();
        check::<Isolation>();
        check::<LossProof>();
        check::<AfterKind>();
        check::<HoldReason>();
        check::<CheckpointAction>();
        check::<TeamLimit>();
        check::<Taken>();
        check::<WhenExhausted>();
        check::<SchedKey>();
        check::<Automatic>();
        check::<Guests>();
        check::<Sharing>();
        assert!(Liveness::from_number(3).is_err(), "Suspect is never stored");
    }
}
