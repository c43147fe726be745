//! Routes of services that clients of one namespace get otherwise (GEP-1426, "consumer routes").

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_model::traffic::{PathMatch, Route};
use portolan_model::{ServiceKey, ServiceRoutes};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route::RouteConfiguration;
use portolan_proto::envoy::route::route::Action;
use portolan_proto::envoy::route::route_action::ClusterSpecifier;
use portolan_xds::catalog::Catalog;
use portolan_xds::resource::{Encoded, ResourceType};
use portolan_xds::viewer::Viewer;
use prost::Message;

use crate::support::{Dice, World, entry};

const TABLES: [&str; 3] =
    ["portolan/http", "web.shop.svc.cluster.local:80", "db.shop.svc.cluster.local:80"];

fn to(cluster: &str) -> Vec<Route> {
    vec![Route::to(PathMatch::Prefix("".into()), cluster.into())]
}

/// Routes of a service in its own namespace and in others: to which cluster.
fn routes(name: &str, own: Option<&str>, others: &[(&str, &str)]) -> Option<Arc<ServiceRoutes>> {
    let mut routes = ServiceRoutes::of(ServiceKey::new("shop", name).expect("valid"));
    routes.ports.extend(own.map(|cluster| (80, to(cluster))));
    for (namespace, cluster) in others {
        routes.consumers.insert((*namespace).into(), [(80, to(cluster))].into());
    }
    (own.is_some() || !others.is_empty()).then(|| Arc::new(routes))
}

/// A client in a namespace; one that may see some alone, if they are said.
fn client(namespace: Option<&str>, sees: Option<&[&str]>) -> Viewer {
    let namespaces: Option<BTreeSet<Arc<str>>> =
        sees.map(|sees| sees.iter().map(|seen| (*seen).into()).collect());
    Viewer {
        namespace: namespace.map(Into::into),
        namespaces: namespaces.map(Arc::new),
        ..Viewer::default()
    }
}

fn looked_up(catalog: &Catalog, table: &str, viewer: &Viewer) -> Option<Encoded> {
    catalog.lookup_for(ResourceType::Route, table, viewer)
}

/// Where each virtual host of a table leads.
fn clusters(catalog: &Catalog, table: &str, viewer: &Viewer) -> Vec<String> {
    let encoded = looked_up(catalog, table, viewer).expect("a table");
    let any = Any::decode(&encoded.any[..]).expect("an Any");
    let table = RouteConfiguration::decode(&any.value[..]).expect("a table");
    let leads = |route: &portolan_proto::envoy::route::Route| match &route.action {
        Some(Action::Route(action)) => match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => cluster.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    table.virtual_hosts.iter().map(|host| leads(&host.routes[0])).collect()
}

#[test]
fn clients_of_a_namespace_get_its_routes_and_others_do_not() {
    let mut world = World::default();
    world.apply(entry("web", 80, &[(1, true)])).apply(entry("db", 80, &[(2, true)]));
    let key = ServiceKey::new("shop", "web").expect("valid");
    let set = routes("web", Some("own"), &[("a", "of-a"), ("b", "of-b")]);
    world.set_routes(&key, set);
    world.publish();
    #[rustfmt::skip]
    let cases = [
        (client(None, None), "own", true),
        (client(Some("shop"), None), "own", true),
        (client(Some("c"), None), "own", true),
        (client(Some("a"), None), "of-a", false),
        (client(Some("b"), None), "of-b", false),
        (client(Some("a"), Some(&["a", "shop"])), "of-a", false),
        (client(Some("c"), Some(&["c", "shop"])), "own", false),
    ];
    for (viewer, expected, as_all) in cases {
        let (http, target) = (TABLES[0], TABLES[1]);
        let found = clusters(&world.catalog, http, &viewer);
        assert_eq!(found, ["shop/db:80", expected], "{viewer:?}");
        assert_eq!(clusters(&world.catalog, target, &viewer), [expected], "{viewer:?}");
        let same = world.catalog.is_same_for_all(ResourceType::Route, &viewer);
        assert!(!same || as_all, "{viewer:?}");
    }
    // Who may not see the service gets nothing of it.
    let stranger = client(Some("a"), Some(&["a"]));
    assert_eq!(clusters(&world.catalog, TABLES[0], &stranger), [""; 0]);
    assert_eq!(looked_up(&world.catalog, TABLES[1], &stranger), None);
}

/// Whatever is published, step by step it comes to what it is in one go, and each client hears of all
/// that changed for it.
#[test]
fn every_change_is_announced_and_leaves_nothing_behind() {
    for seed in 0..40 {
        let (mut dice, mut world) = (Dice::new(seed), World::default());
        let viewers = [client(None, None), client(Some("a"), None), client(Some("b"), None)];
        for step in 0..30 {
            let before = world.catalog.clone();
            for name in ["web", "db"] {
                let key = ServiceKey::new("shop", name).expect("valid");
                match dice.roll(6) {
                    0 => _ = world.delete(name),
                    1 | 2 => _ = world.apply(entry(name, *dice.pick(&[80, 81]), &[(1, true)])),
                    3 | 4 => {
                        let own = dice.one_in(2).then_some("own");
                        let mut others = vec![("a", "of-a"), ("b", "of-b")];
                        others.retain(|_| dice.one_in(2));
                        if let Some((_, cluster)) = others.first_mut() {
                            *cluster = *dice.pick(&["one", "two"]);
                        }
                        world.set_routes(&key, routes(name, own, &others));
                    }
                    _ => {}
                }
            }
            world.publish();
            let rebuilt = world.rebuilt();
            for viewer in &viewers {
                for table in TABLES {
                    let new = looked_up(&world.catalog, table, viewer);
                    let about = format!("seed {seed}, step {step}, {table}, {viewer:?}");
                    let whole = looked_up(&rebuilt, table, viewer);
                    assert_eq!(
                        new.as_ref().map(|e| e.version),
                        whole.map(|e| e.version),
                        "{about}"
                    );
                    if new != looked_up(&before, table, viewer) {
                        let name = (ResourceType::Route, table.into());
                        assert!(world.changed().contains(&name), "{about}");
                    }
                    let same = rebuilt.is_same_for_all(ResourceType::Route, viewer);
                    assert_eq!(
                        same,
                        world.catalog.is_same_for_all(ResourceType::Route, viewer),
                        "{about}"
                    );
                }
            }
        }
    }
}
