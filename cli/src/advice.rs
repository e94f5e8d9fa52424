//! How often a job might save: what its checkpoints cost, what a failure costs, and the interval at which both together cost least.
//! Pure: a job as the cluster tells it and an assumption go in, numbers come out. Does NOT print, and changes nothing.
//!
//! With C, what a save takes, and M, the mean time between failures of the job's nodes together, work lost and time spent saving are least
//! with √(2·C·M) of work between two saves: J. W. Young, "A first order approximation to the optimum checkpoint interval",
//! Communications of the ACM 17(9), 1974. The better estimate is J. T. Daly, "A higher order estimate of the optimum checkpoint interval for
//! restart dumps", Future Generation Computer Systems 22(3), 2006:
//! √(2·C·M)·(1 + ⅓·√(C/2M) + ⅑·C/2M) − C where C < 2·M, else M.
use mlctl_proto::api::{Checkpoint, Job};

/// Seconds of a day.
const DAY_S: f64 = 86_400.0;
/// An assumption about every node: how long it goes well. Of the training of Llama 3 (Grattafiori et al., "The Llama 3 Herd of Models",
/// 2024) 419 unexpected interruptions in 54 days on 16,384 GPUs are reported, which is 2,048 nodes: one for each node and 264 days.
pub const NODE_MTBF_DAYS: f64 = 54.0 * 2_048.0 / 419.0;
/// What overrides it.
pub const NODE_MTBF_VARIABLE: &str = "MLCTL_NODE_MTBF_DAYS";

/// What is to be said. Times in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// Between two checkpoints: the median of those that are listed.
    pub interval_s: f64,
    /// What a failure costs: on average half of that.
    pub loss_s: f64,
    /// Nodes of the job.
    pub nodes: u32,
    /// Between two failures of a node, as assumed, days.
    pub node_mtbf_days: f64,
    /// Between two failures of any of them.
    pub mtbf_s: f64,
    /// What follows from the cost of a save; `None`: it is not known.
    pub save: Option<Save>,
}

/// What follows from the cost of a save.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Save {
    /// That cost: the median of those that are known.
    pub save_s: f64,
    /// The best interval by Young.
    pub young_s: f64,
    /// By Daly.
    pub daly_s: f64,
    /// Part of all time that saving and failures cost now, 0 to 1.
    pub cost: f64,
    /// With the best interval.
    pub least_cost: f64,
}

/// The days of an environment variable's text.
///
/// # Errors
/// What to write instead.
pub fn node_mtbf_days(text: Option<&str>) -> Result<f64, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(NODE_MTBF_DAYS);
    };
    let days: Option<f64> = text.trim().parse().ok();
    days.filter(|days| days.is_finite() && *days > 0.0)
        .ok_or_else(|| {
            format!("{NODE_MTBF_VARIABLE} is `{}`: use days between two failures of one node, such as 264", mlctl_proto::ids::clip(text))
        })
}

/// What can be said of `job`, if two checkpoints of one attempt are there.
pub fn advice(job: &Job, node_mtbf_days: f64) -> Option<Advice> {
    let interval_s = median(intervals(&job.checkpoints))?;
    let nodes = job.nodes.max(1);
    let mtbf_s = node_mtbf_days * DAY_S / f64::from(nodes);
    let known = job.checkpoints.iter().filter(|one| one.save_ms > 0);
    let saves = known.map(|one| f64::from(one.save_ms) / 1_000.0).collect();
    Some(Advice {
        interval_s,
        loss_s: interval_s / 2.0,
        nodes,
        node_mtbf_days,
        mtbf_s,
        save: median(saves).map(|save_s| save(save_s, interval_s, mtbf_s)),
    })
}

fn save(save_s: f64, interval_s: f64, mtbf_s: f64) -> Save {
    let daly_s = daly(save_s, mtbf_s);
    Save {
        save_s,
        young_s: young(save_s, mtbf_s),
        daly_s,
        cost: cost(interval_s, save_s, mtbf_s),
        least_cost: cost(daly_s + save_s, save_s, mtbf_s),
    }
}

/// Of all time: saves, and half an interval for every failure. `interval_s` is from the end of one save to the end of the next.
fn cost(interval_s: f64, save_s: f64, mtbf_s: f64) -> f64 {
    let saves = save_s / interval_s.max(save_s);
    (saves + interval_s / 2.0 / mtbf_s).min(1.0)
}

fn young(save_s: f64, mtbf_s: f64) -> f64 {
    (2.0 * save_s * mtbf_s).sqrt()
}

fn daly(save_s: f64, mtbf_s: f64) -> f64 {
    if save_s >= 2.0 * mtbf_s {
        return mtbf_s;
    }
    let ratio = save_s / (2.0 * mtbf_s);
    young(save_s, mtbf_s) * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - save_s
}

/// Seconds between each two neighbours of one attempt.
fn intervals(list: &[Checkpoint]) -> Vec<f64> {
    let pairs = list.windows(2).filter_map(|pair| match pair {
        [one, next] if one.attempt == next.attempt => {
            let ms = next.sealed_ms.checked_sub(one.sealed_ms)?;
            (ms > 0).then_some(ms as f64 / 1_000.0)
        }
        _ => None,
    });
    pairs.collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let odd = values.len() % 2 == 1;
    let lower = values[if odd { middle } else { middle - 1 }];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(attempt: u64, sealed_s: i64, save_ms: u32) -> Checkpoint {
        Checkpoint {
            attempt,
            sealed_ms: 1_000_000 + sealed_s * 1_000,
            save_ms,
            ..Checkpoint::default()
        }
    }

    fn job(nodes: u32, checkpoints: Vec<Checkpoint>) -> Job {
        Job {
            nodes,
            checkpoints,
            ..Job::default()
        }
    }

    fn near(got: f64, wanted: f64) {
        let off = (got - wanted).abs() / wanted.abs().max(1e-12);
        assert!(off < 1e-4, "{got} is not {wanted}");
    }

    #[test]
    fn worked_numbers() {
        // Eight nodes that fail every 264 days: 33 days. A save of a minute: √(2 · 60 · 2,851,200).
        near(young(60.0, 33.0 * DAY_S), 18_497.1);
        near(daly(60.0, 33.0 * DAY_S), 18_457.1);
        // Daly's example of a large machine: C = 5 min, M = 6 h; √(2 · 300 · 21,600) = 3,600,
        // 3,600 · (1 + √(300 / 43,200) / 3 + 300 / 43,200 / 9) − 300.
        near(young(300.0, 21_600.0), 3_600.0);
        near(daly(300.0, 21_600.0), 3_402.78);
        // A save takes longer than a machine lasts.
        near(daly(100.0, 50.0), 50.0);
        near(daly(99.0, 50.0), 44.443_6);
    }

    #[test]
    fn what_is_said_of_a_job() {
        let list = vec![
            checkpoint(1, 0, 50_000),
            checkpoint(1, 600, 60_000),
            checkpoint(1, 1_800, 70_000),
            checkpoint(2, 90_000, 0),
            checkpoint(2, 90_900, 0),
        ];
        let advice = advice(&job(8, list), 264.0).expect("enough");
        near(advice.interval_s, 900.0);
        near(advice.loss_s, 450.0);
        near(advice.mtbf_s, 33.0 * DAY_S);
        let save = advice.save.expect("known");
        near(save.save_s, 60.0);
        near(save.young_s, 18_497.1);
        near(save.daly_s, 18_457.1);
        // 60 / 900 + 450 / 2,851,200.
        near(save.cost, 0.066_824_5);
        near(save.least_cost, 0.006_487_5);
        assert!(save.least_cost < save.cost);
    }

    #[test]
    fn nothing_is_made_up() {
        let none: [Vec<Checkpoint>; 4] = [
            vec![],
            vec![checkpoint(1, 0, 5)],
            vec![checkpoint(1, 0, 5), checkpoint(2, 60, 5)],
            vec![
                checkpoint(1, 60, 5),
                checkpoint(1, 60, 5),
                checkpoint(1, 0, 5),
            ],
        ];
        for list in none {
            assert_eq!(advice(&job(1, list), 264.0), None);
        }
        let unknown = vec![checkpoint(1, 0, 0), checkpoint(1, 60, 0)];
        let advice = advice(&job(0, unknown), 264.0).expect("an interval");
        assert_eq!((advice.save, advice.nodes), (None, 1));
        near(advice.loss_s, 30.0);
    }

    #[test]
    fn hostile_times_do_not_break_it() {
        let mut list = vec![checkpoint(1, 0, u32::MAX), checkpoint(1, 60, u32::MAX)];
        list[0].sealed_ms = i64::MIN;
        assert_eq!(advice(&job(u32::MAX, list.clone()), 1e-9), None);
        list[0].sealed_ms = 0;
        let advice = advice(&job(u32::MAX, list), 1e-9).expect("an interval");
        let save = advice.save.expect("known");
        assert!(save.daly_s.is_finite() && save.cost <= 1.0 && save.least_cost <= 1.0);
    }

    #[test]
    fn the_assumption() {
        near(NODE_MTBF_DAYS, 263.943);
        assert_eq!(node_mtbf_days(None), Ok(NODE_MTBF_DAYS));
        assert_eq!(node_mtbf_days(Some("")), Ok(NODE_MTBF_DAYS));
        assert_eq!(node_mtbf_days(Some(" 30.5 ")), Ok(30.5));
        for wrong in ["0", "-1", "nan", "inf", "a week", "\x1b"] {
            let why = node_mtbf_days(Some(wrong)).expect_err(wrong);
            assert!(
                why.contains("such as 264") && !why.contains('\x1b'),
                "{why}"
            );
        }
    }
}
