//! The objects of `gateway.networking.k8s.io` as far as they are used, and one of our own; the crate that has them
//! goes with another version of kube than ours. Fields that do nothing here are kept as values, so
//! that a manifest that has them is not refused for an unknown key.

mod access;
mod backend_tls;
mod config_map;
mod gateway;
mod grant;
mod route;
mod secret;

pub use access::{AccessPolicy, AccessRule};
pub use backend_tls::{
    BackendTlsPolicy, BackendTlsValidation, LocalRef, PolicyTarget, SubjectAltName,
};
pub use config_map::ConfigMap;
pub use gateway::{
    Frontend, FrontendTls, Gateway, GatewayClass, Listener, ListenerTls, RouteNamespaces,
};
pub use grant::ReferenceGrant;
pub use route::{
    BackendRef, Cors, Filter, Fraction, GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule,
    Header, HeaderMatch, HeaderModifier, HttpRoute, HttpRouteMatch, HttpRouteRule, Mirror,
    ParentReference, PathMatch, PathModifier, Redirect, Retry, Rewrite, SessionPersistence,
    TcpRoute, TcpRouteRule, Timeouts, TlsRoute,
};

pub use secret::Secret;

/// The API group of our own objects.
pub const OWN_GROUP: &str = "portolan.dev";
/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// Makes an object: what every one has, and a `spec` of its own.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $spec:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Passed over: what kind it is, is known before.
            pub api_version: Option<String>,
            /// Passed over.
            pub kind: Option<String>,
            /// Passed over: it is written, not read.
            pub status: Option<serde_json::Value>,
            /// Name, namespace, age and generation.
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What is asked for.
            pub spec: $spec,
        }
    };
}
use object;
