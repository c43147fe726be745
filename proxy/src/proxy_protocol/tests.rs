//! Headers as the protocol's text has them, broken ones, and mutations of both.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::crc32c::Crc32c;
use super::read::ReadError;
use super::{Addresses, Expect, Parsed, ProxyHeader, ProxyProtocolError as Error};
use super::{fuzz, parse, read, write};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn addresses(source: &str, destination: &str) -> Option<Addresses> {
    let end = |text: &str| text.parse().expect("an address");
    Some(Addresses { source: end(source), destination: end(destination) })
}

/// A header of version 2: command, family and transport, then these parts.
fn v2(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, &body].concat()
}

/// The same with a checksum at the end; `broken` spoils it.
fn with_checksum(command: u8, family: u8, ends: &[u8], broken: bool) -> Vec<u8> {
    let mut header = v2(command, family, &[ends, &[3, 0, 4, 0, 0, 0, 0]]);
    let mut crc = Crc32c::new();
    crc.add(&header);
    let sum = crc.finish() ^ u32::from(broken);
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum.to_be_bytes());
    header
}

const V4: &[u8] = &[10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80];

fn v6() -> Vec<u8> {
    let mut ends = [0; 36];
    (ends[15], ends[31], ends[33], ends[35]) = (1, 2, 3, 4);
    ends.to_vec()
}

#[test]
fn whole_headers_are_read_and_what_follows_is_not_theirs() {
    let four = addresses("10.0.0.1:12345", "10.0.0.2:80");
    let six = addresses("[::1]:3", "[::2]:4");
    for (header, expected) in [
        (&b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\n"[..], four),
        (b"PROXY TCP6 ::1 ::2 3 4\r\n", six),
        (
            b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n",
            addresses("255.255.255.255:65535", "0.0.0.0:0"),
        ),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::ffff whatever 70000\r\n", None),
        (&v2(0x21, 0x11, &[V4]), four),
        (&v2(0x21, 0x21, &[&v6()]), six),
        (&v2(0x20, 0x00, &[]), None),
        // LOCAL: whatever is there is skipped.
        (&v2(0x20, 0x11, &[&[1, 2, 3]]), None),
        (&v2(0x21, 0x00, &[&[9; 40]]), None),
        (&v2(0x21, 0x12, &[V4]), None),
        (&v2(0x21, 0x31, &[&[0; 216]]), None),
        // Typed values: NOOP, ALPN, an unknown one that is empty.
        (&v2(0x21, 0x11, &[V4, &[4, 0, 3, 0, 0, 0], &[1, 0, 2, b'h', b'2'], &[0xee, 0, 0]]), four),
        (&with_checksum(0x21, 0x11, V4, false), four),
        (&with_checksum(0x21, 0x21, &v6(), false), six),
    ] {
        let length = header.len();
        let followed = [header, b"GET / HTTP/1.1\r\n"].concat();
        let parsed = Parsed::Header { length, addresses: expected };
        assert_eq!(parse(&followed), Ok(parsed), "{}", header.escape_ascii());
        for cut in 0..length {
            let Ok(Parsed::NeedMore(least)) = parse(&header[..cut]) else {
                panic!("{} cut at {cut}: {:?}", header.escape_ascii(), parse(&header[..cut]));
            };
            assert!((cut + 1..=length).contains(&least), "{least} at {cut} of {length}");
        }
    }
}

#[test]
fn what_is_no_header_is_told_from_a_broken_one() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"PROX ", b"PROXYTCP4", b"\r\n\r\n\0\rX", b"\0", b"POST"]
    {
        assert_eq!(parse(bytes), Ok(Parsed::Absent), "{}", bytes.escape_ascii());
    }
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
    for (bytes, expected) in [
        (&b"PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n"[..], Error::Line("the family")),
        (b"PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n", Error::Line("the family")),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n", Error::Line("the end of the line")),
        (b"PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n", Error::Line("the source")),
        (b"PROXY TCP4 ::1 ::2 1 2\r\n", Error::Line("the source")),
        (b"PROXY TCP6 ::1 10.0.0.2 1 2\r\n", Error::Line("the destination")),
        (b"PROXY TCP4 010.0.0.1 10.0.0.2 1 2\r\n", Error::Line("the source")),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n", Error::Line("the source port")),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n", Error::Line("the source port")),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n", Error::Line("the destination port")),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n", Error::Line("the destination port")),
        (b"PROXY \xff\r\n", Error::Line("the text")),
        (b"PROXY \r\n", Error::Line("the family")),
        (&long, Error::LongLine),
        (&v2(0x11, 0x11, &[V4]), Error::Command(0x11)),
        (&v2(0x22, 0x11, &[V4]), Error::Command(0x22)),
        (&v2(0x21, 0x41, &[V4]), Error::Family(0x41)),
        (&v2(0x21, 0x13, &[V4]), Error::Family(0x13)),
        (&v2(0x21, 0x11, &[&V4[..11]]), Error::Short(11)),
        (&v2(0x21, 0x21, &[V4]), Error::Short(12)),
        (&v2(0x21, 0x31, &[&[0; 215]]), Error::Short(215)),
        (&v2(0x21, 0x11, &[V4, &[4]]), Error::Tlv(4)),
        (&v2(0x21, 0x11, &[V4, &[5, 0, 9, 1]]), Error::Tlv(5)),
        (&v2(0x21, 0x11, &[V4, &[3, 0, 3, 1, 2, 3]]), Error::Tlv(3)),
        (&with_checksum(0x21, 0x11, V4, true), Error::Checksum),
        (&[SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(), Error::Long(65_551)),
    ] {
        assert_eq!(parse(bytes), Err(expected), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_header_written_is_the_one_read() {
    for (ends, v1_line) in [
        (None, "PROXY UNKNOWN\r\n"),
        (addresses("10.0.0.1:1", "10.0.0.2:2"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
        (addresses("[::1]:1", "[::2]:65535"), "PROXY TCP6 ::1 ::2 1 65535\r\n"),
        // A socket of both families shows IPv4 in IPv6's dress.
        (addresses("[::ffff:10.0.0.1]:1", "10.0.0.2:2"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
        (addresses("10.0.0.1:1", "[::2]:2"), "PROXY TCP6 ::ffff:10.0.0.1 ::2 1 2\r\n"),
    ] {
        for version in [ProxyHeader::V1, ProxyHeader::V2] {
            let mut out = Vec::new();
            write(version, ends, &mut out);
            if version == ProxyHeader::V1 {
                assert_eq!(String::from_utf8_lossy(&out), v1_line);
            }
            let addresses = ends.map(Addresses::in_one_family);
            let header = Parsed::Header { length: out.len(), addresses };
            assert_eq!(parse(&out), Ok(header), "{version:?} {ends:?}");
        }
    }
}

#[test]
fn a_hundred_thousand_mutated_headers_do_no_harm() {
    let seeds = [
        b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\nGET".to_vec(),
        b"PROXY TCP6 ::1 ::ffff:1.2.3.4 3 4\r\n".to_vec(),
        v2(0x21, 0x11, &[V4, &[4, 0, 1, 0]]),
        with_checksum(0x21, 0x21, &v6(), false),
    ];
    crate::tcp::mutation::of(&seeds, 100_000, fuzz);
}

async fn sent(
    chunks: &'static [&'static [u8]],
    expect: Expect,
) -> (Result<super::read::Read, ReadError>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let to = listener.local_addr().expect("bound");
    let client = async move {
        let mut stream = TcpStream::connect(to).await.expect("accepted");
        stream.set_nodelay(true).expect("set");
        for chunk in chunks {
            stream.write_all(chunk).await.expect("written");
            tokio::task::yield_now().await;
        }
        stream.shutdown().await.expect("ended");
        stream
    };
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (stream, _) = accepted.expect("accepted");
    let result = read(&stream, expect, Duration::from_secs(20)).await;
    let mut after = Vec::new();
    while !matches!(crate::splice::read_some(&stream, &mut after, 64), Ok(0)) {
        stream.readable().await.expect("an end");
    }
    drop(client);
    (result, after)
}

#[tokio::test]
async fn no_byte_behind_the_header_is_lost() {
    let ends = addresses("10.0.0.1:1", "10.0.0.2:2");
    let line: &[&[u8]] = &[b"PRO", b"XY TCP4 10.0.0.1 10.0.0.2 1 ", b"2\r\nhello"];
    for (chunks, expect, expected) in [
        (line, Expect::Required, ends),
        (line, Expect::Optional, ends),
        (&[b"hello"], Expect::Optional, None),
        (&[b"PROXY UNKNOWN\r\nhello"], Expect::Optional, None),
        (&[b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x02", b"zz", b"hello"], Expect::Required, None),
    ] {
        let (read, after) = sent(chunks, expect).await;
        let read = read.expect("served");
        assert_eq!(read.addresses, expected);
        assert_eq!([read.rest, after].concat(), b"hello");
    }
}

#[tokio::test]
async fn who_has_no_valid_header_is_refused() {
    let (read, _) = sent(&[b"hello"], Expect::Required).await;
    assert!(matches!(read, Err(ReadError::Absent)), "{read:?}");
    let (read, _) = sent(&[b"PROXY TCP4"], Expect::Optional).await;
    assert!(matches!(read, Err(ReadError::Io(_))), "{read:?}");
    let (read, _) = sent(&[b"PROXY nobody\r\n"], Expect::Optional).await;
    assert!(matches!(read, Err(ReadError::Invalid(_))), "{read:?}");
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let to = listener.local_addr().expect("bound");
    let (_client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
    let stream = accepted.expect("accepted").0;
    let soon = Duration::from_millis(5);
    let late = read(&stream, Expect::Required, soon).await;
    assert!(matches!(late, Err(ReadError::Late)), "{late:?}");
    let none = read(&stream, Expect::Optional, soon).await.expect("no header");
    assert_eq!(none, super::read::Read::default());
}
