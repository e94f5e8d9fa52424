//! The settings that traces run with: the shipped defaults of a live cluster but for four of them, the same for all traces and policies. Their hash is printed
//! with each result. Does NOT read a settings file.
use crate::state::view::policy::{Policy, SchedSettings};

const HOUR_MS: u64 = 3_600_000;

/// The shipped settings for traces. They differ from a live cluster's defaults only in: the class default time, that each running job counts as having a
/// durable checkpoint at every instant (the restart charge stands for it), and that a CPU job may take a GPU's processors. That devices may be shared by
/// anybody is said of the nodes ([`super::cluster`]).
pub fn shipped(policy: Policy) -> SchedSettings {
    SchedSettings {
        policy,
        default_time_ms: [4 * HOUR_MS; 4],
        always_saved: true,
        keep_gpu_share: false,
        ..SchedSettings::default()
    }
}

/// BLAKE3 of the settings' canonical text, but for the policy's name: one hash for all results of one settings file.
pub fn hash(settings: &SchedSettings) -> String {
    blake3::hash(canonical(settings).as_bytes())
        .to_hex()
        .to_string()
}

/// One `name = value` a line, in this order.
pub fn canonical(settings: &SchedSettings) -> String {
    let list = |values: &[u64]| {
        let values: Vec<String> = values.iter().map(u64::to_string).collect();
        format!("[{}]", values.join(", "))
    };
    let lines = [
        ("reservations", settings.reservations.to_string()),
        ("age_limit_ms", list(&settings.age_limit_ms)),
        ("default_time_ms", list(&settings.default_time_ms)),
        ("grace_ms", list(&settings.grace_ms)),
        ("kill_ms", settings.kill_ms.to_string()),
        ("hold_ms", settings.hold_ms.to_string()),
        ("half_life_ms", settings.half_life_ms.to_string()),
        ("las_thresholds", list(&settings.las_thresholds)),
        ("las_quantum_ms", settings.las_quantum_ms.to_string()),
        ("las_promote", settings.las_promote.to_string()),
        ("always_saved", settings.always_saved.to_string()),
        ("keep_gpu_share", settings.keep_gpu_share.to_string()),
        ("share", "any".to_owned()),
    ];
    let lines: Vec<String> = lines
        .iter()
        .map(|(name, value)| format!("{name} = {value}\n"))
        .collect();
    lines.concat()
}
