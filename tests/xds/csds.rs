//! CSDS: what the server says of each client's resources.

use std::collections::{BTreeMap, BTreeSet};

use portolan_proto::envoy::admin::ClientResourceStatus as Client;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{NodeMatcher, RegexMatcher, StringMatcher, StructMatcher};
use portolan_proto::envoy::status::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use portolan_proto::envoy::status::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus as Config,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::kit::{ADS, CDS, EDS, LDS, RDS, SDS, Talk, Variant, channel, control, shop};

fn by_id(matcher: MatchPattern) -> ClientStatusRequest {
    let node_id = Some(StringMatcher { match_pattern: Some(matcher), ignore_case: false });
    let node_matchers = vec![NodeMatcher { node_id, ..NodeMatcher::default() }];
    ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() }
}

fn nodes(response: &ClientStatusResponse) -> Vec<&str> {
    let ids = response.config.iter().filter_map(|config| config.node.as_ref());
    let mut nodes: Vec<&str> = ids.map(|node| node.id.as_str()).collect();
    nodes.sort_unstable();
    nodes
}

/// Status by type and name: the client's, the configuration's, the client's words.
fn states(config: &ClientConfig) -> BTreeMap<(&str, &str), (Client, Config, &str)> {
    let all = config.generic_xds_configs.iter().map(|of| {
        let words = of.error_state.as_ref().map(|error| error.details.as_str());
        let state = (of.client_status(), of.config_status(), words.unwrap_or_default());
        ((of.type_url.as_str(), of.name.as_str()), state)
    });
    all.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_each_resource_of_each_client_is_told_to_who_asks() {
    let folder = shop();
    let mut process = control(folder.path(), &[]).await;
    let channel = channel(process.address("xds")).await;
    let mut one = Talk::ads(&channel, "node-one").await;
    one.get(CDS, &[]).await.expect("clusters");
    let names = ["pay/api:80", "shop/api:80", "shop/web:80", "shop/none:80"];
    one.get(EDS, &names).await.expect("endpoints");
    one.ask(RDS, &["portolan/http"]).await;
    let routes = one.next().await.expect("routes");
    one.nack(&routes, "no such filter").await;
    one.ask(LDS, &[]).await;
    let _unanswered = one.next().await.expect("listeners");
    // One response of a type at a time is on its way: what is asked for meanwhile waits.
    let two = Talk::open(&channel, ADS, Variant::Delta, "node-two", None);
    let mut two = two.await.expect("let in");
    two.ask(CDS, &["shop/web:80"]).await;
    let _unanswered = two.next().await.expect("a cluster");
    two.ask(CDS, &["pay/api:80"]).await;

    let mut csds = ClientStatusDiscoveryServiceClient::new(channel.clone());
    let taken = (Client::Acked, Config::Synced, "");
    let of_one = BTreeMap::from([
        ((CDS, "pay/api:80"), taken),
        ((CDS, "shop/api:80"), taken),
        ((CDS, "shop/web:80"), taken),
        ((EDS, "pay/api:80"), taken),
        ((EDS, "shop/api:80"), taken),
        ((EDS, "shop/web:80"), taken),
        ((EDS, "shop/none:80"), (Client::DoesNotExist, Config::NotSent, "")),
        ((RDS, "portolan/http"), (Client::Nacked, Config::Error, "no such filter")),
        ((LDS, "http"), (Client::Requested, Config::Stale, "")),
    ]);
    let of_two = BTreeMap::from([
        ((CDS, "shop/web:80"), (Client::Requested, Config::Stale, "")),
        ((CDS, "pay/api:80"), (Client::Requested, Config::NotSent, "")),
    ]);
    for (node, expected) in [("node-one", of_one), ("node-two", of_two)] {
        // The last request of a client may still be on its way.
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        loop {
            let request = by_id(MatchPattern::Exact(node.to_owned()));
            let response = csds.fetch_client_status(request).await.expect("told").into_inner();
            assert_eq!(nodes(&response), [node]);
            let told = states(&response.config[0]);
            if told == expected {
                break;
            }
            let late = std::time::Instant::now() > deadline;
            assert!(!late, "{node}: {told:#?} and not {expected:#?}");
        }
    }

    let both = ["node-one", "node-two"];
    let text = |text: &str| text.to_owned();
    let regex = RegexMatcher { regex: text("node.*"), ..RegexMatcher::default() };
    let metadata =
        NodeMatcher { node_metadatas: vec![StructMatcher::default()], ..NodeMatcher::default() };
    let metadata =
        ClientStatusRequest { node_matchers: vec![metadata], ..ClientStatusRequest::default() };
    let cases: [(ClientStatusRequest, Result<&[&str], Code>); 7] = [
        (ClientStatusRequest::default(), Ok(&both)),
        (by_id(MatchPattern::Prefix(text("node-"))), Ok(&both)),
        (by_id(MatchPattern::Suffix(text("one"))), Ok(&["node-one"])),
        (by_id(MatchPattern::Contains(text("-tw"))), Ok(&["node-two"])),
        (by_id(MatchPattern::Exact(text("node"))), Ok(&[])),
        (by_id(MatchPattern::SafeRegex(regex)), Err(Code::InvalidArgument)),
        (metadata, Err(Code::InvalidArgument)),
    ];
    for (request, expected) in cases {
        let what = format!("{request:?}");
        let response = csds.fetch_client_status(request).await.map(tonic::Response::into_inner);
        let told = response.as_ref().map(nodes).map_err(Status::code);
        assert_eq!(told, expected.map(<[&str]>::to_vec), "{what}");
    }

    let (sender, receiver) = mpsc::channel(4);
    let stream = csds.stream_client_status(ReceiverStream::new(receiver)).await;
    let mut stream = stream.expect("let in").into_inner();
    sender.send(ClientStatusRequest::default()).await.expect("it listens");
    let told = stream.message().await.expect("told").expect("an answer");
    assert_eq!(nodes(&told), both);
    drop(one);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while process.json("/debug/clients").await.as_array().map(Vec::len) != Some(1) {
        assert!(std::time::Instant::now() < deadline, "the first client is still there");
    }
    sender.send(ClientStatusRequest::default()).await.expect("it listens");
    let told = stream.message().await.expect("told").expect("an answer");
    assert_eq!(nodes(&told), ["node-two"], "the stream tells what is so now");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_shown_to_nobody_but_whose_they_are() {
    let folder = shop();
    let authority = tempfile::tempdir().expect("a folder");
    let issuer = format!("identity.issuer_folder={}", authority.path().display());
    let settings = ["--set", issuer.as_str(), "--set", "identity.local_clients=trusted"];
    let mut process = control(folder.path(), &settings).await;
    let channel = channel(process.address("xds")).await;
    let mut one = Talk::ads(&channel, "node-one").await;
    one.says("portolan.dev/identity", "shop/web");
    let (own, all) = ("portolan.dev/identity", "portolan.dev/authorities");
    let reply = one.get(SDS, &[own, all]).await.expect("secrets");
    let holds = |name: &str, text: &[u8]| {
        reply.resources[name].windows(text.len()).any(|bytes| bytes == text)
    };
    assert!(holds(own, b"PRIVATE KEY") && holds(own, b"BEGIN CERTIFICATE"));
    assert!(holds(all, b"BEGIN CERTIFICATE") && !holds(all, b"PRIVATE KEY"));
    one.get(CDS, &[]).await.expect("clusters");

    let mut csds = ClientStatusDiscoveryServiceClient::new(channel.clone());
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    let told = loop {
        let request = ClientStatusRequest::default();
        let told = csds.fetch_client_status(request).await.expect("told").into_inner();
        let configs = &told.config[0].generic_xds_configs;
        if configs.iter().filter(|of| of.client_status() == Client::Acked).count() >= 5 {
            break told;
        }
        assert!(std::time::Instant::now() < deadline, "all is taken in time: {configs:?}");
    };
    let configs = &told.config[0].generic_xds_configs;
    let shown = |kind: &str| configs.iter().filter(|of| of.type_url == kind).collect::<Vec<_>>();
    assert_eq!(shown(SDS).len(), 2);
    assert!(shown(SDS).iter().all(|of| of.xds_config.is_none() && !of.version_info.is_empty()));
    assert!(shown(CDS).iter().all(|of| of.xds_config.is_some()), "all else is shown");
    // Whoever says nothing of who it is has none.
    let two = Talk::open(&channel, ADS, Variant::Delta, "node-two", None);
    let mut two = two.await.expect("let in");
    let reply = two.get(SDS, &[own, all]).await.expect("an answer");
    assert!(reply.resources.is_empty(), "{reply:?}");
    assert_eq!(reply.removed.iter().collect::<BTreeSet<_>>().len(), 2, "{reply:?}");
}
