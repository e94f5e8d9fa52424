//! The network interface that carries the route to a peer: what NCCL and Gloo are told.
//!
//! Asks the kernel by connecting a UDP socket, which sends nothing. Never guesses: what cannot be told is `None`, and the libraries choose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

/// Names of interfaces that never lead to another machine's ranks.
const VIRTUAL: [&str; 4] = ["docker", "veth", "virbr", "br-"];

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its network as `address/bits`, if the kernel tells.
    pub network: Option<String>,
}

/// The interface that carries the route to `peer` (host or IP). A name is looked up, which may block: not for the runtime's threads.
pub fn to_peer(peer: &str) -> Option<Interface> {
    // The port plays no part in routing; 9 is discard.
    let peer = (peer, 9).to_socket_addrs().ok()?.next()?;
    holding(source_address(peer)?)
}

/// The address that packets to `peer` would leave from.
fn source_address(peer: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The interface that has `address`: up, and not a virtual or link-local one.
fn holding(address: IpAddr) -> Option<Interface> {
    // All of 127.0.0.0/8 is on the loopback interface, which lists 127.0.0.1 alone.
    let (loopback, link_local) = match address {
        IpAddr::V4(ip) => (ip.is_loopback(), ip.is_link_local()),
        IpAddr::V6(ip) => (ip.is_loopback(), ip.is_unicast_link_local()),
    };
    if link_local {
        return None;
    }
    getifaddrs().ok()?.find_map(|interface| {
        let held = interface.address.as_ref().and_then(ip);
        let found = if loopback {
            let family = held.is_some_and(|held| held.is_ipv4() == address.is_ipv4());
            family && interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        } else {
            held == Some(address)
        };
        let up = interface.flags.contains(InterfaceFlags::IFF_UP);
        let real = !VIRTUAL
            .iter()
            .any(|prefix| interface.interface_name.starts_with(prefix));
        (found && up && real).then(|| Interface {
            network: held
                .zip(interface.netmask.as_ref().and_then(ip))
                .and_then(|(held, mask)| network(held, mask)),
            name: interface.interface_name,
        })
    })
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// The network that `address` is in.
fn network(address: IpAddr, mask: IpAddr) -> Option<String> {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            let base = Ipv4Addr::from_bits(address.to_bits() & mask.to_bits());
            Some(format!("{base}/{}", mask.to_bits().count_ones()))
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => {
            let base = Ipv6Addr::from_bits(address.to_bits() & mask.to_bits());
            Some(format!("{base}/{}", mask.to_bits().count_ones()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_peers_are_reached_over_the_loopback_interface() {
        for peer in ["127.0.0.1", "127.0.0.11", "127.77.0.3"] {
            let found = to_peer(peer).expect(peer);
            let network = Some("127.0.0.0/8".to_owned());
            assert_eq!(
                (found.name.as_str(), found.network),
                ("lo", network),
                "{peer}"
            );
        }
    }

    #[test]
    fn networks_are_what_the_mask_leaves() {
        let check = |address: &str, mask: &str, want: Option<&str>| {
            let parse = |text: &str| text.parse().expect("an address");
            let found = network(parse(address), parse(mask));
            assert_eq!(found.as_deref(), want, "{address} {mask}");
        };
        check("10.77.3.11", "255.255.252.0", Some("10.77.0.0/22"));
        check("10.1.2.3", "255.255.255.255", Some("10.1.2.3/32"));
        check("fd00::7:1", "ffff:ffff:ffff:ffff::", Some("fd00::/64"));
        check("10.1.2.3", "ffff::", None);
    }

    #[test]
    fn what_cannot_be_told_is_none() {
        for peer in ["", "no such host", "a\0b", "999.1.1.1"] {
            assert_eq!(to_peer(peer), None, "{peer:?}");
        }
        // An address that no interface of this machine has (TEST-NET-1), and a link-local one.
        assert_eq!(holding([192, 0, 2, 77].into()), None);
        assert_eq!(holding([169, 254, 1, 1].into()), None);
    }
}
