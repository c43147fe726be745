//! Events on refused objects, by the one replica that holds the Lease. On the real clock, which
//! Leases are measured by.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::apiserver::{ApiServer, Fault};
use crate::world::{World, populate, service};

const PATIENCE: Duration = Duration::from_secs(90);

fn bad(name: &str, ip: u8) -> Value {
    let mut object = service(name, ip, &[80]);
    object["metadata"]["annotations"] = json!({ "portolan.dev/balancer": "fastest" });
    object
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Events as `Kind namespace/name: reason: note`, and who wrote them.
fn events(server: &ApiServer) -> Vec<(String, String)> {
    let show = |event: &Value| {
        let (text, about) =
            (|v: &Value| v.as_str().unwrap_or_default().to_owned(), &event["regarding"]);
        let (kind, namespace) = (text(&about["kind"]), text(&about["namespace"]));
        let (name, reason) = (text(&about["name"]), text(&event["reason"]));
        let note = text(&event["note"]);
        assert_eq!(event["type"], "Warning");
        assert!(!text(&about["uid"]).is_empty(), "kubectl describe finds it by the uid");
        (format!("{kind} {namespace}/{name}: {reason}: {note}"), text(&event["reportingInstance"]))
    };
    server.objects("Event").iter().map(show).collect()
}

#[tokio::test]
async fn a_refused_object_gets_one_event_from_the_replica_that_holds_the_lease() {
    let server = ApiServer::new();
    populate(&server);
    let (mut one, mut two) = (World::announcing(&server, "one"), World::announcing(&server, "two"));
    one.settle("one").await;
    two.settle("two").await;
    assert!(server.objects("Lease").is_empty(), "nothing to write, no lease");

    let mut first = bad("first", 101);
    first["metadata"]["annotations"]["portolan.dev/max-requests"] = "many".into();
    server.apply(first);
    until("an event for each", || events(&server).len() >= 2).await;
    let text = "Service shop/first: SettingNotInForce: metadata.annotations[portolan.dev/balancer]: \
                \"fastest\" is not one of peak_ewma, least_request, round_robin, ring_hash, \
                maglev, client_side_weighted_round_robin, pick_first, random; the setting falls \
                back to its default";
    let all = events(&server);
    let writer = all[0].1.clone();
    assert!(all.iter().any(|(said, _)| said == text), "{all:?}");
    assert!(all.iter().any(|(said, _)| said.contains("max-requests]: \"many\"")), "{all:?}");
    assert!(all.iter().all(|(_, by)| *by == writer));
    // The other one has had its time as well.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(events(&server).len(), 2);

    let (holder, other) = if writer == "one" { (one, two) } else { (two, one) };
    holder.finish().await;
    server.apply(bad("second", 102));
    until("an event of the other one", || {
        events(&server).iter().any(|(text, by)| text.contains("shop/second") && *by != writer)
    })
    .await;
    other.finish().await;
}

#[tokio::test]
async fn without_the_right_to_write_everything_else_goes_on() {
    let server = ApiServer::new();
    populate(&server);
    server.fail_when(|call| matches!(call.kind, "Lease" | "Event").then(Fault::forbidden));
    let mut world = World::announcing(&server, "one");
    server.apply(bad("first", 101));
    world.settle("the lists").await;
    until("a try", || server.calls().iter().any(|call| call.kind == "Lease")).await;
    server.apply(service("later", 103, &[80]));
    world.settle("a change").await;
    assert!(server.objects("Event").is_empty());
    assert_eq!(world.report().rejections.len(), 1, "it is shown all the same");
    world.finish().await;
}
