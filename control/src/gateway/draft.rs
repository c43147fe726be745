//! Objects of the Gateway API after the checks of one object by itself: nothing is looked up yet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::policy::Retries;
use portolan_model::traffic::{
    Conditions, Cors, Edits, Fault, NameKind, PathMatch, RateLimit, Redirect, Secret, Session,
};
use portolan_model::{AccessEntry, Scope, ServiceKey};

use super::selector::Selector;
use crate::object::Kind;

/// A kind, by its group and its name.
pub type GroupKind = (Arc<str>, Arc<str>);

/// What every object has. The order is that of precedence: the oldest first, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meta {
    /// `metadata.creationTimestamp`, in seconds since 1970; manifests, which have none, are of one
    /// age.
    pub created: i64,
    /// Its namespace; empty for a class.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.uid`: one of the same name that is made anew has another. Manifests have none.
    pub uid: Option<Arc<str>>,
    /// `metadata.generation`, which statuses name as the one they are about.
    pub generation: Option<i64>,
}

/// A GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassDraft {
    /// Name and generation.
    pub meta: Meta,
    /// `spec.controllerName`.
    pub controller: Arc<str>,
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayDraft {
    /// Name, age and generation.
    pub meta: Meta,
    /// Its class.
    pub class: Arc<str>,
    /// Addresses it asks for.
    pub addresses: Vec<IpAddr>,
    /// Addresses it asks for that it cannot have, in words.
    pub unusable: Vec<String>,
    /// Its listeners.
    pub listeners: Vec<ListenerDraft>,
    /// What is asked of clients where TLS ends, at ports that say nothing of their own.
    pub clients: Option<ClientsDraft>,
    /// The same of some ports.
    pub clients_of_ports: BTreeMap<u16, Option<ClientsDraft>>,
}

/// What is asked of clients where TLS ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientsDraft {
    /// Where the authorities are that their certificates must end in. Never empty.
    pub authorities: Vec<TargetRef>,
    /// What is asked for that is not done.
    pub unsupported: Option<String>,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerDraft {
    /// Its name.
    pub name: Arc<str>,
    /// The names it is for, in lower case; `None`: all.
    pub hostname: Option<Arc<str>>,
    /// Its port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Arc<str>,
    /// Where routes may come from.
    pub from: From,
    /// Which kinds of routes are asked for, by group and kind; empty: those that fit.
    pub kinds: Vec<GroupKind>,
    /// What it proves itself with, if it says.
    pub tls: Option<TlsDraft>,
}

impl ListenerDraft {
    /// Whether TLS ends here.
    pub(super) fn ends_tls(&self) -> bool {
        match &*self.protocol {
            "HTTPS" => true,
            "TLS" => !self.tls.as_ref().is_some_and(|tls| tls.passthrough),
            _ => false,
        }
    }
}

/// What a listener proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsDraft {
    /// TLS is not ended here.
    pub passthrough: bool,
    /// Where the certificates are.
    pub certificates: Vec<TargetRef>,
    /// What it asks for that is not done.
    pub unsupported: Option<String>,
}

/// The namespaces that may attach routes to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// None.
    None,
    /// The Gateway's own.
    Same,
    /// All.
    All,
    /// Those with such labels.
    Selector(Selector),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteDraft {
    /// Of which kind.
    pub kind: Kind,
    /// Name, age and generation.
    pub meta: Meta,
    /// The hosts it is for, in lower case; empty: all.
    pub hostnames: Vec<Arc<str>>,
    /// What it attaches to.
    pub parents: Vec<ParentRef>,
    /// Its rules.
    pub rules: Vec<RuleDraft>,
    /// When a backend loses its weight, if ever.
    pub rollback: Option<RollbackDraft>,
    /// What is put in on purpose.
    pub fault: Option<Arc<Fault>>,
    /// How often it may be taken.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// Whether a try that has had its time goes on beside the next one; `None`: as the service says.
    pub hedge: Option<bool>,
}

/// When a backend loses its weight: once it falls behind the one that has the most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackDraft {
    /// By so many more requests in a hundred that do not end well.
    pub success_margin: u32,
    /// Or by answers that take so much longer in the mean, in percent.
    pub latency_margin: Option<u32>,
    /// Judged by so many requests to each of the two at least,
    pub min_requests: u32,
    /// of the last so long.
    pub window: Duration,
    /// Any text: with another one what was rolled back is tried anew.
    pub attempt: Option<Arc<str>>,
}

/// What a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// Group; empty: the core group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace, the route's own where it says none.
    pub namespace: Arc<str>,
    /// Whether the route says the namespace.
    pub says_namespace: bool,
    /// Name.
    pub name: Arc<str>,
    /// One listener of it.
    pub section: Option<Arc<str>>,
    /// One port of it.
    pub port: Option<u16>,
}

/// Which services a kind of objects stands for; `None` if for none.
#[must_use]
pub fn services_of(group: &str, kind: &str) -> Option<Scope> {
    match (group, kind) {
        ("", "Service") => Some(Scope::Cluster),
        (group, "ServiceImport") if group == Kind::ServiceImport.group_version().0 => {
            Some(Scope::ClusterSet)
        }
        _ => None,
    }
}

impl ParentRef {
    /// Whether it is a service, of whatever name.
    #[must_use]
    pub fn is_service(&self) -> bool {
        services_of(&self.group, &self.kind).is_some()
    }

    /// The service; `None` if it is none, or its name is that of none.
    #[must_use]
    pub fn service(&self) -> Option<ServiceKey> {
        let scope = services_of(&self.group, &self.kind)?;
        Some(ServiceKey::new(&self.namespace, &self.name).ok()?.within(scope))
    }
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDraft {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Which requests; never empty.
    pub matches: Vec<MatchDraft>,
    /// Where a client is sent, if it is; nothing goes to endpoints then.
    pub redirect: Option<Redirect>,
    /// What is changed of its requests and their responses.
    pub edits: Edits,
    /// Which pages of other origins may read its answers.
    pub cors: Option<Arc<Cors>>,
    /// How its clients stay with an endpoint.
    pub session: Option<Arc<Session>>,
    /// Where copies of its requests go.
    pub mirrors: Vec<MirrorDraft>,
    /// Where its requests go.
    pub backends: Vec<BackendDraft>,
    /// Limit on a request; `Some(0)`: there is none.
    pub timeout: Option<Duration>,
    /// Limit on each try; `Some(0)`: there is none.
    pub try_timeout: Option<Duration>,
    /// When requests are sent again; `Some(None)`: never, and `None`: it says nothing of it.
    pub retries: Option<Option<Retries>>,
    /// What it asks for that is not done: the rule is not in force then.
    pub unsupported: Option<String>,
}

/// Some requests of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchDraft {
    /// How the path must look.
    pub path: PathMatch,
    /// What else the request must be.
    pub conditions: Conditions,
    /// How it stands to others.
    pub rank: Rank,
}

/// How a match stands to others: the greater is tried first (Gateway API, `HTTPRouteRule.matches`
/// and `GRPCRouteRule.matches`). The specification leaves expressions open; they stand behind exact
/// paths and before prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// An exact path, then an expression, then a prefix.
    pub tier: u8,
    /// Characters of the path; for gRPC of the service.
    pub characters: usize,
    /// Whether the method is asked for; for gRPC characters of the method.
    pub method: usize,
    /// Fields that are asked for.
    pub headers: usize,
    /// Parameters that are asked for.
    pub query: usize,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendDraft {
    /// What it is.
    pub target: TargetRef,
    /// Its part of the sum of all.
    pub weight: u32,
    /// What is changed of requests that go there.
    pub edits: Edits,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorDraft {
    /// What it is.
    pub target: TargetRef,
    /// Of how many, in millionths.
    pub millionths: u32,
}

/// Something that a route points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// Group; empty: the core group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace, the route's own where it says none.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Port.
    pub port: Option<u16>,
}

/// A ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantDraft {
    /// Name and namespace.
    pub meta: Meta,
    /// Who may refer: group, kind and namespace.
    pub from: Vec<[Arc<str>; 3]>,
    /// To what: its kind and, if it is one alone, its name.
    pub to: Vec<(GroupKind, Option<Arc<str>>)>,
}

/// A Secret with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretDraft {
    /// Name and namespace.
    pub meta: Meta,
    /// What is in it; why it cannot be used, if it cannot.
    pub content: Result<Arc<Secret>, String>,
}

/// A BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTlsDraft {
    /// Name, age and generation.
    pub meta: Meta,
    /// What it is for, in its namespace.
    pub targets: Vec<PolicyTargetDraft>,
    /// In whom certificates of endpoints must end.
    pub trusted: TrustDraft,
    /// The name that endpoints are asked for.
    pub server_name: Arc<str>,
    /// What certificates of endpoints must be for: one of these.
    pub names: Vec<(NameKind, Arc<str>)>,
}

/// An AccessPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessDraft {
    /// Name, age and generation.
    pub meta: Meta,
    /// What it is for, in its namespace.
    pub targets: Vec<PolicyTargetDraft>,
    /// What it lists is denied, not allowed.
    pub denies: bool,
    /// It is only counted what it would do.
    pub log_only: bool,
    /// What it lists.
    pub entries: Vec<AccessEntry>,
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTargetDraft {
    /// Group; empty: the core group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// A port of it, by name.
    pub section: Option<Arc<str>>,
}

/// In whom certificates must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustDraft {
    /// The authorities of the system.
    System,
    /// Those of any of these objects.
    Named(Vec<TargetRef>),
}

/// A ConfigMap with authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthoritiesDraft {
    /// Name and namespace.
    pub meta: Meta,
    /// The authorities, PEM; why they cannot be used, if they cannot.
    pub content: Result<Arc<str>, String>,
}

/// Any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayApiDraft {
    /// A GatewayClass.
    Class(ClassDraft),
    /// A Gateway.
    Gateway(GatewayDraft),
    /// A route of any kind.
    Route(RouteDraft),
    /// A ReferenceGrant.
    Grant(GrantDraft),
    /// A certificate and its key.
    Secret(SecretDraft),
    /// TLS to endpoints.
    BackendTls(BackendTlsDraft),
    /// Authorities.
    Authorities(AuthoritiesDraft),
    /// Who may do what.
    Access(AccessDraft),
}

impl RouteDraft {
    /// Whether it routes requests, by host and path.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self.kind, Kind::HttpRoute | Kind::GrpcRoute)
    }
}
