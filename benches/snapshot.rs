//! What a change to one service costs as the cluster grows from 10 to 150,000 endpoints: through
//! the index to a published snapshot, and on to the DNS table and the xDS catalog.
//!
//! `cargo bench --bench snapshot`

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portolan_dns::DnsConfig;
use portolan_dns::table::Table;
use portolan_model::{
    Balancer, Changes, Conditions, DnsName, Endpoint, Generation, Key, Protocol, Publication,
    Service, ServiceEntry, ServiceKey, ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};
use portolan_xds::ResourceConfig;
use portolan_xds::catalog::Catalog;

/// Cluster sizes, in endpoints; 15 to a service, as at the largest size Kubernetes is tested for.
const SIZES: [u32; 6] = [10, 100, 1_000, 10_000, 50_000, 150_000];
const PER_SERVICE: u32 = 15;

/// A service with its endpoints; `ready` says whether the first of them is.
fn entry(number: u32, count: u32, ready: bool) -> Arc<ServiceEntry> {
    let key = ServiceKey::new(&format!("ns-{}", number % 50), &format!("svc-{number}"));
    let port = ServicePort::new("main", Protocol::Tcp, 80);
    let kind = ServiceKind::ClusterIp(vec![Ipv4Addr::from_bits(0x0a60_0000 + number).into()]);
    let service = Service::new(key.expect("valid"), kind, vec![port]);
    let endpoints = (0..count).map(|n| Endpoint {
        conditions: Conditions { ready: ready || n > 0, ..Conditions::READY },
        node: Some(format!("node-{n}").into()),
        zone: Some(format!("zone-{}", n % 3).into()),
        ..Endpoint::at(Ipv4Addr::from_bits(0x6440_0000 + number * PER_SERVICE + n).into())
    });
    let slice = Slice {
        name: format!("svc-{number}-1").into(),
        cluster: None,
        ports: vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
    };
    Arc::new(ServiceEntry { service: Arc::new(service), slices: vec![Arc::new(slice)] })
}

fn cluster(endpoints: u32) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let services = endpoints.div_ceil(PER_SERVICE);
    for number in 0..services {
        let count = PER_SERVICE.min(endpoints - number * PER_SERVICE);
        snapshot.apply(entry(number, count, true));
    }
    snapshot
}

fn resources() -> ResourceConfig {
    ResourceConfig {
        endpoints_ttl_secs: 0,
        zone: DnsName::parse("cluster.local").expect("valid"),
        cluster_set_zone: DnsName::parse("clusterset.local").expect("valid"),
        balancer: Balancer::LeastRequest,
        listeners: Vec::new(),
        gateway_address: std::net::Ipv4Addr::LOCALHOST.into(),
        load_reports: false,
        trust_domain: "cluster.local".to_owned(),
    }
}

/// The two versions of the service that changes, and the keys that change.
fn change(endpoints: u32) -> ([Arc<ServiceEntry>; 2], BTreeSet<Key>) {
    let count = PER_SERVICE.min(endpoints);
    let versions = [entry(0, count, true), entry(0, count, false)];
    let keys = BTreeSet::from([Key::Service(versions[0].service.key.clone())]);
    (versions, keys)
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_change/snapshot");
    for endpoints in SIZES {
        let mut snapshot = cluster(endpoints);
        let mut publication = Publication::default();
        let (versions, keys) = change(endpoints);
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(endpoints), |b| {
            b.iter(|| {
                turn = 1 - turn;
                snapshot.apply(versions[turn].clone());
                publication = publication.next(&snapshot, keys.clone());
                black_box(publication.generation())
            });
        });
    }
}

fn dns(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_change/dns_table");
    for endpoints in SIZES {
        let mut snapshot = cluster(endpoints);
        let (versions, keys) = change(endpoints);
        let empty = Table::new(&DnsConfig::default()).expect("a table");
        let first = snapshot.at(Generation(1));
        let mut table = empty.apply(&Arc::new(first), &Changes::Everything);
        let (mut turn, mut generation) = (0, Generation(1));
        let changes = Changes::Keys(keys);
        group.bench_function(BenchmarkId::from_parameter(endpoints), |b| {
            b.iter(|| {
                turn = 1 - turn;
                generation = generation.next();
                snapshot.apply(versions[turn].clone());
                table = table.apply(&Arc::new(snapshot.at(generation)), &changes);
            });
        });
    }
}

fn xds(c: &mut Criterion) {
    let config = resources();
    let mut group = c.benchmark_group("one_change/xds_catalog");
    for endpoints in SIZES {
        let mut snapshot = cluster(endpoints);
        let (versions, keys) = change(endpoints);
        let first = Arc::new(snapshot.at(Generation(1)));
        let mut catalog = Catalog::default().next(&first, &Changes::Everything, &config).0;
        let (mut turn, mut generation) = (0, Generation(1));
        let changes = Changes::Keys(keys);
        group.bench_function(BenchmarkId::from_parameter(endpoints), |b| {
            b.iter(|| {
                turn = 1 - turn;
                generation = generation.next();
                snapshot.apply(versions[turn].clone());
                catalog = catalog.next(&Arc::new(snapshot.at(generation)), &changes, &config).0;
            });
        });
    }
}

criterion_group!(benches, publish, dns, xds);
criterion_main!(benches);
