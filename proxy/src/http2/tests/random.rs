//! Input cut at every place and changed at random: the first changes nothing, the second never
//! panics.

use bytes::BytesMut;

use super::super::connection::{Connection, Role};
use super::super::frame::PREFACE;
use super::super::*;
use super::cases::*;

/// A generator of numbers that is the same on every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("64 bits") % below
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next(256)).expect("a byte")
    }
}

fn script() -> Vec<u8> {
    let fields = [("content-length", "3000"), ("x-a", "1")];
    let frames = [
        settings(&[(4, 70_000), (3, 10)]),
        request(1, false, &fields),
        (PING, 0, 0, vec![1; 8]),
        (DATA, 0, 1, vec![1; 1500]),
        (SETTINGS, 1, 0, vec![]),
        request(3, true, &[]),
        (WINDOW, 0, 0, word(1000)),
        (DATA, 8, 1, [&[3][..], &[2; 1503]].concat()),
        (HEADERS, 5, 1, block(&[("x-trailer", "t")])),
        (HEADERS, 1, 5, block(&GET[..2])),
        (CONTINUATION, 4, 5, block(&GET[2..])),
        request(7, true, &[("Bad", "name")]),
        (RESET, 0, 3, word(8)),
        (DATA, 1, 5, vec![0; 10]),
        (GOAWAY, 0, 0, [word(0), word(0)].concat()),
        (99, 1, 2, vec![0; 30]),
    ];
    [PREFACE, &bytes(&frames)].concat()
}

/// All output, and all requests with their data.
fn run(input: &[u8], cuts: &[usize]) -> (Vec<u8>, String) {
    let connection = Connection::new(Role::Server, &Settings::default());
    let mut peer = Peer { connection, requests: Vec::new() };
    let mut buffer = BytesMut::new();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([input.len()]) {
        buffer.extend_from_slice(&input[from..cut.max(from)]);
        from = cut.max(from);
        peer.connection.recv(&mut buffer).expect("valid");
    }
    let mut heard = String::new();
    while let Some((key, head)) = peer.connection.accept() {
        let mut data = Vec::new();
        while let Some(Ok(piece)) = peer.read(key) {
            data.extend_from_slice(&piece);
        }
        let trailers = peer.connection.trailers(key);
        heard += &format!("{head:?} {data:?} {trailers:?}\n");
    }
    (peer.output(), heard)
}

#[test]
fn it_does_not_matter_where_the_input_is_cut() {
    let input = script();
    let expected = run(&input, &[]);
    assert!(expected.1.contains("x-trailer") && expected.1.lines().count() == 1, "{}", expected.1);
    for cut in 0..input.len() {
        assert!(run(&input, &[cut]) == expected, "at {cut}");
    }
    let every: Vec<usize> = (1..input.len()).collect();
    assert!(run(&input, &every) == expected, "byte by byte");
}

#[test]
fn input_that_was_changed_at_random_never_panics() {
    let seed = 0x5eed_0001;
    let mut random = Random(seed);
    let valid = script()[PREFACE.len()..].to_vec();
    for _ in 0..4000 {
        let mut input = vec![random.byte()];
        input.extend_from_slice(&valid);
        for _ in 0..=random.next(6) {
            let at = random.next(input.len());
            match random.next(4) {
                0 => input[at] = random.byte(),
                1 => input[at] ^= 1 << random.next(8),
                2 => drop(input.drain(at..(at + random.next(20)).min(input.len()))),
                _ => {
                    let piece: Vec<u8> = (0..random.next(12)).map(|_| random.byte()).collect();
                    input.splice(at..at, piece);
                }
            }
            if input.is_empty() {
                input.push(0);
            }
        }
        fuzz(&input);
    }
}

#[test]
fn frames_made_at_random_never_panic() {
    let mut random = Random(0x5eed_0002);
    for _ in 0..2000 {
        let mut frames = Vec::new();
        for _ in 0..random.next(40) {
            let id = u32::try_from(random.next(12)).expect("small");
            let kind = u8::try_from(random.next(11)).expect("small");
            let flags = random.byte() & [0xff, 0x05, 0x01, 0x04][random.next(4)];
            let length = [0, 4, 5, 6, 8, 12, 40, 2000][random.next(8)];
            frames.push(match random.next(4) {
                0 => request(id, random.next(2) == 0, &[]),
                1 => response(id, random.next(2) == 0, &[]),
                2 => (kind, flags, id, vec![0; length]),
                _ => (kind, flags, id, (0..length).map(|_| random.byte()).collect()),
            });
        }
        fuzz(&[&[random.byte()], &bytes(&frames)[..]].concat());
    }
}
