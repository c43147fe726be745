//! Who a resource is looked up for: where the client is, what it can take, what it may see.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_model::{GatewayKey, Place, ServiceKey};

use crate::capability::{Agent, Capabilities, Dialect, Feature};
use crate::catalog::owner;
use crate::issuer::{self, Held};
use crate::resource::{ResourceType, gateway, generation, route};

/// What a response takes besides one resource, in bytes.
const BESIDES: usize = 16 * 1024;

/// A client as far as it shapes what it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    /// Where it says it is.
    pub place: Place,
    /// The namespace that its requests come from, if it is of one.
    pub namespace: Option<Arc<str>>,
    /// The namespaces it may see; `None`: all of them, and what belongs to none.
    pub namespaces: Option<Arc<BTreeSet<Arc<str>>>>,
    /// The Gateways that it serves.
    pub gateways: Gateways,
    /// The services in front of whose endpoints it stands.
    pub serves: Arc<BTreeSet<ServiceKey>>,
    /// Whether it says more of that than could be read.
    pub serves_more: bool,
    /// Whether it may be sent private keys: over TLS, or on this machine.
    pub secrets: bool,
    /// The certificate that it proves itself with, if it has one of the built-in issuer.
    pub own: Own,
    /// Whether it says that it has one from elsewhere.
    pub has_other: bool,
    /// Whether it says that it knows resources with a time to live.
    pub ttl: bool,
    /// What its kind can take.
    pub capabilities: &'static Capabilities,
}

/// A client's certificate.
#[derive(Clone, Debug, Default)]
pub struct Own(pub(crate) Option<Arc<Held>>);

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Own {}

/// The Gateways that a client says it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Gateways {
    /// All of those it may see.
    All,
    /// These; by default none.
    Some(Arc<BTreeSet<GatewayKey>>),
    #[default]
    /// None.
    None,
}

/// Most services that a client may say it stands in front of.
const MAX_SERVES: usize = 256;

/// Reads the services in front of whose endpoints a client says it stands, and whether there was more
/// than could be read.
#[must_use]
pub fn parse_serves(said: &str) -> (Arc<BTreeSet<ServiceKey>>, bool) {
    let mut serves = BTreeSet::new();
    let mut more = false;
    for (i, name) in said.split(',').map(str::trim).filter(|name| !name.is_empty()).enumerate() {
        match ServiceKey::parse(name) {
            Ok(key) if i < MAX_SERVES => _ = serves.insert(key),
            _ => more = true,
        }
    }
    (Arc::new(serves), more)
}

/// Most Gateways that a client may name.
const MAX_GATEWAYS: usize = 256;

impl Gateways {
    /// Reads what a client says: `*`, or names such as `shop/web`, between commas. What is none is
    /// passed over.
    #[must_use]
    pub fn parse(said: &str) -> Self {
        let mut names = BTreeSet::new();
        for name in
            said.split(',').map(str::trim).filter(|name| !name.is_empty()).take(MAX_GATEWAYS)
        {
            if name == "*" {
                return Self::All;
            }
            names.extend(GatewayKey::parse(name));
        }
        if names.is_empty() { Self::None } else { Self::Some(Arc::new(names)) }
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn has(&self, key: &GatewayKey) -> bool {
        match self {
            Self::All => true,
            Self::Some(keys) => keys.contains(key),
            Self::None => false,
        }
    }
}

impl Default for Viewer {
    fn default() -> Self {
        Self {
            place: Place::default(),
            namespace: None,
            namespaces: None,
            gateways: Gateways::None,
            serves: Arc::default(),
            serves_more: false,
            secrets: false,
            own: Own::default(),
            has_other: false,
            ttl: false,
            capabilities: Capabilities::of(&Agent::default()),
        }
    }
}

impl Viewer {
    /// Whether it may see only some namespaces.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.namespaces.is_some()
    }

    /// Whether it can prove who it is to other proxies.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        self.own.0.is_some() || self.has_other
    }

    /// Whether it may see a resource. Resources of no service are for clients that may see all;
    /// what holds nothing of any service is for everybody.
    #[must_use]
    pub fn may_see(&self, kind: ResourceType, name: &str) -> bool {
        if kind == ResourceType::Secret && !self.secrets {
            return false;
        }
        if issuer::is_own(kind, name) {
            return self.own.0.is_some();
        }
        let Some(namespaces) = &self.namespaces else { return true };
        if let Some(key) = gateway::key_of(name) {
            return namespaces.contains(&key.namespace);
        }
        match owner(name) {
            Some(owner) => namespaces.contains(owner.namespace),
            None => match kind {
                ResourceType::Listener => true,
                ResourceType::Route => name == route::HTTP_ROUTES,
                ResourceType::Generation => name == generation::NAME,
                _ => false,
            },
        }
    }

    /// Whether it can take or act on something.
    #[must_use]
    pub fn takes(&self, feature: Feature) -> bool {
        self.capabilities.takes(feature)
    }

    /// In whose words it is spoken to.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.capabilities.dialect()
    }

    /// State of the world: whether it knows resources with a time to live.
    #[must_use]
    pub fn knows_ttl(&self) -> bool {
        self.ttl
    }

    /// Whether it reads why there is no resource of a name (gRFC A88).
    #[must_use]
    pub fn knows_errors(&self) -> bool {
        self.takes(Feature::ResourceErrors)
    }

    /// Largest resource it takes, in bytes.
    #[must_use]
    pub fn max_resource_bytes(&self) -> usize {
        self.capabilities.max_message_bytes.map_or(usize::MAX, |limit| limit - BESIDES)
    }
}
