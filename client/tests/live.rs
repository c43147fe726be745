//! The client against a control plane and backends inside the test, over loopback sockets.

#[path = "live/kit.rs"]
mod kit;

use std::time::Duration;

use futures_util::StreamExt as _;
use kit::{Backend, Control, Pump, next};
use portolan_client::{Client, ConnectError, Reason, plain_http};
use tonic::Code;

#[tokio::test]
async fn a_watch_tells_of_changes_and_outlives_the_control_plane() {
    let mut control = Control::start().await;
    let client = Client::connect(control.uri()).await.expect("a control plane");
    let mut sets = client.watch("echo.shop");
    control.publish(&[]);
    let set = next(&mut sets).await;
    assert_eq!(set.generation, 1);
    let absence = set.absence.expect("not there yet");
    let told = (absence.reason, absence.message.as_str());
    assert_eq!(told, (Reason::NoService, "no service shop/echo in generation 1"));

    let [one, two, three] =
        ["127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003"].map(|a| a.parse().expect("valid"));
    control.publish(&[one, two]);
    let set = next(&mut sets).await;
    assert_eq!(set.endpoints.keys().collect::<Vec<_>>(), [&one, &two]);
    let port = set.port.expect("a port");
    assert_eq!((port.service.as_str(), port.number, port.name), ("echo", 80, None));

    control.publish(&[two, three]);
    assert_eq!(next(&mut sets).await.endpoints.keys().collect::<Vec<_>>(), [&two, &three]);

    // What is the same after a restart is not told again; what differs is.
    control.restart().await;
    control.publish(&[two, three]);
    let change = async {
        control.watched().await;
        control.publish(&[three]);
    };
    let (set, ()) = tokio::join!(next(&mut sets), change);
    assert_eq!((set.generation, set.endpoints.len()), (2, 1));
    let resolved = client.resolve("shop/echo:80").await.expect("the same");
    assert!(resolved.says_the_same_as(&set), "{resolved:?}");
}

#[tokio::test]
async fn what_is_refused_before_the_first_set_ends_a_watch() {
    let control = Control::start().await;
    let client = Client::lazy(control.uri()).expect("a URI");
    let mut sets = client.watch("no-namespace");
    let refused = sets.next().await.expect("an item").expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(sets.next().await.is_none(), "it has ended");
    let refused = client.balanced_channel("no-namespace", plain_http).await;
    assert_eq!(refused.expect_err("refused").code(), Code::InvalidArgument);
    control.publish(&[]);
    let missing = client.resolve("echo.shop").await.expect_err("not there");
    assert_eq!(missing.code(), Code::NotFound);

    let address = Client::connect("not a uri").await.expect_err("no URI");
    assert!(matches!(address, ConnectError::Address { .. }), "{address}");
    let nobody = Client::connect("http://127.0.0.1:1").await.expect_err("nobody there");
    assert!(matches!(nobody, ConnectError::Connect { .. }), "{nobody}");
}

#[tokio::test]
async fn a_balanced_channel_spreads_calls_and_follows_without_a_failed_call() {
    let mut control = Control::start().await;
    let [one, two, three] = ["one", "two", "three"].map(Backend::start);
    control.publish(&[one.address, two.address]);
    let client = Client::connect(control.uri()).await.expect("a control plane");
    let client = client.with_heartbeat(Duration::from_secs(1));
    let channel = client.balanced_channel("echo.shop:80", plain_http).await.expect("endpoints");
    let pump = Pump::start(channel);
    pump.reaches(&["one", "two"]).await;

    control.publish(&[two.address, three.address]);
    pump.reaches(&["two", "three"]).await;
    // Nobody is sent there any more: it may go.
    one.stop().await;
    pump.reaches(&["two", "three"]).await;

    // Without a control plane all goes on; the new one has its say.
    control.stop().await;
    pump.reaches(&["two", "three"]).await;
    control.start_again().await;
    control.publish(&[three.address]);
    pump.reaches(&["three"]).await;
    two.stop().await;
    pump.reaches(&["three"]).await;
    let calls = pump.stop().await;
    assert!(calls > 200, "only {calls} calls");
    // Its task ends with the channel, and the watch with the task.
    control.unwatched().await;
}
