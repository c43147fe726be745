//! What each kind of client can take: a table, one row per kind and least version.
//!
//! Owns telling the kinds apart by what a client says of itself in its xDS node, and the facts
//! about each. Decides nothing: who serves a client asks its row.

use Feature::{
    ApiListener, ClientSideWeightedRoundRobin, ConsecutiveErrors, EndpointCollections,
    FailurePercentage, HealthChecks, LeastRequest, Maglev, PeakEwma, PickFirst, PolicyList, Random,
    ResourceErrors, ResourceTtl, RingHash, ServerListener, SocketListener, TlsSocket,
    WeightedWithinLocality,
};
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::core::node::UserAgentVersionType;

/// By this client feature the gRPC family tells servers that it fails over between priorities
/// only once nothing of one is left (Envoy, "Well Known Client Features").
const NO_OVERPROVISIONING: &str = "envoy.lb.does_not_support_overprovisioning";

/// Kinds of client, by `Node.user_agent_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKind {
    /// Envoy (`envoy`).
    Envoy,
    /// gRPC for C++, Python, Ruby and PHP (`gRPC C-core linux`).
    GrpcCore,
    /// gRPC for Go (`gRPC Go`).
    GrpcGo,
    /// gRPC for Java (`gRPC Java`).
    GrpcJava,
    /// gRPC for Node, package `@grpc/grpc-js-xds` (`gRPC Node Pure JS`).
    GrpcNode,
    /// gRPC for Rust, crate `tonic-xds` (`gRPC Rust tonic-xds`).
    GrpcRust,
    /// Another of the gRPC family: a name that begins with `gRPC`, or the feature
    /// `envoy.lb.does_not_support_overprovisioning`.
    GrpcOther,
    /// Our own proxy (`portolan`).
    Portolan,
    /// Whoever says nothing, or nothing that is known.
    Unknown,
}

/// Something that a client can take or act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Listeners that are sockets, in answer to a wildcard (Envoy, `Listener.address`).
    SocketListener,
    /// TLS on such sockets (Envoy, `DownstreamTlsContext`).
    TlsSocket,
    /// Listeners without a socket, for the client's own calls (gRFC A27). Envoy warns at them.
    ApiListener,
    /// Listeners for its own servers, by the name of their address (gRFC A36).
    ServerListener,
    /// The list `load_balancing_policy`, of which it takes the first that it knows (gRFC A52;
    /// Envoy, `LoadBalancingPolicy`). Who does not know it takes `lb_policy`, which is round robin.
    PolicyList,
    /// Policy `wrr_locality` over `client_side_weighted_round_robin` (gRFC A58). Where the latter is
    /// not known the whole cluster is refused, even if the list goes on: gRPC for Node does so.
    WeightedWithinLocality,
    /// Policy `client_side_weighted_round_robin` (gRFC A58; Envoy from 1.34 on).
    ClientSideWeightedRoundRobin,
    /// Policy `ring_hash`, with `XX_HASH` (gRFC A42).
    RingHash,
    /// Policy `least_request` (gRFC A48).
    LeastRequest,
    /// Policy `pick_first` (gRFC A62). Envoy (1.40) skips it, and its `/config_dump` breaks off there.
    PickFirst,
    /// Policy `random` (Envoy).
    Random,
    /// Policy `maglev` (Envoy; gRFC A52 lists it for Envoy alone).
    Maglev,
    /// Our own policy, a `TypedStruct` that others pass over (gRFC A52).
    PeakEwma,
    /// Ejecting an endpoint for its share of failures (gRFC A50; Envoy, `OutlierDetection`).
    FailurePercentage,
    /// Ejecting an endpoint for failures in a row (Envoy; gRFC A50 leaves it out).
    ConsecutiveErrors,
    /// Health checks of its own (Envoy, `Cluster.health_checks`; gRFC A27 leaves them out).
    HealthChecks,
    /// `DiscoveryResponse.resource_errors` (xRFC TP3, gRFC A88). gRPC for C++ has it behind
    /// `GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING`; whoever lacks it skips the field.
    ResourceErrors,
    /// A time to live of resources (Envoy, xDS protocol, "TTL").
    ResourceTtl,
    /// Endpoints of a locality as a collection of their own (LEDS; Envoy,
    /// `leds_cluster_locality_config`).
    EndpointCollections,
}

/// In whose words resources are said: only what differs in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Envoy's, which our own proxy reads as well; for whoever is not known, too.
    #[default]
    Envoy,
    /// gRPC's: it has `pick_first`, and cannot hash by a cookie (gRFC A42), without which a ring would
    /// only be an uneven lottery.
    Grpc,
}

/// What one kind of client can take.
#[derive(Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The kind.
    pub kind: ClientKind,
    /// Lowest version the row is for, major and minor.
    pub since: (u32, u32),
    /// What it takes or acts on.
    pub features: &'static [Feature],
    /// Largest response it takes, in bytes; `None` without a limit. gRPC's default is 4 MiB in every
    /// language (gRPC core, `GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH`), and none of its xDS clients
    /// raises it; Envoy's gRPC client has no limit.
    pub max_message_bytes: Option<usize>,
}

/// What a client says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent<'a> {
    /// `user_agent_name`.
    pub name: &'a str,
    /// Major and minor of its version, if it gives one that can be read.
    pub version: Option<(u32, u32)>,
    /// `client_features`.
    pub features: &'a [String],
}

const GRPC_LIMIT: Option<usize> = Some(4 << 20);

/// Every kind, newest row first; the last row of a kind is for any version. The versions are those
/// of "xDS Features in gRPC" (`doc/grpc_xds_features.md` of gRPC) and of the packages' sources.
const TABLE: &[Capabilities] = &[
    Capabilities {
        kind: ClientKind::Envoy,
        since: (0, 0),
        features: &[
            SocketListener,
            TlsSocket,
            PolicyList,
            WeightedWithinLocality,
            ClientSideWeightedRoundRobin,
            RingHash,
            LeastRequest,
            Maglev,
            Random,
            FailurePercentage,
            ConsecutiveErrors,
            HealthChecks,
            ResourceTtl,
            EndpointCollections,
        ],
        max_message_bytes: None,
    },
    Capabilities {
        kind: ClientKind::GrpcCore,
        since: (1, 58),
        features: &[
            ApiListener,
            ServerListener,
            PolicyList,
            WeightedWithinLocality,
            ClientSideWeightedRoundRobin,
            RingHash,
            PickFirst,
            FailurePercentage,
            ResourceErrors,
        ],
        max_message_bytes: GRPC_LIMIT,
    },
    older(ClientKind::GrpcCore),
    Capabilities {
        kind: ClientKind::GrpcGo,
        since: (1, 73),
        features: &[
            ApiListener,
            ServerListener,
            PolicyList,
            WeightedWithinLocality,
            ClientSideWeightedRoundRobin,
            RingHash,
            LeastRequest,
            PickFirst,
            FailurePercentage,
        ],
        max_message_bytes: GRPC_LIMIT,
    },
    Capabilities {
        kind: ClientKind::GrpcGo,
        since: (1, 56),
        features: &[
            ApiListener,
            ServerListener,
            PolicyList,
            WeightedWithinLocality,
            ClientSideWeightedRoundRobin,
            RingHash,
            PickFirst,
            FailurePercentage,
        ],
        max_message_bytes: GRPC_LIMIT,
    },
    older(ClientKind::GrpcGo),
    Capabilities {
        kind: ClientKind::GrpcJava,
        since: (1, 58),
        features: &[
            ApiListener,
            ServerListener,
            PolicyList,
            WeightedWithinLocality,
            ClientSideWeightedRoundRobin,
            RingHash,
            LeastRequest,
            PickFirst,
            FailurePercentage,
        ],
        max_message_bytes: GRPC_LIMIT,
    },
    older(ClientKind::GrpcJava),
    Capabilities {
        kind: ClientKind::GrpcNode,
        since: (1, 13),
        features: &[ApiListener, ServerListener, PolicyList, RingHash, FailurePercentage],
        max_message_bytes: GRPC_LIMIT,
    },
    Capabilities {
        kind: ClientKind::GrpcNode,
        since: (1, 10),
        features: &[ApiListener, PolicyList, RingHash, FailurePercentage],
        max_message_bytes: GRPC_LIMIT,
    },
    older(ClientKind::GrpcNode),
    // It reads `lb_policy` and not the list (0.1.0-alpha.4), so that it goes round robin.
    Capabilities {
        kind: ClientKind::GrpcRust,
        since: (0, 0),
        features: &[ApiListener],
        max_message_bytes: GRPC_LIMIT,
    },
    older(ClientKind::GrpcOther),
    Capabilities {
        kind: ClientKind::Portolan,
        since: (0, 0),
        features: &[
            SocketListener,
            TlsSocket,
            PolicyList,
            WeightedWithinLocality,
            ClientSideWeightedRoundRobin,
            RingHash,
            LeastRequest,
            Maglev,
            PeakEwma,
            Random,
            FailurePercentage,
            ConsecutiveErrors,
            HealthChecks,
        ],
        max_message_bytes: Some(crate::client::MAX_RESPONSE_BYTES),
    },
    UNKNOWN,
];

/// Whoever is not known: nothing is held back that it might ask for by name or wildcard, nothing
/// is relied on, and responses are kept to the least limit.
const UNKNOWN: Capabilities = Capabilities {
    kind: ClientKind::Unknown,
    since: (0, 0),
    features: &[SocketListener, TlsSocket, ApiListener, ServerListener],
    max_message_bytes: GRPC_LIMIT,
};

static FALLBACK: Capabilities = UNKNOWN;

/// Any version of a gRPC client: calls by round robin, whatever the list of policies says.
const fn older(kind: ClientKind) -> Capabilities {
    Capabilities { kind, since: (0, 0), features: &[ApiListener], max_message_bytes: GRPC_LIMIT }
}

impl Capabilities {
    /// The row of a client. One whose version cannot be read counts as the oldest of its kind.
    #[must_use]
    pub fn of(agent: &Agent<'_>) -> &'static Self {
        let kind = ClientKind::of(agent);
        let version = agent.version.unwrap_or_default();
        let mut rows = TABLE.iter();
        rows.find(|row| row.kind == kind && version >= row.since).unwrap_or(&FALLBACK)
    }

    /// Whether it takes or acts on something.
    #[must_use]
    pub fn takes(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// In whose words it is spoken to.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.kind {
            ClientKind::Envoy | ClientKind::Portolan | ClientKind::Unknown => Dialect::Envoy,
            ClientKind::GrpcCore
            | ClientKind::GrpcGo
            | ClientKind::GrpcJava
            | ClientKind::GrpcNode
            | ClientKind::GrpcRust
            | ClientKind::GrpcOther => Dialect::Grpc,
        }
    }
}

impl ClientKind {
    /// The kind by the name, else by the features.
    #[must_use]
    pub fn of(agent: &Agent<'_>) -> Self {
        // gRPC core may be built with a suffix to its name; so may the others.
        const PREFIXES: [(&str, ClientKind); 8] = [
            ("envoy", ClientKind::Envoy),
            ("portolan", ClientKind::Portolan),
            ("gRPC C-core", ClientKind::GrpcCore),
            ("gRPC Go", ClientKind::GrpcGo),
            ("gRPC Java", ClientKind::GrpcJava),
            ("gRPC Node", ClientKind::GrpcNode),
            ("gRPC Rust", ClientKind::GrpcRust),
            ("gRPC", ClientKind::GrpcOther),
        ];
        let found = PREFIXES.iter().find(|(prefix, _)| agent.name.starts_with(prefix));
        match found {
            Some((_, kind)) => *kind,
            None if agent.features.iter().any(|f| f == NO_OVERPROVISIONING) => Self::GrpcOther,
            None => Self::Unknown,
        }
    }
}

impl Dialect {
    /// All dialects, by [`Self::index`].
    pub const ALL: [Self; 2] = [Self::Envoy, Self::Grpc];

    /// Position in [`Self::ALL`], for arrays by dialect.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Envoy => 0,
            Self::Grpc => 1,
        }
    }
}

impl<'a> From<&'a Node> for Agent<'a> {
    fn from(node: &'a Node) -> Self {
        let version = node.user_agent_version_type.as_ref().and_then(|version| match version {
            UserAgentVersionType::UserAgentVersion(text) => major_minor(text),
            UserAgentVersionType::UserAgentBuildVersion(build) => {
                build.version.as_ref().map(|v| (v.major_number, v.minor_number))
            }
        });
        Self { name: &node.user_agent_name, version, features: &node.client_features }
    }
}

/// The first two numbers of a version in words: `1.85.0`, `C-core 1.85.0`, `v1.75.0-dev`.
fn major_minor(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = text[start..].split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_what_its_clients_say() {
        let no_features: &[&str] = &[];
        // Name and version as the client sends them, features, and the row.
        let cases = [
            ("envoy", "1.40.0", no_features, ClientKind::Envoy, (0, 0)),
            ("gRPC C-core linux", "C-core 1.85.0", &[], ClientKind::GrpcCore, (1, 58)),
            ("gRPC C-core osx", "C-core 1.57.3", &[], ClientKind::GrpcCore, (0, 0)),
            ("gRPC Go", "1.76.0-dev", &[NO_OVERPROVISIONING], ClientKind::GrpcGo, (1, 73)),
            ("gRPC Go", "1.72.0", &[], ClientKind::GrpcGo, (1, 56)),
            ("gRPC Go", "1.55.0", &[], ClientKind::GrpcGo, (0, 0)),
            ("gRPC Java", "1.85.1", &[], ClientKind::GrpcJava, (1, 58)),
            ("gRPC Java", "1.46.0", &[], ClientKind::GrpcJava, (0, 0)),
            ("gRPC Node Pure JS", "1.14.1", &[], ClientKind::GrpcNode, (1, 13)),
            ("gRPC Node Pure JS", "1.10.1", &[], ClientKind::GrpcNode, (1, 10)),
            ("gRPC Node Pure JS", "1.9.2", &[], ClientKind::GrpcNode, (0, 0)),
            ("gRPC Rust tonic-xds", "0.1.0-alpha.4", &[], ClientKind::GrpcRust, (0, 0)),
            ("gRPC Kotlin", "1.0.0", &[], ClientKind::GrpcOther, (0, 0)),
            ("portolan", "0.1.0", &[], ClientKind::Portolan, (0, 0)),
            ("", "", &[], ClientKind::Unknown, (0, 0)),
            // Of those that say little, the oldest of what they say.
            ("mesh-agent", "7", &[NO_OVERPROVISIONING], ClientKind::GrpcOther, (0, 0)),
            ("mesh-agent", "7", &["other"], ClientKind::Unknown, (0, 0)),
            ("gRPC Go", "unknown", &[], ClientKind::GrpcGo, (0, 0)),
        ];
        let mut seen = Vec::new();
        for (name, version, features, kind, since) in cases {
            let node = Node {
                user_agent_name: name.to_owned(),
                user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
                    version.to_owned(),
                )),
                client_features: features.iter().map(|f| (*f).to_owned()).collect(),
                ..Node::default()
            };
            let row = Capabilities::of(&Agent::from(&node));
            assert_eq!((row.kind, row.since), (kind, since), "{name} {version}");
            seen.push(row);
        }
        let unmet: Vec<_> = TABLE.iter().filter(|row| !seen.contains(row)).collect();
        assert!(unmet.is_empty(), "rows without a case: {unmet:?}");
    }

    #[test]
    fn what_the_newest_of_each_kind_take_is_as_measured_and_documented() {
        use ClientKind::{Envoy, GrpcCore, GrpcGo, GrpcJava, GrpcNode, GrpcOther, GrpcRust};
        use ClientKind::{Portolan, Unknown};
        let grpc = [GrpcCore, GrpcGo, GrpcJava, GrpcNode, GrpcRust, GrpcOther];
        let with = |more: &[ClientKind]| [&grpc[..], more].concat();
        let columns: [(Feature, Vec<ClientKind>); 19] = [
            (SocketListener, vec![Envoy, Portolan, Unknown]),
            (TlsSocket, vec![Envoy, Portolan, Unknown]),
            (ApiListener, with(&[Unknown])),
            (ServerListener, vec![GrpcCore, GrpcGo, GrpcJava, GrpcNode, Unknown]),
            (PolicyList, vec![Envoy, GrpcCore, GrpcGo, GrpcJava, GrpcNode, Portolan]),
            (WeightedWithinLocality, vec![Envoy, GrpcCore, GrpcGo, GrpcJava, Portolan]),
            (ClientSideWeightedRoundRobin, vec![Envoy, GrpcCore, GrpcGo, GrpcJava, Portolan]),
            (RingHash, vec![Envoy, GrpcCore, GrpcGo, GrpcJava, GrpcNode, Portolan]),
            (LeastRequest, vec![Envoy, GrpcGo, GrpcJava, Portolan]),
            (PickFirst, vec![GrpcCore, GrpcGo, GrpcJava]),
            (Random, vec![Envoy, Portolan]),
            (Maglev, vec![Envoy, Portolan]),
            (PeakEwma, vec![Portolan]),
            (FailurePercentage, vec![Envoy, GrpcCore, GrpcGo, GrpcJava, GrpcNode, Portolan]),
            (ConsecutiveErrors, vec![Envoy, Portolan]),
            (HealthChecks, vec![Envoy, Portolan]),
            (ResourceErrors, vec![GrpcCore]),
            (ResourceTtl, vec![Envoy]),
            (EndpointCollections, vec![Envoy]),
        ];
        let newest = |kind| TABLE.iter().find(|row| row.kind == kind).expect("a row per kind");
        for (feature, takers) in columns {
            for kind in [&grpc[..], &[Envoy, Portolan, Unknown]].concat() {
                let takes = newest(kind).takes(feature);
                assert_eq!(takes, takers.contains(&kind), "{kind:?} and {feature:?}");
            }
        }
        for kind in grpc {
            let row = newest(kind);
            assert_eq!((row.dialect(), row.max_message_bytes), (Dialect::Grpc, Some(4 << 20)));
        }
        assert_eq!(
            (newest(Envoy).dialect(), newest(Envoy).max_message_bytes),
            (Dialect::Envoy, None)
        );
        assert_eq!(newest(Unknown).max_message_bytes, Some(4 << 20), "the least of all limits");
        for (n, dialect) in Dialect::ALL.into_iter().enumerate() {
            assert_eq!(dialect.index(), n);
        }
    }

    #[test]
    fn a_version_is_read_from_words_and_from_numbers() {
        let cases = [
            ("1.85.0", Some((1, 85))),
            ("C-core 1.85.0-dev", Some((1, 85))),
            ("v1.7", Some((1, 7))),
            ("1", None),
            ("", None),
            ("99999999999.1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(major_minor(text), expected, "{text:?}");
        }
    }
}
