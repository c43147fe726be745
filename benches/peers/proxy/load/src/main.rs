//! Backends and load for measuring proxies: one program, one thread for both, one line of JSON per
//! run.

mod backend;
mod drive;
mod frame;
mod http1;
mod http2;
mod idle;
mod meter;
mod poll;
mod tcp;
mod tls;

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use backend::Backend;
use drive::Rig;
use meter::Meter;
use poll::Poll;

const USAGE: &str = "portolan-load rig --listen ADDRESS
portolan-load idle --to ADDRESS [--authority NAME] [--path PATH] [--connections N]
Lines that a rig takes:
http1|http2|tcp|tls --to ADDRESS [--mode WORD] [--authority NAME] [--path PATH] [--connections N]
    [--streams N] [--outstanding N] [--size OCTETS] [--rate PER-SECOND] [--seconds S] [--warm S]
    [--spin yes|no] [--pids PID,…]";

/// `--key value` pairs after the command.
pub struct Args(HashMap<String, String>);

impl Args {
    pub fn text(&self, key: &str, default: &str) -> String {
        self.0.get(key).cloned().unwrap_or_else(|| default.to_owned())
    }

    pub fn number<T: FromStr>(&self, key: &str, default: T) -> Result<T, Box<dyn Error>> {
        match self.0.get(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{key} {text}: no number").into()),
        }
    }

    pub fn address(&self, key: &str) -> Result<SocketAddr, Box<dyn Error>> {
        let text = self.0.get(key).ok_or_else(|| format!("--{key} is missing"))?;
        text.parse().map_err(|_| format!("--{key} {text}: no address").into())
    }

    fn rate(&self) -> Result<Option<f64>, Box<dyn Error>> {
        let rate = self.number("rate", 0.0)?;
        Ok((rate > 0.0).then_some(rate))
    }

    fn meter(&self) -> Result<Meter, Box<dyn Error>> {
        let warm = Duration::from_secs_f64(self.number("warm", 0.3)?);
        let measured = Duration::from_secs_f64(self.number("seconds", 3.0)?);
        let pids = self.text("pids", "");
        let pids: Result<_, _> =
            pids.split(',').filter(|p| !p.is_empty()).map(str::parse).collect();
        Ok(Meter::new(warm, measured, pids?))
    }
}

impl Args {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut words = words;
        let mut args = HashMap::new();
        while let Some(word) = words.next() {
            let key = word.strip_prefix("--").ok_or(USAGE)?.to_owned();
            args.insert(key, words.next().ok_or(USAGE)?);
        }
        Ok(Self(args))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let command = words.next().ok_or(USAGE)?;
    let args = Args::parse(words)?;
    match command.as_str() {
        "rig" => serve(args.address("listen")?),
        "idle" => idle::run(&args),
        _ => Err(USAGE.into()),
    }
}

/// Serves, and runs the load that each line of standard input says, until that ends.
fn serve(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut backend = Backend::new(address)?;
    let mut poll = Poll::new()?;
    poll.add(backend.poll(), 0)?;
    poll.add(&io::stdin(), 1)?;
    println!("listening {address}");
    let mut ready = Vec::new();
    loop {
        poll.wait_for(None, &mut ready)?;
        backend.turn()?;
        if ready.iter().any(|event| event.token == 1) {
            let mut line = String::new();
            // A line is written at once, so this does not wait.
            if io::stdin().read_line(&mut line)? == 0 {
                return Ok(());
            }
            println!("{}", load(&line, &mut backend)?);
        }
    }
}

/// The figures of one load, as JSON.
fn load(line: &str, backend: &mut Backend) -> Result<String, Box<dyn Error>> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let command = words.next().ok_or(USAGE)?;
    let args = &Args::parse(words)?;
    let rig = &mut Rig { backend, spins: args.text("spin", "yes") == "yes" };
    match command.as_str() {
        "http1" => run(args, rig, |poll, meter| http1::Client::new(args, poll, meter)),
        "http2" => run(args, rig, |poll, meter| http2::Client::new(args, poll, meter)),
        "tcp" => run(args, rig, |_, _| tcp::Client::new(args)),
        "tls" => run(args, rig, |_, _| tls::Client::new(args)),
        _ => Err(USAGE.into()),
    }
}

fn run<L: drive::Load>(
    args: &Args,
    rig: &mut Rig<'_>,
    make: impl FnOnce(&Poll, &mut Meter) -> Result<L, Box<dyn Error>>,
) -> Result<String, Box<dyn Error>> {
    let mut poll = Poll::new()?;
    poll.add(rig.backend.poll(), drive::BACKEND)?;
    let mut meter = args.meter()?;
    let mut load = make(&poll, &mut meter)?;
    let unfinished = drive::run(&mut poll, &mut load, &mut meter, args.rate()?, rig)?;
    Ok(meter.report(unfinished))
}
