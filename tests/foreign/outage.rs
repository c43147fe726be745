//! The control plane dies, in every way there is: the proxy goes on serving, asks again with growing
//! pauses, and takes up where it was.

use std::time::{Duration, Instant};

use crate::backend::{Backend, addresses};
use crate::control_plane::gate::{Gate, Mode};
use crate::control_plane::resources::{all, assignment};
use crate::control_plane::{CDS, ControlPlane, EDS, LDS, RDS, Said};
use crate::kit::{ROUTES, WEB, World, until, until_within};

const CONNECTED: &str = "portolan_xds_client_connected";
/// How long a control plane is away in most tests.
const AWAY: Duration = Duration::from_secs(3);
/// Longest until a peer that says nothing any more is given up: two keep-alive times and a pause.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// A world whose control plane is behind a gate.
async fn gated() -> (World, Gate) {
    let plane = ControlPlane::start().await;
    let gate = Gate::start(Mode::To(plane.address)).await;
    let at = gate.address;
    (World::under(plane, at, &[]), gate)
}

/// Asks all the while; every answer has to be good.
async fn goes_on(world: &World, time: Duration) {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        let answer = world.get("/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connected(world: &mut World, expected: f64) {
    until("whether it is connected is shown", async || {
        let now = world.metric(CONNECTED).await;
        if now == expected { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
}

/// The first requests of a stream, one per type.
fn resumed(said: &[Said], stream: usize) -> Vec<&Said> {
    let of = |kind: &str| said.iter().find(move |said| said.stream == stream && said.kind == kind);
    [CDS, EDS, LDS, RDS].into_iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_while_it_is_away_and_the_stream_resumes_with_its_versions() {
    for mode in [Mode::Refuse, Mode::Reset, Mode::Close] {
        let backends = Backend::several(2).await;
        let (mut world, gate) = gated().await;
        world.web(&backends[..1]).await;
        let before = world.plane.streams();
        let versions: Vec<String> =
            [CDS, EDS, LDS, RDS].iter().map(|kind| last_version(&world, kind)).collect();
        gate.turn(mode.clone());
        connected(&mut world, 0.0).await;
        let (status, text) = world.process.admin("/readyz").await;
        assert_eq!(status, 200, "it serves: {text}");
        let tries = world.metric("portolan_xds_client_connects_total").await;
        goes_on(&world, AWAY).await;
        let tries = world.metric("portolan_xds_client_connects_total").await - tries;
        assert!((1.0..=12.0).contains(&tries), "{mode:?}: {tries} tries in {AWAY:?}");

        gate.turn(Mode::To(world.plane.address));
        until("it is back", async || {
            if world.plane.streams() > before { Ok(()) } else { Err("no stream".to_owned()) }
        })
        .await;
        world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[1..]))]));
        world.until("what is new is followed", |answer| answer.endpoint == "b").await;
        connected(&mut world, 1.0).await;
        let said = world.plane.said();
        let resumed = resumed(&said, before + 1);
        let told: Vec<String> = resumed.iter().map(|said| said.version.clone()).collect();
        assert_eq!(told, versions, "{mode:?}: {resumed:#?}");
        for said in resumed {
            assert_eq!(said.nonce, "", "a nonce is of one stream: {said:?}");
            let names: Vec<&str> = said.names.iter().map(String::as_str).collect();
            let expected: &[&str] = match &*said.kind {
                EDS => &[WEB],
                RDS => &[ROUTES],
                _ => &[],
            };
            assert_eq!(names, expected, "{said:?}");
        }
        assert!(said.iter().any(|s| s.stream == before + 1 && s.node.as_deref() == Some("tested")));
    }
}

fn last_version(world: &World, kind: &str) -> String {
    let said = world.plane.said();
    said.iter().rev().find(|said| said.kind == kind).expect("asked for").version.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_the_control_plane_dies_and_comes_back() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    world.plane.stop();
    connected(&mut world, 0.0).await;
    goes_on(&world, AWAY).await;
    // It knows nothing at first, and says so of nothing: no answer is no empty answer.
    for kind in [CDS, EDS, LDS, RDS] {
        world.plane.withhold(kind);
    }
    let before = world.plane.streams();
    world.plane.listen().await;
    until("it is back", async || {
        if world.plane.streams() > before { Ok(()) } else { Err("no stream".to_owned()) }
    })
    .await;
    goes_on(&world, Duration::from_secs(1)).await;
    world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[1..]))]));
    world.until("what is new is followed", |answer| answer.endpoint == "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_comes_back_empty_is_believed() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    world.plane.stop();
    connected(&mut world, 0.0).await;
    // The protocol: an answer of LDS or CDS is the whole set (xDS, "Deleting resources").
    world.plane.set(CDS, Vec::new());
    world.plane.withhold(LDS);
    world.plane.listen().await;
    let answer = world.until("no cluster", |answer| answer.status != 200).await;
    assert_eq!((answer.status, &*answer.reason), (503, "no_cluster"));
    world.plane.set(LDS, Vec::new());
    world.until("no listener", |answer| answer.status == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_ended_again_and_again_are_opened_with_pauses() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let (before, deadline) = (world.plane.streams(), Instant::now() + AWAY);
    while Instant::now() < deadline {
        world.plane.end_streams();
        assert_eq!(world.get("/").await.status, 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let opened = world.plane.streams() - before;
    assert!((1..=12).contains(&opened), "{opened} streams in {AWAY:?}");
}

/// What is open and says nothing any more is found out by keep-alive (HTTP/2 PING).
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_moves_any_more_is_given_up() {
    let backends = Backend::several(2).await;
    let (mut world, gate) = gated().await;
    world.web(&backends[..1]).await;
    let before = gate.accepted();
    gate.turn(Mode::Freeze);
    world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[1..]))]));
    until_within(GIVEN_UP, "another connection is tried", async || {
        assert_eq!(world.get("/").await.status, 200);
        if gate.accepted() > before { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    gate.turn(Mode::To(world.plane.address));
    world.until("what is new is followed", |answer| answer.endpoint == "b").await;
}

/// A proxy whose control plane accepts and never says a word, from the start.
async fn hanging(scheme: &str) -> (World, Gate) {
    let gate = Gate::start(Mode::Freeze).await;
    let control = format!("proxy.control={scheme}://{}", gate.address);
    // The later setting counts.
    let mut world = World::under(ControlPlane::start().await, gate.address, &["--set", &control]);
    until_within(GIVEN_UP, "another connection is tried", async || {
        if gate.accepted() > 1 { Ok(()) } else { Err(format!("{}", gate.accepted())) }
    })
    .await;
    assert_eq!(world.process.admin("/readyz").await.0, 503, "nothing came yet");
    (world, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hangs_from_the_start_is_given_up() {
    let (mut world, gate) = hanging("http").await;
    let backends = Backend::several(1).await;
    gate.turn(Mode::To(world.plane.address));
    world.web(&backends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hangs_in_its_tls_handshake_is_given_up() {
    hanging("https").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_before_its_control_plane_waits_for_it() {
    let backends = Backend::several(1).await;
    let (mut world, gate) = gated().await;
    gate.turn(Mode::Refuse);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (status, text) = world.process.admin("/readyz").await;
    assert_eq!(status, 503, "{text}");
    assert_eq!(world.process.admin("/livez").await.0, 200);
    gate.turn(Mode::To(world.plane.address));
    world.web(&backends).await;
}
