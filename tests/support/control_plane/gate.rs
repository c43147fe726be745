//! What stands between a client and its control plane: passes bytes on, or does what broken networks
//! and broken peers do. Knows nothing of what is passed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of connections, those that are open included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passed on to this address.
    To(SocketAddr),
    /// Refused: nobody listens.
    Refuse,
    /// Reset once they are accepted.
    Reset,
    /// Closed once they are accepted.
    Close,
    /// Accepted, or left open, and nothing moves any more.
    Freeze,
    /// Told these bytes, and closed.
    Say(Vec<u8>),
    /// Told these bytes over and over.
    Repeat(Vec<u8>),
}

/// The gate; closed when dropped.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Gate {
    pub(crate) async fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (mode, modes) = watch::channel(mode);
        let accepted = Arc::<AtomicUsize>::default();
        let task = tokio::spawn(run(listener, modes, Arc::clone(&accepted)));
        Self { address, mode, accepted, task }
    }

    /// Does this from now on.
    pub(crate) fn turn(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(listener: TcpListener, mut modes: watch::Receiver<Mode>, accepted: Arc<AtomicUsize>) {
    let address = listener.local_addr().expect("bound");
    let mut listener = Some(listener);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        if *modes.borrow_and_update() == Mode::Refuse {
            listener = None;
            if modes.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open = match &listener {
            Some(open) => open,
            None => {
                let Ok(bound) = TcpListener::bind(address).await else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                listener.insert(bound)
            }
        };
        tokio::select! {
            taken = open.accept() => {
                if let Ok((stream, _)) = taken {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(connection(stream, modes.clone()));
                }
            }
            changed = modes.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(mut stream: TcpStream, mut modes: watch::Receiver<Mode>) {
    let mut passed: Option<TcpStream> = None;
    loop {
        let mode = modes.borrow_and_update().clone();
        match mode {
            Mode::To(address) => {
                if passed.is_some() {
                    // It belonged to another, or was frozen.
                    return;
                }
                let Ok(mut to) = TcpStream::connect(address).await else { return };
                tokio::select! {
                    _ended = copy_bidirectional(&mut stream, &mut to) => return,
                    _changed = modes.changed() => {}
                }
                passed = Some(to);
            }
            Mode::Freeze => {
                if modes.changed().await.is_err() {
                    return;
                }
                // What was frozen does not come back.
                if *modes.borrow() != Mode::Freeze {
                    return;
                }
            }
            Mode::Reset => {
                // Where the system cannot, it is closed.
                let _set = stream.set_zero_linger();
                return;
            }
            Mode::Close | Mode::Refuse => return,
            // It belonged to another.
            Mode::Say(_) | Mode::Repeat(_) if passed.is_some() => return,
            Mode::Say(bytes) => {
                let mut buffer = [0; 256];
                // The client may have gone.
                let _read = stream.read(&mut buffer).await;
                let _written = stream.write_all(&bytes).await;
                return;
            }
            Mode::Repeat(bytes) => loop {
                tokio::select! {
                    written = stream.write_all(&bytes) => if written.is_err() { return },
                    _changed = modes.changed() => return,
                }
            },
        }
    }
}
