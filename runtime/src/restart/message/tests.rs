//! Every message there and back, and bytes that are none.

use super::*;

fn label(name: &str, asked: &str) -> Label {
    let asked = asked.parse().expect("an address");
    Label { purpose: Purpose::Listener, group: 7, name: name.into(), asked, worker: 3 }
}

fn messages() -> Vec<Message> {
    let admin = Label { purpose: Purpose::Admin, ..label("", "127.0.0.1:15000") };
    let xds = Label { purpose: Purpose::Xds, group: u64::MAX, ..label("", "[::1]:0") };
    let scoped = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 5, 9).into();
    vec![
        Message::Hello(u32::MAX),
        Message::Sockets(Vec::new()),
        Message::Sockets(vec![admin, xds, Label { asked: scoped, ..label("döner", "1.2.3.4:5") }]),
        Message::Sockets(vec![label(&"x".repeat(MAX_NAME), "[2001:db8::1]:65535"); MAX_BATCH]),
        Message::Complete(65_536),
        Message::Keep(vec![u64::MAX, 0, 1]),
        Message::Keep((0..).take(MAX_KEEP).collect()),
        Message::Drain,
        Message::Draining,
        Message::Refused("another restart is under way".into()),
    ]
}

fn read(bytes: &[u8]) -> Result<Message, MessageError> {
    let (header, rest) = bytes.split_first_chunk().ok_or(MessageError::Malformed("header"))?;
    let length = payload_len(header)?;
    decode(header, rest.get(..length).ok_or(MessageError::Malformed("cut"))?)
}

#[test]
fn every_message_is_read_as_it_was_written_and_keeps_to_the_bounds() {
    for message in messages() {
        let bytes = message.encode();
        assert!(bytes.len() <= HEADER + MAX_PAYLOAD, "{}: {}", message.word(), bytes.len());
        assert_eq!(read(&bytes), Ok(message));
    }
}

#[test]
fn a_name_or_reason_that_is_too_long_is_cut_at_a_character() {
    let name = "ä".repeat(MAX_NAME);
    let Ok(Message::Sockets(labels)) =
        read(&Message::Sockets(vec![label(&name, "1.2.3.4:5")]).encode())
    else {
        panic!("sockets")
    };
    assert_eq!(labels[0].name, "ä".repeat(MAX_NAME / 2));
    assert_eq!(labels[0].name, told(&name));
    let refused = read(&Message::Refused("€".repeat(MAX_REASON)).encode());
    assert_eq!(refused, Ok(Message::Refused("€".repeat(MAX_REASON / 3))));
}

#[test]
fn bytes_that_are_no_message_are_refused_by_what_is_wrong_with_them() {
    let with = |at: usize, byte: u8, message: Message| {
        let mut bytes = message.encode();
        bytes[at] = byte;
        bytes
    };
    let one = || Message::Sockets(vec![label("web", "1.2.3.4:80")]);
    let many = vec![label("", "1.2.3.4:80"); MAX_BATCH];
    let mut crowd = Message::Sockets(many).encode();
    let entry = crowd[HEADER..].to_vec();
    crowd.extend(&entry[..entry.len() / MAX_BATCH]);
    let length = u32::try_from(crowd.len() - HEADER).expect("small").to_be_bytes();
    crowd[6..HEADER].copy_from_slice(&length);
    let mut longer = Message::Drain.encode();
    longer[9] = 1;
    longer.push(0);
    let cases: Vec<(&str, Vec<u8>, MessageError)> = vec![
        ("http", b"GET / HTTP/1.1".to_vec(), MessageError::Foreign),
        ("version", with(4, 2, Message::Drain), MessageError::Version { theirs: 2 }),
        (
            "version",
            with(4, 0, Message::Refused(String::new())),
            MessageError::Version { theirs: 0 },
        ),
        ("kind", with(5, 0, Message::Drain), MessageError::Kind(0)),
        ("kind", with(5, 8, Message::Drain), MessageError::Kind(8)),
        ("length", with(6, 255, Message::Drain), MessageError::TooLong(0xff00_0000)),
        ("bound", with(7, 1, Message::Refused("x".into())), MessageError::TooLong(0x0001_0001)),
        ("short", with(5, HELLO, Message::Drain), MessageError::Malformed("process id")),
        ("end", longer, MessageError::Malformed("end")),
        ("purpose", with(10, 3, one()), MessageError::Malformed("purpose")),
        ("family", with(23, 5, one()), MessageError::Malformed("address family")),
        ("family", with(23, 6, one()), MessageError::Malformed("address")),
        ("name", with(31, 4, one()), MessageError::Malformed("name")),
        ("name", with(30, 3, one()), MessageError::Malformed("name")),
        ("text", with(32, 0xff, one()), MessageError::Malformed("name")),
        ("crowd", crowd, MessageError::Malformed("count")),
        ("reason", with(10, 0xff, Message::Refused("x".into())), MessageError::Malformed("reason")),
    ];
    for (what, bytes, error) in cases {
        assert_eq!(read(&bytes), Err(error), "{what}");
    }
}

/// xorshift64*: the same bytes in every run.
fn next(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0)
}

#[test]
fn whatever_becomes_of_the_bytes_what_is_read_is_within_bounds_and_reads_the_same_again() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let (mut taken, mut refused) = (0, 0);
    for message in messages() {
        let whole = message.encode();
        for _ in 0..3000 {
            let mut bytes = whole.clone();
            for _ in 0..=next(&mut state) % 3 {
                let at = next(&mut state) % bytes.len();
                match next(&mut state) % 4 {
                    0 => bytes[at] = next(&mut state).to_be_bytes()[7],
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, 0),
                    _ => bytes[at] ^= 1 << (next(&mut state) % 8),
                }
            }
            match read(&bytes) {
                Ok(message) => {
                    taken += 1;
                    let again = message.encode();
                    assert!(again.len() <= HEADER + MAX_PAYLOAD);
                    assert_eq!(read(&again), Ok(message));
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
}
