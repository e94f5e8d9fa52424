//! Which user of this node a job runs as: one for all, or the one that belongs to the job's owner. The owner is who the certificate of the
//! submit said; the id that a client claims counts for nothing. Pure: whether the user exists is looked up elsewhere.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How users are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everybody's jobs run as `job_user`.
    #[default]
    JobUser,
    /// As the user of the owner's name, or the one that `map` names for it.
    Owner,
    /// As the one that `map` names for the owner; who is not in it runs nothing here.
    Map,
}

/// The table `[users]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Users {
    /// How users are chosen.
    pub mode: Mode,
    /// From the owner's name to the user's.
    pub map: BTreeMap<String, String>,
    /// A user that is found by the owner's name has at least this id: the others belong to the system.
    pub uid_min: u32,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            mode: Mode::JobUser,
            map: BTreeMap::new(),
            uid_min: 1000,
        }
    }
}

/// A user, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its name.
    pub name: String,
    /// The least id that it may have. Whom an administrator named may have any but root's.
    pub uid_min: u32,
}

impl Users {
    /// Do different owners run as different users?
    pub fn apart(&self) -> bool {
        self.mode != Mode::JobUser
    }

    /// The user of a job of `owner`; `None`: the launcher's own.
    ///
    /// # Errors
    /// One sentence for people.
    pub fn of(&self, owner: &str, job_user: &str) -> Result<Option<Choice>, String> {
        let named = |name: &str| {
            Some(Choice {
                name: name.to_owned(),
                uid_min: 1,
            })
        };
        let mapped = self.map.get(owner).map(String::as_str);
        match (self.mode, mapped) {
            (Mode::JobUser, _) if job_user.is_empty() => Ok(None),
            (Mode::JobUser, _) => Ok(named(job_user)),
            (Mode::Owner | Mode::Map, Some(name)) => Ok(named(name)),
            (Mode::Owner, None) if !owner.is_empty() => Ok(Some(Choice {
                name: owner.to_owned(),
                uid_min: self.uid_min,
            })),
            (Mode::Owner | Mode::Map, None) => Err(format!(
                "no user of this node belongs to `{}`: an administrator adds one to `map` in `[users]` of the agent's configuration",
                mlctl_proto::ids::clip(owner)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(mode: Mode) -> Users {
        Users {
            mode,
            map: BTreeMap::from([("ada".into(), "ada-unix".into())]),
            ..Users::default()
        }
    }

    #[test]
    fn owners_become_users() {
        let choice = |name: &str, uid_min| {
            Ok(Some(Choice {
                name: name.into(),
                uid_min,
            }))
        };
        for (mode, owner, job_user, want) in [
            (Mode::JobUser, "ada", "", Ok(None)),
            (Mode::JobUser, "ada", "jobs", choice("jobs", 1)),
            (Mode::Owner, "ada", "jobs", choice("ada-unix", 1)),
            (Mode::Owner, "bob", "jobs", choice("bob", 1000)),
            (Mode::Map, "ada", "", choice("ada-unix", 1)),
        ] {
            assert_eq!(users(mode).of(owner, job_user), want, "{mode:?} {owner}");
        }
        for (mode, owner) in [(Mode::Map, "bob"), (Mode::Map, ""), (Mode::Owner, "")] {
            let why = users(mode).of(owner, "jobs").expect_err("nobody");
            assert!(why.contains("`map`"), "{why}");
        }
    }
}
