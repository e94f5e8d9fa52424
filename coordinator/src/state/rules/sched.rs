//! Settings of the scheduler by name: where each belongs, which values make sense alone, and which make none together. Does NOT read text.
use mlctl_proto::limits::GRACE_MS_MAX;

use crate::state::records::{SchedKey, length_text};
use crate::state::view::jobs::Class;
use crate::state::view::policy::{Policy, SchedSettings};

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Queues of `las` beyond the last one.
const THRESHOLDS_MAX: usize = 16;
/// The most that a threshold may be: a thousand GPUs for a year.
const THRESHOLD_MAX: u64 = 1_000 * 366 * DAY_MS;

/// The values of a setting, as a row keeps them.
pub fn values(settings: &SchedSettings, key: SchedKey) -> Vec<u64> {
    match key {
        SchedKey::Policy => vec![u64::from(settings.policy == Policy::Las)],
        SchedKey::Reservations => vec![u64::from(settings.reservations)],
        SchedKey::AgeLimit => settings.age_limit_ms.to_vec(),
        SchedKey::DefaultTime => settings.default_time_ms.to_vec(),
        SchedKey::Grace => settings.grace_ms.to_vec(),
        SchedKey::Kill => vec![settings.kill_ms],
        SchedKey::Hold => vec![settings.hold_ms],
        SchedKey::HalfLife => vec![settings.half_life_ms],
        SchedKey::LasThresholds => settings.las_thresholds.clone(),
        SchedKey::LasQuantum => vec![settings.las_quantum_ms],
        SchedKey::LasPromote => vec![u64::from(settings.las_promote)],
        SchedKey::KeepGpuShare => vec![u64::from(settings.keep_gpu_share)],
    }
}

/// Writes the values of a row. What was checked always fits; anything else leaves the setting as it is.
pub fn put(settings: &mut SchedSettings, key: SchedKey, values: &[u64]) {
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    match (key, values) {
        (SchedKey::Policy, [value]) => {
            settings.policy = if *value == 1 {
                Policy::Las
            } else {
                Policy::Fair
            };
        }
        (SchedKey::Reservations, [value]) => settings.reservations = small(*value),
        (SchedKey::AgeLimit, [a, b, c, d]) => settings.age_limit_ms = [*a, *b, *c, *d],
        (SchedKey::DefaultTime, [a, b, c, d]) => settings.default_time_ms = [*a, *b, *c, *d],
        (SchedKey::Grace, [a, b, c, d]) => settings.grace_ms = [*a, *b, *c, *d],
        (SchedKey::Kill, [value]) => settings.kill_ms = *value,
        (SchedKey::Hold, [value]) => settings.hold_ms = *value,
        (SchedKey::HalfLife, [value]) => settings.half_life_ms = *value,
        (SchedKey::LasThresholds, values) => settings.las_thresholds = values.to_vec(),
        (SchedKey::LasQuantum, [value]) => settings.las_quantum_ms = *value,
        (SchedKey::LasPromote, [value]) => settings.las_promote = small(*value),
        (SchedKey::KeepGpuShare, [value]) => settings.keep_gpu_share = *value == 1,
        _ => {}
    }
}

/// The least and the most of each value of a setting.
fn bounds(key: SchedKey) -> (u64, u64) {
    match key {
        SchedKey::Policy | SchedKey::KeepGpuShare => (0, 1),
        SchedKey::Reservations | SchedKey::LasPromote => (1, 1_000),
        SchedKey::AgeLimit | SchedKey::DefaultTime => (MINUTE_MS, 366 * DAY_MS),
        SchedKey::Grace => (SECOND_MS, GRACE_MS_MAX),
        SchedKey::Kill => (SECOND_MS, 10 * MINUTE_MS),
        SchedKey::Hold => (SECOND_MS, HOUR_MS),
        SchedKey::HalfLife => (HOUR_MS, 366 * DAY_MS),
        SchedKey::LasThresholds => (MINUTE_MS, THRESHOLD_MAX),
        SchedKey::LasQuantum => (MINUTE_MS, 7 * DAY_MS),
    }
}

/// Values of a setting as people write and read them.
pub fn text(key: SchedKey, values: &[u64]) -> String {
    let one = |value: &u64| match key {
        SchedKey::Policy => ["fair", "las"][usize::from(*value == 1)].to_owned(),
        SchedKey::KeepGpuShare => (*value == 1).to_string(),
        SchedKey::Reservations | SchedKey::LasPromote => value.to_string(),
        SchedKey::LasThresholds if value.is_multiple_of(HOUR_MS) => format!("{}h", value / HOUR_MS),
        _ => length_text(*value),
    };
    let alike = key.per_class() && values.windows(2).all(|two| two[0] == two[1]);
    let shown = values.iter().take(if alike { 1 } else { usize::MAX });
    shown.map(one).collect::<Vec<_>>().join(",")
}

/// Whether the values of one setting make sense by themselves.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn check(key: SchedKey, values: &[u64]) -> Result<(), String> {
    let word = key.word();
    let (least, most) = bounds(key);
    let right = match key {
        SchedKey::LasThresholds => (1..=THRESHOLDS_MAX).contains(&values.len()),
        key if key.per_class() => values.len() == Class::ALL.len(),
        _ => values.len() == 1,
    };
    if !right {
        return Err(format!("`scheduling.{word}` has {} values", values.len()));
    }
    if let Some(value) = values.iter().find(|value| !(least..=most).contains(value)) {
        let show = |value| text(key, &[value]);
        return Err(format!(
            "`scheduling.{word}` of {}: use {} to {}",
            show(*value),
            show(least),
            show(most)
        ));
    }
    let rises = |values: &[u64]| values.windows(2).all(|two| two[0] < two[1]);
    if key == SchedKey::LasThresholds && !rises(values) {
        return Err(format!(
            "`scheduling.{word}` of {}: each has to be more than the one before it",
            text(key, values)
        ));
    }
    Ok(())
}

/// Whether all settings make sense together.
///
/// # Errors
/// The two that contradict each other.
pub fn agree(settings: &SchedSettings) -> Result<(), String> {
    let times = settings.grace_ms.iter().zip(&settings.default_time_ms);
    if let Some((grace, time)) = times.into_iter().find(|(grace, time)| grace > time) {
        return Err(format!(
            "`scheduling.grace` of {} is longer than `scheduling.default_time` of {} of the same class: a job would have its notice before it is safe from it",
            length_text(*grace),
            length_text(*time)
        ));
    }
    let longest = settings.grace_ms.iter().copied().max().unwrap_or(0);
    if settings.policy == Policy::Las && settings.las_quantum_ms < longest {
        return Err(format!(
            "`scheduling.las_quantum` of {} is shorter than the longest `scheduling.grace` of {}: attempts would be on notice for longer than they run",
            length_text(settings.las_quantum_ms),
            length_text(longest)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_comes_back_and_the_shipped_ones_make_sense() {
        let shipped = SchedSettings::default();
        let mut again = SchedSettings {
            reservations: 0,
            age_limit_ms: [0; 4],
            default_time_ms: [0; 4],
            grace_ms: [0; 4],
            kill_ms: 0,
            hold_ms: 0,
            half_life_ms: 0,
            las_thresholds: Vec::new(),
            las_quantum_ms: 0,
            las_promote: 0,
            keep_gpu_share: false,
            policy: Policy::Las,
            always_saved: false,
        };
        for key in SchedKey::ALL {
            let values = values(&shipped, key);
            assert_eq!(check(key, &values), Ok(()), "{key:?}");
            put(&mut again, key, &values);
        }
        assert_eq!(again, shipped);
        assert_eq!(agree(&shipped), Ok(()));
        assert_eq!(
            agree(&SchedSettings {
                policy: Policy::Las,
                ..shipped
            }),
            Ok(())
        );
    }

    #[test]
    fn zero_and_too_much_are_refused_and_it_is_said_what_is_right() {
        for (key, values, part) in [
            (SchedKey::Reservations, vec![0], "of 0: use 1 to 1000"),
            (SchedKey::Grace, vec![600_001; 4], "use 1s to 10m"),
            (SchedKey::DefaultTime, vec![0; 4], "use 1m to 366d"),
            (SchedKey::DefaultTime, vec![60_000], "has 1 values"),
            (SchedKey::Hold, vec![u64::MAX], "use 1s to 1h"),
            (SchedKey::Policy, vec![2], "use fair to las"),
            (SchedKey::LasThresholds, vec![], "has 0 values"),
            (
                SchedKey::LasThresholds,
                vec![HOUR_MS, HOUR_MS],
                "more than the one before",
            ),
            (SchedKey::LasThresholds, vec![u64::MAX], "use 1m to"),
        ] {
            let why = check(key, &values).expect_err(part);
            assert!(why.contains(part), "{part}: {why}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let short = SchedSettings {
            default_time_ms: [DAY_MS, DAY_MS, MINUTE_MS, DAY_MS],
            ..SchedSettings::default()
        };
        assert!(
            agree(&short)
                .expect_err("notice is longer")
                .contains("default_time")
        );
        let hasty = SchedSettings {
            policy: Policy::Las,
            las_quantum_ms: MINUTE_MS,
            ..SchedSettings::default()
        };
        assert!(
            agree(&hasty)
                .expect_err("slices are shorter")
                .contains("las_quantum")
        );
        let unused = SchedSettings {
            policy: Policy::Fair,
            ..hasty
        };
        assert_eq!(agree(&unused), Ok(()));
    }
}
