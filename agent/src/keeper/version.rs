//! Which version of the keeper's protocol this process speaks: its build's. A build with debug assertions can be told to speak the one of
//! the release before, `MLCTL_KEEPER_PROTOCOL=1`, so that tests have agents and keepers of two builds. Does NOT know what the versions mean.
use super::protocol::PROTOCOL;

/// What a test tells.
#[cfg(debug_assertions)]
const VARIABLE: &str = "MLCTL_KEEPER_PROTOCOL";

/// The version that this process speaks.
#[cfg(debug_assertions)]
pub(super) fn own() -> u32 {
    use super::protocol::PROTOCOL_OLDEST;
    static OWN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let read = || {
        let told = std::env::var(VARIABLE).ok();
        let told = told.and_then(|text| text.parse().ok());
        told.filter(|own| (PROTOCOL_OLDEST..=PROTOCOL).contains(own))
            .unwrap_or(PROTOCOL)
    };
    *OWN.get_or_init(read)
}

/// The version that this process speaks.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(super) fn own() -> u32 {
    PROTOCOL
}

/// What a process hands on to keepers, whose environment is empty otherwise.
pub(crate) fn told() -> Option<(&'static str, std::ffi::OsString)> {
    #[cfg(debug_assertions)]
    return std::env::var_os(VARIABLE).map(|told| (VARIABLE, told));
    #[cfg(not(debug_assertions))]
    None
}
