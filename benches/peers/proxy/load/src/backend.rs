//! The servers behind the proxies, all in one thread, on consecutive ports from the one given:
//! HTTP/1.1 with a body by path, HTTP/2 with 1 KiB, gRPC that echoes, and TCP that echoes, sends for
//! ever and takes all.

use std::error::Error;
use std::io;
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

/// All of them, with their connections.
pub struct Backend {
    poll: Poll,
    listeners: Vec<(TcpListener, Kind)>,
    connections: Vec<Option<Box<dyn Serve>>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    ready: Vec<Ready>,
}

impl Backend {
    pub fn new(address: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (number, kind) in (0..).zip(KINDS) {
            let at = SocketAddr::new(address.ip(), address.port() + number);
            let listener = poll::listen(at)?;
            poll.add(&listener, u64::from(number))?;
            listeners.push((listener, kind));
        }
        Ok(Self {
            poll,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            scratch: vec![0; 256 << 10],
            ready: Vec::new(),
        })
    }

    /// Is readable when there is something to do.
    pub fn poll(&self) -> &Poll {
        &self.poll
    }

    /// Does what can be done now.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poll.look(&mut ready)?;
        for event in &ready {
            let token = usize::try_from(event.token).map_err(io::Error::other)?;
            if let Some((listener, kind)) = self.listeners.get(token) {
                accept(&self.poll, listener, *kind, &mut self.connections, &mut self.free)?;
                continue;
            }
            let index = token - KINDS.len();
            let Some(connection) = &mut self.connections[index] else { continue };
            // Whatever is wrong with a connection is the client's to tell.
            if connection.on_ready(&self.poll, *event, &mut self.scratch).is_err() {
                self.connections[index] = None;
                self.free.push(index);
            }
        }
        self.ready = ready;
        Ok(())
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
