//! A name server of the test's own: what it does with each question is a function the test gives,
//! and every question is kept for the test to look at.
//!
//! It serves UDP and TCP on one port, or TLS, or HTTPS, on a thread of its own. Dropped, its port
//! refuses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::{Builder, Runtime};

use crate::certificate;
use crate::message::{a, encoded, reply_to, soa};
use crate::serve::{self, Datagrams, Layer};

/// Tries until all sockets agree on a port.
const PORT_TRIES: usize = 16;
/// Where no server is asked.
const OTHER_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));

/// What a question came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
    Tls,
    Https,
}

/// A question that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) via: Via,
    pub(crate) from: SocketAddr,
    pub(crate) message: Message,
    /// How often this name had been asked before.
    pub(crate) before: usize,
}

/// What is done, and how long after what was done before.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) after: Duration,
    pub(crate) act: Act,
}

/// One thing a server does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends these octets as the answer.
    Send(Vec<u8>),
    /// Sends them from where it was not asked; UDP alone.
    SendFrom(Elsewhere, Vec<u8>),
    /// Closes the connection.
    Close,
    /// Answers with this status; HTTPS alone.
    Status(u16),
}

/// Where else than from its own socket a server can send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Elsewhere {
    /// Another port of its address.
    Port,
    /// Its port of another address.
    Address,
}

/// What is done about a question; nothing leaves it unanswered.
pub(crate) type Script = Arc<dyn Fn(&Asked) -> Vec<Step> + Send + Sync>;

/// What the server's tasks see.
pub(crate) struct Shared {
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
}

/// A running server.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Asked {
    /// The name, in the case it was asked in.
    pub(crate) fn name(&self) -> String {
        self.message.queries[0].name().to_ascii()
    }

    pub(crate) fn rtype(&self) -> RecordType {
        self.message.queries[0].query_type()
    }

    /// An answer to it as changed.
    pub(crate) fn reply(&self, change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut reply = reply_to(&self.message);
        change(&mut reply);
        encoded(&reply)
    }

    /// The answer that is this address, or none of the type asked for.
    pub(crate) fn address(&self, address: &str, ttl_secs: u32) -> Vec<u8> {
        self.reply(|reply| {
            if self.rtype() == RecordType::A {
                let owner = self.message.queries[0].name();
                reply.answers = vec![a(owner, address, ttl_secs)];
            } else {
                reply.authorities = vec![soa(ttl_secs)];
            }
        })
    }

    pub(crate) fn failure(&self, code: ResponseCode) -> Vec<u8> {
        self.reply(|reply| reply.metadata.response_code = code)
    }

    fn is_about(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name)
    }

    /// It is no client's: the server looks for loops or at how this one does.
    pub(crate) fn is_probe(&self) -> bool {
        let name = self.name();
        name == "." || name.to_ascii_lowercase().contains(".portolan-loop.")
    }
}

impl Step {
    pub(crate) fn now(act: Act) -> Self {
        Self { after: Duration::ZERO, act }
    }

    pub(crate) fn after_ms(ms: u64, act: Act) -> Self {
        Self { after: Duration::from_millis(ms), act }
    }
}

/// This answer and nothing else.
pub(crate) fn one(bytes: Vec<u8>) -> Vec<Step> {
    vec![Step::now(Act::Send(bytes))]
}

/// Answers every name with one address, to be kept for an hour.
pub(crate) fn answering(address: &'static str) -> Script {
    answering_for(address, 3600)
}

/// The same with a time to live.
pub(crate) fn answering_for(address: &'static str, ttl_secs: u32) -> Script {
    Arc::new(move |asked| one(asked.address(address, ttl_secs)))
}

/// The same after a while.
pub(crate) fn answering_after(address: &'static str, ms: u64) -> Script {
    Arc::new(move |asked| vec![Step::after_ms(ms, Act::Send(asked.address(address, 3600)))])
}

/// Never answers.
pub(crate) fn silent() -> Script {
    Arc::new(|_| Vec::new())
}

/// Answers every name with a code.
pub(crate) fn failing(code: ResponseCode) -> Script {
    Arc::new(move |asked| one(asked.failure(code)))
}

impl Shared {
    /// Notes a question and says what to do about it; `None` when it cannot be read.
    pub(crate) fn on_query(&self, via: Via, from: SocketAddr, bytes: &[u8]) -> Option<Vec<Step>> {
        let message = Message::from_vec(bytes).ok()?;
        let mut asked = Asked { via, from, message, before: 0 };
        let mut all = locked(&self.asked);
        asked.before = all.iter().filter(|earlier| earlier.is_about(&asked.name())).count();
        all.push(asked.clone());
        drop(all);
        let script = locked(&self.script).clone();
        Some(script(&asked))
    }
}

impl Upstream {
    /// Over UDP and TCP.
    pub(crate) fn start(script: Script) -> Self {
        Self::with_scheme("udp", script)
    }

    /// Over what a scheme of the config says: `udp`, `tcp` (the same server), `tls` or `https`.
    pub(crate) fn with_scheme(scheme: &'static str, script: Script) -> Self {
        Self::at(IpAddr::from([127, 0, 0, 1]), scheme, script)
    }

    /// The same at another address; the certificate is for 127.0.0.1 alone.
    pub(crate) fn at(host: IpAddr, scheme: &'static str, script: Script) -> Self {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let shared = Arc::new(Shared { script: Mutex::new(script), asked: Mutex::default() });
        let (udp, tcp) = runtime.block_on(sockets(host));
        let address = tcp.local_addr().expect("bound");
        let layer = match scheme {
            "tls" => Layer::Tls(certificate::acceptor(b"dot")),
            "https" => Layer::Https(certificate::acceptor(b"h2")),
            _ => {
                let _ends_with_the_runtime = runtime.spawn(serve::udp(udp, shared.clone()));
                Layer::Plain
            }
        };
        let _ends_with_the_runtime = runtime.spawn(serve::accept(tcp, layer, shared.clone()));
        Self { address, scheme, shared, _runtime: runtime }
    }

    /// As the config and the metrics name it.
    pub(crate) fn label(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// What it does from now on.
    pub(crate) fn set(&self, script: Script) {
        *locked(&self.shared.script) = script;
    }

    /// Questions of clients so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let all = locked(&self.shared.asked);
        all.iter().filter(|asked| !asked.is_probe()).cloned().collect()
    }

    /// Questions of anybody so far.
    pub(crate) fn asked_in_all(&self) -> usize {
        locked(&self.shared.asked).len()
    }

    /// How often a name was asked, in whatever case.
    pub(crate) fn count(&self, name: &str) -> usize {
        locked(&self.shared.asked).iter().filter(|asked| asked.is_about(name)).count()
    }
}

async fn sockets(host: IpAddr) -> (Datagrams, TcpListener) {
    for _ in 0..PORT_TRIES {
        let own = UdpSocket::bind((host, 0)).await.expect("a socket");
        let address = own.local_addr().expect("bound");
        let other_port = UdpSocket::bind((host, 0)).await.expect("a socket");
        let other_address = UdpSocket::bind((OTHER_HOST, address.port())).await;
        let tcp = TcpListener::bind(address).await;
        if let (Ok(other_address), Ok(tcp)) = (other_address, tcp) {
            return (Datagrams { own, other_port, other_address }, tcp);
        }
    }
    panic!("no port is free everywhere")
}
