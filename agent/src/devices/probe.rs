//! The node's devices, whatever shows them: the driver first, else what the configuration pretends, else none.
//! Does NOT ask twice: the inventory is taken when the agent starts.

use mlctl_proto::persist::Device;

use super::nvml::{self, Absent};

/// The model of a pretended device.
const SIMULATED_MODEL: &str = "SIM";
/// The memory of a pretended device, bytes.
const SIMULATED_MEMORY: u64 = 80 << 30;

/// What a node has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Probe {
    /// Devices that can be given to jobs.
    pub devices: Vec<Device>,
    /// One sentence per device, or driver, that could not be read.
    pub errors: Vec<String>,
}

/// Looks for devices. `simulated` ones are made only where no driver library is.
pub fn probe(node: &str, nvml_path: &str, simulated: u32) -> Probe {
    match nvml::look(nvml_path) {
        Ok(found) => Probe {
            devices: found.devices,
            errors: found.errors,
        },
        Err(Absent::NoLibrary) => Probe {
            devices: pretend(node, simulated),
            errors: Vec::new(),
        },
        Err(Absent::Broken(why)) => Probe {
            devices: Vec::new(),
            errors: vec![why],
        },
    }
}

fn pretend(node: &str, count: u32) -> Vec<Device> {
    let device = |index| Device {
        uuid: format!("SIM-{node}-{index}"),
        index,
        model: SIMULATED_MODEL.into(),
        memory_bytes: SIMULATED_MEMORY,
        pci_bus_id: String::new(),
        simulated: true,
        numa_node: None,
    };
    (0..count).map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: &str = "/nonexistent/libnvidia-ml.so.1";

    #[test]
    fn without_a_driver_only_what_is_configured_is_pretended_and_marked() {
        assert_eq!(probe("n", NOWHERE, 0), Probe::default());
        let probe = probe("gpu-1", NOWHERE, 2);
        assert!(
            probe
                .devices
                .iter()
                .all(|d| d.simulated && d.model == "SIM")
        );
        let uuids: Vec<_> = probe.devices.iter().map(|d| d.uuid.as_str()).collect();
        assert_eq!(uuids, ["SIM-gpu-1-0", "SIM-gpu-1-1"]);
    }

    #[test]
    fn a_file_that_is_no_library_is_a_node_without_gpus() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("libnvidia-ml.so.1");
        std::fs::write(&path, b"not an ELF file").expect("written");
        assert_eq!(
            probe("n", path.to_str().expect("utf-8"), 0),
            Probe::default()
        );
    }
}
