//! Version 2: a signature, a fixed head, addresses, and typed values (section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::Crc32c;
use super::{Addresses, Parsed, ProxyProtocolError as Error};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const HEAD: usize = 16;
/// The longest header we read. Those in use have some hundred bytes; one with a client's
/// certificate has a few thousand.
const MAX_HEADER: usize = 16 * 1024;

/// Version 2 and a command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Families, the upper half of their byte; the lower is the transport.
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

/// Two paths of 108 bytes.
const UNIX_ENDS: usize = 216;

/// `PP2_TYPE_CRC32C` (section 2.2.4).
const TYPE_CRC32C: u8 = 0x03;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    let compared = bytes.len().min(SIGNATURE.len());
    // No byte at all may become either version; the shorter one says how many are needed.
    if bytes.is_empty() || bytes[..compared] != SIGNATURE[..compared] {
        return Ok(Parsed::Absent);
    }
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok(Parsed::NeedMore(HEAD));
    };
    let [.., command, family, high, low] = *head;
    if command != LOCAL && command != PROXY {
        return Err(Error::Command(command));
    }
    let (family, transport, both) = (family >> 4, family & 0xf, family);
    if family > UNIX || transport > DATAGRAM {
        return Err(Error::Family(both));
    }
    let length = HEAD + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER {
        return Err(Error::Long(length));
    }
    let Some(body) = rest.get(..length - HEAD) else { return Ok(Parsed::NeedMore(length)) };
    // A connection of the sender's own: what else the header says is to be discarded.
    if command == LOCAL {
        return Ok(Parsed::Header { length, addresses: None });
    }
    let short = Error::Short(body.len());
    let (addresses, values) = match family {
        INET => ends::<4>(body).ok_or(short)?,
        INET6 => ends::<16>(body).ok_or(short)?,
        UNIX => (None, body.get(UNIX_ENDS..).ok_or(short)?),
        // Of an unknown family not even the addresses' length is known.
        _ => (None, &[][..]),
    };
    check_values(head, body, values)?;
    // A datagram's addresses are not those of a connection.
    let addresses = addresses.filter(|_| transport == STREAM);
    Ok(Parsed::Header { length, addresses })
}

/// Two addresses of `N` bytes, their ports, and what follows.
fn ends<const N: usize>(body: &[u8]) -> Option<(Option<Addresses>, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, rest) = rest.split_first_chunk::<2>()?;
    let end = |address: [u8; N], port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    let source = end(*source, *source_port);
    let destination = end(*destination, *destination_port);
    Some((Some(Addresses { source, destination }), rest))
}

/// Walks the typed values. All are skipped but the checksum, which a receiver must verify where it
/// is there (section 2.2.4): over the whole header, with zeros in its own place.
fn check_values(head: &[u8], body: &[u8], values: &[u8]) -> Result<(), Error> {
    let mut rest = values;
    while let Some((kind, after)) = rest.split_first() {
        let wrong = Error::Tlv(*kind);
        let (length, after) = after.split_first_chunk::<2>().ok_or(wrong)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, after) = after.split_at_checked(length).ok_or(wrong)?;
        if *kind == TYPE_CRC32C {
            let expected = <[u8; 4]>::try_from(value).map_err(|_length| wrong)?;
            let before = body.len() - after.len() - value.len();
            let mut crc = Crc32c::new();
            crc.add(head);
            crc.add(body.get(..before).unwrap_or_default());
            crc.add(&[0; 4]);
            crc.add(after);
            if crc.finish() != u32::from_be_bytes(expected) {
                return Err(Error::Checksum);
            }
        }
        rest = after;
    }
    Ok(())
}

pub(super) fn write(addresses: Option<Addresses>, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    let Some(Addresses { source, destination }) = addresses else {
        return out.extend_from_slice(&[LOCAL, 0, 0, 0]);
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend_from_slice(&[PROXY, INET << 4 | STREAM, 0, 12]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            out.extend_from_slice(&[PROXY, INET6 << 4 | STREAM, 0, 36]);
            out.extend_from_slice(&in_ipv6(source).octets());
            out.extend_from_slice(&in_ipv6(destination).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

fn in_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address),
        IpAddr::V6(address) => address,
    }
}
