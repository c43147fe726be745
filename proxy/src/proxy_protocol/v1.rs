//! Version 1: a line of text (section 2.1).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Addresses, Parsed, ProxyProtocolError as Error};

const START: &[u8] = b"PROXY ";
/// The longest line with its CRLF.
const MAX_LINE: usize = 107;
/// The shortest: `PROXY UNKNOWN`.
const MIN_LINE: usize = 15;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    let compared = bytes.len().min(START.len());
    if bytes[..compared] != START[..compared] {
        return Ok(Parsed::Absent);
    }
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return match window.len() {
            MAX_LINE => Err(Error::LongLine),
            length => Ok(Parsed::NeedMore((length + 1).max(MIN_LINE))),
        };
    };
    let line = window.get(START.len()..end).unwrap_or_default();
    Ok(Parsed::Header { length: end + 2, addresses: addresses(line)? })
}

/// What follows `PROXY `.
fn addresses(line: &[u8]) -> Result<Option<Addresses>, Error> {
    let line = std::str::from_utf8(line).map_err(|_not_text| Error::Line("the text"))?;
    let (family, rest) = line.split_once(' ').unwrap_or((line, ""));
    match family {
        // The rest is to be ignored.
        "UNKNOWN" => Ok(None),
        "TCP4" => ends::<std::net::Ipv4Addr>(rest).map(Some),
        "TCP6" => ends::<std::net::Ipv6Addr>(rest).map(Some),
        _ => Err(Error::Line("the family")),
    }
}

fn ends<A: FromStr + Into<IpAddr>>(rest: &str) -> Result<Addresses, Error> {
    let mut fields = rest.split(' ');
    let mut address = |name| {
        let address: Option<A> = fields.next().and_then(|field| field.parse().ok());
        address.ok_or(Error::Line(name))
    };
    let (source, destination) = (address("the source")?, address("the destination")?);
    let mut port = |name| fields.next().and_then(port).ok_or(Error::Line(name));
    let source = SocketAddr::new(source.into(), port("the source port")?);
    let destination = SocketAddr::new(destination.into(), port("the destination port")?);
    match fields.next() {
        None => Ok(Addresses { source, destination }),
        Some(_) => Err(Error::Line("the end of the line")),
    }
}

/// Digits alone, without leading zeros.
fn port(field: &str) -> Option<u16> {
    let digits = field.bytes().all(|b| b.is_ascii_digit());
    let leading = field.len() > 1 && field.starts_with('0');
    if digits && !leading { field.parse().ok() } else { None }
}

pub(super) fn write(addresses: Option<Addresses>, out: &mut Vec<u8>) {
    let Some(Addresses { source, destination }) = addresses else {
        return out.extend_from_slice(b"PROXY UNKNOWN\r\n");
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let _infallible = write!(
        out,
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
}
