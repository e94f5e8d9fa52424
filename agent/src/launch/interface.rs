//! The network interface that carries the route to a peer: what NCCL and Gloo are told.
//!
//! Asks the kernel by connecting a UDP socket, which sends nothing. Never guesses: what cannot be told is `None`, and the libraries choose.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Names of interfaces that never lead to another machine's ranks.
const VIRTUAL: [&str; 4] = ["docker", "veth", "virbr", "br-"];

/// The interface that carries the route to `peer` (host or IP). A name is looked up, which may block: not for the runtime's threads.
pub fn to_peer(peer: &str) -> Option<String> {
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
fn holding(address: IpAddr) -> Option<String> {
    // All of 127.0.0.0/8 is on the loopback interface, which lists 127.0.0.1 alone.
    let (loopback, link_local) = match address {
        IpAddr::V4(ip) => (ip.is_loopback(), ip.is_link_local()),
        IpAddr::V6(ip) => (ip.is_loopback(), ip.is_unicast_link_local()),
    };
    if link_local {
        return None;
    }
    getifaddrs().ok()?.find_map(|interface| {
        let held = interface.address.as_ref().and_then(|a| {
            let v4 = a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        let found = if loopback {
            interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        } else {
            held == Some(address)
        };
        let up = interface.flags.contains(InterfaceFlags::IFF_UP);
        let real = !VIRTUAL
            .iter()
            .any(|prefix| interface.interface_name.starts_with(prefix));
        (found && up && real).then_some(interface.interface_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_peers_are_reached_over_the_loopback_interface() {
        for peer in ["127.0.0.1", "127.0.0.11", "127.77.0.3"] {
            assert_eq!(to_peer(peer).as_deref(), Some("lo"), "{peer}");
        }
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
