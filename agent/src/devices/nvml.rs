//! What the NVIDIA driver says. The only file that names its library.
//! One device that cannot be read never hides the others. Does NOT pretend devices.

use std::collections::BTreeSet;

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

/// The driver, loaded for as long as this lives.
#[derive(Debug)]
pub(super) struct Loaded(Nvml);

/// What a driver says of the processes on a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OnDevice {
    /// These, none of them twice; none is nothing.
    Processes(BTreeSet<u32>),
    /// It cannot tell, for this kind of device or by its age.
    NotTold,
}

impl Loaded {
    /// Loads the library at `path` (empty: where the system finds it).
    pub(super) fn new(path: &str) -> Result<Self, Absent> {
        load(path).map(Self)
    }

    /// The processes with a compute context on a device. A desktop's are not among them.
    ///
    /// # Errors
    /// One sentence: the device or the driver does not answer.
    pub(super) fn on_device(&self, uuid: &str) -> Result<OnDevice, String> {
        let device = self.0.device_by_uuid(uuid);
        match device.and_then(|device| device.running_compute_processes()) {
            Ok(processes) => {
                let pids = processes.iter().map(|process| process.pid);
                Ok(OnDevice::Processes(pids.collect()))
            }
            Err(
                NvmlError::NotSupported
                | NvmlError::FunctionNotFound
                | NvmlError::FailedToLoadSymbol(_),
            ) => Ok(OnDevice::NotTold),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn load(path: &str) -> Result<Nvml, Absent> {
    let mut builder = Nvml::builder();
    if !path.is_empty() {
        builder.lib_path(path.as_ref());
    }
    builder.init().map_err(|error| match error {
        NvmlError::LibloadingError(_) => Absent::NoLibrary,
        error => Absent::Broken(format!("the NVIDIA driver does not answer: {error}")),
    })
}

/// Asks the library at `path` (empty: where the system finds it).
pub(super) fn look(path: &str) -> Result<Found, Absent> {
    let nvml = load(path)?;
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
