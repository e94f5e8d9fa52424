//! Samples in rounds, and the order statistics that are quoted of them.
//! Does NOT measure.

use serde_json::{Value, json};

/// Durations of one kind, in milliseconds, one list per round.
#[derive(Debug, Clone, Default)]
pub struct Samples(pub Vec<Vec<f64>>);

/// The value below which `percent` of `sorted` lie, between neighbours in proportion. NaN of nothing.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = last as f64 * percent / 100.0;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * at.fract()
}

impl Samples {
    fn sorted(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.0.iter().flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// Of all rounds together, in milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.sorted(), percent)
    }

    /// The lowest and the highest median of a round: how much the machine's moods matter.
    pub fn medians(&self) -> (f64, f64) {
        let medians: Vec<f64> = self
            .0
            .iter()
            .map(|round| Samples(vec![round.clone()]).percentile(50.0))
            .collect();
        (
            medians.iter().copied().fold(f64::NAN, f64::min),
            medians.iter().copied().fold(f64::NAN, f64::max),
        )
    }

    /// The figures and every sample.
    pub fn json(&self) -> Value {
        let rounded: Vec<Vec<f64>> = self
            .0
            .iter()
            .map(|round| {
                round
                    .iter()
                    .map(|ms| (ms * 1000.0).round() / 1000.0)
                    .collect()
            })
            .collect();
        json!({
            "count": self.sorted().len(), "p50_ms": self.percentile(50.0), "p99_ms": self.percentile(99.0), "rounds_ms": rounded,
        })
    }

    /// A row of a Markdown table.
    pub fn row(&self, what: &str) -> String {
        let (low, high) = self.medians();
        format!(
            "| {what} | {:.2} | {:.2} | {low:.2}–{high:.2} | {} |",
            self.percentile(50.0),
            self.percentile(99.0),
            self.sorted().len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_between_neighbours() {
        let samples = Samples(vec![vec![4.0, 1.0], vec![3.0, 2.0]]);
        for (percent, value) in [(0.0, 1.0), (50.0, 2.5), (100.0, 4.0)] {
            assert!(
                (samples.percentile(percent) - value).abs() < 1e-9,
                "{percent}"
            );
        }
        assert_eq!(samples.medians(), (2.5, 2.5));
        assert!(Samples::default().percentile(50.0).is_nan());
    }
}
