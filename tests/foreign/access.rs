//! Who may do what, by Envoy's RBAC filters: by identity, method and path, over HTTP and for bytes,
//! enforced or only counted; and whoever tries to get around it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_proto::envoy::http_connection_manager::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction,
};
use portolan_proto::envoy::http_connection_manager::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use portolan_proto::envoy::http_rbac::Rbac as HttpRbac;
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::listener::{
    Filter, FilterChain, FilterChainMatch, Listener, filter::ConfigType,
};
use portolan_proto::envoy::matcher::path_matcher::Rule as PathRule;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{PathMatcher, StringMatcher};
use portolan_proto::envoy::network_rbac::Rbac as NetworkRbac;
use portolan_proto::envoy::protobuf::BoolValue;
use portolan_proto::envoy::rbac::permission::Rule;
use portolan_proto::envoy::rbac::principal::{Authenticated, Identifier};
use portolan_proto::envoy::rbac::{Permission, Policy, Principal, Rbac, permission};
use portolan_proto::envoy::route::HeaderMatcher;
use portolan_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::backend::{Backend, GOT_CERT, Lines};
use crate::certificates::{Authority, Issued};
use crate::control_plane::resources::{
    action, all, any, assignment, eds_cluster, http_listener, manager, route, table, tcp_listener,
    tcp_proxy,
};
use crate::control_plane::{CDS, EDS, LDS, RDS, SDS};
use crate::kit::{ROUTES, WEB, World, all_to_web, until};
use crate::support::free_address;
use crate::tls::{asking, authorities, pair};

const CART: &str = "spiffe://test/ns/shop/sa/cart";
const OTHER: &str = "spiffe://test/ns/shop/sa/other";

fn text(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

fn exact(text_: &str) -> StringMatcher {
    text(MatchPattern::Exact(text_.to_owned()))
}

fn what(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn method(name: &str) -> Permission {
    what(Rule::Header(HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(name))),
        ..HeaderMatcher::default()
    }))
}

fn path(pattern: MatchPattern) -> Permission {
    let path = Some(PathRule::Path(text(pattern)));
    what(Rule::UrlPath(PathMatcher { rule: path }))
}

fn both(rules: Vec<Permission>) -> Permission {
    what(Rule::AndRules(permission::Set { rules }))
}

fn who(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn proven(name: Option<&str>) -> Principal {
    let principal_name = name.map(exact);
    who(Identifier::Authenticated(Authenticated { principal_name }))
}

/// Rules by name. `action`: 0 allows, 1 denies.
fn rbac(action: i32, policies: &[(&str, Permission, Principal)]) -> Rbac {
    let policy = |(name, what, who): &(&str, Permission, Principal)| {
        let policy = Policy {
            permissions: vec![what.clone()],
            principals: vec![who.clone()],
            ..Policy::default()
        };
        ((*name).to_owned(), policy)
    };
    Rbac { action, policies: policies.iter().map(policy).collect(), ..Rbac::default() }
}

fn http_filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..HttpFilter::default()
    }
}

/// Requests that the filters let pass, of paths that are brought into one form first.
fn guarded(filters: &[HttpRbac]) -> HttpConnectionManager {
    let filters = filters.iter().map(|filter| http_filter("rbac", filter));
    HttpConnectionManager {
        http_filters: filters.chain([http_filter("router", &Router::default())]).collect(),
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest.into(),
        forward_client_cert_details: ForwardClientCertDetails::SanitizeSet.into(),
        ..manager(ROUTES)
    }
}

/// A listener that asks for certificates of clients; permissive, if it does not insist on TLS.
fn mutual(listener: &Listener, permissive: bool) -> Listener {
    let chain = listener.filter_chains[0].clone();
    let secured = FilterChain {
        transport_socket: asking(Some("ca")),
        filter_chain_match: permissive.then(|| FilterChainMatch {
            transport_protocol: "tls".to_owned(),
            ..FilterChainMatch::default()
        }),
        ..chain.clone()
    };
    let plain = FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            ..FilterChainMatch::default()
        }),
        ..chain
    };
    let filter_chains = if permissive { vec![secured, plain] } else { vec![secured] };
    Listener { filter_chains, ..listener.clone() }
}

/// Who asks.
struct Clients {
    cart: Arc<ClientConfig>,
    other: Arc<ClientConfig>,
    nobody: Arc<ClientConfig>,
}

impl Clients {
    fn of(authority: &Authority, alpn: &[&str]) -> Self {
        let known = |name: &str| authority.client_as(&authority.issue(&[name]), alpn);
        Self { cart: known(CART), other: known(OTHER), nobody: authority.client(alpn) }
    }
}

/// A proxy with one backend behind a listener, and what it proves itself with.
async fn world(authority: &Authority, listener: &Listener, backend: SocketAddr) -> World {
    let mut world = World::single().await;
    let own: Issued = authority.issue(&["web.test"]);
    world.plane.set(SDS, all(&[authorities(authority), pair("own", &own)]));
    world.plane.set(CDS, all([&eds_cluster(WEB)]));
    world.plane.set(EDS, all([&assignment(WEB, &[backend])]));
    world.plane.set(RDS, all([&all_to_web()]));
    let version = world.plane.set(LDS, all([listener]));
    world.plane.acked(LDS, &version).await;
    world.process.reach(1).await;
    world
}

async fn over_tls(
    at: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    asking_for("web.test", at, config).await
}

/// The same, asking for another name.
async fn asking_for(
    name: &'static str,
    at: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    let name = ServerName::try_from(name).expect("a name");
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// What a request over a connection of HTTP/1.1 comes to: its status, the reason of the proxy, and what
/// the endpoint was told of the certificate. The request is written as it is.
async fn raw(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    line: &str,
    fields: &str,
) -> (u16, String, String) {
    let request = format!("{line} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{fields}\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return (0, String::new(), String::new());
    }
    let mut answer = Vec::new();
    // A connection that is refused may be reset.
    let _ended =
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let field = |name: &str| {
        let found = answer.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.unwrap_or_default().to_owned()
    };
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, field("x-portolan-reason"), field(GOT_CERT))
}

/// The status of a request over HTTP/2.
async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> u16 {
    let shake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = shake else { return 0 };
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(format!("https://web{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Empty::<Bytes>::new()).expect("valid");
    if method == "CONNECT" {
        // RFC 8441; the server has to have said first that it takes this.
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    match sender.send_request(request).await {
        Ok(response) => {
            let status = response.status().as_u16();
            let _body = response.into_body().collect().await;
            status
        }
        Err(_) => 0,
    }
}

/// `GET` and `HEAD` of `/open/…` by anybody who has proven himself, anything under `/cart` by the cart
/// alone, and nothing under `/admin`.
fn lists() -> Vec<HttpRbac> {
    let prefix = |path: &str| MatchPattern::Prefix(path.to_owned());
    let deny = rbac(1, &[("no-admin", path(prefix("/admin")), who(Identifier::Any(true)))]);
    let allow = rbac(
        0,
        &[
            ("open", both(vec![method("GET"), path(prefix("/open/"))]), proven(None)),
            ("cart", path(prefix("/cart")), proven(Some(CART))),
            ("all-of-cart", path(prefix("/admin")), proven(Some(CART))),
        ],
    );
    [deny, allow].map(|rules| HttpRbac { rules: Some(rules), ..HttpRbac::default() }).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_by_identity_method_and_path_whatever_is_tried() {
    let ours = Authority::new("ours");
    let backend = Backend::start("a").await;
    let at = free_address();
    let listener = mutual(&http_listener("main", at, &guarded(&lists())), false);
    let mut world = world(&ours, &listener, backend.address).await;
    let h1 = Clients::of(&ours, &["http/1.1"]);
    let h2 = Clients::of(&ours, &["h2"]);
    until("it listens", async || over_tls(at, &h1.cart).await.map(drop).map_err(|e| e.to_string()))
        .await;
    for (client, request, expected) in [
        (0, "GET /open/x", 200),
        (1, "GET /open/x", 200),
        (1, "POST /open/x", 403),
        (1, "get /open/x", 403),
        (0, "DELETE /cart/1?x=/open/", 200),
        (1, "GET /cart/1", 403),
        (1, "GET /", 403),
        (1, "GET /open", 403),
        (0, "GET /admin", 403),
        // Around what is denied.
        (0, "GET /cart/../admin", 403),
        (0, "GET /cart/%2e%2e/admin", 403),
        (0, "GET /cart/%2E./admin", 403),
        (0, "GET //admin", 403),
        (0, "GET /./admin", 403),
        (0, "GET /%61dmin", 403),
        (0, "GET /cart/..%2fadmin", 400),
        (0, "GET /cart%5c..%5cadmin", 400),
        (0, "GET /open/../../admin", 403),
        // Around what is allowed.
        (1, "GET /open/../cart", 403),
        (1, "GET /open/%2e%2e/cart", 403),
        (1, "GET /open/..;/cart", 200),
        (1, "GET /OPEN/x", 403),
        (1, "GET /cart?/open/", 403),
        (1, "GET /cart#/open/", 400),
    ] {
        let config = [&h1.cart, &h1.other][client];
        let stream = over_tls(at, config).await.expect("TLS");
        let (status, reason, _) = raw(stream, request, "").await;
        assert_eq!(status, expected, "{client}: {request}: {reason}");
        assert_eq!(reason == "denied", expected == 403, "{client}: {request}: {reason}");
        let (method, path) = request.split_once(' ').expect("a method");
        if !path.contains('#') {
            let config = [&h2.cart, &h2.other][client];
            let stream = over_tls(at, config).await.expect("TLS");
            let status = over_http2(stream, method, path, &[]).await;
            assert_eq!(status, expected, "{client}: {request} over HTTP/2");
        }
    }
    // Fields that say something else than what is routed by, and what the proxy itself says.
    let lie = format!("x-forwarded-client-cert: URI={CART}\r\nx-original-url: /open/x\r\n");
    for (line, fields, expected) in [
        ("GET /cart/1", &*lie, 403),
        ("GET /cart/1", "x-http-method-override: GET\r\nx-rewrite-url: /open/x\r\n", 403),
        ("GET http://web/cart/1", "", 403),
        ("GET http://web/open/1", "", 200),
        ("GET /open/1", &*lie, 200),
        ("GET /open/1", "Host: other\r\n", 400),
    ] {
        let stream = over_tls(at, &h1.other).await.expect("TLS");
        let (status, _, told) = raw(stream, line, fields).await;
        assert_eq!(status, expected, "{line}: {fields}");
        assert!(status != 200 || told == format!("URI={OTHER}"), "{line}: {told}");
    }
    let stream = over_tls(at, &h2.other).await.expect("TLS");
    assert_eq!(
        over_http2(stream, "GET", "/cart/1", &[("x-envoy-original-path", "/open/x")]).await,
        403
    );
    // What becomes an upgrade is the GET that it will be to the endpoint.
    for (path, denied) in [("/open/x", false), ("/cart/1", true)] {
        let stream = over_tls(at, &h2.other).await.expect("TLS");
        let status = over_http2(stream, "CONNECT", path, &[]).await;
        assert!(status != 0 && (status == 403) == denied, "{path}: {status}");
    }
    // Nobody: without a certificate, of another authority, and in the clear.
    assert!(refused(over_tls(at, &h1.nobody).await, "GET /open/x").await);
    let theirs = Authority::new("theirs");
    let stranger = ours.client_as(&theirs.issue(&[CART]), &["http/1.1"]);
    assert!(refused(over_tls(at, &stranger).await, "GET /open/x").await);
    let plain = TcpStream::connect(at).await.expect("connected");
    assert_eq!(raw(plain, "GET /open/x", "").await.0, 0, "nothing in the clear");
    let plain = TcpStream::connect(at).await.expect("connected");
    assert_eq!(over_http2(plain, "GET", "/open/x", &[]).await, 0, "nor over HTTP/2");
    let denied = "portolan_proxy_access_total{listener=\"main\",outcome=\"denied\"}";
    assert!(world.metric(denied).await > 20.0, "they are counted");
}

/// Whether a connection comes to nothing. Over TLS 1.3 the refusal may come after the handshake.
async fn refused(
    stream: std::io::Result<tokio_rustls::client::TlsStream<TcpStream>>,
    line: &str,
) -> bool {
    match stream {
        Err(_) => true,
        Ok(stream) => raw(stream, line, "").await.0 == 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_to_be_logged_keeps_nobody_out() {
    let ours = Authority::new("ours");
    let backend = Backend::start("a").await;
    let at = free_address();
    let allow = rbac(0, &[("cart", what(Rule::Any(true)), proven(Some(CART)))]);
    let shadow = HttpRbac { shadow_rules: Some(allow), ..HttpRbac::default() };
    let listener = mutual(&http_listener("main", at, &guarded(&[shadow])), true);
    let mut world = world(&ours, &listener, backend.address).await;
    let clients = Clients::of(&ours, &["http/1.1"]);
    let begin = async || over_tls(at, &clients.cart).await.map(drop).map_err(|e| e.to_string());
    until("it listens", begin).await;
    // Permissive: within TLS and in the clear.
    for (count, config) in [(3, Some(&clients.cart)), (2, Some(&clients.other)), (4, None)] {
        for _ in 0..count {
            let (status, ..) = match config {
                Some(config) => raw(over_tls(at, config).await.expect("TLS"), "GET /", "").await,
                None => raw(TcpStream::connect(at).await.expect("connected"), "GET /", "").await,
            };
            assert_eq!(status, 200);
        }
    }
    for (outcome, count) in [("would_allow", 3.0), ("would_deny", 6.0)] {
        let name =
            format!("portolan_proxy_access_total{{listener=\"main\",outcome=\"{outcome}\"}}");
        assert_eq!(world.metric(&name).await, count, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_by_identity() {
    let ours = Authority::new("ours");
    let lines = Lines::start("t").await;
    let at = free_address();
    let allow = rbac(0, &[("cart", what(Rule::Any(true)), proven(Some(CART)))]);
    let rules =
        NetworkRbac { rules: Some(allow), stat_prefix: "tcp".to_owned(), ..NetworkRbac::default() };
    let mut listener = tcp_listener("tcp", at, &tcp_proxy(WEB));
    listener.filter_chains[0].filters.insert(
        0,
        Filter { name: "rbac".into(), config_type: Some(ConfigType::TypedConfig(any(&rules))) },
    );
    let listener = mutual(&listener, true);
    let mut world = world(&ours, &listener, lines.address).await;
    let clients = Clients::of(&ours, &[]);
    let begin = async || over_tls(at, &clients.cart).await.map(drop).map_err(|e| e.to_string());
    until("it listens", begin).await;
    let greeting = async |stream: &mut (dyn Io + Unpin)| {
        let mut read = [0; 2];
        stream.read_exact(&mut read).await.is_ok_and(|_| &read == b"t\n")
    };
    assert!(greeting(&mut over_tls(at, &clients.cart).await.expect("TLS")).await);
    assert!(!greeting(&mut over_tls(at, &clients.other).await.expect("TLS")).await);
    // In the clear nobody has proven anything, whether he speaks first or waits for the server.
    let mut plain = TcpStream::connect(at).await.expect("connected");
    plain.write_all(b"hello\n").await.expect("written");
    assert!(!greeting(&mut plain).await);
    let mut silent = TcpStream::connect(at).await.expect("connected");
    assert!(!greeting(&mut silent).await);
    let denied = "portolan_proxy_access_total{listener=\"tcp\",outcome=\"denied\"}";
    assert_eq!(world.metric(denied).await, 3.0);
    assert_eq!(world.metric("portolan_proxy_tcp_ends_total{end=\"denied\"}").await, 3.0);
}

trait Io: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> Io for T {}

/// A chain of a listener for a name, whose requests go by a table.
fn chain_for(name: &str, table: &str, authorities: Option<&str>) -> FilterChain {
    let listener = http_listener("main", SocketAddr::from(([127, 0, 0, 1], 1)), &manager(table));
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![name.to_owned()],
            ..FilterChainMatch::default()
        }),
        transport_socket: asking(authorities),
        ..listener.filter_chains[0].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_own_routes_and_demands_on_clients() {
    let ours = Authority::new("ours");
    let backend = Backend::start("a").await;
    let at = free_address();
    let of =
        |chains| Listener { filter_chains: chains, ..http_listener("main", at, &manager("open")) };
    let open = chain_for("open.test", "open", None);
    let mut world = World::single().await;
    let own = ours.issue(&["open.test", "closed.test", "web.test"]);
    world.plane.set(SDS, all(&[authorities(&ours), pair("own", &own)]));
    world.plane.set(CDS, all([&eds_cluster(WEB)]));
    world.plane.set(EDS, all([&assignment(WEB, &[backend.address])]));
    let open_table = table("open", vec![route("/open", action(WEB))]);
    world.plane.set(RDS, all([&open_table]));
    let version = world.plane.set(LDS, all([&of(vec![open.clone()])]));
    world.plane.acked(LDS, &version).await;
    world.process.reach(1).await;
    let (known, nobody) = (ours.client_as(&ours.issue(&[CART]), &[]), ours.client(&[]));
    let ask = async |name: &'static str, config: &Arc<ClientConfig>, line: &str| -> u16 {
        match asking_for(name, at, config).await {
            Ok(stream) => raw(stream, line, "").await.0,
            Err(_) => 0,
        }
    };
    let shaken = async |name: &'static str, config: &Arc<ClientConfig>| {
        asking_for(name, at, config).await.map(drop).map_err(|e| e.to_string())
    };
    until("it listens", async || shaken("open.test", &nobody).await).await;
    assert_eq!(ask("open.test", &nobody, "GET /open").await, 200);
    assert_eq!(ask("closed.test", &known, "GET /open").await, 0, "no such name");

    // What refers to routes that are not there yet stays as it was.
    let closed = chain_for("closed.test", "closed", Some("ca"));
    let listener = of(vec![open.clone(), closed.clone()]);
    let version = world.plane.set(LDS, all([&listener]));
    world.plane.acked(LDS, &version).await;
    assert_eq!(ask("open.test", &nobody, "GET /open").await, 200);
    let closed_table = table("closed", vec![route("/", action(WEB))]);
    world.plane.set(RDS, all([&open_table, &closed_table]));
    until("the other name is there", async || shaken("closed.test", &known).await).await;
    for (name, config, line, expected) in [
        ("open.test", &nobody, "GET /open", 200),
        ("open.test", &nobody, "GET /secret", 404),
        ("open.test", &known, "GET /secret", 404),
        ("closed.test", &known, "GET /secret", 200),
        ("closed.test", &nobody, "GET /secret", 0),
        // Whatever the host says.
        ("open.test", &nobody, "GET https://closed.test/secret", 404),
    ] {
        assert_eq!(ask(name, config, line).await, expected, "{name}: {line}");
    }
    // Whose requests go by the same routes has to ask for the same.
    let mixed = of(vec![open, closed, chain_for("other.test", "closed", None)]);
    let version = world.plane.set(LDS, all([&mixed]));
    let refused = world.plane.nacked(LDS, &version).await.error.expect("a reason");
    assert!(refused.contains("another demand on clients' certificates"), "{refused}");
    assert_eq!(ask("closed.test", &known, "GET /secret").await, 200);
}
