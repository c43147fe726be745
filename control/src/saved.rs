//! A copy of the last snapshot on disk, to start from while the API server is away.
//!
//! The file is a line of magic with the version, the length and a checksum of the body, and the
//! body. It is written beside its place and renamed into it, so that it is whole or not there. A
//! file that is damaged or of another version is said and left out: it is a cache, not a store.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::{
    BackendTls, Gateway, Node, Pod, ServiceAccess, ServiceEntry, ServiceRoutes, Snapshot,
};
use portolan_runtime::{Lifecycle, Subscriber};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// First bytes of a file; the number goes up whenever the body's form changes.
const MAGIC: &[u8] = b"portolan snapshot 9\n";
/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Shortest time between two writes.
const INTERVAL: Duration = Duration::from_secs(10);

/// Where the copy is kept.
#[derive(Clone, Debug)]
pub struct SavedFile {
    path: PathBuf,
}

/// Why a copy cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read or written.
    #[error("cannot {verb} the saved snapshot {path}: {source}", path = path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not what was written.
    #[error("the saved snapshot {path} is not used: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Serialize)]
struct BodyRef<'a> {
    services: Vec<&'a Arc<ServiceEntry>>,
    namespaces: Vec<&'a Arc<str>>,
    nodes: Vec<&'a Arc<Node>>,
    pods: Vec<&'a Arc<Pod>>,
    gateways: Vec<&'a Arc<Gateway>>,
    routes: Vec<&'a Arc<ServiceRoutes>>,
    backend_tls: Vec<&'a Arc<BackendTls>>,
    access: Vec<&'a Arc<ServiceAccess>>,
}

#[derive(Deserialize)]
struct Body {
    services: Vec<ServiceEntry>,
    namespaces: Vec<Arc<str>>,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    gateways: Vec<Gateway>,
    routes: Vec<ServiceRoutes>,
    backend_tls: Vec<BackendTls>,
    access: Vec<ServiceAccess>,
}

impl SavedFile {
    /// At this path; its folder has to exist once it is written.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads the copy; `None` when there is none.
    ///
    /// # Errors
    /// [`SavedError`] when it cannot be read or is damaged.
    pub fn load(&self) -> Result<Option<Snapshot>, SavedError> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| self.io("read", source))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|source| self.io("read", source))?;
        decode(&bytes)
            .map(Some)
            .map_err(|reason| SavedError::Damaged { path: self.path.clone(), reason })
    }

    /// Writes a copy in place of the last one, or leaves that as it is.
    ///
    /// # Errors
    /// [`SavedError::Io`] with what the system said.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), SavedError> {
        let write = || -> io::Result<()> {
            let bytes = encode(snapshot).map_err(io::Error::other)?;
            let mut draft = self.path.clone().into_os_string();
            draft.push(".draft");
            let mut file = File::create(&draft)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&draft, &self.path)?;
            // The rename itself is on disk once the folder is.
            let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|source| self.io("write", source))
    }

    /// Keeps the copy up to date until draining, and writes it once more then. A write that fails
    /// is logged, and tried again with the next change.
    pub async fn keep(self, mut snapshots: Subscriber, lifecycle: Lifecycle) {
        let mut written = None;
        loop {
            let next = tokio::select! {
                next = snapshots.next() => next,
                () = lifecycle.draining() => None,
            };
            let snapshot = next.as_ref().map_or_else(|| snapshots.newest(), |n| n.snapshot.clone());
            if snapshot.generation().0 > 0 && written != Some(snapshot.generation()) {
                written = Some(snapshot.generation());
                self.write_apart(snapshot).await;
            }
            if next.is_none() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = lifecycle.draining() => {}
            }
        }
    }

    async fn write_apart(&self, snapshot: Arc<Snapshot>) {
        let file = self.clone();
        let written = tokio::task::spawn_blocking(move || file.save(&snapshot)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the snapshot is not saved"),
            Err(error) => tracing::error!(%error, "the snapshot is not saved"),
        }
    }

    fn io(&self, verb: &'static str, source: io::Error) -> SavedError {
        SavedError::Io { verb, path: self.path.clone(), source }
    }
}

fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, postcard::Error> {
    let body = postcard::to_stdvec(&BodyRef {
        services: snapshot.services().map(|(_, entry)| entry).collect(),
        namespaces: snapshot.declared_namespaces().collect(),
        nodes: snapshot.nodes().collect(),
        pods: snapshot.pods().collect(),
        gateways: snapshot.gateways().collect(),
        routes: snapshot.all_routes().collect(),
        backend_tls: snapshot.all_backend_tls().collect(),
        access: snapshot.all_access().collect(),
    })?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + 16 + body.len());
    bytes.extend(MAGIC);
    bytes.extend(u64::try_from(body.len()).unwrap_or(u64::MAX).to_le_bytes());
    bytes.extend(xxh3_64(&body).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Snapshot, String> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("it does not begin as a file of this version of Portolan does")?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or("it is cut off")?;
    let (checksum, body) = rest.split_first_chunk::<8>().ok_or("it is cut off")?;
    if u64::try_from(body.len()).ok() != Some(u64::from_le_bytes(*length)) {
        return Err("it is cut off".to_owned());
    }
    if xxh3_64(body) != u64::from_le_bytes(*checksum) {
        return Err("its checksum is wrong".to_owned());
    }
    let body: Body = postcard::from_bytes(body).map_err(|e| e.to_string())?;
    let mut snapshot = Snapshot::default();
    for namespace in &body.namespaces {
        snapshot.declare_namespace(namespace, true);
    }
    for node in body.nodes {
        snapshot.apply_node(Arc::new(node));
    }
    for pod in body.pods {
        snapshot.apply_pod(Arc::new(pod));
    }
    for gateway in body.gateways {
        snapshot.set_gateway(&gateway.key.clone(), Some(Arc::new(gateway)));
    }
    for routes in body.routes {
        snapshot.set_routes(&routes.service.clone(), Some(Arc::new(routes)));
    }
    for tls in body.backend_tls {
        snapshot.set_backend_tls(&tls.service.clone(), Some(Arc::new(tls)));
    }
    for access in body.access {
        snapshot.set_access(&access.service.clone(), Some(Arc::new(access)));
    }
    for entry in body.services {
        snapshot.apply(Arc::new(entry));
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::{
        Endpoint, Protocol, Service, ServiceKey, ServiceKind, ServicePort, Slice,
    };

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let key = ServiceKey::parse("clusterset/shop/web").expect("valid");
        let mut service = Service::new(
            key,
            ServiceKind::ClusterIp(vec!["10.96.0.1".parse().expect("an address")]),
            vec![ServicePort::new("http", Protocol::Tcp, 80)],
        );
        service.policy.timeouts.request = Some(Duration::from_millis(1500));
        let mut endpoint = Endpoint::at("fd00::1".parse().expect("an address"));
        endpoint.pod = Some("web-0".into());
        let endpoints = vec![endpoint];
        let slice = Slice {
            name: "web-1".into(),
            cluster: Some("east".into()),
            ports: Vec::new(),
            endpoints,
        };
        let slices = vec![Arc::new(slice)];
        snapshot.apply(Arc::new(ServiceEntry { service: Arc::new(service), slices }));
        snapshot.declare_namespace(&"empty".into(), true);
        snapshot.apply_node(Arc::new(Node {
            name: "node-1".into(),
            zone: Some("a".into()),
            region: None,
            addresses: Vec::new(),
            pod_ranges: vec!["10.1.0.0/24".parse().expect("a range")],
        }));
        snapshot.apply_pod(Arc::new(Pod {
            namespace: "shop".into(),
            name: "web-0".into(),
            addresses: vec!["10.1.0.7".parse().expect("an address")],
            node: Some("node-1".into()),
        }));
        snapshot
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = SavedFile::at(folder.path().join("snapshot"));
        assert!(file.load().expect("no file is no error").is_none());
        for _ in 0..2 {
            file.save(&snapshot()).expect("written");
            let loaded = file.load().expect("readable").expect("there");
            assert!(loaded.differences(&snapshot()).is_empty());
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1);
    }

    #[test]
    fn a_damaged_file_is_named_and_never_half_used() {
        let whole = encode(&snapshot()).expect("encoded");
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "cut at {length}");
        }
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 0x40;
            assert!(decode(&bytes).is_err(), "changed at {position}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("snapshot");
        std::fs::write(&path, b"portolan snapshot 0\n").expect("written");
        let error = SavedFile::at(path).load().expect_err("another version").to_string();
        assert!(error.ends_with("it does not begin as a file of this version of Portolan does"));
    }

    #[test]
    fn a_write_that_fails_leaves_the_last_copy() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("snapshot");
        let file = SavedFile::at(path.clone());
        file.save(&snapshot()).expect("written");
        // A folder stands where the draft would go.
        std::fs::create_dir(path.with_extension("draft")).expect("made");
        let error = file.save(&Snapshot::default()).expect_err("refused").to_string();
        assert!(error.starts_with("cannot write the saved snapshot "), "{error}");
        let loaded = file.load().expect("readable").expect("there");
        assert_eq!(loaded.service_count(), 1);
    }
}
