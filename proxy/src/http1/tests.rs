//! Heads and chunks as tables of cases, in one piece and byte by byte.

use super::chunked::{Decoder, Step};
use super::framing::{Length, Malformed};
use super::{Limits, head};
use crate::message::{Fields, RequestHead, ResponseHead};

const LIMITS: Limits = Limits { head: 1024, fields: 8 };

/// Length of the body and whether the connection lives on.
type Said = (Length, bool);

fn request(input: &[u8]) -> Result<Option<Said>, Malformed> {
    let mut head = RequestHead::default();
    let read = head::request(input, LIMITS, &mut head)?;
    Ok(read.map(|(_, request)| (request.length, request.keep_alive)))
}

/// The rule, the request, what comes of it.
type Case = (&'static str, &'static [u8], Result<Option<Said>, Malformed>);

#[rustfmt::skip]
const REQUESTS: &[Case] = &[
    ("3", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some((Length::None, true)))),
    ("2.2 an empty line before", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some((Length::None, true)))),
    ("2.2 two empty lines before", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::RequestLine)),
    ("2.2 bare LF in the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Err(Malformed::LineEnd)),
    ("2.2 bare LF in a field", b"GET / HTTP/1.1\r\nHost: a\n\r\n", Err(Malformed::LineEnd)),
    ("2.2 bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Err(Malformed::LineEnd)),
    ("2.2 bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Err(Malformed::LineEnd)),
    ("2.2 bare CR in the target", b"GET /\ra HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::Target)),
    ("2.3 a version to come", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Err(Malformed::Version)),
    ("2.3 HTTP/2 by its name", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Err(Malformed::Version)),
    ("2.3 HTTP/0.9", b"GET /\r\n\r\n", Err(Malformed::RequestLine)),
    ("3 two blanks", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::RequestLine)),
    ("3 a blank in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::RequestLine)),
    ("3.1 a method that is no token", b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::RequestLine)),
    ("3.2 no Host", b"GET / HTTP/1.1\r\n\r\n", Err(Malformed::NoHost)),
    ("3.2 no Host in 1.0", b"GET / HTTP/1.0\r\n\r\n", Ok(Some((Length::None, false)))),
    ("3.2 two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Err(Malformed::Hosts)),
    ("3.2 two Hosts in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", Err(Malformed::Hosts)),
    ("3.2 a relative target", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::Target)),
    ("3.2 a fragment", b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::Target)),
    ("3.2.2 absolute", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some((Length::None, true)))),
    ("3.2.2 another scheme", b"GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::Target)),
    ("3.2.2 no authority", b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::Target)),
    ("3.2.4 asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some((Length::None, true)))),
    ("3.2.4 asterisk without OPTIONS", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(Malformed::Target)),
    ("5.1 a blank before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Err(Malformed::Field)),
    ("5.1 no name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Err(Malformed::Field)),
    ("5.1 no colon", b"GET / HTTP/1.1\r\nHost: a\r\nb\r\n\r\n", Err(Malformed::Field)),
    ("5.1 NUL", b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", Err(Malformed::Field)),
    ("5.2 obs-fold", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", Err(Malformed::Fold)),
    ("5.2 a fold before any field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Err(Malformed::Fold)),
    ("6.1 chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", Ok(Some((Length::Chunked, true)))),
    ("6.1 both", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Err(Malformed::BothLengths)),
    ("6.1 both, the other way round", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Malformed::BothLengths)),
    ("6.1 twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Malformed::TransferCoding)),
    ("6.1 gzip, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(Malformed::TransferCoding)),
    ("6.1 identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Err(Malformed::TransferCoding)),
    ("6.1 xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Err(Malformed::TransferCoding)),
    ("6.1 a vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Err(Malformed::Field)),
    ("6.1 in 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Malformed::OldTransferCoding)),
    ("6.2", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 42\r\n\r\n", Ok(Some((Length::Known(42), true)))),
    ("6.2 nothing", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Ok(Some((Length::None, true)))),
    ("6.3 a list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", Err(Malformed::ContentLength)),
    ("6.3 twice", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Err(Malformed::ContentLength)),
    ("6.3 a sign", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", Err(Malformed::ContentLength)),
    ("6.3 below nothing", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", Err(Malformed::ContentLength)),
    ("6.3 hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", Err(Malformed::ContentLength)),
    ("6.3 empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Err(Malformed::ContentLength)),
    ("6.3 too many digits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", Err(Malformed::ContentLength)),
    ("9.3 close", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n", Ok(Some((Length::None, false)))),
    ("9.3 keep-alive in 1.0", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Ok(Some((Length::None, true)))),
    ("more fields than allowed", b"GET / HTTP/1.1\r\nHost: a\r\na:1\r\na:2\r\na:3\r\na:4\r\na:5\r\na:6\r\na:7\r\na:8\r\n\r\n", Err(Malformed::TooManyFields)),
    ("not all of it", b"GET / HTTP/1.1\r\nHost: a\r\n", Ok(None)),
];

#[test]
fn requests_are_read_or_refused_by_the_sections_of_rfc_9112() {
    for (section, input, expected) in REQUESTS {
        assert_eq!(request(input), *expected, "{section}: {:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_never_taken_for_another() {
    for (section, input, expected) in REQUESTS {
        for end in 0..input.len() {
            let early = request(&input[..end]);
            match expected {
                // Nothing good is refused on the way, nothing is taken before it is whole.
                Ok(_) => assert_eq!(early, Ok(None), "{section}: the first {end} bytes"),
                Err(why) => assert!(
                    early == Ok(None) || early == Err(*why),
                    "{section}: {early:?} after the first {end} bytes"
                ),
            }
        }
    }
}

#[test]
fn a_head_past_its_bound_is_refused_whole_or_not() {
    let mut long = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    long.resize(2000, b'x');
    assert_eq!(request(&long), Err(Malformed::TooLarge));
    long.extend_from_slice(b"\r\n\r\n");
    assert_eq!(request(&long), Err(Malformed::TooLarge));
    assert_eq!(request(&[b'A'; 1024]), Err(Malformed::TooLarge));
}

#[test]
fn the_forms_of_a_target_come_down_to_authority_and_path() {
    type Target = (&'static [u8], Option<&'static [u8]>, &'static [u8]);
    #[rustfmt::skip]
    let cases: &[Target] = &[
        (b"GET /a?b HTTP/1.1", None, b"/a?b"),
        (b"GET http://Web:80/a HTTP/1.1", Some(b"Web:80"), b"/a"),
        (b"GET http://web HTTP/1.1", Some(b"web"), b"/"),
        (b"GET http://web?q HTTP/1.1", Some(b"web"), b"/?q"),
        (b"OPTIONS http://web HTTP/1.1", Some(b"web"), b"*"),
        (b"CONNECT web:443 HTTP/1.1", Some(b"web:443"), b""),
    ];
    for (line, authority, path) in cases {
        let mut head = RequestHead::default();
        let input = [*line, b"\r\nHost: a\r\n\r\n"].concat();
        head::request(&input, LIMITS, &mut head).expect("valid").expect("whole");
        assert_eq!((head.authority(), head.path()), (*authority, *path), "{head:?}");
    }
}

#[test]
fn responses_are_read_or_refused_by_rfc_9112_section_6() {
    let get: &'static [u8] = b"GET";
    type Answer = (&'static [u8], &'static [u8], Result<Said, Malformed>);
    #[rustfmt::skip]
    let cases: &[Answer] = &[
        (get, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Ok((Length::Known(3), true))),
        (get, b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", Ok((Length::Known(3), true))),
        (get, b"HTTP/1.1 200 \r\n\r\n", Ok((Length::Close, false))),
        (get, b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Ok((Length::Known(3), false))),
        (get, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok((Length::Chunked, true))),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Ok((Length::None, true))),
        (get, b"HTTP/1.1 204 No Content\r\n\r\n", Ok((Length::None, true))),
        (get, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Ok((Length::None, true))),
        (get, b"HTTP/1.1 103 Early Hints\r\n\r\n", Ok((Length::None, true))),
        (b"CONNECT", b"HTTP/1.1 200 OK\r\n\r\n", Ok((Length::Close, false))),
        (get, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Malformed::BothLengths)),
        (get, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", Err(Malformed::ContentLength)),
        (get, b"HTTP/1.1 99 OK\r\n\r\n", Err(Malformed::StatusLine)),
        (get, b"HTTP/1.1 2000 OK\r\n\r\n", Err(Malformed::StatusLine)),
        (get, b"HTTP/2 200 OK\r\n\r\n", Err(Malformed::StatusLine)),
        (get, b"SSH-2.0-OpenSSH\r\n\r\n", Err(Malformed::StatusLine)),
    ];
    for (method, input, expected) in cases {
        let mut head = ResponseHead::default();
        let read = head::response(input, LIMITS, method, &mut head);
        let said = read.map(|read| {
            let (used, response) = read.expect("whole");
            assert_eq!(used, input.len());
            (response.length, response.keep_alive)
        });
        assert_eq!(said, *expected, "{:?}", String::from_utf8_lossy(input));
    }
}

/// The body of chunks that come in pieces of `size` bytes, and its trailers.
fn decode(input: &[u8], size: usize) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
    let (mut decoder, mut body, mut held) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in input.chunks(size) {
        held.extend_from_slice(piece);
        loop {
            match decoder.step(&held)? {
                Step::More => break,
                Step::Skip(n) => drop(held.drain(..n)),
                Step::Data(n) => body.extend(held.drain(..n)),
                Step::Trailers => {
                    let mut fields = Fields::default();
                    match head::trailers(&held, LIMITS, &mut fields)? {
                        Some(used) => {
                            assert_eq!(used, held.len(), "all of it");
                            return Ok(Some((body, fields.len())));
                        }
                        None => break,
                    }
                }
            }
        }
    }
    Ok(None)
}

#[test]
fn chunks_are_read_or_refused_by_rfc_9112_section_7_1() {
    type Decoded = Result<Option<(&'static [u8], usize)>, Malformed>;
    #[rustfmt::skip]
    let cases: &[(&[u8], Decoded)] = &[
        (b"3\r\nabc\r\n0\r\n\r\n", Ok(Some((b"abc", 0)))),
        (b"3\r\nabc\r\nA\r\n0123456789\r\n000\r\n\r\n", Ok(Some((b"abc0123456789", 0)))),
        (b"3;a=b;c\r\nabc\r\n0\r\n\r\n", Ok(Some((b"abc", 0)))),
        (b"3 ;a=\"b\"\r\nabc\r\n0\r\n\r\n", Ok(Some((b"abc", 0)))),
        (b"0\r\nx-sum: 1\r\nx-b: 2\r\n\r\n", Ok(Some((b"", 2)))),
        (b"3\r\nab", Ok(None)),
        (b"3\nabc\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"3\r\nabcd\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"3\r\nabc\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"0x3\r\nabc\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"-3\r\nabc\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"\r\nabc\r\n", Err(Malformed::Chunk)),
        (b"3 \r\nabc\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"3;a\rb\r\nabc\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"1000000000000003\r\nabc\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        (b"0\r\nx : 1\r\n\r\n", Err(Malformed::Field)),
    ];
    for (input, expected) in cases {
        for size in [1, 2, 3, 7, input.len()] {
            let decoded = decode(input, size);
            let expected = expected.map(|e| e.map(|(body, trailers)| (body.to_vec(), trailers)));
            assert_eq!(decoded, expected, "{:?} by {size}", String::from_utf8_lossy(input));
        }
    }
    let endless = [&b"3;"[..], &[b'x'; 1000]].concat();
    assert_eq!(decode(&endless, 64), Err(Malformed::Chunk));
}

#[test]
fn no_bytes_make_the_parsers_panic() {
    const BYTES: &[u8] = b"\r\n :;0fF\x00\xffaHT";
    let mut rng = crate::balance::Rng::seeded(11);
    let seeds = REQUESTS.iter().map(|(_, input, _)| *input);
    for seed in
        seeds.chain([&b"3;a=b\r\nabc\r\n0\r\nx: 1\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"])
    {
        for _ in 0..500 {
            let mut input = seed.to_vec();
            for _ in 0..=rng.index(4) {
                let at = rng.index(input.len());
                input[at] = BYTES[rng.index(BYTES.len())];
            }
            super::fuzz(&input);
            super::fuzz(&input[rng.index(input.len())..]);
        }
    }
}
