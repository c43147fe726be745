//! Wires the DNS server: where it listens, what it shows, and when it starts.
//!
//! Its sockets are not handed over at a restart: questions in a shared queue would be answered by
//! a process that has no names yet. It binds them once the process before has let go of them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use portolan_dns::{DnsConfig, DnsError, DnsServer, Explainer};
use portolan_runtime::bind::{self, Sharing, announce};
use portolan_runtime::{Metrics, Subscriber};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Start;
use crate::exit::cannot_start;
use crate::explain;

/// How often addresses are looked at that the process before still has.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How much longer than its drain takes they are waited for.
const GRACE: Duration = Duration::from_secs(5);

/// What a server is bound with, now or later.
struct Plan {
    config: DnsConfig,
    addresses: Vec<SocketAddr>,
    metrics: Metrics,
    /// Set once it is bound.
    explainer: Arc<OnceLock<Explainer>>,
}

impl Start<'_> {
    /// Starts the server; where it listens, unless it has to wait for the process before.
    pub(super) fn dns(&mut self, snapshots: Subscriber) -> anyhow::Result<Vec<SocketAddr>> {
        let plan = self.dns_plan();
        let explainer = Arc::clone(&plan.explainer);
        self.admin = self.admin.clone().with_ask("dns", move |parameters| {
            let explainer = explainer.get().cloned();
            async move {
                let explainer = explainer.ok_or("dns is not served yet")?;
                explain::answer(explainer, parameters).await
            }
        });
        let gate = self.readiness.gate("dns");
        let lifecycle = self.lifecycle.clone();
        if !self.restart.succeeds() {
            let server = plan.bind().map_err(cannot_start)?;
            let addresses = server.local_addresses();
            self.tasks.spawn("dns", server.run(snapshots, gate, lifecycle));
            return Ok(addresses);
        }
        let wait = self.config.drain + self.config.dns.config.lameduck + GRACE;
        let free = plan.free(self.restart.in_office(), wait);
        self.tasks.spawn("dns", async move {
            tokio::select! {
                () = free => {}
                () = lifecycle.draining() => return Ok(()),
            }
            plan.bind()?.run(snapshots, gate, lifecycle).await
        });
        Ok(Vec::new())
    }

    fn dns_plan(&self) -> Plan {
        let settings = &self.config.dns;
        let specific =
            settings.addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
        let server_ips = match &settings.config.server_ips[..] {
            [] => specific.collect(),
            given => given.to_vec(),
        };
        let config = DnsConfig {
            server_ips,
            zone: self.config.zone.clone(),
            cluster_set_zone: self.config.cluster_set_zone.clone(),
            service_ranges: self.config.control.service_ranges.as_slice().to_vec(),
            ..settings.config.clone()
        };
        Plan {
            config,
            addresses: settings.addresses.clone(),
            metrics: self.metrics.clone(),
            explainer: Arc::default(),
        }
    }
}

impl Plan {
    fn bind(&self) -> Result<DnsServer, DnsError> {
        let server = DnsServer::bind(self.config.clone(), &self.addresses, &self.metrics)?;
        for address in server.local_addresses() {
            announce("dns", address);
        }
        for (protocol, address) in server.encrypted_addresses() {
            announce(format!("dns-{protocol}"), address);
        }
        // It is bound once.
        let _first = self.explainer.set(server.explainer());
        Ok(server)
    }

    /// Completes when this process is in office and no other has the addresses, or `wait` after
    /// the former: binding them says then why not.
    fn free(
        &self,
        in_office: CancellationToken,
        wait: Duration,
    ) -> impl Future<Output = ()> + Send + use<> {
        let encrypted = [&self.config.tls_addresses, &self.config.https_addresses];
        let tcp = self.addresses.iter().chain(encrypted.into_iter().flatten());
        let (tcp, udp): (Vec<_>, _) = (tcp.copied().collect(), self.config.quic_addresses.clone());
        async move {
            in_office.cancelled().await;
            let until = Instant::now() + wait;
            let taken = || {
                let purpose = "dns, once the process before lets go";
                tcp.iter().any(|at| bind::tcp(*at, purpose, Sharing::Exclusive).is_err())
                    || udp.iter().any(|at| bind::udp(*at, purpose, Sharing::Exclusive).is_err())
            };
            while taken() && Instant::now() < until {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}
