//! How long a random suite may take: the seconds of tests/budget.toml, times its multiplier when everything is asked for.
//! Does NOT measure: a suite looks at its own clock.

use std::path::Path;
use std::time::Duration;

/// Whether `tests/run --full` asked for the long rounds.
pub fn full() -> bool {
    std::env::var_os("MLCTL_TEST_FULL").is_some_and(|value| value == "1")
}

/// The box of a suite.
///
/// # Panics
/// When tests/budget.toml is not there, or does not name the suite.
pub fn of(suite: &str) -> Duration {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml");
    let text = std::fs::read_to_string(&path).expect("tests/budget.toml is there");
    let table: toml::Table = text.parse().expect("tests/budget.toml is TOML");
    let number = |key: &str| {
        let value = table.get(key).and_then(toml::Value::as_integer);
        u64::try_from(value.expect("a number")).expect("not negative")
    };
    let times = if full() { number("full_multiplier") } else { 1 };
    Duration::from_secs(number(suite) * times)
}
