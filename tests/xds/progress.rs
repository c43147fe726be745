//! How far clients are: `portolan wait`, `portolan get clients`, and what a refusal leaves behind.

use std::process::Stdio;

use serde_json::Value;

use crate::kit::{self, CDS, Talk, arguments, channel, command, control, shop, until_said};
use crate::support::{PATIENCE, Process, replace};

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_when_all_have_it_and_else_names_who_does_not_and_why() {
    let folder = shop();
    let mut process = control(folder.path(), &[]).await;
    let channel = channel(process.address("xds")).await;
    let mut quick = Talk::ads(&channel, "quick").await;
    quick.get(CDS, &[]).await.expect("clusters");
    let mut slow = Talk::ads(&channel, "slow").await;
    slow.ask(CDS, &[]).await;
    let unanswered = slow.next().await.expect("clusters");

    let cases: [(&[&str], Option<i32>, &[&str]); 6] = [
        (
            &["--timeout", "0.5"],
            Some(1),
            &[
                "generation 1: 1 of 2 clients do not have it:",
                "  slow has 0: has not answered a response of cds",
            ],
        ),
        (&["--service", "shop/web", "--timeout", "0"], Some(1), &["  slow has 0: "]),
        (
            &["--generation", "7", "--timeout", "0"],
            Some(1),
            &["generation 7 is not there yet: the newest is 1", "2 of 2 clients"],
        ),
        (&["--service", "shop/none"], Some(1), &["no service shop/none in any generation"]),
        (&["--service", "Shop"], Some(1), &["service: "]),
        (&["--timeout=-1"], Some(2), &["--timeout -1: "]),
    ];
    for (args, code, texts) in cases {
        let (ended, _, said) = command(&mut process, &[&["wait"], args].concat());
        assert_eq!(ended, code, "{args:?}: {said}");
        for text in texts {
            assert!(said.contains(text), "{args:?}: {said}");
        }
    }
    let table = command(&mut process, &["get", "clients"]).1;
    let row = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("quick"), ["quick", "envoy", "1.40.0", "ads", "sotw", "1", "current", "-"]);
    assert_eq!(row("slow"), ["slow", "envoy", "1.40.0", "ads", "sotw", "0", "pending", "-"]);

    slow.ack(&unanswered).await;
    for args in [&["--generation", "1"][..], &["--service", "shop/web"], &[]] {
        let (code, said, error) = command(&mut process, &[&["wait"], args].concat());
        assert_eq!((code, &*said), (Some(0), "generation 1: all 2 clients have it\n"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shown_counted_and_logged_once_until_a_later_version_is_taken() {
    let (folder, logs) = (shop(), tempfile::tempdir().expect("a folder"));
    let log = logs.path().join("log");
    let file = std::fs::File::create(&log).expect("created");
    let args = arguments(folder.path(), &["--log", "warn"]);
    let mut process = Process::start_logging(&args, Stdio::from(file));
    process.reach(1).await;
    let mut talk = Talk::ads(&channel(process.address("xds")).await, "envoy-1").await;
    talk.get(CDS, &[]).await.expect("clusters");

    kit::service(folder.path(), "shop", "new", 9, &["10.0.9.1"]);
    let reply = talk.next().await.expect("one more cluster");
    assert!(reply.names().contains("shop/new:80"));
    let words = "Error adding/updating cluster(s) shop/new:80: no such thing";
    talk.nack(&reply, words).await;
    // Another version, and the same words.
    let path = folder.path().join("shop-new.yaml");
    let text = std::fs::read_to_string(&path).expect("readable");
    let balanced = |balancer: &str| {
        let set = format!("shop, annotations: {{portolan.dev/balancer: {balancer}}}}}");
        replace(&path, &text.replacen("shop}", &set, 1));
    };
    balanced("random");
    let again = talk.next().await.expect("the cluster in another version");
    assert_ne!(again.resources["shop/new:80"], reply.resources["shop/new:80"]);
    talk.nack(&again, words).await;
    let nacks = "portolan_xds_nacks_total{type=\"cds\"}";
    let deadline = std::time::Instant::now() + PATIENCE;
    while process.metric(nacks).await != Some(2.0) {
        assert!(std::time::Instant::now() < deadline, "not both refusals are counted");
    }

    let refuses = format!("cds: {words}");
    let table =
        until_said(&mut process, &["get", "clients"], |table| table.contains(&refuses)).await;
    assert!(table.contains("refuses"), "{table}");
    let list = command(&mut process, &["get", "clients", "-o", "json"]).1;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let status = &list["items"][0]["types"]["cds"];
    assert_eq!((status["nacked"].as_str(), &status["refused"]), (Some(words), &1.into()), "{list}");
    let rejected = until_said(&mut process, &["get", "rejected"], |said| !said.is_empty()).await;
    for part in ["refused", "client envoy-1", "Service shop/new", "cds shop/new:80", words] {
        assert!(rejected.contains(part), "{part:?} in {rejected}");
    }
    assert_eq!(rejected.lines().count(), 2, "one resource is refused: {rejected}");
    let (code, _, said) = command(&mut process, &["wait", "--timeout", "0"]);
    let expected = format!("  envoy-1 has 1: refuses {refuses}");
    assert!(code == Some(1) && said.contains(&expected), "{said}");
    let logged = std::fs::read_to_string(&log).expect("readable");
    assert_eq!(logged.matches("no such thing").count(), 1, "{logged}");

    balanced("round_robin");
    let later = talk.next().await.expect("a later version");
    assert_ne!(later.resources["shop/new:80"], again.resources["shop/new:80"]);
    talk.ack(&later).await;
    until_said(&mut process, &["get", "rejected"], str::is_empty).await;
    let table = command(&mut process, &["get", "clients"]).1;
    assert!(table.contains("current") && !table.contains("refuses"), "{table}");
}
