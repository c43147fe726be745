//! The server over real sockets on loopback: both transports, both paths, bounds, and the drain.

#[path = "wire/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{self, A, ANY};
use portolan_dns::DnsConfig;
use portolan_dns::config::Topology;
use server::{Running, TIMEOUT, cluster_ip, headless, query, start, web};

const WEB: &str = "web.ns.svc.cluster.local.";

fn decode(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).expect("an answer decodes")
}

fn first_answer(reply: &Message) -> String {
    reply.answers.first().map_or_else(String::new, |record| record.data.to_string())
}

/// Asks over UDP from a connected socket: an answer from elsewhere than `to` is not received.
fn over_udp(to: SocketAddr, name: &str, rtype: RecordType) -> Message {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).expect("a client socket");
    socket.set_read_timeout(Some(TIMEOUT)).expect("settable");
    socket.connect(to).expect("loopback");
    socket.send(&query(name, rtype)).expect("sent");
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer from the address asked");
    decode(&buffer[..length])
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, TIMEOUT).expect("accepted");
    stream.set_read_timeout(Some(TIMEOUT)).expect("settable");
    stream
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short").to_be_bytes();
    [&length[..], message].concat()
}

fn read_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).expect("a message");
    decode(&message)
}

fn over_tcp(to: SocketAddr, name: &str, rtype: RecordType) -> Message {
    let mut stream = connect(to);
    stream.write_all(&framed(&query(name, rtype))).expect("sent");
    read_framed(&mut stream)
}

fn at(running: &Running, host: &str) -> SocketAddr {
    let port = running.address().port();
    SocketAddr::new(host.parse().expect("an address"), port)
}

#[test]
fn both_transports_and_both_paths_answer_on_one_port() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let running = start(DnsConfig { workers: 2, ..DnsConfig::default() }, address);
        running.publish(&[web("10.96.0.1")]);
        let ask = [over_udp, over_tcp];
        for over in ask {
            assert_eq!(first_answer(&over(running.address(), WEB, A)), "10.96.0.1");
            assert_eq!(first_answer(&over(running.address(), WEB, ANY)), "RFC8482 ");
        }
        running.stop().expect("a clean drain");
    }
}

#[test]
fn several_addresses_are_served_at_once() {
    let running = start(DnsConfig::default(), "127.0.0.1:0,127.0.0.2:0,[::1]:0");
    running.publish(&[web("10.96.0.1")]);
    assert_eq!(running.addresses.len(), 3);
    for address in &running.addresses {
        assert_eq!(first_answer(&over_udp(*address, WEB, A)), "10.96.0.1");
        assert_eq!(first_answer(&over_tcp(*address, WEB, A)), "10.96.0.1");
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let running = start(DnsConfig { workers: 2, ..DnsConfig::default() }, "0.0.0.0:0");
    running.publish(&[web("10.96.0.1")]);
    for rtype in [A, ANY] {
        for host in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
            let to = at(&running, host);
            // Not connected: whatever arrives is seen, and its source is looked at.
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a client socket");
            socket.set_read_timeout(Some(TIMEOUT)).expect("settable");
            socket.send_to(&query(WEB, rtype), to).expect("sent");
            let (_, from) = socket.recv_from(&mut [0; 4096]).expect("an answer");
            assert_eq!(from, to, "{rtype}");
        }
    }
    let running = start(DnsConfig::default(), "[::]:0");
    running.publish(&[web("10.96.0.1")]);
    assert_eq!(first_answer(&over_udp(at(&running, "::1"), WEB, A)), "10.96.0.1");
    assert_eq!(first_answer(&over_udp(at(&running, "::1"), WEB, ANY)), "RFC8482 ");
}

#[test]
fn every_worker_shares_the_port() {
    let running = start(DnsConfig { workers: 4, ..DnsConfig::default() }, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1")]);
    for _ in 0..64 {
        assert_eq!(first_answer(&over_udp(running.address(), WEB, A)), "10.96.0.1");
    }
    let metrics = running.metrics();
    let port = running.address().port();
    let requests = format!(
        "coredns_dns_requests_total{{server=\"dns://127.0.0.1:{port}\",zone=\"cluster.local.\",view=\"\",\
         proto=\"udp\",family=\"1\",type=\"A\"}} 64\n"
    );
    assert!(metrics.contains(&requests), "{metrics}");
    assert!(metrics.contains("portolan_dns_fast_hits_total 64"), "{metrics}");
    let responses = format!(
        "coredns_dns_responses_total{{server=\"dns://127.0.0.1:{port}\",zone=\"cluster.local.\",view=\"\",\
         rcode=\"NOERROR\"}} 64\n"
    );
    assert!(metrics.contains(&responses), "{metrics}");
    let mut lines = metrics.lines().rev();
    let last = lines.find(|line| line.starts_with("coredns_dns_request_duration"));
    let whole = |line: &str| line.contains("le=\"+Inf\"") && line.ends_with("} 64");
    assert!(last.is_some_and(whole), "{last:?}");
}

#[test]
fn a_burst_larger_than_a_batch_is_answered_whole() {
    let running = start(DnsConfig { workers: 1, ..DnsConfig::default() }, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1")]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a client socket");
    socket.set_read_timeout(Some(TIMEOUT)).expect("settable");
    for id in 0..100_u8 {
        let mut query = query(WEB, A);
        query[1] = id;
        socket.send_to(&query, running.address()).expect("sent");
    }
    let mut seen = [false; 100];
    for _ in 0..100 {
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).expect("an answer");
        seen[usize::from(buffer[1])] = true;
    }
    assert!(seen.iter().all(|s| *s));
}

#[test]
fn updates_are_served_once_the_gate_says_so() {
    let running = start(DnsConfig::default(), "127.0.0.1:0");
    let before = over_udp(running.address(), WEB, A);
    assert_eq!(before.metadata.response_code, ResponseCode::ServFail, "not ready is not no domain");
    for n in 1..5 {
        let address = format!("10.96.0.{n}");
        running.publish(&[web(&address)]);
        assert_eq!(first_answer(&over_udp(running.address(), WEB, A)), address);
        assert_eq!(first_answer(&over_tcp(running.address(), WEB, A)), address);
    }
    running.publish(&[]);
    let gone = over_udp(running.address(), WEB, A);
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn queries_on_a_stream_are_all_answered_however_they_are_cut() {
    let running = start(DnsConfig::default(), "127.0.0.1:0");
    running.publish(&[web("10.96.0.1")]);
    let mut all = Vec::new();
    for id in 0..20_u8 {
        let mut message = query(WEB, if id % 3 == 0 { ANY } else { A });
        message[1] = id;
        all.extend(framed(&message));
    }
    for piece in [1, 7, 100, all.len()] {
        let mut stream = connect(running.address());
        stream.set_nodelay(true).expect("settable");
        for part in all.chunks(piece) {
            stream.write_all(part).expect("sent");
        }
        let mut ids: Vec<u16> =
            (0..20).map(|_| read_framed(&mut stream).metadata.id & 0xff).collect();
        ids.sort_unstable();
        assert_eq!(ids, Vec::from_iter(0..20));
    }
}

#[test]
fn a_stream_that_speaks_something_else_is_closed() {
    let running = start(DnsConfig::default(), "127.0.0.1:0");
    let mut stream = connect(running.address());
    stream.write_all(&[0, 3, 1, 2, 3]).expect("sent");
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "closed or reset");
}

#[test]
fn an_idle_stream_is_closed_and_single_octets_do_not_keep_it() {
    let tcp_idle_timeout = Duration::from_millis(100);
    let running = start(DnsConfig { tcp_idle_timeout, ..DnsConfig::default() }, "127.0.0.1:0");
    let mut idle = connect(running.address());
    assert_eq!(idle.read(&mut [0; 16]).expect("an end"), 0);
    let mut slow = connect(running.address());
    slow.set_read_timeout(Some(Duration::from_millis(10))).expect("settable");
    let began = std::time::Instant::now();
    // The first two announce 257 octets. Longer than the limit in all, though every pause is
    // shorter.
    let closed = (0..500).any(|_| {
        let written = slow.write_all(&[1]).is_err();
        written || matches!(slow.read(&mut [0; 16]), Ok(0))
    });
    assert!(closed && began.elapsed() >= tcp_idle_timeout);
}

#[test]
fn connections_past_the_cap_are_closed_and_counted() {
    let config = DnsConfig { tcp_max_connections: 2, ..DnsConfig::default() };
    let running = start(config, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1")]);
    let mut open: Vec<TcpStream> = (0..2).map(|_| connect(running.address())).collect();
    for stream in &mut open {
        stream.write_all(&framed(&query(WEB, A))).expect("sent");
        assert_eq!(first_answer(&read_framed(stream)), "10.96.0.1");
    }
    let mut third = connect(running.address());
    assert_eq!(third.read(&mut [0; 16]).unwrap_or(0), 0, "closed or reset");
    let metrics = running.metrics();
    assert!(metrics.contains("portolan_dns_connections_refused_total 1"), "{metrics}");
    assert!(metrics.contains("portolan_dns_connections 2"), "{metrics}");
    drop(open);
    running.until(|metrics| metrics.contains("portolan_dns_connections 0"));
    assert_eq!(first_answer(&over_tcp(running.address(), WEB, A)), "10.96.0.1");
}

#[test]
fn at_the_bound_of_the_slow_path_queries_are_dropped_and_counted() {
    let config = DnsConfig { workers: 1, slow_queue: 1, ..DnsConfig::default() };
    let running = start(config, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1")]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a client socket");
    let held = running.hold();
    for _ in 0..50 {
        socket.send_to(&query(WEB, ANY), running.address()).expect("sent");
    }
    running.until(|metrics| {
        // One waits in the queue; with the runtime held nobody takes it.
        metrics.contains("dns_slow_total 1\n") && metrics.contains("dns_slow_dropped_total 49\n")
    });
    // The fast path does not mind.
    assert_eq!(first_answer(&over_udp(running.address(), WEB, A)), "10.96.0.1");
    drop(held);
    // The one that waited is answered, so there is room again.
    running.until(|metrics| metrics.contains("rcode=\"NOERROR\"} 2\n"));
    assert_eq!(first_answer(&over_udp(running.address(), WEB, ANY)), "RFC8482 ");
}

#[test]
fn what_was_received_before_the_drain_is_answered() {
    let bound = server::bind(DnsConfig { workers: 1, ..DnsConfig::default() }, "127.0.0.1:0");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a client socket");
    socket.set_read_timeout(Some(TIMEOUT)).expect("settable");
    for rtype in [A, ANY] {
        socket.send_to(&query(WEB, rtype), bound.addresses[0]).expect("sent");
    }
    bound.lifecycle.drain();
    bound.run().stop().expect("a clean drain");
    for _ in 0..2 {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("an answer");
        assert_eq!(decode(&buffer[..length]).metadata.response_code, ResponseCode::ServFail);
    }
}

#[test]
fn a_drain_ends_idle_streams_and_frees_the_port() {
    let running = start(DnsConfig::default(), "127.0.0.1:0");
    running.publish(&[web("10.96.0.1")]);
    let address = running.address();
    let mut stream = connect(address);
    stream.write_all(&framed(&query(WEB, A))).expect("sent");
    assert_eq!(first_answer(&read_framed(&mut stream)), "10.96.0.1");
    running.stop().expect("a clean drain");
    assert_eq!(stream.read(&mut [0; 16]).expect("an end"), 0);
    drop(start(DnsConfig::default(), &address.to_string()));
}

#[test]
fn a_server_dropped_in_mid_flight_leaves_no_thread_and_no_socket() {
    let running = start(DnsConfig { workers: 3, ..DnsConfig::default() }, "127.0.0.1:0");
    let address = running.address();
    drop(running);
    // Exclusive: any socket left would refuse this one.
    UdpSocket::bind(address).expect("the port is free");
}

#[test]
fn a_port_taken_on_tcp_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let metrics = portolan_runtime::Metrics::new();
    let error = portolan_dns::DnsServer::bind(DnsConfig::default(), &[address], &metrics)
        .expect_err("the port is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_dual_stack_service_is_answered_by_family() {
    let running = start(DnsConfig::default(), "127.0.0.1:0");
    running.publish(&[cluster_ip("ns/web", &["10.96.0.1", "fd00::1"])]);
    assert_eq!(first_answer(&over_udp(running.address(), WEB, A)), "10.96.0.1");
    assert_eq!(first_answer(&over_udp(running.address(), WEB, RecordType::AAAA)), "fd00::1");
}

#[test]
fn static_names_do_not_wait_for_the_cluster() {
    let records =
        ["static.example 60 A 10.1.1.1", "alias.example 60 CNAME web.ns.svc.cluster.local"];
    let records = records.map(|record| record.parse().expect("a record")).into();
    let running = start(DnsConfig { records, ..DnsConfig::default() }, "127.0.0.1:0");
    let ask = |name| over_udp(running.address(), name, A);
    assert_eq!(first_answer(&ask("static.example.")), "10.1.1.1");
    assert_eq!(ask("alias.example.").metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ask(WEB).metadata.response_code, ResponseCode::ServFail);
    running.publish(&[web("10.96.0.1")]);
    let data: Vec<String> =
        ask("alias.example.").answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, [WEB, "10.96.0.1"]);
}

#[test]
fn near_answers_are_rotated_and_cut_to_what_a_message_carries() {
    let topology = Topology { threshold: Some(1), node: None };
    let running = start(DnsConfig { topology, ..DnsConfig::default() }, "127.0.0.1:0");
    running.publish(&[headless("ns/web", 3)]);
    let first: BTreeSet<String> =
        (0..60).map(|_| first_answer(&over_udp(running.address(), WEB, A))).collect();
    assert_eq!(first.len(), 3, "each comes first at times");
    running.publish(&[headless("ns/web", 5000)]);
    let reply = over_tcp(running.address(), WEB, A);
    assert!(!reply.metadata.truncation && reply.answers.len() > 1000, "{}", reply.answers.len());
    assert!(over_udp(running.address(), WEB, A).metadata.truncation);
}
