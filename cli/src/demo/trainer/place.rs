//! What a rank learns from its environment: the variables that every job gets, and nothing else.
//!
//! Reads variables through a function that the caller passes in; connects nothing.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, ensure};

/// More ranks than this would not have one image each per step.
const MAX_WORLD: usize = 1024;

/// A rank's place in its gang.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) world: usize,
    /// `host:port` where rank 0 listens: `None` if there is only one rank.
    pub(super) master: Option<String>,
    /// Where this rank writes checkpoints: `None` if it does not (one rank of each node does).
    pub(super) checkpoint_dir: Option<PathBuf>,
    /// The checkpoint to go on from; rank 0's counts.
    pub(super) resume_from: Option<PathBuf>,
}

impl Place {
    /// Reads the environment through `variable`. Without WORLD_SIZE there is one rank.
    ///
    /// # Errors
    /// A variable is missing or makes no sense; the message names it.
    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Place> {
        let world = number(variable, "WORLD_SIZE")?.unwrap_or(1);
        ensure!(
            (1..=MAX_WORLD).contains(&world),
            "WORLD_SIZE is {world}: it must be 1 to {MAX_WORLD}"
        );
        let needed = |name: &str| {
            anyhow!(
                "{name} is not set although WORLD_SIZE is {world}: start the trainer as a job, or set it"
            )
        };
        let (rank, master) = if world == 1 {
            (number(variable, "RANK")?.unwrap_or(0), None)
        } else {
            let rank = number(variable, "RANK")?.ok_or_else(|| needed("RANK"))?;
            let host = set(variable, "MASTER_ADDR").ok_or_else(|| needed("MASTER_ADDR"))?;
            let port: u16 =
                number(variable, "MASTER_PORT")?.ok_or_else(|| needed("MASTER_PORT"))?;
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host
            };
            (rank, Some(format!("{host}:{port}")))
        };
        ensure!(
            rank < world,
            "RANK is {rank}: it must be less than WORLD_SIZE, which is {world}"
        );
        let local_rank = number(variable, "LOCAL_RANK")?.unwrap_or(0_usize);
        Ok(Place {
            rank,
            world,
            master,
            checkpoint_dir: set(variable, "MLCTL_CHECKPOINT_DIR")
                .filter(|_| local_rank == 0)
                .map(PathBuf::from),
            resume_from: set(variable, "MLCTL_RESUME_FROM").map(PathBuf::from),
        })
    }
}

fn set(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).filter(|value| !value.is_empty())
}

fn number<T: FromStr>(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    set(variable, name)
        .map(|value| {
            value
                .parse()
                .with_context(|| format!("{name} is {value:?}, which is not a number in range"))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)]) -> Result<Place, String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Place::read(&find).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_environment_of_a_job_is_understood() {
        let alone = check(&[("MLCTL_RESUME_FROM", ""), ("RANK", "")]).expect("nothing is needed");
        assert_eq!(
            (alone.rank, alone.world, alone.master, alone.resume_from),
            (0, 1, None, None)
        );
        let gang = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("MASTER_ADDR", "fd00::1"),
            ("MASTER_PORT", "29500"),
            ("MLCTL_CHECKPOINT_DIR", "/c"),
            ("MLCTL_RESUME_FROM", "/c/step-5"),
        ];
        let first_of_node =
            check(&[&gang[..], &[("LOCAL_RANK", "0")]].concat()).expect("it is complete");
        assert_eq!(first_of_node.master.as_deref(), Some("[fd00::1]:29500"));
        assert_eq!(first_of_node.checkpoint_dir, Some(PathBuf::from("/c")));
        assert_eq!(first_of_node.resume_from, Some(PathBuf::from("/c/step-5")));
        let second_of_node =
            check(&[&gang[..], &[("LOCAL_RANK", "1")]].concat()).expect("it is complete");
        assert_eq!(second_of_node.checkpoint_dir, None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let good = [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "::1"),
            ("MASTER_PORT", "1"),
        ];
        check(&good).expect("it is complete");
        for (name, value) in [
            ("RANK", "2"),
            ("RANK", "-1"),
            ("RANK", "x"),
            ("RANK", ""),
            ("WORLD_SIZE", "0"),
            ("WORLD_SIZE", "1025"),
            ("WORLD_SIZE", "99999999999999999999"),
            ("MASTER_ADDR", ""),
            ("MASTER_PORT", "65536"),
            ("MASTER_PORT", ""),
            ("LOCAL_RANK", "zero"),
        ] {
            let bad = [&[(name, value)], &good[..]].concat();
            let error = check(&bad).expect_err(name);
            assert!(error.contains(name), "{name}={value:?}: {error}");
        }
    }
}
