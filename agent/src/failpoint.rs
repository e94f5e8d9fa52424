//! Places where an agent that is told so dies as by `kill -9`, for the tests that kill it everywhere: `MLCTL_FAILPOINT=name` on the first
//! pass, `name:3` on the third. Only builds with debug assertions listen; in the others a failpoint is nothing at all.
//! Does NOT know what is tested, and stands in no pure folder.

/// Every failpoint of the agent, in the order of an attempt's life.
pub const ALL: [&str; 33] = [
    "journal.rewriting",
    "journal.writing",
    "journal.written",
    "journal.synced",
    "link.up",
    "link.greeted",
    "prepare.ordered",
    "prepare.folders",
    "restore.pulled",
    "prepare.code",
    "prepare.plan",
    "keeper.asked",
    "keeper.connected",
    "ready.sending",
    "ready.sent",
    "go.ordered",
    "go.given",
    "ranks.started",
    "log.sending",
    "log.stored",
    "copy.sealed",
    "copy.ledger",
    "copy.received",
    "rank.exited",
    "stop.ordered",
    "stop.given",
    "ranks.ended",
    "release.ordered",
    "release.done",
    "events.sending",
    "events.sent",
    "events.applied",
    "adopt.connected",
];

/// Dies here if this is the failpoint that the environment names.
#[cfg(debug_assertions)]
pub(crate) fn hit(name: &'static str) {
    use nix::sys::signal::{Signal, kill};
    debug_assert!(ALL.contains(&name), "`{name}` is in no list");
    if armed().is_some_and(|armed| armed.passes(name)) {
        // Nothing of this process runs after it: no buffer is flushed, nothing is dropped.
        let _ = kill(nix::unistd::Pid::this(), Signal::SIGKILL);
        std::process::abort();
    }
}

/// Nothing: this build has no failpoints.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn hit(_name: &'static str) {}

#[cfg(debug_assertions)]
fn armed() -> Option<&'static Armed> {
    static ARMED: std::sync::OnceLock<Option<Armed>> = std::sync::OnceLock::new();
    let read = || Armed::read(&std::env::var("MLCTL_FAILPOINT").ok()?);
    ARMED.get_or_init(read).as_ref()
}

/// The failpoint that is to kill, and how many passes are left before it does.
#[cfg(debug_assertions)]
#[derive(Debug)]
struct Armed {
    name: String,
    left: std::sync::atomic::AtomicU32,
}

#[cfg(debug_assertions)]
impl Armed {
    /// `NAME` or `NAME:COUNT`.
    fn read(text: &str) -> Option<Self> {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        let left = count.parse::<u32>().ok().filter(|count| *count > 0)?;
        ALL.contains(&name).then(|| Self {
            name: name.to_owned(),
            left: left.into(),
        })
    }

    /// Is this the pass that kills?
    fn passes(&self, name: &str) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        let order = std::sync::atomic::Ordering::Relaxed;
        self.name == name && self.left.fetch_update(order, order, one_less) == Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(debug_assertions)]
    #[test]
    fn the_named_pass_kills_and_no_other() {
        let armed = Armed::read("journal.synced:3").expect("a failpoint");
        let passes: Vec<bool> = (0..5).map(|_| armed.passes("journal.synced")).collect();
        assert_eq!(passes, [false, false, true, false, false]);
        assert!(!armed.passes("go.given"));
        let once = Armed::read("go.given").expect("a failpoint");
        assert!(once.passes("go.given") && !once.passes("go.given"));
        for none in ["", "go", "go.given:0", "go.given:x", ":1"] {
            assert!(Armed::read(none).is_none(), "{none}");
        }
    }

    /// Whoever adds one to the code and not to the list, or takes one away, is told.
    #[test]
    fn every_failpoint_of_the_list_is_in_the_code_once() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut found = Vec::new();
        let mut folders = vec![std::path::PathBuf::from(source)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("our own source").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(&path).expect("UTF-8");
                    let words = text.split(concat!("failpoint::", "hit(\"")).skip(1);
                    found.extend(words.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                }
            }
        }
        found.sort();
        let mut all = ALL.map(str::to_owned).to_vec();
        all.sort();
        assert_eq!(found, all);
    }
}
