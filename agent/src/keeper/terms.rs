//! What the launcher tells its keepers at their start, in one variable: who ranks may be, where cgroups are made, what a node gives at most.
//! Its own configuration and its own look at the machine, never the agent's word. Does NOT know an attempt.

use serde::{Deserialize, Serialize};

use crate::cgroup::{Base, count};
use crate::users::Users;

/// The variable that holds them as JSON. Ranks do not get it.
pub const VARIABLE: &str = "MLCTL_KEEPER_TERMS";

/// The launcher's terms.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// The only user that ranks may run as, unless `users` says more; empty: the plan's.
    pub job_user: String,
    /// Which user belongs to whom.
    pub users: Users,
    /// Ranks have a `/tmp` and a `/dev/shm` of their own.
    pub private_tmp: bool,
    /// Where cgroups are made.
    pub cgroups: Base,
    /// Processes and threads of one attempt on this node; `None`: as many as the machine has.
    pub tasks_max: Option<u64>,
    /// The group in which this process is counted; empty: none.
    #[serde(skip)]
    pub count: String,
    /// Groups that were entered.
    #[serde(skip)]
    pub entered: u64,
}

impl Terms {
    /// The terms in this process's environment, which it enters: it is a keeper, and may not have an attempt yet. Without any there are
    /// none to keep.
    ///
    /// # Errors
    /// When they cannot be read or kept: to run without bounds that somebody set would be wrong.
    pub fn enter() -> Result<Self, String> {
        let mut terms = Self::of_environment()?;
        terms.enter_next().map_err(|e| {
            format!("cannot enter a cgroup that bounds the number of processes: {e}")
        })?;
        Ok(terms)
    }

    /// Enters a group that nobody else is in.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn enter_next(&mut self) -> std::io::Result<()> {
        let Some(tasks) = self.tasks_max else {
            return Ok(());
        };
        self.entered += 1;
        self.count = format!("{}-{}", std::process::id(), self.entered);
        count::enter(&self.cgroups, &self.count, tasks)
    }

    fn of_environment() -> Result<Self, String> {
        match std::env::var(VARIABLE) {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|e| format!("{VARIABLE} cannot be read: {e}"))
            }
            Err(_) => Ok(Self::default()),
        }
    }
}
