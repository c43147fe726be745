//! The configuration: one TOML or YAML file, variables and flags over it, typed and immutable.

mod access_log;
mod certificates;
mod dns;
mod guard;
mod identity;
mod listeners;
pub(crate) mod print;
pub(crate) mod reader;
mod tracing;
mod xds;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use portolan_control::{Connect, GuardLimits, Pace, ServiceRanges};
use portolan_model::{Balancer, DnsName};
use portolan_proxy::{AccessLog, DecisionRecords};
use portolan_runtime::telemetry::LogFormat;
use portolan_xds::{CertificateSpec, ClientTls, ListenerSpec, OwnSource, Token};
use serde_json::Value;

use crate::traces::Tracing;
pub(crate) use dns::Dns;
use reader::{Reader, Shown, Texts};
pub(crate) use xds::Xds;

/// Everything that can be set.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) log_filter: String,
    pub(crate) log_format: LogFormat,
    pub(crate) admin: SocketAddr,
    pub(crate) zone: DnsName,
    pub(crate) cluster_set_zone: DnsName,
    pub(crate) drain: Duration,
    pub(crate) control: Control,
    pub(crate) xds: Xds,
    pub(crate) dns: Dns,
    pub(crate) proxy: Proxy,
    pub(crate) certificates: Vec<CertificateSpec>,
    pub(crate) listeners: Vec<ListenerSpec>,
}

#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) source: Source,
    pub(crate) snapshot_file: Option<PathBuf>,
    pub(crate) pace: Pace,
    /// Who writes Events, if any are to be written.
    pub(crate) events_as: Option<String>,
    pub(crate) service_ranges: ServiceRanges,
    pub(crate) balancer: Balancer,
    /// Whether objects of the Gateway API are watched.
    pub(crate) gateway_api: bool,
    /// The name to write statuses of its objects by, if they are written.
    pub(crate) statuses_as: Option<String>,
    /// Where Gateways listen that ask for no address.
    pub(crate) gateway_address: IpAddr,
    pub(crate) guard: GuardLimits,
}

/// Where services and endpoints come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A folder or file of manifests.
    Manifests(PathBuf),
    /// A Kubernetes API.
    Kubernetes(Connect),
    /// None is set: only a proxy can run.
    None,
}

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) control: Option<String>,
    pub(crate) tls: ClientTls,
    pub(crate) token: Option<Token>,
    pub(crate) node_id: String,
    pub(crate) node_name: Option<String>,
    pub(crate) zone: Option<String>,
    /// The namespace that its requests come from.
    pub(crate) namespace: Option<String>,
    /// The Gateways that it serves; `None`: all that this process knows.
    pub(crate) gateways: Option<String>,
    /// The services in front of whose endpoints it stands.
    pub(crate) serves: Option<String>,
    /// Where it listens there.
    pub(crate) inbound_address: Option<IpAddr>,
    /// The service account that it asks to be.
    pub(crate) service_account: Option<String>,
    pub(crate) own: Option<OwnSource>,
    pub(crate) workers: usize,
    pub(crate) max_connections: usize,
    pub(crate) endpoint_metrics: usize,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) decisions: DecisionRecords,
    pub(crate) tracing: Option<Tracing>,
    /// Where a process that starts meets the one that runs.
    pub(crate) restart_socket: Option<PathBuf>,
    /// Whether a process that was succeeded stays until it is told to stop.
    pub(crate) restart_lingers: bool,
}

/// Builds the configuration; `defaults` stand in for the built-in ones.
///
/// # Errors
/// When the file cannot be read, or with every problem found in it, a line each.
pub(crate) fn load(
    file: Option<&Path>,
    flags: Texts,
    defaults: &[(&'static str, String)],
) -> anyhow::Result<(Config, Vec<Shown>)> {
    let value = file.map(read_file).transpose()?.unwrap_or_default();
    let environment = Texts::from_environment(std::env::vars());
    let mut reader = Reader::new(flags, environment, value).with_defaults(defaults);
    let config = read(&mut reader);
    match (config, reader.finish()) {
        (Some(config), Ok(shown)) => Ok((config, shown)),
        (_, Err(problems)) => bail!("the configuration is not valid:\n  {}", problems.join("\n  ")),
        (None, Ok(_)) => bail!("the configuration is not valid"),
    }
}

fn read_file(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let is_toml = path.extension().is_none_or(|e| e == "toml");
    if is_toml {
        toml::from_str(&text).with_context(|| format!("{} is not valid TOML", path.display()))
    } else {
        serde_saphyr::from_str(&text)
            .map_err(|e| anyhow::anyhow!("{} is not valid YAML: {e}", path.display()))
    }
}

fn read(r: &mut Reader) -> Option<Config> {
    let log_filter =
        r.text("log.filter", "info", "Which log lines are written, as a tracing filter");
    let log_format = r.word(
        "log.format",
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        "How log lines look: text or json",
    );
    let admin =
        r.text("admin.address", "127.0.0.1:15000", "Where /metrics, /livez and /readyz are");
    let name = |text: &str| DnsName::parse(text).map_err(|e| e.to_string());
    let zone = r.text_with("zone", "cluster.local", "DNS zone of the cluster", name);
    let cluster_set_zone = r.text_with(
        "cluster_set_zone",
        "clusterset.local",
        "DNS zone of services that a set of clusters shares",
        name,
    );
    if zone.is_some() && zone == cluster_set_zone {
        r.reject("cluster_set_zone", "is the zone of the cluster itself");
    }
    let drain = r.integer(
        "drain.deadline_secs",
        30,
        0..=86_400,
        "Longest time in seconds for what is in flight when asked to stop",
    );
    let control = control(r);
    let certificates = certificates::read(r);
    let xds = xds::read(r, &certificates);
    xds::check_admin(r, xds.as_ref(), admin);
    let dns = dns::read(r);
    let proxy = proxy(r);
    let listeners = listeners::read(r);
    certificates::check(r, &certificates, &listeners);
    Some(Config {
        log_filter: log_filter?,
        log_format,
        admin: admin?,
        zone: zone?,
        cluster_set_zone: cluster_set_zone?,
        drain: Duration::from_secs(drain),
        control: control?,
        xds: xds?,
        dns: dns?,
        proxy,
        certificates,
        listeners,
    })
}

fn control(r: &mut Reader) -> Option<Control> {
    let source = source(r);
    let snapshot_file = r.optional(
        "control.snapshot_file",
        "File with a copy of the last snapshot, to start from while the Kubernetes API is away",
    );
    let delay_ms = r.integer(
        "control.publish_delay_ms",
        100,
        1..=10_000,
        "Longest time in milliseconds that a change of the Kubernetes API waits for others",
    );
    let identity = r.optional(
        "control.identity",
        "Name of this replica, unique among all; empty: the host's name, which a pod shares with \
         nobody",
    );
    let identity = identity
        .or_else(|| std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| format!("portolan-{}", std::process::id()));
    let events = r.word(
        "control.events",
        &[("off", false), ("on", true)],
        "Whether refused objects get an Event, written by the holder of a Lease: off or on",
    );
    let share: u32 = r.integer(
        "control.publish_share_percent",
        10,
        1..=100,
        "Share of one core that publishing may take before changes wait for others",
    );
    let ranges: Vec<IpNet> = r.texts(
        "control.service_ranges",
        &["10.96.0.0/16"],
        "Ranges for services without a clusterIP, one per IP family, the primary one first",
    );
    let service_ranges = ServiceRanges::new(ranges)
        .map_err(|e| r.reject("control.service_ranges", &e.to_string()))
        .ok();
    let balancer = r.word(
        "control.balancer",
        &Balancer::WORDS,
        "How an endpoint is picked where the service does not say: peak_ewma, least_request, \
         round_robin, ring_hash, maglev, client_side_weighted_round_robin, pick_first or random",
    );
    let gateway_api = r.word(
        "control.gateway_api",
        &[("on", true), ("off", false)],
        "Whether objects of the Gateway API are read from a Kubernetes API: on or off",
    );
    let statuses = r.word(
        "control.gateway_status",
        &[("on", true), ("off", false)],
        "Whether objects of the Gateway API get their status, written by the holder of a Lease: on \
         or off",
    );
    let gateway_address = r.text(
        "control.gateway_address",
        "0.0.0.0",
        "Address that proxies listen on for Gateways that ask for none",
    );
    let guard = guard::read(r);
    Some(Control {
        source,
        events_as: events.then(|| identity.clone()),
        statuses_as: statuses.then_some(identity),
        snapshot_file: snapshot_file.map(Into::into),
        pace: Pace { max_delay: Duration::from_millis(delay_ms), share: f64::from(share) / 100.0 },
        service_ranges: service_ranges?,
        balancer,
        gateway_api,
        gateway_address: gateway_address?,
        guard,
    })
}

fn source(r: &mut Reader) -> Source {
    let manifests = r.optional(
        "control.manifests",
        "Folder or file of Kubernetes manifests; the control and dns roles need it or a \
         Kubernetes API",
    );
    let kubernetes = r.word(
        "control.kubernetes",
        &[("off", false), ("on", true)],
        "Whether the source is a Kubernetes API: off or on",
    );
    let kubeconfig = r.optional(
        "control.kubeconfig",
        "Kubeconfig of the API; empty: the pod's service account, else KUBECONFIG or ~/.kube/config",
    );
    let context =
        r.optional("control.context", "Context of the kubeconfig; empty: its current one");
    match (manifests, kubernetes) {
        (Some(_), true) => {
            r.reject("control.manifests", "not used with control.kubernetes: set one of the two");
            Source::None
        }
        (Some(path), false) => Source::Manifests(path.into()),
        (None, true) => {
            Source::Kubernetes(Connect { kubeconfig: kubeconfig.map(Into::into), context })
        }
        (None, false) => Source::None,
    }
}

fn proxy(r: &mut Reader) -> Proxy {
    let control = r.optional(
        "proxy.control",
        "Control plane of a proxy that runs alone, such as http://10.0.0.1:15010",
    );
    let tls = client_tls(r);
    let token = r.optional(
        "proxy.token_file",
        "File with the token that a proxy that runs alone shows the control plane",
    );
    let node_id = r.optional("proxy.node_id", "Id of this proxy; empty: made from the process id");
    Proxy {
        control,
        tls,
        token: token.map(|path| Token::File(path.into())),
        node_id: node_id.unwrap_or_else(|| format!("portolan-{}", std::process::id())),
        node_name: r.optional(
            "proxy.node_name",
            "The Kubernetes node this proxy runs on; its zone is that of the node",
        ),
        zone: r.optional("proxy.zone", "The zone this proxy runs in; empty: that of its node"),
        namespace: r.optional(
            "proxy.namespace",
            "The namespace this proxy's requests come from, whose own routes on Services they go by; \
             empty: that of its service account",
        ),
        gateways: r.optional(
            "proxy.gateways",
            "Gateways that this proxy serves, such as shop/web, between commas, or *; empty: all in \
             the process of the control plane, none elsewhere",
        ),
        serves: identity::services(r),
        inbound_address: identity::inbound_address(r),
        service_account: identity::service_account(r),
        own: identity::own(r),
        workers: r.integer("proxy.workers", 0, 0..=1024, "Worker threads; 0 is one per core"),
        max_connections: r.integer(
            "proxy.max_connections",
            16_384,
            1..=10_000_000,
            "Connections per worker and listener; more are closed at once",
        ),
        endpoint_metrics: r.integer(
            "proxy.endpoint_metrics",
            64,
            0..=10_000,
            "Endpoints up to which a cluster has metrics for each of them; 0: none has",
        ),
        access_log: access_log::read(r),
        decisions: decisions(r),
        tracing: tracing::read(r),
        restart_socket: r
            .optional(
                "proxy.restart_socket",
                "Unix socket at which a process that starts takes over the listening sockets of the \
                 one that runs; empty: none does",
            )
            .map(Into::into),
        restart_lingers: r.word(
            "proxy.restart_linger",
            &[("off", false), ("on", true)],
            "Whether a process that has handed over and drained stays, idle, until it is told to \
             stop: off or on",
        ),
    }
}

fn decisions(r: &mut Reader) -> DecisionRecords {
    DecisionRecords {
        failed: r.integer(
            "proxy.decisions.failed",
            128,
            0..=100_000,
            "How many of the requests that failed last have a record of why they went where they \
             did (`portolan why`); 0: none has",
        ),
        good: r.integer(
            "proxy.decisions.good",
            32,
            0..=100_000,
            "How many of the others that were sampled last have one; 0: none has",
        ),
        sample_per_million: r.share(
            "proxy.decisions.sample",
            0.001,
            "Share of the others that have one, from 0 to 1",
        ),
    }
}

/// TLS of a proxy that runs alone with an `https` control plane.
fn client_tls(r: &mut Reader) -> ClientTls {
    let ca = r.optional(
        "proxy.control_ca",
        "PEM file of the authorities that the certificate of an https control plane may be from",
    );
    let chain = r.optional("proxy.certificate", "PEM file of the proxy's own certificate chain");
    let key = r.optional("proxy.key", "PEM file of its key");
    let server_name = r.optional(
        "proxy.control_name",
        "Name the control plane's certificate has to be for; empty: that of its address",
    );
    let identity = match (chain, key) {
        (Some(chain), Some(key)) => Some((chain.into(), key.into())),
        (None, None) => None,
        (Some(_), None) => {
            r.reject("proxy.key", "missing: proxy.certificate needs it");
            None
        }
        (None, Some(_)) => {
            r.reject("proxy.certificate", "missing: proxy.key needs it");
            None
        }
    };
    ClientTls { ca: ca.map(Into::into), identity, server_name }
}
