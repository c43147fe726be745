//! First bytes of many protocols, whole, in parts, and mutated.

use super::{Hello, MAX_FIRST, Verdict, classify, fuzz, settle};

/// A ClientHello in records of at most `record` bytes.
fn client_hello(sni: Option<&str>, alpn: &[&str], padding: usize, record: usize) -> Vec<u8> {
    let list16 = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&length, bytes].concat()
    };
    let mut extensions = [&[0, 21][..], &list16(&vec![0; padding])].concat();
    if let Some(name) = sni {
        let entry = [&[0][..], &list16(name.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &list16(&list16(&entry))].concat());
    }
    if !alpn.is_empty() {
        let names: Vec<u8> = (alpn.iter())
            .flat_map(|name| {
                [&[u8::try_from(name.len()).expect("short")], name.as_bytes()].concat()
            })
            .collect();
        extensions.extend([&[0, 16][..], &list16(&list16(&names))].concat());
    }
    let body = [&[3, 3][..], &[7; 32], &[0], &list16(&[0x13, 0x01]), &[1, 0], &list16(&extensions)]
        .concat();
    let [_, length @ ..] = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1][..], &length, &body].concat();
    message.chunks(record).flat_map(|c| [&[0x16, 3, 1][..], &list16(c)].concat()).collect()
}

fn tls(sni: Option<&str>, alpn: &[&str]) -> Verdict {
    let alpn = alpn.iter().map(|name| name.as_bytes().into()).collect();
    Verdict::Tls(Hello { sni: sni.map(Into::into), alpn })
}

#[test]
fn each_protocol_is_told_by_its_first_bytes() {
    let hello = client_hello(Some("Web.Example"), &["h2", "http/1.1"], 600, MAX_FIRST);
    let split = client_hello(Some("web.example"), &[], 1800, 100);
    let not_a_name = client_hello(Some("a..b"), &["h2"], 0, 1 << 14);
    let without = client_hello(None, &[], 0, 1 << 14);
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], Verdict::Http1),
        (b"\r\nGET / HTTP/1.0\r\nHost: a", Verdict::Http1),
        (b"OPTIONS * HTTP/1.1\n", Verdict::Http1),
        (b"VERSION-CONTROL /a?b=%20 HTTP/1.1\r\n", Verdict::Http1),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", Verdict::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Verdict::Http2),
        (b"PRI * HTTP/1.1\r\n", Verdict::Http1),
        (&hello, tls(Some("web.example"), &["h2", "http/1.1"])),
        (&split, tls(Some("web.example"), &[])),
        (&not_a_name, tls(None, &["h2"])),
        (&without, tls(None, &[])),
        (b"OPTIONS rtsp://a/ RTSP/1.0\r\n", Verdict::Other),
        (b"INVITE sip:a@b SIP/2.0\r\n", Verdict::Other),
        (b"GET /\r\n", Verdict::Other),
        (b"GET / HTTP/3", Verdict::Other),
        (b"GET  HTTP/1.1\r\n", Verdict::Other),
        (b"PING\r\n", Verdict::Other),
        (b"*1\r\n$4\r\nPING\r\n", Verdict::Other),
        (b"get key\r\n", Verdict::Other),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Verdict::Other),
        (b"EHLO a\r\n", Verdict::Other),
        (b"AMQP\0\0\x09\x01", Verdict::Other),
        // PostgreSQL's SSLRequest; MQTT; the handshake type of a server's hello; SSLv2.
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Verdict::Other),
        (b"\x10\x0c\0\x04MQTT", Verdict::Other),
        (b"\x16\x03\x01\0\x05\x02", Verdict::Other),
        (b"\x16\x03\x05", Verdict::Other),
        (b"\x16\x03\x01\0\0", Verdict::Other),
        (b"\x16\x03\x01\x7f\xff", Verdict::Other),
        (b"\x80\x2e\x01\x03\x01", Verdict::Other),
    ] {
        assert_eq!(classify(bytes), expected, "{}", bytes.escape_ascii());
        fuzz(bytes);
        for cut in 0..bytes.len() {
            let part = classify(&bytes[..cut]);
            let fits = part == Verdict::NeedMore || part == expected;
            assert!(fits, "{part:?} of {} cut at {cut}", bytes.escape_ascii());
        }
    }
}

#[test]
fn what_never_ends_is_settled_at_the_bound() {
    let request = [b"GET /", &vec![b'a'; MAX_FIRST][..]].concat();
    let endless = client_hello(None, &[], 40_000, 1 << 14);
    for (bytes, expected) in [(&request[..], Verdict::Http1), (&endless, tls(None, &[]))] {
        assert_eq!(classify(&bytes[..MAX_FIRST - 1]), Verdict::NeedMore);
        assert_eq!(classify(&bytes[..MAX_FIRST]), expected);
    }
    for (bytes, expected) in [
        (&b"GET /a"[..], Verdict::Http1),
        (b"GET ", Verdict::Other),
        (b"PRI * HT", Verdict::Other),
        (b"\x16\x03", Verdict::Other),
        (b"", Verdict::Other),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xf0\x03\x03", tls(None, &[])),
    ] {
        assert_eq!(classify(bytes), Verdict::NeedMore, "{}", bytes.escape_ascii());
        assert_eq!(settle(bytes), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_hundred_thousand_mutated_starts_do_no_harm() {
    let seeds = [
        b"GET /a/b?c HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        client_hello(Some("web.example"), &["h2", "http/1.1"], 20, 1 << 14),
        client_hello(Some("web.example"), &["h2"], 20, 50),
    ];
    crate::tcp::mutation::of(&seeds, 100_000, fuzz);
}
