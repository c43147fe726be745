//! A client that is not ours: messages built and read by NLnet Labs' `domain`, sent over UDP, TCP
//! or TLS, each from an address of the test's choice.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, OptRcode, OptionCode, Rtype};
use domain::base::message::Section;
use domain::base::name::Name;
use domain::base::opt::UnknownOptData;
use domain::base::{Message, MessageBuilder, ToName};
use domain::rdata::AllRecordData;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Longest wait for an answer that is to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to listen for an answer that is not to come.
const SILENCE: Duration = Duration::from_millis(300);
/// The id of every query: what matters here is that it comes back.
pub(crate) const ID: u16 = 0x4d5a;
/// Code of the extended-error option (RFC 8914 §2).
const EDE: u16 = 15;

/// How a question travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram.
    Udp,
    /// RFC 7766.
    Tcp,
    /// RFC 7858.
    Tls,
}

/// All of them: every case is asked over each.
pub(crate) const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

/// Where a server listens, and what its certificate is checked against.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) trust: Arc<tokio_rustls::rustls::ClientConfig>,
}

/// A question with everything around it.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) name: String,
    pub(crate) rtype: Rtype,
    pub(crate) class: Class,
    pub(crate) opcode: Opcode,
    /// How often the question stands in it.
    pub(crate) times: usize,
    pub(crate) edns: Option<Edns>,
    /// The client's address.
    pub(crate) from: IpAddr,
}

/// What the OPT record of a message says (RFC 6891 §6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) version: u8,
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
    pub(crate) options: Vec<(u16, Vec<u8>)>,
}

/// An answer, its sections as sets of `OWNER TYPE DATA` (all names end in a dot).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) rcode: OptRcode,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    pub(crate) recursion_desired: bool,
    pub(crate) recursion_available: bool,
    pub(crate) questions: Vec<String>,
    pub(crate) answers: BTreeSet<String>,
    pub(crate) authorities: BTreeSet<String>,
    pub(crate) additionals: BTreeSet<String>,
    /// Times to live of all records, the OPT record apart.
    pub(crate) ttls: BTreeSet<u32>,
    pub(crate) edns: Option<Edns>,
}

impl Default for Edns {
    fn default() -> Self {
        Self { version: 0, payload: 1232, dnssec_ok: false, options: Vec::new() }
    }
}

impl Edns {
    /// With one option.
    pub(crate) fn with(code: u16, data: &[u8]) -> Self {
        Self { options: vec![(code, data.to_vec())], ..Self::default() }
    }

    /// The data of an option.
    pub(crate) fn option(&self, code: u16) -> Option<&[u8]> {
        self.options.iter().find(|(c, _)| *c == code).map(|(_, data)| data.as_slice())
    }
}

impl Query {
    /// An ordinary question, with EDNS so that reasons come back.
    pub(crate) fn new(name: &str, rtype: Rtype) -> Self {
        Self {
            name: name.to_owned(),
            rtype,
            class: Class::IN,
            opcode: Opcode::QUERY,
            times: 1,
            edns: Some(Edns::default()),
            from: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// The same without EDNS.
    pub(crate) fn plain(&self) -> Self {
        Self { edns: None, ..self.clone() }
    }

    /// The same from another address.
    pub(crate) fn from(mut self, address: &str) -> Self {
        self.from = address.parse().expect("an address");
        self
    }

    /// The message, which asks for recursion.
    pub(crate) fn bytes(&self, id: u16) -> Vec<u8> {
        let name: Name<Vec<u8>> = self.name.parse().expect("a name");
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        message.header_mut().set_opcode(self.opcode);
        let mut questions = message.question();
        for _ in 0..self.times {
            questions.push((&name, self.rtype, self.class)).expect("it fits");
        }
        let mut additional = questions.additional();
        if let Some(edns) = &self.edns {
            let opt = additional.opt(|opt| {
                opt.set_udp_payload_size(edns.payload);
                opt.set_version(edns.version);
                opt.set_dnssec_ok(edns.dnssec_ok);
                for (code, data) in &edns.options {
                    let code = OptionCode::from_int(*code);
                    opt.push(&UnknownOptData::new(code, data).expect("short"))?;
                }
                Ok(())
            });
            opt.expect("it fits");
        }
        additional.finish()
    }

    /// Asks it.
    pub(crate) async fn ask(&self, to: &Target, transport: Transport) -> Reply {
        let reply = timeout(PATIENCE, self.exchange(to, transport)).await;
        reply.unwrap_or_else(|_| panic!("no answer over {transport:?} to {self:?}"))
    }

    async fn exchange(&self, to: &Target, transport: Transport) -> Reply {
        let reply = self.exchange_or_end(to, transport).await;
        reply
            .unwrap_or_else(|| panic!("{transport:?}: the stream ends without an answer: {self:?}"))
    }

    async fn exchange_or_end(&self, to: &Target, transport: Transport) -> Option<Reply> {
        let answer = send(to, transport, self.from, &self.bytes(ID)).await;
        answer.map(|bytes| Reply::read(&bytes, ID))
    }
}

/// Sends a message, which need not be one, and waits for what comes back; `None` when the stream
/// ends instead.
pub(crate) async fn send(
    to: &Target,
    transport: Transport,
    from: IpAddr,
    query: &[u8],
) -> Option<Vec<u8>> {
    match transport {
        Transport::Udp => Some(datagram(query, from, to.plain).await),
        Transport::Tcp => stream(connect(from, to.plain).await, query).await,
        Transport::Tls => {
            let name = ServerName::IpAddress(to.tls.ip().into());
            let tcp = connect(from, to.tls).await;
            let tls = TlsConnector::from(to.trust.clone()).connect(name, tcp).await;
            stream(tls.expect("a handshake"), query).await
        }
    }
}

/// Sends a message that no answer comes to, be it that the stream ends or that it stays silent.
pub(crate) async fn send_in_vain(to: &Target, transport: Transport, from: IpAddr, query: &[u8]) {
    let answer = timeout(SILENCE, send(to, transport, from, query)).await;
    let answer = answer.ok().flatten();
    assert_eq!(answer, None, "{transport:?}: {query:02x?} from {from} is answered");
}

async fn datagram(query: &[u8], from: IpAddr, to: SocketAddr) -> Vec<u8> {
    let socket = UdpSocket::bind((from, 0)).await.expect("a socket");
    // Connected, so that an answer from another address than the one asked is not seen.
    socket.connect(to).await.expect("a route");
    socket.send(query).await.expect("sent");
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).await.expect("received");
    buffer.truncate(length);
    buffer
}

async fn connect(from: IpAddr, to: SocketAddr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("a local address");
    socket.connect(to).await.expect("connected")
}

/// RFC 1035 §4.2.2: two octets of length, and the message.
async fn stream<S: AsyncRead + AsyncWrite + Unpin>(mut on: S, query: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(query.len()).expect("a short query").to_be_bytes();
    on.write_all(&[&length[..], query].concat()).await.expect("sent");
    let length = on.read_u16().await.ok()?;
    let mut answer = vec![0; length.into()];
    on.read_exact(&mut answer).await.expect("the whole answer");
    Some(answer)
}

impl Reply {
    /// Reads an answer to the query with this id.
    pub(crate) fn read(bytes: &[u8], id: u16) -> Self {
        let message = Message::from_octets(bytes).expect("a message");
        let header = message.header();
        assert!(header.qr() && header.id() == id, "it answers the query: {bytes:02x?}");
        let mut reply = Self {
            rcode: message.opt_rcode(),
            authoritative: header.aa(),
            truncated: header.tc(),
            recursion_desired: header.rd(),
            recursion_available: header.ra(),
            questions: Vec::new(),
            answers: BTreeSet::new(),
            authorities: BTreeSet::new(),
            additionals: BTreeSet::new(),
            ttls: BTreeSet::new(),
            edns: None,
        };
        for question in message.question() {
            let question = question.expect("a question");
            let (name, rtype) = (question.qname().fmt_with_dot(), question.qtype());
            reply.questions.push(format!("{name} {rtype}"));
        }
        for record in message.iter() {
            let (record, section) = record.expect("a record");
            if record.rtype() == Rtype::OPT {
                continue;
            }
            let record = record.into_record::<AllRecordData<_, _>>().expect("its data");
            let record = record.expect("of a type that is known");
            reply.ttls.insert(record.ttl().as_secs());
            let (owner, rtype) = (record.owner().fmt_with_dot(), record.rtype());
            let set = match section {
                Section::Answer => &mut reply.answers,
                Section::Authority => &mut reply.authorities,
                Section::Additional => &mut reply.additionals,
            };
            let data = match record.data() {
                // Shown without the dot, unlike every other name.
                AllRecordData::Srv(srv) => format!("{srv}."),
                data => data.to_string(),
            };
            let new = set.insert(format!("{owner} {rtype} {data}"));
            assert!(new, "RFC 2181 §5: a record stands once: {bytes:02x?}");
        }
        reply.edns = message.opt().map(|opt| Edns {
            version: opt.version(),
            payload: opt.udp_payload_size(),
            dnssec_ok: opt.dnssec_ok(),
            options: (opt.opt().iter::<UnknownOptData<_>>())
                .map(|option| option.expect("an option"))
                .map(|option| (option.code().to_int(), option.as_slice().to_vec()))
                .collect(),
        });
        reply
    }

    /// Code and text of the extended error (RFC 8914).
    pub(crate) fn extended_error(&self) -> Option<(u16, String)> {
        let (code, text) = self.edns.as_ref()?.option(EDE)?.split_first_chunk::<2>()?;
        Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
    }
}
