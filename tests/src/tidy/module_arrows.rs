//! Rule: imports between modules point one way, and foreign crates stop at their door.
//! Does NOT look at crates as a whole (see `crate_arrows`) nor into test-only items.

use super::paths::references;
use super::production::production;
use super::{Tree, Violation, is_under};

/// A folder that may not name something.
#[derive(Debug, Clone, Copy)]
struct Arrow {
    from: &'static str,
    never: &'static str,
    except: &'static [&'static str],
    why: &'static str,
}

const ARROWS: &[Arrow] = &[
    Arrow {
        from: "coordinator/src/scheduler",
        never: "crate::state",
        except: &["crate::state::view", "crate::state::rules"],
        why: "the scheduler sees the view and the shared rules only",
    },
    Arrow {
        from: "coordinator/src/state",
        never: "crate::scheduler",
        except: &[],
        why: "the state never knows who plans",
    },
    Arrow {
        from: "coordinator/src/consensus",
        never: "crate::state",
        except: &[],
        why: "consensus knows bytes, not jobs",
    },
    Arrow {
        from: "coordinator/src/state",
        never: "tonic",
        except: &[],
        why: "api types stop at api/convert",
    },
    Arrow {
        from: "coordinator/src/scheduler",
        never: "tonic",
        except: &[],
        why: "api types stop at api/convert",
    },
    Arrow {
        from: "coordinator/src/consensus",
        never: "tonic",
        except: &[],
        why: "messages travel through the Transport trait",
    },
    Arrow {
        from: "agent/src/core",
        never: "tonic",
        except: &[],
        why: "the wire stops at link.rs",
    },
];

/// A foreign crate and the only places of `*/src` that may name it.
const DOORS: &[(&str, &[&str])] = &[
    ("sled", &["coordinator/src/store"]),
    ("raft", &["coordinator/src/consensus"]),
    ("raft_engine", &["coordinator/src/consensus"]),
    ("nvml_wrapper", &["agent/src/devices/nvml.rs"]),
];

/// Checks every source file against the arrows and the doors.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in production(tree).iter().filter(|f| f.path.contains("/src/")) {
        for reference in references(&file.path, &file.text) {
            let at =
                |what: String, mend: String| Violation::new(&file.path, reference.line, what, mend);
            let shown = reference.shown();
            for arrow in ARROWS.iter().filter(|a| is_under(&file.path, a.from)) {
                let allowed = arrow.except.iter().any(|e| reference.leads_into(e));
                if (reference.leads_into(arrow.never) || reference.opens(arrow.never)) && !allowed {
                    violations.push(at(
                        format!("`{shown}` against the arrows"),
                        arrow.why.to_owned(),
                    ));
                }
            }
            for (name, doors) in DOORS.iter().filter(|(name, _)| reference.leads_into(name)) {
                if !doors.iter().any(|door| is_under(&file.path, door)) {
                    violations.push(at(
                        format!("`{shown}` outside of {}", doors.join(", ")),
                        format!("types of {name} stop at their door: use what that module offers"),
                    ));
                }
            }
        }
    }
    violations.sort();
    violations.dedup();
    violations
}
