//! The PROXY protocol, versions 1 and 2: who really connected, told before the first byte.
//!
//! After HAProxy's `proxy-protocol.txt` (sections named at the lines). Owns reading a header from
//! a client's connection without losing a byte past it, and writing one for an endpoint. Refuses:
//! to decide who is believed; a listener that reads headers trusts everybody who reaches it.

mod crc32c;
mod read;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

use portolan_model::traffic::ProxyHeader;

pub(crate) use read::{Expect, read};

/// The ends of a connection as the first proxy on its way saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Who connected.
    pub(crate) source: SocketAddr,
    /// Where to.
    pub(crate) destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Part of a header, whole at this length at the least.
    NeedMore(usize),
    /// No header.
    Absent,
    /// A header of this length. Without addresses, those of the connection itself hold: the sender
    /// speaks for itself (`LOCAL`), or knows no address a TCP connection can have.
    Header { length: usize, addresses: Option<Addresses> },
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyProtocolError {
    /// The line does not end within its 107 bytes.
    #[error("proxy protocol v1: no end of line within 107 bytes")]
    LongLine,
    /// A part of the line is not what the protocol allows there.
    #[error("proxy protocol v1: {0} is not valid")]
    Line(&'static str),
    /// The version is not 2, or the command is not known.
    #[error("proxy protocol v2: version and command 0x{0:02x} are not known")]
    Command(u8),
    /// The address family or the transport is not known.
    #[error("proxy protocol v2: family and transport 0x{0:02x} are not known")]
    Family(u8),
    /// The header says that it is longer than we read.
    #[error("proxy protocol v2: a header of {0} bytes is too long")]
    Long(usize),
    /// The header is too short for the addresses of its family.
    #[error("proxy protocol v2: {0} bytes are too few for the addresses")]
    Short(usize),
    /// A TLV goes beyond the header, or has a length its type cannot have.
    #[error("proxy protocol v2: TLV 0x{0:02x} has the wrong length")]
    Tlv(u8),
    /// The checksum does not match.
    #[error("proxy protocol v2: the checksum does not match")]
    Checksum,
}

/// Reads the start of a connection; a pure function of bytes nobody vouches for.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    match v2::parse(bytes)? {
        Parsed::Absent => v1::parse(bytes),
        // One byte cannot be the start of both.
        other => Ok(other),
    }
}

/// Appends a header. Without addresses it says that the proxy speaks for itself.
pub(crate) fn write(version: ProxyHeader, addresses: Option<Addresses>, out: &mut Vec<u8>) {
    let addresses = addresses.map(Addresses::in_one_family);
    match version {
        ProxyHeader::V1 => v1::write(addresses, out),
        ProxyHeader::V2 => v2::write(addresses, out),
    }
}

impl Addresses {
    /// Both in IPv4 where both can be, else both in IPv6: a header has one family.
    fn in_one_family(self) -> Self {
        let (source, destination) = (self.source.ip(), self.destination.ip());
        let (source, destination) = (source.to_canonical(), destination.to_canonical());
        let (source, destination) = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V6(_)) => (source.to_ipv6_mapped().into(), destination),
            (IpAddr::V6(_), IpAddr::V4(to)) => (source, to.to_ipv6_mapped().into()),
            same => same,
        };
        Self {
            source: SocketAddr::new(source, self.source.port()),
            destination: SocketAddr::new(destination, self.destination.port()),
        }
    }
}

/// What a fuzzer calls: parses, and where there are addresses, writes them and parses again.
///
/// # Panics
/// When a rule that holds for every input is broken: that is the finding.
pub(crate) fn fuzz(data: &[u8]) {
    match parse(data) {
        Ok(Parsed::Header { length, addresses }) => {
            assert!(length <= data.len(), "a header beyond the bytes");
            let prefix = data.get(..length).unwrap_or_default();
            assert_eq!(parse(prefix), Ok(Parsed::Header { length, addresses }), "without the rest");
            for version in
                [ProxyHeader::V1, ProxyHeader::V2].into_iter().filter(|_| addresses.is_some())
            {
                let mut out = Vec::new();
                write(version, addresses, &mut out);
                let expected = addresses.map(Addresses::in_one_family);
                let header = Parsed::Header { length: out.len(), addresses: expected };
                assert_eq!(parse(&out), Ok(header), "written and read");
            }
        }
        Ok(Parsed::NeedMore(least)) => assert!(least > data.len(), "more is needed than there is"),
        Ok(Parsed::Absent) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
