//! One try: a request goes to one endpoint while its response comes back.
//!
//! Both directions move at the same time in the request's own task. Once the head of a response is
//! on its way to the client there is no other try.

use std::future::{pending, poll_fn};
use std::task::Poll;

use portolan_model::Balancer;
use tokio::time::Instant;

use super::answering::{Answering, Speaks};
use super::awaited::{Answer, Got};
use super::body::{Download, Incoming, Outgoing, PumpError, ReadError, Source, Upload, WriteError};
use super::exchange::Fail;
use super::forward::Forward;
use super::local::{Local, Reason};
use super::retrying::{self, Ended, tried};
use super::stage::Stage;
use super::trying::Trying;
use super::tunnel::Tunnel;
use super::{edits, passing};
use crate::balance::orca;
use crate::http1;
use crate::http2;
use crate::message::{Fields, Known, ResponseHead};
use crate::upstream::{Cause, Failure};
use crate::worker::cluster::ClusterState;

/// Interim responses an endpoint may send before the one that counts.
const MAX_INTERIM: usize = 16;

/// Whether the endpoint's connection takes another request; only HTTP/1.1 asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Yes,
    No,
}

pub(super) struct Talk<'f, 'a, 't> {
    pub(super) forward: &'f mut Forward<'a>,
    pub(super) state: &'f ClusterState,
    pub(super) trying: &'f mut Trying<'t>,
    /// The connection had requests before.
    pub(super) reused: bool,
}

/// What waiting for a head comes to.
enum Waited {
    Head(Got),
    Read(ReadError),
    Over(Fail),
}

impl Talk<'_, '_, '_> {
    pub(super) async fn run<'u>(
        mut self,
        mut from: Answer<'u>,
        mut to: Outgoing<'u>,
        source: &mut Source<'_>,
        stage: &mut Stage<'_, '_, '_>,
    ) -> Result<Reuse, Ended> {
        // What follows an extended CONNECT is for after the switch.
        let mut upload = match self.forward.upgrade {
            Some(Tunnel::Upgrade) if stage.speaks() == Speaks::Http2 => Upload::held(),
            _ => Upload::default(),
        };
        let mut unwritten: Option<WriteError> = None;
        let mut head = ResponseHead::spare();
        let mut interim = 0;
        // Where others may go beside it, it goes on when its time is over.
        let per_try = self.forward.way.retries.as_ref().filter(|retries| !retries.hedge);
        let per_try = per_try.and_then(|retries| retries.per_try_timeout);
        let (length, keep_alive, stream) = loop {
            let waiting = self.head(
                &mut from,
                &mut to,
                &mut upload,
                &mut unwritten,
                source,
                stage,
                &mut head,
            );
            let waited = match per_try {
                Some(limit) => match Box::pin(tokio::time::timeout(limit, waiting)).await {
                    Ok(waited) => waited,
                    Err(_elapsed) => {
                        let detail = format!("no answer within {limit:?}");
                        return Err(self.failed(Cause::TryTimeout, detail));
                    }
                },
                None => waiting.await,
            };
            match waited {
                Waited::Over(fail) => return Err(Ended::Over(fail)),
                Waited::Read(error) => {
                    return Err(self.unanswered(&error, unwritten.as_ref(), &to));
                }
                Waited::Head(Got::Final { length, keep_alive, stream }) => {
                    break (length, keep_alive, stream);
                }
                Waited::Head(Got::Interim) if head.status == 101 => {
                    let Some(answer) =
                        stage.alone().filter(|_| self.forward.upgrade == Some(Tunnel::Upgrade))
                    else {
                        let detail = "101 to a request that asked for no upgrade".to_owned();
                        return Err(self.failed(Cause::Invalid, detail));
                    };
                    passing::response(&mut head.fields, true);
                    self.edit(&mut head.fields);
                    answer.tunnel(&mut head, true);
                    let Answer::Http1(receiving) = from else { return Ok(Reuse::No) };
                    let pulse = &self.forward.account.pulse;
                    let from = Incoming::Http1(receiving);
                    Box::pin(super::tunnel::run(from, to, source, answer, pulse)).await?;
                    return Ok(Reuse::No);
                }
                Waited::Head(Got::Interim) => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        let detail = "more interim responses than this proxy takes".to_owned();
                        return Err(self.failed(Cause::Invalid, detail));
                    }
                    // Of several tries it is not known yet whose answer it will be.
                    if stage.speaks() != Speaks::Http10
                        && let Some(answer) = stage.alone()
                    {
                        answer.interim(&mut head);
                    }
                }
            }
        };
        if self.forward.upgrade.is_some()
            && stage.speaks() == Speaks::Http2
            && (200..300).contains(&head.status)
        {
            // RFC 8441 §5: the client would take it for the switch.
            let detail = format!("answered {} to an upgrade", head.status);
            return Err(self.failed(Cause::Invalid, detail));
        }
        let status = grpc_status(&head.fields).filter(|_| self.forward.account.grpc);
        self.refuse(&head, status, source, stage)?;
        let (endpoint, since) = (self.trying.load.endpoint(), self.trying.load.since());
        let Some(answer) = stage.claim(endpoint, since) else {
            // Another one was first, and this try is given up.
            return pending().await;
        };
        match status {
            Some(status) => self.trying.on_grpc(status),
            None if self.forward.account.grpc && head.status == 200 => self.trying.on_begun(),
            None => self.trying.on_answered(head.status),
        }
        self.report_load(&head.fields);
        source.settle();
        let from = match (from, stream) {
            (Answer::Http1(receiving), _) => Incoming::Http1(receiving),
            (Answer::Http2(_), Some(stream)) => Incoming::Http2(stream),
            (Answer::Http2(_), None) => return Ok(Reuse::No),
        };
        passing::response(&mut head.fields, false);
        self.edit(&mut head.fields);
        answer.head(&mut head, length);
        head.fields.recycle();
        self.body(from, to, upload, source, answer, keep_alive && unwritten.is_none()).await
    }

    /// What the route asks of an answer, the cookie that its balancer gives out, and the endpoint that
    /// the client has from now on.
    fn edit(&self, fields: &mut Fields) {
        let way = self.forward.way;
        if let Some(edits) = &way.edits {
            edits::apply(&edits.response, fields);
        }
        if let Some(cookie) = &way.told.cookie {
            fields.push_as(Known::SetCookie, b"set-cookie", cookie.as_bytes());
        }
        if let Some(kept) = &way.session {
            kept.tell(self.trying.load.endpoint().address, fields);
        }
    }

    /// Waits for the next head while the request is sent.
    #[expect(clippy::too_many_arguments, reason = "both directions and their state")]
    async fn head(
        &self,
        from: &mut Answer<'_>,
        to: &mut Outgoing<'_>,
        upload: &mut Upload,
        unwritten: &mut Option<WriteError>,
        source: &mut Source<'_>,
        stage: &mut Stage<'_, '_, '_>,
        head: &mut ResponseHead,
    ) -> Waited {
        let limits = super::head_limits(&self.forward.shared.config);
        let method = self.forward.head.method();
        poll_fn(|cx| {
            // An interim response may wait to go out.
            if let Stage::Alone(answer) = stage
                && (matches!(answer.out.poll_flush(cx), Poll::Ready(Err(_)))
                    || answer.out.poll_refused(cx).is_ready())
            {
                return Poll::Ready(Waited::Over(Fail::Client));
            }
            if unwritten.is_none() && !upload.is_done() {
                let before = source.bytes;
                match upload.poll(cx, source, to) {
                    Poll::Ready(Err(PumpError::Read(error))) => {
                        return Poll::Ready(Waited::Over(Fail::unread(&error)));
                    }
                    // The endpoint may have said why before it stopped reading.
                    Poll::Ready(Err(PumpError::Write(error))) => *unwritten = Some(error),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if source.bytes != before {
                    self.forward.account.pulse.beat();
                }
                if upload.is_done() {
                    self.forward.account.pulse.on_sent();
                }
            }
            if upload.is_done() && source.poll_gone(cx).is_ready() {
                return Poll::Ready(Waited::Over(Fail::Client));
            }
            from.poll_head(cx, limits, method, head).map(|read| match read {
                Ok(got) => Waited::Head(got),
                Err(error) => Waited::Read(error),
            })
        })
        .await
    }

    /// Moves the response's body to the client, and what is left of the request's to the endpoint.
    async fn body(
        self,
        from: Incoming<'_>,
        mut to: Outgoing<'_>,
        mut upload: Upload,
        source: &mut Source<'_>,
        answer: &mut Answering<'_>,
        keep_alive: bool,
    ) -> Result<Reuse, Ended> {
        let pulse = &self.forward.account.pulse;
        let mut download = Download::new(from, self.forward.trailers).in_form(answer.web);
        let mut unread = false;
        let moved = poll_fn(|cx| {
            let before = (download.bytes, source.bytes);
            let moved = download.poll(cx, &mut answer.out);
            if moved.is_pending() && !unread {
                match upload.poll(cx, source, &mut to) {
                    Poll::Ready(Err(PumpError::Read(error))) => {
                        return Poll::Ready(Err(Fail::unread(&error)));
                    }
                    // The endpoint wants no more of it; its answer may be whole all the same.
                    Poll::Ready(Err(PumpError::Write(_))) => unread = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if upload.is_done() {
                    pulse.on_sent();
                }
                let gone = upload.is_done() && source.poll_gone(cx).is_ready();
                if gone || answer.out.poll_refused(cx).is_ready() {
                    return Poll::Ready(Err(Fail::Client));
                }
            }
            if before != (download.bytes, source.bytes) {
                pulse.sent(download.bytes);
            }
            moved.map(|moved| moved.map_err(|error| self.cut(error)))
        });
        let ended = moved.await;
        download.seen.iter().for_each(|trailers| self.report_load(trailers));
        if self.forward.account.grpc {
            let status = download.seen.as_ref().and_then(grpc_status);
            match (&ended, status) {
                (_, Some(status)) => self.trying.on_grpc(status),
                // Not where it is the client that did not keep to what it said.
                (Err(Fail::Local(local)), None) if local.reason == Reason::UpstreamReset => {
                    self.trying.on_failed(Cause::Closed);
                }
                _ => {}
            }
        }
        ended.map_err(Ended::Over)?;
        let reusable = keep_alive && upload.is_done() && !unread && download.from.is_over();
        Ok(if reusable { Reuse::Yes } else { Reuse::No })
    }

    /// What the endpoint says of its load, to a balancer that goes by it (ORCA, gRFC A51).
    fn report_load(&self, fields: &Fields) {
        if self.state.config.balancing.balancer != Balancer::ClientSideWeightedRoundRobin {
            return;
        }
        let binary = fields.get(Known::OrcaLoad).map(orca::parse::binary);
        let text = || fields.named(b"endpoint-load-metrics").map(orca::parse::header);
        if let Some(Ok(report)) = binary.or_else(text) {
            self.trying.load.endpoint().load.report(&report, Instant::now());
        }
    }

    /// Whether a response is a reason to try again instead.
    fn refuse(
        &mut self,
        head: &ResponseHead,
        grpc: Option<u32>,
        source: &Source<'_>,
        stage: &Stage<'_, '_, '_>,
    ) -> Result<(), Ended> {
        let Some(policy) = &self.forward.way.retries else { return Ok(()) };
        if !source.can_rewind() {
            return Ok(());
        }
        let cause = match grpc {
            Some(status) => Cause::Grpc(status),
            None => Cause::Status(head.status),
        };
        let tries = stage.begun().unwrap_or(self.forward.tries);
        let permit = match self.forward.is_asked(cause, tries) {
            true => self.forward.charge(self.state),
            false => None,
        };
        // The last try's answer is the client's, whatever it is; and without leave to try again this one
        // is better than none.
        let waits = stage.has_others() && retrying::is_reason(policy, cause);
        if permit.is_none() && !waits {
            return Ok(());
        }
        self.forward.granted = permit;
        Err(self.failed(cause, format!("answered {cause:?}")))
    }

    /// A response that was begun and cannot be ended.
    fn cut(&self, error: PumpError) -> Fail {
        match error {
            PumpError::Write(_) => Fail::Client,
            PumpError::Read(error) => {
                let asked = self.forward.asked.lower();
                let detail = format!("{asked}: the response ended early: {error}");
                Fail::Local(Local::new(Reason::UpstreamReset, detail))
            }
        }
    }

    fn failed(&self, cause: Cause, detail: String) -> Ended {
        // A stream that is refused speaks of load, however old the connection.
        let reused = self.reused && !matches!(cause, Cause::Refused | Cause::TryTimeout);
        tried(Failure { cause, detail }, reused)
    }

    /// Names what happened instead of a response.
    fn unanswered(
        &self,
        error: &ReadError,
        unwritten: Option<&WriteError>,
        to: &Outgoing<'_>,
    ) -> Ended {
        let cause = match error {
            ReadError::Http1(http1::ReadError::Malformed(_)) => Cause::Invalid,
            ReadError::Http1(_) => match to {
                Outgoing::Http1(sending) if unwritten.is_some() && !sending.has_written() => {
                    Cause::Unsent
                }
                _ => Cause::Closed,
            },
            ReadError::Http2(error) => h2_cause(error),
            // No response is read so.
            ReadError::Text(_) => Cause::Invalid,
        };
        self.failed(cause, error.to_string())
    }
}

fn grpc_status(fields: &Fields) -> Option<u32> {
    std::str::from_utf8(fields.get(Known::GrpcStatus)?).ok()?.parse().ok()
}

fn h2_cause(error: &http2::StreamError) -> Cause {
    match error {
        http2::StreamError::Refused => Cause::Refused,
        http2::StreamError::GoneAway => Cause::GoneAway,
        // By us: what it sent is no response.
        http2::StreamError::Reset(http2::Code::PROTOCOL_ERROR)
        | http2::StreamError::Connection(http2::Error::Protocol { .. }) => Cause::Invalid,
        _ => Cause::Closed,
    }
}
