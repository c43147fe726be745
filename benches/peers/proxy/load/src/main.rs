//! Backends and load for measuring proxies: one program, one thread, one line of JSON per run.

mod backend;
mod drive;
mod frame;
mod http1;
mod http2;
mod idle;
mod meter;
mod poll;
mod tcp;

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use meter::Meter;
use poll::Poll;

const USAGE: &str = "portolan-load backend --listen ADDRESS
portolan-load http1|http2|tcp|idle --to ADDRESS [--mode WORD] [--authority NAME] [--path PATH]
    [--connections N] [--streams N] [--outstanding N] [--size OCTETS] [--rate PER-SECOND]
    [--seconds S] [--warm S] [--pids PID,…]";

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

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let command = words.next().ok_or(USAGE)?;
    let mut args = HashMap::new();
    while let Some(word) = words.next() {
        let key = word.strip_prefix("--").ok_or(USAGE)?.to_owned();
        args.insert(key, words.next().ok_or(USAGE)?);
    }
    let args = Args(args);
    match command.as_str() {
        "backend" => backend::run(args.address("listen")?)?,
        "http1" => drive_one(&args, |poll, meter| http1::Client::new(&args, poll, meter))?,
        "http2" => drive_one(&args, |poll, meter| http2::Client::new(&args, poll, meter))?,
        "tcp" => drive_one(&args, |_, _| tcp::Client::new(&args))?,
        "idle" => idle::run(&args)?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn drive_one<L: drive::Load>(
    args: &Args,
    make: impl FnOnce(&Poll, &mut Meter) -> Result<L, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut meter = args.meter()?;
    let mut load = make(&poll, &mut meter)?;
    let unfinished = drive::run(&mut poll, &mut load, &mut meter, args.rate()?)?;
    println!("{}", meter.report(unfinished));
    Ok(())
}
