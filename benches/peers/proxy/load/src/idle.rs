//! Connections that have had one answer and then wait, until standard input ends.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::Args;
use crate::http1::{self, Response};

/// Longest wait for one answer.
const ANSWER_SECS: u64 = 10;

pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let to = args.address("to")?;
    let count: usize = args.number("connections", 10_000)?;
    let request = http1::request(args, false);
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let answered = TcpStream::connect(to).and_then(|mut stream| {
            ask(&mut stream, &request)?;
            Ok(stream)
        });
        open.push(answered.map_err(|error| format!("connection {number}: {error}"))?);
    }
    println!("{{\"open\": {}}}", open.len());
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    // Those that the proxy has closed meanwhile were not idle connections that it held.
    let mut held = 0;
    for stream in &mut open {
        held += usize::from(ask(stream, &request).is_ok());
    }
    println!("{{\"held\": {held}}}");
    Ok(())
}

fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(ANSWER_SECS)))?;
    stream.write_all(request)?;
    let mut scratch = [0; 8192];
    let mut response = Response::default();
    loop {
        let count = stream.read(&mut scratch)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if response.on_octets(&scratch[..count]).map_err(io::Error::other)? {
            return Ok(());
        }
    }
}
