//! One request from its head to the end of its response.
//!
//! Owns how long it may take, and what is answered when no endpoint does. Who it is for is
//! `routing`'s, sending it `forward`'s.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use portolan_model::traffic::{HttpOptions, Underscores};
use tokio::time::Instant;

use super::Client;
use super::account::{Account, Pulse};
use super::answering::{Answering, Speaks};
use super::asked::Asked;
use super::body::{Incoming, LOOK, Outgoing, ReadError, Source};
use super::forward::Forward;
use super::grpc_web::{self, Form, Web};
use super::local::{Given, Local, Reason};
use super::passing::{self, Passage};
use super::routing::Routed;
use super::timer::Timer;
use super::{edits, mirror, paths, routing, tunnel};
use crate::message::{Known, RequestHead};

/// What a request's head says beside its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) speaks: Speaks,
    /// Another request may follow.
    pub(super) keep_alive: bool,
    /// The client asks for another protocol on the connection.
    pub(super) upgrade: bool,
    /// The client takes trailers.
    pub(super) trailers: bool,
}

/// What becomes of the client's connection, or stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It takes another request.
    KeepAlive,
    /// It closes; what the client still sends is read for a while.
    Close,
    /// It is of no more use; what was sent is not the whole of it.
    Abort,
}

/// Why a request did not come to its end.
#[derive(Debug)]
pub(super) enum Fail {
    /// This is to be answered, or to be told of if the response had begun.
    Local(Local),
    /// The client is gone.
    Client,
}

impl Fail {
    /// A request's body cannot be read: the client is gone, or did not keep to what it said it is.
    pub(super) fn unread(error: &ReadError) -> Self {
        match error {
            ReadError::Text(error) => {
                // INVALID_ARGUMENT: nothing that speaks of the endpoint.
                let given = Given { grpc: "3", ..Given::new(400) };
                Self::Local(Local::given(Reason::BadRequest, error.to_string(), given))
            }
            ReadError::Http1(_) | ReadError::Http2(_) => Self::Client,
        }
    }
}

/// Answers a request, from an endpoint or by itself, and counts it.
pub(super) async fn run<'a>(
    client: &Client,
    timer: &mut Timer,
    head: &mut RequestHead,
    meta: Meta,
    incoming: Incoming<'a>,
    outgoing: Outgoing<'a>,
) -> Ended {
    let shared = &client.origin.shared;
    let _counted = shared.begin_request();
    let takes_web = client.options().grpc_web && !meta.upgrade;
    let web = if takes_web { grpc_web::begin(head) } else { None };
    // Whoever speaks gRPC-Web takes trailers, in the form that is his.
    let meta = Meta { trailers: meta.trailers || web.is_some(), ..meta };
    let account = Account::new(passing::is_grpc(&head.fields));
    let mut source = Source::new(match web {
        Some(Web { asked: Form::Text, .. }) => incoming.of_text(),
        _ => incoming,
    });
    let mut answer =
        Answering::new(outgoing, meta.speaks, head.method() == b"HEAD", meta.keep_alive);
    answer.web = web.map(|web| web.answered);
    let result = proxy(client, timer, head, meta, &account, &mut source, &mut answer).await;
    // What an endpoint had of the body is no part of the next request, whatever became of this one.
    source.settle();
    let cut = result.is_err() && answer.begun;
    let (ended, local) = match result {
        Ok(()) if answer.keep_alive && source.is_over() => (Ended::KeepAlive, None),
        Ok(()) => (Ended::Close, None),
        Err(Fail::Client) => {
            account.on_local(client, Reason::ClientReset);
            (Ended::Abort, Some(Local::new(Reason::ClientReset, "the client left")))
        }
        Err(Fail::Local(local)) => {
            account.on_local(client, local.reason);
            account.on_answered(&local);
            tracing::debug!(listener = %client.origin.listener.name,
                reason = local.reason.as_str(), detail = local.detail, "answered locally");
            let (high, low) = shared.random();
            passing::identify(&mut head.fields, &passing::request_id(high, low));
            let id = head.fields.get(Known::RequestId);
            let trailers = account.grpc && web.is_none();
            let how = (account.grpc, trailers);
            let finished = finish(timer, &local, how, id, &source, &mut answer);
            let ended = Box::pin(finished).await;
            (ended, Some(local))
        }
    };
    account.close(client, head, &source, &answer, local.as_ref(), cut);
    ended
}

/// Answers what no endpoint does, or ends what one has begun: of gRPC, and where its client sees them, with
/// trailers.
async fn finish(
    timer: &mut Timer,
    local: &Local,
    (grpc, trailers): (bool, bool),
    request_id: Option<&[u8]>,
    source: &Source<'_>,
    answer: &mut Answering<'_>,
) -> Ended {
    /// Time for the client to take what the proxy itself has to say.
    const PATIENCE: Duration = Duration::from_secs(5);
    if !answer.begun {
        answer.keep_alive &= source.is_over();
        answer.local(local, grpc, request_id);
    } else if trailers && matches!(answer.out, Outgoing::Http2(_)) && !answer.out.is_full() {
        answer.out.finish(Some(&local.trailers()));
    } else if answer.unframed || matches!(answer.out, Outgoing::Http2(_)) {
        return Ended::Abort;
    } else {
        // The end of the connection before that of the body says that it was cut.
        answer.keep_alive = false;
    }
    let deadline = Instant::now() + PATIENCE;
    let flushed = poll_fn(|cx| match answer.out.poll_flush(cx) {
        Poll::Pending => timer.poll(cx, deadline).map(|()| false),
        Poll::Ready(written) => Poll::Ready(written.is_ok()),
    });
    match (flushed.await, answer.keep_alive) {
        (true, true) => Ended::KeepAlive,
        (true, false) => Ended::Close,
        (false, _) => Ended::Abort,
    }
}

async fn proxy(
    client: &Client,
    timer: &mut Timer,
    head: &mut RequestHead,
    meta: Meta,
    account: &Account,
    source: &mut Source<'_>,
    answer: &mut Answering<'_>,
) -> Result<(), Fail> {
    let (started, grpc) = (account.started(), account.grpc);
    let shared = &client.origin.shared;
    let options = client.options();
    if shared.is_overloaded() {
        let detail = "this proxy has as many requests as it takes";
        return Err(Fail::Local(Local::new(Reason::Overloaded, detail)));
    }
    let bad = |reason| Fail::Local(Local::new(Reason::BadRequest, reason));
    let mut asked = Asked::of(head, meta.speaks == Speaks::Http2).map_err(bad)?;
    if head.method() != b"CONNECT" {
        asked.strip_port(options.strip_port, client.origin.listener.address.port());
    }
    let asked = account.asked.get_or_init(|| asked);
    if let Some(tracer) = &shared.tracer {
        let ((a, b), (c, d), (e, _)) = (shared.random(), shared.random(), shared.random());
        account.on_traced(tracer.begin(&mut head.fields, [a, b, c, d, e]));
    }
    if head.path().contains(&b'#') {
        // RFC 9112 §3.2: HTTP/1.1 refuses it when it reads the head.
        return Err(bad("a fragment in the path"));
    }
    by_listener(head, options, grpc).map_err(Fail::Local)?;
    routing::admit(client, asked, head, grpc).map_err(|local| {
        // What follows a request for a tunnel may be no request.
        answer.keep_alive &= !meta.upgrade && head.method() != b"CONNECT";
        Fail::Local(local)
    })?;
    let upgrade = tunnel::asked_for(client, head, meta, asked).map_err(|local| {
        // The client may send what is not HTTP without waiting for the answer.
        answer.keep_alive = false;
        Fail::Local(local)
    })?;
    let given = if grpc { grpc_timeout(head.fields.get(Known::GrpcTimeout)) } else { None };
    let mut begun = started;
    let Routed { delay, way } = routing::route(client, asked, head, account);
    if let Some(delay) = delay {
        // The client's own limit holds for the delay, the route's begins after it.
        let delay = given.map_or(delay, |given| delay.min(given));
        Box::pin(held_up(delay, source, answer)).await?;
        begun = Instant::now();
    }
    let way = way.map_err(|local| {
        // What follows a request for a tunnel may be no request.
        answer.keep_alive &= upgrade.is_none();
        Fail::Local(local)
    })?;
    let allowed = way.timeout.or(shared.config.request_timeout);
    let (high, low) = shared.random();
    passing::request(
        head,
        &Passage {
            peer: &client.peer_text,
            scheme: client.scheme(),
            version: if meta.speaks == Speaks::Http2 { b"2" } else { b"1.1" },
            host: &asked.host,
            trusted: options.trust_forwarded,
            upgrade: upgrade.is_some(),
            trailers: meta.trailers,
            request_id: &passing::request_id(high, low),
            client_cert: options.client_cert,
            proof: client.proof.as_deref(),
        },
    );
    if let Some(edits) = &way.edits {
        edits::apply(&edits.request, &mut head.fields);
    }
    account.on_passed();
    if !way.mirrors.is_empty() && upgrade.is_none() {
        mirror::begin(shared, &way, asked, head, meta.speaks, grpc, source);
    }
    let idle = way.idle_timeout.or(options.stream_idle_timeout);
    let pulse = &account.pulse;
    if source.is_over() {
        pulse.set_sent(begun);
    }
    let limits = Clock { started, given, allowed, idle };
    // What an endpoint is told of its time is the less of both, as if the request were sent.
    let told = least(given.map(|given| started + given), allowed.map(|allowed| begun + allowed));
    let forward = Forward {
        shared,
        way: &way,
        asked,
        head,
        upgrade,
        deadline: told.filter(|_| grpc),
        account,
        trailers: meta.trailers || meta.speaks == Speaks::Http2,
        tries: 0,
        granted: None,
    };
    let ended = limits.run(timer, pulse, asked.lower(), forward.run(source, answer)).await;
    ended.map_err(|fail| match fail {
        Fail::Local(local) => Fail::Local(local.edited(way.edits.as_ref())),
        Fail::Client => fail,
    })
}

/// Waits, unless the client goes away meanwhile.
pub(super) async fn held_up(
    time: Duration,
    source: &mut Source<'_>,
    answer: &mut Answering<'_>,
) -> Result<(), Fail> {
    let mut left = time;
    loop {
        let next = left.min(LOOK);
        let mut over = pin!(tokio::time::sleep(next));
        poll_fn(|cx| {
            if source.poll_gone(cx).is_ready() || answer.out.poll_refused(cx).is_ready() {
                return Poll::Ready(Err(Fail::Client));
            }
            over.as_mut().poll(cx).map(Ok)
        })
        .await?;
        left -= next;
        if left.is_zero() {
            return Ok(());
        }
        if source.has_left() {
            return Err(Fail::Client);
        }
    }
}

/// The less of two limits, where there may be none.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The limits in time of one request.
struct Clock {
    started: Instant,
    /// By the client, from the beginning (`grpc-timeout`).
    given: Option<Duration>,
    /// By the route, from the end of the request (Envoy `RouteAction.timeout`).
    allowed: Option<Duration>,
    idle: Option<Duration>,
}

impl Clock {
    /// When the request's time is over, as far as that is known yet.
    fn deadline(&self, pulse: &Pulse) -> Option<Instant> {
        if pulse.is_tunnel() {
            return None;
        }
        let given = self.given.map(|given| self.started + given);
        let allowed = self.allowed.and_then(|allowed| Some(pulse.request_sent()? + allowed));
        least(given, allowed)
    }

    /// Runs a request until it ends or its time does.
    async fn run(
        &self,
        timer: &mut Timer,
        pulse: &Pulse,
        asked: &str,
        request: impl Future<Output = Result<(), Fail>>,
    ) -> Result<(), Fail> {
        let mut request = pin!(request);
        let mut seen = pulse.get();
        let mut quiet = self.idle.map(|idle| Instant::now() + idle);
        poll_fn(|cx| {
            if let Poll::Ready(ended) = request.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            loop {
                let deadline = self.deadline(pulse);
                let Some(next) = least(deadline, quiet) else { return Poll::Pending };
                if timer.poll(cx, next).is_pending() {
                    return Poll::Pending;
                }
                if deadline == Some(next) {
                    let within = next - self.started;
                    let detail = format!("{asked}: no response within {within:?}");
                    return Poll::Ready(Err(Fail::Local(Local::new(Reason::Timeout, detail))));
                }
                // Moves since the last look count from this look on: it is ended after one to two
                // times the limit, and a move costs no look at the clock.
                let idle = self.idle.unwrap_or_default();
                let moved = pulse.get();
                if moved == seen {
                    let detail = format!("{asked}: nothing moved for {idle:?}");
                    return Poll::Ready(Err(Fail::Local(Local::new(Reason::StreamIdle, detail))));
                }
                seen = moved;
                quiet = Some(next + idle);
            }
        })
        .await
    }
}

/// Brings a request into the form that its listener wants, before anything is decided by it.
fn by_listener(head: &mut RequestHead, options: &HttpOptions, grpc: bool) -> Result<(), Local> {
    match options.underscores {
        Underscores::Allow => {}
        Underscores::Drop => head.fields.retain(|field| !field.name.contains(&b'_')),
        Underscores::Reject => {
            if head.fields.iter().any(|field| field.name.contains(&b'_')) {
                return Err(Local::new(Reason::BadRequest, "a field name with an underscore"));
            }
        }
    }
    let path = match paths::normalize(head.path(), options) {
        paths::Outcome::Goes(Cow::Borrowed(_)) => return Ok(()),
        paths::Outcome::Goes(Cow::Owned(path)) => path,
        paths::Outcome::Refused(why) => return Err(Local::new(Reason::BadRequest, why)),
        paths::Outcome::Redirect(_) if grpc => {
            return Err(Local::new(Reason::BadRequest, "escaped slashes in the path"));
        }
        paths::Outcome::Redirect(to) => {
            return Err(Local::redirect(Reason::Redirect.status(), to));
        }
    };
    head.set_path(&path);
    Ok(())
}

/// `grpc-timeout` (gRPC over HTTP/2, "Timeout"): at most eight digits and a unit.
fn grpc_timeout(value: Option<&[u8]>) -> Option<Duration> {
    let (unit, digits) = value?.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count = digits.iter().try_fold(0_u64, |count, byte| {
        byte.is_ascii_digit().then(|| count * 10 + u64::from(byte - b'0'))
    })?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_digits_and_a_unit() {
        for (value, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("123456789m", None),
            ("m", None),
            ("1", None),
            ("-1m", None),
            ("1 m", None),
            ("1s", None),
        ] {
            assert_eq!(grpc_timeout(Some(value.as_bytes())), expected, "{value}");
        }
    }
}
