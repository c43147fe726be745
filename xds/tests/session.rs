//! The server's session: the rules of the xDS protocol document, one test each.

mod support;

#[path = "session/interest.rs"]
mod interest;
#[path = "session/transitions.rs"]
mod transitions;

use portolan_xds::resource::ResourceType::{self, Cluster, Endpoints, Generation, Listener, Route};
use portolan_xds::resource::version_text;
use portolan_xds::server::session::{
    MAX_NAME_BYTES, Names, Outcome, Request, Response, Session, Variant, Violation,
};
use support::{Told, World, entry, resources};

/// Names a stream may be subscribed to.
const MAX_NAMES: usize = 100;

/// A client that speaks by hand.
struct Client {
    told: Told,
    /// What it is subscribed to, and the nonce of the last response, by type.
    asked: std::collections::HashMap<ResourceType, Vec<String>>,
    nonces: std::collections::HashMap<ResourceType, String>,
}

impl Default for Client {
    fn default() -> Self {
        let told = Told::new(Session::new(Variant::Sotw, None, MAX_NAMES));
        Self { told, asked: Default::default(), nonces: Default::default() }
    }
}

impl Client {
    fn ask(&mut self, kind: ResourceType, names: &[&str]) -> Outcome {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.asked.insert(kind, names);
        self.request(kind, None)
    }

    fn request(&mut self, kind: ResourceType, error: Option<&str>) -> Outcome {
        let request = Request {
            type_url: kind.type_url().to_owned(),
            names: Names::Exactly(self.asked.get(&kind).cloned().unwrap_or_default()),
            version: String::new(),
            nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            error: error.map(str::to_owned),
        };
        self.told.session.on_request(request, 1).expect("within limits")
    }

    /// The next response, unanswered.
    fn next(&mut self, world: &World) -> Option<Response> {
        let response = self.told.next_response(world)?;
        self.nonces.insert(response.kind, response.nonce.clone());
        Some(response)
    }

    /// Takes everything that is due, and says so.
    fn take(&mut self, world: &World) -> Vec<Response> {
        let mut taken = Vec::new();
        while let Some(response) = self.next(world) {
            assert_eq!(self.request(response.kind, None), Outcome::Acked(response.kind));
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
    resources(response).iter().map(|(name, _)| name.to_string()).collect()
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
    assert!(client.take(&World::default()).is_empty());
    assert_eq!(summary(&client.take(&world())).len(), 1);
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
    assert_eq!(summary(&client.take(&world)), expected);
}

#[test]
fn a_grpc_target_is_found_by_its_name_port_included() {
    let world = world();
    let target = "web.shop.svc.cluster.local:80";
    let mut client = Client::default();
    client.ask(Listener, &[target]);
    client.ask(Route, &[target]);
    let expected = vec![(Listener, vec![target.to_owned()]), (Route, vec![target.to_owned()])];
    assert_eq!(summary(&client.take(&world)), expected);
}

#[test]
fn an_empty_wildcard_is_answered_all_the_same() {
    let mut world = World::default();
    world.publish();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    assert_eq!(summary(&client.take(&world)), [(Cluster, Vec::new())]);
    assert!(client.take(&world).is_empty());
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
    let kinds: Vec<_> = client.take(&world).iter().map(|r| r.kind).collect();
    assert_eq!(kinds, [Cluster, Endpoints, Listener, Route, Generation]);
}

#[test]
fn a_resource_is_sent_again_only_when_it_changed() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    assert_eq!(client.take(&world).len(), 2);
    assert!(client.take(&world).is_empty());

    world.apply(entry("web", 80, &[(1, true), (2, true)])).publish();
    let expected = [(Endpoints, vec!["shop/web:80".to_owned()])];
    assert_eq!(summary(&client.take(&world)), expected);

    // Written again with the same content: a new generation, nothing to send.
    world.apply(entry("web", 80, &[(1, true), (2, true)])).publish();
    assert!(client.take(&world).is_empty());
}

#[test]
fn a_removed_cluster_leaves_after_the_routes_to_it() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Route, &["portolan/http"]);
    client.take(&world);
    world.delete("web").apply(entry("api", 80, &[(9, true)])).publish();
    let (all, rest) =
        (["shop/api:80", "shop/db:5432", "shop/web:80"], &["shop/api:80", "shop/db:5432"]);
    let expected = [
        (Cluster, all.map(str::to_owned).to_vec()),
        (Route, vec!["portolan/http".to_owned()]),
        (Cluster, rest.map(str::to_owned).to_vec()),
    ];
    assert_eq!(summary(&client.take(&world)), expected);
    assert!(client.take(&world).is_empty());
}

#[test]
fn a_changed_cluster_brings_its_endpoints_again() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    client.take(&world);
    let mut changed = (*entry("web", 80, &[(1, true), (2, false)])).clone();
    let mut service = (*changed.service).clone();
    service.policy.balancer = Some(portolan_model::Balancer::RoundRobin);
    changed.service = service.into();
    world.apply(changed.into()).publish();
    let expected = [
        (Cluster, vec!["shop/db:5432".to_owned(), "shop/web:80".to_owned()]),
        (Endpoints, vec!["shop/web:80".to_owned()]),
    ];
    assert_eq!(summary(&client.take(&world)), expected);
}

#[test]
fn an_ack_records_the_version_and_sends_nothing() {
    let world = world();
    let mut client = Client::default();
    assert_eq!(client.ask(Cluster, &[]), Outcome::Subscribed(Cluster));
    let sent = client.next(&world).expect("due");
    assert!(!client.told.session.is_settled(), "not answered yet");
    assert_eq!(client.request(Cluster, None), Outcome::Acked(Cluster));
    assert!(client.take(&world).is_empty());
    assert!(client.told.session.is_settled());
    let status = &client.told.session.status()["cds"];
    assert_eq!(version_text(status.sent), sent.version);
    assert_eq!(version_text(status.acked), sent.version);
}

fn nacked(outcome: Outcome) -> (Vec<String>, String, bool) {
    match outcome {
        Outcome::Nacked(nack) => {
            let names = nack.names.iter().map(ToString::to_string).collect();
            (names, nack.words.to_string(), nack.repeated)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_response_is_not_sent_again_until_something_changes() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.next(&world).expect("due");
    let (names, words, repeated) = nacked(client.request(Cluster, Some("something is bad")));
    assert_eq!(names, ["shop/db:5432", "shop/web:80"], "whoever says nothing means all");
    assert_eq!((&*words, repeated), ("something is bad", false));
    assert!(client.take(&world).is_empty(), "no resend loop");
    assert!(!client.told.session.is_settled(), "it does not have what it refuses");
    let status = &client.told.session.status()["cds"];
    assert_eq!(status.nacked.as_deref(), Some("something is bad"));
    assert_eq!((status.acked, status.sent, status.refused), (0, 0, 2));

    world.apply(entry("api", 80, &[])).publish();
    let expected = [(Cluster, vec!["shop/api:80".to_owned()])];
    assert_eq!(summary(&client.take(&world)), expected, "what is refused stays out");
    world.delete("db").delete("web").publish();
    assert!(client.take(&world).is_empty());
    assert_eq!(client.told.session.status()["cds"].nacked, None);
    assert!(client.told.session.is_settled());
}

#[test]
fn one_refused_resource_does_not_hold_back_the_rest() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.next(&world).expect("due");
    let (names, ..) = nacked(client.request(Cluster, Some("cluster shop/web:80: bad")));
    assert_eq!(names, ["shop/web:80"]);
    let expected = [(Cluster, vec!["shop/db:5432".to_owned()])];
    assert_eq!(summary(&client.take(&world)), expected, "once more, without it");
    assert!(client.take(&world).is_empty(), "no resend loop");
    assert!(client.told.session.refuses(Cluster));

    // In another version it is tried again.
    let mut changed = (*entry("web", 80, &[])).clone();
    let mut service = (*changed.service).clone();
    service.policy.balancer = Some(portolan_model::Balancer::RoundRobin);
    changed.service = service.into();
    world.apply(changed.into()).publish();
    let all = vec!["shop/db:5432".to_owned(), "shop/web:80".to_owned()];
    assert_eq!(summary(&client.take(&world)), [(Cluster, all)]);
    assert!(!client.told.session.refuses(Cluster));
}

#[test]
fn a_client_that_refuses_a_newer_version_keeps_the_last_good_one() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    let first = resources(&client.take(&world)[0]);
    let mut changed = (*entry("web", 80, &[])).clone();
    let mut service = (*changed.service).clone();
    service.policy.balancer = Some(portolan_model::Balancer::RoundRobin);
    changed.service = service.into();
    world.apply(changed.into()).publish();
    client.next(&world).expect("due");
    nacked(client.request(Cluster, Some("shop/web:80 is bad")));
    // The full set goes on with the version that was good: absent would mean deleted.
    world.apply(entry("api", 80, &[])).publish();
    let taken = client.take(&world);
    let web = resources(&taken[0]).into_iter().find(|(name, _)| &**name == "shop/web:80");
    assert_eq!(web, first.into_iter().find(|(name, _)| &**name == "shop/web:80"));
}

#[test]
fn a_request_with_a_stale_nonce_is_ignored() {
    let world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/web:80"]);
    client.take(&world);
    client.nonces.insert(Endpoints, "0-0".to_owned());
    assert_eq!(client.ask(Endpoints, &["shop/db:5432"]), Outcome::Stale(Endpoints));
    assert!(client.take(&world).is_empty());
}

#[test]
fn names_may_be_added_and_taken_out_on_a_stream() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/web:80"]);
    client.take(&world);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    let expected = [(Endpoints, vec!["shop/db:5432".to_owned()])];
    assert_eq!(summary(&client.take(&world)), expected);
    client.ask(Endpoints, &["shop/db:5432"]);
    world.apply(entry("web", 80, &[])).publish();
    assert!(client.take(&world).is_empty(), "no longer subscribed");
    // Asked for again, it is sent again, whatever the client was sent before.
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    let expected = [(Endpoints, vec!["shop/web:80".to_owned()])];
    assert_eq!(summary(&client.take(&world)), expected);
}

#[test]
fn a_name_that_does_not_exist_yet_is_sent_once_it_does() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/new:80"]);
    assert!(client.take(&world).is_empty());
    world.apply(entry("new", 80, &[(7, true)])).publish();
    let expected = [(Endpoints, vec!["shop/new:80".to_owned()])];
    assert_eq!(summary(&client.take(&world)), expected);
}

#[test]
fn a_slow_client_gets_only_the_latest_state() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Endpoints, &["shop/web:80"]);
    client.take(&world);
    for octet in 10..200 {
        world.apply(entry("web", 80, &[(octet, true)])).publish();
        client.told.tell(&world);
    }
    let taken = client.take(&world);
    assert_eq!(taken.len(), 1);
    let newest = world.catalog.lookup(Endpoints, "shop/web:80").expect("served");
    assert_eq!(resources(&taken[0]), [("shop/web:80".into(), newest.clone())]);
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
        client.take(world).remove(0).version
    };
    assert_eq!(version(&one), version(&other));
}

#[test]
fn a_type_that_is_not_served_is_ignored_and_a_limit_ends_the_stream() {
    let mut session = Session::new(Variant::Sotw, None, MAX_NAMES);
    let unknown = Request { type_url: "type.googleapis.com/x.Y".to_owned(), ..Request::default() };
    assert_eq!(session.on_request(unknown, 1), Ok(Outcome::UnknownType));
    let long = Request {
        type_url: Endpoints.type_url().to_owned(),
        names: Names::Exactly(vec!["x".repeat(MAX_NAME_BYTES + 1)]),
        ..Request::default()
    };
    let length = MAX_NAME_BYTES + 1;
    assert_eq!(session.on_request(long, 1), Err(Violation::NameTooLong { kind: "eds", length }));
    let many = Request {
        type_url: Endpoints.type_url().to_owned(),
        names: Names::Exactly((0..=MAX_NAMES).map(|n| n.to_string()).collect()),
        ..Request::default()
    };
    let (count, limit) = (MAX_NAMES + 1, MAX_NAMES);
    assert_eq!(session.on_request(many, 1), Err(Violation::TooManyNames { count, limit }));
}

#[test]
fn routes_wait_until_the_endpoints_of_a_new_cluster_were_asked_for() {
    let mut world = world();
    let mut client = Client::default();
    client.ask(Cluster, &[]);
    client.ask(Endpoints, &["shop/db:5432", "shop/web:80"]);
    client.ask(Route, &["portolan/http"]);
    client.take(&world);

    world.delete("web").apply(entry("api", 80, &[(9, true)])).publish();
    let kinds = |responses: Vec<Response>| responses.iter().map(|r| r.kind).collect::<Vec<_>>();
    assert_eq!(kinds(client.take(&world)), [Cluster], "the rest waits");
    assert!(client.told.session.is_holding());
    client.ask(Endpoints, &["shop/api:80", "shop/db:5432", "shop/web:80"]);
    assert_eq!(kinds(client.take(&world)), [Endpoints, Route, Cluster]);
    assert!(!client.told.session.is_holding());

    // A client that refuses the cluster, or never asks, does not hold itself back for ever.
    world.apply(entry("new", 80, &[])).publish();
    assert_eq!(client.next(&world).map(|response| response.kind), Some(Cluster));
    client.request(Cluster, Some("no"));
    assert_eq!(kinds(client.take(&world)), [Route]);
    world.apply(entry("newer", 80, &[])).publish();
    assert_eq!(kinds(client.take(&world)), [Cluster]);
    client.told.session.release();
    assert_eq!(kinds(client.take(&world)), [Route]);
}
