//! `HTTPRoute`, `GRPCRoute`, `TCPRoute` and `TLSRoute`.

use serde::Deserialize;
use serde_json::Value;

use super::object;

object!(
    /// Where requests of HTTP go.
    HttpRoute,
    HttpRouteSpec
);
object!(
    /// Where calls of gRPC go.
    GrpcRoute,
    GrpcRouteSpec
);
object!(
    /// Where connections go.
    TcpRoute,
    TcpRouteSpec
);
object!(
    /// Where connections within TLS go, by the name that is asked for.
    TlsRoute,
    TlsRouteSpec
);

/// `spec` of an [`HttpRoute`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// What it attaches to.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// The hosts it is for; empty: all of its listeners.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Its rules; nothing: one, for every request.
    pub rules: Option<Vec<HttpRouteRule>>,
    /// Passed over.
    pub use_default_gateways: Option<String>,
}

/// `spec` of a [`GrpcRoute`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// What it attaches to.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// The hosts it is for; empty: all of its listeners.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Its rules; nothing: one, for every call.
    pub rules: Option<Vec<GrpcRouteRule>>,
    /// Passed over.
    pub use_default_gateways: Option<String>,
}

/// `spec` of a [`TcpRoute`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteSpec {
    /// What it attaches to.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<TcpRouteRule>,
    /// Passed over.
    pub use_default_gateways: Option<String>,
}

/// `spec` of a [`TlsRoute`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsRouteSpec {
    /// What it attaches to.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// The names it is for.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<TcpRouteRule>,
    /// Passed over.
    pub use_default_gateways: Option<String>,
}

/// What a route attaches to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// Nothing: that of the Gateway API.
    pub group: Option<String>,
    /// Nothing: `Gateway`.
    pub kind: Option<String>,
    /// Nothing: the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// One listener of it.
    pub section_name: Option<String>,
    /// One port of it.
    pub port: Option<i32>,
}

/// A rule of an [`HttpRoute`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Its name.
    pub name: Option<String>,
    /// Which requests; any of these. Nothing: all.
    #[serde(default)]
    pub matches: Vec<HttpRouteMatch>,
    /// What is done with them.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// Limits in time.
    pub timeouts: Option<Timeouts>,
    /// When they are sent again.
    pub retry: Option<Retry>,
    /// Whether a client stays with its endpoint.
    pub session_persistence: Option<SessionPersistence>,
}

/// A rule of a [`GrpcRoute`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteRule {
    /// Its name.
    pub name: Option<String>,
    /// Which calls; any of these. Nothing: all.
    #[serde(default)]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done with them.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// Whether a client stays with its endpoint.
    pub session_persistence: Option<SessionPersistence>,
}

/// A rule of a [`TcpRoute`] or a [`TlsRoute`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteRule {
    /// Its name.
    pub name: Option<String>,
    /// Where connections go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
}

/// Requests of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// Their path; nothing: any.
    pub path: Option<PathMatch>,
    /// Their fields; all of these.
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
    /// Parameters of their query; all of these.
    #[serde(default)]
    pub query_params: Vec<HeaderMatch>,
    /// Their method.
    pub method: Option<String>,
}

/// Calls of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteMatch {
    /// The method that is called; nothing: any.
    pub method: Option<GrpcMethodMatch>,
    /// Fields; all of these.
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
}

/// A method of gRPC.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GrpcMethodMatch {
    /// `Exact`, which is the default, or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The service; nothing: any.
    pub service: Option<String>,
    /// The method; nothing: any.
    pub method: Option<String>,
}

/// A path.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PathMatch {
    /// `PathPrefix`, which is the default, `Exact`, or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Nothing: `/`.
    pub value: Option<String>,
}

/// A field, or a parameter of a query.
#[derive(Clone, Debug, Deserialize)]
pub struct HeaderMatch {
    /// `Exact`, which is the default, or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// What it must be.
    pub value: String,
}

/// What is done with a request: one of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `RequestHeaderModifier`.
    pub request_header_modifier: Option<HeaderModifier>,
    /// `ResponseHeaderModifier`.
    pub response_header_modifier: Option<HeaderModifier>,
    /// `RequestMirror`.
    pub request_mirror: Option<Mirror>,
    /// `RequestRedirect`.
    pub request_redirect: Option<Redirect>,
    /// `URLRewrite`.
    pub url_rewrite: Option<Rewrite>,
    /// `CORS`.
    pub cors: Option<Cors>,
    /// `ExternalAuth`.
    pub external_auth: Option<Value>,
    /// `ExtensionRef`.
    pub extension_ref: Option<Value>,
}

/// Which pages of other origins may read answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Origins, with a star for the labels in front of a name, or for all of it.
    #[serde(default)]
    pub allow_origins: Vec<String>,
    /// Nothing: no.
    pub allow_credentials: Option<bool>,
    /// Methods, or a star.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// Names of fields of requests, or a star.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// Names of fields of answers, or a star.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// In seconds; nothing: 5.
    pub max_age: Option<i32>,
}

/// How a client stays with its endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// Name of the cookie or the field; nothing: one is made.
    pub session_name: Option<String>,
    /// How long at most.
    pub absolute_timeout: Option<String>,
    /// How long without a request.
    pub idle_timeout: Option<String>,
    /// `Cookie`, which is the default, or `Header`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of a cookie.
    pub cookie_config: Option<CookieConfig>,
}

/// What is asked of a cookie.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CookieConfig {
    /// `Session`, which is the default, or `Permanent`.
    pub lifetime_type: Option<String>,
}

/// Changes of fields.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct HeaderModifier {
    /// In place of what is there.
    #[serde(default)]
    pub set: Vec<Header>,
    /// Beside what is there.
    #[serde(default)]
    pub add: Vec<Header>,
    /// Taken out.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A field.
#[derive(Clone, Debug, Deserialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A copy of requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Where it goes.
    pub backend_ref: BackendRef,
    /// Of how many in a hundred.
    pub percent: Option<i32>,
    /// Of how many.
    pub fraction: Option<Fraction>,
}

/// A part of all.
#[derive(Clone, Debug, Deserialize)]
pub struct Fraction {
    /// So many.
    pub numerator: i32,
    /// Of so many; nothing: of 100.
    pub denominator: Option<i32>,
}

/// Where a client is sent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
    /// The port.
    pub port: Option<i32>,
    /// Nothing: 302.
    pub status_code: Option<i32>,
}

/// What an endpoint is asked for in place of what the client did.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathModifier>,
}

/// A change of the path.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub kind: String,
    /// With `ReplaceFullPath`.
    pub replace_full_path: Option<String>,
    /// With `ReplacePrefixMatch`.
    pub replace_prefix_match: Option<String>,
}

/// Limits in time, as durations of GEP-2257.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Of the request as a whole.
    pub request: Option<String>,
    /// Of each try.
    pub backend_request: Option<String>,
}

/// When requests are sent again.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Retry {
    /// After which answers.
    #[serde(default)]
    pub codes: Vec<i32>,
    /// How often.
    pub attempts: Option<i32>,
    /// After how long.
    pub backoff: Option<String>,
}

/// Where requests go.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Nothing: the core group.
    pub group: Option<String>,
    /// Nothing: `Service`.
    pub kind: Option<String>,
    /// Nothing: the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: Option<i32>,
    /// Its part of the sum of all; nothing: 1.
    pub weight: Option<i32>,
    /// What is done with requests that go there.
    #[serde(default)]
    pub filters: Vec<Filter>,
}
