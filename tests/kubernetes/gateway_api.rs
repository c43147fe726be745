//! The Gateway API from a Kubernetes API: with its definitions installed and without.

use std::time::Duration;

use portolan_control::object::Kind;

use crate::support::apiserver::{ApiServer, Fault};
use crate::world::{World, populate};

/// The kinds that are watched of it.
const KINDS: [&str; 6] =
    ["GatewayClass", "Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute", "ReferenceGrant"];

#[tokio::test]
async fn a_cluster_without_its_definitions_is_served_at_once() {
    let server = KINDS.iter().fold(ApiServer::new(), |server, kind| server.without(kind));
    populate(&server);
    let mut world = World::start(&server);
    let settled = tokio::time::timeout(Duration::from_secs(20), world.settle("all"));
    settled.await.expect("at once");
    world.finish().await;
}

#[tokio::test]
async fn without_the_right_to_read_it_everything_else_goes_on_and_the_lack_is_shown() {
    let server = ApiServer::new();
    populate(&server);
    server.fail_when(|call| KINDS.contains(&call.kind).then(Fault::forbidden));
    let mut world = World::start(&server);
    let settled = tokio::time::timeout(Duration::from_secs(20), world.settle("all"));
    settled.await.expect("at once");
    let sources = world.report().sources.clone();
    let trouble = sources[&Kind::HttpRoute].trouble.clone().expect("it is shown");
    assert!(trouble.contains("cannot watch httproutes"), "{trouble}");
    assert!(trouble.ends_with("deploy/rbac.yaml grants what is needed"), "{trouble}");
    // Once it is granted it is read.
    server.clear_faults();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !world.report().sources[&Kind::HttpRoute].served {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", world.report().sources);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.finish().await;
}
