//! Clients of the server under test, over UDP and TCP, from any address of 127.0.0.0/8.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use hickory_proto::op::Message;

use crate::message::{Question, Reply};
use crate::server::TIMEOUT;

/// Where clients are when it does not matter.
pub(crate) const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A question that was sent and waits for its answer.
#[derive(Debug)]
pub(crate) struct Pending {
    socket: UdpSocket,
    began: Instant,
    id: u16,
}

/// Sends a question from a socket of its own.
pub(crate) fn send(to: SocketAddr, from: Ipv4Addr, question: &Question) -> Pending {
    let socket = UdpSocket::bind((from, 0)).expect("a client socket");
    socket.set_read_timeout(Some(TIMEOUT)).expect("settable");
    socket.connect(to).expect("loopback");
    let id = socket.local_addr().expect("bound").port();
    let began = Instant::now();
    socket.send(&question.encode(id)).expect("sent");
    Pending { socket, began, id }
}

impl Pending {
    pub(crate) fn reply(&self) -> Reply {
        self.received().expect("an answer from the address asked")
    }

    /// The answer if it has arrived.
    pub(crate) fn arrived(&self) -> Option<Reply> {
        self.socket.set_nonblocking(true).expect("settable");
        let reply = self.received().ok();
        self.socket.set_nonblocking(false).expect("settable");
        reply
    }

    fn received(&self) -> std::io::Result<Reply> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer)?;
        let took = self.began.elapsed();
        let message = Message::from_vec(&buffer[..length]).expect("an answer decodes");
        assert_eq!(message.metadata.id, self.id, "an answer to another question");
        Ok(Reply { message, took })
    }
}

/// Asks over UDP and waits.
pub(crate) fn ask(to: SocketAddr, question: &Question) -> Reply {
    send(to, HOME, question).reply()
}

/// Asks for an address over UDP and waits.
pub(crate) fn ask_a(to: SocketAddr, name: &str) -> Reply {
    ask(to, &Question::a(name))
}

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Stream {
    stream: TcpStream,
    began: Instant,
}

impl Stream {
    pub(crate) fn open(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, TIMEOUT).expect("accepted");
        stream.set_read_timeout(Some(TIMEOUT)).expect("settable");
        stream.set_nodelay(true).expect("settable");
        Self { stream, began: Instant::now() }
    }

    pub(crate) fn send(&mut self, id: u16, question: &Question) {
        let message = question.encode(id);
        let length = u16::try_from(message.len()).expect("a question is short");
        let framed = [&length.to_be_bytes()[..], &message].concat();
        self.began = Instant::now();
        self.stream.write_all(&framed).expect("sent");
    }

    /// The next answer, whichever question it is to; its time is since the last one was sent.
    pub(crate) fn next(&mut self) -> Reply {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length).expect("a length");
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut bytes).expect("a message");
        let message = Message::from_vec(&bytes).expect("an answer decodes");
        Reply { message, took: self.began.elapsed() }
    }

    /// Whether the server has closed it, waiting for that.
    pub(crate) fn ends(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 16]), Ok(0))
    }
}

/// Asks over TCP and waits.
pub(crate) fn ask_over_tcp(to: SocketAddr, question: &Question) -> Reply {
    let mut stream = Stream::open(to);
    stream.send(7, question);
    stream.next()
}
