//! The inventory through a driver library, with the fake one of `tests/fake-nvml`: all devices, one lost, a driver that does not start.
//! Does NOT need a GPU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use mlctl_agent::devices::dirt::Devices;
use mlctl_agent::devices::probe::{Probe, probe};
use mlctl_proto::persist::Device;

static LIBRARY: LazyLock<PathBuf> = LazyLock::new(library);

/// The fake library beside this test's executable. Cargo builds it where it is missing or stale: no crate can depend on a cdylib.
fn library() -> PathBuf {
    let executable = std::env::current_exe().expect("this test");
    let profile = executable
        .ancestors()
        .find(|dir| dir.join("deps").is_dir())
        .expect("target/<profile>");
    let name = profile
        .file_name()
        .expect("a profile")
        .to_string_lossy()
        .into_owned();
    let name = if name == "debug" {
        "dev".to_owned()
    } else {
        name
    };
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--offline",
            "--package",
            "mlctl-fake-nvml",
            "--profile",
            &name,
            "--target-dir",
        ])
        .arg(profile.parent().expect("target"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(
        built.expect("cargo").success(),
        "the fake driver library cannot be built"
    );
    profile.join("libfake_nvml.so")
}

fn look(state: &Path, text: &str) -> Probe {
    std::fs::write(state, text).expect("written");
    probe("n", LIBRARY.to_str().expect("UTF-8"), 4)
}

/// A process that is there counts, one that is not does not, and a device that does not answer is not called free.
fn what_is_on_a_device(state: &Path, devices: &[Device]) {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let asked = Devices::new(LIBRARY.to_str().expect("UTF-8"), devices);
    let uuids: Vec<String> = devices.iter().map(|one| one.uuid.clone()).collect();
    let dirt = |text: &str| {
        std::fs::write(state, text).expect("written");
        runtime.block_on(asked.dirt(&uuids))
    };
    let own = std::process::id();
    let gone = u32::MAX - 1;
    let dirty = dirt(&format!("gpus 8\nproc 2 {own}\nproc 5 {gone}\n"));
    assert_eq!((dirty.len(), &dirty[0].uuid), (1, &uuids[2]));
    assert!(
        dirty[0].why.starts_with(&format!("process {own} (")),
        "{dirty:?}"
    );
    let lost = dirt("gpus 8\nlost 3\n");
    assert_eq!((lost.len(), &lost[0].uuid), (1, &uuids[3]));
    assert!(
        lost[0].why.contains("does not say what is on it"),
        "{lost:?}"
    );
    assert_eq!(dirt("gpus 8\n"), [], "it answers again");
    std::fs::write(state, format!("gpus 8\nproc 2 {own}\n")).expect("written");
    let begun = std::time::Instant::now();
    let still = runtime.block_on(asked.settled(&uuids));
    assert_eq!(still.len(), 1, "it was given its second");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
}

/// One test, because the control file's name is in the environment of the process.
#[test]
fn devices_come_from_the_driver_and_one_lost_device_hides_no_other() {
    if std::env::var_os("FAKE_NVML_STATE").is_none() {
        // Run again with the variable set: it cannot be set safely in a process that already has threads.
        let dir = tempfile::tempdir().expect("dir");
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "devices_come_from_the_driver_and_one_lost_device_hides_no_other",
            ])
            .env("FAKE_NVML_STATE", dir.path().join("state"))
            .status();
        assert!(status.expect("run").success(), "see above");
        return;
    }
    let state = PathBuf::from(std::env::var_os("FAKE_NVML_STATE").expect("just checked"));

    let whole = look(&state, "gpus 8\n");
    assert_eq!((whole.devices.len(), whole.errors.len()), (8, 0));
    let uuids: std::collections::BTreeSet<_> =
        whole.devices.iter().map(|d| d.uuid.clone()).collect();
    assert_eq!(uuids.len(), 8, "each has its own name");
    let third = &whole.devices[3];
    assert_eq!(
        (third.model.as_str(), third.memory_bytes, third.simulated),
        ("NVIDIA H100 80GB HBM3", 80 << 30, false)
    );
    assert_eq!(third.pci_bus_id, "00000000:04:00.0");

    let one_lost = look(&state, "gpus 8\nlost 3\n");
    assert_eq!((one_lost.devices.len(), one_lost.errors.len()), (7, 1));
    assert!(one_lost.devices.iter().all(|device| device.index != 3));
    assert!(
        one_lost.errors[0].contains("GPU 3"),
        "{:?}",
        one_lost.errors
    );

    what_is_on_a_device(&state, &whole.devices);

    let none = look(&state, "gpus 0\n");
    assert_eq!(
        none,
        Probe::default(),
        "a driver is there, so nothing is pretended"
    );

    let broken = look(&state, "broken\n");
    assert_eq!(
        (broken.devices.len(), broken.errors.len()),
        (0, 1),
        "a broken driver is said, and nothing is pretended"
    );

    let absent = probe("n", "/nonexistent/libnvidia-ml.so.1", 0);
    assert_eq!(absent, Probe::default(), "no library: a node without GPUs");
}
