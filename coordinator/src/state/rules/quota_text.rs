//! Why a quota or a budget does not let a job start, in words and with its numbers. The same for apply, `why` and `quota explain`.
use mlctl_proto::ids::clip;

use super::budget::Exhausted;
use super::flavors::{flavor_text, gpu_hours_text, gpus_text, limit_text};
use super::quota::Shortfall;
use crate::state::view::teams::{Flavor, Limit};

/// The inequality that fails, with its numbers, at the level where it does (docs/QUOTAS.md, Quotas).
pub fn shortfall(short: &Shortfall) -> String {
    let flavor = flavor_text(&short.flavor);
    let (load, adds) = (gpus_text(short.load), gpus_text(short.adds));
    let nominal = gpus_text(short.nominal);
    let beyond = match short.borrow {
        Limit::Units(0) => String::new(),
        more => format!(" + {} borrowed", limit_text(more)),
    };
    format!(
        "quota of team {}: {load} {flavor} in use or kept + {adds} asked for > {nominal} of its own{beyond}",
        clip(&short.team)
    )
}

/// The budget that covers no more, with its numbers (docs/QUOTAS.md, Budgets).
pub fn exhausted(short: &Exhausted, flavor: &Flavor) -> String {
    format!(
        "budget of team {}: {} of {} left of {}, and {} are needed",
        clip(&short.team),
        gpu_hours_text(short.left),
        flavor_text(flavor),
        gpu_hours_text(short.limit),
        gpu_hours_text(short.needs),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::records::WhenExhausted;

    #[test]
    fn the_numbers_of_the_level_that_fails_are_told() {
        let flavor = Flavor {
            kind: "h100".into(),
            pool: None,
        };
        let short = Shortfall {
            team: "acme/vision".into(),
            flavor: flavor.clone(),
            load: 40 * 7_000,
            adds: 17 * 7_000,
            nominal: 48 * 7_000,
            borrow: Limit::Units(8 * 7_000),
        };
        assert_eq!(
            shortfall(&short),
            "quota of team acme/vision: 40 H100 in use or kept + 17 asked for > 48 of its own + 8 borrowed"
        );
        let root = Shortfall {
            borrow: Limit::Units(0),
            ..short
        };
        assert!(shortfall(&root).ends_with("> 48 of its own"));
        let hour = 7_000 * 3_600_000;
        let short = Exhausted {
            team: "acme".into(),
            needs: 8 * hour,
            left: hour / 2,
            limit: 95 * hour,
            when_exhausted: WhenExhausted::Hold,
        };
        assert_eq!(
            exhausted(&short, &flavor),
            "budget of team acme: 0.5 GPU-h of H100 left of 95 GPU-h, and 8 GPU-h are needed"
        );
    }
}
