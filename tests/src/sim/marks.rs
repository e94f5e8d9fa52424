//! Rare paths that a run took, counted: a simulator that never gets there proves nothing about them. Seen from what goes into the
//! cores and what comes out of them. Does NOT steer a run.

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident = $words:literal,)*) => {
        /// One rare path.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark { $($(#[$doc])* $name,)* }

        impl Mark {
            /// All of them.
            pub const ALL: [Self; [$($words),*].len()] = [$(Self::$name),*];

            /// Its name, for people and programs.
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

marks! {
    /// A follower installed a leader's snapshot.
    SnapshotInstall = "snapshot install",
    /// A second snapshot arrived while the write of the first was under way.
    SecondSnapshot = "second snapshot before the first is persisted",
    /// An agent's word about an epoch that was over.
    StaleEpoch = "stale-epoch report",
    /// An agent was told to stop what it had never seen.
    TombstoneStop = "tombstone stop",
    /// A leader that had slept could not confirm a lease.
    LeaseRefused = "lease refused after a pause",
    /// A torn record at the end of a log was cut off.
    TornTail = "torn tail cut",
    /// A member refused to start on a damaged disk.
    DamageRefused = "damage refused",
    /// A round of reads was answered after it had been issued again.
    ReadReissued = "ReadIndex re-issued",
    /// A request came again with its key and was answered as before.
    DuplicateKey = "duplicate idempotency key",
    /// A key came with another request.
    KeyReused = "same key with another body",
    /// A node registered with another journal than before.
    JournalIdChanged = "journal id changed",
    /// A checkpoint that was not acknowledged was reported again.
    PartReannounced = "uncommitted part re-announced",
    /// An event was refused and acknowledged all the same.
    EventRefused = "event refused and acknowledged",
    /// A leader handed over, and the one it chose leads.
    HandOver = "leader hand-over",
    /// A member found that a majority has another state, and stopped.
    DigestMinority = "digest minority",
    /// A submit was refused because a disk was nearly full.
    DiskFull = "disk-full reject",
    /// A leader whose clock was off handed over.
    ClockRefusal = "clock refusal",
    /// A job waited for word of a checkpoint before it started again, and the word came.
    SalvageCommit = "salvage commit",
    /// A witness heard a node that was silent to its leader.
    WitnessSaw = "witness heard a silent node",
    /// A witness heard nobody.
    WitnessSawNobody = "witness heard nobody",
    /// A node was given up because no witness heard it.
    WitnessLost = "lost by witnesses",
    /// A keeper ended its ranks because no lease was confirmed any more.
    Fenced = "fenced by its keeper",
    /// A node came back before a successor had taken over: what it ran goes on, the successor was dropped.
    SupersedeRecalled = "supersede recalled",
    /// A person let a job go that was held because nodes or agents went down under it.
    HeldReleased = "held job let go",
    /// A job started again after a back-off.
    StartedLate = "start after a back-off",
    /// Something was on a device after its job.
    DeviceDirty = "device dirty after its job",
    /// A part of a checkpoint was copied to another node.
    PartCopied = "part copied",
    /// Bytes that came as a part of one checkpoint were noted as that of another too.
    PartShared = "one copy for several checkpoints",
    /// A node was asked for its part of a checkpoint that another one had completed.
    PartAsked = "part asked for",
    /// Parts were forgotten because nothing counts on them any more.
    PartForgotten = "part forgotten",
    /// A part was uploaded to the object store.
    PartUploaded = "part uploaded",
    /// A part that no node gave came from the object store.
    PartFromStore = "part from the object store",
    /// An attempt put its checkpoint together before its ranks began.
    Restored = "restored",
    /// The node that made a part told of it as of a copy that it holds: its word of the seal had not come.
    CopySpoke = "part told as a copy",
    /// A power cut of all coordinators and all nodes at once.
    WholePowerCut = "whole-cluster power cut",
}

/// How often each path was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks([u64; Mark::ALL.len()]);

impl Default for Marks {
    fn default() -> Self {
        Self([0; Mark::ALL.len()])
    }
}

impl Marks {
    pub(super) fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// How often it was taken.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Paths taken fewer than `least` times.
    pub fn short_of(&self, least: u64) -> Vec<Mark> {
        let short = |mark: &Mark| self.count(*mark) < least;
        Mark::ALL.into_iter().filter(short).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_reached_is_named() {
        let mut marks = Marks::default();
        Mark::ALL.iter().for_each(|mark| marks.hit(*mark));
        assert_eq!(marks.short_of(1), []);
        marks.hit(Mark::SnapshotInstall);
        let mut twice = marks;
        twice.add(&marks);
        assert_eq!(twice.count(Mark::SnapshotInstall), 4);
        assert!(!twice.short_of(3).contains(&Mark::SnapshotInstall));
        assert!(twice.short_of(3).contains(&Mark::WholePowerCut));
    }
}
