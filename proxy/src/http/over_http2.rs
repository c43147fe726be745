//! A client's HTTP/2 connection: its requests run side by side, each in a task of its own.

use std::rc::Rc;

use bytes::Bytes;

use super::Client;
use super::activity::{Activity, Busy};
use super::answering::Speaks;
use super::body::{Http2Out, Incoming, Outgoing};
use super::exchange::{self, Meta};
use super::local::Reason;
use super::timer::Timer;
use crate::http1::tokens;
use crate::http2;
use crate::message::Known;
use crate::stream::Stream;

pub(super) async fn serve(client: Rc<Client>, stream: Stream, read: Bytes) {
    let config = &client.origin.shared.config;
    let options = client.options();
    let header_timeout = options.header_timeout.unwrap_or(config.header_timeout);
    let settings = http2::Settings {
        max_concurrent_streams: config.max_concurrent_streams,
        max_header_list: config.max_header_bytes,
        // A head that is begun must end, as over HTTP/1.1.
        write_timeout: header_timeout.min(http2::Settings::default().write_timeout),
        ..http2::Settings::default()
    };
    let activity = Activity::new(options.idle_timeout.unwrap_or(config.idle_timeout));
    let closing = closing(&client, &activity);
    let on_request = |request: http2::Request| {
        let busy = activity.begin();
        if options.max_requests.is_some_and(|most| activity.requests() >= most) {
            activity.end();
        }
        let client = Rc::clone(&client);
        client.origin.shared.tasks.spawn_local(answer(Rc::clone(&client), request, busy));
    };
    let metrics = &client.origin.metrics.http2;
    let mut seen = http2::Counters::default();
    let on_counted = |now: http2::Counters| {
        if now != seen {
            for _ in seen.large_heads..now.large_heads {
                client.origin.count_local(Reason::HeadTooLarge);
                client.origin.metrics.count_response(431);
            }
            metrics.on_counted(&seen, &now);
            seen = now;
        }
    };
    let served = http2::serve_counted(stream, read, &settings, closing, on_request, on_counted);
    if let Err(error) = served.await {
        metrics.on_closed(&error);
        tracing::debug!(peer = %client.peer, %error, "a client's connection failed");
    }
}

/// Completes when the connection is to take nothing new: its listener closes, it was idle for too
/// long, or it has lived or carried as much as it may.
async fn closing(client: &Client, activity: &Activity) {
    let aged = async {
        match client.options().max_age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = client.origin.closing.cancelled() => {}
        () = activity.over() => {}
        () = aged => {}
    }
}

async fn answer(client: Rc<Client>, request: http2::Request, busy: Busy) {
    let http2::Request { mut head, body, respond } = request;
    let trailers =
        head.fields.all(Known::Te).flat_map(tokens).any(|t| t.eq_ignore_ascii_case(b"trailers"));
    let meta = Meta { speaks: Speaks::Http2, keep_alive: true, upgrade: false, trailers };
    let (incoming, outgoing) =
        (Incoming::Http2(body), Outgoing::Http2(Http2Out::new(respond, false)));
    let mut timer = Timer::default();
    // What was not ended is reset by being dropped.
    exchange::run(&client, &mut timer, &mut head, meta, incoming, outgoing).await;
    drop(busy);
}
