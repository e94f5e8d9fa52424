//! Jobs on a fleet: submitted, waited for, shown.
//! Does NOT judge them.

use std::time::Duration;

use super::Fleet;
use crate::process::{Job, until};

impl Fleet {
    /// Submits with these words of `mlctl submit` and returns the id.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn submit(&self, words: &[&str]) -> String {
        let output = self.mlctl(&[&["submit", "-q"], words].concat()).expect(0);
        output.stdout.trim().to_owned()
    }

    /// The job as it is now.
    ///
    /// # Panics
    /// When the cluster does not tell.
    #[track_caller]
    pub fn job(&self, id: &str) -> Job {
        let shown = self.mlctl(&["show", "-o", "json", id]).expect(0);
        let mut value: serde_json::Value =
            serde_json::from_str(&shown.stdout).expect("a program reads this");
        Job(value["job"].take())
    }

    /// The job once it has ended.
    ///
    /// # Panics
    /// When it takes longer than `deadline`.
    #[track_caller]
    pub fn ended(&self, id: &str, deadline: Duration) -> Job {
        until(&format!("the end of job {id}"), deadline, || {
            Some(self.job(id)).filter(Job::ended)
        })
    }

    /// The lines of the job's log so far, all attempts, each with its rank in front.
    ///
    /// # Panics
    /// When the cluster does not tell.
    #[track_caller]
    pub fn lines(&self, id: &str) -> Vec<String> {
        let output = self.mlctl(&["logs", "--all-attempts", id]).expect(0);
        output.lines().into_iter().map(str::to_owned).collect()
    }

    /// What stands behind `word` in the first line of the job's log that has it, as soon as there is one.
    ///
    /// # Panics
    /// When none comes within `deadline`.
    #[track_caller]
    pub fn said(&self, id: &str, word: &str, deadline: Duration) -> String {
        until(
            &format!("`{word}` in the log of job {id}"),
            deadline,
            || {
                let lines = self.lines(id);
                let found = lines.iter().find_map(|line| line.split_once(word));
                found.map(|(_, rest)| rest.to_owned())
            },
        )
    }
}
