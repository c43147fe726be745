//! Many questions on one connection of a client, some of which have to wait for an upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::Stream;
use crate::kit::{SOON, WEB, WEB_ADDRESS, forwarding, serve};
use crate::message::Question;
use crate::upstream::{Act, Script, Step, Upstream, answering_after};

#[test]
fn a_slow_name_does_not_hold_back_cluster_names_on_its_connection() {
    let upstream = Upstream::start(answering_after("192.0.2.1", 500));
    let running = serve(forwarding(&[&upstream]));
    let mut stream = Stream::open(running.address());
    stream.send(1, &Question::a("slow.example."));
    for id in 2..10 {
        stream.send(id, &Question::a(WEB));
        let reply = stream.next();
        assert_eq!((reply.message.metadata.id, reply.first()), (id, WEB_ADDRESS.to_owned()));
        assert!(reply.took < SOON, "{:?}", reply.took);
    }
    let slow = stream.next();
    assert_eq!((slow.message.metadata.id, slow.first()), (1, "192.0.2.1".to_owned()));
}

/// Answers after a while, and notes how many questions waited at once.
fn counting(most: &Arc<AtomicUsize>, ms: u64) -> Script {
    let (now, most) = (Arc::<AtomicUsize>::default(), most.clone());
    let at = Arc::new(std::sync::Mutex::new(Vec::<std::time::Instant>::new()));
    Arc::new(move |asked| {
        if asked.is_probe() {
            return Vec::new();
        }
        let mut starts = at.lock().expect("no test panics with it");
        let waiting = Duration::from_millis(ms);
        starts.retain(|start| start.elapsed() < waiting);
        starts.push(std::time::Instant::now());
        now.store(starts.len(), Ordering::Relaxed);
        most.fetch_max(now.load(Ordering::Relaxed), Ordering::Relaxed);
        vec![Step::after_ms(ms, Act::Send(asked.address("192.0.2.1", 60)))]
    })
}

#[test]
fn past_the_cap_of_a_connection_questions_wait_and_are_all_answered() {
    let most = Arc::<AtomicUsize>::default();
    let upstream = Upstream::start(counting(&most, 100));
    let mut config = forwarding(&[&upstream]);
    config.tcp_max_pipelined = 4;
    let running = serve(config);
    let mut stream = Stream::open(running.address());
    for id in 0..14 {
        stream.send(id, &Question::a(&format!("n{id}.example.")));
    }
    stream.send(14, &Question::a(WEB));
    let mut ids: Vec<u16> = (0..15).map(|_| stream.next().message.metadata.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, Vec::from_iter(0..15));
    assert_eq!(most.load(Ordering::Relaxed), 4, "at once");
    // Another connection has a cap of its own.
    let mut other = Stream::open(running.address());
    stream.send(20, &Question::a("x.example."));
    other.send(21, &Question::a(WEB));
    assert_eq!(other.next().message.metadata.id, 21);
}

#[test]
fn a_connection_is_not_idle_while_a_question_waits_and_is_afterwards() {
    let upstream = Upstream::start(answering_after("192.0.2.1", 500));
    let mut config = forwarding(&[&upstream]);
    config.tcp_idle_timeout = Duration::from_millis(120);
    let running = serve(config);
    let mut stream = Stream::open(running.address());
    stream.send(1, &Question::a("slow.example."));
    let reply = stream.next();
    assert_eq!(reply.first(), "192.0.2.1");
    assert!(reply.took > Duration::from_millis(450), "{:?}", reply.took);
    let began = std::time::Instant::now();
    assert!(stream.ends());
    let took = began.elapsed();
    assert!((80..1000).contains(&took.as_millis()), "{took:?}");
}
