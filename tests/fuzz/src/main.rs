//! Hands libFuzzer's inputs to the target that MLCTL_FUZZ_TARGET names; every other change of an input is the target's own.
//! Does NOT know what a target reads.
#![forbid(unsafe_code)]
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use mlctl_tests::fuzz::Target;

static TARGET: LazyLock<(Target, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let name = std::env::var("MLCTL_FUZZ_TARGET").unwrap_or_default();
    let target = Target::named(&name).expect("MLCTL_FUZZ_TARGET names a target");
    (target, (target.seeds)())
});

fuzz_target!(|bytes: &[u8]| (TARGET.0.run)(bytes));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let (target, seeds) = &*TARGET;
    let changed = target.mutated(u64::from(seed), seeds, &data[..size]);
    let length = changed.len().min(max_size);
    data[..length].copy_from_slice(&changed[..length]);
    length
});
