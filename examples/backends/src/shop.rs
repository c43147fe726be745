//! The example folder come to life: a backend on every endpoint that `examples/shop` lists. The
//! manifests alone say who there is; nothing is listed here a second time.

mod listening;
mod manifest;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use portolan_runtime::Lifecycle;
use portolan_runtime::bind::BindError;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use self::listening::{Choice, Listeners};
use crate::{Identity, grpc, http, tcp};

/// The files of `examples/shop`: name and text, with the ports as written there.
pub const MANIFESTS: &[(&str, &str)] = &[
    ("admin.yaml", include_str!("../../shop/admin.yaml")),
    ("cache.yaml", include_str!("../../shop/cache.yaml")),
    ("db.yaml", include_str!("../../shop/db.yaml")),
    ("greeter.yaml", include_str!("../../shop/greeter.yaml")),
    ("names.yaml", include_str!("../../shop/names.yaml")),
    ("orders.yaml", include_str!("../../shop/orders.yaml")),
    ("staging.yaml", include_str!("../../shop/staging.yaml")),
    ("web.yaml", include_str!("../../shop/web.yaml")),
    ("workloads.yaml", include_str!("../../shop/workloads.yaml")),
];

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP/1.1, see [`crate::http`].
    Http,
    /// gRPC over cleartext HTTP/2, see [`crate::grpc`].
    Grpc,
    /// Lines over TCP, see [`crate::tcp`].
    Tcp,
}

/// One port of one endpoint of one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// Name of the endpoint, such as `web-1`; unique over all namespaces.
    pub endpoint: String,
    /// Name of the port; empty when it has none.
    pub port_name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What its manifest says. One that is not ready runs all the same.
    pub ready: bool,
    /// What it speaks.
    pub kind: Kind,
}

/// The running backends. Dropping it cuts them all off.
#[derive(Debug)]
pub struct Shop {
    lifecycle: Lifecycle,
    backends: Vec<Backend>,
    /// Port in the manifests -> port in use.
    ports: BTreeMap<u16, u16>,
    tasks: JoinSet<(SocketAddr, Result<(), io::Error>)>,
    handles: BTreeMap<SocketAddr, AbortHandle>,
}

/// A shop that could not open, or closed unasked.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// An example manifest is not what this module understands.
    #[error("examples/shop/{file}: {reason}")]
    Manifest {
        /// Name of the file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An address could not be listened on, whatever the port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A manifest could not be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A backend ended with an error.
    #[error("the backend on {address} ended: {source}")]
    Ended {
        /// Where it listened.
        address: SocketAddr,
        /// What it ended with.
        #[source]
        source: io::Error,
    },
    /// A backend panicked.
    #[error("a backend panicked: {0}")]
    Panic(#[source] JoinError),
}

impl Shop {
    /// Starts every backend on its own loopback address: on the port its manifest names if that is
    /// free on all the addresses that use it, on another port for all of them otherwise. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// [`ShopError::Bind`] when the loopback addresses cannot be used at all (127.0.0.0/8 is free
    /// on Linux only).
    pub fn start(lifecycle: Lifecycle) -> Result<Self, ShopError> {
        Self::open(lifecycle, Choice::CanonicalFirst)
    }

    /// As [`Shop::start`], but always on ports other than those in the manifests.
    ///
    /// # Errors
    /// As [`Shop::start`].
    pub fn start_on_free_ports(lifecycle: Lifecycle) -> Result<Self, ShopError> {
        Self::open(lifecycle, Choice::FreePorts)
    }

    fn open(lifecycle: Lifecycle, choice: Choice) -> Result<Self, ShopError> {
        let mut backends = Vec::new();
        for (file, text) in MANIFESTS {
            let found =
                manifest::backends(text).map_err(|reason| ShopError::Manifest { file, reason })?;
            backends.extend(found);
        }
        // An endpoint may stand in several slices.
        backends.sort_by_key(|backend| backend.address);
        backends.dedup_by_key(|backend| backend.address);

        let Listeners { ports, sockets } =
            listening::bind(backends.iter().map(|backend| backend.address), choice)?;
        let mut shop = Self {
            lifecycle,
            backends: Vec::with_capacity(backends.len()),
            ports,
            tasks: JoinSet::new(),
            handles: BTreeMap::new(),
        };
        for (mut backend, (address, listener)) in backends.into_iter().zip(sockets) {
            backend.address = address;
            shop.serve(&backend, listener);
            shop.backends.push(backend);
        }
        shop.backends.sort();
        Ok(shop)
    }

    fn serve(&mut self, backend: &Backend, listener: TcpListener) {
        let (kind, address) = (backend.kind, backend.address);
        let identity = Identity::new(&backend.service, &backend.endpoint);
        let lifecycle = self.lifecycle.clone();
        let handle = self.tasks.spawn(async move {
            let served = match kind {
                Kind::Http => http::serve(listener, identity, lifecycle).await,
                Kind::Grpc => grpc::serve(listener, identity, lifecycle).await,
                Kind::Tcp => tcp::serve(listener, identity, lifecycle).await,
            };
            (address, served)
        });
        self.handles.insert(address, handle);
    }

    /// Every backend, sorted by namespace, service and endpoint; those that are not ready too.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter()
    }

    /// The backends of one service.
    pub fn backends_of(&self, namespace: &str, service: &str) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(move |b| b.namespace == namespace && b.service == service)
    }

    /// Whether every backend listens on the port that `examples/shop` names.
    #[must_use]
    pub fn is_canonical(&self) -> bool {
        self.ports.iter().all(|(canonical, used)| canonical == used)
    }

    /// The manifests with the ports in use: name of the file and text. Only the ports of
    /// EndpointSlices differ from `examples/shop`.
    ///
    /// # Errors
    /// [`ShopError::Manifest`] when an example cannot be rewritten.
    pub fn manifests(&self) -> impl Iterator<Item = Result<(&'static str, String), ShopError>> {
        MANIFESTS.iter().map(|(file, text)| {
            let rewritten = manifest::with_ports(text, &self.ports);
            rewritten
                .map(|text| (*file, text))
                .map_err(|reason| ShopError::Manifest { file, reason })
        })
    }

    /// Writes [`Shop::manifests`] into a folder, which is made if need be. Other files in it stay.
    ///
    /// # Errors
    /// [`ShopError::Write`] naming the first file that could not be written.
    pub fn write_manifests(&self, dir: &Path) -> Result<(), ShopError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| ShopError::Write { path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed(dir))?;
        for manifest in self.manifests() {
            let (file, text) = manifest?;
            let path = dir.join(file);
            std::fs::write(&path, text).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Cuts off an endpoint, all its ports and connections, as if its machine had died. Returns
    /// how many backends that were.
    pub fn stop(&mut self, endpoint: &str) -> usize {
        let stopped = self.backends.iter().filter(|backend| backend.endpoint == endpoint);
        stopped
            .filter_map(|backend| self.handles.remove(&backend.address))
            .map(|handle| handle.abort())
            .count()
    }

    /// Runs until every backend has ended: after draining has begun and the connections are
    /// through, or at once on abort.
    ///
    /// # Errors
    /// The first backend that failed or panicked; the others are cut off then.
    pub async fn run(mut self) -> Result<(), ShopError> {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((address, Err(source))) => return Err(ShopError::Ended { address, source }),
                // Stopped by `stop`.
                Err(error) if error.is_cancelled() => {}
                Err(error) => return Err(ShopError::Panic(error)),
            }
        }
        Ok(())
    }
}
