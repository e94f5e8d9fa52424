//! The port where a gang meets, leased on node rank 0 for one attempt. Never a fixed one.
//!
//! The lease is a bound socket: nothing else on the machine gets the port while it lives. It does not listen, so that a peer that comes
//! early is refused and tries again. Between its release and the moment when rank 0 binds the port lies a small window in which another
//! program could be given it; a gang that loses this race fails at its rendezvous.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::os::fd::OwnedFd;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, getsockname,
    socket,
};

/// A leased port. Dropping it releases the port: do so just before the ranks start.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _socket: OwnedFd,
}

impl PortLease {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Why no port could be leased.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The node's rank address has no IP, or none of this machine.
    #[error(
        "the rank address `{address}` is not one of this machine ({why}): set `rank_address` of the agent to one that is"
    )]
    Address {
        /// As configured.
        address: String,
        /// What the system said.
        why: io::Error,
    },
    /// The system gives no port.
    #[error("cannot lease a port: {0}")]
    Port(#[source] io::Error),
}

/// Leases a port that is free on every address of this machine, because some libraries bind all of them. A name is looked up, which may
/// block: not for the runtime's threads.
///
/// # Errors
/// When `rank_address` is not of this machine, or no port is free.
pub fn lease(rank_address: &str) -> Result<PortLease, PortError> {
    let wrong = |why| PortError::Address {
        address: mlctl_proto::ids::clip(rank_address),
        why,
    };
    let mut addresses = (rank_address, 0).to_socket_addrs().map_err(wrong)?;
    let none = || {
        wrong(io::Error::new(
            io::ErrorKind::NotFound,
            "it has no IP address",
        ))
    };
    let ip = addresses.next().ok_or_else(none)?.ip();
    bound(ip).map_err(wrong)?;
    let any = if ip.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    bound(any).map_err(PortError::Port)
}

fn bound(ip: IpAddr) -> io::Result<PortLease> {
    let (family, address): (_, Box<dyn SockaddrLike>) = match ip {
        IpAddr::V4(ip) => (
            AddressFamily::Inet,
            Box::new(SockaddrIn::from(std::net::SocketAddrV4::new(ip, 0))),
        ),
        IpAddr::V6(ip) => (
            AddressFamily::Inet6,
            Box::new(SockaddrIn6::from(std::net::SocketAddrV6::new(ip, 0, 0, 0))),
        ),
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    bind(fd, address.as_ref())?;
    let port = match ip {
        IpAddr::V4(_) => getsockname::<SockaddrIn>(fd)?.port(),
        IpAddr::V6(_) => getsockname::<SockaddrIn6>(fd)?.port(),
    };
    Ok(PortLease {
        port,
        _socket: socket,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_leased_port_is_nobody_elses_until_it_is_released() {
        let lease = lease("127.0.0.1").expect("a port");
        let taken = |address: &str| TcpListener::bind((address, lease.port())).is_err();
        assert!(taken("127.0.0.1") && taken("127.0.0.9"));
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", lease.port())).is_err(),
            "it must not listen"
        );
        let port = lease.port();
        drop(lease);
        TcpListener::bind(("127.0.0.1", port)).expect("released");
    }

    #[test]
    fn foreign_addresses_are_refused() {
        for address in ["192.0.2.77", "", "no such host"] {
            let error = lease(address).expect_err(address);
            assert!(error.to_string().contains("rank_address"), "{error}");
        }
    }
}
