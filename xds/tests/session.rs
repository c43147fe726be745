//! The server's session: the rules of the xDS protocol document, one test each.

mod support;

use portolan_proto::envoy::protobuf::Any;
use portolan_xds::catalog::Catalog;
use portolan_xds::resource::ResourceType::{self, Cluster, Endpoints, Generation, Listener, Route};
use portolan_xds::server::session::{
    MAX_NAME_BYTES, MAX_NAMES, Outcome, Request, Response, Session, Violation,
};
use prost::Message;
use support::{World, entry};

/// A client that speaks by hand.
#[derive(Default)]
struct Client {
    session: Session,
    nonces: std::collections::HashMap<ResourceType, String>,
}

impl Client {
    fn ask(&mut self, kind: ResourceType, names: &[&str]) -> Outcome {
        self.request(kind, names, None)
    }

    fn request(&mut self, kind: ResourceType, names: &[&str], error: Option<&str>) -> Outcome {
        let request = Request {
            type_url: kind.type_url().to_owned(),
            names: names.iter().map(ToString::to_string).collect(),
            nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            error: error.map(str::to_owned),
        };
        self.session.on_request(request).expect("within limits")
    }

    /// Takes everything that is due, acknowledging nothing.
    fn take(&mut self, catalog: &Catalog) -> Vec<Response> {
        self.session.on_catalog(catalog);
        let mut taken = Vec::new();
        while let Some(response) = self.session.next_response(catalog) {
            self.nonces.insert(response.kind, response.nonce.clone());
            taken.push(response);
        }
        taken
    }
}

/// Type and resource names of each response.
fn summary(responses: &[Response]) -> Vec<(ResourceType, Vec<String>)> {
    responses.iter().map(|r| (r.kind, names(r))).collect()
}

fn names(response: &Response) -> Vec<String> {
    use portolan_proto::envoy::{cluster, endpoint, listener, route};
    let name = |any: &Any| match response.kind {
        Cluster => cluster::Cluster::decode(&*any.value).map(|m| m.name),
        Endpoints => endpoint::ClusterLoadAssignment::decode(&*any.value).map(|m| m.cluster_name),
        Listener => listener::Listener::decode(&*any.value).map(|m| m.name),
        Route => route::RouteConfiguration::decode(&*any.value).map(|m| m.name),
        Generation => Ok("generation".to_owned()),
    };
    support::on_the_wire(response).resources.iter().map(|a| name(a).expect("decodes")).collect()
}

fn world() -> World {
    let mut world = World::default();
    world.apply(entry("web", 80, &[(1, true), (2, false)])).apply(entry("db", 5432, &[(3, true)]));
    world.publish();
    world
}

#[test]
fn nothing_is_sent_before_the_first_publish() {
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    assert!(client.take(&Catalog::default()).is_empty());
    assert_eq!(summary(&client.take(&world().catalog)).len(), 1);
}

#[test]
fn a_wildcard_gets_clusters_and_sockets_but_no_api_listeners() {
    let world = world();
    let mut client = Client::default();
    client.ask(Listener, &[]);
    client.ask(Cluster, &[]);
    let expected = vec![
        (Cluster, vec!["shop/db:5432".to_owned(), "shop/web:80".to_owned()]),
        (Listener, vec!["db".to_owned(), "http".to_owned()]),
    ];
    assert_eq!(summary(&client.take(&world.catalog)), expected);
}

#[test]
fn a_grpc_target_is_found_by_its_name_port_included() {
    let world = world();
    let target = "web.shop.svc.cluster.local:80";
    let mut client = Client::default();
    client.ask(Listener, &[target]);
    client.ask(Route, &[target]);
    let expected = vec![(Listener, vec![target.to_owned()]), (Route, vec![target.to_owned()])];
    assert_eq!(summary(&client.take(&world.catalog)), expected);
}

#[test]
fn an_empty_wildcard_is_answered_all_the_same() {
    let mut world = World::default();
    world.publish();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    assert_eq!(summary(&client.take(&world.catalog)), [(Cluster, Vec::new())]);
    assert!(client.take(&world.catalog).is_empty());
}

#[test]
fn responses_come_in_make_before_break_order_and_the_generation_last() {
    let world = world();
    let mut client = Client::default();
    client.ask(Generation, &["generation"]);
    client.ask(Route, &["portolan/http"]);
    client.ask(Listener, &[]);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    client.ask(Cluster, &[]);
    let kinds: Vec<_> = client.take(&world.catalog).iter().map(|r| r.kind).collect();
    assert_eq!(kinds, [Cluster, Endpoints, Listener, Route, Generation]);
}

#[test]
fn a_resource_is_sent_again_only_when_it_changed() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    assert_eq!(client.take(&world.catalog).len(), 2);
    assert!(client.take(&world.catalog).is_empty());

    world.apply(entry("web", 80, &[(1, true), (2, true)])).publish();
    let expected = [(Endpoints, vec!["shop/web:80".to_owned()])];
    assert_eq!(summary(&client.take(&world.catalog)), expected);

    // Written again with the same content: a new generation, nothing to send.
    world.apply(entry("web", 80, &[(1, true), (2, true)])).publish();
    assert!(client.take(&world.catalog).is_empty());
}

#[test]
fn a_removed_cluster_leaves_after_the_routes_to_it() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Route, &["portolan/http"]);
    client.take(&world.catalog);
    world.delete("web").apply(entry("api", 80, &[(9, true)])).publish();
    let (all, rest) =
        (["shop/api:80", "shop/db:5432", "shop/web:80"], &["shop/api:80", "shop/db:5432"]);
    let expected = [
        (Cluster, all.map(str::to_owned).to_vec()),
        (Route, vec!["portolan/http".to_owned()]),
        (Cluster, rest.map(str::to_owned).to_vec()),
    ];
    assert_eq!(summary(&client.take(&world.catalog)), expected);
    assert!(client.take(&world.catalog).is_empty());
}

#[test]
fn a_changed_cluster_brings_its_endpoints_again() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    client.take(&world.catalog);
    let mut changed = (*entry("web", 80, &[(1, true), (2, false)])).clone();
    let mut service = (*changed.service).clone();
    service.policy.balancer = Some(portolan_model::Balancer::RoundRobin);
    changed.service = service.into();
    world.apply(changed.into()).publish();
    let expected = [
        (Cluster, vec!["shop/db:5432".to_owned(), "shop/web:80".to_owned()]),
        (Endpoints, vec!["shop/web:80".to_owned()]),
    ];
    assert_eq!(summary(&client.take(&world.catalog)), expected);
}

#[test]
fn an_ack_records_the_version_and_sends_nothing() {
    let world = world();
    let mut client = Client::default();
    assert_eq!(client.ask(Cluster, &[]), Outcome::Subscribed);
    let sent = client.take(&world.catalog).remove(0);
    assert_eq!(client.ask(Cluster, &[]), Outcome::Acked(Cluster));
    assert!(client.take(&world.catalog).is_empty());
    let status = &client.session.status()["cds"];
    assert_eq!((&status.sent, &status.acked), (&sent.version, &sent.version));
}

#[test]
fn a_refused_response_is_not_sent_again_until_something_changes() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.take(&world.catalog);
    let outcome = client.request(Cluster, &[], Some("shop/web:80: bad"));
    assert_eq!(outcome, Outcome::Nacked(Cluster, "shop/web:80: bad".to_owned()));
    assert!(client.take(&world.catalog).is_empty(), "no resend loop");
    assert_eq!(client.session.status()["cds"].nacked.as_deref(), Some("shop/web:80: bad"));
    assert_eq!(client.session.status()["cds"].acked, "");

    world.apply(entry("api", 80, &[])).publish();
    assert_eq!(client.take(&world.catalog).len(), 1);
    assert_eq!(client.ask(Cluster, &[]), Outcome::Acked(Cluster));
    assert_eq!(client.session.status()["cds"].nacked, None);
}

#[test]
fn a_request_with_a_stale_nonce_is_ignored() {
    let world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/web:80"]);
    client.take(&world.catalog);
    client.nonces.insert(Endpoints, "0-0".to_owned());
    assert_eq!(client.ask(Endpoints, &["shop/db:5432"]), Outcome::Stale(Endpoints));
    assert!(client.take(&world.catalog).is_empty());
}

#[test]
fn names_may_be_added_and_taken_out_on_a_stream() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/web:80"]);
    client.take(&world.catalog);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    let expected = [(Endpoints, vec!["shop/db:5432".to_owned()])];
    assert_eq!(summary(&client.take(&world.catalog)), expected);
    client.ask(Endpoints, &["shop/db:5432"]);
    world.apply(entry("web", 80, &[])).publish();
    assert!(client.take(&world.catalog).is_empty(), "no longer subscribed");
    // Asked for again, it is sent again, whatever the client was sent before.
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    let expected = [(Endpoints, vec!["shop/web:80".to_owned()])];
    assert_eq!(summary(&client.take(&world.catalog)), expected);
}

#[test]
fn a_name_that_does_not_exist_yet_is_sent_once_it_does() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/new:80"]);
    assert!(client.take(&world.catalog).is_empty());
    world.apply(entry("new", 80, &[(7, true)])).publish();
    let expected = [(Endpoints, vec!["shop/new:80".to_owned()])];
    assert_eq!(summary(&client.take(&world.catalog)), expected);
}

#[test]
fn a_slow_client_gets_only_the_latest_state() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/web:80"]);
    client.take(&world.catalog);
    for octet in 10..200 {
        world.apply(entry("web", 80, &[(octet, true)])).publish();
        client.session.on_catalog(&world.catalog);
    }
    let taken = client.take(&world.catalog);
    assert_eq!(taken.len(), 1);
    let newest = world.catalog.lookup(Endpoints, "shop/web:80").expect("served");
    assert_eq!(taken[0].resources, std::slice::from_ref(newest));
}

#[test]
fn versions_are_the_same_on_every_replica_and_for_every_order_of_events() {
    let mut one = World::default();
    one.apply(entry("a", 80, &[(1, true)])).publish();
    one.apply(entry("b", 80, &[(2, true)])).publish();
    let mut other = World::default();
    other.apply(entry("b", 80, &[(9, true)])).publish();
    other.apply(entry("c", 80, &[])).apply(entry("b", 80, &[(2, true)])).publish();
    other.delete("c").apply(entry("a", 80, &[(1, true)])).publish();
    let version = |world: &World| {
        let mut client = Client::default();
        client.ask(Cluster, &[]);
        client.take(&world.catalog).remove(0).version
    };
    assert_eq!(version(&one), version(&other));
}

#[test]
fn a_type_that_is_not_served_is_ignored_and_a_limit_ends_the_stream() {
    let mut session = Session::default();
    let unknown = Request { type_url: "type.googleapis.com/x.Y".to_owned(), ..Request::default() };
    assert_eq!(session.on_request(unknown), Ok(Outcome::UnknownType));
    let long = Request {
        type_url: Endpoints.type_url().to_owned(),
        names: vec!["x".repeat(MAX_NAME_BYTES + 1)],
        ..Request::default()
    };
    let length = MAX_NAME_BYTES + 1;
    assert_eq!(session.on_request(long), Err(Violation::NameTooLong { kind: "eds", length }));
    let many = Request {
        type_url: Endpoints.type_url().to_owned(),
        names: vec![String::new(); MAX_NAMES + 1],
        ..Request::default()
    };
    let count = MAX_NAMES + 1;
    assert_eq!(session.on_request(many), Err(Violation::TooManyNames { kind: "eds", count }));
}

#[test]
fn routes_wait_until_the_endpoints_of_a_new_cluster_were_asked_for() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    client.ask(Route, &["portolan/http"]);
    client.take(&world.catalog);

    world.delete("web").apply(entry("api", 80, &[(9, true)])).publish();
    let kinds = |responses: Vec<Response>| responses.iter().map(|r| r.kind).collect::<Vec<_>>();
    assert_eq!(kinds(client.take(&world.catalog)), [Cluster], "the rest waits");
    assert!(client.session.is_holding());
    client.ask(Endpoints, &["shop/api:80", "shop/db:5432", "shop/web:80"]);
    assert_eq!(kinds(client.take(&world.catalog)), [Endpoints, Route, Cluster]);
    assert!(!client.session.is_holding());

    // A client that refuses the cluster, or never asks, does not hold itself back for ever.
    world.apply(entry("new", 80, &[])).publish();
    assert_eq!(kinds(client.take(&world.catalog)), [Cluster]);
    client.request(Cluster, &[], Some("no"));
    assert_eq!(kinds(client.take(&world.catalog)), [Route]);
    world.apply(entry("newer", 80, &[])).publish();
    assert_eq!(kinds(client.take(&world.catalog)), [Cluster]);
    client.session.release();
    assert_eq!(kinds(client.take(&world.catalog)), [Route]);
}
