//! RFC 7541 Appendix C, limits, and that what one side writes the other reads.

use super::*;

#[derive(Default)]
struct List(Vec<(String, String, bool)>);

impl Sink for List {
    fn field(&mut self, item: &Item<'_>) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.0.push((text(item.name), text(item.value), item.valid));
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex")
    };
    digits.chunks(2).map(byte).collect()
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let mut list = List::default();
    decoder.decode(block, &mut list)?;
    Ok(list.0.into_iter().map(|(name, value, _)| (name, value)).collect())
}

/// A block in hex, its fields, and the size of the table behind it.
type Block<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

fn check(limit: usize, blocks: &[Block<'_>]) {
    let mut decoder = Decoder::default();
    decoder.table.resize(limit);
    for (hex, expected, size) in blocks {
        let got = read(&mut decoder, &bytes(hex)).expect("decodes");
        let got: Vec<(&str, &str)> = got.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(&got, expected);
        assert_eq!(decoder.table.size(), *size, "{hex}");
    }
}

#[test]
fn integers_are_those_of_c_1() {
    let cases: [(&str, u32, usize); 3] = [("0a", 5, 10), ("1f9a0a", 5, 1337), ("2a", 8, 42)];
    for (hex, prefix, expected) in cases {
        let mut at = 0;
        assert_eq!(integer::decode(&bytes(hex), &mut at, prefix), Ok(expected));
        assert_eq!(at, bytes(hex).len());
        let mut out = Vec::new();
        integer::encode(&mut out, 0, prefix, expected);
        assert_eq!(out, bytes(hex));
    }
    let large = integer::decode(&bytes("1fffffffff7f"), &mut 0, 5);
    assert_eq!(large, Err(HpackError::Integer));
    assert_eq!(integer::decode(&bytes("1fff"), &mut 0, 5), Err(HpackError::Truncated));
}

#[test]
fn literals_are_those_of_c_2() {
    check(
        4096,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[("custom-key", "custom-header")],
            55,
        )],
    );
    check(4096, &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], 0)]);
    check(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 0)]);
    check(4096, &[("82", &[(":method", "GET")], 0)]);
}

const FIRST: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn requests_are_those_of_c_3_and_c_4() {
    check(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST, 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND, 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                THIRD,
                164,
            ),
        ],
    );
    check(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", SECOND, 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD, 164),
        ],
    );
}

const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

#[test]
fn responses_are_those_of_c_5_and_c_6() {
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let place = "https://www.example.com";
    let later = "Mon, 21 Oct 2013 20:13:22 GMT";
    let first =
        [(":status", "302"), ("cache-control", "private"), ("date", date), ("location", place)];
    let second = [(":status", "307"), first[1], first[2], first[3]];
    let third = [
        (":status", "200"),
        ("cache-control", "private"),
        ("date", later),
        ("location", place),
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ];
    check(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
             2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
             6c65 2e63 6f6d",
                &first,
                222,
            ),
            ("4803 3330 37c1 c0bf", &second, 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
             54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
             5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
             3d31",
                &third,
                215,
            ),
        ],
    );
    check(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &first,
                222,
            ),
            ("4883 640e ffc1 c0bf", &second, 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
             77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
             9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                &third,
                215,
            ),
        ],
    );
}

#[test]
fn blocks_that_say_nothing_valid_are_refused() {
    let cases = [
        ("80", HpackError::Index),
        ("be", HpackError::Index),
        ("7f00 0161", HpackError::Index),
        ("ff80 8080 8080 01", HpackError::Integer),
        ("3fe2 1f", HpackError::SizeUpdate),
        ("8220", HpackError::SizeUpdate),
        ("4003 6162", HpackError::Truncated),
        ("40", HpackError::Truncated),
        ("ff", HpackError::Truncated),
        ("4081 ff 0161", HpackError::Huffman),
    ];
    for (hex, expected) in cases {
        assert_eq!(read(&mut Decoder::default(), &bytes(hex)), Err(expected), "{hex}");
    }
}

#[test]
fn a_lowered_limit_must_be_answered_by_the_next_block() {
    let mut decoder = Decoder::default();
    decoder.set_limit(100);
    assert_eq!(read(&mut decoder, &bytes("82")), Err(HpackError::SizeUpdate));
    assert!(read(&mut decoder, &bytes("3f45 82")).is_ok(), "to 100");
    assert!(read(&mut decoder, &bytes("82")).is_ok(), "said once");
    assert_eq!(read(&mut decoder, &bytes("3f46")), Err(HpackError::SizeUpdate), "to 101");
}

#[test]
fn characters_are_judged_also_of_what_the_table_holds() {
    let mut decoder = Decoder::default();
    let mut list = List::default();
    // A name with a capital, a value with a line feed, each named again by index.
    let block = bytes("4001 4101 61 be 4001 6101 0a be 7e 0162 4001 6201 20");
    decoder.decode(&block, &mut list).expect("decodes");
    let valid: Vec<bool> = list.0.iter().map(|(_, _, valid)| *valid).collect();
    assert_eq!(valid, [false, false, false, false, true, false]);
}

#[test]
fn what_is_written_is_read_and_repeats_cost_one_byte() {
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::default();
    let mut sizes = Vec::new();
    for round in 0..2000_usize {
        if round == 1000 {
            // Lowered twice and raised between two blocks: the smallest is said as well.
            [64, 0, 512].into_iter().for_each(|limit| encoder.set_limit(limit));
        }
        let mut block = Vec::new();
        encoder.begin(&mut block);
        let path = format!("/item/{}", round % 7);
        let id = format!("{round:032}");
        encoder.method(&mut block, b"POST");
        encoder.path(&mut block, path.as_bytes());
        encoder.authority(&mut block, b"web.default");
        encoder.field(&mut block, Known::ContentType, b"Content-Type", b"application/grpc");
        encoder.field(&mut block, Known::Other, b"x-id", id.as_bytes());
        encoder.field(&mut block, Known::Other, b"authorization", b"Bearer x");
        let expected = [
            (":method", "POST"),
            (":path", path.as_str()),
            (":authority", "web.default"),
            ("content-type", "application/grpc"),
            ("x-id", id.as_str()),
            ("authorization", "Bearer x"),
        ];
        let got = read(&mut decoder, &block).expect("decodes");
        assert!(got.iter().map(|(n, v)| (n.as_str(), v.as_str())).eq(expected), "{round}");
        assert_eq!(decoder.table.size(), encoder.table.size());
        sizes.push(block.len());
    }
    assert!(sizes[999] < 60, "{}: one byte each but the id and the secret", sizes[999]);
}
