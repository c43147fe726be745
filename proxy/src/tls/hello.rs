//! The name that a client asks for, of TLS that is ended elsewhere: its first message is read and goes
//! on as it is.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;

use crate::http::local::Reason;
use crate::stream::Stream;
use crate::tcp::Start;
use crate::worker::accept::Origin;

/// Longest first message, in octets: what one of TLS may be, with what stands around its pieces.
const MAX_HELLO: usize = 72 * 1024;
/// Read at a time.
const PIECE: usize = 4 * 1024;

/// Reads the first message; the connection with what was read, and the name in lower case. `None` when
/// it is not to be served: then it is reset, and counted.
pub(crate) async fn hello(origin: &Origin, mut start: Start) -> Option<(Start, Option<String>)> {
    let deadline = origin.shared.config.header_timeout;
    let first = std::mem::take(&mut start.first);
    let Stream::Plain(client) = &start.client else {
        start.reset();
        return None;
    };
    match read(client, first, deadline).await {
        Ok((first, asked)) => {
            start.first = first;
            Some((start, asked))
        }
        Err(error) => {
            origin.count_local(Reason::TlsHandshake);
            let (listener, peer) = (&origin.listener.name, start.peer);
            tracing::debug!(%listener, %peer, %error, "no TLS");
            start.reset();
            None
        }
    }
}

async fn read(
    client: &TcpStream,
    mut first: Vec<u8>,
    deadline: Duration,
) -> io::Result<(Vec<u8>, Option<String>)> {
    let reading = async {
        let mut asking = Asking::default();
        loop {
            if let Some(asked) = asking.take(&first)? {
                return Ok(asked);
            }
            client.readable().await?;
            first.reserve(PIECE);
            match client.try_read_buf(&mut first) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    let asked = tokio::time::timeout(deadline, reading).await;
    let asked = asked.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok((first, asked))
}

/// A first message that comes in pieces.
#[derive(Default)]
struct Asking {
    acceptor: Acceptor,
    /// How much of what there is was looked at.
    taken: usize,
}

impl Asking {
    /// Looks at what has come so far, all of it; the name that is asked for once that is known.
    fn take(&mut self, first: &[u8]) -> io::Result<Option<Option<String>>> {
        let invalid = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut rest = &first[self.taken.min(first.len())..];
        while !rest.is_empty() {
            if self.acceptor.read_tls(&mut rest)? == 0 {
                break;
            }
            self.taken = first.len() - rest.len();
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Ok(Some(hello.server_name().map(str::to_ascii_lowercase)));
                }
                Err((error, _alert)) => return Err(invalid(error)),
            }
        }
        if first.len() > MAX_HELLO {
            return Err(invalid(rustls::Error::General(
                "the first message is too long".to_owned(),
            )));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::tls::provider;

    fn client_hello(name: ServerName<'static>) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("written");
        bytes
    }

    /// What is made of bytes that come in pieces of this size.
    fn of_pieces(bytes: &[u8], piece: usize) -> io::Result<Option<Option<String>>> {
        let mut asking = Asking::default();
        let mut end = 0;
        loop {
            end = (end + piece.max(1)).min(bytes.len());
            let found = asking.take(&bytes[..end])?;
            if found.is_some() || end == bytes.len() {
                return Ok(found);
            }
        }
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        let named = client_hello("Web.Test".try_into().expect("a name"));
        let nameless = client_hello(std::net::IpAddr::from([127, 0, 0, 1]).into());
        for piece in [1, 2, 5, 100, 10_000] {
            let found = of_pieces(&named, piece).expect("TLS");
            assert_eq!(found, Some(Some("web.test".to_owned())), "{piece}");
            assert_eq!(of_pieces(&nameless, piece).expect("TLS"), Some(None), "{piece}");
            let cut = of_pieces(&named[..named.len() - 1], piece).expect("more may come");
            assert_eq!(cut, None, "{piece}");
        }
    }

    #[test]
    fn what_is_no_tls_or_too_long_is_refused() {
        assert!(of_pieces(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1000).is_err());
        // A message that says it is 16 MiB long, in pieces of 16 KiB.
        let mut endless = Vec::new();
        while endless.len() < 2 * MAX_HELLO {
            endless.extend([22, 3, 1, 0x40, 0]);
            let content = if endless.len() == 5 { &[1, 0xff, 0xff, 0xff][..] } else { &[0; 4] };
            endless.extend(content);
            endless.extend([0; 0x4000 - 4]);
        }
        assert!(of_pieces(&endless, 1000).is_err());
    }
}
