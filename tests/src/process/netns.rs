//! Hosts of a test's own: one network namespace each, joined by a bridge, parted by packet filters that drop in silence.
//! Does NOT delay or reorder packets: this kernel's netem may be missing.
//!
//! Names carry the test's process id. What a dead test left is removed when the next one makes a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{machine, tool};

/// What has to be installed.
const TOOLS: [&str; 4] = ["ip", "nft", "nsenter", "unshare"];

/// Networks of one test process, told apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The filter of every host: drops what a set names, by the sender's address on the way in.
const FILTER: &str = "table ip mlt {
  set from { type ipv4_addr; }
  chain input { type filter hook input priority 0; policy accept; ip saddr @from drop; }
}
";

/// A network with its hosts. It is gone when this is dropped.
#[derive(Debug)]
pub struct Net {
    /// `mlt-PID-N-`, of its namespaces.
    prefix: String,
    bridge: String,
    /// The first three numbers of every address.
    subnet: String,
    hosts: Vec<String>,
}

/// Why there can be no networks here, if so.
pub fn obstacle() -> Option<String> {
    tool::obstacle(&TOOLS)
}

impl Net {
    /// A network of `hosts`. The test itself sits on its bridge and reaches all of them.
    ///
    /// # Panics
    /// When the system refuses; ask [`obstacle`] first.
    pub fn new(hosts: &[&str]) -> Self {
        remove_leftovers();
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // A network of its own for each process that lives at the same time: ids repeat only after many thousands.
        let place = (pid.wrapping_mul(4).wrapping_add(number)) % (100 * 256);
        let net = Self {
            prefix: format!("mlt-{pid}-{number}-"),
            bridge: format!("mlt{pid}n{number}"),
            subnet: format!("10.{}.{}", 128 + place / 256, place % 256),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        };
        let (bridge, subnet) = (&net.bridge, &net.subnet);
        let mut script = format!(
            "link add {bridge} type bridge\naddr add {subnet}.1/24 dev {bridge}\nlink set {bridge} up\n"
        );
        for (number, host) in net.hosts.iter().enumerate() {
            let (space, cable) = (net.space(host), format!("{bridge}v{number}"));
            script += &format!(
                "netns add {space}\nlink add {cable} type veth peer name eth0 netns {space}\nlink set {cable} master {bridge} up\n"
            );
        }
        tool::must("ip", &["-batch", "-"], &script);
        let names: String = (net.hosts.iter())
            .map(|host| format!("{} {host}\n", net.address(host)))
            .collect();
        for host in &net.hosts {
            net.furnish(host, &names);
        }
        net
    }

    fn furnish(&self, host: &str, names: &str) {
        let (space, address) = (self.space(host), self.address(host));
        let script = format!(
            "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {}.1\n",
            self.subnet
        );
        tool::must("ip", &["-n", &space, "-batch", "-"], &script);
        self.filter(host, FILTER);
        let etc = etc(&space);
        fs::create_dir_all(&etc)
            .and_then(|()| {
                fs::write(
                    etc.join("hosts"),
                    format!("127.0.0.1 localhost\n::1 localhost\n{names}"),
                )
            })
            .unwrap_or_else(|error| panic!("{}: {error}", etc.display()));
    }

    fn space(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    fn filter(&self, host: &str, rules: &str) {
        let space = format!("--net=/run/netns/{}", self.space(host));
        tool::must("nsenter", &[&space, "nft", "-f", "-"], rules);
    }

    /// The address of a host; the test's own for a name that is none of them.
    pub fn address(&self, host: &str) -> String {
        let place = self.hosts.iter().position(|one| one == host);
        format!("{}.{}", self.subnet, place.map_or(1, |place| place + 11))
    }

    /// `program` on `host`, with the host's name and names; further words may be added.
    pub fn command(&self, host: &str, program: &Path) -> Command {
        let space = self.space(host);
        let script = format!(
            "mount --bind {}/hosts /etc/hosts && hostname {host} && exec \"$@\"",
            etc(&space).display()
        );
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{space}"))
            .args(["unshare", "-m", "-u", "sh", "-c", &script, "sh"])
            .arg(program);
        command
    }

    /// From now on nothing that `from` sends reaches `to`. The other direction goes on.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let rule = format!("add element ip mlt from {{ {} }}\n", self.address(from));
        self.filter(to, &rule);
    }

    /// From now on nothing passes between two hosts.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// From now on nothing passes between `host` and anybody, the test itself included.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn unplug(&self, host: &str) {
        self.plug(host, "down");
    }

    fn plug(&self, host: &str, how: &str) {
        let number = self.hosts.iter().position(|one| one == host);
        let number = number.unwrap_or_else(|| panic!("there is no host {host}"));
        let cable = format!("{}v{number}", self.bridge);
        tool::must("ip", &["link", "set", &cable, how], "");
    }

    /// Takes back every cut.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn heal(&self) {
        for host in &self.hosts {
            self.filter(host, "flush set ip mlt from\n");
            self.plug(host, "up");
        }
    }
}

fn etc(space: &str) -> PathBuf {
    PathBuf::from("/etc/netns").join(space)
}

impl Drop for Net {
    fn drop(&mut self) {
        let spaces: Vec<String> = self.hosts.iter().map(|host| self.space(host)).collect();
        remove(&spaces, std::slice::from_ref(&self.bridge));
    }
}

/// Removes namespaces and links; what is already gone is no matter.
fn remove(spaces: &[String], links: &[String]) {
    for space in spaces {
        let _ = tool::run("ip", &["netns", "del", space], "");
        let _ = fs::remove_dir_all(etc(space));
    }
    for link in links {
        let _ = tool::run("ip", &["link", "del", link], "");
    }
}

/// Removes what tests left that were killed themselves.
fn remove_leftovers() {
    let dead = |maker: Option<i32>| maker.is_some_and(|pid| !machine::alive(pid));
    let spaces: Vec<String> = tool::names_in(Path::new("/run/netns"))
        .into_iter()
        .chain(tool::names_in(Path::new("/etc/netns")))
        .filter(|name| dead(tool::maker(name, "mlt-")))
        .collect();
    // A cable goes with its namespace or its bridge.
    let links: Vec<String> = tool::names_in(Path::new("/sys/class/net"))
        .into_iter()
        .filter(|name| dead(tool::maker(name, "mlt")))
        .collect();
    remove(&spaces, &links);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::skips;
    use std::process::Stdio;
    use std::time::Duration;

    fn answers(net: &Net, from: &str, to: &str) -> bool {
        let mut command = net.command(from, Path::new("bash"));
        // A listener is not needed: a refusal is an answer, silence is none.
        command.args([
            "-c",
            &format!(
                "timeout 0.4 bash -c '</dev/tcp/{}/9'; [ $? != 124 ]",
                net.address(to)
            ),
        ]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("started").success()
    }

    #[test]
    fn cuts_are_one_way_or_both_and_heal() {
        if let Some(why) = obstacle() {
            return skips::skip("process::netns::cuts_are_one_way_or_both_and_heal", &why);
        }
        let net = Net::new(&["a", "b"]);
        let name = net
            .command("a", Path::new("sh"))
            .args(["-c", "hostname; getent hosts b"])
            .output()
            .expect("ran");
        let name = String::from_utf8_lossy(&name.stdout).into_owned();
        assert!(
            name.starts_with("a\n") && name.contains(&net.address("b")),
            "{name}"
        );
        // The cables need a moment.
        super::super::until("the link", Duration::from_secs(5), || {
            answers(&net, "a", "b").then_some(())
        });
        net.cut("a", "b");
        assert!(!answers(&net, "a", "b") && !answers(&net, "b", "a"));
        net.heal();
        assert!(answers(&net, "a", "b") && answers(&net, "b", "a"));
        // TCP needs both ways; the filter's own counters would tell them apart, a datagram does it better.
        net.cut_one_way("a", "b");
        assert!(!answers(&net, "a", "b"), "what a sends does not arrive");
        assert!(
            !answers(&net, "b", "a"),
            "what b sends arrives, its answer does not"
        );
        net.heal();
        net.unplug("b");
        assert!(!answers(&net, "a", "b"));
        net.heal();
        super::super::until("the link again", Duration::from_secs(5), || {
            answers(&net, "b", "a").then_some(())
        });
        let (prefix, bridge) = (net.prefix.clone(), net.bridge.clone());
        drop(net);
        let left = tool::names_in(Path::new("/run/netns"));
        assert!(
            !left.iter().any(|name| name.starts_with(&prefix)),
            "{left:?}"
        );
        assert!(!Path::new("/sys/class/net").join(bridge).exists());
    }
}
