//! TLS with clients: the settings of each listener in force, and handshakes by them.
//!
//! Settings are made where the configuration is applied, once for all workers, so that a session that
//! began at one is resumed at another. A certificate that changes is in force for the next handshake;
//! connections stay as they are.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portolan_model::traffic::{
    ClientCertificates, ListenerKind, ResourceName, Secret, ServerTls, TlsChain, TrafficConfig,
};
use portolan_runtime::certificate::{self, Staple};
use rustls::ServerConfig;
use rustls::server::{
    Acceptor, ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use super::names::NamedClients;
use super::{certified, check_time, provider, roots, versions, why};
use crate::admit::Proof;
use crate::http::local::Reason;
use crate::stream::{Prefixed, Stream};
use crate::tcp::Start;
use crate::worker::accept::Origin;

/// First octet of a connection that begins with TLS (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// How long a client is waited for that may be one to wait itself.
const SPEAKS_WITHIN: Duration = Duration::from_secs(1);

/// The settings of all listeners in force.
#[derive(Debug, Default)]
pub(crate) struct Terminators(ArcSwap<HashMap<ResourceName, Terminator>>);

/// How a listener's connections begin.
#[derive(Clone)]
struct Terminator {
    tls: ServerTls,
    /// The secrets that it is made of, by name; `None` for one that is missing.
    secrets: Vec<Option<Arc<Secret>>>,
    /// By chain; why there is none, if it cannot be made.
    chains: Vec<Result<Arc<ServerConfig>, String>>,
    /// What sessions are sealed with, by chain: another where what is asked of clients is another, so
    /// that no session goes on where it could not have begun.
    tickets: Vec<Arc<dyn ProducesTickets>>,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Terminators {
    /// Makes what the listeners of a configuration need. What did not change stays.
    pub(crate) fn apply(&self, config: &TrafficConfig) {
        let before = self.0.load();
        let mut next = HashMap::new();
        for (name, listener) in &config.listeners {
            let Some(tls) = &listener.tls else { continue };
            let secrets: Vec<Option<Arc<Secret>>> =
                tls.secrets().map(|name| config.secrets.get(name).cloned()).collect();
            let old = before.get(name);
            let same = old.filter(|old| old.tls == *tls && old.secrets == secrets);
            let made = same.cloned().unwrap_or_else(|| make(name, tls, secrets, old, config));
            next.insert(Arc::clone(name), made);
        }
        if !(next.is_empty() && before.is_empty()) {
            self.0.store(Arc::new(next));
        }
    }

    /// The settings for a client that asks for a name, and what its requests go by if not by the routes
    /// of the listener.
    fn lookup(
        &self,
        listener: &ResourceName,
        asked: Option<&str>,
    ) -> Result<(Arc<ServerConfig>, Option<ResourceName>), String> {
        let all = self.0.load();
        let terminator = all.get(listener).ok_or("no certificate yet")?;
        let lower = asked.map(str::to_ascii_lowercase);
        let chain = terminator.tls.chain(lower.as_deref()).ok_or_else(|| {
            format!("no certificate for {}", asked.unwrap_or("a client that asks for no name"))
        })?;
        let config = terminator.chains[chain].clone()?;
        Ok((config, terminator.tls.chains[chain].routes.clone()))
    }
}

fn make(
    name: &ResourceName,
    tls: &ServerTls,
    secrets: Vec<Option<Arc<Secret>>>,
    old: Option<&Terminator>,
    config: &TrafficConfig,
) -> Terminator {
    let mut chains = Vec::new();
    let mut tickets: Vec<Arc<dyn ProducesTickets>> = Vec::new();
    for chain in &tls.chains {
        // A chain that asks for the same of its clients, in the old settings.
        let kept = old.and_then(|old| {
            let same = |one: &TlsChain| {
                one.names == chain.names
                    && one.clients == chain.clients
                    && one.client_names == chain.client_names
            };
            let at = old.tls.chains.iter().position(same)?;
            // Under the name by which the chain asks for them: whom the old ones of that name let in
            // the new ones may not.
            let trusted = chain.clients.authorities().and_then(|name| config.secrets.get(name));
            let unchanged = trusted.is_none() || authorities(old, chain) == trusted;
            unchanged.then(|| Arc::clone(&old.tickets[at]))
        });
        let ticketer = match kept.map_or_else(rustls::crypto::aws_lc_rs::Ticketer::new, Ok) {
            Ok(ticketer) => ticketer,
            Err(error) => {
                // Without randomness there is no ticketer, and no chain either.
                chains.push(Err(error.to_string()));
                tickets.push(Arc::new(NoTickets));
                continue;
            }
        };
        let made = server(chain, config, Arc::clone(&ticketer));
        if let Err(reason) = &made {
            tracing::error!(listener = %name, reason, "a listener cannot end TLS");
        }
        chains.push(made.map(Arc::new));
        tickets.push(ticketer);
    }
    Terminator { tls: tls.clone(), secrets, chains, tickets }
}

/// The authorities that a chain's clients had to have proof of in the old settings.
fn authorities<'a>(old: &'a Terminator, chain: &TlsChain) -> Option<&'a Arc<Secret>> {
    let asked = chain.clients.authorities()?;
    let mut known = old.tls.secrets().zip(&old.secrets);
    known.find(|(name, _)| *name == asked).and_then(|(_, secret)| secret.as_ref())
}

/// In the place of a ticketer that could not be made.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _plain: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _cipher: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

fn server(
    chain: &TlsChain,
    config: &TrafficConfig,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, String> {
    let provider = provider();
    let text = |error: rustls::Error| error.to_string();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(chain.versions))
        .map_err(text)?;
    let builder = match chain.clients.authorities() {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let roots = roots(name, config.secrets.get(name))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match &chain.clients {
                ClientCertificates::Required(_) => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|error| error.to_string())?;
            builder.with_client_cert_verifier(NamedClients::over(verifier, &chain.client_names))
        }
    };
    let keys = chain.certificates.iter().map(|name| Own::of(name, config.secrets.get(name)));
    let keys: Vec<Own> = keys.collect::<Result<_, _>>()?;
    let mut server = builder.with_cert_resolver(Arc::new(Keys(keys)));
    server.alpn_protocols = chain.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    server.ticketer = ticketer;
    // What is not resumed by tickets is not resumed at all: a store would be for one process alone.
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 2;
    Ok(server)
}

/// The certificates of a chain; the first that the client can verify signatures of.
#[derive(Debug)]
struct Keys(Vec<Own>);

/// A certificate, and the same with what its issuer says of it, while that is good.
#[derive(Debug)]
struct Own {
    bare: Arc<CertifiedKey>,
    stapled: Option<(Staple, Arc<CertifiedKey>)>,
}

impl Own {
    fn of(name: &ResourceName, secret: Option<&Arc<Secret>>) -> Result<Self, String> {
        let bare = certified(name, secret)?;
        let stapled = match secret.map(|secret| &**secret) {
            Some(Secret::Certificate { ocsp: Some(ocsp), .. }) => {
                match Staple::read(ocsp, &bare.cert[0]) {
                    Ok(staple) => {
                        let ocsp = Some(ocsp.to_vec());
                        Some((staple, Arc::new(CertifiedKey { ocsp, ..(*bare).clone() })))
                    }
                    Err(error) => {
                        tracing::warn!(certificate = %name, %error, "nothing is stapled to it");
                        None
                    }
                }
            }
            _ => None,
        };
        Ok(Self { bare, stapled })
    }

    fn now(&self) -> Arc<CertifiedKey> {
        let good = self.stapled.as_ref().filter(|(staple, _)| staple.is_good_at(SystemTime::now()));
        Arc::clone(good.map_or(&self.bare, |(_, stapled)| stapled))
    }
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |own: &&Own| own.bare.key.choose_scheme(schemes).is_some();
        self.0.iter().find(fits).map(Own::now)
    }
}

/// Does the handshake of a connection; `None` when it is not to be served: then it is closed, and
/// counted.
pub(crate) async fn accept(origin: &Origin, start: Start) -> Option<Start> {
    let deadline = origin.shared.config.header_timeout;
    if origin.listener.tls.as_ref().is_some_and(|tls| tls.permissive) {
        match begins_with_tls(origin, &start).await {
            Some(true) => {}
            Some(false) => return Some(start),
            None => return None,
        }
    }
    let Start { client, peer, first, addresses, at, .. } = start;
    let handshake = handshake(origin, Prefixed::new(client.into_socket(), first));
    let failed = match tokio::time::timeout(deadline, handshake).await {
        Ok(Ok((client, proof))) => {
            let proof = Some(Box::new(proof));
            return Some(Start { client, peer, first: Vec::new(), addresses, at, proof });
        }
        Ok(Err(reason)) => reason,
        Err(_elapsed) => format!("no handshake within {deadline:?}"),
    };
    origin.count_local(Reason::TlsHandshake);
    tracing::debug!(listener = %origin.listener.name, %peer, reason = failed, "no TLS");
    None
}

/// Whether a client begins with TLS: it is the first to speak then. `None` of one that left or, where
/// HTTP is spoken, says nothing in time.
async fn begins_with_tls(origin: &Origin, start: &Start) -> Option<bool> {
    if let Some(first) = start.first.first() {
        return Some(*first == HANDSHAKE);
    }
    let Stream::Plain(socket) = &start.client else { return Some(false) };
    let is_http = matches!(origin.listener.kind, ListenerKind::Http { .. });
    let patience = origin.shared.config.header_timeout;
    let patience = if is_http { patience } else { patience.min(SPEAKS_WITHIN) };
    let mut first = [0];
    match tokio::time::timeout(patience, socket.peek(&mut first)).await {
        Ok(Ok(1)) => Some(first[0] == HANDSHAKE),
        // It may wait for the server to speak.
        Err(_elapsed) if !is_http => Some(false),
        _ => None,
    }
}

async fn handshake(origin: &Origin, io: Prefixed) -> Result<(Stream, Proof), String> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), io).await;
    let start = start.map_err(|error| error.to_string())?;
    let asked = start.client_hello().server_name().map(str::to_owned);
    let terminators = &origin.shared.terminators;
    match terminators.lookup(&origin.listener.name, asked.as_deref()) {
        Ok((config, routes)) => {
            let stream = start.into_stream(config).await.map_err(|error| why(&error))?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            check_time(shown)?;
            let names = shown.map(certificate::alternative_names);
            let proof = Proof { names, server_name: asked.map(String::into_boxed_str), routes };
            Ok((Stream::tls(TlsStream::from(stream)), proof))
        }
        Err(reason) => {
            // Says so, which is all that can fail of it.
            let _refused = start.into_stream(REFUSING.clone()?).await;
            Err(reason)
        }
    }
}

/// Settings by which every handshake is refused, with an alert.
static REFUSING: LazyLock<Result<Arc<ServerConfig>, String>> = LazyLock::new(|| {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let keys = Keys(Vec::new());
    Ok(Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(keys))))
});
