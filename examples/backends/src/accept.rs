//! Accepting connections: owns their tasks, bounds their number, ends them with the process.
//! Knows nothing of what is spoken on them.

use std::future::Future;
use std::io;
use std::time::Duration;

use portolan_runtime::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

/// Most connections of one backend at a time. At the bound no more are accepted until one ends:
/// they wait in the kernel's backlog.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// Pause after a failed accept (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves each connection in a task of its own, at most `max` at a time. Returns once draining has begun and every
/// connection has ended, or at once on abort; dropping the future cuts every connection.
///
/// # Errors
/// When the socket cannot be used.
pub(crate) async fn accept<C, F>(
    listener: std::net::TcpListener,
    lifecycle: &Lifecycle,
    max: usize,
    serve_connection: C,
) -> Result<(), io::Error>
where
    C: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    accept_until_draining(&listener, lifecycle, max, &mut connections, serve_connection).await;
    // From here on the kernel refuses new connections.
    drop(listener);
    tokio::select! {
        () = finish(&mut connections) => {}
        () = lifecycle.aborted() => connections.shutdown().await,
    }
    Ok(())
}

async fn accept_until_draining<C, F>(
    listener: &TcpListener,
    lifecycle: &Lifecycle,
    max: usize,
    connections: &mut JoinSet<()>,
    serve_connection: C,
) where
    C: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut draining = std::pin::pin!(lifecycle.draining());
    loop {
        let accepted = tokio::select! {
            () = &mut draining => return,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                log_panic(ended);
                continue;
            }
            accepted = listener.accept(), if connections.len() < max => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                // Small replies must not wait for Nagle's algorithm. A socket that refuses the
                // option was closed by its peer: reading from it will tell.
                let _closed = stream.set_nodelay(true);
                connections.spawn(serve_connection(stream));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn finish(connections: &mut JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a backend's connection panicked");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_connection_over_the_bound_is_served_when_another_has_ended() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let lifecycle = Lifecycle::new();
        let serving = accept(listener, &lifecycle, 2, |mut stream| async move {
            stream.write_all(b"x").await.expect("greeted");
            // Until the client closes.
            let _end = stream.read(&mut [0]).await;
        });
        let clients = async {
            let mut byte = [0];
            let mut first = TcpStream::connect(address).await.expect("a listener");
            let mut second = TcpStream::connect(address).await.expect("a listener");
            first.read_exact(&mut byte).await.expect("served");
            second.read_exact(&mut byte).await.expect("served");
            // The kernel takes the third; nobody serves it.
            let mut third = TcpStream::connect(address).await.expect("a backlog");
            let waited = Duration::from_millis(100);
            let early = tokio::time::timeout(waited, third.read_exact(&mut byte)).await;
            assert!(early.is_err(), "served over the bound");
            drop(first);
            third.read_exact(&mut byte).await.expect("served");
            lifecycle.drain();
        };
        let (served, ()) = tokio::join!(serving, clients);
        served.expect("no error");
    }
}
