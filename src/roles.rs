//! Wires the roles: binds every socket, then starts every task, then waits for the end.

mod dns;
mod restart;
mod xds;

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use portolan_control::loads::{self, LoadsEnd};
use portolan_control::report::{ControlMetrics, Reports};
use portolan_control::{Folder, Kubernetes, SavedFile, holds};
use portolan_dns::config::PodMode;
use portolan_proxy::{Place, Proxy, ProxyConfig};
use portolan_runtime::admin::Admin;
use portolan_runtime::bind::{self, Sharing, announce};
use portolan_runtime::restart::Purpose;
use portolan_runtime::tasks::Ended;
use portolan_runtime::{Lifecycle, Metrics, Readiness, Subscriber, Tasks, publish, telemetry};
use portolan_xds::{ClientConfig, LoadSource, Token, XdsClient};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Source};
use crate::exit::cannot_start;
use crate::{feed, guard, traces};
use restart::Restart;

/// Longest wait for blocking work once everything else has ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Which roles a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    control: bool,
    dns: bool,
    proxy: bool,
}

impl Roles {
    pub(crate) const ALL: Self = Self { control: true, dns: true, proxy: true };
    pub(crate) const CONTROL: Self = Self { control: true, dns: false, proxy: false };
    pub(crate) const DNS: Self = Self { control: false, dns: true, proxy: false };
    pub(crate) const PROXY: Self = Self { control: false, dns: false, proxy: true };
}

/// A running process.
pub(crate) struct Process {
    pub(crate) tasks: Tasks,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) readiness: Readiness,
    /// Where DNS is served.
    pub(crate) dns: Vec<SocketAddr>,
    /// Where metrics and health are served.
    pub(crate) admin: SocketAddr,
    /// What the proxy does, if there is one.
    pub(crate) proxy: Option<portolan_proxy::StateHandle>,
    drain: Duration,
    /// Cancelled when another process serves in this one's place.
    succeeded: CancellationToken,
    /// Whether it stays after that until it is told to stop.
    lingers: bool,
}

/// What a process is made of while it starts.
struct Start<'a> {
    config: &'a Config,
    metrics: Metrics,
    lifecycle: Lifecycle,
    readiness: Readiness,
    tasks: Tasks,
    admin: Admin,
    restart: Restart,
    /// Where the control loop hears of loads, until it has it.
    loads: Option<LoadsEnd>,
}

/// Runs the roles until a signal, or until one of them ends unasked.
pub(crate) fn run(config: &Config, roles: Roles) -> anyhow::Result<ExitCode> {
    init(config)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async { Process::start(config, roles).await?.finish().await });
    // A disk that hangs under a file being written must not keep the process.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    ended.map(|()| ExitCode::SUCCESS)
}

/// Starts logging.
pub(crate) fn init(config: &Config) -> anyhow::Result<()> {
    telemetry::init_logs(&config.log_filter, config.log_format).map_err(cannot_start)
}

/// The runtime of everything but the proxy's and DNS's own workers.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(cannot_start)
}

impl Process {
    /// Binds and starts everything.
    pub(crate) async fn start(config: &Config, roles: Roles) -> anyhow::Result<Self> {
        let metrics = Metrics::new();
        let lifecycle = Lifecycle::new();
        let readiness = Readiness::new(lifecycle.clone(), &metrics);
        let mut start = Start {
            config,
            admin: Admin::new(readiness.clone(), metrics.clone()),
            tasks: Tasks::new(lifecycle.clone()),
            metrics,
            lifecycle,
            readiness,
            restart: Restart::begin(config, roles).await?,
            loads: None,
        };
        let signals = start.lifecycle.catch_signals().map_err(cannot_start)?;
        let admin_socket = start.restart.listen(config.admin, Purpose::Admin)?;
        let admin = local(&admin_socket)?;
        announce("admin", admin);

        let mut dns = Vec::new();
        let mut control = config.proxy.control.clone();
        let mut own = None;
        if roles.control || roles.dns {
            let told = (roles.control && config.xds.load_reports.is_some()).then(loads::channel);
            let told = told.map(|(sender, end)| {
                start.loads = Some(end);
                sender
            });
            let (snapshots, reports) = start.source(roles.dns).await?;
            if roles.control {
                let (address, token) =
                    start.xds_server(snapshots.clone(), reports, roles.proxy, told).await?;
                control = Some(format!("http://{address}"));
                own = token;
            }
            if roles.dns {
                dns = start.dns(snapshots)?;
            }
        }
        let proxy =
            if roles.proxy { Some(start.proxy(control, own, roles.control)?) } else { None };

        // What goes on being answered for a while is drained after it.
        let lameduck = if roles.dns { config.dns.config.lameduck } else { Duration::ZERO };
        let Start { mut tasks, lifecycle, readiness, admin: pages, restart, .. } = start;
        let (succeeded, lingers) = (restart.succeeded(), config.proxy.restart_lingers);
        let serving = pages.serve(admin_socket, lifecycle.clone());
        tasks.spawn_background("admin", restart.while_in_office(serving, lifecycle.clone()));
        tasks.spawn_background("signals", signals.run());
        let drain = config.drain + lameduck;
        Ok(Self { tasks, lifecycle, readiness, dns, admin, proxy, drain, succeeded, lingers })
    }

    /// Waits for the end: a signal and a clean drain, or a role that failed.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        match self.tasks.run(self.drain).await {
            // Whoever starts processes must not take it for a failure, and start this one again.
            Err(ended @ Ended::Aborted { .. }) if self.succeeded.is_cancelled() => {
                tracing::warn!(%ended, "ended after another process took over");
            }
            ended => ended?,
        }
        if self.lingers && self.succeeded.is_cancelled() {
            let stop = Lifecycle::new();
            let signals = stop.catch_signals()?;
            tracing::info!("drained; idle until told to stop");
            tokio::select! {
                Err(never) = signals.run() => match never {},
                () = stop.draining() => {}
            }
        }
        tracing::info!("stopped");
        Ok(())
    }
}

impl Start<'_> {
    /// The control loop over its source; with `dns`, for the dns role as well.
    async fn source(&mut self, dns: bool) -> anyhow::Result<(Subscriber, Reports)> {
        let reports = Reports::default();
        let metrics = ControlMetrics::new(&self.metrics);
        let (publisher, snapshots) = publish::channel();
        let gate = self.readiness.gate("control");
        let lifecycle = self.lifecycle.clone();
        let (limits, (held, holds)) = (self.config.control.guard, holds::channel());
        let loads = self.loads.take().unwrap_or_default();
        match &self.config.control.source {
            Source::Manifests(path) => {
                let ranges = self.config.control.service_ranges.clone();
                let folder = Folder::open(path, ranges, reports.clone(), metrics)
                    .map_err(cannot_start)?
                    .with_guard(limits, holds)
                    .with_loads(loads);
                self.tasks.spawn("control", folder.run(publisher, gate, lifecycle));
            }
            Source::Kubernetes(connect) => {
                let client = connect.client().await.map_err(cannot_start)?;
                let pace = self.config.control.pace;
                // Names of pods need the pods; nothing else does.
                let pods = dns && self.config.dns.config.pods == PodMode::Verified;
                let mut kubernetes = Kubernetes::new(client, pace, reports.clone(), metrics)
                    .with_pods(pods)
                    .with_gateway_api(self.config.control.gateway_api)
                    .with_guard(limits, holds)
                    .with_loads(loads);
                if let Some(identity) = &self.config.control.events_as {
                    kubernetes = kubernetes.with_events(identity.clone());
                }
                if let Some(identity) = &self.config.control.statuses_as {
                    kubernetes = kubernetes.with_statuses(identity.clone());
                }
                let kubernetes = self.with_saved(kubernetes, &snapshots);
                self.tasks.spawn("control", kubernetes.run(publisher, gate, lifecycle));
            }
            Source::None => {
                let text = "there is no source: name a folder or file with --manifests, or use \
                            --kubernetes";
                return Err(cannot_start(anyhow!(text)));
            }
        }
        let newest = snapshots.clone();
        self.page("snapshot", move || newest.newest());
        self.admin = feed::add(self.admin.clone(), &snapshots, &reports);
        self.admin = guard::add(self.admin.clone(), held);
        let newest = reports.clone();
        self.page("rejected", move || newest.newest());
        Ok((snapshots, reports))
    }

    /// The loop with the copy of the last snapshot that is on disk, if one is to be kept there.
    fn with_saved(&mut self, kubernetes: Kubernetes, snapshots: &Subscriber) -> Kubernetes {
        let Some(path) = &self.config.control.snapshot_file else { return kubernetes };
        let file = SavedFile::at(path.clone());
        let saved = file.load().unwrap_or_else(|error| {
            tracing::error!(%error, "starting without the saved snapshot");
            None
        });
        let keep = file.keep(snapshots.clone(), self.lifecycle.clone());
        self.tasks.spawn("saved-snapshot", async {
            keep.await;
            Ok::<(), std::convert::Infallible>(())
        });
        match saved {
            Some(saved) => kubernetes.with_saved(saved, self.readiness.staleness()),
            None => kubernetes,
        }
    }

    /// `own`: the token of the way in that the control role of this process keeps for it.
    fn proxy(
        &mut self,
        control: Option<String>,
        own: Option<Arc<str>>,
        with_control: bool,
    ) -> anyhow::Result<portolan_proxy::StateHandle> {
        let Some(control) = control else {
            let text = "proxy.control is not set: name the control plane with --xds";
            return Err(cannot_start(anyhow!(text)));
        };
        let settings = &self.config.proxy;
        let gateways = settings.gateways.clone().or_else(|| with_control.then(|| "*".to_owned()));
        let client = ClientConfig {
            control,
            node_id: settings.node_id.clone(),
            zone: settings.zone.clone(),
            node_name: settings.node_name.clone(),
            namespace: settings.namespace.clone(),
            tls: settings.tls.clone(),
            gateways,
            serves: settings.serves.clone(),
            inbound_address: settings.inbound_address,
            service_account: settings.service_account.clone(),
            own: settings.own.clone(),
            token: own.map(Token::Text).or_else(|| settings.token.clone()),
        };
        let (client, traffic) = XdsClient::new(&client, &self.metrics).map_err(cannot_start)?;
        let defaults = ProxyConfig::default();
        let config = ProxyConfig {
            workers: NonZeroUsize::new(settings.workers).unwrap_or(defaults.workers),
            max_connections: settings.max_connections,
            place: settings.zone.as_deref().map(|zone| Place {
                region: "".into(),
                zone: zone.into(),
                clients_milli: None,
            }),
            endpoint_metrics: settings.endpoint_metrics,
            access_log: settings.access_log.clone(),
            decisions: settings.decisions,
            ..defaults
        };
        let mut proxy = Proxy::new(config, &self.metrics);
        if let Some(tracing) = &settings.tracing {
            let (tracer, exporter) = traces::new(tracing, &settings.node_id, &self.metrics);
            proxy = proxy.with_tracer(tracer);
            self.tasks.spawn("traces", exporter.run(self.lifecycle.clone()));
        }
        if let Some(part) = self.restart.part(&mut self.tasks, &self.lifecycle) {
            proxy = proxy.with_restart(part);
        }
        let state = proxy.state();
        let (page, runtime) = (state.clone(), tokio::runtime::Handle::current());
        // Pages are made by threads that may wait: here for the workers, a second at most.
        self.page("proxy", move || runtime.block_on(page.details()));
        self.admin = feed::proxy::add(self.admin.clone(), &state);
        self.admin = feed::requests::add(self.admin.clone(), &state);
        let load = proxy.load();
        let client = client.with_load(LoadSource::new(move || load.totals()));
        let gate = self.readiness.gate("proxy");
        self.tasks.spawn("xds-client", client.run(self.lifecycle.clone()));
        self.tasks.spawn("proxy", proxy.run(traffic, gate, self.lifecycle.clone()));
        Ok(state)
    }

    fn page<T: serde::Serialize>(
        &mut self,
        name: &'static str,
        make: impl Fn() -> T + Send + Sync + 'static,
    ) {
        self.admin = self.admin.clone().with_page(name, make);
    }
}

fn listen(address: SocketAddr, purpose: &str) -> anyhow::Result<TcpListener> {
    bind::tcp(address, purpose, Sharing::Exclusive).map_err(cannot_start)
}

fn local(socket: &TcpListener) -> anyhow::Result<SocketAddr> {
    socket.local_addr().map_err(cannot_start)
}
