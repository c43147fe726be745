//! Wires the xDS server: its limits, its TLS, who may come in, and what it shows.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_control::loads::{Load, LoadsSender};
use portolan_control::report::{Refused, Reports};
use portolan_runtime::Subscriber;
use portolan_runtime::bind::announce;
use portolan_runtime::restart::Purpose;
use portolan_xds::load::Gathered;
use portolan_xds::server::authorize::{Authorization, TokenReview};
use portolan_xds::{
    Issuer, LoadConfig, LoadReports, ResourceConfig, SecretSet, Secrets, ServerConfig, XdsServer,
};
use tokio::sync::watch;

use super::{Start, listen, local};
use crate::config::Source;
use crate::exit::cannot_start;
use crate::{feed, raw, wait};

/// Refused resources that are told at a time.
const MAX_REFUSED: usize = 1000;
/// How long refusals are gathered before they are told.
const SETTLE: Duration = Duration::from_millis(200);

impl Start<'_> {
    /// The server; its address for the proxy of this process, if there is one, and what that shows
    /// there where others need TLS or an identity.
    pub(super) async fn xds_server(
        &mut self,
        snapshots: Subscriber,
        reports: Reports,
        proxy: bool,
        told: Option<LoadsSender>,
    ) -> anyhow::Result<(SocketAddr, Option<Arc<str>>)> {
        let settings = &self.config.xds;
        let tls = settings.tls(&self.config.certificates);
        let authorization = self.authorization().await?;
        let closed = tls.is_some() || authorization.is_some() || settings.identity.is_some();
        let config = ServerConfig { limits: settings.limits.clone(), tls, authorization };
        let server = XdsServer::new(self.resources(), config, &self.metrics);
        let mut server = server.map_err(cannot_start)?;
        let socket = self.restart.listen(settings.address, Purpose::Xds)?;
        let mut address = local(&socket)?;
        announce("xds", address);
        let mut token = None;
        // At a socket that is shared with the process before, it may be that one that answers.
        if proxy && (closed || self.restart.succeeds()) {
            let own = listen((Ipv4Addr::LOCALHOST, 0).into(), "xds of this process")?;
            address = local(&own)?;
            let secret: Arc<str> = unguessable().into();
            server = server.with_internal(own, secret.clone());
            token = Some(secret);
        }
        if let Some(interval) = settings.load_reports {
            let streams = settings.limits.streams;
            let config = LoadConfig { interval, streams, ..LoadConfig::default() };
            let reports = LoadReports::new(config, &self.metrics);
            self.admin = feed::load::add(self.admin.clone(), &reports);
            if let Some(told) = told {
                self.tell_loads(reports.clone(), told);
            }
            server = server.with_load_reports(reports);
        }
        if let Some(identity) = &settings.identity {
            let issuer = Issuer::open(identity.issuer.clone(), &self.metrics);
            server = server.with_issuer(issuer.map_err(cannot_start)?, identity.trusts_local);
        }
        server = server.with_secrets(self.secrets()?);
        self.shown(&server);
        self.tell_refusals(&server, reports);
        let gate = self.readiness.gate("xds");
        self.tasks.spawn("xds", server.run(socket, snapshots, gate, self.lifecycle.clone()));
        Ok((address, token))
    }

    fn resources(&self) -> ResourceConfig {
        let ttl = self.config.xds.limits.endpoints_ttl.as_secs();
        ResourceConfig {
            zone: self.config.zone.clone(),
            cluster_set_zone: self.config.cluster_set_zone.clone(),
            balancer: self.config.control.balancer,
            gateway_address: self.config.control.gateway_address,
            listeners: self.config.listeners.clone(),
            endpoints_ttl_secs: u32::try_from(ttl).unwrap_or(u32::MAX),
            load_reports: self.config.xds.load_reports.is_some(),
            trust_domain: self.config.xds.trust_domain.clone(),
        }
    }

    /// What clients have to prove, with whoever knows the tokens of service accounts.
    async fn authorization(&self) -> anyhow::Result<Option<Authorization>> {
        let Some(authorization) = self.config.xds.authorization.clone() else { return Ok(None) };
        let Source::Kubernetes(connect) = &self.config.control.source else {
            return Ok(Some(authorization));
        };
        let reviewer = connect.token_reviewer().await.map_err(cannot_start)?;
        let review = move |token: String| -> portolan_xds::server::authorize::TokenAnswer {
            let reviewer = reviewer.clone();
            Box::pin(async move { reviewer.user(token).await })
        };
        let tokens = Some(TokenReview(Arc::new(review)));
        Ok(Some(Authorization { tokens, ..authorization }))
    }

    /// Pages, feeds and commands about it.
    fn shown(&mut self, server: &XdsServer) {
        let clients = server.clients();
        self.page("clients", move || clients.status());
        let mut admin = self.admin.clone();
        admin = feed::clients::add(admin, server.clients());
        admin = wait::add(admin, server.progress());
        if self.config.xds.raw_resources {
            admin = raw::add(admin, server.raw());
        }
        self.admin = admin;
    }

    /// What clients refuse becomes part of what is reported of the objects behind it, and there an
    /// Event.
    fn tell_refusals(&mut self, server: &XdsServer, reports: Reports) {
        let (refusals, clients) = (server.refusals(), server.clients());
        let lifecycle = self.lifecycle.clone();
        self.tasks.spawn("refusals", async move {
            let mut changes = refusals.changes();
            loop {
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { break },
                    () = lifecycle.draining() => break,
                }
                // Many may refuse the same within a moment.
                tokio::time::sleep(SETTLE).await;
                changes.mark_unchanged();
                let refused = refusals.list(&clients).into_iter().take(MAX_REFUSED);
                reports.set_refused(refused.map(|refused| Refused {
                    service: refused.service,
                    client: refused.client,
                    resource: format!("{} {}", refused.kind, refused.name),
                    words: refused.words.to_string(),
                }));
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// What clients report is told to the control loop, which compares backends of routes by it.
    fn tell_loads(&mut self, reports: LoadReports, told: LoadsSender) {
        let lifecycle = self.lifecycle.clone();
        self.tasks.spawn("loads", async move {
            let mut ticks = tokio::time::interval(reports.interval());
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = lifecycle.draining() => break,
                }
                let load = |gathered: Gathered| Load {
                    good: gathered.good as f64,
                    bad: gathered.bad as f64,
                    timed: gathered.timed as f64,
                    millis: gathered.millis,
                };
                let taken = reports.take().into_iter();
                if !told.tell(taken.map(|(name, sum)| (name.into(), load(sum))).collect()) {
                    tracing::warn!("the control loop is behind: the loads of an interval are lost");
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// The certificates of listeners as resources, followed while the process runs.
    fn secrets(&mut self) -> anyhow::Result<watch::Receiver<SecretSet>> {
        let (secrets, receiver) =
            Secrets::open(&self.config.certificates, &self.metrics).map_err(cannot_start)?;
        let follow = secrets.follow(self.lifecycle.clone());
        self.tasks.spawn("certificates", async {
            follow.await;
            Ok::<(), std::convert::Infallible>(())
        });
        Ok(receiver)
    }
}

/// 256 bits that nobody can guess, as text.
fn unguessable() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
