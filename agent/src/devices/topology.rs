//! What the kernel tells of where devices and processors are: the NUMA node of a device on the bus, and the processors of each node.
//! Read once, when the agent starts. Does NOT ask the driver: NVML names a NUMA node only for GPUs that are one themselves, whose memory it is,
//! and that node has no processors. What cannot be read is unknown, never an error.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use mlctl_proto::persist::Device;
use mlctl_proto::spec::Ranges;

use crate::launch::cpus::Topology;

/// Where Linux tells which processors this process may use.
pub const STATUS: &str = "/proc/self/status";

/// The longest file that is read; a list of processors is shorter on every machine.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// Above every number of a processor: kernels are built for 8,192 at most.
const CPU_MAX: u32 = 65_535;

/// Finds out where the `devices` are, and notes it in each. `sysfs`: the kernel's view of devices, usually `/sys`; `status`: the file that says
/// which processors may be used.
pub fn read(sysfs: &Path, status: &Path, devices: &mut [Device]) -> Topology {
    let mut topology = Topology::default();
    for device in devices.iter_mut() {
        device.numa_node = numa_node(sysfs, &device.pci_bus_id);
        if let Some(node) = device.numa_node {
            topology.devices.insert(device.uuid.clone(), node);
        }
    }
    // A node without devices, or with pretended ones: nothing will be bound.
    if topology.devices.is_empty() {
        return topology;
    }
    let Some(allowed) = allowed(status) else {
        return topology;
    };
    let dir = sysfs.join("devices/system/node");
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node"));
        let Some(node) = number.and_then(number_of) else {
            continue;
        };
        let list = text(&entry.path().join("cpulist")).and_then(|text| cpus(&text));
        let usable = list.unwrap_or_default().and(&allowed);
        if !usable.is_empty() {
            topology.nodes.insert(node, usable);
        }
    }
    topology
}

/// The NUMA node of the device at `bus_id`, as NVML writes it. Kernels say -1 where the firmware tells nothing.
fn numa_node(sysfs: &Path, bus_id: &str) -> Option<u32> {
    let folder = sysfs.join("bus/pci/devices").join(address(bus_id)?);
    number_of(text(&folder.join("numa_node"))?.trim())
}

/// `00000000:3B:00.0`, as NVML writes an address, as the kernel does: `0000:3b:00.0`. It becomes part of a path, so it is nothing else.
fn address(bus_id: &str) -> Option<String> {
    let (domain, rest) = bus_id.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let hex = |text: &str, most: usize| {
        let sound = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        sound.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let (domain, bus) = (hex(domain, 8)?, hex(bus, 2)?);
    let (slot, function) = (hex(slot, 2)?, hex(function, 1)?);
    Some(format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"))
}

/// The processors that this process, and so what it starts, may use: those of its cpuset and its mask.
fn allowed(status: &Path) -> Option<Ranges> {
    let text = text(status)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    cpus(line)
}

/// A list as kernels write them: `0-27,56-83`. A node of memory alone has an empty one.
fn cpus(list: &str) -> Option<Ranges> {
    match list.trim() {
        "" => Some(Ranges::new()),
        list => Ranges::parse(list, CPU_MAX).ok(),
    }
}

fn number_of(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// What is in a file; `None` if it cannot be read, is longer than such a file ever is, or is no text.
fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    let read = file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text);
    read.is_ok_and(|bytes| bytes as u64 <= TEXT_BYTES_MAX)
        .then_some(text)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A made-up machine.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(files: &[(&str, &[u8])]) -> Self {
            let machine = Self(tempfile::tempdir().expect("a directory"));
            for (name, content) in files {
                let path = machine.path(name);
                fs::create_dir_all(path.parent().expect("not the root")).expect("made");
                fs::write(path, content).expect("written");
            }
            machine
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// What is read of it with devices at these addresses, `GPU-0` and on.
        fn read(&self, addresses: &[&str]) -> (Topology, Vec<Option<u32>>) {
            let device = |(index, bus): (usize, &&str)| Device {
                uuid: format!("GPU-{index}"),
                pci_bus_id: (*bus).to_owned(),
                ..Device::default()
            };
            let mut devices: Vec<Device> = addresses.iter().enumerate().map(device).collect();
            let topology = read(self.0.path(), &self.path("status"), &mut devices);
            (topology, devices.iter().map(|one| one.numa_node).collect())
        }
    }

    fn shown(topology: &Topology) -> Vec<(u32, String)> {
        let nodes = topology.nodes.iter();
        nodes
            .map(|(node, cpus)| (*node, cpus.to_string()))
            .collect()
    }

    const NODES: &str = "devices/system/node";
    const PCI: &str = "bus/pci/devices";

    #[test]
    fn a_machine_with_two_sockets() {
        let machine = Machine::new(&[
            (&format!("{NODES}/node0/cpulist"), b"0-27,56-83\n"),
            (&format!("{NODES}/node1/cpulist"), b"28-55,84-111\n"),
            // Memory of another kind, without processors.
            (&format!("{NODES}/node2/cpulist"), b"\n"),
            (&format!("{NODES}/possible"), b"0-2\n"),
            (&format!("{PCI}/0000:3b:00.0/numa_node"), b"0\n"),
            (&format!("{PCI}/10000:af:1f.7/numa_node"), b"1\n"),
            (&format!("{PCI}/0000:d8:00.0/numa_node"), b"-1\n"),
            ("status", b"Name:\tmlctl\nCpus_allowed_list:\t0-111\n"),
        ]);
        let addresses = [
            "00000000:3B:00.0",
            "00010000:AF:1F.7",
            "00000000:D8:00.0",
            "00000000:01:00.0",
            "",
        ];
        let (topology, devices) = machine.read(&addresses);
        assert_eq!(devices, [Some(0), Some(1), None, None, None]);
        let known = [("GPU-0".to_owned(), 0), ("GPU-1".to_owned(), 1)];
        assert_eq!(topology.devices, known.into());
        let cpus = [(0, "0-27,56-83".into()), (1, "28-55,84-111".into())];
        assert_eq!(shown(&topology), cpus);
    }

    #[test]
    fn only_what_the_agent_may_use_counts() {
        let files = |allowed: &'static [u8]| {
            Machine::new(&[
                (&format!("{NODES}/node0/cpulist"), b"0-3\n"),
                (&format!("{NODES}/node1/cpulist"), b"4-7,2048-2051\n"),
                (&format!("{PCI}/0000:3b:00.0/numa_node"), b"0\n"),
                ("status", allowed),
            ])
        };
        let nodes = |allowed| shown(&files(allowed).read(&["00000000:3B:00.0"]).0);
        let both = [(0, "2-3".to_owned()), (1, "4,2050-2051".to_owned())];
        assert_eq!(nodes(b"Cpus_allowed_list:\t2-4,2050-4000\n"), both);
        assert_eq!(nodes(b"Cpus_allowed_list:\t6\n"), [(1, "6".to_owned())]);
        for unknown in [
            &b""[..],
            b"Cpus_allowed_list:\tall\n",
            b"Cpus_allowed:\tff\n",
        ] {
            assert_eq!(nodes(unknown), []);
        }
    }

    #[test]
    fn what_makes_no_sense_is_unknown() {
        let long = [b"0,".repeat(40_000), b"0".to_vec()].concat();
        let lists: [&[u8]; 9] = [
            b"0-",
            b"3-1",
            b"0-99999999999999999999",
            b"0-65536",
            b"-1",
            b"0x3",
            b"\xff\xfe",
            b"0\0",
            &long,
        ];
        for list in lists {
            let machine = Machine::new(&[
                (&format!("{NODES}/node0/cpulist"), list),
                (&format!("{NODES}/node1/cpulist"), b"1"),
                (&format!("{NODES}/node-2/cpulist"), b"2"),
                (&format!("{NODES}/node4294967296/cpulist"), b"3"),
                (&format!("{NODES}/node/cpulist"), b"4"),
                (&format!("{PCI}/0000:3b:00.0/numa_node"), b"0"),
                ("status", b"Cpus_allowed_list: 0-9"),
            ]);
            let (topology, devices) = machine.read(&["00000000:3B:00.0"]);
            assert_eq!(devices, [Some(0)]);
            assert_eq!(shown(&topology), [(1, "1".to_owned())], "{list:?}");
        }
        for node in [&b"x"[..], b"", b"-1", b"+1", b"4294967296", b"1 2", b"\xff"] {
            let machine = Machine::new(&[(&format!("{PCI}/0000:3b:00.0/numa_node"), node)]);
            assert_eq!(machine.read(&["00000000:3B:00.0"]).1, [None], "{node:?}");
        }
        // Nothing at all is there: a machine without that part of /sys.
        let bare = Machine::new(&[("status", b"Cpus_allowed_list:\t0\n")]);
        assert_eq!(
            bare.read(&["00000000:3B:00.0"]),
            (Topology::default(), vec![None])
        );
    }

    #[test]
    fn an_address_leads_nowhere_else() {
        let good = [
            ("00000000:3B:00.0", "0000:3b:00.0"),
            ("0000:04:1f.7", "0000:04:1f.7"),
            ("00010000:AF:00.0", "10000:af:00.0"),
        ];
        for (bus, want) in good {
            assert_eq!(address(bus).as_deref(), Some(want));
        }
        for bad in [
            "",
            ":::.",
            "../../../etc:00:00.0",
            "0000:00:00",
            "0000:00:00.0/..",
            "0000:+1:00.0",
            "000000000:00:00.0",
            "0000:00:00.10",
            "0000:é:00.0",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
