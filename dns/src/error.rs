//! Why the DNS role could not start, or stopped.

use std::io;

use portolan_runtime::CertificateError;
use portolan_runtime::bind::BindError;
use tokio::task::JoinError;

/// An error of the DNS role as a whole; a bad query is never one.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No address was given.
    #[error("no address to serve dns on")]
    NoAddress,
    /// The service ranges split into too many reverse zones.
    #[error("the service ranges make more than {limit} reverse zones; use wider prefixes")]
    TooManyReverseZones {
        /// The limit.
        limit: usize,
    },
    /// The zone is so long that the names every zone has do not fit below it (RFC 1035 §2.3.4).
    #[error("zone {zone} is too long: names below it would exceed 255 octets")]
    ZoneTooLong {
        /// The zone.
        zone: String,
    },
    /// Two zones are one.
    #[error("zone {zone} cannot be two of the zones at once")]
    SameZone {
        /// The zone.
        zone: String,
    },
    /// Too many zones.
    #[error("more than {limit} zones of the cluster")]
    TooManyZones {
        /// The limit.
        limit: usize,
    },
    /// A static record cannot stand where it would.
    #[error("the static record of {name}: {reason}")]
    Static {
        /// Its name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// A file that was named cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Upstreams are to be asked over TLS, and nothing says whose certificates count.
    #[error("the system has no certificate authorities; name a file with dns.forward_ca")]
    NoAuthorities,
    /// A listener for encrypted DNS without a certificate.
    #[error("dns over {proto} on {address} needs a certificate and a key")]
    NoCertificate {
        /// Which.
        proto: &'static str,
        /// Where.
        address: std::net::SocketAddr,
    },
    /// A socket could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket option, a file descriptor or a thread could not be had.
    #[error("cannot set up {what}: {source}")]
    Setup {
        /// What was being set up.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A UDP worker stopped although nothing had asked it to.
    #[error("udp worker {worker} stopped: {reason}")]
    Worker {
        /// Which.
        worker: String,
        /// What it ended with.
        reason: String,
    },
    /// A task of the role stopped although nothing had asked it to.
    #[error("the {task} task returned although nothing had asked it to")]
    Unasked {
        /// Which.
        task: &'static str,
    },
    /// A task of the role panicked.
    #[error("a dns task panicked: {0}")]
    Panic(#[from] JoinError),
}
