//! How long an attempt still runs, as far as anybody can say (docs/SCHEDULING.md, Estimates). Does NOT know a job's true length. An estimate changes in steps, when it is exceeded, so
//! that plans do not shift by time alone.
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use crate::state::view::jobs::{Class, Running, Waiting};
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;

pub use crate::state::rules::taking::{after, elapsed, of_class};

/// How long jobs of this owner and size ran, ascending, if any are known; else of this team.
fn history<'a>(
    scene: &'a Scene,
    user: &Arc<str>,
    team: &Arc<str>,
    units: u64,
) -> Option<&'a [u64]> {
    let of = |who: &Arc<str>| scene.histories.get(&(who.clone(), units));
    let found = of(user).or_else(|| of(team))?;
    (!found.is_empty()).then_some(found.as_slice())
}

/// The estimate of a whole attempt that has run for `elapsed` milliseconds: the median of those longer than the last estimate, until one is longer than what it
/// ran; else twice the last, and so on (docs/SCHEDULING.md, Estimates).
pub fn length(history: Option<&[u64]>, class_default: u64, elapsed: u64) -> u64 {
    let mut rest = history.unwrap_or(&[]);
    let mut guess = 0;
    while !rest.is_empty() {
        guess = rest[(rest.len() - 1) / 2].max(1);
        if guess > elapsed {
            return guess;
        }
        rest = &rest[rest.partition_point(|one| *one <= guess)..];
    }
    let mut guess = if history.is_some_and(|all| !all.is_empty()) {
        guess
    } else {
        class_default.max(1)
    };
    while guess <= elapsed {
        guess = guess.saturating_mul(2);
        if guess == u64::MAX {
            break;
        }
    }
    guess
}

/// How long a job that waits would run.
pub fn waiting(scene: &Scene, job: &Waiting, units: u64) -> u64 {
    job.limit_ms.unwrap_or_else(|| {
        let default = of_class(&scene.settings.default_time_ms, job.class);
        length(history(scene, &job.user, &job.team, units), default, 0)
    })
}

/// How long nobody takes its devices in overtime, and by when it has ended if it has a limit: the limit, else the class default (docs/SCHEDULING.md, Estimates).
pub fn protected(settings: &SchedSettings, class: Class, limit_ms: Option<u64>) -> u64 {
    match limit_ms {
        // A limit is enforced: notice, end and clean-up come on top.
        Some(limit) => limit.saturating_add(ending(settings, class)),
        None => of_class(&settings.default_time_ms, class),
    }
}

/// From notice to free devices, milliseconds.
pub fn ending(settings: &SchedSettings, class: Class) -> u64 {
    of_class(&settings.grace_ms, class).saturating_add(settings.kill_ms)
}

/// When an attempt will have ended.
pub fn running(scene: &Scene, run: &Running, units: u64, now: UtcMs) -> UtcMs {
    let settings = &scene.settings;
    if let Some(by) = run.ends_by_ms {
        return if by > now {
            by
        } else {
            after(now, settings.kill_ms.max(1))
        };
    }
    let ran = elapsed(run.started_ms, now);
    let length = match run.limit_ms {
        Some(limit) if ran < limit => limit,
        Some(limit) => {
            // It is being ended, or about to be: the whole of notice and end, again and again if that is not enough.
            let end = ending(settings, run.class).max(1);
            let over = (ran - limit) / end;
            limit.saturating_add(end.saturating_mul(over.saturating_add(1)))
        }
        None => {
            let default = of_class(&settings.default_time_ms, run.class);
            length(history(scene, &run.user, &run.team, units), default, ran)
        }
    };
    after(run.started_ms, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_never_just_about_now() {
        let history = [10, 20, 30, 40, 1_000];
        assert_eq!(length(Some(&history), 99, 0), 30);
        assert_eq!(length(Some(&history), 99, 29), 30);
        // Exceeded: the median of the longer ones, then the longest, then twice that.
        assert_eq!(length(Some(&history), 99, 30), 40);
        assert_eq!(length(Some(&history), 99, 40), 1_000);
        assert_eq!(length(Some(&history), 99, 1_000), 2_000);
        assert_eq!(length(Some(&history), 99, 4_100), 8_000);
        assert_eq!(length(None, 99, 0), 99);
        assert_eq!(length(None, 99, 99), 198);
        assert_eq!(length(Some(&[]), 99, 5), 99);
        assert_eq!(length(None, 1, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_limit_beats_history() {
        let job = Waiting {
            limit_ms: Some(5),
            ..crate::scheduler::engine::fixtures::waiting(1)
        };
        assert_eq!(waiting(&Scene::default(), &job, 0), 5);
    }
}
