//! Which flavor a device is of, and units as people write them. A device is of the flavor that names its pool, else of one that names none; of
//! several it is of that with the longest name of a type. Does NOT know who holds it.
use std::collections::BTreeSet;

use crate::state::view::amounts::GPU;
use crate::state::view::teams::{Flavor, Limit};

/// Every flavor that some team names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flavors {
    named: BTreeSet<Flavor>,
}

impl Flavors {
    /// Of these.
    pub fn new(named: impl IntoIterator<Item = Flavor>) -> Self {
        Self {
            named: named.into_iter().collect(),
        }
    }

    /// Whether there is none: then nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Flavor> {
        self.named.iter()
    }

    /// The flavor of a device of `model` in `pool`; `None`: no team names it, so that it is free.
    pub fn of(&self, pool: &str, model: &str) -> Option<&Flavor> {
        let found = self
            .named
            .iter()
            .filter(|flavor| matches(flavor, pool, model));
        // The first by name of several that are equally good.
        found
            .rev()
            .max_by_key(|flavor| (flavor.pool.is_some(), flavor.kind.len()))
    }
}

/// Whether a device of `model` in `pool` could be of a flavor.
pub fn matches(flavor: &Flavor, pool: &str, model: &str) -> bool {
    let here = flavor.pool.as_deref().is_none_or(|named| named == pool);
    here && !flavor.kind.is_empty() && model.to_lowercase().contains(&*flavor.kind)
}

/// `h100@aws-spot`, as people read it.
pub fn flavor_text(flavor: &Flavor) -> String {
    match &flavor.pool {
        Some(pool) => format!("{}@{pool}", flavor.kind.to_uppercase()),
        None => flavor.kind.to_uppercase(),
    }
}

/// Units as GPUs: `40`, `0.5`, `0.143`. Cut, not rounded, after the third digit.
pub fn gpus_text(units: u64) -> String {
    let milli = u128::from(units) * 1_000 / u128::from(GPU);
    let (whole, rest) = (milli / 1_000, milli % 1_000);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = format!("{rest:03}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// A limit as GPUs, or the word for none.
pub fn limit_text(limit: Limit) -> String {
    match limit {
        Limit::Units(units) => gpus_text(units),
        Limit::Unlimited => "unlimited".into(),
    }
}

/// Unit-milliseconds as GPU-hours: `20000 GPU-h`, `0.5 GPU-h`.
pub fn gpu_hours_text(unit_ms: u64) -> String {
    format!("{} GPU-h", gpus_text(unit_ms / 3_600_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flavor(kind: &str, pool: Option<&str>) -> Flavor {
        Flavor {
            kind: kind.into(),
            pool: pool.map(Into::into),
        }
    }

    #[test]
    fn a_pool_counts_for_more_than_a_longer_name_and_that_for_more_than_a_shorter() {
        let all = [
            flavor("a100", None),
            flavor("h100", None),
            flavor("h100 80gb", None),
            flavor("h100", Some("spot")),
        ];
        let flavors = Flavors::new(all.clone());
        for (pool, model, found) in [
            ("spot", "NVIDIA H100 80GB HBM3", Some(&all[3])),
            ("own", "NVIDIA H100 80GB HBM3", Some(&all[2])),
            ("own", "NVIDIA H100 NVL", Some(&all[1])),
            ("spot", "NVIDIA A100", Some(&all[0])),
            ("own", "NVIDIA B200", None),
            ("own", "", None),
        ] {
            assert_eq!(flavors.of(pool, model), found, "{model} in {pool}");
        }
        let twins = [flavor("80gb", None), flavor("h100", None)];
        let first = Flavors::new(twins.clone());
        assert_eq!(first.of("own", "H100 80GB"), Some(&twins[0]), "by name");
        assert!(Flavors::default().is_empty() && Flavors::default().of("a", "b").is_none());
    }

    #[test]
    fn units_are_told_as_gpus() {
        for (units, text) in [
            (0, "0"),
            (7_000, "1"),
            (3_500, "0.5"),
            (1_000, "0.142"),
            (448_000, "64"),
            (7, "0.001"),
            (6, "0"),
            (u64::MAX, "2635249153387078.802"),
        ] {
            assert_eq!(gpus_text(units), text, "{units}");
        }
        assert_eq!(limit_text(Limit::Unlimited), "unlimited");
        assert_eq!(gpu_hours_text(7_000 * 3_600_000 * 20_000), "20000 GPU-h");
        assert_eq!(flavor_text(&flavor("h100", Some("spot"))), "H100@spot");
    }
}
