//! Streams of many lengths through real sockets: every byte, both ends, every limit.

use std::cell::Cell;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::pool::{self, Lease, MAX_IDLE, MAX_PIPES, Pipes, Tuning};
use super::{Broken, Counters, End, Limits, Pump, bidirectional};
use crate::balance::Rng;
use crate::metrics::Counter;

const LONG: Duration = Duration::from_mins(1);
const KIB: usize = 1024;

/// What is counted, as the numbers of a test.
#[derive(Default)]
struct Counted {
    bytes_in: Counter,
    bytes_out: Counter,
    spliced: Counter,
    denied: Counter,
    own: (Cell<u64>, Cell<u64>),
}

impl Counted {
    fn counters(&self) -> Counters<'_> {
        let Self { bytes_in, bytes_out, spliced, denied, own } = self;
        Counters { own, bytes_in, bytes_out, spliced, denied }
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let to = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
    (client.expect("connected"), accepted.expect("accepted").0)
}

/// Fails instead of hanging.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(Duration::from_secs(30), future).await;
    in_time.unwrap_or_else(|_elapsed| panic!("{what}: not in time"))
}

fn limits() -> Limits {
    Limits { idle: LONG, until: None }
}

/// Bytes no two places of which look alike.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::seeded(seed);
    std::iter::repeat_with(|| rng.next().to_le_bytes()).flatten().take(length).collect()
}

/// Runs a client and a server with a pair of streams between them.
async fn between<C, S>(
    counted: &Counted,
    limits: Limits,
    client: impl FnOnce(TcpStream) -> C,
    server: impl FnOnce(TcpStream) -> S,
) -> (End, C::Output, S::Output)
where
    C: Future,
    S: Future,
{
    let ((near_peer, near), (far_peer, far)) = (pair().await, pair().await);
    let carried = async {
        let end = bidirectional(&near, &far, Vec::new(), limits, counted.counters()).await;
        if !matches!(end, End::Done) {
            near.set_zero_linger().expect("set");
            far.set_zero_linger().expect("set");
        }
        drop((near, far));
        end
    };
    let all = async { tokio::join!(carried, client(near_peer), server(far_peer)) };
    soon("the stream", all).await
}

/// Sends everything in chunks of random sizes while it reads to the end.
async fn exchange(mut stream: TcpStream, sent: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = Rng::seeded(seed);
    let (mut read, mut write) = stream.split();
    let sending = async {
        let mut rest = sent;
        while !rest.is_empty() {
            let most = [10, 5_000, 300_000][rng.index(3)];
            let (chunk, after) = rest.split_at(rest.len().min(1 + rng.index(most)));
            write.write_all(chunk).await.expect("written");
            if rng.index(4) == 0 {
                tokio::task::yield_now().await;
            }
            rest = after;
        }
        write.shutdown().await.expect("ended");
    };
    let mut received = Vec::new();
    let ((), received_all) = tokio::join!(sending, read.read_to_end(&mut received));
    received_all.expect("an end");
    received
}

#[tokio::test]
async fn every_byte_arrives_whatever_the_length_and_the_way() {
    let copying = Tuning { long: u64::MAX, ..Tuning::DEFAULT };
    let small = Tuning { pipe: 64 * KIB, ..Tuning::DEFAULT };
    let greedy = Tuning { fills: 8, ..Tuning::DEFAULT };
    for (name, tuning) in
        [("copy", copying), ("splice", Tuning::DEFAULT), ("small", small), ("greedy", greedy)]
    {
        pool::tune(tuning);
        for length in [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 10 * KIB * KIB] {
            let (up, down) = (bytes(length, 1), bytes(length.div_ceil(3), 2));
            let counted = Counted::default();
            let (end, at_client, at_server) = between(
                &counted,
                limits(),
                |stream| exchange(stream, &up, 3),
                |stream| exchange(stream, &down, 4),
            )
            .await;
            assert!(matches!(end, End::Done), "{name} {length}: {end:?}");
            assert!(at_server == up && at_client == down, "{name} {length}: bytes differ");
            let (up, down) = (up.len().try_into(), down.len().try_into());
            assert_eq!(Ok(counted.bytes_in.get()), up, "{name}");
            assert_eq!(Ok(counted.bytes_out.get()), down, "{name}");
            let spliced = counted.spliced.get();
            match name {
                "copy" => assert_eq!(spliced, 0),
                _ if length < 64 * KIB => assert_eq!(spliced, 0, "{name} {length}"),
                _ if length > KIB * KIB => assert!(spliced > 1 << 20, "{name}: {spliced} spliced"),
                _ => {}
            }
        }
        let Pipes { open, idle } = pool::pipes();
        assert!(open == idle && open <= 2, "{name}: {open} open, {idle} idle");
    }
}

#[tokio::test]
async fn either_side_may_end_first_and_still_listen() {
    let big = bytes(3 * KIB * KIB, 5);
    let early = |mut stream: TcpStream| async move {
        stream.shutdown().await.expect("ended");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("an end");
        received
    };
    let late = |mut stream: TcpStream| {
        let big = &big;
        async move {
            assert_eq!(stream.read(&mut [0; 8]).await.expect("an end"), 0);
            stream.write_all(big).await.expect("written");
            stream.shutdown().await.expect("ended");
            Vec::<u8>::new()
        }
    };
    let counted = Counted::default();
    let (end, received, _) = between(&counted, limits(), early, late).await;
    assert!(matches!(end, End::Done) && received == big, "{end:?}");
    let (end, _, received) = between(&counted, limits(), late, early).await;
    assert!(matches!(end, End::Done) && received == big, "{end:?}");
}

#[tokio::test]
async fn a_slow_reader_stops_the_sender_and_loses_nothing() {
    for long in [u64::MAX, 0] {
        pool::tune(Tuning { long, ..Tuning::DEFAULT });
        let block = bytes(256 * KIB, 6);
        let (stalled, wait) = tokio::sync::oneshot::channel();
        let block = &block;
        let client = |mut stream: TcpStream| async move {
            let mut sent = 0;
            // Until nothing has been taken for a while: every buffer on the way is full.
            while let Ok(n) = tokio::time::timeout(
                Duration::from_millis(300),
                stream.write(&block[sent % block.len()..]),
            )
            .await
            {
                sent += n.expect("written");
                assert!(sent < 128 * KIB * KIB, "nobody stops the sender");
            }
            stalled.send(pool::pipes()).expect("waited for");
            stream.shutdown().await.expect("ended");
            assert_eq!(stream.read(&mut [0; 8]).await.expect("an end"), 0);
            sent
        };
        let server = |mut stream: TcpStream| async move {
            let pipes = wait.await.expect("stalled");
            assert!(pipes.open <= 1, "{pipes:?}");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.expect("an end");
            let blocks = received.chunks(block.len());
            assert!(blocks.into_iter().all(|b| b == &block[..b.len()]), "bytes differ");
            received.len()
        };
        let (end, sent, received) = between(&Counted::default(), limits(), client, server).await;
        assert!(matches!(end, End::Done), "{end:?}");
        assert_eq!(sent, received);
    }
}

#[tokio::test]
async fn a_reset_on_one_side_resets_the_other() {
    let resets = |mut stream: TcpStream| async move {
        stream.write_all(b"a").await.expect("written");
        stream.read_exact(&mut [0]).await.expect("the other's");
        stream.set_zero_linger().expect("set");
    };
    let is_reset = |mut stream: TcpStream| async move {
        stream.write_all(b"b").await.expect("written");
        stream.read_exact(&mut [0]).await.expect("the other's");
        let error = stream.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    };
    let (end, (), ()) = between(&Counted::default(), limits(), resets, is_reset).await;
    assert!(matches!(end, End::Near(_)), "{end:?}");
    let (end, (), ()) = between(&Counted::default(), limits(), is_reset, resets).await;
    assert!(matches!(end, End::Far(_)), "{end:?}");
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_seen_while_the_other_side_is_silent() {
    let (hears, heard) = tokio::sync::oneshot::channel();
    let client = |mut stream: TcpStream| async move {
        stream.shutdown().await.expect("ended");
        heard.await.expect("the end is heard");
        stream.set_zero_linger().expect("set");
    };
    let server = |mut stream: TcpStream| async move {
        assert_eq!(stream.read(&mut [0]).await.expect("an end"), 0);
        hears.send(()).expect("waited for");
        let error = stream.read(&mut [0]).await;
        // The end was read already: what is left to see is that writing fails.
        assert!(error.is_ok_and(|n| n == 0));
        soon("a reset", stream.ready(tokio::io::Interest::ERROR)).await.expect("ready");
    };
    let (end, (), ()) = between(&Counted::default(), limits(), client, server).await;
    assert!(matches!(end, End::Near(_)), "{end:?}");
}

#[tokio::test]
async fn time_limits_end_a_stream_and_bytes_put_off_only_the_idle_one() {
    let idle = Duration::from_millis(40);
    let waits = |mut stream: TcpStream| async move { stream.read(&mut [0; 64]).await.is_err() };
    let quiet = Limits { idle, until: None };
    let (end, client, server) = between(&Counted::default(), quiet, waits, waits).await;
    assert!(matches!(end, End::Idle) && client && server, "{end:?}");

    let start = Instant::now();
    let old = Limits { idle, until: Some(start + 5 * idle) };
    let talks = |mut stream: TcpStream| async move {
        let mut sent = 0;
        let mut tick = tokio::time::interval(idle / 8);
        while stream.write_all(b"x").await.is_ok() {
            sent += 1;
            tick.tick().await;
        }
        sent
    };
    let hears = |mut stream: TcpStream| async move {
        while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
    };
    let (end, sent, ()) = between(&Counted::default(), old, talks, hears).await;
    assert!(matches!(end, End::Age) && sent > 8, "{end:?} after {sent}");
    assert!(start.elapsed() >= 5 * idle);
}

#[tokio::test]
async fn a_pump_moves_as_many_bytes_as_it_is_told_and_not_one_more() {
    for length in [0, 1, 100 * KIB, 5 * KIB * KIB] {
        let ((mut source, from), (mut sink, to)) = (pair().await, pair().await);
        let sent = bytes(length + 10, 7);
        let sending = async {
            source.write_all(&sent).await.expect("written");
            source
        };
        let limit = u64::try_from(length).expect("fits");
        let mut pump = Pump::new(Some(limit)).after(b"head".to_vec());
        let pumping = async {
            std::future::poll_fn(|cx| pump.poll(cx, &from, &to)).await.expect("moved");
            assert_eq!((pump.taken(), pump.moved(), pump.ended()), (limit, limit, false));
        };
        let mut received = vec![0; length + 4];
        let all = async {
            tokio::join!(sending, pumping, async { sink.read_exact(&mut received).await })
        };
        let (source, (), read) = soon("the bytes", all).await;
        read.expect("read");
        assert!(received.starts_with(b"head") && received[4..] == sent[..length]);
        drop(source);
        // The rest is still there, and then an early end.
        let mut rest = Pump::new(Some(11));
        soon("the end", std::future::poll_fn(|cx| rest.poll(cx, &from, &to))).await.expect("moved");
        assert_eq!((rest.moved(), rest.ended()), (10, true));
    }
}

#[tokio::test]
async fn a_pump_says_which_side_failed() {
    let ((source, from), (sink, to)) = (pair().await, pair().await);
    source.set_zero_linger().expect("set");
    drop(source);
    let mut pump = Pump::new(None);
    let broken = soon("a reset", std::future::poll_fn(|cx| pump.poll(cx, &from, &to))).await;
    assert!(matches!(broken, Err(Broken::Source(_))), "{broken:?}");
    let (mut source, from) = pair().await;
    sink.set_zero_linger().expect("set");
    drop(sink);
    source.write_all(&[0; 10]).await.expect("written");
    let mut pump = Pump::new(None);
    let broken = soon("a reset", std::future::poll_fn(|cx| pump.poll(cx, &from, &to))).await;
    assert!(matches!(broken, Err(Broken::Sink(_))), "{broken:?}");
}

#[tokio::test]
async fn pipes_have_a_bound_and_a_stream_without_one_goes_on_copying() {
    pool::tune(Tuning { pipe: 64 * KIB, ..Tuning::DEFAULT });
    let leases: Vec<Lease> = std::iter::from_fn(Lease::take).collect();
    assert!(!leases.is_empty() && leases.len() <= MAX_PIPES, "{} pipes", leases.len());
    let (sent, counted) = (bytes(4 * KIB * KIB, 8), Counted::default());
    let (end, _, received) = between(
        &counted,
        limits(),
        |stream| exchange(stream, &sent, 9),
        |stream| exchange(stream, &[], 10),
    )
    .await;
    assert!(matches!(end, End::Done) && received == sent);
    assert_eq!(counted.spliced.get(), 0);
    assert!(counted.denied.get() > 0, "counted");
    let most = leases.len().min(MAX_IDLE);
    drop(leases);
    assert_eq!(pool::pipes(), Pipes { open: most, idle: most });
}

#[tokio::test]
async fn a_pipe_with_bytes_in_it_is_not_used_again() {
    let (mut source, from) = pair().await;
    source.write_all(b"left over").await.expect("written");
    from.readable().await.expect("readable");
    let before = pool::pipes();
    let mut lease = Lease::take().expect("a pipe");
    let pipe = lease.pipe().expect("leased");
    pipe.fill(std::os::fd::AsFd::as_fd(&from), 4).expect("four bytes");
    assert_eq!(lease.held(), 4);
    drop(lease);
    assert_eq!(pool::pipes(), before);
}

#[tokio::test]
async fn a_pair_of_streams_takes_little_memory() {
    let ((_near_peer, near), (_far_peer, far)) = (pair().await, pair().await);
    let counted = Counted::default();
    let future = bidirectional(&near, &far, Vec::new(), limits(), counted.counters());
    let size = size_of_val(&future);
    assert!(size <= 1024, "{size} bytes");
}
