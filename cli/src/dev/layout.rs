//! The directory of a dev cluster: its throw-away authority, certificates, configurations and data. Starts nothing.
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use mlctl_runtime::config::{ContextFile, write_private};
use mlctl_runtime::identity::{Bundle, Ca};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Longest path of a state directory: sockets below it must fit the kernel's 107 bytes.
const DIR_BYTES_MAX: usize = 60;

/// What a dev cluster consists of; `dev.json` in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dev {
    /// Format: 1.
    pub v: u32,
    /// The Raft members.
    pub coordinators: Vec<Member>,
    /// Names of its nodes.
    pub nodes: Vec<String>,
    /// Simulated GPUs per node.
    pub gpus: u32,
}

/// One coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its Raft member id, drawn once.
    pub id: u64,
    /// host:port on loopback.
    pub address: String,
}

/// Paths of a dev cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The state directory.
    pub dir: PathBuf,
}

impl Layout {
    /// The layout of `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The user's context.
    pub fn context(&self) -> PathBuf {
        self.dir.join("context.toml")
    }

    /// Where a coordinator lives.
    pub fn coordinator(&self, name: &str) -> PathBuf {
        self.dir.join("coordinators").join(name)
    }

    /// Where a node lives.
    pub fn node(&self, name: &str) -> PathBuf {
        self.dir.join("nodes").join(name)
    }

    /// What a process says.
    pub fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    /// What the cluster consists of, if there is one.
    pub fn read(&self) -> Result<Option<Dev>, Failure> {
        let path = self.dir.join("dev.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::config_text(format!("{}: {error}", path.display()))),
        };
        let dev: Dev = serde_json::from_slice(&text).map_err(|error| {
            Failure::config_text(format!(
                "{}: {error}; remove the directory to begin anew",
                path.display()
            ))
        })?;
        if dev.v == 1 {
            Ok(Some(dev))
        } else {
            Err(Failure::config_text(format!(
                "{} is of another release",
                path.display()
            )))
        }
    }

    fn save(&self, dev: &Dev) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(dev).map_err(Failure::internal)?;
        write_private(&self.dir.join("dev.json"), &text).map_err(Failure::config)
    }

    /// Makes what is missing for `nodes` nodes with `gpus` GPUs; what is there is kept.
    pub fn ensure(&self, nodes: Option<u32>, gpus: Option<u32>) -> Result<Dev, Failure> {
        if self.dir.as_os_str().len() > DIR_BYTES_MAX {
            return Err(Failure::usage(format!(
                "{} is longer than {DIR_BYTES_MAX} bytes, too long for the sockets below it; choose a shorter --dir",
                self.dir.display()
            )));
        }
        let mut dev = match self.read()? {
            Some(dev) => dev,
            None => self.create(gpus.unwrap_or(0))?,
        };
        if gpus.is_some_and(|gpus| gpus != dev.gpus) {
            return Err(Failure::usage(format!(
                "the cluster in {} has {} GPUs a node; stop it and remove the directory to change that",
                self.dir.display(),
                dev.gpus
            )));
        }
        let wanted = nodes.unwrap_or(if dev.nodes.is_empty() {
            2
        } else {
            dev.nodes.len() as u32
        }) as usize;
        if wanted == 0 || wanted > 64 || wanted < dev.nodes.len() {
            return Err(Failure::usage(format!(
                "--nodes {wanted}: this cluster has {} nodes and can have up to 64; to have fewer, stop it and remove {}",
                dev.nodes.len(),
                self.dir.display()
            )));
        }
        let ca = Ca::open(&self.dir.join("ca")).map_err(Failure::config)?;
        for number in dev.nodes.len()..wanted {
            let name = format!("dev-{number}");
            self.make_node(&ca, &dev, &name, number)?;
            dev.nodes.push(name);
        }
        self.save(&dev)?;
        Ok(dev)
    }

    fn create(&self, gpus: u32) -> Result<Dev, Failure> {
        std::fs::create_dir_all(self.dir.join("logs")).map_err(|error| {
            Failure::config_text(format!("cannot make {}: {error}", self.dir.display()))
        })?;
        let ca_dir = self.dir.join("ca");
        let ca = if ca_dir.join("ca.pem").exists() {
            Ca::open(&ca_dir)
        } else {
            Ca::create(&ca_dir, "dev")
        }
        .map_err(Failure::config)?;
        let ports = free_ports(3).map_err(Failure::internal)?;
        let coordinators: Vec<Member> = ports
            .into_iter()
            .enumerate()
            .map(|(number, port)| Member {
                name: format!("c{}", number + 1),
                // TOML knows signed integers only.
                id: u64::from(rand::random::<u32>()) << 16 | (number as u64 + 1),
                address: format!("127.0.0.1:{port}"),
            })
            .collect();
        for member in &coordinators {
            self.make_coordinator(&ca, &coordinators, member)?;
        }
        let addresses: Vec<String> = coordinators
            .iter()
            .map(|member| member.address.clone())
            .collect();
        // Beside the authority, as `mlctl admin init` leaves them: `mlctl admin user add` works on a dev cluster too.
        let list = addresses.join("\n") + "\n";
        write_private(&ca_dir.join("coordinators"), list.as_bytes()).map_err(Failure::config)?;
        let user = user_name();
        let bundle = ca.issue_user(&user, true).map_err(Failure::config)?;
        ContextFile::new(&user, addresses, &bundle)
            .write(&self.context())
            .map_err(Failure::config)?;
        Ok(Dev {
            v: 1,
            coordinators,
            nodes: Vec::new(),
            gpus,
        })
    }

    fn make_coordinator(
        &self,
        ca: &Ca,
        members: &[Member],
        member: &Member,
    ) -> Result<(), Failure> {
        let home = self.coordinator(&member.name);
        let bundle = ca
            .issue_coordinator(&member.name)
            .map_err(Failure::config)?;
        bundle
            .write(&home.join("identity"))
            .map_err(Failure::config)?;
        let mut config = format!(
            "name = {:?}\ndata_dir = {:?}\nidentity = {:?}\nlisten = {:?}\ncluster_name = \"dev\"\ndev = true\n",
            member.name,
            home.join("data"),
            home.join("identity"),
            member.address
        );
        for other in members {
            config += &format!(
                "\n[[members]]\nname = {:?}\nid = {}\naddress = {:?}\n",
                other.name, other.id, other.address
            );
        }
        config += &telemetry();
        write_private(&home.join("coordinator.toml"), config.as_bytes()).map_err(Failure::config)
    }

    fn make_node(&self, ca: &Ca, dev: &Dev, name: &str, number: usize) -> Result<(), Failure> {
        let home = self.node(name);
        let bundle: Bundle = ca.issue_node(name).map_err(Failure::config)?;
        bundle
            .write(&home.join("identity"))
            .map_err(Failure::config)?;
        self.new_boot(name)?;
        let addresses: Vec<&str> = dev
            .coordinators
            .iter()
            .map(|member| member.address.as_str())
            .collect();
        let config = format!(
            "name = {name:?}\ndata_dir = {:?}\nidentity = {:?}\ncoordinators = {addresses:?}\nrank_address = \"127.0.0.{}\"\nboot_id_file = {:?}\nsimulated_gpus = {}\n{}",
            home.join("data"),
            home.join("identity"),
            number + 11,
            home.join("boot_id"),
            dev.gpus,
            telemetry()
        );
        write_private(&home.join("agent.toml"), config.as_bytes()).map_err(Failure::config)
    }

    /// Gives a node a new boot id: what a reboot does, and what proves that nothing of before runs any more.
    pub fn new_boot(&self, name: &str) -> Result<(), Failure> {
        let id = format!("{:032x}\n", rand::random::<u128>());
        write_private(&self.node(name).join("boot_id"), id.as_bytes()).map_err(Failure::config)
    }
}

fn telemetry() -> String {
    match std::env::var("MLCTL_OTLP_ENDPOINT") {
        Ok(endpoint) if !endpoint.is_empty() => format!("\n[telemetry]\notlp = {endpoint:?}\n"),
        _ => String::new(),
    }
}

/// `$USER` as far as it is a legal name.
fn user_name() -> String {
    let name = std::env::var("USER").unwrap_or_default().to_lowercase();
    if mlctl_proto::ids::check_name(&name).is_ok() {
        name
    } else {
        "dev".into()
    }
}

/// Ports that are free now. They are written down, so a clash later is told by whoever cannot bind.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(temporary.path());
        let first = layout.ensure(Some(2), Some(1)).expect("made");
        assert_eq!((first.coordinators.len(), first.nodes.len()), (3, 2));
        let key = std::fs::read(layout.node("dev-0").join("identity/key.pem")).expect("there");
        let grown = layout.ensure(Some(3), None).expect("grown");
        assert_eq!(
            (&grown.coordinators, grown.nodes.len()),
            (&first.coordinators, 3)
        );
        assert_eq!(
            std::fs::read(layout.node("dev-0").join("identity/key.pem")).expect("there"),
            key
        );
        assert_eq!(layout.ensure(None, None).expect("kept"), grown);
        for (nodes, gpus) in [
            (Some(2), None),
            (Some(0), None),
            (Some(65), None),
            (None, Some(2)),
        ] {
            assert!(layout.ensure(nodes, gpus).is_err(), "{nodes:?} {gpus:?}");
        }
        let context = ContextFile::read(&layout.context()).expect("readable");
        assert_eq!(context.addresses.len(), 3);
        let list =
            std::fs::read_to_string(temporary.path().join("ca/coordinators")).expect("there");
        assert!(list.lines().eq(&context.addresses), "{list}");
    }
}
