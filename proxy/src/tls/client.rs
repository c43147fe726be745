//! TLS to endpoints: settings of a cluster, made when it is first dialled and anew when a secret
//! changes, and handshakes by them.
//!
//! Connections stay as they are when a secret changes; the next one is by the new.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use portolan_model::traffic::{ClientTls, NameMatch, Secret, TrafficConfig, Trusted};
use portolan_runtime::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{certified, check_time, names, provider, roots, versions, why};
use crate::stream::{Prefixed, Stream};

/// Sessions kept of a cluster's endpoints, to begin the next connection with, per worker.
const SESSIONS: usize = 32;
/// A session is not begun with so shortly before it is over.
const MARGIN: Duration = Duration::from_secs(2);

/// What is spoken above TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Above {
    /// Bytes.
    Bytes,
    Http1,
    Http2,
}

/// How a cluster's endpoints are dialled, remembered from one connection to the next.
#[derive(Debug, Default)]
pub(crate) struct Dialer(RefCell<Option<Arc<Settings>>>);

/// Settings of a cluster, by the secrets that there are.
pub(crate) struct Settings {
    tls: Arc<ClientTls>,
    secrets: Vec<Option<Arc<Secret>>>,
    made: Result<Arc<ClientConfig>, String>,
    sessions: Mutex<Sessions>,
}

/// Sessions to begin connections with.
struct Sessions {
    kept: Resumption,
    /// When the first certificate that one of them began with is over, and they are all forgotten.
    until: Option<SystemTime>,
}

impl Sessions {
    fn none() -> Self {
        Self { kept: Resumption::in_memory_sessions(SESSIONS), until: None }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Dialer {
    /// The settings in force.
    pub(crate) fn settings(&self, tls: &Arc<ClientTls>, config: &TrafficConfig) -> Arc<Settings> {
        let mut kept = self.0.borrow_mut();
        match &*kept {
            Some(kept) if kept.are(tls, config) => Arc::clone(kept),
            _ => Arc::clone(kept.insert(Arc::new(Settings::new(tls, config)))),
        }
    }
}

impl Settings {
    pub(crate) fn new(tls: &Arc<ClientTls>, config: &TrafficConfig) -> Self {
        let secrets: Vec<_> = tls.secrets().map(|name| config.secrets.get(name).cloned()).collect();
        let made = make(tls, &secrets).map(Arc::new);
        Self { tls: Arc::clone(tls), secrets, made, sessions: Mutex::new(Sessions::none()) }
    }

    /// Whether they are what they would be if they were made by these.
    pub(crate) fn are(&self, tls: &Arc<ClientTls>, config: &TrafficConfig) -> bool {
        let known = |name| config.secrets.get(name);
        self.tls == *tls && tls.secrets().map(known).eq(self.secrets.iter().map(Option::as_ref))
    }

    /// Does the handshake of a connection to an endpoint.
    ///
    /// # Errors
    /// Why there is none: a secret that is missing, or that the two did not come to terms.
    pub(crate) async fn handshake(
        &self,
        above: Above,
        socket: TcpStream,
        address: IpAddr,
    ) -> io::Result<Stream> {
        let config = self.made.as_ref().map_err(|reason| io::Error::other(reason.clone()))?;
        // What is asked for is a name of DNS; who has none is known by its address alone.
        let name = match &self.tls.server_name {
            Some(name) => ServerName::try_from(name.to_string()).map_err(io::Error::other)?,
            None => ServerName::from(address),
        };
        let (protocols, wanted) = self.protocols(above);
        let mut config = ClientConfig::clone(config);
        config.resumption = self.sessions();
        config.alpn_protocols = protocols;
        let stream =
            TlsConnector::from(Arc::new(config)).connect(name, Prefixed::new(socket, Vec::new()));
        let stream = stream.await.map_err(|error| io::Error::new(error.kind(), why(&error)))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        self.note(check_time(shown).map_err(io::Error::other)?);
        match (wanted, stream.get_ref().1.alpn_protocol()) {
            (Some(wanted), Some(agreed)) if wanted.as_bytes() != agreed => {
                let agreed = agreed.escape_ascii();
                Err(io::Error::other(format!("it speaks {agreed} and not {wanted}")))
            }
            _ => Ok(Stream::tls(TlsStream::from(stream))),
        }
    }

    /// The sessions that a connection may begin with.
    fn sessions(&self) -> Resumption {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = SystemTime::now() + MARGIN;
        if sessions.until.is_some_and(|until| until <= soon) {
            *sessions = Sessions::none();
        }
        sessions.kept.clone()
    }

    /// A session has begun with a certificate whose time is over then.
    fn note(&self, end: Option<SystemTime>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.until = [sessions.until, end].into_iter().flatten().min();
    }

    /// The protocols that are offered, and the one that must be agreed on if one is.
    fn protocols(&self, above: Above) -> (Vec<Vec<u8>>, Option<&'static str>) {
        let spoken = match above {
            Above::Bytes => None,
            Above::Http1 => Some("http/1.1"),
            Above::Http2 => Some("h2"),
        };
        let alpn = &self.tls.alpn;
        match spoken {
            Some(spoken) if alpn.is_empty() || alpn.iter().any(|name| **name == *spoken) => {
                (vec![spoken.as_bytes().to_vec()], Some(spoken))
            }
            _ => (alpn.iter().map(|name| name.as_bytes().to_vec()).collect(), None),
        }
    }
}

fn make(tls: &ClientTls, secrets: &[Option<Arc<Secret>>]) -> Result<ClientConfig, String> {
    let known = |wanted| {
        let mut named = tls.secrets().zip(secrets);
        named.find(|(name, _)| *name == wanted).and_then(|(_, secret)| secret.as_ref())
    };
    let provider = provider();
    let roots = match &tls.trusted {
        Trusted::System => SYSTEM.clone()?,
        Trusted::Authorities(name) => roots(name, known(name))?,
        Trusted::These(pem) => certificate::authorities(pem.as_bytes()).map(Arc::new)?,
    };
    let verifier = NamedEndpoints::new(roots, &tls.names, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(tls.versions))
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = certified(name, known(name))?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
    };
    config.enable_sni = tls.server_name.is_some();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The authorities of the system.
static SYSTEM: LazyLock<Result<Arc<RootCertStore>, String>> =
    LazyLock::new(|| certificate::system_authorities().map(Arc::new));

/// Takes endpoints whose certificates end in an authority and are for whom they should be for.
#[derive(Debug)]
struct NamedEndpoints {
    roots: Arc<RootCertStore>,
    names: Vec<NameMatch>,
    provider: Arc<CryptoProvider>,
    /// For what does not depend on names.
    signatures: Arc<WebPkiServerVerifier>,
}

impl NamedEndpoints {
    fn new(
        roots: Arc<RootCertStore>,
        names: &[NameMatch],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
        let signatures = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { roots, names: names.to_vec(), provider: Arc::clone(provider), signatures })
    }
}

impl ServerCertVerifier for NamedEndpoints {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        names::check(end_entity, &self.names)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}
