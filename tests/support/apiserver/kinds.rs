//! Owns the table of kinds that the server knows, and finds the one a path speaks of.

/// One kind of object. A new row in [`KINDS`] is all that a further kind needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Also its key everywhere here; no two rows share it.
    pub(crate) kind: &'static str,
    /// Empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) is_namespaced: bool,
    /// Defined by a CustomResourceDefinition. Items in lists of these name their kind and API
    /// version themselves; items in lists of built-in kinds do not.
    pub(crate) is_custom: bool,
}

const fn core(kind: &'static str, plural: &'static str, is_namespaced: bool) -> Kind {
    Kind { kind, group: "", version: "v1", plural, is_namespaced, is_custom: false }
}

const fn grouped(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { kind, group, version: "v1", plural, is_namespaced: true, is_custom: false }
}

const fn gateway_api(version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { version, is_custom: true, ..grouped("gateway.networking.k8s.io", kind, plural) }
}

pub(crate) const KINDS: &[Kind] = &[
    core("Namespace", "namespaces", false),
    core("Node", "nodes", false),
    core("Pod", "pods", true),
    core("Secret", "secrets", true),
    core("ConfigMap", "configmaps", true),
    core("Service", "services", true),
    grouped("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    grouped("events.k8s.io", "Event", "events"),
    grouped("coordination.k8s.io", "Lease", "leases"),
    Kind {
        is_namespaced: false,
        ..grouped("authentication.k8s.io", "TokenReview", "tokenreviews")
    },
    Kind {
        version: "v1alpha1",
        is_custom: true,
        ..grouped("multicluster.x-k8s.io", "ServiceImport", "serviceimports")
    },
    Kind { is_namespaced: false, ..gateway_api("v1", "GatewayClass", "gatewayclasses") },
    gateway_api("v1", "Gateway", "gateways"),
    gateway_api("v1", "HTTPRoute", "httproutes"),
    gateway_api("v1", "GRPCRoute", "grpcroutes"),
    gateway_api("v1alpha2", "TCPRoute", "tcproutes"),
    gateway_api("v1", "TLSRoute", "tlsroutes"),
    gateway_api("v1beta1", "ReferenceGrant", "referencegrants"),
    gateway_api("v1", "BackendTLSPolicy", "backendtlspolicies"),
    Kind {
        version: "v1alpha1",
        is_custom: true,
        ..grouped("portolan.dev", "AccessPolicy", "accesspolicies")
    },
];

impl Kind {
    /// The row of a kind that must be there.
    pub(super) fn named(kind: &str) -> &'static Self {
        KINDS.iter().find(|k| k.kind == kind).unwrap_or_else(|| panic!("no row for kind {kind:?}"))
    }

    /// `v1`, `discovery.k8s.io/v1`.
    pub(super) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `services`, `endpointslices.discovery.k8s.io`: how messages name the resource.
    pub(super) fn resource(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

/// What a path leads to: all objects of a kind, those of a namespace, or one.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    /// Its `status` alone.
    pub(super) is_status: bool,
}

impl Route {
    /// `None` for a path under which no server has objects of a kind in the table.
    pub(super) fn find(path: &str) -> Option<Self> {
        let words: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match words.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (rest, is_status) = match rest {
            [rest @ .., "status"] if rest.len() > 1 => (rest, true),
            rest => (rest, false),
        };
        let (namespace, plural, name) = match rest {
            [plural] => (None, *plural, None),
            [plural, name] => (None, *plural, Some(*name)),
            ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
            ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
            _ => return None,
        };
        let kind =
            KINDS.iter().find(|k| (k.group, k.version, k.plural) == (group, version, plural))?;
        let is_placed = match kind.is_namespaced {
            true => namespace.is_some() || name.is_none(),
            false => namespace.is_none(),
        };
        let owned = |word: Option<&str>| word.map(str::to_owned);
        let (namespace, name) = (owned(namespace), owned(name));
        is_placed.then_some(Self { kind, namespace, name, is_status })
    }
}
