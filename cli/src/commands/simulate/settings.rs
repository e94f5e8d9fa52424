//! Which policy a replay runs with: `fair`, `las`, or a TOML file that changes some of the settings shipped for traces. Does NOT run anything.
use mlctl_coordinator::simulation::settings::shipped;
use mlctl_coordinator::state::view::policy::{Policy, SchedSettings};

/// A policy by name, with its settings.
#[derive(Debug)]
pub struct Chosen {
    /// As it was given.
    pub name: String,
    /// What it runs with.
    pub settings: SchedSettings,
}

/// The policy that `text` names.
pub fn chosen(text: &str) -> Result<Chosen, String> {
    let settings = match policy(text) {
        Some(policy) => shipped(policy),
        None => file(text)?,
    };
    Ok(Chosen {
        name: text.to_owned(),
        settings,
    })
}

fn policy(text: &str) -> Option<Policy> {
    match text {
        "fair" => Some(Policy::Fair),
        "las" => Some(Policy::Las),
        _ => None,
    }
}

fn file(path: &str) -> Result<SchedSettings, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("`{path}` is neither `fair` nor `las`, and as a file it cannot be read: {error}")
    })?;
    let table: toml::Table = text
        .parse()
        .map_err(|error| format!("{path} is no TOML: {error}"))?;
    let named = table
        .get("policy")
        .map_or(Some("fair"), toml::Value::as_str);
    let named = named
        .and_then(policy)
        .ok_or_else(|| format!("{path}: `policy` has to be \"fair\" or \"las\""))?;
    let mut settings = shipped(named);
    for (name, value) in &table {
        set(&mut settings, name, value).map_err(|what| format!("{path}: {what}"))?;
    }
    Ok(settings)
}

fn set(settings: &mut SchedSettings, name: &str, value: &toml::Value) -> Result<(), String> {
    match name {
        "policy" => {}
        "reservations" => settings.reservations = small(name, value)?,
        "age_limit_ms" => settings.age_limit_ms = per_class(name, value)?,
        "default_time_ms" => settings.default_time_ms = per_class(name, value)?,
        "grace_ms" => settings.grace_ms = per_class(name, value)?,
        "kill_ms" => settings.kill_ms = number(name, value)?,
        "hold_ms" => settings.hold_ms = number(name, value)?,
        "half_life_ms" => settings.half_life_ms = number(name, value)?.max(1),
        "las_thresholds" => settings.las_thresholds = list(name, value)?,
        "las_quantum_ms" => settings.las_quantum_ms = number(name, value)?,
        "las_promote" => settings.las_promote = small(name, value)?,
        "always_saved" => settings.always_saved = truth(name, value)?,
        "keep_gpu_share" => settings.keep_gpu_share = truth(name, value)?,
        _ => return Err(format!("there is no setting `{name}`")),
    }
    Ok(())
}

fn number(name: &str, value: &toml::Value) -> Result<u64, String> {
    let whole = value.as_integer().and_then(|one| u64::try_from(one).ok());
    whole.ok_or_else(|| format!("`{name}` has to be a whole number, not below 0"))
}

fn small(name: &str, value: &toml::Value) -> Result<u32, String> {
    u32::try_from(number(name, value)?).map_err(|_| format!("`{name}` is too large"))
}

fn truth(name: &str, value: &toml::Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| format!("`{name}` has to be true or false"))
}

fn list(name: &str, value: &toml::Value) -> Result<Vec<u64>, String> {
    let all = value
        .as_array()
        .ok_or_else(|| format!("`{name}` has to be a list of whole numbers"))?;
    all.iter().map(|one| number(name, one)).collect()
}

fn per_class(name: &str, value: &toml::Value) -> Result<[u64; 4], String> {
    if value.is_integer() {
        return Ok([number(name, value)?; 4]);
    }
    let all = list(name, value)?;
    all.try_into()
        .map_err(|_| format!("`{name}` has to be one number, or four: low, normal, high, critical"))
}
