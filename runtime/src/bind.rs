//! Binding sockets before anything is served, with errors that name the address and its use.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// A socket that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}: {source}")]
pub struct BindError {
    /// What it was for, such as `dns udp`.
    pub purpose: String,
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Whether several sockets of one process may share the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// This socket alone.
    Exclusive,
    /// `SO_REUSEPORT`: one socket per core.
    Shared,
}

/// Backlog of listening sockets; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds and listens on TCP, non-blocking.
///
/// # Errors
/// [`BindError`] naming `purpose` and the address.
pub fn tcp(
    address: SocketAddr,
    purpose: impl fmt::Display,
    sharing: Sharing,
) -> Result<TcpListener, BindError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = open(address, Type::STREAM, Protocol::TCP, sharing)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|source| BindError { purpose: purpose.to_string(), address, source })
}

/// Binds a UDP socket, non-blocking.
///
/// # Errors
/// [`BindError`] naming `purpose` and the address.
pub fn udp(
    address: SocketAddr,
    purpose: impl fmt::Display,
    sharing: Sharing,
) -> Result<std::net::UdpSocket, BindError> {
    let bind = || -> io::Result<std::net::UdpSocket> {
        let socket = open(address, Type::DGRAM, Protocol::UDP, sharing)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bind().map_err(|source| BindError { purpose: purpose.to_string(), address, source })
}

fn open(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    sharing: Sharing,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // `[::]` must not take IPv4 as well: the two families are configured apart.
        socket.set_only_v6(true)?;
    }
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Tells whoever started the process, on standard output, where it listens: one line per socket,
/// `listening <what> <address>`. Scripts and tests that ask for port 0 read these lines.
pub fn announce(what: impl fmt::Display, address: SocketAddr) {
    use std::io::Write as _;
    // A closed standard output is no reason to stop serving.
    let _closed = writeln!(io::stdout().lock(), "listening {what} {address}");
    tracing::info!(%what, %address, "listening");
}
