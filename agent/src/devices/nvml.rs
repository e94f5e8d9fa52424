//! What the NVIDIA driver says. The only file that names its library.
//! One device that cannot be read never hides the others. Does NOT pretend devices.

use mlctl_proto::persist::Device;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// What a driver shows.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Devices that answer.
    pub(super) devices: Vec<Device>,
    /// One sentence per device that does not.
    pub(super) errors: Vec<String>,
}

/// Why there is nothing to show.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// No driver library: a node without GPUs.
    NoLibrary,
    /// A library that does not work; one sentence.
    Broken(String),
}

/// Asks the library at `path` (empty: where the system finds it).
pub(super) fn look(path: &str) -> Result<Found, Absent> {
    let mut builder = Nvml::builder();
    if !path.is_empty() {
        builder.lib_path(path.as_ref());
    }
    let nvml = builder.init().map_err(|error| match error {
        NvmlError::LibloadingError(_) => Absent::NoLibrary,
        error => Absent::Broken(format!("the NVIDIA driver does not answer: {error}")),
    })?;
    let count = nvml.device_count().map_err(|error| {
        Absent::Broken(format!(
            "the NVIDIA driver does not count its devices: {error}"
        ))
    })?;
    let mut found = Found::default();
    for index in 0..count {
        match device(&nvml, index) {
            Ok(device) => found.devices.push(device),
            Err(error) => found
                .errors
                .push(format!("GPU {index} cannot be read: {error}")),
        }
    }
    Ok(found)
}

fn device(nvml: &Nvml, index: u32) -> Result<Device, NvmlError> {
    let device = nvml.device_by_index(index)?;
    Ok(Device {
        uuid: device.uuid()?,
        index,
        model: device.name()?,
        memory_bytes: device.memory_info()?.total,
        pci_bus_id: device.pci_info()?.bus_id,
        simulated: false,
        // See `topology`: the driver tells it only of GPUs that are NUMA nodes themselves, and then not whose processors are near.
        numa_node: None,
    })
}
