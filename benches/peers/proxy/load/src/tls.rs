//! The TLS client: HTTP/1.1 within TLS 1.3, over connections kept alive (`keep`) or made anew for each
//! request, with a handshake in full (`full`) or one that resumes a session (`resumed`). In both the
//! client wants tickets for what follows, as clients do.
//!
//! All proxies are offered the same: one suite and one group, and no certificate is looked at, so that
//! what is on this side costs little.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    SignatureScheme,
};

use crate::Args;
use crate::drive::Load;
use crate::http1::{self, Response};
use crate::meter::Meter;
use crate::poll::{self, Got, Io, Poll, Ready};

/// Handshakes before the first session can be resumed.
const UNTIL_RESUMED: usize = 100;
/// Tickets that wait to be used.
const MAX_TICKETS: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Keep,
    Full,
    Resumed,
}

pub struct Client {
    to: SocketAddr,
    mode: Mode,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    request: Vec<u8>,
    slots: Vec<Option<Session>>,
    free: Vec<usize>,
    started: Vec<usize>,
    scratch: Vec<u8>,
    plain: Vec<u8>,
    done: usize,
}

struct Session {
    io: Io,
    tls: ClientConnection,
    /// When the request under way was due; `None` once it is answered.
    due: Option<Instant>,
    response: Response,
}

/// Tickets of the one server there is, or what takes them and forgets them.
#[derive(Debug)]
struct Tickets {
    keeps: bool,
    waiting: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

/// Takes any certificate, and looks at no signature.
#[derive(Debug)]
struct Anyone;

impl Client {
    pub fn new(args: &Args) -> Result<Self, Box<dyn Error>> {
        let mode = match args.text("mode", "keep").as_str() {
            "keep" => Mode::Keep,
            "full" => Mode::Full,
            "resumed" => Mode::Resumed,
            other => return Err(format!("--mode {other}").into()),
        };
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        let keeps = mode == Mode::Resumed;
        let tickets = Arc::new(Tickets { keeps, waiting: Mutex::default() });
        config.resumption = Resumption::store(tickets);
        let count = args.number("connections", 16)?;
        Ok(Self {
            to: args.address("to")?,
            mode,
            config: Arc::new(config),
            name: ServerName::try_from(args.text("authority", "bench"))?,
            request: http1::request(args, mode != Mode::Keep),
            slots: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            started: Vec::new(),
            scratch: vec![0; 64 << 10],
            plain: vec![0; 64 << 10],
            done: 0,
        })
    }

    fn connect(&self, index: usize, poll: &Poll) -> Result<Session, Box<dyn Error>> {
        let io = Io::new(poll::connect(self.to)?, index as u64, poll)?;
        let tls = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        Ok(Session { io, tls, due: None, response: Response::default() })
    }

    fn fail(&mut self, index: usize, error: &dyn std::fmt::Display, meter: &mut Meter) {
        meter.on_error(error);
        let was_free = self.slots[index].take().is_some_and(|session| session.due.is_none());
        if !was_free {
            self.free.push(index);
        }
    }

    fn read(&mut self, index: usize, poll: &Poll, meter: &mut Meter) -> Result<(), String> {
        let Some(session) = &mut self.slots[index] else { return Ok(()) };
        loop {
            let count = match session.io.read(&mut self.scratch).map_err(|e| e.to_string())? {
                Got::Nothing => break,
                Got::End => return Err("closed too soon".to_owned()),
                Got::Bytes(count) => count,
            };
            let mut octets = &self.scratch[..count];
            while !octets.is_empty() {
                session.tls.read_tls(&mut octets).map_err(|e| e.to_string())?;
                session.tls.process_new_packets().map_err(|e| e.to_string())?;
                loop {
                    let count = match session.tls.reader().read(&mut self.plain) {
                        Ok(0) => break,
                        Ok(count) => count,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.to_string()),
                    };
                    meter.on_octets(count);
                    if session.response.on_octets(&self.plain[..count])? {
                        session.response = Response::default();
                        let due = session.due.take().ok_or("not asked for")?;
                        let resumed = session.tls.handshake_kind() == Some(HandshakeKind::Resumed);
                        self.done += 1;
                        let expected = self.mode == Mode::Resumed && self.done > UNTIL_RESUMED;
                        if expected && !resumed || self.mode == Mode::Full && resumed {
                            return Err(format!("resumed: {resumed}"));
                        }
                        meter.on_done(due, Instant::now());
                        if self.mode != Mode::Keep {
                            self.slots[index] = None;
                        }
                        self.free.push(index);
                        return Ok(());
                    }
                }
            }
            session.write(poll)?;
        }
        session.write(poll)
    }
}

impl Session {
    /// Sends what TLS has to say.
    fn write(&mut self, poll: &Poll) -> Result<(), String> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.io.out).map_err(|e| e.to_string())?;
        }
        self.io.flush(poll).map(|_| ()).map_err(|e| e.to_string())
    }
}

impl Load for Client {
    fn start(&mut self, poll: &Poll, due: Instant, meter: &mut Meter) -> bool {
        let Some(index) = self.free.pop() else { return false };
        if self.slots[index].is_none() {
            match self.connect(index, poll) {
                Ok(session) => self.slots[index] = Some(session),
                Err(error) => {
                    meter.on_error(&format!("connect: {error}"));
                    // Whoever refuses is not asked again at once.
                    self.free.insert(0, index);
                    return false;
                }
            }
        }
        if let Some(session) = &mut self.slots[index] {
            session.due = Some(due);
            // Before the handshake has ended it is kept.
            let written = io::Write::write_all(&mut session.tls.writer(), &self.request);
            if let Err(error) = written {
                self.fail(index, &format!("write: {error}"), meter);
                return false;
            }
        }
        self.started.push(index);
        true
    }

    fn flush(&mut self, poll: &Poll, meter: &mut Meter) {
        while let Some(index) = self.started.pop() {
            let result = self.slots[index].as_mut().map(|session| session.write(poll));
            if let Some(Err(error)) = result {
                self.fail(index, &format!("write: {error}"), meter);
            }
        }
    }

    fn on_ready(&mut self, poll: &Poll, ready: Ready, meter: &mut Meter) {
        let index = usize::try_from(ready.token).unwrap_or(usize::MAX);
        if ready.writable {
            let result = self.slots[index].as_mut().map(|session| session.write(poll));
            if let Some(Err(error)) = result {
                return self.fail(index, &format!("write: {error}"), meter);
            }
        }
        if ready.readable
            && let Err(error) = self.read(index, poll, meter)
        {
            self.fail(index, &format!("read: {error}"), meter);
        }
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, value: Tls13ClientSessionValue) {
        if self.keeps {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push_back(value);
            if waiting.len() > MAX_TICKETS {
                waiting.pop_front();
            }
        }
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_back()
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
