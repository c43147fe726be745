//! A million packets that are nearly right, over UDP and TCP: each that deserves an answer gets one
//! with the right code, nothing panics, and memory does not grow.

#[path = "wire/server.rs"]
#[expect(dead_code, reason = "a kit of several tests")]
mod server;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};

use hickory_proto::rr::RecordType;
use portolan_dns::DnsConfig;
use portolan_dns::fuzzing::{Random, mutate};
use server::{TIMEOUT, cluster_ip, query, start, web};

/// Packets over each transport.
const UDP_PACKETS: usize = 700_000;
const TCP_PACKETS: usize = 300_000;
/// Packets under way at once: below every bound of the server.
const WINDOW: usize = 64;
/// Pages that memory may grow by after a tenth of the packets: 16 MiB.
const GROWTH_PAGES: u64 = 4096;

const NAMES: [&str; 8] = [
    "web.ns.svc.cluster.local.",
    "nope.ns.svc.cluster.local.",
    "www.example.com.ns.svc.cluster.local.",
    "_http._tcp.web.ns.svc.cluster.local.",
    "cluster.local.",
    "1.0.96.10.in-addr.arpa.",
    "example.com.",
    ".",
];
const TYPES: [RecordType; 6] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::SOA,
    RecordType::ANY,
    RecordType::AXFR,
];

/// A query with a few things wrong with it, or none.
fn packet(random: &mut Random) -> Vec<u8> {
    let name = NAMES[random.below(NAMES.len())];
    let mut packet = query(name, TYPES[random.below(TYPES.len())]);
    if random.below(3) == 0 {
        // An OPT record, at times of a version that is none.
        packet[11] = 1;
        let version = if random.below(8) == 0 { 1 } else { 0 };
        packet.extend_from_slice(&[0, 0, 41, 16, 0, 0, version, 0, 0, 0, 0]);
    }
    if random.below(4) > 0 {
        mutate(random, &mut packet);
    }
    packet
}

/// The codes an answer may have; none when none is due. From the header alone, by RFC 1035 §4.1.1
/// and RFC 9619.
fn codes(packet: &[u8]) -> Option<&'static [u8]> {
    let header = packet.get(..12)?;
    match (header[2] & 0x80, header[2] & 0x78, &header[4..6]) {
        (0x80, ..) => None,
        (_, opcode, _) if opcode != 0 => Some(&[4]),
        (_, _, [0, 1]) => Some(&[0, 1, 2, 3, 4, 5]),
        // RFC 7873 §5.4: a cookie may be asked for alone.
        (_, _, [0, 0]) => Some(&[0, 1]),
        _ => Some(&[1]),
    }
}

fn check(answer: &[u8], sent: &mut HashMap<[u8; 2], Vec<u8>>) {
    assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "no response: {answer:02x?}");
    let query = sent.remove(&answer[..2]).expect("an answer to what was asked, once");
    let codes = codes(&query).expect("only what deserves an answer is waited for");
    assert!(codes.contains(&(answer[3] & 0x0f)), "{query:02x?} got {answer:02x?}");
}

/// Resident pages of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number")
}

/// Runs windows of packets until as many were sent, and looks at memory.
fn storm(packets: usize, random: &mut Random, mut window: impl FnMut(Vec<Vec<u8>>)) {
    let mut settled = None;
    for n in 0..packets / WINDOW {
        let window_of = |id: usize| {
            let mut packet = packet(random);
            let [high, low] = u16::try_from(id).expect("a small window").to_be_bytes();
            for (to, from) in packet.iter_mut().zip([high, low]) {
                *to = from;
            }
            packet
        };
        window((0..WINDOW).map(window_of).collect());
        if n == packets / WINDOW / 10 {
            settled = Some(resident());
        }
    }
    let grown = resident().saturating_sub(settled.expect("more than ten windows"));
    assert!(grown < GROWTH_PAGES, "{grown} pages more than after a tenth of the packets");
}

fn waited_for(packets: &[Vec<u8>]) -> HashMap<[u8; 2], Vec<u8>> {
    let due = packets.iter().filter(|packet| codes(packet).is_some());
    due.map(|packet| ([packet[0], packet[1]], packet.clone())).collect()
}

#[test]
fn a_million_mutated_packets_are_answered_as_they_deserve() {
    let config = DnsConfig {
        service_ranges: vec!["10.96.0.0/16".parse().expect("valid")],
        ..DnsConfig::default()
    };
    let running = start(config, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1"), cluster_ip("ns/other", &["10.96.0.2"])]);
    let mut random = Random::seeded();

    let socket = UdpSocket::bind("127.0.0.1:0").expect("a client socket");
    socket.connect(running.address()).expect("loopback");
    socket.set_read_timeout(Some(TIMEOUT)).expect("settable");
    let mut buffer = vec![0; 65_535];
    storm(UDP_PACKETS, &mut random, |packets| {
        let mut sent = waited_for(&packets);
        for packet in &packets {
            socket.send(packet).expect("sent");
        }
        while !sent.is_empty() {
            let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}: {sent:02x?}"));
            check(&buffer[..length], &mut sent);
        }
    });

    let mut stream = TcpStream::connect(running.address()).expect("accepted");
    stream.set_read_timeout(Some(TIMEOUT)).expect("settable");
    stream.set_nodelay(true).expect("settable");
    storm(TCP_PACKETS, &mut random, |mut packets| {
        // A frame shorter than a header ends the connection, and is not what this is about.
        packets.retain(|packet| packet.len() >= 12);
        let mut sent = waited_for(&packets);
        let mut frames = Vec::new();
        for packet in &packets {
            let length = u16::try_from(packet.len()).expect("short");
            frames.extend_from_slice(&length.to_be_bytes());
            frames.extend_from_slice(packet);
        }
        stream.write_all(&frames).expect("sent");
        while !sent.is_empty() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap_or_else(|e| panic!("{e}: {sent:02x?}"));
            let length = usize::from(u16::from_be_bytes(length));
            stream.read_exact(&mut buffer[..length]).expect("a whole answer");
            check(&buffer[..length], &mut sent);
        }
    });
    running.stop().expect("a clean drain after all of it");
}
