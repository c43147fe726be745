//! How many bytes a second of processor time moves, by way and size. Run in release, alone:
//! `cargo test --release -p portolan-proxy --lib splice::bench -- --ignored --nocapture`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::pool::{self, Tuning};
use super::{Counters, Limits, bidirectional, sys};
use crate::metrics::Counter;

const ROUND: Duration = Duration::from_millis(1000);
const ROUNDS: usize = 7;
const NEVER: u64 = u64::MAX;
const KIB: usize = 1024;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    (client, listener.accept().expect("accepted").0)
}

/// Gigabytes per second of the proxy's thread, and per second of the clock.
fn measure(tuning: Tuning) -> (f64, f64) {
    let ((mut sender, near), (far, mut receiver)) = (pair(), pair());
    let stop = AtomicBool::new(false);
    let counters: [Counter; 4] = Default::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![7; 256 * KIB];
            while !stop.load(Ordering::Relaxed) {
                if sender.write_all(&block).is_err() {
                    break;
                }
            }
            drop(sender);
        });
        scope.spawn(|| {
            let mut block = vec![0; 256 * KIB];
            while receiver.read(&mut block).is_ok_and(|n| n > 0) {}
            drop(receiver);
        });
        let proxy = scope.spawn(|| carry(tuning, near, far, &counters));
        let timer = Instant::now();
        while timer.elapsed() < ROUND {
            std::thread::park_timeout(ROUND / 8);
        }
        stop.store(true, Ordering::Relaxed);
        proxy.join().expect("no panic")
    })
}

fn carry(tuning: Tuning, near: TcpStream, far: TcpStream, counters: &[Counter; 4]) -> (f64, f64) {
    sys::pin_to(0);
    pool::tune(tuning);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (clock, before) = (Instant::now(), sys::thread_time());
    runtime.expect("a runtime").block_on(async {
        let tokio_stream = |stream: TcpStream| {
            stream.set_nonblocking(true).expect("set");
            stream.set_nodelay(true).expect("set");
            tokio::net::TcpStream::from_std(stream).expect("registered")
        };
        let (near, far) = (tokio_stream(near), tokio_stream(far));
        let [bytes_in, bytes_out, spliced, denied] = counters;
        let own = &Default::default();
        let counters = Counters { own, bytes_in, bytes_out, spliced, denied };
        let limits = Limits { idle: Duration::from_mins(1), until: None };
        bidirectional(&near, &far, Vec::new(), limits, counters).await;
    });
    let moved = u32::try_from(counters[0].get() / 1_000).map_or(f64::NAN, f64::from) / 1e6;
    let cpu = (sys::thread_time() - before).as_secs_f64();
    (moved / cpu, moved / clock.elapsed().as_secs_f64())
}

#[test]
#[ignore = "a benchmark"]
fn gigabytes_per_second_of_processor_time() {
    let copying = [16, 64, 256].map(|kib| {
        let tuning = Tuning { scratch: kib * KIB, long: NEVER, ..Tuning::DEFAULT };
        (format!("copy {kib} KiB"), tuning)
    });
    let sizes = [(64, 1), (128, 1), (256, 1), (512, 1), (1024, 1), (256, 4), (1024, 4)];
    let splicing = sizes.map(|(kib, fills)| {
        let tuning = Tuning { pipe: kib * KIB, fills, ..Tuning::DEFAULT };
        (format!("splice {kib} KiB, {fills} fills"), tuning)
    });
    let ways: Vec<(String, Tuning)> = copying.into_iter().chain(splicing).collect();
    // Each round has all of them, so that what else the machine does falls on all alike.
    let rounds: Vec<Vec<(f64, f64)>> =
        (0..ROUNDS).map(|_| ways.iter().map(|(_, tuning)| measure(*tuning)).collect()).collect();
    for (i, (name, _)) in ways.iter().enumerate() {
        let mut figures: Vec<(f64, f64)> = rounds.iter().map(|round| round[i]).collect();
        figures.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [median, best] = [figures[ROUNDS / 2], figures[ROUNDS - 1]].map(|(cpu, _)| cpu);
        let clock = figures[ROUNDS / 2].1;
        println!("{name:24} {median:5.2} (best {best:5.2}) GB/CPU-s, {clock:5.2} GB/s");
    }
}
