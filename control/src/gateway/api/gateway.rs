//! `GatewayClass` and `Gateway`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::object;

object!(
    /// Who runs the Gateways of a class.
    GatewayClass,
    GatewayClassSpec
);
object!(
    /// Ports to listen on, and who may attach routes to them.
    Gateway,
    GatewaySpec
);

/// `spec` of a [`GatewayClass`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// Whose class it is.
    pub controller_name: String,
    /// Passed over: there is nothing to set.
    pub parameters_ref: Option<Value>,
    /// Passed over.
    pub description: Option<String>,
}

/// `spec` of a [`Gateway`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Name of its class.
    pub gateway_class_name: String,
    /// Its listeners.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Addresses to listen on.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// Passed over: nothing is deployed on a Gateway's behalf.
    pub infrastructure: Option<Value>,
    /// Passed over: listeners come from the Gateway alone.
    pub allowed_listeners: Option<Value>,
    /// What is asked of clients.
    pub tls: Option<GatewayTls>,
    /// Passed over.
    pub default_scope: Option<String>,
}

/// `tls` of a [`Gateway`].
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GatewayTls {
    /// What is asked of clients, where TLS ends.
    pub frontend: Option<Frontend>,
    /// What is shown to endpoints: passed over.
    pub backend: Option<Value>,
}

/// `tls.frontend` of a [`Gateway`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// At all ports that say nothing of their own.
    #[serde(default)]
    pub default: FrontendTls,
    /// At some.
    #[serde(default)]
    pub per_port: Vec<FrontendPort>,
}

/// What is asked of the clients of a port.
#[derive(Clone, Debug, Deserialize)]
pub struct FrontendPort {
    /// The port.
    pub port: i32,
    /// What.
    #[serde(default)]
    pub tls: FrontendTls,
}

/// What is asked of clients.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct FrontendTls {
    /// Nothing: no certificate.
    pub validation: Option<FrontendValidation>,
}

/// How clients' certificates are looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendValidation {
    /// Where the authorities are that they must end in.
    #[serde(default)]
    pub ca_certificate_refs: Vec<super::BackendRef>,
    /// `AllowValidOnly`, which is the default, or `AllowInsecureFallback`.
    pub mode: Option<String>,
}

/// An address of a Gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayAddress {
    /// `IPAddress`, which is the default, `Hostname`, or another.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The address.
    #[serde(default)]
    pub value: String,
}

/// A listener of a [`Gateway`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name, once within the Gateway.
    pub name: String,
    /// The names it is for; nothing, or empty: all.
    pub hostname: Option<String>,
    /// Its port.
    pub port: i32,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, or another.
    pub protocol: String,
    /// What it proves itself with.
    pub tls: Option<ListenerTls>,
    /// Who may attach routes.
    pub allowed_routes: Option<AllowedRoutes>,
}

/// `tls` of a [`Listener`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// `Terminate`, which is the default, or `Passthrough`.
    pub mode: Option<String>,
    /// Where the certificates are.
    #[serde(default)]
    pub certificate_refs: Vec<super::BackendRef>,
    /// What is asked of clients.
    pub frontend_validation: Option<Value>,
    /// Settings of an implementation's own.
    pub options: Option<Value>,
}

/// `allowedRoutes` of a [`Listener`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: Option<RouteNamespaces>,
    /// Of which kinds; empty: of those that fit the protocol.
    #[serde(default)]
    pub kinds: Vec<RouteGroupKind>,
}

/// The namespaces that routes may come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteNamespaces {
    /// `Same`, which is the default, `All`, `Selector`, or `None`.
    pub from: Option<String>,
    /// Labels of the namespaces, with `Selector`.
    pub selector: Option<LabelSelector>,
}

/// A kind of route.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteGroupKind {
    /// Its group; nothing: that of the Gateway API.
    pub group: Option<String>,
    /// Its kind.
    pub kind: String,
}
