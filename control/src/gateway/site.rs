//! A Gateway of ours while its routes are put in, and what its ports come to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_model::gateway::NOWHERE;
use portolan_model::traffic::{Action, PathMatch, Respond, Route, Share, VirtualHost};
use portolan_model::{Gateway, GatewayChain, GatewayKey, GatewayPort, GatewaySni, GatewayTls};

use super::attach;
use super::compile::Place;
use super::draft::{GatewayDraft, Rank};
use super::host::{self, Host};
use super::listeners::{self, Judged};
use super::resolve::Resolver;
use super::rules::Rules;
use super::status::{Of, Status, find};
use crate::object::Kind;

/// A Gateway of ours while its routes are put in.
pub(super) struct Site<'a> {
    pub(super) draft: &'a GatewayDraft,
    pub(super) listeners: Vec<Judged>,
    /// By listener: the routes of each host, and the kind that has it.
    hosts: Vec<BTreeMap<Host, (Kind, Vec<Ranked>)>>,
    /// By listener: where connections go.
    shares: Vec<Option<Vec<Share>>>,
    /// By listener: where connections within TLS go, by name.
    names: Vec<BTreeMap<Host, Vec<Share>>>,
    /// Which routes have a place at which listener.
    pub(super) taken: BTreeSet<(usize, Kind, usize)>,
}

/// Routes and how they stand to others: by rank, then by the age and name of their object (the
/// position among all of its kind), then as they are written.
pub(super) struct Ranked {
    pub(super) rank: Rank,
    pub(super) age: usize,
    pub(super) routes: Vec<Route>,
}

impl<'a> Site<'a> {
    pub(super) fn of(draft: &'a GatewayDraft, resolver: &mut Resolver<'_>) -> Self {
        let listeners = listeners::judge(draft, resolver);
        let hosts = listeners.iter().map(|_| BTreeMap::new()).collect();
        let shares = listeners.iter().map(|_| None).collect();
        let names = listeners.iter().map(|_| BTreeMap::new()).collect();
        Self { draft, listeners, hosts, shares, names, taken: BTreeSet::new() }
    }

    /// Puts a route in; whether it has a place. Of routes of two kinds the older one has a host, and
    /// of two for connections the older one has the listener.
    pub(super) fn put(
        &mut self,
        attached: &attach::Attached,
        place: &Place<'_>,
        rules: &Rules,
    ) -> bool {
        let listener = &self.draft.listeners[attached.listener];
        if &*listener.protocol == "TLS" {
            let hosts = match place.route.kind {
                Kind::TlsRoute => &attached.hosts[..],
                // Whatever its clients ask for.
                _ => std::slice::from_ref(&listener.hostname),
            };
            let names = &mut self.names[attached.listener];
            let mut taken = false;
            for host in hosts {
                let free = !names.contains_key(host);
                names.entry(host.clone()).or_insert_with(|| rules.shares.clone());
                taken |= free;
            }
            return taken;
        }
        if !place.route.is_http() {
            let shares = &mut self.shares[attached.listener];
            let free = shares.is_none();
            shares.get_or_insert_with(|| rules.shares.clone());
            return free;
        }
        let mut taken = false;
        for host in &attached.hosts {
            let (kind, ranked) = self.hosts[attached.listener]
                .entry(host.clone())
                .or_insert_with(|| (place.route.kind, Vec::new()));
            if *kind == place.route.kind {
                ranked.extend(place.ranked(rules));
                taken = true;
            }
        }
        taken
    }

    pub(super) fn finish(self, key: &GatewayKey) -> (Option<Gateway>, Status) {
        let Self { draft, listeners, hosts, shares, names, .. } = self;
        let mut ports: BTreeMap<u16, GatewayPort> = BTreeMap::new();
        let valid = listeners.iter().zip(&draft.listeners).filter(|(judged, _)| judged.valid);
        let mut certificates = BTreeMap::new();
        let mut of_port: BTreeMap<u16, Vec<Host>> = BTreeMap::new();
        for (_, listener) in valid {
            of_port.entry(listener.port).or_default().push(listener.hostname.clone());
        }
        let content = hosts.into_iter().zip(shares.into_iter().zip(names));
        let content = listeners.iter().zip(&draft.listeners).zip(content);
        for ((judged, listener), (mut hosts, (shares, mut names))) in content {
            if !judged.valid {
                continue;
            }
            if &*listener.protocol == "TCP" {
                if let Some(shares) = shares.filter(|shares| !shares.is_empty()) {
                    ports.insert(listener.port, GatewayPort::Tcp(shares));
                }
                continue;
            }
            let beside = &of_port[&listener.port];
            let (own, clients) = terminated(judged);
            certificates.extend(judged.certificates.iter().chain(&judged.clients).cloned());
            if &*listener.protocol == "TLS" {
                // What is for the listener and has no route goes nowhere, not to a wider one.
                names.entry(listener.hostname.clone()).or_default();
                let nearest = |host: &Host| host::nearest(beside.iter(), host);
                names.retain(|host, _| nearest(host) == Some(&listener.hostname));
                let place = ports.entry(listener.port);
                if let GatewayPort::Tls(tls) = place.or_insert_with(|| empty("TLS")) {
                    tls.names.extend(names.into_iter().map(|(name, clusters)| {
                        let (certificates, clients) = (own.clone(), clients.clone());
                        GatewaySni { name, clusters, certificates, clients }
                    }));
                }
                continue;
            }
            // What is for the listener and has no route is answered 404, not by a wider one.
            hosts.entry(listener.hostname.clone()).or_insert((Kind::HttpRoute, Vec::new()));
            let place = ports.entry(listener.port);
            // A request belongs to the narrowest listener, and to no other.
            let nearest = |host: &Host| host::nearest(beside.iter(), host);
            hosts.retain(|host, _| nearest(host) == Some(&listener.hostname));
            let hosts = hosts.into_iter();
            let hosts = hosts.map(|(host, (_, ranked))| virtual_host(host, in_order(ranked)));
            match place.or_insert_with(|| empty(&listener.protocol)) {
                GatewayPort::Http(all) => all.extend(hosts),
                GatewayPort::Tls(tls) => {
                    let name = listener.hostname.clone();
                    let others = beside.iter().filter(|other| **other != name);
                    let hosts = hosts.chain(others.cloned().map(misdirected)).collect();
                    tls.chains.push(GatewayChain { name, hosts, certificates: own, clients });
                }
                GatewayPort::Tcp(_) => {}
            }
        }
        let status =
            listeners::of_all(draft, listeners.into_iter().map(|judged| judged.status).collect());
        let programmed = match &status.of {
            Of::Gateway(status) => {
                find(&status.conditions, "Programmed").is_some_and(|condition| condition.holds)
            }
            _ => false,
        };
        let addresses = draft.addresses.clone();
        let gateway = Gateway { key: key.clone(), addresses, ports, certificates };
        (programmed.then_some(gateway), status)
    }
}

fn virtual_host(host: Host, routes: Vec<Route>) -> Arc<VirtualHost> {
    let domain = host.unwrap_or_else(|| "*".into());
    Arc::new(VirtualHost { name: domain.clone(), domains: vec![domain], routes })
}

/// What another listener of the port is for, to a client that did not ask for it when TLS began: it may go
/// on with a connection to one host for another one's requests, and is told to make its own (RFC 9110
/// §15.5.20; `Listener.hostname`).
fn misdirected(host: Host) -> Arc<VirtualHost> {
    let mut route = Route::to(PathMatch::Prefix("/".into()), NOWHERE.into());
    route.action = Action::Respond(Respond { status: 421, body: [].into(), edits: None });
    route.name = Some("misdirected".into());
    virtual_host(host, vec![route])
}

/// Names of what a listener proves itself with, and of the authorities of its clients; none where TLS does
/// not end at it.
fn terminated(judged: &Judged) -> (Vec<Arc<str>>, Option<Arc<str>>) {
    let name = |(name, _): &(Arc<str>, _)| Arc::clone(name);
    (judged.certificates.iter().map(name).collect(), judged.clients.as_ref().map(name))
}

/// A port of this protocol that nothing is known of yet.
fn empty(protocol: &str) -> GatewayPort {
    match protocol {
        "HTTPS" | "TLS" => GatewayPort::Tls(GatewayTls::default()),
        _ => GatewayPort::Http(Vec::new()),
    }
}

/// Routes in the order in which they are tried.
pub(super) fn in_order(mut ranked: Vec<Ranked>) -> Vec<Route> {
    // Stable: what is equal stays as it is written.
    ranked.sort_by(|one, other| other.rank.cmp(&one.rank).then(one.age.cmp(&other.age)));
    ranked.into_iter().flat_map(|ranked| ranked.routes).collect()
}
