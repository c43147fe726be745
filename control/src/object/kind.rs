//! Which kinds of objects are used, and what names one object among all.

use portolan_model::{Scope, ServiceKey};
use serde::{Serialize, Serializer};

use crate::gateway::api;

/// Identity of an object within the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Which kind.
    pub kind: Kind,
    /// Its namespace; `default` when the object names none, as kubectl does; empty for a kind
    /// that belongs to the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectId {
    /// The object that a service is made from.
    #[must_use]
    pub fn of_service(key: &ServiceKey) -> Self {
        let kind = match key.scope() {
            Scope::Cluster => Kind::Service,
            Scope::ClusterSet => Kind::ServiceImport,
        };
        Self { kind, namespace: key.namespace().to_string(), name: key.name().to_string() }
    }
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind.as_str(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
        }
    }
}

/// The kinds Portolan uses. The order is the order of application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `multicluster.x-k8s.io/v1alpha1` ServiceImport.
    ServiceImport,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `gateway.networking.k8s.io/v1` GatewayClass.
    GatewayClass,
    /// `gateway.networking.k8s.io/v1` Gateway.
    Gateway,
    /// `gateway.networking.k8s.io/v1` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1alpha2` TCPRoute.
    TcpRoute,
    /// `gateway.networking.k8s.io/v1` TLSRoute.
    TlsRoute,
    /// `gateway.networking.k8s.io/v1beta1` ReferenceGrant.
    ReferenceGrant,
    /// `gateway.networking.k8s.io/v1` BackendTLSPolicy.
    BackendTlsPolicy,
    /// `portolan.dev/v1alpha1` AccessPolicy.
    AccessPolicy,
    /// `v1` Secret of type `kubernetes.io/tls`.
    Secret,
    /// `v1` ConfigMap with certificate authorities.
    ConfigMap,
}

/// By the word in `kind:`.
impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Kind {
    /// All of them, in the order of application.
    pub const ALL: [Self; 17] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::ServiceImport,
        Self::EndpointSlice,
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::AccessPolicy,
        Self::Secret,
        Self::ConfigMap,
    ];

    /// The word in `kind:`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::ServiceImport => "ServiceImport",
            Self::EndpointSlice => "EndpointSlice",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::AccessPolicy => "AccessPolicy",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// The word in an API path.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::ServiceImport => "serviceimports",
            Self::EndpointSlice => "endpointslices",
            Self::GatewayClass => "gatewayclasses",
            Self::Gateway => "gateways",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TcpRoute => "tcproutes",
            Self::TlsRoute => "tlsroutes",
            Self::ReferenceGrant => "referencegrants",
            Self::BackendTlsPolicy => "backendtlspolicies",
            Self::AccessPolicy => "accesspolicies",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
        }
    }

    /// API group (empty for the core group) and version.
    #[must_use]
    pub fn group_version(self) -> (&'static str, &'static str) {
        match self {
            Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::Service
            | Self::Secret
            | Self::ConfigMap => ("", "v1"),
            Self::ServiceImport => ("multicluster.x-k8s.io", "v1alpha1"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1"),
            Self::GatewayClass
            | Self::Gateway
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TlsRoute
            | Self::BackendTlsPolicy => (api::GROUP, "v1"),
            Self::AccessPolicy => (api::OWN_GROUP, "v1alpha1"),
            Self::TcpRoute => (api::GROUP, "v1alpha2"),
            Self::ReferenceGrant => (api::GROUP, "v1beta1"),
        }
    }

    /// Other versions that mean the same, in manifests.
    pub(super) fn other_versions(self) -> &'static [&'static str] {
        match self {
            Self::GatewayClass | Self::Gateway | Self::HttpRoute => &["v1beta1"],
            Self::TcpRoute | Self::ReferenceGrant => &["v1"],
            Self::BackendTlsPolicy => &["v1alpha3"],
            Self::TlsRoute => &["v1alpha2", "v1alpha3"],
            _ => &[],
        }
    }

    /// Whether it is defined by a CustomResourceDefinition, which a cluster may lack.
    #[must_use]
    pub fn is_custom(self) -> bool {
        matches!(self, Self::ServiceImport | Self::AccessPolicy) || self.is_gateway_api()
    }

    /// Whether it is of the Gateway API.
    #[must_use]
    pub fn is_gateway_api(self) -> bool {
        self.group_version().0 == api::GROUP
    }

    /// Whether it is of use to Gateways alone, which do without it where it may not be read.
    #[must_use]
    pub fn is_for_gateways(self) -> bool {
        self.is_gateway_api() || matches!(self, Self::Secret | Self::ConfigMap)
    }

    /// Whether its objects stand in namespaces.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }
}
