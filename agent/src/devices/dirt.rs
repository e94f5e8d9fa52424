//! What is on devices that should be free: a process that outlived its job, or a driver that does not answer.
//! Does NOT end such a process: it is nobody's that this cluster knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::persist::{Device, DirtyDevice};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::nvml::{Absent, Loaded, OnDevice};

/// How long a driver may take to let go of what a dead process held, before its device is called dirty.
const SETTLES: Duration = Duration::from_secs(1);
/// Between two looks meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
/// A call of the driver that takes longer has no answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Processes that serve every user of a device and stay when those go.
const SERVERS: [&str; 1] = ["nvidia-cuda-mps"];
/// Processes named in one sentence.
const NAMED: usize = 3;

/// The driver of this node, asked for what is on its devices. One call at a time: a driver that hangs holds up one thread.
#[derive(Debug)]
pub struct Devices {
    path: String,
    /// UUIDs of devices that the driver showed; others are pretended, and nothing is on those.
    real: BTreeSet<String>,
    driver: Arc<Mutex<Option<Loaded>>>,
}

impl Devices {
    /// Of a node with these devices, whose driver library lies at `path` (empty: where the system finds it).
    pub fn new(path: &str, devices: &[Device]) -> Self {
        let real = devices.iter().filter(|device| !device.simulated);
        Self {
            path: path.to_owned(),
            real: real.map(|device| device.uuid.clone()).collect(),
            driver: Arc::default(),
        }
    }

    /// What is on any device that a driver showed.
    pub async fn all_dirt(&self) -> Vec<DirtyDevice> {
        let all: Vec<String> = self.real.iter().cloned().collect();
        self.dirt(&all).await
    }

    /// Which of `uuids` still have something on them after at most a few seconds.
    pub async fn settled(&self, uuids: &[String]) -> Vec<DirtyDevice> {
        let end = Instant::now() + SETTLES;
        loop {
            let dirty = self.dirt(uuids).await;
            if dirty.is_empty() || Instant::now() >= end {
                return dirty;
            }
            sleep(PAUSE).await;
        }
    }

    /// Which of `uuids` have something on them now. Who does not know a device knows of nothing on it.
    pub async fn dirt(&self, uuids: &[String]) -> Vec<DirtyDevice> {
        let asked = uuids.iter().filter(|uuid| self.real.contains(*uuid));
        let asked: Vec<String> = asked.cloned().collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let silent = asked.clone();
        match timeout(ANSWER, self.ask(asked)).await {
            Ok(Some(dirty)) => dirty,
            Ok(None) | Err(_) => {
                let why = format!("the driver gives no answer within {} s", ANSWER.as_secs());
                let device = |uuid| DirtyDevice {
                    uuid,
                    why: why.clone(),
                };
                silent.into_iter().map(device).collect()
            }
        }
    }

    async fn ask(&self, uuids: Vec<String>) -> Option<Vec<DirtyDevice>> {
        let mut driver = self.driver.clone().lock_owned().await;
        let path = self.path.clone();
        let asking = tokio::task::spawn_blocking(move || ask(&mut driver, &path, uuids));
        asking.await.ok()
    }
}

/// Asks for each device; loads the driver if it is not, and once more after it failed.
fn ask(driver: &mut Option<Loaded>, path: &str, uuids: Vec<String>) -> Vec<DirtyDevice> {
    if driver.is_none() {
        match Loaded::new(path) {
            Ok(loaded) => *driver = Some(loaded),
            // It was there when the inventory was taken: an update of the driver, or worse.
            Err(absent) => return all(uuids, &why_absent(absent)),
        }
    }
    let Some(loaded) = driver.as_ref() else {
        return Vec::new();
    };
    let (mut dirty, mut failed) = (Vec::new(), false);
    for uuid in uuids {
        let why = match loaded.on_device(&uuid) {
            Ok(OnDevice::NotTold) => None,
            Ok(OnDevice::Processes(pids)) => named(pids.into_iter().map(|pid| (pid, name(pid)))),
            Err(error) => {
                failed = true;
                Some(format!("the driver does not say what is on it: {error}"))
            }
        };
        dirty.extend(why.map(|why| DirtyDevice { uuid, why }));
    }
    if failed {
        *driver = None;
    }
    dirty
}

fn all(uuids: Vec<String>, why: &str) -> Vec<DirtyDevice> {
    let device = |uuid| DirtyDevice {
        uuid,
        why: why.to_owned(),
    };
    uuids.into_iter().map(device).collect()
}

fn why_absent(absent: Absent) -> String {
    match absent {
        Absent::NoLibrary => "the driver library is not there any more".into(),
        Absent::Broken(why) => why,
    }
}

/// A process's name, empty if it is gone or not of this namespace.
fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

/// `process 7 (python)`; servers that stay are left out, and nothing is nothing.
fn named(processes: impl Iterator<Item = (u32, String)>) -> Option<String> {
    let stays = |name: &str| SERVERS.iter().any(|server| name.starts_with(server));
    let words = processes
        .filter(|(_, name)| !stays(name))
        .map(|(pid, name)| match name.as_str() {
            "" => pid.to_string(),
            name => format!("{pid} ({name})"),
        });
    let words: Vec<String> = words.collect();
    let more = words.len().saturating_sub(NAMED);
    let listed = words[..words.len().min(NAMED)].join(", ");
    match (words.len(), more) {
        (0, _) => None,
        (1, _) => Some(format!("process {listed}")),
        (_, 0) => Some(format!("processes {listed}")),
        (_, more) => Some(format!("processes {listed} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(processes: &[(u32, &str)]) -> Option<String> {
        named(
            processes
                .iter()
                .map(|(pid, name)| (*pid, (*name).to_owned())),
        )
    }

    #[test]
    fn what_is_on_a_device_is_named_and_servers_do_not_count() {
        assert_eq!(words(&[]), None);
        assert_eq!(words(&[(7, "nvidia-cuda-mps-server")]), None);
        assert_eq!(
            words(&[(7, "python")]).as_deref(),
            Some("process 7 (python)")
        );
        assert_eq!(
            words(&[(7, ""), (8, "a")]).as_deref(),
            Some("processes 7, 8 (a)")
        );
        let many: Vec<(u32, &str)> = (1..=5).map(|pid| (pid, "x")).collect();
        let want = "processes 1 (x), 2 (x), 3 (x) and 2 more";
        assert_eq!(words(&many).as_deref(), Some(want));
    }

    #[tokio::test]
    async fn pretended_and_unknown_devices_have_nothing_on_them_and_cost_nothing() {
        let pretended = Device {
            uuid: "SIM-n-0".into(),
            simulated: true,
            ..Device::default()
        };
        let devices = Devices::new("/nonexistent/libnvidia-ml.so.1", &[pretended]);
        let uuids = ["SIM-n-0".to_owned(), "GPU-else".to_owned()];
        assert_eq!(devices.settled(&uuids).await, []);
    }

    #[tokio::test]
    async fn a_driver_that_went_away_leaves_its_devices_dirty() {
        let real = Device {
            uuid: "GPU-a".into(),
            ..Device::default()
        };
        let devices = Devices::new("/nonexistent/libnvidia-ml.so.1", &[real]);
        let dirty = devices.dirt(&["GPU-a".to_owned()]).await;
        assert_eq!(dirty[0].why, "the driver library is not there any more");
    }
}
