//! How a try ends without an answer, what a route's policy takes for a reason to try again, by Envoy's
//! words, and what is answered when there is no other try. Refuses to know how often, and whether the request can be sent
//! again at all.

use portolan_model::policy::{Retries, RetryOn};

use super::asked::Asked;
use super::exchange::Fail;
use super::local::{Local, Reason};
use crate::upstream::{Cause, Failure};

/// How one try ended without a response for the client.
#[derive(Debug)]
pub(super) enum Ended {
    /// Another endpoint may do better.
    Tried(Tried),
    /// There is nothing more to try.
    Over(Fail),
}

/// A try that failed, and whether that was a kept connection's end.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) failure: Failure,
    pub(super) reused: bool,
}

impl Tried {
    /// Whether a kept connection turned out closed, which says nothing of the endpoint.
    pub(super) fn is_closed(&self) -> bool {
        let closed = matches!(
            self.failure.cause,
            Cause::Unsent | Cause::Refused | Cause::GoneAway | Cause::Closed
        );
        self.reused && closed
    }
}

pub(super) fn tried(failure: Failure, reused: bool) -> Ended {
    Ended::Tried(Tried { failure, reused })
}

/// Whether the policy names this.
pub(super) fn is_reason(policy: &Retries, cause: Cause) -> bool {
    let on = |reasons: &[RetryOn]| reasons.iter().any(|reason| policy.on.contains(reason));
    match cause {
        Cause::Limit => false,
        // Nothing was sent either.
        Cause::Connect => {
            on(&[RetryOn::ConnectFailure, RetryOn::ServerError, RetryOn::ResetBeforeRequest])
        }
        Cause::Refused => on(&[RetryOn::RefusedStream, RetryOn::ServerError]),
        Cause::Unsent | Cause::GoneAway => {
            on(&[RetryOn::Reset, RetryOn::ServerError, RetryOn::ResetBeforeRequest])
        }
        Cause::Closed | Cause::Invalid => on(&[RetryOn::Reset, RetryOn::ServerError]),
        Cause::TryTimeout => on(&[RetryOn::GatewayError, RetryOn::ServerError]),
        Cause::Status(status) => {
            let listed = policy.status_codes.contains(&status) && on(&[RetryOn::StatusCodes]);
            listed
                || match status {
                    409 => on(&[RetryOn::Conflict]),
                    502..=504 => on(&[RetryOn::GatewayError, RetryOn::ServerError]),
                    500.. => on(&[RetryOn::ServerError]),
                    _ => false,
                }
        }
        Cause::Grpc(1) => on(&[RetryOn::Cancelled]),
        Cause::Grpc(4) => on(&[RetryOn::DeadlineExceeded]),
        Cause::Grpc(8) => on(&[RetryOn::ResourceExhausted]),
        Cause::Grpc(13) => on(&[RetryOn::Internal]),
        Cause::Grpc(14) => on(&[RetryOn::Unavailable]),
        Cause::Grpc(_) => false,
    }
}

/// What is answered after the last try.
pub(super) fn given_up(asked: &Asked, last: Option<Tried>) -> Local {
    let asked = asked.lower();
    let Some(Tried { failure: Failure { cause, detail }, .. }) = last else {
        return Local::new(Reason::NoEndpoints, format!("{asked}: no ready endpoint"));
    };
    let (reason, what) = match cause {
        Cause::Limit => (Reason::CircuitOpen, "no connection may be opened"),
        Cause::Connect => (Reason::ConnectFailed, "no endpoint took a connection"),
        Cause::Unsent | Cause::Refused | Cause::GoneAway | Cause::Closed => {
            (Reason::UpstreamReset, "the endpoint closed before it had answered")
        }
        Cause::TryTimeout => (Reason::TryTimeout, "no endpoint answered in the time for a try"),
        Cause::Invalid | Cause::Status(_) | Cause::Grpc(_) => {
            (Reason::UpstreamInvalid, "the endpoint's answer is not valid")
        }
    };
    Local::new(reason, format!("{asked}: {what}: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_about_what_envoy_means_by_it() {
        use Cause::{
            Closed, Connect, GoneAway, Grpc, Invalid, Limit, Refused, Status, TryTimeout, Unsent,
        };
        let all = [
            Limit,
            Connect,
            Refused,
            Unsent,
            GoneAway,
            Closed,
            Invalid,
            TryTimeout,
            Status(404),
            Status(409),
            Status(418),
            Status(500),
            Status(502),
            Status(503),
            Status(504),
            Grpc(0),
            Grpc(1),
            Grpc(4),
            Grpc(8),
            Grpc(13),
            Grpc(14),
        ];
        let gateway = [TryTimeout, Status(502), Status(503), Status(504)];
        let server = [
            Connect,
            Refused,
            Unsent,
            GoneAway,
            Closed,
            Invalid,
            TryTimeout,
            Status(500),
            Status(502),
            Status(503),
            Status(504),
        ];
        let cases: [(RetryOn, &[Cause]); RetryOn::WORDS.len()] = [
            (RetryOn::ConnectFailure, &[Connect]),
            (RetryOn::RefusedStream, &[Refused]),
            (RetryOn::Reset, &[Unsent, GoneAway, Closed, Invalid]),
            (RetryOn::ResetBeforeRequest, &[Connect, Unsent, GoneAway]),
            (RetryOn::GatewayError, &gateway),
            (RetryOn::ServerError, &server),
            (RetryOn::Conflict, &[Status(409)]),
            (RetryOn::StatusCodes, &[Status(418), Status(503)]),
            (RetryOn::Cancelled, &[Grpc(1)]),
            (RetryOn::DeadlineExceeded, &[Grpc(4)]),
            (RetryOn::Internal, &[Grpc(13)]),
            (RetryOn::ResourceExhausted, &[Grpc(8)]),
            (RetryOn::Unavailable, &[Grpc(14)]),
        ];
        for (word, expected) in cases {
            let on = vec![word];
            let policy = Retries { on, status_codes: vec![418, 503], ..Retries::default() };
            let found = all.into_iter().filter(|cause| is_reason(&policy, *cause));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{word:?}");
        }
    }
}
