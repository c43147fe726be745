//! More questions than upstreams can answer: who is told so, and who does not notice.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use crate::client::{HOME, Pending, Stream, ask, send};
use crate::kit::{SOON, WEB, WEB_ADDRESS, forwarding, metric, serve, until};
use crate::message::{Question, Reply};
use crate::upstream::{Upstream, answering_after, silent};

const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

fn distinct(n: usize) -> Question {
    Question::a(&format!("n{n}.flood.example."))
}

fn is_shed(reply: &Reply) -> bool {
    let shed = reply.error().is_some_and(|(code, text)| code == 0 && text.contains("too many"));
    reply.code() == ResponseCode::ServFail && shed
}

/// Sends as many questions from one client.
fn flood(to: SocketAddr, from: Ipv4Addr, questions: std::ops::Range<usize>) -> Vec<Pending> {
    questions.map(|n| send(to, from, &distinct(n))).collect()
}

#[test]
fn a_client_has_a_bound_of_its_own_and_others_are_served_meanwhile() {
    let upstream = Upstream::start(Arc::new(|asked| {
        if asked.name().to_ascii_lowercase().contains("flood") {
            return Vec::new();
        }
        crate::upstream::one(asked.address("192.0.2.1", 60))
    }));
    let mut config = forwarding(&[&upstream]);
    config.client_max_inflight = 8;
    config.forward.timeout = Duration::from_millis(1200);
    let running = serve(config);
    let pending = flood(running.address(), FLOODER, 0..40);
    until("the rest to be refused", || {
        metric(&running, "portolan_dns_client_rejects_total", "") == 32
    });
    let reply = send(running.address(), NEIGHBOUR, &Question::a("www.example.")).reply();
    assert_eq!(reply.data(), ["192.0.2.1"], "a neighbour is served");
    assert!(reply.took < SOON, "{:?}", reply.took);
    let own = send(running.address(), FLOODER, &Question::a(WEB)).reply();
    assert_eq!(own.data(), [WEB_ADDRESS], "so is the client itself with cluster names");
    let known = send(running.address(), FLOODER, &Question::a("www.example.")).reply();
    assert_eq!(known.data(), ["192.0.2.1"], "and with what is known");
    // Those that found no room know it already; the others wait for their upstream.
    let (told, waiting): (Vec<_>, Vec<_>) =
        pending.into_iter().map(|one| (one.arrived(), one)).partition(|(told, _)| told.is_some());
    assert!(told.iter().all(|(reply, _)| reply.as_ref().is_some_and(is_shed)), "{told:?}");
    assert_eq!((told.len(), waiting.len()), (32, 8));
    for (_, one) in &waiting {
        one.reply().assert_unreachable(&upstream.label());
    }
    // Nothing of it is left: the client may ask as much as before.
    let again = flood(running.address(), FLOODER, 100..108);
    until("all to be under way", || metric(&running, "portolan_dns_forward_inflight", "") == 8);
    assert_eq!(metric(&running, "portolan_dns_client_rejects_total", ""), 32);
    drop(again);
}

#[test]
fn past_the_bound_of_all_clients_together_questions_fail_at_once() {
    let upstream = Upstream::start(answering_after("192.0.2.1", 500));
    let mut config = forwarding(&[&upstream]);
    config.forward.max_inflight = 10;
    let running = serve(config);
    let clients = (0..30_u8).map(|n| Ipv4Addr::new(127, 0, 2, n));
    let pending: Vec<Pending> =
        clients.zip(0..).map(|(from, n)| send(running.address(), from, &distinct(n))).collect();
    let replies: Vec<Reply> = pending.iter().map(Pending::reply).collect();
    assert_eq!(replies.iter().filter(|reply| is_shed(reply)).count(), 20);
    let answered = replies.iter().filter(|reply| reply.data() == ["192.0.2.1"]).count();
    assert_eq!(answered, 10);
    assert_eq!(metric(&running, "coredns_forward_max_concurrent_rejects_total", ""), 20);
    assert_eq!(ask(running.address(), &distinct(100)).first(), "192.0.2.1", "there is room again");
}

#[test]
fn clients_that_wait_for_the_same_name_count_each_under_its_own_bound() {
    let upstream = Upstream::start(answering_after("192.0.2.1", 400));
    let mut config = forwarding(&[&upstream]);
    config.client_max_inflight = 3;
    let running = serve(config);
    let same = Question::a("www.example.");
    let pending: Vec<Pending> = (0..10).map(|_| send(running.address(), FLOODER, &same)).collect();
    let other = send(running.address(), NEIGHBOUR, &same);
    assert_eq!(other.reply().data(), ["192.0.2.1"]);
    let replies: Vec<Reply> = pending.iter().map(Pending::reply).collect();
    assert_eq!(replies.iter().filter(|reply| is_shed(reply)).count(), 7);
    assert_eq!(upstream.count("www.example."), 1);
}

#[test]
fn questions_whose_clients_went_away_are_bounded_all_the_same() {
    let upstream = Upstream::start(silent());
    let mut config = forwarding(&[&upstream]);
    config.forward.max_inflight = 10;
    config.forward.timeout = Duration::from_millis(1500);
    let running = serve(config);
    for round in 0..8_usize {
        let mut stream = Stream::open(running.address());
        for n in 0..5_u16 {
            stream.send(n, &distinct(round * 10 + usize::from(n)));
        }
        // Answered on the same connection, so the questions before it have been read.
        stream.send(99, &Question::a(WEB));
        while stream.next().data() != [WEB_ADDRESS] {}
        drop(stream);
        let under_way = metric(&running, "portolan_dns_forward_inflight", "");
        assert!(under_way <= 10, "{under_way} in round {round}");
    }
    until("all to be given up", || metric(&running, "portolan_dns_forward_inflight", "") == 0);
}

/// Questions of the great flood, and how many clients they come from.
const FLOOD: usize = 10_000;
const FLOODERS: u8 = 250;
/// Questions sent at once, between which the system may deliver.
const BURST: usize = 20;
/// Bound on all but a hundredth of the answers about cluster names: far below what a dead upstream takes.
const P99: Duration = Duration::from_millis(500);

#[test]
fn ten_thousand_questions_for_dead_upstreams_leave_cluster_names_alone() {
    let dead = [Upstream::start(silent()), Upstream::start(silent())];
    let running = serve(forwarding(&[&dead[0], &dead[1]]));
    let to = running.address();
    let sockets: Vec<UdpSocket> = (0..FLOODERS)
        .map(|n| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 1, 0, n), 0)).expect("a socket");
            socket.connect(to).expect("loopback");
            socket.set_nonblocking(true).expect("settable");
            socket
        })
        .collect();
    let over = AtomicBool::new(false);
    let mut times = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let reply = ask(to, &Question::a(WEB));
                assert_eq!(reply.data(), [WEB_ADDRESS], "{reply:?}");
                times.push(reply.took);
            }
            times
        });
        let began = Instant::now();
        for n in 0..FLOOD {
            let from = &sockets[n % sockets.len()];
            let id = u16::try_from(n).expect("fewer than ids");
            from.send(&distinct(n).encode(id)).expect("sent");
            if n % BURST == BURST - 1 {
                // Answered in its turn, which is when the burst has been read.
                let reply = send(to, HOME, &Question::a(WEB)).reply();
                assert_eq!(reply.data(), [WEB_ADDRESS]);
                assert!(reply.took < Duration::from_secs(1), "{:?}", reply.took);
            }
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        // While those that found room still wait.
        until("some more answers", || began.elapsed() > Duration::from_millis(1500));
        over.store(true, Ordering::Relaxed);
        asking.join().expect("every cluster name was answered")
    });
    times.sort_unstable();
    assert!(times.len() > 500, "{} cluster names were asked", times.len());
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < P99, "p99 of {} is {p99:?}, the worst {:?}", times.len(), times.last());
    assert!(metric(&running, "portolan_dns_forward_inflight", "") <= 4096);
    // Whatever the flood was told, it was no answer.
    let mut buffer = [0; 1500];
    let told = sockets.iter().flat_map(|socket| {
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .collect::<Vec<_>>()
    });
    let codes: Vec<u8> = told.map(|answer| answer[3] & 0x0f).collect();
    assert!(codes.iter().all(|code| *code == 2), "something else than SERVFAIL");
    let dropped = metric(&running, "portolan_dns_slow_dropped_total", "");
    let slow = metric(&running, "portolan_dns_slow_total", "");
    assert!(slow + dropped >= u64::try_from(FLOOD).expect("small"), "{slow} and {dropped}");
}
