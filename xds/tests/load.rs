//! Load reports: what a client says, what the table makes of it, and the stream between the two.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::{Changes, Snapshot};
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::core::config_source::ConfigSourceSpecifier;
use portolan_proto::envoy::core::{Locality, Node};
use portolan_proto::envoy::endpoint::{
    ClusterStats, EndpointLoadMetricStats, UpstreamLocalityStats, cluster_stats::DroppedRequests,
};
use portolan_proto::envoy::load_stats::load_reporting_service_client::LoadReportingServiceClient;
use portolan_proto::envoy::load_stats::{LoadStatsRequest, LoadStatsResponse};
use portolan_proto::envoy::protobuf;
use portolan_runtime::{Lifecycle, Metrics};
use portolan_xds::catalog::Catalog;
use portolan_xds::load::report::{InvalidReport, Report};
use portolan_xds::load::table::{Client, Limits, Table};
use portolan_xds::resource::ResourceType;
use portolan_xds::{LoadConfig, LoadReports, LoadRow, ResourceConfig};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status, Streaming};

const INTERVAL: Duration = Duration::from_secs(10);
/// Longest wait for what another task does.
const PATIENCE: Duration = Duration::from_secs(20);

/// A locality with issued, successful, failed and running requests.
fn locality(zone: &str, counts: [u64; 4]) -> UpstreamLocalityStats {
    let [issued, successful, failed, in_progress] = counts;
    UpstreamLocalityStats {
        locality: Some(Locality { zone: zone.to_owned(), ..Locality::default() }),
        total_issued_requests: issued,
        total_successful_requests: successful,
        total_error_requests: failed,
        total_requests_in_progress: in_progress,
        ..UpstreamLocalityStats::default()
    }
}

fn cluster(name: &str, localities: &[UpstreamLocalityStats]) -> ClusterStats {
    ClusterStats {
        cluster_name: name.to_owned(),
        upstream_locality_stats: localities.to_vec(),
        load_report_interval: Some(protobuf::Duration { seconds: 10, nanos: 0 }),
        ..ClusterStats::default()
    }
}

fn dropping(name: &str, total: u64, categories: &[(&str, u64)]) -> ClusterStats {
    let drops = categories.iter().map(|(category, count)| DroppedRequests {
        category: (*category).to_owned(),
        dropped_count: *count,
    });
    ClusterStats {
        total_dropped_requests: total,
        dropped_requests: drops.collect(),
        ..cluster(name, &[])
    }
}

fn metric(name: &str, requests: u64, total: f64) -> UpstreamLocalityStats {
    let metric = EndpointLoadMetricStats {
        metric_name: name.to_owned(),
        num_requests_finished_with_metric: requests,
        total_metric_value: total,
    };
    UpstreamLocalityStats { load_metric_stats: vec![metric], ..locality("a", [10, 10, 0, 0]) }
}

fn report(clusters: Vec<ClusterStats>) -> Report {
    let message = LoadStatsRequest { node: None, cluster_stats: clusters }.encode_to_vec();
    Report::decode(message.into(), &Limits::default()).expect("a report")
}

fn table() -> Table {
    Table::new(Limits::default(), 2 * INTERVAL)
}

/// A row in few words: cluster, zone, reporters; issued, successes, errors and drops per second
/// and what runs.
fn words(row: &LoadRow) -> String {
    let zone = row.zone.as_deref().unwrap_or("-");
    let rates =
        [row.requests_per_sec, row.successes_per_sec, row.errors_per_sec, row.drops_per_sec];
    let rates: Vec<String> = rates.iter().map(f64::to_string).collect();
    let LoadRow { cluster, reporters, in_progress, .. } = row;
    format!("{cluster} {zone} by {reporters}: {} {in_progress}", rates.join(" "))
}

fn shown(table: &mut Table, now: Instant) -> Vec<String> {
    table.rows(now).iter().map(words).collect()
}

#[test]
fn rows_are_sums_over_clients_of_rates_over_the_last_interval() {
    let web = || cluster("shop/web:80", &[locality("a", [20, 10, 5, 3])]);
    type Reports = Vec<Vec<ClusterStats>>;
    // Each client's reports in turn, and the rows after all of them.
    let cases: [(&str, Vec<Reports>, &[&str]); 8] = [
        ("one report", vec![vec![vec![web()]]], &["shop/web:80 a by 1: 2 1 0.5 0 3"]),
        (
            "a report takes the place of the one before",
            vec![vec![vec![web()], vec![web()]]],
            &["shop/web:80 a by 1: 2 1 0.5 0 3"],
        ),
        (
            "two clients",
            vec![vec![vec![web()]], vec![vec![web()]]],
            &["shop/web:80 a by 2: 4 2 1 0 6"],
        ),
        (
            "localities of one zone, and one without",
            vec![vec![vec![cluster(
                "c",
                &[
                    locality("a", [10, 10, 0, 1]),
                    locality("a", [10, 0, 10, 1]),
                    locality("", [10, 10, 0, 0]),
                ],
            )]]],
            &["c - by 1: 1 1 0 0 0", "c a by 1: 2 1 1 0 2"],
        ),
        (
            "a cluster by two EDS names",
            vec![vec![vec![web(), web()]]],
            &["shop/web:80 a by 1: 4 2 1 0 6"],
        ),
        (
            "drops have no zone; the total holds the categories",
            vec![vec![vec![web(), dropping("shop/web:80", 30, &[("lb", 10), ("limit", 10)])]]],
            &["shop/web:80 - by 1: 0 0 0 3 0", "shop/web:80 a by 1: 2 1 0.5 0 3"],
        ),
        (
            "categories without a total",
            vec![vec![vec![dropping("c", 0, &[("lb", 10)])]]],
            &["c - by 1: 0 0 0 1 0"],
        ),
        (
            "a cluster that saw nothing any more, and one that ended what it did not count",
            vec![
                vec![vec![web()], vec![cluster("shop/web:80", &[])]],
                vec![vec![cluster("c", &[locality("a", [0, 10, 10, 0])])]],
            ],
            &["c a by 1: 2 1 1 0 0"],
        ),
    ];
    for (what, clients, expected) in cases {
        let (mut table, now) = (table(), Instant::now());
        for (n, reports) in clients.into_iter().enumerate() {
            let client = table.open(&format!("client-{n}"));
            for clusters in reports {
                assert_eq!(table.record(&client, report(clusters), now), 0, "{what}");
            }
        }
        assert_eq!(shown(&mut table, now), expected, "{what}");
        assert_eq!(table.row_count() > 0, !expected.is_empty(), "{what}");
    }
}

#[test]
fn a_row_names_its_service_where_the_cluster_is_one_and_says_what_endpoints_say() {
    let (mut table, now) = (table(), Instant::now());
    let one = table.open("one");
    let two = table.open("two");
    let of =
        |requests, total| report(vec![cluster("shop/web:80", &[metric("queue", requests, total)])]);
    table.record(&one, of(30, 30.0), now);
    table.record(&two, of(10, 50.0), now + Duration::from_secs(1));
    let strange = report(vec![dropping("outbound|80||web", 10, &[("lb", 10)])]);
    table.record(&one, strange, now);
    let rows = table.rows(now + Duration::from_secs(4));
    let [strange, web] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((&strange.service, strange.port), (&None, None));
    assert_eq!(strange.drop_categories, BTreeMap::from([("lb".into(), 1.0)]));
    assert_eq!(strange.error_percent, None, "nothing ended");
    assert_eq!(web.namespace.as_deref(), Some("shop"));
    assert_eq!((web.service.as_deref(), web.port), (Some("web"), Some(80)));
    assert_eq!((web.error_percent, web.age_secs), (Some(0.0), 3));
    let queue = web.metrics["queue"];
    assert_eq!((queue.requests_per_sec, queue.mean), (4.0, 2.0));
    let later = LoadRow { age_secs: 9, ..web.clone() };
    assert!(later.says_the_same(web) && !later.says_the_same(strange));
}

#[test]
fn a_load_is_forgotten_two_intervals_after_its_last_report() {
    let (mut table, start) = (table(), Instant::now());
    let at = |secs| start + Duration::from_secs(secs);
    let both = || {
        vec![
            cluster("a", &[locality("z", [10, 10, 0, 0])]),
            cluster("b", &[locality("z", [10, 10, 0, 0])]),
        ]
    };
    let client = table.open("n");
    table.record(&client, report(both()), at(0));
    table.record(&client, report(both()[..1].to_vec()), at(15));
    let names = |table: &mut Table, secs| -> Vec<String> {
        table.rows(at(secs)).iter().map(|row| row.cluster.to_string()).collect()
    };
    assert_eq!(names(&mut table, 20), ["a", "b"]);
    assert_eq!(names(&mut table, 21), ["a"]);
    table.end(&client);
    assert_eq!(names(&mut table, 35), ["a"], "its end alone takes nothing");
    table.expire(at(36));
    assert_eq!(table.row_count(), 0);
}

#[test]
fn a_client_that_comes_back_does_not_count_twice_and_one_of_the_same_name_does() {
    let (mut table, now) = (table(), Instant::now());
    let load = || report(vec![cluster("c", &[locality("z", [10, 10, 0, 0])])]);
    let first = table.open("n");
    table.record(&first, load(), now);
    let same_name = table.open("n");
    table.record(&same_name, load(), now);
    assert_eq!(shown(&mut table, now), ["c z by 2: 2 2 0 0 0"]);
    table.end(&first);
    let again = table.open("n");
    table.record(&again, Report::default(), now);
    assert_eq!(shown(&mut table, now), ["c z by 2: 2 2 0 0 0"], "it has said nothing yet");
    table.record(&again, load(), now);
    assert_eq!(shown(&mut table, now), ["c z by 2: 2 2 0 0 0"]);
}

#[test]
fn what_is_past_a_bound_is_counted_and_the_rest_is_taken() {
    let limits = Limits {
        clients: 2,
        clusters: 2,
        zones: 2,
        drop_categories: 1,
        metrics: 1,
        text_bytes: 8,
        entries: 12,
    };
    let zone = |zone: &str| locality(zone, [10, 10, 0, 0]);
    let long = "x".repeat(9);
    let metrics = || UpstreamLocalityStats {
        load_metric_stats: [("a", 1), ("b", 1)]
            .map(|(name, n)| metric(name, n, 1.0).load_metric_stats[0].clone())
            .to_vec(),
        ..zone("a")
    };
    // What the client says, how much of it is refused, and the clusters and zones it has then.
    let cases: [(&str, Vec<ClusterStats>, u64, &[&str]); 8] = [
        (
            "clusters",
            ["a", "b", "c", "d"].map(|name| cluster(name, &[zone("z")])).to_vec(),
            2,
            &["a z", "b z"],
        ),
        ("zones", vec![cluster("a", &["x", "y", "z"].map(zone))], 1, &["a x", "a y"]),
        ("drop categories", vec![dropping("a", 3, &[("x", 1), ("y", 2)])], 1, &["a -"]),
        ("metrics", vec![cluster("a", &[metrics()])], 1, &["a a"]),
        ("the name of a cluster", vec![cluster(&long, &[zone("z")])], 1, &[]),
        ("no name", vec![cluster("", &[zone("z")])], 1, &[]),
        ("the name of a zone", vec![cluster("a", &[zone(&long), zone("z")])], 1, &["a z"]),
        ("the name of a category", vec![dropping("a", 3, &[(&long, 1)])], 1, &["a -"]),
    ];
    for (what, clusters, refused, expected) in cases {
        let mut table = Table::new(limits.clone(), 2 * INTERVAL);
        let client = table.open("n");
        let message = LoadStatsRequest { node: None, cluster_stats: clusters }.encode_to_vec();
        let report = Report::decode(message.into(), &limits).expect("a report");
        let now = Instant::now();
        assert_eq!(table.record(&client, report, now), refused, "{what}");
        let rows = table.rows(now);
        let names: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {}", row.cluster, row.zone.as_deref().unwrap_or("-")))
            .collect();
        assert_eq!(names, expected, "{what}");
    }

    // Over all clients: two entries for each cluster with a zone.
    let mut table = Table::new(limits, 2 * INTERVAL);
    let now = Instant::now();
    let say = |table: &mut Table, client: &Client, names: &[&str]| {
        let clusters = names.iter().map(|name| cluster(name, &[zone("z")])).collect();
        table.record(client, report(clusters), now)
    };
    let clients: Vec<Client> = (0..3).map(|n| table.open(&format!("{n}"))).collect();
    assert_eq!(say(&mut table, &clients[0], &["a", "b", "c"]), 1);
    assert_eq!(say(&mut table, &clients[0], &["c"]), 1, "the client has two");
    assert_eq!(say(&mut table, &clients[1], &["a"]), 0);
    assert_eq!(say(&mut table, &clients[2], &["a", "b"]), 2, "there are two clients");
    assert_eq!(say(&mut table, &clients[1], &["a", "b"]), 0);
    assert_eq!(table.row_count(), 4);
    let later = now + 3 * INTERVAL;
    assert!(table.rows(later).is_empty());
    let load = report(vec![cluster("a", &[zone("z")])]);
    assert_eq!(table.record(&clients[2], load, later), 0, "there is room again");
}

#[test]
fn the_room_of_all_clients_together_has_a_bound_too() {
    let limits = Limits { entries: 5, ..Limits::default() };
    let mut table = Table::new(limits, 2 * INTERVAL);
    let now = Instant::now();
    let zones = |n: usize| -> Vec<UpstreamLocalityStats> {
        (0..n).map(|zone| locality(&zone.to_string(), [1, 1, 0, 0])).collect()
    };
    let (one, two) = (table.open("one"), table.open("two"));
    assert_eq!(table.record(&one, report(vec![cluster("a", &zones(2))]), now), 0);
    assert_eq!(table.record(&two, report(vec![cluster("a", &zones(2))]), now), 1);
    assert_eq!(table.record(&two, report(vec![cluster("a", &zones(1))]), now), 0);
    assert_eq!(table.record(&one, report(vec![cluster("a", &zones(3))]), now), 1);
    assert_eq!(table.row_count(), 3, "what was there stays until it is too old");
}

#[test]
fn numbers_that_are_none_are_refused_and_sums_do_not_overflow() {
    let negative = u64::MAX;
    let most = i64::MAX.unsigned_abs();
    let with_interval = |seconds, nanos| ClusterStats {
        load_report_interval: Some(protobuf::Duration { seconds, nanos }),
        ..cluster("c", &[locality("z", [10, 10, 0, 0])])
    };
    let cases: [(&str, ClusterStats, u64, &[&str]); 10] = [
        ("issued", cluster("c", &[locality("z", [negative, 0, 0, 0])]), 1, &[]),
        ("successful", cluster("c", &[locality("z", [0, negative, 0, 0])]), 1, &[]),
        ("failed", cluster("c", &[locality("z", [0, 0, negative, 0])]), 1, &[]),
        ("in progress", cluster("c", &[locality("z", [0, 0, 0, negative])]), 1, &[]),
        ("dropped", dropping("c", negative, &[]), 1, &[]),
        (
            "dropped by category",
            dropping("c", 10, &[("lb", negative)]),
            1,
            &["c - by 1: 0 0 0 1 0"],
        ),
        (
            "in progress, as much as there can be, four times",
            cluster("c", &[0; 4].map(|_| locality("z", [0, 0, 0, most]))),
            0,
            &["c z by 1: 0 0 0 0 18446744073709551615"],
        ),
        ("no interval", with_interval(0, 0), 0, &["c z by 1: 1 1 0 0 0"]),
        ("a negative interval", with_interval(-10, -1), 0, &["c z by 1: 1 1 0 0 0"]),
        (
            "nanoseconds of more than a second",
            with_interval(5, i32::MAX),
            0,
            &["c z by 1: 1 1 0 0 0"],
        ),
    ];
    for (what, stats, refused, expected) in cases {
        let (mut table, now) = (table(), Instant::now());
        let client = table.open("n");
        assert_eq!(table.record(&client, report(vec![stats]), now), refused, "{what}");
        assert_eq!(shown(&mut table, now), expected, "{what}");
    }
    for (total, requests, refused) in [
        (f64::NAN, 1, 1),
        (f64::INFINITY, 1, 1),
        (f64::NEG_INFINITY, 1, 1),
        (1.0, negative, 1),
        (f64::MAX, 1, 0),
        (1.0, 0, 0),
    ] {
        let (mut table, now) = (table(), Instant::now());
        let (one, two) = (table.open("one"), table.open("two"));
        let load = || report(vec![cluster("c", &[metric("m", requests, total)])]);
        assert_eq!(table.record(&one, load(), now), refused, "{total} of {requests}");
        table.record(&two, load(), now);
        let rows = table.rows(now);
        let sane = rows[0].metrics.values().all(|m| m.mean.is_finite());
        assert!(sane && rows[0].requests_per_sec == 2.0, "{rows:?}");
    }
}

#[test]
fn a_report_of_any_size_takes_bounded_memory() {
    let limits = Limits::default();
    let many: Vec<ClusterStats> = (0..1_000_000)
        .map(|n| ClusterStats { cluster_name: n.to_string(), ..ClusterStats::default() })
        .collect();
    let million = LoadStatsRequest { node: None, cluster_stats: many }.encode_to_vec();
    let report = Report::decode(million.into(), &limits).expect("a report");
    assert_eq!(report.clusters.len(), limits.clusters);
    assert_eq!(report.refused, 1_000_000 - 50_000);

    // Four million empty clusters, two octets each.
    let empty = [0x12, 0x00].repeat(4_000_000);
    let report = Report::decode(empty.into(), &limits).expect("a report");
    assert_eq!((report.clusters.len(), report.refused), (0, 4_000_000));

    // One cluster with a million localities, and one with a name of a mebibyte.
    let wide = cluster("c", &vec![UpstreamLocalityStats::default(); 1_000_000]);
    let long = cluster(&"x".repeat(1024 * 1024), &[]);
    let ordinary = cluster("d", &[locality("z", [1, 1, 0, 0])]);
    let message = LoadStatsRequest { node: None, cluster_stats: vec![wide, long, ordinary] };
    let report = Report::decode(message.encode_to_vec().into(), &limits).expect("a report");
    assert_eq!(report.clusters.keys().map(|name| &**name).collect::<Vec<_>>(), ["d"]);
    assert_eq!(report.refused, 2);
}

#[test]
fn what_is_no_report_says_so() {
    let node = Node { id: "x".repeat(300_000), ..Node::default() };
    let node = LoadStatsRequest { node: Some(node), cluster_stats: Vec::new() }.encode_to_vec();
    let good = LoadStatsRequest { node: None, cluster_stats: vec![cluster("c", &[])] };
    let good = good.encode_to_vec();
    let cases: [(&str, &[u8], &str); 5] = [
        ("a field of no type", &[0x17], "not a load report"),
        ("no field", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "not a load report"),
        ("a part cut off", &good[..good.len() - 1], "it ends before it should"),
        ("a length without end", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "it ends before"),
        ("a node of 300,000 octets", &node, "has 300004 octets; at most 262144 are read"),
    ];
    for (what, message, expected) in cases {
        let message = bytes::Bytes::copy_from_slice(message);
        let error: InvalidReport =
            Report::decode(message, &Limits::default()).expect_err("no report");
        assert!(error.to_string().contains(expected), "{what}: {error}");
    }
}

#[test]
fn clusters_ask_grpc_clients_for_reports_where_they_are_taken() {
    let entry = support::entry("web", 80, &[(1, true)]);
    let mut snapshot = Snapshot::default();
    snapshot.apply(entry);
    let snapshot = Arc::new(snapshot);
    for load_reports in [false, true] {
        let config = ResourceConfig { load_reports, ..support::config() };
        let catalog = Catalog::default().next(&snapshot, &Changes::Everything, &config);
        let encoded = catalog.0.lookup(ResourceType::Cluster, "shop/web:80").expect("a cluster");
        let any = protobuf::Any::decode(encoded.any.clone()).expect("an Any");
        let cluster = Cluster::decode(&*any.value).expect("a cluster");
        let source = cluster.lrs_server.and_then(|source| source.config_source_specifier);
        let asked = matches!(source, Some(ConfigSourceSpecifier::Self_(_)));
        assert_eq!((asked, source.is_some()), (load_reports, load_reports));
    }
}

/// A server of load reports and how to end it.
struct Served {
    reports: LoadReports,
    metrics: Metrics,
    lifecycle: Lifecycle,
    address: String,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

#[expect(clippy::disallowed_methods, reason = "the handle is kept and joined")]
async fn serve(config: LoadConfig) -> Served {
    let (metrics, lifecycle) = (Metrics::new(), Lifecycle::new());
    let reports = LoadReports::new(config, &metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let server = Server::builder()
        .add_service(reports.service(lifecycle.clone()))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), lifecycle.draining());
    let server = tokio::spawn(server);
    Served { reports, metrics, lifecycle, address, server }
}

/// A client that says what it is told to.
struct Scripted {
    requests: mpsc::Sender<LoadStatsRequest>,
    responses: Streaming<LoadStatsResponse>,
}

impl Served {
    async fn open(&self) -> Result<Scripted, Status> {
        let endpoint = Endpoint::from_shared(self.address.clone()).expect("a URI");
        let channel: Channel = endpoint.connect().await.expect("connected");
        let (requests, receiver) = mpsc::channel(4);
        let mut client = LoadReportingServiceClient::new(channel);
        let responses = client.stream_load_stats(ReceiverStream::new(receiver)).await?;
        Ok(Scripted { requests, responses: responses.into_inner() })
    }

    /// Waits until the rows are these.
    async fn shows(&self, expected: &[&str]) {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        let mut last = Vec::new();
        let seen = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.reports.view().iter().map(words).collect();
                if last == expected {
                    return;
                }
                look.tick().await;
            }
        });
        assert!(seen.await.is_ok(), "expected {expected:?}, there is {last:?}");
    }

    fn streams_open(&self) -> u64 {
        let text = self.metrics.encode().expect("metrics");
        let line = text.lines().find_map(|l| l.strip_prefix("portolan_load_streams "));
        line.expect("a metric").parse().expect("a number")
    }

    fn metric(&self, line: &str) {
        let text = self.metrics.encode().expect("metrics");
        assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
    }
}

impl Scripted {
    async fn say(&self, node: Option<Node>, cluster_stats: Vec<ClusterStats>) {
        let request = LoadStatsRequest { node, cluster_stats };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn hears(&mut self) -> Result<Option<LoadStatsResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("in time")
    }
}

fn node(id: &str, features: &[&str]) -> Option<Node> {
    let client_features = features.iter().map(|f| (*f).to_owned()).collect();
    Some(Node { id: id.to_owned(), client_features, ..Node::default() })
}

#[tokio::test]
async fn a_client_is_told_what_to_report_and_how_often_and_its_reports_are_taken() {
    let served = serve(LoadConfig::default()).await;
    let mut envoy = served.open().await.expect("a stream");
    envoy.say(node("envoy", &["envoy.lrs.supports_send_all_clusters"]), Vec::new()).await;
    let answer = envoy.hears().await.expect("no error").expect("an answer");
    let expected = LoadStatsResponse {
        send_all_clusters: true,
        load_reporting_interval: Some(protobuf::Duration { seconds: 10, nanos: 0 }),
        ..LoadStatsResponse::default()
    };
    assert_eq!(answer, expected);

    let mut older = served.open().await.expect("a stream");
    let named = vec![cluster("shop/web:80", &[]), cluster("shop/db:5432", &[])];
    older.say(node("older", &[]), named).await;
    let answer = older.hears().await.expect("no error").expect("an answer");
    assert_eq!(answer.clusters, ["shop/db:5432", "shop/web:80"]);
    assert!(!answer.send_all_clusters);

    let web = || vec![cluster("shop/web:80", &[locality("a", [20, 10, 5, 3])])];
    envoy.say(None, web()).await;
    older.say(None, web()).await;
    served.shows(&["shop/web:80 a by 2: 4 2 1 0 6"]).await;
    served.metric("portolan_load_reports_total 4");
    served.metric("portolan_load_rows 2");
    served.metric("portolan_load_streams 2");

    // It comes back: what its former stream said does not count beside what this one says.
    drop(older);
    tokio::time::timeout(PATIENCE, async {
        while served.streams_open() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the end of a stream is noticed");
    let older = served.open().await.expect("a stream");
    older.say(node("older", &[]), web()).await;
    older.say(None, vec![cluster("shop/db:5432", &[locality("b", [10, 10, 0, 0])])]).await;
    served.shows(&["shop/db:5432 b by 1: 1 1 0 0 0", "shop/web:80 a by 2: 4 2 1 0 6"]).await;

    served.lifecycle.drain();
    let end = envoy.hears().await.expect_err("the server drains");
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    let ended = tokio::time::timeout(PATIENCE, served.server).await.expect("in time");
    ended.expect("joined").expect("a clean end");
}

#[tokio::test]
async fn a_stream_survives_all_but_garbage() {
    let config = LoadConfig { streams: 1, ..LoadConfig::default() };
    let served = serve(config).await;
    let mut client = served.open().await.expect("a stream");
    let refused = served.open().await.err().expect("one stream is the limit");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    served.metric("portolan_load_streams_refused_total 1");

    client.say(node("n", &[]), Vec::new()).await;
    client.hears().await.expect("no error").expect("an answer");
    let names = (0..1_000_000).map(|n| cluster(&n.to_string(), &[]));
    client
        .say(None, names.map(|c| ClusterStats { load_report_interval: None, ..c }).collect())
        .await;
    let bad = cluster("c", &[locality("z", [u64::MAX, 0, 0, 0])]);
    client.say(None, vec![bad, cluster("d", &[locality("z", [10, 10, 0, 0])])]).await;
    served.shows(&["d z by 1: 1 1 0 0 0"]).await;
    served.metric("portolan_load_rows_refused_total 950001");
    drop(client);

    let nobody = tokio::time::timeout(PATIENCE, async {
        loop {
            match served.open().await {
                Ok(client) => return client,
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
            }
        }
    });
    let mut nobody = nobody.await.expect("the place is free again");
    nobody.say(None, vec![cluster("c", &[])]).await;
    let end = nobody.hears().await.expect_err("nobody");
    assert_eq!(
        (end.code(), end.message()),
        (Code::InvalidArgument, "the first load report names no node")
    );
}
