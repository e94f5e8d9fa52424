//! The RDMA ports of this machine that can be used: what NCCL is told, so that it tries no port that is down or kept for storage.
//! Reads what the kernel shows of its devices. Does NOT decide whether NCCL uses RDMA at all.

use std::fs;
use std::path::Path;

/// Where the kernel shows RDMA devices.
pub const DEVICES: &str = "/sys/class/infiniband";

/// Active ports as `device:port`, sorted. `only`: devices that jobs may use; empty: all.
pub fn active_ports(devices: &Path, only: &[String]) -> Vec<String> {
    let wanted = |device: &String| only.is_empty() || only.contains(device);
    let mut active = Vec::new();
    for device in names(devices).into_iter().filter(wanted) {
        let ports = devices.join(&device).join("ports");
        for port in names(&ports) {
            // `4: ACTIVE`, as in the kernel's Documentation/ABI/stable/sysfs-class-infiniband.
            let state = fs::read_to_string(ports.join(&port).join("state")).unwrap_or_default();
            if state.trim_end().ends_with("ACTIVE") {
                active.push(format!("{device}:{port}"));
            }
        }
    }
    active
}

/// Sorted. A machine without RDMA has no such directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_up_and_allowed_are_found() {
        let root = tempfile::tempdir().expect("a directory");
        let port = |device: &str, port: &str, state: &str| {
            let dir = root.path().join(device).join("ports").join(port);
            fs::create_dir_all(&dir).expect("made");
            fs::write(dir.join("state"), state).expect("written");
        };
        port("mlx5_1", "1", "4: ACTIVE\n");
        port("mlx5_0", "2", "4: ACTIVE\n");
        port("mlx5_0", "1", "1: DOWN\n");
        port("mlx5_2", "1", "2: INIT\n");
        let found = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|&name| name.into()).collect();
            active_ports(root.path(), &only)
        };
        assert_eq!(found(&[]), ["mlx5_0:2", "mlx5_1:1"]);
        assert_eq!(found(&["mlx5_1", "mlx5_9"]), ["mlx5_1:1"]);
        assert!(found(&["mlx5_2"]).is_empty());
        assert!(active_ports(&root.path().join("none"), &[]).is_empty());
    }
}
