//! The listeners of encrypted DNS: bound with the rest, served with the rest.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use portolan_runtime::bind::{self, BindError, Sharing};
use portolan_runtime::{Certificate, Lifecycle};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{into_tokio, server_name};
use crate::config::DnsConfig;
use crate::encrypted::https::Https;
use crate::encrypted::{quic, server_config};
use crate::error::DnsError;
use crate::front::Protocol;
use crate::metrics::{Counters, Labelled};
use crate::stream::{self, Framed, Streams};

/// The versions of TLS that are spoken over TCP, and over QUIC (RFC 9001 §4.2).
const TCP_VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];
const QUIC_VERSIONS: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// One bound listener.
#[derive(Debug)]
pub(super) struct Secure {
    socket: Socket,
    address: SocketAddr,
    certificate: Arc<Certificate>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Socket {
    Tls(TcpListener),
    Https(TcpListener),
    Quic(UdpSocket),
}

impl Secure {
    /// Binds whatever the config names.
    ///
    /// # Errors
    /// A socket that cannot be had, or no certificate.
    pub(super) fn bind_all(
        config: &DnsConfig,
        certificate: Option<&Arc<Certificate>>,
    ) -> Result<Vec<Self>, DnsError> {
        let mut all = Vec::new();
        for (protocol, addresses) in [
            (Protocol::Tls, &config.tls_addresses),
            (Protocol::Https, &config.https_addresses),
            (Protocol::Quic, &config.quic_addresses),
        ] {
            for address in addresses {
                let missing = DnsError::NoCertificate { proto: protocol.name(), address: *address };
                let certificate = certificate.ok_or(missing)?.clone();
                all.push(Self::bind(protocol, *address, certificate)?);
            }
        }
        Ok(all)
    }

    fn bind(
        protocol: Protocol,
        address: SocketAddr,
        certificate: Arc<Certificate>,
    ) -> Result<Self, DnsError> {
        let purpose = format!("dns {}", protocol.name());
        let local = |result: std::io::Result<SocketAddr>| {
            let purpose = purpose.clone();
            result.map_err(|source| BindError { purpose, address, source })
        };
        let (socket, address) = if protocol == Protocol::Quic {
            let socket = bind::udp(address, &purpose, Sharing::Exclusive)?;
            let address = local(socket.local_addr())?;
            (Socket::Quic(socket), address)
        } else {
            let listener = bind::tcp(address, &purpose, Sharing::Exclusive)?;
            let address = local(listener.local_addr())?;
            let tls = protocol == Protocol::Tls;
            (if tls { Socket::Tls(listener) } else { Socket::Https(listener) }, address)
        };
        Ok(Self { socket, address, certificate, counters: Arc::new(Counters::shared()) })
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self.socket {
            Socket::Tls(_) => Protocol::Tls,
            Socket::Https(_) => Protocol::Https,
            Socket::Quic(_) => Protocol::Quic,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn counters(&self) -> Labelled {
        let protocol = self.protocol();
        Labelled {
            server: server_name(protocol, self.address),
            protocol,
            ipv6: self.address.is_ipv6(),
            counters: self.counters.clone(),
        }
    }

    /// Starts serving.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub(super) fn start(
        self,
        streams: Streams,
        serving: &Lifecycle,
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<(), DnsError> {
        let serving = serving.clone();
        let certificate = self.certificate;
        match self.socket {
            Socket::Tls(listener) => {
                // RFC 7858 §3.1 knows no name to agree on; RFC 7301 §6 registers one since.
                let tls = server_config(certificate, &[b"dot"], &TCP_VERSIONS);
                let tls = Some(TlsAcceptor::from(Arc::new(tls)));
                let framed = Arc::new(Framed { streams, tls });
                let accept = stream::accept(into_tokio(listener)?, framed, serving);
                tasks.spawn(async move {
                    accept.await;
                    "dns tls"
                });
            }
            Socket::Https(listener) => {
                let tls = server_config(certificate, &[b"h2"], &TCP_VERSIONS);
                let https = Arc::new(Https { streams, tls: TlsAcceptor::from(Arc::new(tls)) });
                let accept = stream::accept(into_tokio(listener)?, https, serving);
                tasks.spawn(async move {
                    accept.await;
                    "dns https"
                });
            }
            Socket::Quic(socket) => {
                let setup = |source| DnsError::Setup { what: "the dns quic endpoint", source };
                let tls = server_config(certificate, &[b"doq"], &QUIC_VERSIONS);
                let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls)
                    .map_err(|error| setup(std::io::Error::other(error)))?;
                let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
                let transport = quic::transport(streams.max_pipelined, streams.idle_timeout);
                config.transport_config(Arc::new(transport));
                let endpoint = quinn::Endpoint::new(
                    quinn::EndpointConfig::default(),
                    Some(config),
                    socket,
                    Arc::new(quinn::TokioRuntime),
                )
                .map_err(setup)?;
                tasks.spawn(async move {
                    quic::serve(endpoint, Arc::new(streams), serving).await;
                    "dns quic"
                });
            }
        }
        Ok(())
    }
}
