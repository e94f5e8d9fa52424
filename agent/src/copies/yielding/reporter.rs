//! Tells this node's pacer twice a second whether training is held up, while checkpoints travel and ranks run here.
//! Does NOT judge (see `strain`). While nothing travels it looks at ranks every ten seconds, to know what is usual, and else at nothing.
//!
//! With no ranks here it says nothing: the pacer's limit goes with its silence. It runs on threads that come last, as copies do.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mlctl_blobs::transfer::{Pacer, SILENCE_MS, Totals};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::super::{Inner, lock};
use super::sight::{Carried, Seen, Sight};
use super::strain::{Look, Strain, Traffic, Verdict, Wire};

/// Between two reports.
const PERIOD: Duration = Duration::from_millis(500);
/// While nothing travels: between two looks at whether something does. Who begins to send says so.
const IDLE: Duration = Duration::from_secs(1);
/// And between two looks at ranks.
const USUAL: Duration = Duration::from_secs(10);
/// Ranks are found anew after so long.
const FOUND: Duration = Duration::from_secs(5);

/// What a vault does at a moment.
struct Scene {
    /// Something is sent or received.
    moving: bool,
    /// Of the attempts here.
    keepers: BTreeSet<u32>,
    pacer: Pacer,
    /// Where other nodes reach this one.
    address: Option<IpAddr>,
    /// Bytes of copies; `None` while something is uploaded, for then there are others.
    own: Option<Totals>,
}

impl Inner {
    fn scene(&self) -> Scene {
        let server = self.server.as_ref();
        let address = server.map(|server| server.address().ip());
        let uploads = !lock(&self.uploads).is_empty();
        Scene {
            moving: self.sending.load(Ordering::Relaxed) > 0 || self.node.taking() > 0,
            keepers: self.attempts.keepers(),
            pacer: self.pacer.clone(),
            address: address.filter(|address| !address.is_unspecified()),
            own: (!uploads).then(|| self.node.totals()),
        }
    }
}

/// Reports until the vault is gone. `begun`: somebody begins to send.
pub(in crate::copies) async fn report(vault: Weak<Inner>, begun: Arc<Notify>) {
    let mut reporter = Reporter::new();
    loop {
        // Not kept: the vault must be able to go meanwhile.
        let Some(scene) = vault.upgrade().map(|inner| inner.scene()) else {
            return;
        };
        if reporter.turn(scene).await {
            sleep(PERIOD).await;
        } else {
            let _ = timeout(IDLE, begun.notified()).await;
        }
    }
}

/// What is known from one look to the next.
struct Reporter {
    since: Instant,
    strain: Strain,
    sight: Sight,
    keepers: BTreeSet<u32>,
    moving: bool,
    /// When ranks were last found.
    found: Option<Instant>,
    /// When something last travelled, or ranks were looked at while nothing did.
    looked: Option<Instant>,
    /// When the pacer was last told something.
    told: Option<Instant>,
    verdict: Option<Verdict>,
}

impl Reporter {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            strain: Strain::default(),
            sight: Sight::default(),
            keepers: BTreeSet::new(),
            moving: false,
            found: None,
            looked: None,
            told: None,
            verdict: None,
        }
    }

    /// Looks if it is time to, and reports. Is the next look soon?
    async fn turn(&mut self, scene: Scene) -> bool {
        if scene.keepers != self.keepers {
            // What was usual for others is not usual for these.
            self.strain.forget();
            self.keepers.clone_from(&scene.keepers);
            (self.found, self.looked) = (None, None);
        }
        if scene.moving != self.moving {
            self.strain.turn();
            self.moving = scene.moving;
            (self.looked, self.verdict) = (Some(Instant::now()), None);
        }
        let idle = !scene.moving && self.looked.is_some_and(|at| at.elapsed() < USUAL);
        if self.keepers.is_empty() || idle {
            return false;
        }
        let Some((seen, at)) = self.look(scene.address).await else {
            return scene.moving;
        };
        self.looked = Some(at);
        if !seen.alive {
            self.strain.turn();
            return scene.moving;
        }
        let passed = at.saturating_duration_since(self.since);
        let look = Look {
            now_ms: u64::try_from(passed.as_millis()).unwrap_or(u64::MAX),
            threads: seen.threads,
            wire: seen.carried.zip(scene.own).map(wire),
        };
        if !scene.moving {
            self.strain.still(look);
            return false;
        }
        match self.strain.moving(look) {
            Some(verdict) => self.tell(&scene.pacer, verdict),
            // Somebody trains here, and nobody has said so: not at the full rate until there is a second look.
            None if self.is_silent() => self.say(&scene.pacer, false),
            None => {}
        }
        true
    }

    /// What there is to see, and when it was seen.
    async fn look(&mut self, address: Option<IpAddr>) -> Option<(Seen, Instant)> {
        let stale = self.found.is_none_or(|at| at.elapsed() >= FOUND);
        let keepers = stale.then(|| self.keepers.clone());
        let known = std::mem::take(&mut self.sight);
        let looking = move || {
            let sight = keepers.map_or(known, |keepers| Sight::find(&keepers, address));
            let seen = sight.look();
            (sight, seen, Instant::now())
        };
        match tokio::task::spawn_blocking(looking).await {
            Ok((sight, seen, at)) => {
                self.sight = sight;
                if stale {
                    self.found = Some(at);
                }
                Some((seen, at))
            }
            Err(error) => {
                warn!(%error, "ranks cannot be looked at");
                self.found = None;
                None
            }
        }
    }

    fn is_silent(&self) -> bool {
        let silence = Duration::from_millis(SILENCE_MS);
        self.told.is_none_or(|at| at.elapsed() >= silence)
    }

    fn tell(&mut self, pacer: &Pacer, verdict: Verdict) {
        self.say(pacer, verdict.is_busy());
        if self.verdict != Some(verdict) {
            debug!(
                cores = verdict.cores,
                network = verdict.network,
                rate = ?pacer.rate(),
                "whether copies of checkpoints hold ranks up"
            );
            self.verdict = Some(verdict);
        }
    }

    fn say(&mut self, pacer: &Pacer, busy: bool) {
        pacer.report(busy);
        self.told = Some(Instant::now());
    }
}

fn wire((carried, own): (Carried, Totals)) -> Wire {
    let sent = Traffic {
        all: carried.sent,
        own: own.sent_bytes,
    };
    let received = Traffic {
        all: carried.received,
        own: own.received_bytes,
    };
    Wire {
        speed: carried.speed,
        ways: [sent, received],
    }
}

#[cfg(test)]
mod tests {
    use mlctl_blobs::transfer::Rate;

    use super::*;
    use crate::keeper::descendants::parent_of;

    const CAP: u64 = 1 << 30;

    fn scene(moving: bool, keepers: &[u32], pacer: &Pacer) -> Scene {
        Scene {
            moving,
            keepers: keepers.iter().copied().collect(),
            pacer: pacer.clone(),
            address: None,
            own: None,
        }
    }

    #[tokio::test]
    async fn nobody_reports_while_nobody_trains_or_nothing_travels() {
        let pacer = Pacer::new(Rate::Auto(CAP));
        let mut reporter = Reporter::new();
        assert!(!reporter.turn(scene(true, &[], &pacer)).await, "no attempt");
        assert!(reporter.found.is_none(), "nothing was read");
        // A keeper that waits: nobody is below a process that there is not.
        assert!(reporter.turn(scene(true, &[u32::MAX], &pacer)).await);
        assert!(!reporter.turn(scene(false, &[u32::MAX], &pacer)).await);
        assert_eq!(pacer.rate(), Some(CAP), "nobody has reported");
    }

    #[tokio::test]
    async fn ranks_that_run_are_reported_on_while_something_travels() {
        let own = i32::try_from(std::process::id()).expect("an id");
        // This process is a rank as far as the reporter can see.
        let keeper = parent_of(own).expect("known");
        let pacer = Pacer::new(Rate::Auto(CAP));
        let mut reporter = Reporter::new();
        assert!(!reporter.turn(scene(false, &[keeper], &pacer)).await);
        let first = reporter.looked.expect("it looked at what is usual");
        assert!(!reporter.turn(scene(false, &[keeper], &pacer)).await);
        assert_eq!(reporter.looked, Some(first), "not again so soon");
        assert_eq!(pacer.rate(), Some(CAP));
        assert!(reporter.turn(scene(true, &[keeper], &pacer)).await);
        let begun = pacer.rate().expect("limited");
        assert!(begun < CAP / 2, "{begun}: somebody trains here");
        assert!(reporter.turn(scene(true, &[keeper], &pacer)).await);
        assert!(reporter.verdict.is_some());
    }
}
