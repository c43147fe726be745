//! What the fuzzer calls, and the replay of its corpus: bytes as what a client does on a stream,
//! between changes of a small catalog.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use portolan_model::{
    Balancer, Changes, DnsName, Endpoint, Generation, Key, Protocol, Service, ServiceEntry,
    ServiceKey, ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use prost::Message;

use crate::capability::{Agent, Capabilities};
use crate::catalog::{Catalog, Changed, Name};
use crate::config::{ListenerOptions, ListenerSpec, ListenerTarget, ResourceConfig};
use crate::resource::ResourceType;
use crate::server::session::{InterestChange, Outcome, Request, Response, Session, Variant};
use crate::server::wire::{Frames, Open};
use crate::viewer::Viewer;

/// Names a stream may be subscribed to.
const MAX_NAMES: usize = 50;
/// Responses of one type, for each time that the client does something, at most: one.
const MAX_RESPONSES: usize = ResourceType::ALL.len();

/// A stream and what was seen of it.
struct Stream {
    variant: Variant,
    session: Session,
    /// Nonce of the newest response, by type.
    nonces: [String; ResourceType::ALL.len()],
    /// What it is to be woken for; `None` stands for all of a type.
    interest: BTreeSet<(ResourceType, Option<Name>)>,
    /// Which catalog is in force.
    newest: usize,
}

/// Reads the bytes as what happens on a stream. The first octet says which kind of stream it is.
/// Then each step is an octet that says what happens, and for requests two more with the length
/// and that many octets of a message:
///
/// | octet modulo 8 | what happens |
/// |---:|---|
/// | 0, 1, 2 | a request |
/// | 3, 4 | the same, with the nonce of the newest response of its type |
/// | 5 | the catalog changes |
/// | 6 | the time for new clusters to be asked about is over |
/// | 7 | the client is told that what it holds lives on |
///
/// # Panics
/// When a rule is broken that holds for every client: that is the finding.
pub fn requests(bytes: &[u8]) {
    let Some((kind, mut rest)) = bytes.split_first() else { return };
    let mut stream = Stream::open(*kind);
    while let Some((step, after)) = rest.split_first() {
        rest = after;
        let goes_on = match step % 8 {
            what @ 0..=4 => {
                let (head, after) = rest.split_at(rest.len().min(2));
                let length = head.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
                let (message, after) = after.split_at(after.len().min(length));
                rest = after;
                stream.on_message(message, what > 2)
            }
            5 => stream.on_publish(),
            6 => {
                stream.session.release();
                true
            }
            _ => {
                stream.session.keep_alive();
                true
            }
        };
        if !goes_on {
            break;
        }
        stream.take_responses();
    }
    stream.end();
}

impl Stream {
    fn open(kind: u8) -> Self {
        let variant = if kind & 1 == 0 { Variant::Sotw } else { Variant::Delta };
        let only = (kind & 2 != 0).then_some(ResourceType::Endpoints);
        let mut session = Session::new(variant, only, MAX_NAMES);
        let namespaces = (kind & 4 != 0).then(|| Arc::new(BTreeSet::from(["shop".into()])));
        let [secrets, ttl, is_envoy, is_grpc] = [8, 16, 32, 64].map(|bit| kind & bit != 0);
        let name = match (is_envoy, is_grpc) {
            (true, _) => "envoy",
            (_, true) => "gRPC C-core",
            _ => "",
        };
        let agent = Agent { name, version: Some((1, 60)), ..Agent::default() };
        let capabilities = Capabilities::of(&agent);
        session.on_viewer(Viewer { namespaces, secrets, ttl, capabilities, ..Viewer::default() });
        let nonces = Default::default();
        Self { variant, session, nonces, interest: BTreeSet::new(), newest: 0 }
    }

    /// Whether the stream goes on after a message.
    fn on_message(&mut self, message: &[u8], answers: bool) -> bool {
        let opened = match self.variant {
            Variant::Sotw => DiscoveryRequest::decode(message).map(|request| request.open().0),
            Variant::Delta => DeltaDiscoveryRequest::decode(message).map(|r| r.open().0),
        };
        // Bytes that are no request end a stream as a violation does.
        let Ok(mut request) = opened else { return false };
        if let Some(kind) = ResourceType::from_type_url(&request.type_url).filter(|_| answers) {
            request.nonce.clone_from(&self.nonces[kind.index()]);
        }
        self.on_request(request)
    }

    fn on_request(&mut self, request: Request) -> bool {
        let named = ResourceType::from_type_url(&request.type_url);
        let Ok(outcome) = self.session.on_request(request, 1) else { return false };
        if outcome == Outcome::UnknownType {
            assert_eq!(named, None, "a type that is served is known");
        }
        self.note_interest();
        assert!(self.interest.len() <= MAX_NAMES + ResourceType::ALL.len(), "too many names");
        true
    }

    fn on_publish(&mut self) -> bool {
        self.newest = 1 - self.newest;
        self.session.on_changes(&Changes::Keys(catalogs().1.clone()));
        true
    }

    /// Takes every response that is due, unanswered, and reads it as a client does.
    fn take_responses(&mut self) {
        let catalog = &catalogs().0[self.newest];
        let mut count = 0;
        while let Some(response) = self.session.next_response(catalog, 1) {
            count += 1;
            assert!(count <= MAX_RESPONSES, "a second response of a type that was not answered");
            self.nonces[response.kind.index()].clone_from(&response.nonce);
            check(response);
        }
        self.note_interest();
    }

    fn note_interest(&mut self) {
        for change in self.session.take_interest() {
            self.note(change);
        }
    }

    fn note(&mut self, change: InterestChange) {
        match change {
            InterestChange::Add(kind, name) => drop(self.interest.insert((kind, Some(name)))),
            InterestChange::AddAll(kind) => drop(self.interest.insert((kind, None))),
            InterestChange::Remove(kind, name) => drop(self.interest.remove(&(kind, Some(name)))),
            InterestChange::RemoveAll(kind) => drop(self.interest.remove(&(kind, None))),
        }
    }

    fn end(mut self) {
        for change in self.session.end() {
            self.note(change);
        }
        assert!(self.interest.is_empty(), "left behind: {:?}", self.interest);
    }
}

/// A response is one message, as long as it says, that a client can read.
fn check(response: Response) {
    let (variant, kind, nonce) = (response.variant, response.kind, response.nonce.clone());
    let removed = response.removed.len();
    let mut frames = Frames::of(response);
    let mut bytes = Vec::new();
    while let Some(frame) = frames.next_frame() {
        assert!(!frame.is_empty(), "an empty frame");
        bytes.extend_from_slice(&frame);
    }
    let (head, message) = bytes.split_at(5);
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    assert_eq!((head[0], &head[1..]), (0, &length[..]), "not as long as it says");
    let read = match variant {
        Variant::Sotw => {
            let read = DiscoveryResponse::decode(message).expect("a response");
            assert_eq!(removed, 0, "a removal in state of the world");
            (read.type_url, read.nonce)
        }
        Variant::Delta => {
            let read = DeltaDiscoveryResponse::decode(message).expect("a response");
            assert_eq!(read.removed_resources.len(), removed);
            (read.type_url, read.nonce)
        }
    };
    assert_eq!(read, (kind.type_url().to_owned(), nonce));
}

/// Two catalogs, and what differs between them.
fn catalogs() -> &'static ([Catalog; 2], Changed) {
    static CATALOGS: OnceLock<([Catalog; 2], Changed)> = OnceLock::new();
    CATALOGS.get_or_init(|| {
        let config = config();
        let mut snapshot = Snapshot::default();
        for name in ["web", "db", "api"] {
            snapshot.apply(entry("shop", name, 1));
        }
        snapshot.apply(entry("other", "web", 1));
        let first = Arc::new(snapshot.at(Generation(1)));
        let (one, _) = Catalog::default().next(&first, &Changes::Everything, &config);
        let keys = ["web", "db", "new"].map(|name| key("shop", name));
        snapshot.apply(entry("shop", "web", 2));
        snapshot.delete(&keys[1]);
        snapshot.apply(entry("shop", "new", 1));
        let second = Arc::new(snapshot.at(Generation(2)));
        let keys = Changes::Keys(keys.into_iter().map(Key::Service).collect());
        let (two, changed) = one.next(&second, &keys, &config);
        ([one, two], changed)
    })
}

fn config() -> ResourceConfig {
    let zone = |name| DnsName::parse(name).expect("a constant");
    ResourceConfig {
        zone: zone("cluster.local"),
        cluster_set_zone: zone("clusterset.local"),
        balancer: Balancer::LeastRequest,
        endpoints_ttl_secs: 60,
        listeners: vec![ListenerSpec {
            name: "http".into(),
            address: ([127, 0, 0, 1], 8080).into(),
            target: ListenerTarget::Http,
            tls: None,
            options: ListenerOptions::default(),
        }],
        gateway_address: std::net::Ipv4Addr::LOCALHOST.into(),
        load_reports: false,
        trust_domain: "cluster.local".to_owned(),
    }
}

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey::new(namespace, name).expect("a constant")
}

fn entry(namespace: &str, name: &str, octet: u8) -> Arc<ServiceEntry> {
    let kind = ServiceKind::ClusterIp(vec![[10, 96, 0, 1].into()]);
    let port = ServicePort::new("main", Protocol::Tcp, 80);
    let service = Service::new(key(namespace, name), kind, vec![port]);
    let slice = Slice {
        name: "slice".into(),
        cluster: None,
        ports: vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![Endpoint::at([10, 0, 0, octet].into())],
    };
    Arc::new(ServiceEntry { service: service.into(), slices: vec![slice.into()] })
}
