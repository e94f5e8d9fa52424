//! I9: requests with the same key make one job, whatever was retried, and wherever; two keys never make the same one.
//! Does NOT ask what clients were told: `acknowledged` does.

use std::collections::BTreeMap;

use mlctl_coordinator::state::commands::IdempotencyKey;
use mlctl_proto::ids::JobId;

use super::{Checked, ensure};

/// What each key made.
#[derive(Debug, Default)]
pub struct Keys {
    made: BTreeMap<(String, [u8; 16]), (JobId, [u8; 32])>,
    makers: BTreeMap<JobId, [u8; 16]>,
}

impl Keys {
    /// A committed submit of `user` with `key` was answered with `job`.
    ///
    /// # Errors
    /// When that key made another job or was used for another request, or another key made this job.
    pub fn made(&mut self, user: &str, key: &IdempotencyKey, job: JobId) -> Checked {
        let made = (job, key.request_hash);
        let first = *self.made.entry((user.to_owned(), key.uuid)).or_insert(made);
        ensure(first == made, "I9", || {
            format!(
                "one key of {user} made job {}, and job {job} or for another request",
                first.0
            )
        })?;
        let maker = *self.makers.entry(job).or_insert(key.uuid);
        ensure(maker == key.uuid, "I9", || {
            format!("two keys were answered with job {job}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_one_job() {
        let key = |uuid, hash| IdempotencyKey {
            uuid: [uuid; 16],
            request_hash: [hash; 32],
        };
        let (one, two) = (JobId::new(1, 1), JobId::new(1, 2));
        let mut keys = Keys::default();
        assert!(keys.made("ann", &key(1, 1), one).is_ok());
        assert!(keys.made("ann", &key(1, 1), one).is_ok());
        assert!(keys.made("ann", &key(1, 1), two).is_err(), "another job");
        assert!(
            keys.made("ann", &key(1, 2), one).is_err(),
            "another request"
        );
        assert!(keys.made("ann", &key(2, 2), one).is_err(), "another key");
        assert!(keys.made("bob", &key(1, 1), two).is_ok());
    }
}
