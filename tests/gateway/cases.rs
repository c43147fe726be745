//! What the Gateway API says, as cases: manifests, requests and what becomes of them. They go by the
//! sections of the specification (gateway-api.sigs.k8s.io, API reference, v1).

/// A case. Manifests are as [`crate::kit`] completes them.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// The section, and what of it.
    pub(crate) name: &'static str,
    pub(crate) manifests: &'static str,
    /// Requests, and what is expected of each.
    pub(crate) asks: &'static [(&'static str, &'static str)],
    /// Rows of `portolan get routes`, as `Kind name parent: Condition=True Other=Reason …`, and of
    /// `portolan get gateways`, as `Gateway name listener: …`.
    pub(crate) statuses: &'static [&'static str],
    /// Requests go to the listener of all services, not to a Gateway.
    pub(crate) mesh: bool,
    /// Nobody is to listen.
    pub(crate) is_silent: bool,
}

/// A case without anything.
pub(crate) const EMPTY: Case = Case {
    name: "",
    manifests: "",
    asks: &[("", "")],
    statuses: &[],
    mesh: false,
    is_silent: false,
};

/// A route on the case's Gateway, or on what `on` says.
macro_rules! http {
    ($name:literal, $spec:literal) => {
        http!($name, "{name: gw}", $spec)
    };
    ($name:literal, $on:literal, $spec:literal) => {
        concat!(
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: ",
            $name,
            ", namespace: $NS}, spec: {parentRefs: [",
            $on,
            "], ",
            $spec,
            "}}\n"
        )
    };
}

macro_rules! grpc {
    ($name:literal, $spec:literal) => {
        concat!(
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: ",
            $name,
            ", namespace: $NS}, spec: {parentRefs: [{name: gw}], ",
            $spec,
            "}}\n"
        )
    };
}

macro_rules! gateway {
    ($listeners:literal) => {
        concat!(
            "---\n{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, ",
            "spec: {gatewayClassName: portolan, addresses: [{value: $ADDRESS}], listeners: [",
            $listeners, "]}, kind: Gateway}\n"
        )
    };
}

const CASE: Case =
    Case { name: "", manifests: "", asks: &[], statuses: &[], mesh: false, is_silent: false };

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "HTTPRoute: all requests to one backend",
        manifests: http!("r", "rules: [{backendRefs: [{name: v1, port: 8080}]}]"),
        asks: &[
            ("GET a.test/", "200 v1 path=/ host=a.test"),
            ("POST b.test/x?q=1 | body: hello", "200 v1 path=/x?q=1 body=hello method=POST"),
        ],
        statuses: &[
            "HTTPRoute r Gateway $NS/gw: Accepted=True ResolvedRefs=True",
            "Gateway gw http: Accepted=True Conflicted=NoConflicts ResolvedRefs=True Programmed=True routes=1",
        ],
        ..CASE
    },
    Case {
        name: "HTTPRoute without rules: one that takes all, and has nowhere to go",
        manifests: "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: $NS}, spec: {parentRefs: [{name: gw}]}}\n",
        asks: &[("GET a.test/", "500")],
        statuses: &["HTTPRoute r Gateway $NS/gw: Accepted=True ResolvedRefs=True"],
        ..CASE
    },
    Case {
        name: "HTTPPathMatch: Exact, PathPrefix by elements, RegularExpression",
        manifests: http!("r", "rules: [
            {matches: [{path: {type: Exact, value: /one}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {type: PathPrefix, value: /two}}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{path: {type: PathPrefix, value: /end/}}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{path: {type: RegularExpression, value: '/x[0-9]+'}}], backendRefs: [{name: v3, port: 8080}]}]"),
        asks: &[
            ("GET a.test/one", "200 v1"),
            ("GET a.test/one?q", "200 v1"),
            ("GET a.test/one/", "404"),
            ("GET a.test/one/x", "404"),
            ("GET a.test/ONE", "404"),
            ("GET a.test/two", "200 v2"),
            ("GET a.test/two/", "200 v2"),
            ("GET a.test/two/x?q=1", "200 v2"),
            ("GET a.test/twox", "404"),
            ("GET a.test/end", "200 v2"),
            ("GET a.test/end/x", "200 v2"),
            ("GET a.test/x12", "200 v3"),
            ("GET a.test/x12/", "404"),
            ("GET a.test/", "404"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPRouteRule.matches: which of several comes first",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /a}}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{path: {value: /a/b}}], backendRefs: [{name: v3, port: 8080}]},
            {matches: [{path: {type: Exact, value: /a/b/c}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /m}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /m}, headers: [{name: x-a, value: '1'}]}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{path: {value: /m}, headers: [{name: x-a, value: '1'}, {name: x-b, value: '1'}]}], backendRefs: [{name: v3, port: 8080}]},
            {matches: [{path: {value: /n}, headers: [{name: x-a, value: '1'}, {name: x-b, value: '1'}]}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /n}, method: POST}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{path: {value: /n}, queryParams: [{name: q, value: '1'}]}], backendRefs: [{name: v3, port: 8080}]}]"),
        asks: &[
            ("GET a.test/other", "200 v1"),
            ("GET a.test/a/x", "200 v2"),
            ("GET a.test/a/b/x", "200 v3"),
            ("GET a.test/a/b/c", "200 v1"),
            ("GET a.test/m", "200 v1"),
            ("GET a.test/m | x-a: 1", "200 v2"),
            ("GET a.test/m | x-a: 1 | x-b: 1", "200 v3"),
            ("GET a.test/n | x-a: 1 | x-b: 1", "200 v1"),
            ("POST a.test/n?q=1 | x-a: 1 | x-b: 1", "200 v2"),
            ("GET a.test/n?q=1 | x-a: 1 | x-b: 1", "200 v1"),
            ("GET a.test/n?q=1", "200 v3"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPRouteRule.matches: across routes the older, then the first by name",
        manifests: concat!(
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, namespace: $NS, creationTimestamp: '2024-01-02T00:00:00Z'}, spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: v1, port: 8080}]}]}}\n",
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: b, namespace: $NS, creationTimestamp: '2024-01-01T00:00:00Z'}, spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: v2, port: 8080}]}]}}\n",
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: c, namespace: $NS, creationTimestamp: '2024-01-01T00:00:00Z'}, spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: v3, port: 8080}]}]}}\n"),
        asks: &[("GET a.test/x", "200 v2")],
        statuses: &["Gateway gw http: Programmed=True routes=3"],
        ..CASE
    },
    Case {
        name: "HTTPHeaderMatch: Exact and RegularExpression, names without regard to case, the first of a name",
        manifests: http!("r", "rules: [
            {matches: [{headers: [{name: Version, value: one}]}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{headers: [{name: version, value: two}]}, {headers: [{name: color, value: blue}]}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{headers: [{name: color, value: red}, {name: COLOR, value: never}]}], backendRefs: [{name: v3, port: 8080}]},
            {matches: [{headers: [{name: num, type: RegularExpression, value: '[0-9]+'}]}], backendRefs: [{name: v3, port: 8080}]}]"),
        asks: &[
            ("GET a.test/ | version: one", "200 v1"),
            ("GET a.test/ | version: One", "404"),
            ("GET a.test/ | version: two", "200 v2"),
            ("GET a.test/ | color: blue", "200 v2"),
            ("GET a.test/ | color: red", "200 v3"),
            ("GET a.test/ | num: 42", "200 v3"),
            ("GET a.test/ | num: 42x", "404"),
            ("GET a.test/", "404"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPQueryParamMatch: Exact and RegularExpression, the first of a name",
        manifests: http!("r", "rules: [
            {matches: [{queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{queryParams: [{name: num, type: RegularExpression, value: '[0-9]+'}]}], backendRefs: [{name: v3, port: 8080}]}]"),
        asks: &[
            ("GET a.test/?animal=whale", "200 v1"),
            ("GET a.test/?x=1&animal=whale", "200 v1"),
            ("GET a.test/?animal=whale&animal=dolphin&color=blue", "200 v1"),
            ("GET a.test/?animal=dolphin&color=blue", "200 v2"),
            ("GET a.test/?color=blue&animal=dolphin", "200 v2"),
            ("GET a.test/?animal=dolphin", "404"),
            ("GET a.test/?num=7", "200 v3"),
            ("GET a.test/?ANIMAL=whale", "404"),
            ("GET a.test/", "404"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPRouteMatch.method",
        manifests: http!("r", "rules: [
            {matches: [{method: POST}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{method: GET}], backendRefs: [{name: v2, port: 8080}]}]"),
        asks: &[
            ("POST a.test/", "200 v1"),
            ("GET a.test/", "200 v2"),
            ("HEAD a.test/", "404"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPRouteSpec.hostnames: meets those of the listener, exact and with a star",
        manifests: concat!(
            gateway!("{name: exact, port: $PORT, protocol: HTTP, hostname: very.specific.test}, {name: star, port: $PORT, protocol: HTTP, hostname: '*.wild.test'}"),
            http!("specific", "hostnames: [non.matching.test, '*.nonmatching.test', very.specific.test], rules: [{matches: [{path: {value: /s1}}], backendRefs: [{name: v1, port: 8080}]}]"),
            http!("wider", "hostnames: ['*.specific.test'], rules: [{matches: [{path: {value: /s2}}], backendRefs: [{name: v2, port: 8080}]}]"),
            http!("below", "hostnames: [one.wild.test, '*.two.wild.test'], rules: [{matches: [{path: {value: /w}}], backendRefs: [{name: v3, port: 8080}]}]"),
            http!("none", "hostnames: [a.other.test], rules: [{backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[
            ("GET very.specific.test/s1", "200 v1"),
            ("GET very.specific.test:1234/s1", "200 v1"),
            ("GET VERY.specific.test/s1", "200 v1"),
            ("GET very.specific.test/s2", "200 v2"),
            ("GET other.specific.test/s2", "404"),
            ("GET non.matching.test/s1", "404"),
            ("GET one.wild.test/w", "200 v3"),
            ("GET x.two.wild.test/w", "200 v3"),
            ("GET y.x.two.wild.test/w", "200 v3"),
            ("GET two.wild.test/w", "404"),
            ("GET wild.test/w", "404"),
            ("GET a.other.test/", "404"),
        ],
        statuses: &[
            "HTTPRoute specific Gateway $NS/gw: Accepted=True",
            "HTTPRoute wider Gateway $NS/gw: Accepted=True",
            "HTTPRoute none Gateway $NS/gw: Accepted=NoMatchingListenerHostname",
            "Gateway gw exact: routes=2",
            "Gateway gw star: routes=1",
        ],
        ..CASE
    },
    Case {
        name: "Listener.hostname: a request belongs to the narrowest listener alone",
        manifests: concat!(
            gateway!("{name: all, port: $PORT, protocol: HTTP}, {name: star, port: $PORT, protocol: HTTP, hostname: '*.example.test'}, {name: deep, port: $PORT, protocol: HTTP, hostname: '*.foo.example.test'}, {name: exact, port: $PORT, protocol: HTTP, hostname: abc.foo.example.test}"),
            http!("all", "{name: gw, sectionName: all}", "rules: [{matches: [{path: {value: /all}}], backendRefs: [{name: v1, port: 8080}]}]"),
            http!("star", "{name: gw, sectionName: star}", "rules: [{matches: [{path: {value: /star}}], backendRefs: [{name: v2, port: 8080}]}]"),
            http!("deep", "{name: gw, sectionName: deep}", "rules: [{matches: [{path: {value: /deep}}], backendRefs: [{name: v3, port: 8080}]}]"),
            http!("exact", "{name: gw, sectionName: exact}", "rules: [{matches: [{path: {value: /exact}}], backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[
            ("GET bar.com/all", "200 v1"),
            ("GET bar.com/star", "404"),
            ("GET bar.example.test/star", "200 v2"),
            ("GET bar.example.test/all", "404"),
            ("GET bar.foo.example.test/deep", "200 v3"),
            ("GET bar.foo.example.test/star", "404"),
            ("GET abc.foo.example.test/exact", "200 v1"),
            ("GET abc.foo.example.test/deep", "404"),
            ("GET abc.foo.example.test/all", "404"),
        ],
        ..CASE
    },
    Case {
        name: "ParentReference: sectionName and port",
        manifests: concat!(
            http!("named", "{name: gw, sectionName: http}", "rules: [{matches: [{path: {value: /named}}], backendRefs: [{name: v1, port: 8080}]}]"),
            http!("by-port", "{name: gw, port: $PORT}", "rules: [{matches: [{path: {value: /port}}], backendRefs: [{name: v2, port: 8080}]}]"),
            http!("no-name", "{name: gw, sectionName: nope}", "rules: [{matches: [{path: {value: /no-name}}], backendRefs: [{name: v1, port: 8080}]}]"),
            http!("no-port", "{name: gw, port: 1}", "rules: [{matches: [{path: {value: /no-port}}], backendRefs: [{name: v1, port: 8080}]}]"),
            http!("nobody", "{name: nobody}", "rules: [{backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[
            ("GET a.test/named", "200 v1"),
            ("GET a.test/port", "200 v2"),
            ("GET a.test/no-name", "404"),
            ("GET a.test/no-port", "404"),
        ],
        statuses: &[
            "HTTPRoute named Gateway $NS/gw http: Accepted=True",
            "HTTPRoute by-port Gateway $NS/gw:$PORT: Accepted=True",
            "HTTPRoute no-name Gateway $NS/gw nope: Accepted=NoMatchingParent",
            "HTTPRoute no-port Gateway $NS/gw:1: Accepted=NoMatchingParent",
            "HTTPRoute nobody Gateway $NS/nobody: Accepted=NoMatchingParent",
            "Gateway gw http: routes=2",
        ],
        ..CASE
    },
    Case {
        name: "AllowedRoutes.namespaces: Same, All, Selector, None",
        manifests: concat!(
            gateway!("{name: same, port: $PORT, protocol: HTTP, hostname: same.test}, {name: all, port: $PORT, protocol: HTTP, hostname: all.test, allowedRoutes: {namespaces: {from: All}}}, {name: selected, port: $PORT, protocol: HTTP, hostname: selected.test, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {of: $NS-other}}}}}, {name: by-name, port: $PORT, protocol: HTTP, hostname: by-name.test, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: $NS-other}}}}}, {name: none, port: $PORT, protocol: HTTP, hostname: none.test, allowedRoutes: {namespaces: {from: None}}}"),
            http!("own", "rules: [{matches: [{path: {value: /own}}], backendRefs: [{name: v1, port: 8080}]}]"),
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: other, namespace: $NS-other}, spec: {parentRefs: [{name: gw, namespace: $NS}], rules: [{matches: [{path: {value: /other}}], backendRefs: [{name: v2, port: 8080}]}]}}\n",
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: barred, namespace: $NS-other}, spec: {parentRefs: [{name: gw, namespace: $NS, sectionName: same}], rules: [{matches: [{path: {value: /barred}}], backendRefs: [{name: v2, port: 8080}]}]}}\n"),
        asks: &[
            ("GET same.test/own", "200 v1"),
            ("GET same.test/other", "404"),
            ("GET same.test/barred", "404"),
            ("GET all.test/own", "200 v1"),
            ("GET all.test/other", "200 v2"),
            ("GET selected.test/own", "404"),
            ("GET selected.test/other", "200 v2"),
            ("GET by-name.test/other", "200 v2"),
            ("GET none.test/own", "404"),
        ],
        statuses: &[
            "HTTPRoute barred Gateway $NS/gw same: Accepted=NotAllowedByListeners",
            "Gateway gw same: routes=1",
            "Gateway gw all: routes=2",
            "Gateway gw none: routes=0",
        ],
        ..CASE
    },
    Case {
        name: "AllowedRoutes.kinds",
        manifests: concat!(
            gateway!("{name: grpc, port: $PORT, protocol: HTTP, hostname: grpc.test, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}, {name: odd, port: $PORT, protocol: HTTP, hostname: odd.test, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: TCPRoute}]}}, {name: wrong, port: $PORT, protocol: HTTP, hostname: wrong.test, allowedRoutes: {kinds: [{kind: Odd, group: odd.test}]}}"),
            http!("r", "hostnames: [grpc.test, odd.test, wrong.test], rules: [{backendRefs: [{name: v1, port: 8080}]}]"),
            http!("barred", "{name: gw, sectionName: grpc}", "rules: [{backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[
            ("GET odd.test/", "200 v1"),
            ("GET grpc.test/", "404"),
            ("GET wrong.test/", "404"),
        ],
        statuses: &[
            "HTTPRoute r Gateway $NS/gw: Accepted=True",
            "HTTPRoute barred Gateway $NS/gw grpc: Accepted=NotAllowedByListeners",
            "Gateway gw odd: ResolvedRefs=InvalidRouteKinds Programmed=True routes=1",
            "Gateway gw wrong: ResolvedRefs=InvalidRouteKinds Programmed=Invalid routes=0",
        ],
        ..CASE
    },
    Case {
        name: "Gateway.spec.listeners: those that cannot be had together are all off",
        manifests: concat!(
            gateway!("{name: one, port: $PORT, protocol: HTTP, hostname: one.test}, {name: tcp, port: $PORT, protocol: TCP}"),
            http!("r", "rules: [{backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[],
        statuses: &[
            "Gateway gw one: Accepted=ProtocolConflict Conflicted=True Programmed=Invalid",
            "Gateway gw tcp: Accepted=ProtocolConflict Conflicted=True Programmed=Invalid",
        ],
        is_silent: true,
        ..CASE
    },
    Case {
        name: "Gateway.spec.listeners: a protocol that is not supported leaves the others",
        manifests: concat!(
            gateway!("{name: http, port: $PORT, protocol: HTTP}, {name: udp, port: 1, protocol: UDP}"),
            http!("r", "rules: [{backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[("GET a.test/", "200 v1")],
        statuses: &[
            "Gateway gw http: Accepted=True Programmed=True",
            "Gateway gw udp: Accepted=UnsupportedProtocol Programmed=Invalid",
        ],
        ..CASE
    },
    Case {
        name: "HTTPHeaderFilter: of requests and of responses, of a rule and of a backend",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /request}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: a}], remove: [X-Gone]}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /response}}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-old, value: new}], add: [{name: x-more, value: '100%'}], remove: [x-gone]}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /backend}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-add, value: rule}]}}], backendRefs: [{name: v2, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: backend}]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-gone]}}]}]}]"),
        asks: &[
            ("GET a.test/request", "200 v1 x-set=s x-add=a !x-gone"),
            ("GET a.test/request | x-set: mine | x-add: mine | x-gone: mine", "200 v1 x-set=s x-add=mine,a !x-gone"),
            ("GET a.test/response", "200 v1 <x-old=new <x-more=100% !<x-gone"),
            ("GET a.test/backend | x-set: mine", "200 v2 x-set=backend x-add=rule <x-old=old !<x-gone"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPRequestRedirectFilter: scheme, hostname, port, status",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test}}]},
            {matches: [{path: {value: /status}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]},
            {matches: [{path: {value: /both}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test, statusCode: 308}}]},
            {matches: [{path: {value: /scheme}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]},
            {matches: [{path: {value: /port}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8443}}]},
            {matches: [{path: {value: /all}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: other.test, port: 8443}}]},
            {matches: [{path: {value: /field}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test}}, {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-more, value: m}]}}]}]"),
        asks: &[
            ("GET a.test/host?q=1", "302 <location=http://other.test:$PORT/host?q=1"),
            ("GET a.test/status", "301 <location=http://a.test:$PORT/status"),
            ("GET a.test/both", "308 <location=http://other.test:$PORT/both"),
            ("GET a.test/scheme", "302 <location=https://a.test/scheme"),
            ("GET a.test/port", "302 <location=http://a.test:8443/port"),
            ("GET a.test/all", "302 <location=https://other.test:8443/all"),
            ("GET a.test/field", "302 <x-more=m"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPPathModifier: redirects",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /prefix}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]},
            {matches: [{path: {value: /root}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]},
            {matches: [{path: {value: /full}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /whole}}}]}]"),
        asks: &[
            ("GET a.test/prefix/x?q=1", "302 <location=http://a.test:$PORT/new/x?q=1"),
            ("GET a.test/prefix", "302 <location=http://a.test:$PORT/new"),
            ("GET a.test/root/x", "302 <location=http://a.test:$PORT/x"),
            ("GET a.test/root", "302 <location=http://a.test:$PORT/"),
            ("GET a.test/full/x?q=1", "302 <location=http://a.test:$PORT/whole?q=1"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPURLRewriteFilter: hostname and path",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /host}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.test}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /prefix}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /slash}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /strip}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /full}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.test, path: {type: ReplaceFullPath, replaceFullPath: /whole}}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /below}}}], backendRefs: [{name: v2, port: 8080}]}]"),
        asks: &[
            ("GET a.test/host/x", "200 v1 host=inner.test path=/host/x"),
            ("GET a.test/prefix/x?q=1", "200 v1 path=/new/x?q=1 host=a.test"),
            ("GET a.test/prefix", "200 v1 path=/new"),
            ("GET a.test/prefix/", "200 v1 path=/new/"),
            ("GET a.test/slash/x", "200 v1 path=/new/x"),
            ("GET a.test/strip/x", "200 v1 path=/x"),
            ("GET a.test/strip", "200 v1 path=/"),
            ("GET a.test/strip/", "200 v1 path=/"),
            ("GET a.test/full/x?q=1", "200 v1 path=/whole?q=1 host=inner.test"),
            ("GET a.test/else", "200 v2 path=/below/else"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPCORSFilter: preflights are answered, answers marked for origins that are allowed",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /some}}], filters: [{type: CORS, cors: {allowOrigins: ['https://a.test', 'https://*.b.test:8443'], allowMethods: [PUT], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 60}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /any}}], filters: [{type: CORS, cors: {allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*']}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /with}}], filters: [{type: CORS, cors: {allowOrigins: ['https://a.test'], allowCredentials: true, allowMethods: [POST]}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /away}}], filters: [{type: CORS, cors: {allowOrigins: ['https://a.test']}}, {type: RequestRedirect, requestRedirect: {hostname: c.test}}]},
            {backendRefs: [{name: v2, port: 8080}]}]"),
        asks: &[
            (
                "OPTIONS web.test/some | origin: https://a.test | access-control-request-method: PUT | access-control-request-headers: x-a",
                "200 <access-control-allow-origin=https://a.test <access-control-allow-methods=PUT <access-control-allow-headers=x-a <access-control-max-age=60 !<access-control-allow-credentials !<x-backend",
            ),
            (
                "OPTIONS web.test/some | origin: https://x.y.b.test:8443 | access-control-request-method: PUT",
                "200 <access-control-allow-origin=https://x.y.b.test:8443 !<x-backend",
            ),
            (
                "OPTIONS web.test/some | origin: https://evil.test | access-control-request-method: PUT",
                "200 !<access-control-allow-origin !<x-backend",
            ),
            ("OPTIONS web.test/some | origin: https://a.test", "200 v1 <access-control-allow-origin=https://a.test method=OPTIONS"),
            ("GET web.test/some | origin: https://a.test", "200 v1 origin=https://a.test <access-control-allow-origin=https://a.test <access-control-expose-headers=x-b !<access-control-allow-methods"),
            ("GET web.test/some | origin: https://b.test:8443", "200 v1 !<access-control-allow-origin"),
            ("GET web.test/some", "200 v1 !<access-control-allow-origin"),
            (
                "OPTIONS web.test/any | origin: null | access-control-request-method: PATCH | access-control-request-headers: x-a,x-b",
                "200 <access-control-allow-origin=null <access-control-allow-methods=PATCH <access-control-allow-headers=x-a,x-b <access-control-max-age=5 !<x-backend",
            ),
            (
                "OPTIONS web.test/with | origin: https://a.test | access-control-request-method: POST",
                "200 <access-control-allow-credentials=true <access-control-allow-methods=POST !<access-control-allow-headers",
            ),
            ("GET web.test/with | origin: https://a.test", "200 v1 <access-control-allow-credentials=true"),
            ("GET web.test/away | origin: https://a.test", "302"),
            ("OPTIONS web.test/ | origin: https://a.test | access-control-request-method: PUT", "200 v2"),
        ],
        statuses: &["HTTPRoute r Gateway $NS/gw: Accepted=True ResolvedRefs=True"],
        ..CASE
    },
    Case {
        name: "HTTPBackendRef.weight: nothing for zero, and shares of all in proportion",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /zero}}], backendRefs: [{name: v1, port: 8080, weight: 0}, {name: v2, port: 8080, weight: 5}]},
            {matches: [{path: {value: /none}}], backendRefs: [{name: v1, port: 8080, weight: 0}]}]"),
        asks: &[
            ("GET a.test/zero", "200 v2"),
            ("GET a.test/zero", "200 v2"),
            ("GET a.test/zero", "200 v2"),
            ("GET a.test/none", "500"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPRouteRule.backendRefs: what cannot be used is answered 500",
        manifests: concat!(
            http!("nobody", "rules: [{matches: [{path: {value: /nobody}}], backendRefs: [{name: nobody, port: 8080}]}]"),
            http!("port", "rules: [{matches: [{path: {value: /port}}], backendRefs: [{name: v1, port: 1}]}]"),
            http!("kind", "rules: [{matches: [{path: {value: /kind}}], backendRefs: [{group: odd.test, kind: Odd, name: v1, port: 8080}]}]"),
            http!("foreign", "rules: [{matches: [{path: {value: /foreign}}], backendRefs: [{name: v1, namespace: $NS-other, port: 8080}]}]"),
            http!("ready", "rules: [{matches: [{path: {value: /empty}}], backendRefs: [{name: empty, port: 80}]}]"),
            "---\n{apiVersion: v1, kind: Service, metadata: {name: empty, namespace: $NS}, spec: {ports: [{port: 80}]}}\n"),
        asks: &[
            ("GET a.test/nobody", "500"),
            ("GET a.test/port", "500"),
            ("GET a.test/kind", "500"),
            ("GET a.test/foreign", "500"),
            ("GET a.test/empty", "503"),
        ],
        statuses: &[
            "HTTPRoute nobody Gateway $NS/gw: Accepted=True ResolvedRefs=BackendNotFound",
            "HTTPRoute port Gateway $NS/gw: Accepted=True ResolvedRefs=BackendNotFound",
            "HTTPRoute kind Gateway $NS/gw: Accepted=True ResolvedRefs=InvalidKind",
            "HTTPRoute foreign Gateway $NS/gw: Accepted=True ResolvedRefs=RefNotPermitted",
            "HTTPRoute ready Gateway $NS/gw: Accepted=True ResolvedRefs=True",
        ],
        ..CASE
    },
    Case {
        name: "ReferenceGrant: a backend in another namespace, by kind and by name",
        manifests: concat!(
            http!("granted", "rules: [{matches: [{path: {value: /granted}}], backendRefs: [{name: v2, namespace: $NS-other, port: 8080}]}, {matches: [{path: {value: /barred}}], backendRefs: [{name: v3, namespace: $NS-other, port: 8080}]}]"),
            "---\n{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: $NS-other}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: $NS}], to: [{group: '', kind: Service, name: v2}]}}\n",
            // Of another kind, and from another namespace.
            "---\n{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: h, namespace: $NS-other}, spec: {from: [{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: $NS}, {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: nobody}], to: [{group: '', kind: Service}]}}\n"),
        asks: &[
            ("GET a.test/granted", "200 v2"),
            ("GET a.test/barred", "500"),
        ],
        statuses: &["HTTPRoute granted Gateway $NS/gw: Accepted=True ResolvedRefs=RefNotPermitted"],
        ..CASE
    },
    Case {
        name: "HTTPRoute status: a rule that is not done is dropped, the rest is in force",
        manifests: concat!(
            http!("partly", "rules: [{matches: [{path: {value: /good}}], backendRefs: [{name: v1, port: 8080}]}, {matches: [{path: {value: /bad}}], filters: [{type: ExtensionRef, extensionRef: {group: odd.test, kind: Odd, name: x}}], backendRefs: [{name: v1, port: 8080}]}]"),
            http!("wholly", "rules: [{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[
            ("GET a.test/good", "200 v1"),
            ("GET a.test/bad", "404"),
        ],
        statuses: &[
            "HTTPRoute partly Gateway $NS/gw: Accepted=True ResolvedRefs=True PartiallyInvalid=True",
            "HTTPRoute wholly Gateway $NS/gw: Accepted=UnsupportedValue",
        ],
        ..CASE
    },
    Case {
        name: "HTTPRouteTimeouts: request and backendRequest",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /request}}], timeouts: {request: 300ms}, backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /backend}}], timeouts: {backendRequest: 300ms}, backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /none}}], timeouts: {request: 0s}, backendRefs: [{name: v1, port: 8080}]}]"),
        asks: &[
            ("GET a.test/request", "200 v1"),
            ("GET a.test/request | x-ask-delay-ms: 2000", "504"),
            ("GET a.test/backend", "200 v1"),
            ("GET a.test/backend | x-ask-delay-ms: 2000", "504"),
            ("GET a.test/none | x-ask-delay-ms: 600", "200 v1"),
        ],
        ..CASE
    },
    Case {
        name: "HTTPRouteRetry: codes and attempts",
        manifests: http!("r", "rules: [
            {matches: [{path: {value: /two}}], retry: {codes: [500, 503], attempts: 2, backoff: 10ms}, backendRefs: [{name: v1, port: 8080}]},
            {matches: [{path: {value: /none}}], backendRefs: [{name: v1, port: 8080}]}]"),
        asks: &[
            ("GET a.test/two | x-ask-fail: 2x503 | x-request-id: $ID-a", "200 v1"),
            ("GET a.test/two | x-ask-fail: 3x503 | x-request-id: $ID-b", "503 v1"),
            ("GET a.test/two | x-ask-fail: 1x502 | x-request-id: $ID-c", "502 v1"),
            ("GET a.test/none | x-ask-fail: 1x503 | x-request-id: $ID-d", "503 v1"),
        ],
        ..CASE
    },
    Case {
        name: "GRPCMethodMatch: Exact and RegularExpression, and which comes first",
        manifests: grpc!("r", "rules: [
            {matches: [{method: {service: a.Greeter, method: Hello}}], backendRefs: [{name: v1, port: 8080}]},
            {matches: [{method: {service: a.Greeter}}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{method: {method: Other}}], backendRefs: [{name: v3, port: 8080}]},
            {matches: [{method: {type: RegularExpression, service: 'b\\.[A-Z]+', method: 'M[0-9]'}}], backendRefs: [{name: v3, port: 8080}]}]"),
        asks: &[
            ("GRPC a.test/a.Greeter/Hello", "200 v1 <grpc-status=0"),
            ("GRPC a.test/a.Greeter/Bye", "200 v2"),
            ("GRPC a.test/x.Y/Other", "200 v3"),
            ("GRPC a.test/b.XY/M1", "200 v3"),
            ("GRPC a.test/b.xy/M1", "200 <grpc-status=12"),
        ],
        statuses: &["GRPCRoute r Gateway $NS/gw: Accepted=True ResolvedRefs=True"],
        ..CASE
    },
    Case {
        name: "GRPCHeaderMatch and filters of GRPCRoutes",
        manifests: grpc!("r", "rules: [
            {matches: [{headers: [{name: version, value: two}]}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-old, value: new}]}}], backendRefs: [{name: v2, port: 8080}]},
            {matches: [{headers: [{name: version, type: RegularExpression, value: '[a-z]+'}]}], backendRefs: [{name: v1, port: 8080}]}]"),
        asks: &[
            ("GRPC a.test/a.B/C | version: two", "200 v2 <x-old=new"),
            ("GRPC a.test/a.B/C | version: one", "200 v1"),
            ("GRPC a.test/a.B/C", "200 <grpc-status=12"),
        ],
        ..CASE
    },
    Case {
        name: "GRPCRouteRule.matches: what says nothing comes behind what names a header",
        manifests: grpc!("r", "rules: [
            {matches: [{headers: [{name: version, value: two}]}], backendRefs: [{name: v2, port: 8080}]},
            {backendRefs: [{name: v1, port: 8080}]}]"),
        asks: &[
            ("GRPC a.test/a.B/C | version: two", "200 v2"),
            ("GRPC a.test/a.B/C", "200 v1"),
        ],
        ..CASE
    },
    Case {
        name: "GRPCRouteRule.backendRefs: what cannot be used is UNAVAILABLE",
        manifests: grpc!("r", "rules: [{backendRefs: [{name: nobody, port: 8080}]}]"),
        asks: &[("GRPC a.test/a.B/C", "200 <grpc-status=14")],
        statuses: &["GRPCRoute r Gateway $NS/gw: Accepted=True ResolvedRefs=BackendNotFound"],
        ..CASE
    },
    Case {
        name: "GRPCRoute beside HTTPRoute: of one hostname the older kind alone",
        manifests: concat!(
            grpc!("a-grpc", "hostnames: [one.test], rules: [{backendRefs: [{name: v1, port: 8080}]}]"),
            http!("b-http", "hostnames: [one.test], rules: [{backendRefs: [{name: v2, port: 8080}]}]"),
            http!("c-http", "hostnames: [two.test], rules: [{backendRefs: [{name: v3, port: 8080}]}]")),
        asks: &[
            ("GET one.test/", "200 v1"),
            ("GET two.test/", "200 v3"),
        ],
        statuses: &[
            "GRPCRoute a-grpc Gateway $NS/gw: Accepted=True",
            "HTTPRoute b-http Gateway $NS/gw: Accepted=Conflicted",
            "HTTPRoute c-http Gateway $NS/gw: Accepted=True",
        ],
        ..CASE
    },
    Case {
        name: "TCPRoute: connections to a backend",
        manifests: concat!(
            gateway!("{name: tcp, port: $PORT, protocol: TCP}"),
            "---\n{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {name: t, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: v2, port: 8080}, {name: v3, port: 8080, weight: 0}]}]}}\n"),
        asks: &[("GET any.test/x", "200 v2 path=/x host=any.test")],
        statuses: &[
            "TCPRoute t Gateway $NS/gw: Accepted=True ResolvedRefs=True",
            "Gateway gw tcp: Accepted=True Programmed=True routes=1",
        ],
        ..CASE
    },
    Case {
        name: "GatewayClass: of another controller it is nobody's",
        manifests: concat!(
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: $NS}, spec: {controllerName: other.test/controller}}\n",
            "---\n{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, spec: {gatewayClassName: $NS, addresses: [{value: $ADDRESS}], listeners: [{name: http, port: $PORT, protocol: HTTP}]}, kind: Gateway}\n",
            http!("r", "rules: [{backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[],
        statuses: &["HTTPRoute r none: "],
        is_silent: true,
        ..CASE
    },
    Case {
        name: "GEP-1426: an HTTPRoute on a Service is for all who ask for it",
        manifests: concat!(
            http!("r", "{group: '', kind: Service, name: v1, port: 8080}", "rules: [
                {matches: [{headers: [{name: version, value: two}]}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-more, value: m}]}}], backendRefs: [{name: v2, port: 8080}]},
                {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]},
                {matches: [{path: {value: /own}}], backendRefs: [{name: v1, port: 8080}]}]"),
            http!("nobody", "{group: '', kind: Service, name: nobody}", "rules: [{backendRefs: [{name: v1, port: 8080}]}]")),
        asks: &[
            ("GET v1.$NS:8080/x | version: two", "200 v2 <x-more=m"),
            ("GET v1.$NS.svc.cluster.local:8080/x | version: two", "200 v2"),
            ("GET v1.$NS:8080/own", "200 v1"),
            ("GET v1.$NS:8080/old", "302 <location=http://v1.$NS:8080/new"),
            ("GET v1.$NS:8080/x", "404"),
            ("GET v2.$NS:8080/x", "200 v2"),
        ],
        statuses: &[
            "HTTPRoute r Service $NS/v1:8080: Accepted=True ResolvedRefs=True",
            "HTTPRoute nobody Service $NS/nobody: Accepted=NoMatchingParent",
        ],
        mesh: true,
        ..CASE
    },
    Case {
        name: "GEP-1426, Namespace boundaries: no grant is needed, and a route of another namespace is for clients there",
        manifests: concat!(
            http!("here", "{group: '', kind: Service, name: v1}", "rules: [{backendRefs: [{name: v2, namespace: $NS-other, port: 8080}]}]"),
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: there, namespace: $NS-other}, spec: {parentRefs: [{group: '', kind: Service, name: v1, namespace: $NS}], rules: [{backendRefs: [{name: v3, namespace: $NS, port: 8080}]}]}}\n"),
        asks: &[("GET v1.$NS:8080/x", "200 v2")],
        statuses: &[
            "HTTPRoute here Service $NS/v1: Accepted=True ResolvedRefs=True",
            "HTTPRoute there Service $NS/v1: Accepted=True ResolvedRefs=True",
        ],
        mesh: true,
        ..CASE
    },
    Case {
        name: "GEP-1426, Route types: of two kinds at a port of a Service the more specific one has it",
        manifests: concat!(
            http!("h", "{group: '', kind: Service, name: v1}", "rules: [{backendRefs: [{name: v2, port: 8080}]}]"),
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: younger, namespace: $NS}, spec: {parentRefs: [{group: '', kind: Service, name: v1, port: 8080}], rules: [{matches: [{method: {service: a.B}}], backendRefs: [{name: v3, port: 8080}]}]}}\n",
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: t, namespace: $NS}, spec: {parentRefs: [{group: '', kind: Service, name: v1}], rules: [{backendRefs: [{name: v3, port: 8080}]}]}}\n"),
        asks: &[
            ("GRPC v1.$NS:8080/a.B/C", "200 v3"),
            ("GET v1.$NS:8080/x", "404"),
        ],
        statuses: &[
            "GRPCRoute younger Service $NS/v1:8080: Accepted=True",
            "HTTPRoute h Service $NS/v1: Accepted=Conflicted",
            "TCPRoute t Service $NS/v1: Accepted=UnsupportedValue",
        ],
        mesh: true,
        ..CASE
    },
    Case {
        name: "ParentReference.sectionName: of a Service it is the name of a port",
        manifests: concat!(
            "---\n{apiVersion: v1, kind: Service, metadata: {name: two, namespace: $NS}, spec: {clusterIP: None, ports: [{name: http, port: 8080}, {name: grpc, port: 9090}]}}\n",
            http!("h", "{group: '', kind: Service, name: two, sectionName: http}", "rules: [{backendRefs: [{name: v2, port: 8080}]}]"),
            http!("none", "{group: '', kind: Service, name: two, sectionName: nonsense}", "rules: [{backendRefs: [{name: v1, port: 8080}]}]"),
            "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: g, namespace: $NS}, spec: {parentRefs: [{group: '', kind: Service, name: two, sectionName: grpc}], rules: [{backendRefs: [{name: v3, port: 8080}]}]}}\n"),
        asks: &[
            ("GET two.$NS:8080/x", "200 v2"),
            ("GRPC two.$NS:9090/a.B/C", "200 v3"),
        ],
        statuses: &[
            "HTTPRoute h Service $NS/two http: Accepted=True",
            "GRPCRoute g Service $NS/two grpc: Accepted=True",
            "HTTPRoute none Service $NS/two nonsense: Accepted=NoMatchingParent",
        ],
        mesh: true,
        ..CASE
    },
    Case {
        name: "A path is what it is after normalization, for its route and its endpoint",
        manifests: http!("r", "rules: [{matches: [{path: {value: /public}}], backendRefs: [{name: v1, port: 8080}]}, {matches: [{path: {value: /admin}}], backendRefs: [{name: v2, port: 8080}]}]"),
        asks: &[
            ("GET a.test/public/../admin", "200 v2 path=/admin"),
            ("GET a.test/public/%2e%2e/admin", "200 v2 path=/admin"),
            ("GET a.test/%61dmin", "200 v2"),
            ("GET a.test/public/./x", "200 v1 path=/public/x"),
            ("GET a.test/Admin", "404"),
        ],
        ..CASE
    },
];
