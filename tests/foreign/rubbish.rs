//! Control planes that send rubbish: whatever comes, traffic goes on, memory and tries are bounded, and
//! the next good control plane is taken.

use std::time::{Duration, Instant};

use portolan_proto::envoy::protobuf::Any;

use crate::backend::{Backend, addresses};
use crate::control_plane::bogus::{Bogus, Rubbish};
use crate::control_plane::gate::{Gate, Mode};
use crate::control_plane::resources::{all, assignment, eds_cluster};
use crate::control_plane::{CDS, ControlPlane, EDS, LDS, RDS};
use crate::kit::{WEB, World, until};

/// How long rubbish is sent.
const WHILE: Duration = Duration::from_millis(1500);
/// Most memory it may come to, in KiB: a message of the largest size that is taken, and what the
/// process has anyway.
const MOST_KIB: u64 = 600 * 1024;

/// Turns a gate from a good control plane to `mode` and back.
async fn survives(mode: Mode, what: &str) {
    let backends = Backend::several(2).await;
    let plane = ControlPlane::start().await;
    let gate = Gate::start(Mode::To(plane.address)).await;
    let mut world = World::under(plane, gate.address, &[]);
    world.web(&backends[..1]).await;
    let before = gate.accepted();
    gate.turn(mode);
    let deadline = Instant::now() + WHILE;
    while Instant::now() < deadline {
        let answer = world.get("/").await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tries = gate.accepted() - before;
    assert!((1..=10).contains(&tries), "{what}: {tries} tries in {WHILE:?}");
    let memory = world.process.memory_kib();
    assert!(memory < MOST_KIB, "{what}: {memory} KiB");
    world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[1..]))]));
    gate.turn(Mode::To(world.plane.address));
    world.until(what, |answer| answer.endpoint == "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http2_at_all_is_survived() {
    let noise: Vec<u8> =
        (0..4096_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let cases: [(&str, Mode); 6] = [
        ("HTTP/1.1", Mode::Say(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec())),
        ("a TLS alert", Mode::Say(b"\x15\x03\x03\x00\x02\x02\x28".to_vec())),
        ("noise", Mode::Say(noise.clone())),
        ("noise without an end", Mode::Repeat(noise)),
        ("SETTINGS without an end", Mode::Repeat(settings.repeat(100))),
        // A frame of the largest length, of an unknown type, cut short.
        ("half a frame", Mode::Say(b"\xff\xff\xff\xfa\x00\x00\x00\x00\x01abc".to_vec())),
    ];
    let all = cases.map(|(what, mode)| survives(mode, what));
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_grpc_is_survived() {
    let all = Rubbish::ALL.map(|rubbish| async move {
        let bogus = Bogus::start(rubbish).await;
        survives(Mode::To(bogus.address), &format!("{rubbish:?}")).await;
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_mean_nothing_are_survived() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    let streams = world.plane.streams();
    let any =
        |type_url: &str, value: &[u8]| Any { type_url: type_url.to_owned(), value: value.to_vec() };
    let mut cases: Vec<(&str, Vec<Any>)> = vec![
        ("", Vec::new()),
        ("type.googleapis.com/", vec![any("", b"")]),
        ("nonsense", vec![any("nonsense", b"\xff\xff")]),
        ("type.googleapis.com/envoy.service.runtime.v3.Runtime", Vec::new()),
    ];
    for kind in [CDS, EDS, LDS, RDS] {
        cases.push((kind, vec![any(kind, b"\xff\xff\xff\xff")]));
        cases.push((kind, vec![any(kind, b"")]));
        cases.push((kind, vec![any("", b"\x0a\x01a")]));
        cases.push((kind, vec![Any::default(); 1000]));
        // A resource in a resource in a resource.
        let mut nested = any(kind, b"");
        for _ in 0..200 {
            nested = crate::control_plane::resources::any(&nested);
        }
        cases.push((kind, vec![nested]));
    }
    for (kind, resources) in cases {
        world.plane.push(kind, "nonsense", resources);
        assert_eq!(world.get("/").await.status, 200, "{kind}");
    }
    let version = world.plane.set(CDS, all([&eds_cluster(WEB)]));
    world.plane.acked(CDS, &version).await;
    world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[1..]))]));
    world.until("it goes on", |answer| answer.endpoint == "b").await;
    assert_eq!(world.plane.streams(), streams, "on the same stream");
    assert_eq!(world.metric("portolan_proxy_panics_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_answers_without_an_end_is_survived() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    let endpoints = all([&assignment(WEB, &addresses(&backends[..1]))]);
    for n in 0..20_000_u32 {
        let resources = endpoints.iter().map(|resource| resource.any.clone()).collect();
        world.plane.push(EDS, &format!("flood-{n}"), resources);
    }
    let deadline = Instant::now() + WHILE;
    while Instant::now() < deadline {
        assert_eq!(world.get("/").await.status, 200);
    }
    world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[1..]))]));
    world.until("the last wins", |answer| answer.endpoint == "b").await;
    until("it is quiet again", async || {
        let memory = world.process.memory_kib();
        if memory < MOST_KIB { Ok(()) } else { Err(format!("{memory} KiB")) }
    })
    .await;
}
