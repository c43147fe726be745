//! The servers behind the proxies, all in one thread, on consecutive ports from the one given:
//! HTTP/1.1 with a body by path, HTTP/2 with 1 KiB, gRPC that echoes, and TCP that echoes, sends for
//! ever and takes all.

use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::poll::{self, Io, Poll, Ready};

mod http1;
mod http2;
mod tcp;

/// What is served on which port.
const KINDS: [Kind; 6] =
    [Kind::Http1, Kind::Http2, Kind::Grpc, Kind::Echo, Kind::Source, Kind::Sink];

#[derive(Clone, Copy)]
enum Kind {
    Http1,
    Http2,
    Grpc,
    Echo,
    Source,
    Sink,
}

/// A connection of some protocol. An error ends it.
trait Serve {
    fn on_ready(&mut self, poll: &Poll, ready: Ready, scratch: &mut [u8]) -> io::Result<()>;
}

pub fn run(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for (number, kind) in (0..).zip(KINDS) {
        let listener = poll::listen(SocketAddr::new(address.ip(), address.port() + number))?;
        poll.add(&listener, u64::from(number))?;
        listeners.push((listener, kind));
    }
    println!("listening {address}");
    io::stdout().flush()?;
    let mut connections: Vec<Option<Box<dyn Serve>>> = Vec::new();
    let mut free = Vec::new();
    let mut scratch = vec![0; 256 << 10];
    let mut ready = Vec::new();
    loop {
        poll.wait(None, &mut ready)?;
        for event in &ready {
            let token = usize::try_from(event.token)?;
            if let Some((listener, kind)) = listeners.get(token) {
                accept(&poll, listener, *kind, &mut connections, &mut free)?;
                continue;
            }
            let index = token - KINDS.len();
            let Some(connection) = &mut connections[index] else { continue };
            // Whatever is wrong with a connection is the client's to tell.
            if connection.on_ready(&poll, *event, &mut scratch).is_err() {
                connections[index] = None;
                free.push(index);
            }
        }
    }
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    kind: Kind,
    connections: &mut Vec<Option<Box<dyn Serve>>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    while let Some(stream) = poll::accept(listener)? {
        // One that is gone already is no reason to stop.
        let _gone = admit(poll, stream, kind, connections, free);
    }
    Ok(())
}

fn admit(
    poll: &Poll,
    stream: TcpStream,
    kind: Kind,
    connections: &mut Vec<Option<Box<dyn Serve>>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let index = free.pop().unwrap_or_else(|| {
        connections.push(None);
        connections.len() - 1
    });
    let made =
        Io::new(stream, (index + KINDS.len()) as u64, poll).and_then(|io| serve(poll, io, kind));
    match made {
        Ok(made) => connections[index] = Some(made),
        Err(error) => {
            free.push(index);
            return Err(error);
        }
    }
    Ok(())
}

fn serve(poll: &Poll, io: Io, kind: Kind) -> io::Result<Box<dyn Serve>> {
    Ok(match kind {
        Kind::Http1 => Box::new(http1::Connection::new(io)),
        Kind::Http2 => Box::new(http2::Connection::new(io, false)),
        Kind::Grpc => Box::new(http2::Connection::new(io, true)),
        Kind::Echo => Box::new(tcp::Echo(io)),
        Kind::Source => Box::new(tcp::Source::new(io, poll)?),
        Kind::Sink => Box::new(tcp::Sink(io)),
    })
}
