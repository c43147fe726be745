//! UDP to one upstream: connected sockets, one question at a time on each, so that the kernel lets
//! nobody else's datagrams in. A socket, and so its random port, serves few questions.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{ExchangeError, Outgoing};
use crate::answer::{Answer, Unusable};
use crate::question::HEADER;

/// Questions a socket is used for, after which another port is taken (RFC 5452 §10).
const USES: u32 = 16;
/// Octets of a response that are read.
const RESPONSE_MAX: usize = 4096;
/// Datagrams that are no answer after which a socket is given up: somebody is guessing.
const FORGERIES_MAX: u32 = 32;

/// Sockets to one upstream that are not in use.
#[derive(Debug)]
pub(super) struct Sockets {
    address: SocketAddr,
    idle: Mutex<Vec<(UdpSocket, u32)>>,
    max_idle: usize,
}

/// What came besides an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Datagrams that are no answer to the question.
    pub(super) forgeries: u32,
    /// One of them was the answer but for the case of its question.
    pub(super) other_case: bool,
}

impl Sockets {
    pub(super) fn new(address: SocketAddr, max_idle: usize) -> Self {
        Self { address, idle: Mutex::default(), max_idle }
    }

    /// Asks and waits for the answer; what else came goes to `seen`.
    pub(super) async fn exchange(
        &self,
        query: &Outgoing,
        deadline: Instant,
        seen: &mut Seen,
    ) -> Result<Answer, ExchangeError> {
        let (socket, uses) = self.take().await?;
        let result = self.receive(&socket, query, deadline, seen).await;
        // After a timeout the answer may still come: not on a socket that asks something else.
        let clean = matches!(&result, Ok(_) | Err(ExchangeError::Unusable(Unusable::Truncated)));
        if clean && uses + 1 < USES {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < self.max_idle {
                idle.push((socket, uses + 1));
            }
        }
        result
    }

    async fn receive(
        &self,
        socket: &UdpSocket,
        query: &Outgoing,
        deadline: Instant,
        seen: &mut Seen,
    ) -> Result<Answer, ExchangeError> {
        socket.send(&query.bytes).await?;
        let mut buffer = [0; RESPONSE_MAX];
        loop {
            let received = timeout_at(deadline, socket.recv(&mut buffer)).await;
            let length = received.map_err(|_| ExchangeError::Timeout)??;
            match Answer::read(&query.bytes, query.question_end, &buffer[..length]) {
                Ok(answer) => return Ok(answer),
                Err(Unusable::Truncated) => return Err(Unusable::Truncated.into()),
                Err(unusable) => {
                    seen.forgeries += 1;
                    let end = query.question_end;
                    let same = buffer[..length].get(HEADER..end).zip(query.bytes.get(HEADER..end));
                    seen.other_case |= unusable == Unusable::Question
                        && same.is_some_and(|(b, q)| b.eq_ignore_ascii_case(q));
                    if seen.other_case || seen.forgeries >= FORGERIES_MAX {
                        return Err(unusable.into());
                    }
                }
            }
        }
    }

    async fn take(&self) -> std::io::Result<(UdpSocket, u32)> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        // Port 0: the kernel picks one at random.
        let any: SocketAddr = match self.address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(self.address).await?;
        Ok((socket, 0))
    }
}
