//! HTTP connections from clients: which version they speak, and how long they live.
//!
//! Owns the connection; a request is `exchange`'s, and what goes upstream is `forward`'s.

pub(crate) mod local;

mod account;
mod activity;
mod affinity;
mod answering;
mod asked;
mod awaited;
mod body;
mod detect;
mod edits;
mod exchange;
mod forward;
mod grpc_web;
mod hedge;
mod mirror;
mod over_http1;
mod over_http2;
mod passing;
mod paths;
mod retrying;
mod routing;
mod session;
mod stage;
mod talk;
mod timer;
mod trying;
mod tunnel;
mod wording;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use portolan_model::traffic::{HttpOptions, ListenerKind};

use crate::admit::Proof;
use crate::config::ProxyConfig;
use crate::http1::Limits;
use crate::tcp::Start;
use crate::worker::accept::Origin;
use detect::Version;

/// Fields a head may have.
const MAX_FIELDS: usize = 128;

/// Text of clients that this proxy takes apart itself.
pub(crate) fn fuzz(data: &[u8]) {
    grpc_web::fuzz(data);
    session::fuzz(data);
}

/// What a head over HTTP/1.1 may take, a client's as an endpoint's.
fn head_limits(config: &ProxyConfig) -> Limits {
    let head = usize::try_from(config.max_header_bytes).unwrap_or(usize::MAX);
    Limits { head, fields: MAX_FIELDS }
}

/// How long a connection without a request is kept when its listener closes: one may be on its way.
const GRACE: Duration = Duration::from_secs(1);

/// A client's connection, as its requests see it.
pub(crate) struct Client {
    pub(crate) origin: Rc<Origin>,
    pub(crate) peer: SocketAddr,
    /// The address as it stands in X-Forwarded-For.
    peer_text: Box<str>,
    /// Whose the connection is, where a proxy that is believed says that it is another's.
    connected: IpAddr,
    /// What it has shown by TLS; `None` in the clear.
    proof: Option<Box<Proof>>,
}

impl Client {
    /// `https` over TLS.
    fn scheme(&self) -> &'static str {
        if self.proof.is_some() { "https" } else { "http" }
    }

    fn options(&self) -> &HttpOptions {
        static NONE: HttpOptions = HttpOptions::NONE;
        match &self.origin.listener.kind {
            ListenerKind::Http { options, .. } | ListenerKind::Detect { http: options, .. } => {
                options
            }
            ListenerKind::Tcp { .. } | ListenerKind::ByName { .. } => &NONE,
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(origin: Rc<Origin>, start: Start) {
    let Start { client: mut stream, peer, first, proof, .. } = start;
    let connected = stream.look(|socket| socket.peer_addr()).map_or(peer, |address| address).ip();
    let timeout = origin.shared.config.header_timeout;
    // A request may be on its way when the listener closes.
    let closing = async {
        origin.closing.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let detecting = tokio::time::timeout(timeout, detect::detect(&mut stream, &first, closing));
    // Silence, an end, or an error before the first request: there is nothing to answer.
    let Ok(Some((version, read))) = detecting.await else { return };
    let peer_text = peer.ip().to_canonical().to_string().into();
    let client = Rc::new(Client { origin, peer, peer_text, connected, proof });
    match version {
        Version::Http1 => Box::pin(over_http1::serve(client, stream, read)).await,
        Version::Http2 => Box::pin(over_http2::serve(client, stream, read)).await,
    }
}
